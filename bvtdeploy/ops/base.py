"""What an op is: its attributes and types, its numpy reference, its cost. Every op has one file in this package.

To add an op: write `ops/<kind>.py` with one `OpDef` passed to `register`, list the module in `ops/__init__.py`, and, where the
runtime executes it, append its opcode in `artifact/spec.py` and its C file `runtime_arm/src/ops/<kind>.c`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.types import Type

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one execution."""

    macs_binary: int = 0
    macs_float: int = 0


def no_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    """Cost of ops without multiply-accumulates."""
    return Cost()


@dataclass(frozen=True)
class OpDef:
    """Definition of an op kind.

    Attributes:
        kind: the name in the text form.
        infer: (input types, attrs) -> output types; raises ValueError with a sentence when the operands do not fit.
        reference: (attrs, input arrays) -> output arrays; the semantics. Arrays: f32 -> float32, f16 -> float16, i32 -> int32,
            bits -> int8 of code values, i8 -> int8, u64 -> uint64, f64 -> float64.
        cost: (input types, output types, attrs) -> Cost.
        compiled: the runtime executes it (it has an opcode); everything else must have been rewritten before packing.
        whole_inputs: (attrs, number of inputs) -> indices of inputs that are read at other rows than the one being produced, so
            that they cannot be produced in the same group. Constants never matter here.
    """

    kind: str
    infer: Callable[[Sequence[Type], Attrs], list[Type]]
    reference: Callable[[Attrs, Sequence[Array]], list[Array]]
    cost: Callable[[Sequence[Type], Sequence[Type], Attrs], Cost] = no_cost
    compiled: bool = False
    whole_inputs: Callable[[Attrs, int], frozenset[int]] = lambda attrs, n: frozenset()


REGISTRY: Final[dict[str, OpDef]] = {}


def register(op: OpDef) -> OpDef:
    """Adds an op kind to the registry."""
    assert op.kind not in REGISTRY, f"op {op.kind} is defined twice"
    REGISTRY[op.kind] = op
    return op


def expect(condition: bool, sentence: str) -> None:
    """For shape rules: raises ValueError(sentence) unless the condition holds."""
    if not condition:
        raise ValueError(sentence)


def is_real(t: Type) -> bool:
    """f32, or f16 (what an op does then is in its file)."""
    return t.elem in ("f32", "f16")


def windows(n: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> int:
    """How many windows stand along an axis of n elements; raises ValueError unless there is one."""
    count = (n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 if min(kernel, stride, dilation) > 0 else 0
    expect(count > 0, f"a window of {kernel} with stride {stride} does not fit {n} elements")
    return count


def as_f32(x: Array) -> npt.NDArray[np.float32]:
    """i32 dots and f32 alike, as fp32 (exact for |dot| < 2^24)."""
    return np.asarray(x).astype(np.float32)
