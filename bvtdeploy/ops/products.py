"""Source products in fp32: linear, conv2d, matmul. They are what the binarise and attention passes recognise.

linear: x[..., K], weight[O, K], optional bias[O]. conv2d: x[B, C, H, W], weight[O, C/groups, kh, kw], optional bias[O]; attrs
stride, padding, dilation (pairs), groups. matmul: a[..., M, K], b[..., K, N] with equal leading sizes. The references sum in
fp64 and round once: of +-1 and integer operands the result is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register, windows


def _infer_linear(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs[:2]
    expect(len(w.shape) == 2 and x.shape[-1] == w.shape[1], f"linear of {x} with weight {w}")
    return [f32(*x.shape[:-1], w.shape[0])]


def _linear(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    y = inputs[0].astype(np.float64) @ inputs[1].astype(np.float64).T
    return [(y + inputs[2] if len(inputs) == 3 else y).astype(np.float32)]


def _linear_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=outputs[0].size * inputs[1].shape[1])


def _infer_conv2d(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs[:2]
    expect(len(x.shape) == len(w.shape) == 4 and x.shape[1] == w.shape[1] * attrs["groups"], f"conv2d of {x} with weight {w}")
    size = map(windows, x.shape[2:], w.shape[2:], attrs["stride"], attrs["padding"], attrs["dilation"])
    return [f32(x.shape[0], w.shape[0], *size)]


def _conv2d(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, w = inputs[0].astype(np.float64), inputs[1].astype(np.float64)
    (sy, sx), (py, px), (dy, dx), g = (attrs[n] for n in ("stride", "padding", "dilation", "groups"))
    x = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
    kh, kw = w.shape[2:]
    win = np.lib.stride_tricks.sliding_window_view(x, (dy * (kh - 1) + 1, dx * (kw - 1) + 1), axis=(2, 3))
    win = win[:, :, ::sy, ::sx, ::dy, ::dx]  # b, c, oy, ox, ky, kx
    b, c, oh, ow = win.shape[:4]
    win = win.reshape(b, g, c // g, oh, ow, kh, kw)
    y = np.einsum("bgcyxij,gocij->bgoyx", win, w.reshape(g, -1, c // g, kh, kw), optimize=True).reshape(b, -1, oh, ow)
    return [(y + inputs[2].reshape(1, -1, 1, 1) if len(inputs) == 3 else y).astype(np.float32)]


def _conv2d_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=outputs[0].size * (inputs[1].size // inputs[1].shape[0]))


def _infer_matmul(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    a, b = inputs
    expect(len(a.shape) == len(b.shape) >= 2 and a.shape[:-2] == b.shape[:-2], f"matmul of {a} with {b}")
    expect(a.shape[-1] == b.shape[-2], f"matmul of {a} with {b}")
    return [f32(*a.shape[:-1], b.shape[-1])]


def _matmul(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [(inputs[0].astype(np.float64) @ inputs[1].astype(np.float64)).astype(np.float32)]


def _matmul_cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=outputs[0].size * inputs[0].shape[-1])


register(OpDef("linear", _infer_linear, _linear, _linear_cost))
register(OpDef("conv2d", _infer_conv2d, _conv2d, _conv2d_cost))
register(OpDef("matmul", _infer_matmul, _matmul, _matmul_cost))
