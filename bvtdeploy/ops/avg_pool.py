"""avg_pool: mean over k x k windows of a grid, without padding.

    in   f32[(H*W) x C]      out  f32[(Ho*Wo) x C]
    sum of the window row by row, left to right, first to last, rounded after every addition; times fp32(1/(k*k))
    attrs: height H, width W, kernel k, stride s       record: attr[0..3] = H, W, k, s
"""

from __future__ import annotations

from collections.abc import Sequence

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register
from bvtdeploy.ops.numerics import reciprocal
from bvtdeploy.ops.patches import out_grid


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(x.elem == "f32" and len(x.shape) == 2, f"avg_pool of {x}")
    expect(x.shape[0] == attrs["height"] * attrs["width"], "avg_pool: the rows are not the grid")
    oh, ow = out_grid(attrs)
    return [f32(oh * ow, x.shape[1])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    h, w, k, s = (int(attrs[n]) for n in ("height", "width", "kernel", "stride"))
    oh, ow = out_grid(attrs)
    x = inputs[0].reshape(h, w, -1)
    total: Array | None = None
    for ky in range(k):
        for kx in range(k):
            part = x[ky : ky + (oh - 1) * s + 1 : s, kx : kx + (ow - 1) * s + 1 : s]
            total = part.copy() if total is None else total + part
    assert total is not None
    return [(total * reciprocal(k * k)).reshape(oh * ow, -1)]


register(OpDef("avg_pool", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
