"""dots: how large the integers are that binary products give. It decides on their dtype, on thresholds, and on forms in fp16.

The runtime works out the same bounds when it opens a file (`bvt_attention_most` in runtime_arm/src/ops/attention.c).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bvtdeploy.ops.attention import largest_result, roles_of

if TYPE_CHECKING:
    from bvtdeploy.ir.graph import Op

MOST_I16: Final = 32766  # up to which dots are in 16 bits, and ceilings of thresholds: cut to -32768 .. 32767, which none reaches
MOST_SMALL: Final = 512  # up to which dots are fp16 numbers by an addition to their bits


def largest_dot(op: Op | None) -> int | None:
    """The largest |x| of the integers that an op of the compiled graph gives; None where it gives none."""
    if op is None or op.outputs[0].type.elem != "i32":
        return None
    if op.kind == "bgemm":
        return int(op.inputs[1].type.shape[1])
    if op.kind == "attention":
        ints = dict(zip(roles_of(op.attrs), op.inputs, strict=True)).get("ints")
        keys = int(op.inputs[1].type.shape[0]) // int(op.attrs.get("windows", 1))
        return largest_result(keys, int(op.attrs.get("planes", 1)), None if ints is None else ints.data)
    return None


def are_small(op: Op | None) -> bool:
    """Whether an op gives dots, and none beyond +-MOST_SMALL."""
    most = largest_dot(op)
    return most is not None and most <= MOST_SMALL
