"""Binary source ops, on tensors of any rank: binarise, binary_linear, binary_conv2d, binary_attention. The layout pass turns them
into their two-dimensional compiled forms.

binarise: f32 -> bits{-1,+1} of the same shape, x >= 0 ? +1 : -1 (NaN: -1).
binary_linear: x bits[..., K], weight bits[O, K] -> i32[..., O].  binary_conv2d: x bits[B, C, H, W], weight bits[O, C, k, k] -> i32,
attrs stride (pair), no padding.  binary_attention: q bits[B, h, N, d], k and v bits[B, h, M, d], table, limit -> i32[B, h, N, d],
as defined by ops/attention.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, Type, bits, i32
from bvtdeploy.ops.attention import attend
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register, windows
from bvtdeploy.ops.bgemm import exact_matmul


def _infer_linear(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    expect(x.alphabet == w.alphabet == BIPOLAR and x.shape[-1] == w.shape[1], f"binary_linear of {x} with {w}")
    return [i32(*x.shape[:-1], w.shape[0])]


def _linear_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=outputs[0].size * inputs[1].shape[1])


def _infer_conv(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    expect(x.alphabet == w.alphabet == BIPOLAR and len(x.shape) == len(w.shape) == 4, f"binary_conv2d of {x} with {w}")
    expect(x.shape[1] == w.shape[1], f"binary_conv2d of {x} with {w}")
    return [i32(x.shape[0], w.shape[0], *map(windows, x.shape[2:], w.shape[2:], attrs["stride"]))]


def _conv(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, w = inputs
    (sy, sx), (kh, kw) = attrs["stride"], w.shape[2:]
    win = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(2, 3))[:, :, ::sy, ::sx]
    b, c, oh, ow = win.shape[:4]
    rows = win.transpose(0, 2, 3, 1, 4, 5).reshape(b, oh, ow, c * kh * kw)
    return [np.ascontiguousarray(exact_matmul(rows, w.reshape(w.shape[0], -1).T).transpose(0, 3, 1, 2))]


def _conv_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=outputs[0].size * (inputs[1].size // inputs[1].shape[0]))


def _infer_attention(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    q, k, v = inputs[:3]
    expect(q.alphabet == k.alphabet == v.alphabet == BIPOLAR and len(q.shape) == 4, f"binary_attention of {q}, {k}, {v}")
    expect(k.shape == v.shape and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3], "binary_attention: shapes differ")
    return [i32(*q.shape)]


def _attention(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    q, k, v, table, limit = inputs
    out = np.empty(q.shape, np.int32)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            out[b, h] = attend(q[b, h], k[b, h], v[b, h], table[0], float(limit[0, h]))
    return [out]


def _attention_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=2 * inputs[0].size * inputs[1].shape[2])


register(
    OpDef(
        "binarise",
        lambda inputs, attrs: [bits(*inputs[0].shape)],
        lambda attrs, inputs: [np.where(inputs[0] >= 0, 1, -1).astype(np.int8)],
    )
)
register(OpDef("binary_linear", _infer_linear, lambda attrs, inputs: [exact_matmul(inputs[0], inputs[1].T)], _linear_cost))
register(OpDef("binary_conv2d", _infer_conv, _conv, _conv_cost))
register(OpDef("binary_attention", _infer_attention, _attention, _attention_cost))
