"""mean_rows: mean over all rows, or over each of G groups of consecutive rows.

    in   f32[G*n x C]      out  f32[G x C]
    sum of a group's rows, first to last, rounded after every addition; times fp32(1/n)
    the input may be f16, which is widened first
    attrs: groups G (default 1)       record: attr[0] = G (0: 1)
"""

from __future__ import annotations

from collections.abc import Sequence

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, as_f32, expect, is_real, register
from bvtdeploy.ops.numerics import reciprocal, sum_in_order


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(is_real(x) and len(x.shape) == 2, f"mean_rows of {x}")
    groups = attrs.get("groups", 1)
    expect(groups > 0 and x.shape[0] % groups == 0, f"mean_rows: {groups} groups of {x.shape[0]} rows")
    return [f32(groups, x.shape[1])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    groups = attrs.get("groups", 1)
    parts = as_f32(inputs[0]).reshape(groups, inputs[0].shape[0] // groups, -1)
    return [sum_in_order(parts, 1) * reciprocal(parts.shape[1])]


register(OpDef("mean_rows", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
