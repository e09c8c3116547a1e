"""row_patches: rows on a grid -> rows of k x k neighbourhoods, the im2col of a convolution of tokens without padding.

    in   bits{-1,+1}[(H*W) x C; packed 1] or f32[(H*W) x C]      out  the same element kind, [(Ho*Wo) x (k*k*C)]
    out[oy*Wo + ox][(ky*k + kx)*C + c] = in[(oy*s + ky)*W + ox*s + kx][c]
    attrs: height H, width W, kernel k, stride s       record: attr[0..3] = H, W, k, s
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register
from bvtdeploy.ops.patches import out_grid


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(len(x.shape) == 2 and (x.elem == "f32" or x.packed == 1), f"row_patches of {x}")
    expect(x.shape[0] == attrs["height"] * attrs["width"], "row_patches: the rows are not the grid")
    oh, ow = out_grid(attrs)
    return [Type(x.elem, (oh * ow, x.shape[1] * attrs["kernel"] ** 2), x.alphabet, x.packed)]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    h, w, k, s = (int(attrs[n]) for n in ("height", "width", "kernel", "stride"))
    oh, ow = out_grid(attrs)
    x = inputs[0].reshape(h, w, -1)
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))[::s, ::s]  # oy, ox, c, ky, kx
    return [np.ascontiguousarray(windows.transpose(0, 1, 3, 4, 2)).reshape(oh * ow, -1)]


register(OpDef("row_patches", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
