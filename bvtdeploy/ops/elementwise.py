"""Elementwise source ops on tensors of any rank, with numpy broadcasting, rounded to fp32 after each (the first
operand may be i32 dots below 2^24): add sub mul div neg sign round clamp sqrt tanh gelu prelu softmax.

sign: torch's: 0 of 0 and of -0, and of NaN; optional attr zero (-1, 0 or +1, default 0): what 0 gives, where the source compares
(x >= 0 is zero=+1, x > 0 is zero=-1). round: half to even. clamp: attrs min, max (None: open). gelu: x*Phi(x), the erf form, in
fp64 and then rounded. prelu: x > 0 ? x : slope*x with the slope broadcast along attrs axis. softmax: along attrs axis, in fp64
and then rounded. sqrt, tanh and softmax are what passes recognise or look through; the runtime has no such ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, as_f32, expect, register


def _infer_binary(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    expect(len(inputs) == 2 and inputs[0].elem in ("f32", "i32") and inputs[1].elem == "f32", f"elementwise op on {inputs}")
    try:
        return [f32(*np.broadcast_shapes(*(t.shape for t in inputs)))]
    except ValueError as error:
        raise ValueError(f"shapes do not broadcast: {inputs[0]} and {inputs[1]}") from error


def _infer_unary(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    expect(len(inputs) == 1 and inputs[0].elem == "f32", f"elementwise op on {inputs}")
    return [inputs[0]]


def _binary(kind: str, fn: Callable[[Array, Array], Array]) -> None:
    def reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
        with np.errstate(all="ignore"):
            return [np.asarray(fn(as_f32(inputs[0]), inputs[1]), np.float32)]

    register(OpDef(kind, _infer_binary, reference))


def _unary(kind: str, fn: Callable[[Array, Attrs], Array]) -> None:
    def reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
        return [np.asarray(fn(inputs[0], attrs), np.float32)]

    register(OpDef(kind, _infer_unary, reference))


def _softmax(x: Array, attrs: Attrs) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(axis=attrs["axis"], keepdims=True))
    return np.asarray(e / e.sum(axis=attrs["axis"], keepdims=True))


def _sign(x: Array, attrs: Attrs) -> Array:
    above, below = x > 0, x < 0
    zero = np.where(np.isnan(x), 0, attrs.get("zero", 0))
    return np.asarray(np.where(above, 1, np.where(below, -1, zero)))


def _infer_sign(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    expect(attrs.get("zero", 0) in (-1, 0, 1), f"sign: {attrs.get('zero')} is no code of 0")
    return _infer_unary(inputs, attrs)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Array, attrs: Attrs) -> Array:
    y = x.astype(np.float64)
    return np.asarray(y * 0.5 * (1 + _erf(y * math.sqrt(0.5)))) if y.size else y


def _clamp(x: Array, attrs: Attrs) -> Array:
    lo, hi = attrs["min"], attrs["max"]
    x = x if lo is None else np.maximum(x, np.float32(lo))
    return x if hi is None else np.minimum(x, np.float32(hi))


def _sqrt(x: Array, attrs: Attrs) -> Array:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(x))


def _prelu_slope(slope: Array, rank: int, axis: int) -> Array:
    return slope.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _infer_prelu(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, slope = inputs
    expect(slope.size in (1, x.shape[attrs["axis"]]), f"prelu: slope {slope} along axis {attrs['axis']} of {x}")
    return [x]


def _prelu(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x = inputs[0]
    slope = inputs[1].reshape(-1)
    slope = _prelu_slope(slope, x.ndim, attrs["axis"]) if slope.size > 1 else slope
    return [np.where(x > 0, x, x * slope).astype(np.float32)]


_binary("add", np.add)
_binary("sub", np.subtract)
_binary("mul", np.multiply)
_binary("div", np.divide)
_unary("neg", lambda x, attrs: -x)
_unary("round", lambda x, attrs: np.rint(x))
_unary("clamp", _clamp)
_unary("sqrt", _sqrt)
_unary("tanh", lambda x, attrs: np.tanh(x.astype(np.float64)))
_unary("gelu", _gelu)
_unary("softmax", _softmax)
register(OpDef("sign", _infer_sign, lambda attrs, inputs: [_sign(inputs[0], attrs).astype(np.float32)]))
register(OpDef("prelu", _infer_prelu, _prelu))
