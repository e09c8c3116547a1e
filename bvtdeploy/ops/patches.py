"""patches: an image -> rows of flattened patches, the im2col of a convolution without padding.

    in   image f32[C*H x W]      out  f32[(Ho*Wo) x (C*k*k)],  Ho = (H-k)/s + 1, Wo likewise
    out[oy*Wo + ox][(c*k + ky)*k + kx] = image[c*H + oy*s + ky][ox*s + kx]
    attrs: channels C, height H, width W, kernel k, stride s       record: attr[0..4] = C, H, W, k, s
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register


def out_grid(attrs: Attrs) -> tuple[int, int]:
    """(Ho, Wo) of a window op with attributes height, width, kernel, stride."""
    h, w, k, s = (int(attrs[n]) for n in ("height", "width", "kernel", "stride"))
    expect(0 < k <= min(h, w) and s > 0, f"kernel {k}, stride {s} do not fit a {h}x{w} grid")
    return (h - k) // s + 1, (w - k) // s + 1


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(x == f32(attrs["channels"] * attrs["height"], attrs["width"]), f"patches of {x}")
    oh, ow = out_grid(attrs)
    return [f32(oh * ow, attrs["channels"] * attrs["kernel"] ** 2)]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    c, h, w, k, s = (int(attrs[n]) for n in ("channels", "height", "width", "kernel", "stride"))
    oh, ow = out_grid(attrs)
    image = inputs[0].reshape(c, h, w)
    windows = np.lib.stride_tricks.sliding_window_view(image, (k, k), axis=(1, 2))[:, ::s, ::s]
    return [np.ascontiguousarray(windows.transpose(1, 2, 0, 3, 4)).reshape(oh * ow, c * k * k)]


register(OpDef("patches", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
