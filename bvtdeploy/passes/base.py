"""What a pass is, what it reports, and the small helpers that all passes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.passes.trace import Trace

BITWISE: Final = "bitwise"
REASSOCIATES: Final = "reassociates"
ROUNDS: Final = "rounds"
Side = Literal["fp32", "fp16", "int8"]
PatchEmbed = Literal["fp32", "int8"]
Elementwise = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Declined:
    """A site that a pass recognised but did not rewrite, and why; `module`, `kind` and `line` of its op, where there is one."""

    site: str
    why: str
    module: str = ""
    kind: str = ""
    line: str = ""


@dataclass
class Report:
    """What the passes did: counts of fusions, sites declined, facts about the weights.

    `sign_index` maps the name of every compiled code tensor to the order of the source's sign: element p of the source tensor is
    element index.flat[p] of the compiled rows x channels. A sign `v` of the source compiles to `v.bits`, or to `v.bits.cols` where
    it is packed along the rows. `zeros` is the policy for signs whose operand can be exactly 0 by construction: `exact`
    gives them a
    third code (`ternary_signs` counts them), `positive` makes 0 a +1. `side` is how f32 constants are stored (passes/side.py),
    `patch_embed` how the patch embedding is computed (passes/patch_embed.py), `elementwise` what element-wise ops compute in, and
    `half_ops` how many of them do in fp16 (passes/half.py).
    `offsets`: [1, C] by the name of a compiled value: what it lacks of the source's (passes/offsets.py).
    `traced`: the layout pass leaves in `trace` what each compiled value is in terms of the source's (it keeps all indices).
    `lines`: where in the source each op of the source graph stands, by the name of its first result; names outlive most rewrites.
    """

    fused: Counter[str] = field(default_factory=Counter)
    declined: list[Declined] = field(default_factory=list)
    residue_max: float = 0.0
    zeros_in_weights: int = 0
    binary_layers: int = 0
    sign_index: dict[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    float_layers: int = 0
    mixed_layers: int = 0
    ternary_signs: int = 0
    zeros: Literal["exact", "positive"] = "exact"
    side: Side = "fp32"
    patch_embed: PatchEmbed = "fp32"
    elementwise: Elementwise = "fp32"
    half_ops: int = 0
    lines: Mapping[str, str] = field(default_factory=dict)
    offsets: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    traced: bool = False
    trace: Trace | None = None

    def decline(self, op: Op, why: str) -> None:
        """Records why `op` stays as it is."""
        site = f"{op.module or op.outputs[0].name} ({op.kind})"
        self.declined.append(Declined(site, why, op.module, op.kind, self.line(op)))

    def line(self, op: Op) -> str:
        """`file.py:12` in the source model that an op comes from; empty where the source did not say."""
        return next((self.lines[v.name] for v in op.outputs if v.name in self.lines), "")


@dataclass(frozen=True)
class Pass:
    """One step of the pipeline.

    Attributes:
        name: short, as in file names of `--dump-ir`.
        why: one line for a reader of the pipeline.
        promise: `bitwise` when the interpreter gives identical bits before and after; `reassociates` when float results may move
            by rounding of reordered or merged fp32 operations (and codes only where that crosses a threshold); `rounds` when
            parameters become others, which the user asked for.
        run: graph -> graph (the same object, or a new one).
    """

    name: str
    why: str
    promise: Literal["bitwise", "reassociates", "rounds"]
    run: Callable[[Graph, Report], Graph]


def scalar(value: Value) -> float | None:
    """The number that a constant holds in every element, or None."""
    data = value.data
    if data is None or data.size == 0:
        return None
    first = data.reshape(-1)[0]
    return float(first) if bool(np.all(data == first)) else None


def row(array: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Parameters computed in fp64, narrowed once to one fp32 row [1, C]."""
    return np.asarray(array, np.float64).astype(np.float32).reshape(1, -1)
