"""dense_i8: f32 rows, quantised one by one, times int8 weights, with sums in int32, plus a bias.

    in   x f32[N x K], weight i8[O x K], scale f32[1 x O], optional bias f32[1 x O]      out  f32[N x O];  K <= MOST_COLUMNS
    of a row n:
        m = max_k |x[n][k]|, a NaN where one is there;  inverse = 127 / m
        q[k] = the whole number nearest to the exact x[n][k] * inverse, ties to even: fma(x, inverse, 1.5*2^23) - 1.5*2^23
        where m or inverse is not finite (an operand is not, or all are smaller than 2^-120 or so): q[k] = 0
        step = m / 127
    y[n][o]: acc = sum_k q[k] * weight[o][k], exactly;  y = f32(acc) * (step * scale[o]);  y = y + bias[o] (if there is a bias)
    record: inputs[0..3] = x, weight, scale, bias; the weight is in layout QUADS

Every operation is one fp32 operation, rounded to nearest, ties to even, so that the result has the same bits everywhere. |q| is at
most 127, since x * inverse is at most 127 * (1 + 2^-24). Any byte is a weight; the compiler writes -127 .. 127. The sum fits into
32 bits, since K * 127 * 128 < 2^31, and becomes fp32 by one rounding. A row with an infinity or a NaN gives NaN in every channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register
from bvtdeploy.ops.numerics import F32, fma

MOST_COLUMNS: Final = 1 << 17
_WHOLE: Final = np.float32(1.5 * 2**23)  # a float of this size is a whole number


def quantise(x: F32) -> tuple[F32, F32]:
    """Rows f32[N x K] -> (codes -127 .. 127 as f32[N x K], steps f32[N x 1])."""
    with np.errstate(all="ignore"):
        m = np.abs(x).max(axis=1, keepdims=True)
        inverse = np.float32(127) / m
        codes = fma(x, inverse, _WHOLE) - _WHOLE
        codes = np.where(np.isfinite(m) & np.isfinite(inverse), codes, np.float32(0)).astype(np.float32)
        return codes, (m / np.float32(127)).astype(np.float32)


def scratch_bytes(cols: int) -> int:
    """Scratch of the kernels for a weight of `cols` columns (ops/dense_i8.h of the runtime): 16 rows of codes, a multiple of 64."""
    return 16 * (-(-cols // 16) * 16)


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs[:2]
    expect(len(inputs) in (3, 4) and x.elem == "f32" and w.elem == "i8", f"dense_i8 of {x} with {w}")
    expect(len(x.shape) == len(w.shape) == 2 and x.shape[1] == w.shape[1] <= MOST_COLUMNS, f"dense_i8 of {x} with {w}")
    expect(all(v == f32(1, w.shape[0]) for v in inputs[2:]), "scale and bias of dense_i8 are one row of all outputs")
    return [f32(x.shape[0], w.shape[0])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, w, scale = inputs[:3]
    codes, steps = quantise(x)
    acc = codes.astype(np.float64) @ w.astype(np.float64).T  # whole numbers below 2^31: exact in any order
    y = acc.astype(np.float32) * (steps * scale)
    return [y + inputs[3] if len(inputs) == 4 else y]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=inputs[0].size * inputs[1].shape[0])


register(OpDef("dense_i8", _infer, _reference, _cost, compiled=True))
