"""Binary source ops, on tensors of any rank: binarise, binary_linear, binary_conv2d, binary_attention. The layout pass turns them
into their two-dimensional compiled forms.

binarise: f32 -> bits{-1,+1} of the same shape, x >= 0 ? +1 : -1 (NaN: -1); with attr ternary -> bits{-1,0,+1}, sign(x) (NaN: 0).
binary_linear: x bits[..., K], weight bits[O, K] -> i32[..., O].  binary_conv2d: x bits[B, C, H, W], weight bits[O, C, k, k] -> i32,
attrs stride, padding, dilation (pairs), groups; padded taps are 0.  binary_attention: q bits[B, h, N, d], k and v bits[B, h, M, d],
table, limit, .. -> i32 or f32[B, h, N, d], as defined by ops/attention.py, with the same roles and attrs but for heads and windows:
B is the windows, and where window_class has W of them, W divides B and window b is of class window_class[b mod W].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, TERNARY, Type, bits, f32, i32
from bvtdeploy.ops.attention import attend_windows, infer_operands, roles_of
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register, windows
from bvtdeploy.ops.bgemm import exact_matmul

CODES: Final = (BIPOLAR, TERNARY)


def _infer_linear(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    expect(x.alphabet in CODES and w.alphabet == BIPOLAR and x.shape[-1] == w.shape[1], f"binary_linear of {x} with {w}")
    return [i32(*x.shape[:-1], w.shape[0])]


def _linear_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=outputs[0].size * inputs[1].shape[1])


def _infer_conv(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    expect(x.alphabet in CODES and w.alphabet == BIPOLAR and len(x.shape) == len(w.shape) == 4, f"binary_conv2d of {x} with {w}")
    groups = attrs.get("groups", 1)
    expect(x.shape[1] == w.shape[1] * groups and w.shape[0] % groups == 0, f"binary_conv2d of {x} with {w} in {groups} groups")
    padding, dilation = attrs.get("padding", (0, 0)), attrs.get("dilation", (1, 1))
    return [i32(x.shape[0], w.shape[0], *map(windows, x.shape[2:], w.shape[2:], attrs["stride"], padding, dilation))]


def _conv(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, w = inputs
    (sy, sx), (kh, kw), groups = attrs["stride"], w.shape[2:], attrs.get("groups", 1)
    (py, px), (dy, dx) = attrs.get("padding", (0, 0)), attrs.get("dilation", (1, 1))
    x = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    win = np.lib.stride_tricks.sliding_window_view(x, (dy * (kh - 1) + 1, dx * (kw - 1) + 1), axis=(2, 3))
    win = win[:, :, ::sy, ::sx, ::dy, ::dx]
    b, c, oh, ow = win.shape[:4]
    rows = win.reshape(b, groups, c // groups, oh, ow, kh, kw).transpose(0, 1, 3, 4, 2, 5, 6).reshape(b, groups, oh * ow, -1)
    parts = [exact_matmul(rows[:, g], part.T) for g, part in enumerate(w.reshape(groups, w.shape[0] // groups, -1))]
    return [np.ascontiguousarray(np.concatenate(parts, axis=2).transpose(0, 2, 1)).reshape(b, -1, oh, ow)]


def _conv_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=outputs[0].size * (inputs[1].size // inputs[1].shape[0]))


def _infer_attention(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    expect(len(inputs) == len(roles_of(attrs)), "binary_attention: one role an input")
    at = dict(zip(roles_of(attrs), inputs, strict=True))
    q, k, v = inputs[:3]
    expect(len(q.shape) == len(k.shape) == 4, f"binary_attention of {q}, {k}, {v}")
    expect(k.shape == v.shape and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3], "binary_attention: shapes differ")
    batch, heads, nq, d = q.shape
    windows = at["window_class"].size if "window_class" in at else batch
    expect(windows > 0 and batch % windows == 0, f"binary_attention: classes of {windows} windows, {batch} there are")
    infer_operands(at, attrs, heads, d, windows, nq, k.shape[2])
    return [f32(*q.shape) if "real_steps" in at else i32(*q.shape)]


def _attention(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    at = dict(zip(roles_of(attrs), inputs, strict=True))
    q, k, v = inputs[:3]
    return [np.stack([attend_windows(attrs, at, h, q[:, h], k[:, h], v[:, h]) for h in range(q.shape[1])], axis=1)]


def _attention_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=2 * inputs[0].size * inputs[1].shape[2])


def _binarise(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x = inputs[0]
    if attrs.get("ternary"):
        return [(x > 0).astype(np.int8) - (x < 0).astype(np.int8)]
    return [np.where(x >= 0, 1, -1).astype(np.int8)]


register(
    OpDef(
        "binarise",
        lambda inputs, attrs: [bits(*inputs[0].shape, alphabet=TERNARY if attrs.get("ternary") else BIPOLAR)],
        _binarise,
    )
)
register(OpDef("binary_linear", _infer_linear, lambda attrs, inputs: [exact_matmul(inputs[0], inputs[1].T)], _linear_cost))
register(OpDef("binary_conv2d", _infer_conv, _conv, _conv_cost))
register(OpDef("binary_attention", _infer_attention, _attention, _attention_cost))
