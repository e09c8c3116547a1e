"""The converters: one function for each ONNX op, in one table, `CONVERTERS`.

    @converts("Transpose")
    def _transpose(call: Call) -> Step:
        perm = call.ints("perm", reversed(range(call.rank(0))))
        return call.step(lambda x: torch.permute(x, perm), 0)

A converter reads attributes and those operands that must be constants, and returns the torch function with ONNX semantics, along
with the operands it is called with. Shapes are static: a call sees the actual operands of one run at batch 1. Torch functions are
chosen so that an export gives the ATen calls that the same model gives as torch code. `UnsupportedError` says why, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bvtdeploy.frontend.aten import UnsupportedError

Function = Callable[..., Any]
Step = tuple[Function, tuple[str, ...]]

CONVERTERS: Final[dict[str, Callable[[Call], Step]]] = {}
TO_TORCH: Final[dict[int, torch.dtype]] = {  # the numbers of TensorProto.DataType
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
_SAME, _NO_SLICE_END = ("SAME_UPPER", "SAME_LOWER"), 1 << 62


@dataclass
class Node:
    """One ONNX node: attributes as Python values, module path and source line as far as the file tells them."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Any]
    module: str = ""
    trace: str = ""


@dataclass
class Call:
    """A node with the operands of one run: `values` of all names so far, `constant` the names that no input changes."""

    node: Node
    values: Mapping[str, Any]
    constant: set[str]
    opset: int
    slices: dict[str, tuple[str, int, int, int]] = field(default_factory=dict)  # x[start:stop] along one axis: x, axis, start, stop
    rolls: dict[str, tuple[str, list[int], list[int]]] = field(default_factory=dict)  # x, shifts, axes

    def given(self, index: int) -> bool:
        """The optional operand is there."""
        return index < len(self.node.inputs) and bool(self.node.inputs[index])

    def value(self, index: int) -> Tensor:
        """The operand of this run: for shapes and dtypes."""
        value: Tensor = self.values[self.node.inputs[index]]
        return value

    def rank(self, index: int) -> int:
        """Its number of axes."""
        return self.value(index).ndim

    def const(self, index: int) -> Tensor | None:
        """An operand that must not depend on the input; None where it is left out."""
        if not self.given(index):
            return None
        name = self.node.inputs[index]
        if name not in self.constant:
            raise UnsupportedError(f"operand {index} ({name}) is computed from the input", "export the model with static shapes")
        return self.value(index)

    def number(self, index: int) -> float | int | bool | None:
        """The constant operand as one Python number."""
        value = self.const(index)
        if value is not None and value.numel() != 1:
            raise UnsupportedError(f"operand {index} has {value.numel()} elements", "use one number")
        return None if value is None else value.item()

    def integers(self, index: int) -> list[int] | None:
        """The constant operand as integers."""
        value = self.const(index)
        return None if value is None else [int(n) for n in value.reshape(-1).tolist()]

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or what the standard says where it is left out."""
        return self.node.attrs.get(name, default)

    def ints(self, name: str, default: Iterable[int]) -> list[int]:
        """A list of integers."""
        return [int(n) for n in self.attr(name, default)]

    def axes(self, index: int, attribute_before: int = 0) -> list[int] | None:
        """Axes, counted from the front: an operand, or an attribute before some opset."""
        given = self.attr("axes") if self.opset < attribute_before or self.attr("axes") is not None else self.integers(index)
        return None if given is None else [int(a) % max(self.rank(0), 1) for a in given]

    def step(self, function: Function, *operands: int) -> Step:
        """The result: this function of these operands."""
        return function, tuple(self.node.inputs[i] for i in operands)

    def mixed(self, function: Function, *numbers: int) -> Step:
        """This function of all operands, of which constant scalars at these places are given as Python numbers."""
        fixed: dict[int, Any] = {}
        for i in numbers:
            value = self.value(i)
            if self.node.inputs[i] in self.constant and value.ndim == 0 and value.dtype in (torch.float32, torch.int64):
                fixed[i] = value.item()
        free = [i for i in range(len(self.node.inputs)) if i not in fixed]

        def call(*tensors: Tensor) -> Any:
            operands = {**fixed, **dict(zip(free, tensors, strict=True))}
            return function(*(operands[i] for i in range(len(operands))))

        return self.step(call, *free)


def converts(*ops: str) -> Callable[[Callable[[Call], Step]], Callable[[Call], Step]]:
    """Registers a converter for ONNX ops of the standard domain."""

    def decorate(function: Callable[[Call], Step]) -> Callable[[Call], Step]:
        for op in ops:
            assert op not in CONVERTERS, f"two converters for {op}"
            CONVERTERS[op] = function
        return function

    return decorate


def _identity(x: Tensor) -> Tensor:
    return x


def _refuse(why: str, fix: str) -> NoReturn:
    raise UnsupportedError(why, fix)


# -- elementwise --------------------------------------------------------------------------------------------------------------


_PLAIN: Final[dict[str, Function]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Neg": torch.neg, "Abs": torch.abs, "Sqrt": torch.sqrt,
    "Sign": torch.sign, "Round": torch.round, "Floor": torch.floor, "Ceil": torch.ceil, "Reciprocal": torch.reciprocal,
    "Exp": torch.exp, "Log": torch.log, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Erf": torch.erf, "Relu": F.relu,
    "Sin": torch.sin, "Cos": torch.cos, "Softplus": F.softplus, "HardSwish": F.hardswish, "MatMul": torch.matmul,
    "Identity": _identity, "Not": torch.logical_not, "And": torch.logical_and, "Or": torch.logical_or,
    "Xor": torch.logical_xor, "IsNaN": torch.isnan,
}  # fmt: skip
_COMPARE: Final[dict[str, Function]] = {
    "Less": torch.lt, "Greater": torch.gt, "LessOrEqual": torch.le, "GreaterOrEqual": torch.ge, "Equal": torch.eq,
}  # fmt: skip


@converts(*_PLAIN)
def _plain(call: Call) -> Step:
    """An op that torch has with the same operands. What the compiler has no rule for is refused later, with all the rest."""
    return call.step(_PLAIN[call.node.op], *(i for i in range(len(call.node.inputs)) if call.given(i)))


@converts(*_COMPARE)
def _compare(call: Call) -> Step:
    return call.mixed(_COMPARE[call.node.op], 1)


@converts("Div")
def _div(call: Call) -> Step:
    whole = not call.value(0).is_floating_point()
    return call.step((lambda x, y: torch.div(x, y, rounding_mode="trunc")) if whole else torch.div, 0, 1)


@converts("Mod")
def _mod(call: Call) -> Step:
    return call.step(torch.fmod if call.attr("fmod", 0) else torch.remainder, 0, 1)


@converts("Pow")
def _pow(call: Call) -> Step:
    exponent = call.number(1)
    return call.step(lambda x: torch.pow(x, exponent), 0)  # type: ignore[arg-type]


@converts("Sum")
def _sum(call: Call) -> Step:
    return call.step(lambda x, *rest: sum(rest, x), *range(len(call.node.inputs)))


@converts("Min", "Max")
def _extremum(call: Call) -> Step:
    pick = torch.minimum if call.node.op == "Min" else torch.maximum

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        for y in rest:
            x = pick(x, y)
        return x

    return call.step(run, *range(len(call.node.inputs)))


@converts("Clip")
def _clip(call: Call) -> Step:
    low, high = call.number(1), call.number(2)
    if low is None and high is None:
        return call.step(_identity, 0)
    return call.step(lambda x: torch.clamp(x, low, high), 0)


@converts("Where")
def _where(call: Call) -> Step:
    return call.mixed(torch.where, 1, 2)


@converts("Cast")
def _cast(call: Call) -> Step:
    dtype = TO_TORCH.get(int(call.attr("to")))
    if dtype is None:
        raise UnsupportedError("a cast to a type that torch does not have", "keep activations in float32")
    return call.step(lambda x: x.to(dtype), 0)


@converts("CastLike")
def _cast_like(call: Call) -> Step:
    dtype = call.value(1).dtype
    return call.step(lambda x: x.to(dtype), 0)


@converts("Gelu")
def _gelu(call: Call) -> Step:
    approximate = call.attr("approximate", "none")
    return call.step(lambda x: F.gelu(x, approximate=approximate), 0)


@converts("LeakyRelu")
def _leaky_relu(call: Call) -> Step:
    slope = float(call.attr("alpha", 0.01))
    return call.step(lambda x: F.leaky_relu(x, slope), 0)


@converts("PRelu")
def _prelu(call: Call) -> Step:
    x, slope = call.value(0), call.value(1)
    channels = x.ndim > 1 and slope.numel() == x.shape[1] and slope.ndim == x.ndim - 1 and slope.shape[0] == x.shape[1]
    if slope.numel() == 1 or channels:
        return call.step(lambda x, slope: F.prelu(x, slope.reshape(-1)), 0, 1)
    return call.step(lambda x, slope: torch.where(x > 0, x, slope * x), 0, 1)


@converts("Dropout")
def _dropout(call: Call) -> Step:
    if call.number(2):
        raise UnsupportedError("dropout in training mode", "call model.eval() before the export")
    return call.step(_identity, 0)


# -- products and norms -------------------------------------------------------------------------------------------------------


@converts("Gemm")
def _gemm(call: Call) -> Step:
    alpha, beta = float(call.attr("alpha", 1.0)), float(call.attr("beta", 1.0))
    left, right = bool(call.attr("transA", 0)), bool(call.attr("transB", 0))
    vector = call.given(2) and call.rank(2) == 1

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, weight = (a.t() if left else a), (b if right else b.t())
        if c is None or (vector and alpha == beta == 1):
            y = F.linear(a, weight, c)
            return y if alpha == 1 else y * alpha
        y = F.linear(a, weight)
        y = y if alpha == 1 else y * alpha
        return y + (c if beta == 1 else c * beta)

    return call.step(run, *((0, 1, 2) if call.given(2) else (0, 1)))


@converts("Einsum")
def _einsum(call: Call) -> Step:
    equation = str(call.attr("equation"))
    return call.step(lambda *tensors: torch.einsum(equation, *tensors), *range(len(call.node.inputs)))


def _borders(call: Call, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """Padding (before, after) of every axis of an image operand."""
    mode, n = call.attr("auto_pad", "NOTSET"), len(kernel)
    if mode in _SAME:
        borders = []
        for size, k, s, d in zip(call.value(0).shape[2:], kernel, stride, dilation, strict=True):
            total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            borders.append((total // 2, total - total // 2) if mode == "SAME_UPPER" else (total - total // 2, total // 2))
        return borders
    pads = call.ints("pads", [0] * (2 * n)) if mode == "NOTSET" else [0] * (2 * n)
    return list(zip(pads[:n], pads[n:], strict=True))


def _outside(borders: Sequence[tuple[int, int]]) -> list[int]:
    """As F.pad takes it: the last axis first."""
    return [n for pair in reversed(borders) for n in pair]


@converts("Conv")
def _conv(call: Call) -> Step:
    shape = tuple(call.value(1).shape[2:])
    n = len(shape)
    functions: dict[int, Function] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    if n not in functions:
        raise UnsupportedError(f"a convolution over {n} axes", "only 1-D and 2-D convolutions are supported")
    stride, dilation = call.ints("strides", [1] * n), call.ints("dilations", [1] * n)
    borders, groups, function = _borders(call, shape, stride, dilation), int(call.attr("group", 1)), functions[n]
    even = all(a == b for a, b in borders)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x if even else F.pad(x, _outside(borders))
        y: Tensor = function(x, weight, bias, stride, [a for a, _ in borders] if even else 0, dilation, groups)
        return y

    return call.step(run, *((0, 1, 2) if call.given(2) else (0, 1)))


@converts("BatchNormalization")
def _batch_norm(call: Call) -> Step:
    if call.attr("training_mode", 0):
        raise UnsupportedError("batch norm in training mode", "call model.eval() before the export")
    eps = float(call.attr("epsilon", 1e-5))
    return call.step(lambda x, w, b, mean, var: F.batch_norm(x, mean, var, w, b, False, 0.1, eps), 0, 1, 2, 3, 4)


@converts("LayerNormalization")
def _layer_norm(call: Call) -> Step:
    if any(call.node.outputs[1:]):
        raise UnsupportedError("the mean of a LayerNormalization as a result", "use its first output alone")
    axis = int(call.attr("axis", -1)) % call.rank(0)
    shape, eps = list(call.value(0).shape[axis:]), float(call.attr("epsilon", 1e-5))
    return call.step(
        lambda x, weight, bias=None: F.layer_norm(x, shape, weight, bias, eps), *((0, 1, 2) if call.given(2) else (0, 1))
    )


@converts("Softmax", "LogSoftmax")
def _softmax(call: Call) -> Step:
    axis = int(call.attr("axis", -1))
    function = torch.softmax if call.node.op == "Softmax" else torch.log_softmax
    return call.step(lambda x: function(x, axis), 0)


# -- reductions and pools -----------------------------------------------------------------------------------------------------


@converts("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
def _reduce(call: Call) -> Step:
    before = {"ReduceSum": 13}.get(call.node.op, 18)
    axes, keep = call.axes(1, before), bool(call.attr("keepdims", 1))
    if not axes:
        if call.attr("noop_with_empty_axes", 0):
            return call.step(_identity, 0)
        axes = list(range(call.rank(0)))
    functions: dict[str, Function] = {
        "ReduceMean": torch.mean, "ReduceMax": torch.amax, "ReduceMin": torch.amin, "ReduceSum": torch.sum,
    }  # fmt: skip
    function = functions[call.node.op]
    return call.step(lambda x: function(x, axes, keep), 0)


@converts("GlobalAveragePool")
def _global_average(call: Call) -> Step:
    axes = list(range(2, call.rank(0)))
    return call.step(lambda x: torch.mean(x, axes, True), 0)


def _fits(borders: Sequence[tuple[int, int]], kernel: Sequence[int]) -> bool:
    """torch's own padding of pools: as much before as after, and half a kernel at most."""
    return all(a == b and 2 * a <= k for (a, b), k in zip(borders, kernel, strict=True))


@converts("AveragePool")
def _average_pool(call: Call) -> Step:
    kernel = call.ints("kernel_shape", ())
    n = len(kernel)
    if n not in (1, 2):
        raise UnsupportedError(f"pooling over {n} axes", "only 1-D and 2-D pools are supported")
    if any(d != 1 for d in call.ints("dilations", [1] * n)):
        raise UnsupportedError("a dilated average pool", "use dilation 1")
    stride = call.ints("strides", [1] * n)
    borders, ceil = _borders(call, kernel, stride, [1] * n), bool(call.attr("ceil_mode", 0))
    counted = bool(call.attr("count_include_pad", 0)) or not any(map(any, borders))
    inside = _fits(borders, kernel)
    if not inside and (ceil or not counted):
        raise UnsupportedError("average pooling with uneven padding that is left out of the mean", "pad explicitly")
    function: Function = F.avg_pool1d if n == 1 else F.avg_pool2d

    def run(x: Tensor) -> Tensor:
        x = x if inside else F.pad(x, _outside(borders))
        y: Tensor = function(x, kernel, stride, [a for a, _ in borders] if inside else 0, ceil, counted)
        return y

    return call.step(run, 0)


@converts("MaxPool")
def _max_pool(call: Call) -> Step:
    if any(call.node.outputs[1:]):
        raise UnsupportedError("the indices of a max pool", "use its first output alone")
    kernel = call.ints("kernel_shape", ())
    n = len(kernel)
    if n not in (1, 2):
        raise UnsupportedError(f"pooling over {n} axes", "only 1-D and 2-D pools are supported")
    stride, dilation = call.ints("strides", [1] * n), call.ints("dilations", [1] * n)
    borders, ceil = _borders(call, kernel, stride, dilation), bool(call.attr("ceil_mode", 0))
    inside = _fits(borders, kernel)
    function: Function = F.max_pool1d if n == 1 else F.max_pool2d

    def run(x: Tensor) -> Tensor:
        x = x if inside else F.pad(x, _outside(borders), value=-math.inf)
        y: Tensor = function(x, kernel, stride, [a for a, _ in borders] if inside else 0, dilation, ceil)
        return y

    return call.step(run, 0)


@converts("Resize")
def _resize(call: Call) -> Step:
    x = call.value(0)
    if call.attr("mode", "nearest") != "nearest":
        raise UnsupportedError(f"resizing of mode {call.attr('mode')}", "use nearest upsampling by an integer factor")
    axes = [int(a) % x.ndim for a in call.attr("axes", range(x.ndim))]
    sizes, scales = call.integers(3), call.const(2)
    size = list(x.shape)
    factor = [1.0] * x.ndim
    for i, axis in enumerate(axes):
        if sizes:
            size[axis] = sizes[i]
            factor[axis] = sizes[i] / x.shape[axis]
        elif scales is not None:
            factor[axis] = float(scales[i])
            size[axis] = math.floor(x.shape[axis] * factor[axis])
    if size == list(x.shape):
        return call.step(_identity, 0)
    whole = [b // a for a, b in zip(x.shape, size, strict=True)]
    right = all(
        b % a == 0 and np.array_equal(_nearest(call, a, b, f), np.arange(b) // (b // a))
        for a, b, f in zip(x.shape, size, factor, strict=True)
    )
    if not right or whole[:2] != [1, 1] or x.ndim not in (3, 4):
        raise UnsupportedError(f"nearest resizing from {list(x.shape)} to {size}", "upsample both sides by one integer factor")
    scale = tuple(float(n) for n in whole[2:])
    return call.step(lambda x: F.interpolate(x, scale_factor=scale, mode="nearest"), 0)


def _nearest(call: Call, old: int, new: int, scale: float) -> Any:
    """Which entry of an axis the standard takes for each entry of the resized axis."""
    i, mode = np.arange(new, dtype=np.float64), call.attr("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        x = i / scale
    elif mode in ("half_pixel", "half_pixel_symmetric") or (mode == "pytorch_half_pixel" and new > 1):
        x = (i + 0.5) / scale - 0.5
    elif mode == "align_corners" and new > 1:
        x = i * (old - 1) / (new - 1)
    else:
        x = i * 0.0 if new == 1 else i - math.inf
    rounding = call.attr("nearest_mode", "round_prefer_floor")
    functions: dict[str, Function] = {
        "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }  # fmt: skip
    return np.clip(functions[rounding](x), 0, old - 1)


@converts("Upsample")
def _old_upsample(call: Call) -> Step:
    _refuse("Upsample, which opset 10 replaced", "export the model with opset 17 or later")


# -- layout -------------------------------------------------------------------------------------------------------------------


@converts("Reshape")
def _reshape(call: Call) -> Step:
    asked, old = call.integers(1) or [], list(call.value(0).shape)
    if not call.attr("allowzero", 0):
        asked = [old[i] if n == 0 else n for i, n in enumerate(asked)]
    shape = list(call.value(0).reshape(asked).shape)
    return call.step(lambda x: x.reshape(shape), 0)


@converts("Flatten")
def _flatten(call: Call) -> Step:
    shape, axis = list(call.value(0).shape), int(call.attr("axis", 1))
    axis = axis if axis >= 0 else axis + len(shape)
    target = [math.prod(shape[:axis]), math.prod(shape[axis:])]
    return call.step(lambda x: x.reshape(target), 0)


@converts("Transpose")
def _transpose(call: Call) -> Step:
    perm = call.ints("perm", reversed(range(call.rank(0))))
    return call.step(lambda x: torch.permute(x, perm), 0)


@converts("Squeeze", "Unsqueeze")
def _squeeze(call: Call) -> Step:
    shape, axes = list(call.value(0).shape), call.integers(1)
    if call.node.op == "Squeeze":
        gone = [i for i, n in enumerate(shape) if n == 1] if axes is None else [a % len(shape) for a in axes]
        target = [n for i, n in enumerate(shape) if i not in gone]
    else:
        rank = len(shape) + len(axes or [])
        new, rest = {a % rank for a in axes or []}, iter(shape)
        target = [1 if i in new else next(rest) for i in range(rank)]
    return call.step(lambda x: x.reshape(target), 0)


@converts("Expand")
def _expand(call: Call) -> Step:
    shape = list(np.broadcast_shapes(tuple(call.value(0).shape), tuple(call.integers(1) or ())))
    return call.step(lambda x: x.expand(shape), 0)


@converts("Tile")
def _tile(call: Call) -> Step:
    repeats = call.integers(1) or []
    return call.step(lambda x: x.repeat(repeats), 0)


@converts("Concat")
def _concat(call: Call) -> Step:
    axis, parts = int(call.attr("axis")) % call.rank(0), [call.slices.get(name) for name in call.node.inputs]
    first, last = parts[0], parts[-1]
    if len(parts) == 2 and first and last and first[:2] == last[:2] == (first[0], axis):
        n = call.values[first[0]].shape[axis]
        if last[2] == 0 and first[3] == n and first[2] == last[3]:  # x[k:] before x[:k]: how exporters write a roll
            source, shifts, axes = call.rolls.get(first[0], (first[0], [], []))
            shifts, axes = [*shifts, -first[2] if 2 * first[2] <= n else n - first[2]], [*axes, axis]
            call.rolls[call.node.outputs[0]] = (source, shifts, axes)
            return (lambda x: torch.roll(x, shifts, axes)), (source,)
    return call.step(lambda *tensors: torch.cat(tensors, axis), *range(len(call.node.inputs)))


@converts("Split")
def _split(call: Call) -> Step:
    axis = int(call.attr("axis", 0)) % call.rank(0)
    n, sizes = call.value(0).shape[axis], call.integers(1)
    if sizes is None:
        count = int(call.attr("num_outputs", len(call.node.outputs)))
        each = math.ceil(n / count)
        sizes = [each] * (count - 1) + [n - each * (count - 1)]
    return call.step(lambda x: torch.split(x, sizes, axis), 0)


@converts("Slice")
def _slice(call: Call) -> Step:
    shape = call.value(0).shape
    starts, ends = call.integers(1) or [], call.integers(2) or []
    axes, steps = call.integers(3) or list(range(len(starts))), call.integers(4) or [1] * len(starts)
    cuts: list[tuple[int, slice]] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        n = shape[axis % len(shape)]
        if step < 0 and end < -n:  # past the front; Python reads it likewise, but INT_MIN overflows
            cut = slice(min(start, n - 1), None, step)
        else:
            cut = slice(start, min(end, _NO_SLICE_END), step)
        cuts.append((axis % len(shape), cut))
    if len(cuts) == 1 and cuts[0][1].step == 1:
        axis, cut = cuts[0]
        first, last, _ = cut.indices(shape[axis])
        call.slices[call.node.outputs[0]] = (call.node.inputs[0], axis, first, max(first, last))

    def run(x: Tensor) -> Tensor:
        for axis, cut in cuts:
            first, last, step = cut.indices(x.shape[axis])
            if step > 0:
                x = torch.ops.aten.slice.Tensor(x, axis, first, max(first, last), step)
            else:
                x = torch.index_select(x, axis, torch.tensor(list(range(first, last, step)), dtype=torch.int64))
        return x

    return call.step(run, 0)


@converts("SplitToSequence")
def _split_to_sequence(call: Call) -> Step:
    axis, sizes, given = int(call.attr("axis", 0)) % call.rank(0), call.integers(1), call.const(1)
    if sizes is None or given is None:
        drop = not call.attr("keepdims", 1)
        return call.step(lambda x: (list(torch.unbind(x, axis) if drop else torch.split(x, 1, axis)),), 0)
    size = sizes[0] if given.ndim == 0 else sizes
    return call.step(lambda x: (list(torch.split(x, size, axis)),), 0)


@converts("SequenceAt")
def _sequence_at(call: Call) -> Step:
    at = int(call.number(1) or 0)
    return call.step(lambda parts: parts[at], 0)


@converts("Gather")
def _gather(call: Call) -> Step:
    axis = int(call.attr("axis", 0)) % call.rank(0)
    shape, index = call.value(0).shape, call.const(1)
    assert index is not None
    if index.ndim == 0:
        at = int(index) % shape[axis]
        return call.step(lambda x: torch.select(x, axis, at), 0)
    target = [*shape[:axis], *index.shape, *shape[axis + 1 :]]
    n, flat = shape[axis], index.ndim == 1

    def run(x: Tensor, index: Tensor) -> Tensor:
        y = torch.index_select(x, axis, torch.remainder(index.reshape(-1), n))
        return y if flat else y.reshape(target)

    return call.step(run, 0, 1)


@converts("GatherElements")
def _gather_elements(call: Call) -> Step:
    axis = int(call.attr("axis", 0)) % call.rank(0)
    n = call.value(0).shape[axis]
    return call.step(lambda x, index: torch.gather(x, axis, torch.remainder(index, n)), 0, 1)


@converts("GatherND")
def _gather_nd(call: Call) -> Step:
    if call.attr("batch_dims", 0):
        raise UnsupportedError(f"batch_dims {call.attr('batch_dims')}", "gather along the leading axes, or with Gather")
    sizes, index = call.value(0).shape, call.const(1)
    assert index is not None

    def run(x: Tensor, index: Tensor) -> Tensor:
        return x[tuple(torch.remainder(at, n) for at, n in zip(index.unbind(-1), sizes, strict=False))]

    return call.step(run, 0, 1)


@converts("ScatterND")
def _scatter_nd(call: Call) -> Step:
    index = call.const(1)
    if index is None or call.attr("reduction", "none") != "none":
        raise UnsupportedError("a scatter that adds to what is there", "assign, or add masked tensors")
    shape, depth = call.value(0).shape, index.shape[-1]
    lead, width = list(shape[:depth]), math.prod(shape[depth:])
    strides = torch.tensor([math.prod(lead[i + 1 :]) for i in range(depth)], dtype=torch.int64)
    places = (torch.remainder(index, torch.tensor(lead)) * strides).sum(-1).reshape(-1)
    table = torch.arange(math.prod(lead))
    table[places] = math.prod(lead) + torch.arange(len(places))

    def run(x: Tensor, updates: Tensor) -> Tensor:
        rows = torch.cat([x.reshape(-1, width), updates.reshape(-1, width)])
        return torch.index_select(rows, 0, table).reshape(shape)

    return call.step(run, 0, 2)


@converts("Pad")
def _pad(call: Call) -> Step:
    if call.attr("mode", "constant") != "constant":
        raise UnsupportedError(f"padding of mode {call.attr('mode')}", "pad with zeros")
    pads, rank, fill = call.integers(1) or [], call.rank(0), call.number(2) or 0.0
    axes = [a % rank for a in call.integers(3) or range(rank)]
    borders = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        borders[axis] = (pads[i], pads[i + len(axes)])
    while borders and not any(borders[0]):
        borders = borders[1:]
    return call.step((lambda x: F.pad(x, _outside(borders), value=float(fill))) if borders else _identity, 0)


# -- shapes and constants -----------------------------------------------------------------------------------------------------


@converts("Shape")
def _shape(call: Call) -> Step:
    shape = list(call.value(0).shape)[call.attr("start", 0) : call.attr("end")]
    return call.step(lambda: torch.tensor(shape, dtype=torch.int64))


@converts("Size")
def _size(call: Call) -> Step:
    n = call.value(0).numel()
    return call.step(lambda: torch.tensor(n, dtype=torch.int64))


@converts("ConstantOfShape")
def _constant_of_shape(call: Call) -> Step:
    fill = call.attr("value")
    value = torch.zeros(()) if fill is None else fill.reshape(())
    shape = call.integers(0) or []
    return call.step(lambda: torch.full(shape, value.item(), dtype=value.dtype))


@converts("Range")
def _range(call: Call) -> Step:
    start, limit, delta = (call.number(i) for i in range(3))
    dtype = call.value(0).dtype
    return call.step(lambda: torch.arange(start, limit, delta, dtype=dtype))  # type: ignore[arg-type]


@converts("Constant")
def _constant(call: Call) -> Step:
    kinds: dict[str, torch.dtype] = {
        "value_float": torch.float32, "value_floats": torch.float32, "value_int": torch.int64, "value_ints": torch.int64,
    }  # fmt: skip
    for name, value in call.node.attrs.items():
        if name in kinds or isinstance(value, Tensor):
            tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=kinds[name])
            return call.step(lambda tensor=tensor: tensor)
    raise UnsupportedError("a constant that is text or sparse", "use tensors of numbers")
