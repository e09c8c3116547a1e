"""stencil: a depthwise neighbourhood with per-channel taps on the token grid.

    in   x f32[(H*W) x C], taps f32[T x C], optional shift f32[1 x C]      out  f32[(H*W) x C]
    acc = shift[c] (or +0); for t = 0 .. T-1: (y', x') = (y + dy[t], x + dx[t]);
        boundary "zero": outside the grid the tap is skipped; "circular": y' mod H, x' mod W
        acc = fma(x[y'*W + x'][c], taps[t][c], acc)
    all of them may be f16: then acc = f16(x * tap + acc), rounded once
    attrs: height H, width W, offsets ((dy, dx), ...) at most 16, each within +-127 and smaller than the grid, boundary
    record: inputs[0..2] = x, taps, shift; attr[0..3] = H, W, T, boundary (0 zero, 1 circular);
            attr[4+t] = (dy & 255) | (dx & 255) << 8, two's complement bytes
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, is_real, register
from bvtdeploy.ops.numerics import fma, fma16

MAX_TAPS = 16


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, taps = inputs[:2]
    h, w, offsets = attrs["height"], attrs["width"], attrs["offsets"]
    expect(is_real(x) and len(x.shape) == 2 and x.shape[0] == h * w, f"stencil of {x} on a {h}x{w} grid")
    expect(1 <= len(offsets) <= MAX_TAPS, f"stencil with {len(offsets)} taps")
    expect(all(abs(dy) < min(h, 128) and abs(dx) < min(w, 128) for dy, dx in offsets), "stencil: a tap leaves the grid")
    expect(taps == Type(x.elem, (len(offsets), x.shape[1])), f"stencil: taps are {taps}")
    expect(len(inputs) == 2 or inputs[2] == Type(x.elem, (1, x.shape[1])), "stencil: shift is one row")
    expect(attrs["boundary"] in ("zero", "circular"), "stencil: boundary is zero or circular")
    return [x]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    h, w = attrs["height"], attrs["width"]
    x = inputs[0].reshape(h, w, -1)
    shift = inputs[2] if len(inputs) == 3 else np.zeros((1, x.shape[2]), x.dtype)
    acc = np.broadcast_to(shift.reshape(1, 1, -1), x.shape).astype(x.dtype)
    yy, xx = np.mgrid[0:h, 0:w]
    for (dy, dx), tap in zip(attrs["offsets"], inputs[1], strict=True):
        sy, sx = yy + dy, xx + dx
        inside = (sy >= 0) & (sy < h) & (sx >= 0) & (sx < w) | (attrs["boundary"] == "circular")
        source = x[sy % h, sx % w]
        more: Array = fma16(source, tap, acc) if x.dtype == np.float16 else fma(source, tap, acc)
        acc = np.where(inside[..., None], more, acc)
    return [acc.reshape(h * w, -1)]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=inputs[0].size * len(attrs["offsets"]))


register(OpDef("stencil", _infer, _reference, _cost, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
