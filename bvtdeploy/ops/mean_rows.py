"""mean_rows: mean over all rows.

    in   f32[N x C]      out  f32[1 x C]
    sum of the rows, first to last, rounded after every addition; times fp32(1/N)
"""

from __future__ import annotations

from collections.abc import Sequence

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register
from bvtdeploy.ops.numerics import reciprocal, sum_in_order


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(x.elem == "f32" and len(x.shape) == 2, f"mean_rows of {x}")
    return [f32(1, x.shape[1])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [(sum_in_order(inputs[0], 0) * reciprocal(inputs[0].shape[0])).reshape(1, -1)]


register(OpDef("mean_rows", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
