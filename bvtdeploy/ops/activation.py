"""activation: an elementwise function of f32.

    in   f32[N x C]      out  f32[N x C]
    kind "gelu" (erf form), record attr[0] = 0; |error| <= 3e-7 * max(1, |x|):
        t = fma(x*x, 2/5.25^2, -1);  q = c[14]; for i = 13 .. 0: q = fma(q, t, c[i])            c = GELU below
        phi = |x| < 5.25 ? fma(x, q, 0.5) : x > 0 ? 1 : 0;   y = x * phi                         (NaN: NaN * 0)
    kind "clamp" with attrs low <= high, record attr[0] = 1, fattr[0..1] = low, high:
        v = x < low ? low : x;  y = v > high ? high : v                                           (NaN stays NaN)
    kind "sign", record attr[0] = 2: y = x > 0 ? 1 : x < 0 ? -1 : 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bvtdeploy.ir.types import Type
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register
from bvtdeploy.ops.numerics import F32, fma

KINDS: Final = ("gelu", "clamp", "sign")
GELU_LIMIT: Final = np.float32(5.25)
GELU_SCALE: Final = np.float32(2 / 5.25**2)
# (Phi(x) - 1/2) / x on 0 .. 5.25 as a polynomial in t = 2*(x/5.25)^2 - 1: a weighted Chebyshev fit of degree 14.
GELU: Final = (
    0.13465935,
    -0.067126818,
    0.0496457964,
    -0.0397632606,
    0.0320311934,
    -0.0250434484,
    0.01854074,
    -0.0127689689,
    0.00840991549,
    -0.00546097429,
    0.00290730875,
    -0.0010278417,
    0.000651198614,
    -0.00066075736,
    0.000244657625,
)


def gelu(x: F32) -> F32:
    """As defined above."""
    with np.errstate(all="ignore"):
        t = fma(x * x, GELU_SCALE, np.float32(-1))
        q = np.full_like(x, np.float32(GELU[-1]))
        for c in GELU[-2::-1]:
            q = fma(q, t, np.float32(c))
        tail = np.where(x > 0, np.float32(1), np.float32(0))
        y: F32 = x * np.where(np.abs(x) < GELU_LIMIT, fma(x, q, np.float32(0.5)), tail)
    return y


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(x.elem == "f32" and len(x.shape) == 2, f"activation of {x}")
    expect(attrs["kind"] in KINDS, f"unknown activation {attrs['kind']!r}")
    expect(attrs["kind"] != "clamp" or attrs["low"] <= attrs["high"], "activation: low is above high")
    return [x]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    (x,) = inputs
    if attrs["kind"] == "gelu":
        return [gelu(x)]
    if attrs["kind"] == "sign":
        return [(x > 0).astype(np.float32) - (x < 0).astype(np.float32)]
    low, high = np.float32(attrs["low"]), np.float32(attrs["high"])
    v = np.where(x < low, low, x)
    return [np.where(v > high, high, v)]


register(OpDef("activation", _infer, _reference, compiled=True))
