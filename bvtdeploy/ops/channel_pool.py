"""channel_pool: mean of consecutive channels (the shortcut around a contracting binary linear).

    in   f32[N x C*g]      out  f32[N x C]
    out[n][c] = (sum of x[n][c*g .. c*g+g-1], rounded after every addition) * fp32(1/g)
    sum: while their number is even, neighbours are added to pairs; what is left, an odd number, is added first to last
    both may be f16: then every addition, f16(fp32(1/g)) and the product are rounded to it
    attrs: group g       record: attr[0] = g
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, is_real, register
from bvtdeploy.ops.numerics import reciprocal, sum_in_order


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), g = inputs, attrs["group"]
    expect(is_real(x) and len(x.shape) == 2 and g > 0 and x.shape[1] % g == 0, f"channel_pool of {x} by {g}")
    return [Type(x.elem, (x.shape[0], x.shape[1] // g))]


def pool_channels(x: Array, g: int) -> Array:
    """[N x C*g] -> [N x C], rounded as the head of this file says; g = 1 leaves x as it is."""
    x = x.reshape(x.shape[0], x.shape[1] // g, g)
    while x.shape[2] % 2 == 0:
        x = x[:, :, 0::2] + x[:, :, 1::2]
    return np.asarray(sum_in_order(x, 2) * x.dtype.type(reciprocal(g)))


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [pool_channels(inputs[0], attrs["group"])]


register(OpDef("channel_pool", _infer, _reference, compiled=True))
