"""bit_patches: packed rows on a grid -> packed rows of k x k neighbourhoods, the im2col of a binary convolution without padding.

    in   bits{-1,+1}[(H*W) x C; packed 1]      out  bits{-1,+1}[(Ho*Wo) x (k*k*C); packed 1]
    out[oy*Wo + ox][(ky*k + kx)*C + c] = in[(oy*s + ky)*W + ox*s + kx][c]
    attrs: height H, width W, kernel k, stride s       record: attr[0..3] = H, W, k, s
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type, bits
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register
from bvtdeploy.ops.patches import out_grid


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(x.elem == "bits" and x.packed == 1, f"bit_patches of {x}")
    expect(x.shape[0] == attrs["height"] * attrs["width"], "bit_patches: the rows are not the grid")
    oh, ow = out_grid(attrs)
    return [bits(oh * ow, x.shape[1] * attrs["kernel"] ** 2, alphabet=x.alphabet, packed=1)]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    h, w, k, s = (int(attrs[n]) for n in ("height", "width", "kernel", "stride"))
    oh, ow = out_grid(attrs)
    x = inputs[0].reshape(h, w, -1)
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))[::s, ::s]  # oy, ox, c, ky, kx
    return [np.ascontiguousarray(windows.transpose(0, 1, 3, 4, 2)).reshape(oh * ow, -1)]


register(OpDef("bit_patches", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
