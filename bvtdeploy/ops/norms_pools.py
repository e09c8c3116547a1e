"""Source norms and pools: batch_norm, layer_norm, avg_pool2d, avg_pool1d, max_pool2d, mean, reduce_max.

batch_norm: x, gamma, beta, mean, var along attrs axis, attrs eps: (x-mean)*gamma/sqrt(var+eps)+beta, in fp64, rounded once.
layer_norm: x, gamma[C], beta[C] over the last axis, attrs eps, with the variance of all C elements, in fp64, rounded once.
avg_pool2d: x[B, C, H, W], attrs kernel, stride, padding (pairs), count_include_pad (only True where there is padding).
avg_pool1d: the same along the last axis, attrs kernel, stride, no padding. max_pool2d: x[B, C, H, W], attrs kernel,
stride, padding (pairs, at most half of the kernel); the padding is -inf and never wins. mean, reduce_max: attrs axes
(non-negative), keepdim.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register, windows


def _infer_batch_norm(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x = inputs[0]
    expect(len(inputs) == 5 and all(t == f32(x.shape[attrs["axis"]]) for t in inputs[1:]), f"batch_norm of {x}")
    return [x]


def _batch_norm(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x = inputs[0].astype(np.float64)
    shape = [-1 if i == attrs["axis"] else 1 for i in range(x.ndim)]
    g, b, m, v = (p.astype(np.float64).reshape(shape) for p in inputs[1:])
    return [((x - m) * (g / np.sqrt(v + attrs["eps"])) + b).astype(np.float32)]


def _infer_layer_norm(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x = inputs[0]
    expect(len(inputs) == 3 and len(x.shape) > 0 and all(t == f32(x.shape[-1]) for t in inputs[1:]), f"layer_norm of {x}")
    return [x]


def _layer_norm(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, gamma, beta = (p.astype(np.float64) for p in inputs)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return [(centred / np.sqrt(variance + attrs["eps"]) * gamma + beta).astype(np.float32)]


def _infer_pool2d(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(len(x.shape) == 4, f"avg_pool2d of {x}")
    expect(attrs["count_include_pad"] or not any(attrs["padding"]), "avg_pool2d: the divisor counts the padding")
    return [f32(*x.shape[:2], *map(windows, x.shape[2:], attrs["kernel"], attrs["stride"], attrs["padding"]))]


def _pool2d(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    (py, px), (sy, sx) = attrs["padding"], attrs["stride"]
    x = np.pad(inputs[0].astype(np.float64), ((0, 0), (0, 0), (py, py), (px, px)))
    parts = np.lib.stride_tricks.sliding_window_view(x, attrs["kernel"], axis=(2, 3))[:, :, ::sy, ::sx]
    return [parts.mean(axis=(4, 5)).astype(np.float32)]


def _infer_max_pool2d(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    expect(len(x.shape) == 4, f"max_pool2d of {x}")
    fits = all(2 * p <= k for p, k in zip(attrs["padding"], attrs["kernel"], strict=True))
    expect(fits, f"max_pool2d: padding {attrs['padding']} is more than half of kernel {attrs['kernel']}")
    return [f32(*x.shape[:2], *map(windows, x.shape[2:], attrs["kernel"], attrs["stride"], attrs["padding"]))]


def _max_pool2d(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    (py, px), (sy, sx) = attrs["padding"], attrs["stride"]
    x = np.pad(inputs[0], ((0, 0), (0, 0), (py, py), (px, px)), constant_values=-np.inf)
    parts = np.lib.stride_tricks.sliding_window_view(x, attrs["kernel"], axis=(2, 3))[:, :, ::sy, ::sx]
    return [np.asarray(parts.max(axis=(4, 5)), np.float32)]


def _infer_pool1d(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    return [f32(*x.shape[:-1], windows(x.shape[-1], attrs["kernel"], attrs["stride"]))]


def _pool1d(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    parts = np.lib.stride_tricks.sliding_window_view(inputs[0].astype(np.float64), attrs["kernel"], axis=-1)
    return [parts[..., :: attrs["stride"], :].mean(axis=-1).astype(np.float32)]


def _infer_reduction(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), axes = inputs, attrs["axes"]
    expect(all(0 <= a < len(x.shape) for a in axes), f"mean or maximum of {x} over {axes}")
    if attrs["keepdim"]:
        return [f32(*(1 if i in axes else n for i, n in enumerate(x.shape)))]
    return [f32(*(n for i, n in enumerate(x.shape) if i not in axes))]


def _mean(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    y = inputs[0].astype(np.float64).mean(axis=tuple(attrs["axes"]), keepdims=attrs["keepdim"])
    return [np.asarray(y).astype(np.float32)]


def _reduce_max(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [np.asarray(inputs[0].max(axis=tuple(attrs["axes"]), keepdims=attrs["keepdim"]), np.float32)]


register(OpDef("batch_norm", _infer_batch_norm, _batch_norm))
register(OpDef("layer_norm", _infer_layer_norm, _layer_norm))
register(OpDef("max_pool2d", _infer_max_pool2d, _max_pool2d))
register(OpDef("reduce_max", _infer_reduction, _reduce_max))
register(OpDef("avg_pool2d", _infer_pool2d, _pool2d))
register(OpDef("avg_pool1d", _infer_pool1d, _pool1d))
register(OpDef("mean", _infer_reduction, _mean))
