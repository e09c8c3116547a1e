"""The importers: one function for each ATen op, in one table, `IMPORTERS`.

    @imports("relu.default")
    def _relu(low: Lowering, x: Any) -> Result:
        return low.emit("clamp", x, min=0.0, max=None)

An importer receives the arguments of the call, positional and keyword as ATen spells them, with every node replaced by what it
became: `Value` (a result in the graph), `Code` (a two-level quantity that is not materialised yet), a torch tensor (a constant,
folded already), or a literal. It returns the same kinds, or a list of them for ops with several results. `UnsupportedError` carries
the reason and the cure. Elementwise ops are here; layout ops in aten_layout, products, norms and pools in aten_nn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, fx

from bvtdeploy.ir import Graph, Value

Result = Any  # Value | Code | Tensor | list of these
Importer = Callable[..., Result]

IMPORTERS: Final[dict[str, Importer]] = {}


def imports(*overloads: str) -> Callable[[Importer], Importer]:
    """Registers an importer for ATen overloads, written without `aten.`"""

    def decorate(function: Importer) -> Importer:
        for name in overloads:
            assert name not in IMPORTERS, f"two importers for {name}"
            IMPORTERS[name] = function
        return function

    return decorate


def op_name(target: Any) -> str:
    """`aten.add.Tensor` of an OpOverload; the plain name of anything else that a graph can call."""
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    name = getattr(target, "__name__", None)
    return str(name) if name else str(target)


class UnsupportedError(Exception):
    """An op that has no place in the source vocabulary: why, and what the user can do."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


@dataclass
class Code:
    """`low` where x < 0, `zero` where x is 0, `high` where x > 0, with constant levels of any dtype that broadcast against x.

    Comparisons give one of booleans, with two levels; arithmetic of codes of one x and constants moves the levels by torch's own
    arithmetic; any other use makes it an f32 value, by signs whose attr `zero` says what 0 gives.
    """

    x: Value
    low: Tensor
    zero: Tensor
    high: Tensor
    value: Value | None = None

    @property
    def levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Below, at and above 0."""
        return self.low, self.zero, self.high


@dataclass
class Choice:
    """What a `where` took for x < 0, x = 0 and x > 0: a later `where` on the same x looks through it."""

    x: Value
    branches: tuple[Any, Any, Any]


@dataclass
class Lowering:
    """The graph under construction and the node that is being imported."""

    graph: Graph
    node: fx.Node | None = None
    module: str = ""
    names: dict[int, str] = field(default_factory=dict)  # names of parameters, by id of the tensor
    notes: dict[str, int] = field(default_factory=dict)
    roots: dict[int, set[str]] = field(default_factory=dict)  # names of stored tensors, by address of what was folded from them
    origins: dict[str, set[str]] = field(default_factory=dict)  # the same by name of the constant
    _constants: dict[Any, tuple[Any, Value]] = field(default_factory=dict)
    _softmaxes: dict[tuple[Value, int], Value] = field(default_factory=dict)
    choices: dict[Value, Choice] = field(default_factory=dict)  # results of `where`
    _count: int = 0

    def shape(self, index: int | None = None) -> tuple[int, ...]:
        """The shape that torch gives to the result of the current node (or to one of its results)."""
        assert self.node is not None
        meta = self.node.meta["val"]
        return tuple(int(n) for n in (meta if index is None else meta[index]).shape)

    def note(self, sentence: str) -> None:
        """Counts a remark for the report."""
        self.notes[sentence] = self.notes.get(sentence, 0) + 1

    def emit(self, kind: str, *inputs: Any, **attrs: Any) -> Value:
        """Appends a source op on whatever the arguments are."""
        values = [self.value(x) for x in inputs]
        op = self.graph.create(kind, values, attrs, module=self.module, names=[f"v{self._count}"])
        self._count += 1
        return op.out

    def softmax(self, x: Any, axis: int) -> Value:
        """One softmax for all that the source wrote: published code takes it of the same scores several times."""
        key = (self.value(x), axis)
        if key not in self._softmaxes:
            self._softmaxes[key] = self.emit("softmax", key[0], axis=axis)
        return self._softmaxes[key]

    def value(self, x: Any) -> Value:
        """An argument as a value of the graph: constants and two-level codes are materialised, once each."""
        if isinstance(x, Value):
            return x
        if isinstance(x, Code):
            if x.value is None:
                x.value = self._materialise(x)
            return x.value
        if isinstance(x, Tensor):
            key, array = ("tensor", id(x)), _f32(x)
        elif isinstance(x, (bool, int, float)):
            array = np.asarray(x, np.float32)
            key = ("number", int(array.view(np.int32)))
        else:
            raise UnsupportedError(f"an operand is a {type(x).__name__}, not a tensor", "use tensors and numbers only")
        if key not in self._constants:
            path = self.names.get(id(x), "") if isinstance(x, Tensor) else ""
            name = f"{path.rsplit('.', 1)[-1]}_{len(self._constants)}" if path else f"c{len(self._constants)}"
            constant = self.graph.constant(array, name)
            assert constant.producer is not None
            constant.producer.module = path or self.module
            if isinstance(x, Tensor):
                self.origins[constant.name] = set(self.roots.get(x.untyped_storage().data_ptr(), ()))
            self._constants[key] = (x, constant)  # x is kept: its id must stay its own
        return self._constants[key][1]

    def _materialise(self, code: Code) -> Value:
        shape = broadcast(*(t.shape for t in code.levels))
        low, zero, high = (torch.as_tensor(_f32(t)).double().expand(shape) for t in code.levels)
        if torch.equal(low, high) and torch.equal(low, zero):
            raise UnsupportedError("a comparison whose sides give the same", "write the constant itself")
        if torch.equal(zero, high) or torch.equal(zero, low):
            return self._two_levels(code.x, low, high, inclusive=torch.equal(zero, high))
        if torch.equal(zero, (low + high) / 2):
            return self._affine(self.emit("sign", code.x), (high - low) / 2, zero)
        below = self._two_levels(code.x, low, zero, inclusive=True)  # where 0 has a level of its own: [x >= 0] and [x > 0]
        return self.emit("add", below, self._two_levels(code.x, torch.zeros_like(zero), high - zero, inclusive=False))

    def _two_levels(self, x: Value, low: Tensor, high: Tensor, inclusive: bool) -> Value:
        negated = not inclusive and often_zero(x)  # x > 0 is not -x >= 0, exactly
        if negated:
            x, low, high = self.emit("neg", x), high, low
        elif not inclusive:
            self.note("x > 0 is compiled as x >= 0: they differ where x is exactly 0")
        y = self.emit("sign", x, zero=1 if inclusive or negated else -1)
        return self._affine(y, (high - low) / 2, (high + low) / 2)

    def _affine(self, y: Value, half: Tensor, middle: Tensor) -> Value:
        half, middle = half.float(), middle.float()
        if bool((half == -1).all()):
            y = self.emit("neg", y)
        elif not bool((half == 1).all()):
            y = self.emit("mul", y, _scalar_if_one(half))
        return y if bool((middle == 0).all()) else self.emit("add", y, _scalar_if_one(middle))


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape to which shapes broadcast."""
    return tuple(np.broadcast_shapes(*map(tuple, shapes)))


def _scalar_if_one(t: Tensor) -> Tensor | float:
    return float(t.reshape(-1)[0]) if t.numel() and bool((t == t.reshape(-1)[0]).all()) else t


def _f32(t: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A constant as float32. Integers, booleans and float64 only where this is exact."""
    t = t.detach()
    array = t.to(torch.float32)
    if bool(array.isnan().any()):
        raise UnsupportedError("a constant contains NaN", "the weights are damaged: use another checkpoint")
    if t.dtype != torch.float32 and not torch.equal(array.to(t.dtype), t):
        raise UnsupportedError(f"a {str(t.dtype)[6:]} constant is not exact in float32", "convert the model with model.float()")
    return np.ascontiguousarray(array.cpu().numpy()).reshape(t.shape)


def number(x: Any) -> float | None:
    """A literal or a constant whose elements are all one number, rounded to f32; None of anything else."""
    if isinstance(x, Tensor) and x.numel() and bool((x == x.reshape(-1)[0]).all()):
        return float(_f32(x).reshape(-1)[0])
    return float(np.float32(x)) if isinstance(x, (bool, int, float)) else None


# -- two-level codes ----------------------------------------------------------------------------------------------------------


def move_levels(low: Lowering, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Code | None:
    """An elementwise op of codes of one tensor and constants moves the levels; None where there is more to it."""
    codes = [a for a in args if isinstance(a, Code)]
    if op_name(target).split(".")[1] not in _ELEMENTWISE or not codes or any(isinstance(a, Value) for a in args):
        return None
    x = codes[0].x
    if any(not same(code.x, x) for code in codes[1:]):
        return None
    moved = [target(*(a.levels[i] if isinstance(a, Code) else a for a in args), **kwargs) for i in range(3)]
    if any(t.ndim and broadcast(t.shape, x.type.shape) != x.type.shape for t in moved):
        return None
    return Code(x, moved[0], moved[1], moved[2])


_ELEMENTWISE = {
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "pow", "sign", "sgn", "round", "clamp", "clamp_min", "clamp_max", "relu",
    "hardtanh", "to", "_to_copy", "type_as", "logical_not", "bitwise_not", "where", "ge", "gt", "le", "lt", "eq", "ne", "clone",
    "detach", "alias", "contiguous", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or",
    "masked_fill", "square",
}  # fmt: skip


def _compare(low: Lowering, x: Any, y: Any, above: bool, inclusive: bool) -> Code:
    if number(y) == 0:
        t = low.value(x)
    elif number(x) == 0:  # 0 >= y is y <= 0
        t, above = low.value(y), not above
    else:
        t = low.emit("sub", x, y)  # exact where it matters: a difference is 0 only of equal numbers
    return Code(t, torch.tensor(not above), torch.tensor(inclusive), torch.tensor(above))


@imports("ge.Scalar", "ge.Tensor")
def _ge(low: Lowering, x: Any, other: Any) -> Result:
    return _compare(low, x, other, above=True, inclusive=True)


@imports("gt.Scalar", "gt.Tensor")
def _gt(low: Lowering, x: Any, other: Any) -> Result:
    return _compare(low, x, other, above=True, inclusive=False)


@imports("le.Scalar", "le.Tensor")
def _le(low: Lowering, x: Any, other: Any) -> Result:
    return _compare(low, x, other, above=False, inclusive=True)


@imports("lt.Scalar", "lt.Tensor")
def _lt(low: Lowering, x: Any, other: Any) -> Result:
    return _compare(low, x, other, above=False, inclusive=False)


def _equal(low: Lowering, x: Any, y: Any) -> Code:
    t = low.value(x) if number(y) == 0 else low.emit("sub", x, y)
    return Code(t, torch.tensor(False), torch.tensor(True), torch.tensor(False))


@imports("eq.Scalar", "eq.Tensor")
def _eq(low: Lowering, x: Any, other: Any) -> Result:
    return _equal(low, x, other)


@imports("ne.Scalar", "ne.Tensor")
def _ne(low: Lowering, x: Any, other: Any) -> Result:
    code = _equal(low, x, other)
    return Code(code.x, ~code.low, ~code.zero, ~code.high)


@imports("where.self", "where.Scalar", "where.ScalarSelf", "where.ScalarOther")
def _where(low: Lowering, condition: Any, x: Any, other: Any) -> Result:
    if isinstance(condition, Tensor) and condition.dtype == torch.bool:
        return select(low, condition, x, other)
    if not isinstance(condition, Code) or condition.low.dtype != torch.bool or any(t.ndim for t in condition.levels):
        raise UnsupportedError("where without a comparison of a tensor", "write it with sign, clamp or PReLU")
    branches = []
    for i, level in enumerate(condition.levels):
        branch = x if bool(level) else other
        known = low.choices.get(branch) if isinstance(branch, Value) else None
        if known is not None and same(known.x, condition.x):
            branch = known.branches[i]
        if isinstance(branch, Code) and same(branch.x, condition.x):
            branch = branch.levels[i]
        branches.append(branch)
    below, at, above = branches
    levels = [_level(branch) for branch in branches]
    if not any(level is None for level in levels):
        dtype = low.node.meta["val"].dtype if low.node is not None else torch.float32
        moved = [level.to(dtype) for level in levels if level is not None]
        if all(not t.ndim or broadcast(t.shape, condition.x.type.shape) == condition.x.type.shape for t in moved):
            return Code(condition.x, moved[0], moved[1], moved[2])
    if all(branch is above for branch in branches):
        return above
    result = _choose(low, condition.x, below, at, above)
    low.choices[result] = Choice(condition.x, (below, at, above))
    return result


def _choose(low: Lowering, x: Value, below: Any, at: Any, above: Any) -> Value:
    """below where x < 0, at where x is 0, above where x > 0."""
    shape = low.shape()
    for sign, one, two in ((1.0, above, below), (-1.0, below, above)):
        # x > 0 ? x : slope * x is a PReLU, whatever the treatment of 0
        if isinstance(one, Value) and same(one, x) and x.type.shape == shape and (at is one or at is two):
            y = x if sign > 0 else low.emit("neg", x)
            if number(two) == 0:
                half = low.emit("clamp", y, min=0.0, max=None)
                return half if sign > 0 else low.emit("neg", half)
            slope = _multiple(two, x)
            if slope is not None and sign > 0:
                return prelu(low, x, slope)

    def mask(zero: bool, high: bool) -> Value:
        return low.value(Code(x, torch.tensor(float(not high)), torch.tensor(float(zero)), torch.tensor(float(high))))

    first = mask(at is not below, True)
    result = _blend(low, shape, first, above, below)
    if at is below or at is above:
        return result
    return _blend(low, shape, low.emit("mul", first, mask(True, False)), at, result)  # only x = 0 passes both


def _multiple(y: Any, x: Value) -> Value | None:
    """The constant c of y = c * x."""
    if not isinstance(y, Value) or y.producer is None or y.producer.kind != "mul":
        return None
    a, b = y.producer.inputs
    return b if same(a, x) and b.data is not None else a if same(b, x) and a.data is not None else None


def _blend(low: Lowering, shape: tuple[int, ...], mask: Value, x: Any, other: Any) -> Value:
    """mask * x + (1 - mask) * other of a mask of 0 and 1: exact for finite operands, up to the sign of a zero."""
    parts = [low.emit("mul", m, y) for m, y in ((mask, x), (None, other)) if m is not None and number(y) != 0]
    if number(other) != 0:
        parts.append(low.emit("mul", low.emit("add", low.emit("neg", mask), 1.0), other))
    if any(isinstance(y, Tensor) and not bool(y.isfinite().all()) for y in (x, other)) or not all(
        math.isfinite(n) for n in (number(x), number(other)) if n is not None
    ):
        raise UnsupportedError("where between an infinite number and others, by a computed condition", "use finite numbers")
    result = parts[0] if len(parts) == 1 else low.emit("add", *parts)
    return result if result.type.shape == shape else low.emit("expand", result, shape=shape)


def select(low: Lowering, condition: Tensor, x: Any, other: Any) -> Value:
    """where(condition, x, other) with a constant condition: a product with 0 and 1, and the constants of the rest."""
    shape, dtype = low.shape(), torch.float32
    parts = []
    constant = torch.zeros(())
    for mask, branch in ((condition, x), (~condition, other)):
        level = _level(branch)
        if level is not None:
            constant = constant + torch.where(mask, level.to(dtype), torch.zeros(()))
        elif bool(mask.all()):
            parts.append(low.value(branch))
        elif bool(mask.any()):
            parts.append(low.emit("mul", branch, _thin(mask.to(dtype))))
    if not parts:
        return low.emit("expand", constant, shape=shape) if tuple(constant.shape) != shape else low.value(constant)
    result = parts[0] if len(parts) == 1 else low.emit("add", *parts)
    if bool(constant.any()):
        result = low.emit("add", result, _thin(constant))
    return result if result.type.shape == shape else low.emit("expand", result, shape=shape)


def _thin(t: Tensor) -> Tensor:
    """A constant with one element along every axis on which it does not depend."""
    for axis in range(t.ndim):
        first = t.narrow(axis, 0, 1)
        t = first if t.shape[axis] > 1 and torch.equal(first.expand(t.shape), t) else t
    return t.contiguous()


@imports("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(low: Lowering, x: Any, mask: Any, value: Any) -> Result:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.reshape(())
    return _where(low, mask, value, x)


@imports("index_put.default", "_unsafe_index_put.default")
def _index_put(low: Lowering, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Result:
    (mask,) = indices if len(indices) == 1 else (None,)
    boolean = isinstance(mask, Code) or (isinstance(mask, Tensor) and mask.dtype == torch.bool)
    if not boolean or accumulate or number(values) is None:
        raise UnsupportedError("elements assigned by index", "assign one number where a mask says so, or use slices")
    shape = low.shape()
    if isinstance(mask, Tensor) and mask.ndim < len(shape):
        mask = mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim))
    if isinstance(mask, Code) and mask.x.type.shape != shape:
        raise UnsupportedError("a computed mask of another shape than the tensor", "use torch.where")
    return _where(low, mask, values.reshape(-1)[0] if isinstance(values, Tensor) else values, x)


@imports("heaviside.default")
def _heaviside(low: Lowering, x: Any, values: Any) -> Result:
    at = _level(values)
    if at is None:
        raise UnsupportedError("a step whose value at 0 is computed", "use a constant")
    return Code(low.value(x), torch.tensor(0.0), at.reshape(()) if at.numel() == 1 else at, torch.tensor(1.0))


def _level(x: Any) -> Tensor | None:
    return x if isinstance(x, Tensor) else torch.tensor(x) if isinstance(x, (bool, int, float)) else None


def same(a: Value, b: Value, depth: int = 4) -> bool:
    """The two values are computed alike: the source may have computed one thing twice."""
    if a is b:
        return True
    p, q = a.producer, b.producer
    if p is None or q is None or depth == 0 or (p.kind, a.index) != (q.kind, b.index) or p.kind == "const" or p.attrs != q.attrs:
        return False
    return len(p.inputs) == len(q.inputs) and all(same(x, y, depth - 1) for x, y in zip(p.inputs, q.inputs, strict=True))


def often_zero(x: Value) -> bool:
    """The tensor is exactly 0 in many places, by construction: rounded, or clamped to 0. Codes of two levels have no zero."""
    op = x.producer
    while op is not None and op.kind in ("reshape", "permute", "expand", "slice", "neg"):
        op = op.inputs[0].producer
    return op is not None and (op.kind == "round" or (op.kind == "clamp" and 0 in (op.attrs["min"], op.attrs["max"])))


# -- arithmetic ---------------------------------------------------------------------------------------------------------------


def _scaled(low: Lowering, y: Any, alpha: Any) -> Any:
    return y if alpha == 1 else low.emit("mul", y, alpha)


@imports("add.Tensor", "add.Scalar")
def _add(low: Lowering, x: Any, other: Any, alpha: Any = 1) -> Result:
    return low.emit("add", x, _scaled(low, other, alpha))


@imports("sub.Tensor", "sub.Scalar")
def _sub(low: Lowering, x: Any, other: Any, alpha: Any = 1) -> Result:
    return low.emit("sub", x, _scaled(low, other, alpha))


@imports("rsub.Tensor", "rsub.Scalar")
def _rsub(low: Lowering, x: Any, other: Any, alpha: Any = 1) -> Result:
    return low.emit("sub", other, _scaled(low, x, alpha))


@imports("mul.Tensor", "mul.Scalar")
def _mul(low: Lowering, x: Any, other: Any) -> Result:
    return low.emit("mul", x, other)


@imports("div.Tensor", "div.Scalar")
def _div(low: Lowering, x: Any, other: Any) -> Result:
    return low.emit("div", x, other)


@imports("reciprocal.default")
def _reciprocal(low: Lowering, x: Any) -> Result:
    return low.emit("div", 1.0, x)


@imports("addcmul.default")
def _addcmul(low: Lowering, x: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> Result:
    return low.emit("add", x, low.emit("mul", _scaled(low, tensor1, value), tensor2))


@imports("neg.default")
def _neg(low: Lowering, x: Any) -> Result:
    return low.emit("neg", x)


@imports("square.default")
def _square(low: Lowering, x: Any) -> Result:
    return low.emit("mul", x, x)


@imports("pow.Tensor_Scalar")
def _pow(low: Lowering, x: Any, exponent: Any) -> Result:
    if exponent == 1:
        return x
    if abs(exponent) == 0.5:
        root = low.emit("sqrt", x)
        return root if exponent > 0 else low.emit("div", 1.0, root)
    if exponent == -1:
        return low.emit("div", 1.0, x)
    if exponent != 2:
        raise UnsupportedError(f"a power of {exponent}", "squares, square roots and reciprocals are supported")
    return low.emit("mul", x, x)


@imports("sign.default", "sgn.default")
def _sign(low: Lowering, x: Any) -> Result:
    return low.emit("sign", x)


@imports("tanh.default")
def _tanh(low: Lowering, x: Any) -> Result:
    return low.emit("tanh", x)


@imports("sqrt.default")
def _sqrt(low: Lowering, x: Any) -> Result:
    return low.emit("sqrt", x)


@imports("rsqrt.default")
def _rsqrt(low: Lowering, x: Any) -> Result:
    return low.emit("div", 1.0, low.emit("sqrt", x))


@imports("round.default")
def _round(low: Lowering, x: Any) -> Result:
    return low.emit("round", x)


# -- clamps and activations ---------------------------------------------------------------------------------------------------


@imports("clamp.default", "clamp.Tensor", "hardtanh.default")
def _clamp(low: Lowering, x: Any, min: Any = None, max: Any = None, min_val: Any = -1.0, max_val: Any = 1.0) -> Result:
    if low.node is not None and "hardtanh" in op_name(low.node.target):
        min, max = (min_val if min is None else min), (max_val if max is None else max)
    bounds = [None if b is None else number(b) for b in (min, max)]
    if any(n is None and b is not None for n, b in zip(bounds, (min, max), strict=True)):
        raise UnsupportedError("clamp to a bound that is not one constant number", "clamp to numbers")
    return low.emit("clamp", x, min=bounds[0], max=bounds[1])


@imports("clamp_min.default", "clamp_min.Tensor", "maximum.default")
def _clamp_min(low: Lowering, x: Any, other: Any = None, min: Any = None) -> Result:
    bound = other if min is None else min
    return _clamp(low, *((x, bound) if number(x) is None else (bound, x)))


@imports("clamp_max.default", "clamp_max.Tensor", "minimum.default")
def _clamp_max(low: Lowering, x: Any, other: Any = None, max: Any = None) -> Result:
    bound = other if max is None else max
    return _clamp(low, *((x, None, bound) if number(x) is None else (bound, None, x)))


@imports("relu.default")
def _relu(low: Lowering, x: Any) -> Result:
    return low.emit("clamp", x, min=0.0, max=None)


@imports("gelu.default")
def _gelu(low: Lowering, x: Any, approximate: str = "none") -> Result:
    if approximate != "none":
        raise UnsupportedError(f"GELU in its {approximate} approximation", "use nn.GELU(), the erf form")
    return low.emit("gelu", x)


@imports("relu6.default")
def _relu6(low: Lowering, x: Any) -> Result:
    return low.emit("clamp", x, min=0.0, max=6.0)


@imports("abs.default")
def _abs(low: Lowering, x: Any) -> Result:
    return prelu(low, low.value(x), torch.tensor(-1.0))


@imports("leaky_relu.default")
def _leaky_relu(low: Lowering, x: Any, negative_slope: Any = 0.01) -> Result:
    return prelu(low, low.value(x), torch.tensor(float(negative_slope)))


@imports("prelu.default")
def _prelu(low: Lowering, x: Any, weight: Any) -> Result:
    x = low.value(x)
    if not isinstance(weight, Tensor):
        raise UnsupportedError("a slope that is computed from the input", "use a constant slope")
    return low.emit("prelu", x, _flat(low, weight), axis=1 if weight.numel() > 1 else len(x.type.shape) - 1)


@imports("_prelu_kernel.default")
def _prelu_kernel(low: Lowering, x: Any, weight: Any) -> Result:
    return prelu(low, low.value(x), weight)


def prelu(low: Lowering, x: Value, slope: Tensor | Value) -> Value:
    """x > 0 ? x : slope * x with a constant slope that broadcasts against x and varies along one axis at most."""
    rank, shape = len(x.type.shape), tuple(slope.shape) if isinstance(slope, Tensor) else slope.type.shape
    axes = [i + rank - len(shape) for i, n in enumerate(shape) if n > 1]
    if len(axes) > 1 or len(shape) > rank:
        raise UnsupportedError(f"a slope of shape {list(shape)}", "use one slope a channel")
    return low.emit("prelu", x, _flat(low, slope), axis=axes[0] if axes else rank - 1)


def _flat(low: Lowering, slope: Tensor | Value) -> Value:
    """A constant slope as a vector."""
    value = low.value(slope)
    data = value.data
    assert data is not None
    return value if data.ndim == 1 else low.value(torch.from_numpy(np.array(data).reshape(-1)))


# -- dtypes and copies --------------------------------------------------------------------------------------------------------


@imports(
    "clone.default", "detach.default", "detach_.default", "alias.default", "contiguous.default", "lift_fresh.default",
    "lift_fresh_copy.default", "dropout.default", "feature_dropout.default", "alpha_dropout.default", "native_dropout.default",
)  # fmt: skip
def _identity(low: Lowering, x: Any, p: Any = 0.0, train: Any = False, **_: Any) -> Result:
    if train:
        raise UnsupportedError("the model was exported in training mode", "call model.eval() before the export")
    return x


@imports("to.dtype", "to.dtype_layout", "to.device", "to.other", "to.prim_Device", "_to_copy.default", "type_as.default")
def _to(low: Lowering, x: Any, *_: Any, **__: Any) -> Result:
    assert low.node is not None
    dtype = low.node.meta["val"].dtype
    if isinstance(x, Code):
        return Code(x.x, x.low.to(dtype), x.zero.to(dtype), x.high.to(dtype))
    if dtype != torch.float32:
        raise UnsupportedError(f"conversion to {str(dtype)[6:]}", "keep activations in float32: model.float(), no autocast")
    return x
