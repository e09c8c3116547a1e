"""Where a sign can see an exact zero by construction.

A real number in front of a sign is 0 with probability 0, and calling it +1 costs nothing. But some models take the sign of scaled
integers: attention contexts, dots of a layer without bias. There 0 is an ordinary value (a few percent of the entries), sign(0) = 0
is what the model was trained with, and the operand of the next product has three codes.

A value is on a *lattice* when every element is scale * s + shift with an integer |s| <= bound: a product of codes, scaled and
shifted by constants, seen through layout ops. Its zeros are decided by arithmetic: is there an s with fp32(scale*s + shift) = 0?
Other tensors are 0 whatever comes in: rounded ones, and those that are clamped at 0 (a ReLU, a PReLU of slope 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Op, Value
from bvtdeploy.passes.binary_weights import binary_rows

LAYOUT = ("permute", "reshape", "expand", "slice", "take", "roll")


@dataclass(frozen=True)
class Lattice:
    """scale * s + shift, |s| <= bound; both arrays broadcast to the value's shape."""

    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]
    bound: int


def relayout(op: Op, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A constant that belongs to the operand of a layout op, as it belongs to the result."""
    from bvtdeploy.ops import REGISTRY

    if array.size == 1:
        return array.reshape([1] * len(op.out.type.shape))
    full = np.broadcast_to(array, op.inputs[0].type.shape)
    return np.asarray(REGISTRY[op.kind].reference(op.attrs, [full])[0])


def is_code(value: Value) -> bool:
    """A sign (or its codes), scaled and shifted by constants, through layout ops."""
    while (op := value.producer) is not None:
        if op.kind in ("sign", "binarise", "round"):
            return True
        if op.kind not in (*LAYOUT, "clamp") and not (op.kind in ("add", "mul", "div") and op.inputs[1].data is not None):
            return False
        value = op.inputs[0]
    return False


def lattice(value: Value) -> Lattice | None:
    """The lattice that a value lives on, None where it has none (or it is not known)."""
    op = value.producer
    if op is None:
        return None
    one, none = np.ones([1] * len(value.type.shape)), np.zeros([1] * len(value.type.shape))
    if op.kind in ("binary_linear", "binary_conv2d"):
        return Lattice(one, none, op.inputs[1].type.size // op.inputs[1].type.shape[0])
    if op.kind == "binary_attention":
        return Lattice(one, none, 1 << 20)
    if op.kind == "matmul" and is_code(op.inputs[1]):
        return Lattice(one, none, 1 << 20)
    if op.kind in ("linear", "conv2d") and op.inputs[1].data is not None and is_code(op.inputs[0]):
        found = binary_rows(op.inputs[1].data)
        if found is None:
            return None
        shape = [1] * len(value.type.shape)
        shape[-1 if op.kind == "linear" else 1] = -1
        bias = op.inputs[2].data if len(op.inputs) == 3 else None
        shift = none if bias is None else bias.astype(np.float64).reshape(shape)
        return Lattice(found.scale.astype(np.float64).reshape(shape), shift, found.codes[0].size)
    if op.kind in LAYOUT:
        source = lattice(op.inputs[0])
        return None if source is None else Lattice(relayout(op, source.scale), relayout(op, source.shift), source.bound)
    if op.kind in ("add", "mul") and (c := op.inputs[1].data) is not None and op.out.type.shape == op.inputs[0].type.shape:
        source = lattice(op.inputs[0])
        if source is None:
            return None
        c = c.astype(np.float64).reshape([1] * (len(value.type.shape) - c.ndim) + list(c.shape))
        if op.kind == "add":
            return Lattice(source.scale, source.shift + c, source.bound)
        return Lattice(source.scale * c, source.shift * c, source.bound)
    return None


def can_be_zero(value: Value) -> bool:
    """An operand that is attainable makes an element of the value exactly 0 (in fp32): by an integer on its lattice, by rounding,
    or by a clamp at 0. Ops that keep zeros and make none are looked through."""
    while (op := value.producer) is not None:
        if op.kind == "round" or (op.kind == "clamp" and 0 in (op.attrs["min"], op.attrs["max"])):
            return True
        if op.kind == "prelu" and op.inputs[1].data is not None and not op.inputs[1].data.all():
            return True
        factor = op.inputs[1].data if op.kind == "mul" else None
        if op.kind not in (*LAYOUT, "clamp", "prelu", "neg", "gelu", "tanh") and (factor is None or not factor.all()):
            break
        value = op.inputs[0]
    found = lattice(value)
    if found is None:
        return False
    scale, shift = np.broadcast_arrays(found.scale, found.shift)
    with np.errstate(all="ignore"):
        s = np.rint(-shift / scale)
    s = np.where(np.isfinite(s), s, 0.0)
    zero = (scale.astype(np.float32) * s.astype(np.float32) + shift.astype(np.float32)) == 0
    return bool((zero & (np.abs(s) <= found.bound)).any())
