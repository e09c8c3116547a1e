"""Importers of products, norms, pools and softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bvtdeploy.frontend.aten import Lowering, Result, UnsupportedError, broadcast, imports, op_name
from bvtdeploy.frontend.aten_layout import expand, permute, rank, reshape
from bvtdeploy.ir import Value


def _pair(x: Any) -> tuple[int, int]:
    x = (x,) if isinstance(x, int) else tuple(x)
    return (int(x[0]), int(x[-1]))


# -- products -----------------------------------------------------------------------------------------------------------------


def linear(low: Lowering, x: Any, weight: Tensor, bias: Any = None) -> Value:
    """x[..., K] with a constant weight[O, K]."""
    if isinstance(bias, Tensor) and bias.numel() == weight.shape[0] == bias.shape[-1]:
        return low.emit("linear", x, weight, bias if bias.ndim == 1 else bias.reshape(-1))
    y = low.emit("linear", x, weight)
    return y if bias is None else low.emit("add", y, bias)


def matmul(low: Lowering, a: Any, b: Any) -> Value:
    """torch.matmul: a constant right operand makes it a linear; leading axes are broadcast by expand."""
    shape = low.shape()
    if isinstance(b, Tensor) and (b.ndim == 1 or math.prod(b.shape[:-2]) == 1):
        matrix = b.reshape(-1, 1) if b.ndim == 1 else b.reshape(b.shape[-2:])
        return reshape(low, linear(low, a, matrix.T.contiguous()), shape)
    a, b = low.value(a), low.value(b)
    sa, sb = a.type.shape, b.type.shape
    sa = (1, *sa) if len(sa) == 1 else sa
    sb = (*sb, 1) if len(sb) == 1 else sb
    lead = broadcast(sa[:-2], sb[:-2])
    fill = [(1,) * (len(lead) + 2 - len(s)) for s in (sa, sb)]
    a = expand(low, reshape(low, a, (*fill[0], *sa)), (*lead, *sa[-2:]))
    b = expand(low, reshape(low, b, (*fill[1], *sb)), (*lead, *sb[-2:]))
    return reshape(low, low.emit("matmul", a, b), shape)


@imports("matmul.default", "mm.default", "bmm.default", "mv.default", "linalg_vecdot.default")
def _matmul(low: Lowering, a: Any, b: Any) -> Result:
    return matmul(low, a, b)


@imports("linear.default")
def _linear(low: Lowering, x: Any, weight: Any, bias: Any = None) -> Result:
    if isinstance(weight, Tensor) and weight.ndim == 2:
        return linear(low, x, weight, bias)
    y = matmul(low, x, permute(low, weight, list(range(rank(low, weight)))[::-1]))
    return y if bias is None else low.emit("add", y, bias)


@imports("addmm.default", "baddbmm.default")
def _addmm(low: Lowering, bias: Any, a: Any, b: Any, beta: Any = 1, alpha: Any = 1) -> Result:
    if beta != 1 or alpha != 1:
        raise UnsupportedError("addmm with alpha or beta", "write the product and the sum separately")
    if isinstance(b, Tensor) and b.ndim == 2:
        return linear(low, a, b.T.contiguous(), bias)
    return low.emit("add", matmul(low, a, b), bias)


@imports("scaled_dot_product_attention.default")
def _attention(low: Lowering, q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: Any = 0.0, is_causal: Any = False,
               scale: Any = None, enable_gqa: Any = False) -> Result:  # fmt: skip
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        raise UnsupportedError("attention with a mask, dropout or shared keys", "use plain attention")
    q, k, v = map(low.value, (q, k, v))
    n = len(k.type.shape)
    s = low.emit("matmul", q, permute(low, k, [*range(n - 2), n - 1, n - 2]))
    s = low.emit("mul", s, 1 / math.sqrt(q.type.shape[-1]) if scale is None else scale)
    return low.emit("matmul", low.softmax(s, n - 1), v)


def _conv(low: Lowering, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Value:
    if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, Tensor)):
        raise UnsupportedError("a convolution with computed weights", "use constant weights")
    flat = weight.ndim == 3  # one-dimensional: a row of an image of height 1
    stride, dilation = ((1, v[-1]) if flat else v for v in map(_pair, (stride, dilation)))
    kernel = (1, weight.shape[2]) if flat else tuple(weight.shape[2:])
    if isinstance(padding, str):
        border = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        if any(b % 2 for b in border):
            raise UnsupportedError("'same' padding of an even kernel is not symmetric", "pad explicitly")
        padding = [b // 2 for b in border]
    padding = (0, _pair(padding)[-1]) if flat else _pair(padding)
    x = low.value(x)
    s = x.type.shape
    if weight.ndim not in (3, 4):
        raise UnsupportedError(f"a convolution over {weight.ndim - 2} axes", "only 1-D and 2-D convolutions are supported")
    batch = s if len(s) == weight.ndim else (1, *s)
    x = reshape(low, x, (*batch[:2], 1, batch[2]) if flat else batch)
    operands = [x, weight[:, :, None].contiguous() if flat else weight, *([] if bias is None else [bias])]
    y = low.emit("conv2d", *operands, stride=stride, padding=padding, dilation=dilation, groups=int(groups))
    return reshape(low, y, low.shape())


@imports("conv2d.default", "conv2d.padding", "conv1d.default", "conv1d.padding")
def _conv2d(low: Lowering, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
            groups: int = 1) -> Result:  # fmt: skip
    return _conv(low, x, weight, bias, stride, padding, dilation, groups)


@imports("convolution.default")
def _convolution(low: Lowering, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
                 output_padding: Any, groups: int) -> Result:  # fmt: skip
    if transposed:
        raise UnsupportedError("a transposed convolution", "use upsampling and a convolution")
    return _conv(low, x, weight, bias, stride, padding, dilation, groups)


# -- norms --------------------------------------------------------------------------------------------------------------------


def _batch_norm_op(low: Lowering, x: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Value:
    if not all(p is None or isinstance(p, Tensor) for p in (weight, bias)) or not isinstance(mean, Tensor):
        raise UnsupportedError("batch norm with computed parameters or statistics", "use tracked running statistics")
    n = mean.shape[0]
    gamma = torch.ones(n) if weight is None else weight
    beta = torch.zeros(n) if bias is None else bias
    return low.emit("batch_norm", x, gamma, beta, mean, var, axis=1, eps=float(eps))


@imports("_native_batch_norm_legit_no_training.default")
def _batch_norm_eval(low: Lowering, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: Any, eps: float) -> Result:
    return [_batch_norm_op(low, x, weight, bias, mean, var, eps), None, None]


@imports("batch_norm.default", "cudnn_batch_norm.default")
def _batch_norm(low: Lowering, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: Any, eps: float,
                cudnn_enabled: Any = False) -> Result:  # fmt: skip
    if training:
        raise UnsupportedError("batch norm in training mode", "call model.eval() before the export")
    return _batch_norm_op(low, x, weight, bias, mean, var, eps)


@imports("native_batch_norm.default", "_native_batch_norm_legit.default", "_native_batch_norm_legit_functional.default",
         "_native_batch_norm_legit.no_stats", "_batch_norm_with_update.default", "_batch_norm_with_update_functional.default",
         )  # fmt: skip
def _batch_norm_train(low: Lowering, *_: Any, **__: Any) -> Result:
    raise UnsupportedError("batch norm in training mode, or without running statistics", "call model.eval() before the export")


def _layer_norm_op(low: Lowering, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Value:
    if not all(p is None or isinstance(p, Tensor) for p in (weight, bias)):
        raise UnsupportedError("layer norm with computed parameters", "use constant parameters")
    n, x = math.prod(shape), low.value(x)
    gamma = torch.ones(n) if weight is None else weight.reshape(n)
    beta = torch.zeros(n) if bias is None else bias.reshape(n)
    rows = reshape(low, x, (*x.type.shape[: len(x.type.shape) - len(shape)], n))
    return reshape(low, low.emit("layer_norm", rows, gamma, beta, eps=float(eps)), x.type.shape)


@imports("layer_norm.default")
def _layer_norm(low: Lowering, x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
                cudnn_enable: Any = True) -> Result:  # fmt: skip
    return _layer_norm_op(low, x, normalized_shape, weight, bias, eps)


@imports("native_layer_norm.default")
def _native_layer_norm(low: Lowering, x: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> Result:
    return [_layer_norm_op(low, x, normalized_shape, weight, bias, eps), None, None]


@imports("softmax.int", "_softmax.default", "_safe_softmax.default")
def _softmax(low: Lowering, x: Any, dim: int, dtype: Any = None) -> Result:
    if dtype not in (None, False, torch.float32):
        raise UnsupportedError(f"softmax in {dtype}", "use float32")
    return low.softmax(x, dim % rank(low, x))


# -- means and pools ----------------------------------------------------------------------------------------------------------


def _axes(low: Lowering, x: Any, dim: Any) -> tuple[int, ...]:
    n = rank(low, x)
    dims = (dim,) if isinstance(dim, int) else tuple(dim or range(n))
    return tuple(sorted(d % n for d in dims))


@imports("mean.dim", "mean.default")
def _mean(low: Lowering, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Result:
    return low.emit("mean", x, axes=_axes(low, x, dim), keepdim=bool(keepdim))


def _moments(low: Lowering, x: Any, dim: Any, correction: Any, keepdim: bool) -> tuple[Value, Value]:
    """(variance, mean) as sums of squares around the mean: what norms by hand are recognised by."""
    x = low.value(x)
    axes = _axes(low, x, dim)
    count = math.prod(x.type.shape[a] for a in axes)
    correction = 1 if correction is None else correction
    if count <= correction:
        raise UnsupportedError(f"a variance of {count} elements with correction {correction}", "use unbiased=False")
    centred = low.emit("sub", x, low.emit("mean", x, axes=axes, keepdim=True))
    variance = low.emit("mean", low.emit("mul", centred, centred), axes=axes, keepdim=keepdim)
    if correction:
        variance = low.emit("mul", variance, count / (count - correction))
    return variance, low.emit("mean", x, axes=axes, keepdim=keepdim)


@imports("var.correction", "var.dim", "var.default", "std.correction", "std.dim", "std.default")
def _var(low: Lowering, x: Any, dim: Any = None, unbiased: Any = True, keepdim: bool = False, correction: Any = None) -> Result:
    assert low.node is not None
    variance, _ = _moments(low, x, dim, (correction if correction is not None else int(unbiased)), keepdim)
    return low.emit("sqrt", variance) if "std" in op_name(low.node.target) else variance


@imports("var_mean.correction", "var_mean.dim", "var_mean.default", "std_mean.correction")
def _var_mean(low: Lowering, x: Any, dim: Any = None, unbiased: Any = True, keepdim: bool = False,
              correction: Any = None) -> Result:  # fmt: skip
    assert low.node is not None
    variance, mean = _moments(low, x, dim, (correction if correction is not None else int(unbiased)), keepdim)
    return [low.emit("sqrt", variance) if "std" in op_name(low.node.target) else variance, mean]


@imports("rms_norm.default")
def _rms_norm(low: Lowering, x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Result:
    x = low.value(x)
    n = len(x.type.shape)
    axes = tuple(range(n - len(normalized_shape), n))
    square = low.emit("mean", low.emit("mul", x, x), axes=axes, keepdim=True)
    root = low.emit("sqrt", low.emit("add", square, float(torch.finfo(torch.float32).eps if eps is None else eps)))
    y = low.emit("div", x, root)
    return y if weight is None else low.emit("mul", y, weight)


@imports("amax.default", "max.default")
def _amax(low: Lowering, x: Any, dim: Any = None, keepdim: bool = False) -> Result:
    return low.emit("reduce_max", x, axes=_axes(low, x, dim), keepdim=bool(keepdim))


@imports("amin.default", "min.default")
def _amin(low: Lowering, x: Any, dim: Any = None, keepdim: bool = False) -> Result:
    return low.emit("neg", _amax(low, low.emit("neg", x), dim, keepdim))


@imports("max.dim", "min.dim")
def _max_dim(low: Lowering, x: Any, dim: int, keepdim: bool = False) -> Result:
    assert low.node is not None
    if any(user.args[1] == 1 for user in low.node.users if user.users):
        raise UnsupportedError("the position of a maximum", "use the values alone: amax or amin")
    return [(_amax if "max" in str(low.node.target) else _amin)(low, x, dim, keepdim), None]


@imports("sum.dim_IntList", "sum.default")
def _sum(low: Lowering, x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Result:
    axes = _axes(low, x, dim)
    count = math.prod(low.value(x).type.shape[a] for a in axes)
    return low.emit("mul", low.emit("mean", x, axes=axes, keepdim=bool(keepdim)), count)


@imports("avg_pool2d.default")
def _avg_pool2d(low: Lowering, x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
                count_include_pad: bool = True, divisor_override: int | None = None) -> Result:  # fmt: skip
    kernel = _pair(kernel_size)
    y = _pool(low, x, kernel, _pair(stride or kernel_size), _pair(padding), count_include_pad)
    size = kernel[0] * kernel[1]
    return y if divisor_override in (None, size) else low.emit("mul", y, size / int(divisor_override or 1))


@imports("avg_pool1d.default")
def _avg_pool1d(low: Lowering, x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
                count_include_pad: bool = True) -> Result:  # fmt: skip
    kernel, step, border = (_pair(v)[-1] for v in (kernel_size, stride or kernel_size, padding))
    if border:  # rows of an image of height 1
        x = low.value(x)
        image = reshape(low, x, (*x.type.shape[:-1], 1, x.type.shape[-1]))
        return _pool(low, image, (1, kernel), (1, step), (0, border), count_include_pad)
    return _fitting(low.emit("avg_pool1d", x, kernel=kernel, stride=step), low.shape())


def _max_pool(low: Lowering, x: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, shape: tuple[int, ...]) -> Value:
    if _pair(dilation) != (1, 1):
        raise UnsupportedError("a dilated max pool", "use dilation=1")
    x = low.value(x)
    image = reshape(low, x, x.type.shape if len(x.type.shape) == 4 else (1, *x.type.shape))
    kernel, stride = _pair(kernel_size), _pair(stride or kernel_size)
    y = low.emit("max_pool2d", image, kernel=kernel, stride=stride, padding=_pair(padding))
    return reshape(low, _fitting(y, shape), shape)


@imports("max_pool2d.default")
def _max_pool2d(low: Lowering, x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
                ceil_mode: bool = False) -> Result:  # fmt: skip
    return _max_pool(low, x, kernel_size, stride, padding, dilation, low.shape())


@imports("max_pool2d_with_indices.default")
def _max_pool2d_with_indices(low: Lowering, x: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
                             ceil_mode: bool = False) -> Result:  # fmt: skip
    return [_max_pool(low, x, kernel_size, stride, padding, dilation, low.shape(0)), None]


def _pool(low: Lowering, x: Any, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
          include_pad: bool = True) -> Value:  # fmt: skip
    """An average pool of [C, H, W] or [B, C, H, W], in the shape that torch gives it."""
    if any(padding) and not include_pad:
        raise UnsupportedError("average pooling that leaves the padding out of the mean", "use count_include_pad=True")
    x = low.value(x)
    image = reshape(low, x, x.type.shape if len(x.type.shape) == 4 else (1, *x.type.shape))
    y = low.emit("avg_pool2d", image, kernel=kernel, stride=stride, padding=padding, count_include_pad=True)
    return reshape(low, _fitting(y, low.shape()), low.shape())


def _fitting(y: Value, shape: tuple[int, ...]) -> Value:
    if y.type.size != math.prod(shape):
        raise UnsupportedError("a pool with ceil_mode whose last window is cut off", "pad so that the windows fit")
    return y


@imports("adaptive_avg_pool1d.default")
def _adaptive1d(low: Lowering, x: Any, output_size: Any) -> Result:
    x = low.value(x)
    n, out = x.type.shape[-1], _pair(output_size)[-1]
    if out == 1:
        return low.emit("mean", x, axes=(len(x.type.shape) - 1,), keepdim=True)
    if n % out:
        raise UnsupportedError(f"adaptive pooling of {n} to {out}", "use sizes that divide")
    return low.emit("avg_pool1d", x, kernel=n // out, stride=n // out)


@imports("adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default")
def _adaptive2d(low: Lowering, x: Any, output_size: Any) -> Result:
    x = low.value(x)
    n = len(x.type.shape)
    size, out = x.type.shape[-2:], low.shape()[-2:]
    if out == (1, 1):
        return low.emit("mean", x, axes=(n - 2, n - 1), keepdim=True)
    if any(a % b for a, b in zip(size, out, strict=True)):
        raise UnsupportedError(f"adaptive pooling of {size} to {out}", "use sizes that divide")
    kernel = (size[0] // out[0], size[1] // out[1])
    return _pool(low, x, kernel, kernel, (0, 0))
