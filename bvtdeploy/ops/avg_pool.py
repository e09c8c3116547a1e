"""avg_pool: mean over k x k windows of a grid.

    in   f32[(H*W) x C]      out  f32[(Ho*Wo) x C],  Ho = (H + 2p - k)/s + 1, Wo likewise
    sum of the window's taps that lie on the grid, row by row, left to right, from the first one on, rounded after every addition;
    times fp32(1/(k*k)), also where taps were left out (padding with zeros that count)
    both may be f16: computed in fp32, rounded at the end
    attrs: height H, width W, kernel k, stride s, padding p < k (default 0)       record: attr[0..4] = H, W, k, s, p
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bvtdeploy.ir.types import Type
from bvtdeploy.ops.base import Array, Attrs, OpDef, as_f32, expect, is_real, register, windows
from bvtdeploy.ops.numerics import reciprocal


def pool_grid(attrs: Attrs) -> tuple[int, int]:
    """(Ho, Wo)."""
    k, s, p = int(attrs["kernel"]), int(attrs["stride"]), int(attrs.get("padding", 0))
    expect(0 <= p < k, f"padding {p} of a kernel of {k}: do not fit")
    return windows(int(attrs["height"]), k, s, p), windows(int(attrs["width"]), k, s, p)


def check_pool(kind: str, inputs: Sequence[Type], attrs: Attrs) -> tuple[int, int]:
    """The shape rules that the pools share; (Ho, Wo)."""
    (x,) = inputs
    expect(is_real(x) and len(x.shape) == 2, f"{kind} of {x}")
    expect(x.shape[0] == attrs["height"] * attrs["width"], f"{kind}: the rows are not the grid")
    return pool_grid(attrs)


def taps(attrs: Attrs, x: Array) -> Iterator[tuple[Array, Array]]:
    """For each tap of the window in order: its values [Ho, Wo, C], and where they lie on the grid [Ho, Wo, 1]."""
    h, w, k, s = (int(attrs[n]) for n in ("height", "width", "kernel", "stride"))
    p = int(attrs.get("padding", 0))
    oh, ow = pool_grid(attrs)
    edge = ((p, p), (p, p), (0, 0))
    padded = np.pad(x.reshape(h, w, -1), edge)
    there = np.pad(np.ones((h, w, 1), np.bool_), edge)
    for ky in range(k):
        for kx in range(k):
            at = (slice(ky, ky + (oh - 1) * s + 1, s), slice(kx, kx + (ow - 1) * s + 1, s))
            yield padded[at], there[at]


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    oh, ow = check_pool("avg_pool", inputs, attrs)
    return [Type(inputs[0].elem, (oh * ow, inputs[0].shape[1]))]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    total: Array | None = None
    for part, there in taps(attrs, as_f32(inputs[0])):
        # -0 is what changes nothing when something is added to it: the first tap there is counts as it is.
        total = np.full(part.shape, -0.0, np.float32) if total is None else total
        total = np.where(there, total + part, total)
    assert total is not None
    k = int(attrs["kernel"])
    return [np.ascontiguousarray(total * reciprocal(k * k)).reshape(-1, inputs[0].shape[1]).astype(inputs[0].dtype)]


register(OpDef("avg_pool", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
