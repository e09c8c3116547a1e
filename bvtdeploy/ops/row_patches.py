"""row_patches: rows on a grid -> rows of k x k neighbourhoods, the im2col of a convolution of tokens.

    in   [(H*W) x C], f32 or bits{-1,+1} or bits{-1,0,+1} (packed 1)      out  [(Ho*Wo) x (k*k*C)], the same kind;
         +-1 codes with p > 0 become bits{-1,0,+1}                          Ho = (H + 2p - d*(k-1) - 1)/s + 1, Wo likewise
    with n = C/G: out[oy*Wo + ox][((g*k + ky)*k + kx)*n + c] = in[(oy*s + ky*d - p)*W + ox*s + kx*d - p][g*n + c],
    zeros (f32 0, code 0) where that lies outside of the grid
    attrs: height H, width W, kernel k, stride s, padding p (default 0), dilation d (default 1), groups G (default 1)
    record: attr[0..6] = H, W, k, s, p, d, G (d, G = 0: 1)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, TERNARY, Type
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register, windows


def _geometry(attrs: Attrs) -> tuple[int, int, int, int, int, int, int]:
    h, w, k, s = (int(attrs[n]) for n in ("height", "width", "kernel", "stride"))
    p, d, groups = int(attrs.get("padding", 0)), int(attrs.get("dilation", 1)), int(attrs.get("groups", 1))
    expect(0 <= p < 4096, f"row_patches: padding {p}")
    return h, w, k, s, p, d, groups


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    packed = x.alphabet in (BIPOLAR, TERNARY) and x.packed == 1
    expect(len(x.shape) == 2 and (x.elem == "f32" or packed), f"row_patches of {x}")
    h, w, k, s, p, d, groups = _geometry(attrs)
    expect(x.shape[0] == h * w, "row_patches: the rows are not the grid")
    expect(groups > 0 and x.shape[1] % groups == 0, f"row_patches: {groups} groups of {x.shape[1]} channels")
    rows = windows(h, k, s, p, d) * windows(w, k, s, p, d)
    alphabet = TERNARY if p > 0 and x.alphabet else x.alphabet
    return [Type(x.elem, (rows, x.shape[1] * k * k), alphabet, x.packed)]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    h, w, k, s, p, d, groups = _geometry(attrs)
    oh, ow = windows(h, k, s, p, d), windows(w, k, s, p, d)
    x = np.pad(inputs[0].reshape(h, w, -1), ((p, p), (p, p), (0, 0)))
    span = d * (k - 1) + 1
    view = np.lib.stride_tricks.sliding_window_view(x, (span, span), axis=(0, 1))[::s, ::s, :, ::d, ::d]  # oy, ox, c, ky, kx
    parts = view.reshape(oh, ow, groups, -1, k, k).transpose(0, 1, 2, 4, 5, 3)
    return [np.ascontiguousarray(parts).reshape(oh * ow, -1)]


register(OpDef("row_patches", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
