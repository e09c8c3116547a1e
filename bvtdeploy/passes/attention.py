"""attention: matmul, softmax, probability quantiser, matmul -> one integer op.

    s = (Q K^T) * scale + bias,   p = softmax(s),   a = quantiser(p),   o = a V

Codes with zero points.  Q = alpha_q (cq - zq) and so on, one scale and zero point a head. Then s = alpha_q alpha_k scale S with
    the integer S = (cq - zq).(ck - zk). A term that all keys of a row share cancels in the softmax: cq.ck - zq * sum(ck) is left.
Scores are integers in a small range, so exp is a table over m = (row's largest S) - S, and a constant bias (relative positions,
    a shift mask) is one more factor exp(bias): p_j = w_j / Z, w_j = table[m_j] * exp(bias_j), Z = sum w_j.
Quantisers are sums of steps of p (`_Steps`): sign, and round between bounds, of an affine function of p and of the row's largest
    p, scaled and added. [A p + B max(p) + C > 0] with A > 0 is p > -C/A (against Z) or p > -B/A * max(p) (against the largest w);
    with A < 0 it is 1 - [p >= ...]. round is half to even: the step from k to k + 1 is at k + 1/2, exclusive for even k, inclusive
    for odd. So {0, clip} codes are one step, 2-bit codes three, BiViT's softmax-aware {0, 1} one step against the row maximum, and
    GSB's four levels three steps with real weights.
A levels that are integers times one number a head give an integer product; that number and V's scale go behind it.

The table holds round(2^b * exp(-scale * u * m)), u = 2 where both codes are +-1 (S has one parity) else 1, b at most 40: that
moves p by less than 2^-b * keys / Z, below the error of an fp32 softmax.

Where a score scale is negative the queries are turned: the signs of -x. Scores that a constant mask replaces by numbers far
below all others are a bias of -inf. Layout ops between the products move in front of them, and V' P' is (P V)', so that it does
not matter on which side the author transposed.

Legality: Q, K, V are codes with scalar or per-head constants; the score scale is not 0; the softmax is over the keys; the
intermediate values have no reader outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import BIPOLAR, TERNARY, Type
from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.attention import MOST_RESULT, largest_result
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report
from bvtdeploy.passes.binarise import codes_of
from bvtdeploy.passes.lattice import LAYOUT, can_be_zero, relayout

TABLE_BITS = 40
F64 = npt.NDArray[np.float64]


def softmax_table(last: int, scale: float, keys: int, unit: int = 2) -> npt.NDArray[np.uint64]:
    """u64[1, last+1]: round(2^b * exp(-scale*unit*m)), b as large as keys * 2^b < 2^53 allows, at most 40."""
    b = min(TABLE_BITS, 52 - max(keys, 1).bit_length())
    exponentials = np.exp(-unit * scale * np.arange(last + 1, dtype=np.float64)).reshape(1, -1)
    return np.asarray(np.rint(np.ldexp(exponentials, b)), np.uint64)


class _NoMatch(Exception):
    """Not this pattern; the text is empty where nothing was recognised at all."""


def _fit(c: npt.NDArray[Any], rank: int) -> F64:
    """A constant with as many axes as the value that it meets."""
    return np.asarray(c, np.float64).reshape([1] * (rank - c.ndim) + list(c.shape))


def _per_head(array: F64, value: Value, what: str) -> F64:
    """One number a head of a constant that broadcasts to a value [.., h, rows, columns]."""
    shape = value.type.shape
    full = np.broadcast_to(array, shape)
    heads = shape[-3] if len(shape) >= 3 else 1
    flat = full.reshape(-1, heads, shape[-2] * shape[-1])
    if not bool((flat == flat[:1, :, :1]).all()):
        raise _NoMatch(f"{what} is not one number a head")
    return np.array(flat[0, :, 0])


@dataclass
class _Codes:
    """alpha[h] * (codes - zero[h])."""

    codes: Value
    alpha: F64
    zero: npt.NDArray[np.int64]


def _codes(graph: Graph, value: Value, memo: dict[Value, Value | None], report: Report, transposed: bool = False) -> _Codes | None:
    """Splits an operand into its codes and what scales and shifts them."""
    chain: list[Op] = []
    inner = value
    while (op := inner.producer) is not None and op.kind != "sign":
        constant = op.kind in ("mul", "add") and op.inputs[1].data is not None and op.out.type.shape == op.inputs[0].type.shape
        if not constant and op.kind not in LAYOUT:
            return None
        chain.append(op)
        inner = op.inputs[0]
    if inner.producer is None:
        return None
    rank = len(inner.type.shape)
    alpha, shift = np.ones([1] * rank), np.zeros([1] * rank)
    codes = codes_of(graph, inner, memo, report)
    assert codes is not None
    for op in reversed(chain):
        if op.kind in LAYOUT:
            codes = graph.append(op.kind, [codes], dict(op.attrs), module=op.module, before=op)
            alpha, shift = relayout(op, alpha), relayout(op, shift)
        else:
            assert op.inputs[1].data is not None
            c = _fit(op.inputs[1].data, len(op.out.type.shape))
            alpha, shift = (alpha, shift + c) if op.kind == "add" else (alpha * c, shift * c)
    scale, offset = _per_head(alpha, value, "the scale of the codes"), _per_head(shift, value, "the zero point of the codes")
    if not scale.all():
        raise _NoMatch("the scale of the codes is 0")
    zero = np.rint(-offset / scale)
    if not np.allclose(zero * scale, -offset, rtol=1e-5, atol=1e-12):
        raise _NoMatch("the zero point of the codes is no integer")
    return _Codes(codes, scale, zero.astype(np.int64))


@dataclass
class _Affine:
    """a * p + b * (largest p of the row) + c."""

    a: F64
    b: F64
    c: F64
    softmax: Op | None


@dataclass
class _Step:
    """height * [p > limit * reference] (>= where inclusive); reference "sum": 1, "max": the row's largest p."""

    height: F64
    limit: F64
    reference: str
    inclusive: bool


@dataclass
class _Steps:
    """base + the sum of steps; constants broadcast against the probabilities."""

    base: F64
    steps: list[_Step] = field(default_factory=list)
    softmax: Op | None = None


def _affine(value: Value) -> _Affine | None:
    """A value as an affine function of a softmax and of its row maximum."""
    op, rank = value.producer, len(value.type.shape)
    none = np.zeros([1] * rank)
    if op is None:
        return None
    if op.kind == "softmax":
        return _Affine(none + 1, none, none, op)
    if op.kind == "reduce_max":
        inner = _affine(op.inputs[0])
        last = len(op.inputs[0].type.shape) - 1
        if inner is None or inner.b.any() or tuple(op.attrs["axes"]) != (last,) or not bool((inner.a > 0).all()):
            return None

        def kept(c: F64) -> F64:
            return c if op.attrs["keepdim"] or c.shape[-1] != 1 else c[..., 0]

        return _Affine(none, kept(inner.a), kept(inner.c), inner.softmax)
    if op.kind in ("reshape", "expand"):
        inner = _affine(op.inputs[0])
        if inner is None or inner.a.any() or len(value.type.shape) != len(op.inputs[0].type.shape) + (op.kind == "reshape"):
            return None  # only a row maximum may be given its last axis back
        if op.kind == "expand":
            return inner
        if value.type.shape != (*op.inputs[0].type.shape, 1):
            return None
        return _Affine(none, inner.b[..., None], inner.c[..., None], inner.softmax)
    if op.kind in ("mul", "div", "add", "sub"):
        left, right = _affine(op.inputs[0]), _affine(op.inputs[1])
        if op.kind in ("mul", "div"):
            if left is None or op.inputs[1].data is None:
                return None
            c = _fit(op.inputs[1].data, rank)
            if op.kind == "div":
                if not c.all():
                    raise _NoMatch("the probability step is 0: it must be positive")
                c = 1.0 / c
            return _Affine(left.a * c, left.b * c, left.c * c, left.softmax)
        sign = 1.0 if op.kind == "add" else -1.0
        if left is not None and op.inputs[1].data is not None:
            return _Affine(left.a, left.b, left.c + sign * _fit(op.inputs[1].data, rank), left.softmax)
        if left is not None and right is not None and left.softmax is right.softmax:
            return _Affine(left.a + sign * right.a, left.b + sign * right.b, left.c + sign * right.c, left.softmax)
    return None


def _step(y: _Affine, at: float, inclusive: bool) -> tuple[_Step, float]:
    """(step, added base) of [y > at] (>= where inclusive)."""
    if not y.a.all() or not (bool((y.a > 0).all()) or bool((y.a < 0).all())):
        raise _NoMatch("the probability step is 0, or changes its sign between heads")
    c = y.c - at
    if y.b.any() and np.any(np.abs(c) > 1e-12 * np.abs(y.a)):
        raise _NoMatch("the probability threshold depends on the row maximum and on a constant")
    limit, reference = (-y.b / y.a, "max") if y.b.any() else (-c / y.a, "sum")
    if bool((y.a > 0).all()):
        return _Step(np.ones_like(y.a), limit, reference, inclusive), 0.0
    return _Step(-np.ones_like(y.a), limit, reference, not inclusive), 1.0


def _rounded(op: Op) -> tuple[_Affine, int, int] | None:
    """(y, low, high) of a quantiser that is y rounded and kept within integers: clamp(round(y)), round(clamp(y)), and
    round(clamp(x) * c + d), the same of y = x * c + d between the bounds of x moved along. None of anything else."""
    inner, rank = op.inputs[0].producer, len(op.out.type.shape)
    gain, offset = np.ones([1] * rank), np.zeros([1] * rank)
    while op.kind == "round" and inner is not None and inner.kind in ("mul", "div", "add", "sub"):
        if inner.inputs[1].data is None:
            return None
        c = _fit(inner.inputs[1].data, rank)
        if inner.kind == "div" and not c.all():
            raise _NoMatch("the probability step is 0: it must be positive")
        if inner.kind in ("mul", "div"):
            gain = gain * c if inner.kind == "mul" else gain / c
        else:
            offset = offset + gain * c if inner.kind == "add" else offset - gain * c
        inner = inner.inputs[0].producer
    if inner is None or inner.kind != ("round" if op.kind == "clamp" else "clamp"):
        return None
    x = _affine(inner.inputs[0])
    if x is None or not x.a.any():
        return None
    clamp = op if op.kind == "clamp" else inner
    bounds = [np.nan if clamp.attrs[name] is None else gain * clamp.attrs[name] + offset for name in ("min", "max")]
    low, high = (float(np.rint(np.mean(bound))) for bound in bounds)
    same = all(np.allclose(bound, level, rtol=0, atol=1e-6) for bound, level in zip(bounds, (low, high), strict=True))
    if not same or not (gain > 0).all() or not 1 <= high - low <= 3:
        said = "..".join("none" if np.isnan(bound).any() else str(float(np.mean(bound))) for bound in bounds)
        raise _NoMatch(f"the probabilities are clamped to {said}: two to four integer levels are supported")
    return _Affine(x.a * gain, x.b * gain, x.c * gain + offset, x.softmax), int(low), int(high)


def _steps(value: Value) -> _Steps | None:
    """A value as a step function of a softmax; None of anything else."""
    op, rank = value.producer, len(value.type.shape)
    if op is None:
        return None
    none = np.zeros([1] * rank)
    if op.kind == "sign":
        y = _affine(op.inputs[0])
        if y is None or not y.a.any():
            return None
        step, base = _step(y, 0.0, op.attrs.get("zero", 0) >= 0)
        step.height = 2 * step.height
        return _Steps(none + 2 * base - 1, [step], y.softmax)
    if op.kind in ("clamp", "round"):
        found = _rounded(op)
        if found is None:
            return None
        y, low, high = found
        out = _Steps(none + low, [], y.softmax)
        for k in range(low, high):
            step, base = _step(y, k + 0.5, k % 2 != 0)
            out.steps.append(step)
            out.base = out.base + base
        return out
    if op.kind in ("mul", "div", "add", "sub"):
        left = _steps(op.inputs[0])
        if left is None:
            return None
        if op.inputs[1].data is not None:
            c = _fit(op.inputs[1].data, rank)
            if op.kind == "div" and not c.all():
                raise _NoMatch("the probabilities are divided by 0")
            if op.kind in ("mul", "div"):
                c = c if op.kind == "mul" else 1.0 / c
                scaled = [_Step(s.height * c, s.limit, s.reference, s.inclusive) for s in left.steps]
                return _Steps(left.base * c, scaled, left.softmax)
            return _Steps(left.base + (c if op.kind == "add" else -c), left.steps, left.softmax)
        right = _steps(op.inputs[1]) if op.kind in ("add", "sub") else None
        if right is None or right.softmax is not left.softmax:
            return None
        sign = 1.0 if op.kind == "add" else -1.0
        steps = [*left.steps, *(_Step(sign * s.height, s.limit, s.reference, s.inclusive) for s in right.steps)]
        return _Steps(left.base + sign * right.base, _collect(steps), left.softmax)
    return None


def _collect(steps: list[_Step]) -> list[_Step]:
    """Equal steps added up, vanished ones dropped."""
    out: list[_Step] = []
    for step in steps:
        for known in out:
            if (known.reference, known.inclusive) == (step.reference, step.inclusive) and np.array_equal(known.limit, step.limit):
                known.height = known.height + step.height
                break
        else:
            out.append(_Step(step.height, step.limit, step.reference, step.inclusive))
    return [s for s in out if s.height.any()]


@dataclass
class _Scores:
    """scale * product + bias where `kept` (everywhere if it is None), and `bias` alone elsewhere."""

    product: Op
    scale: F64
    bias: F64
    kept: npt.NDArray[np.bool_] | None = None


def _scores(value: Value) -> _Scores:
    """What the softmax reads. Raises _NoMatch where it is no scaled, biased product."""
    op = value.producer
    if op is None:
        raise _NoMatch("the scores are no product of queries and keys")
    rank = len(value.type.shape)
    if op.kind == "matmul":
        return _Scores(op, np.ones([1] * rank), np.zeros([1] * rank))
    if op.kind in ("mul", "div", "add") and op.inputs[1].data is not None and op.out.type.shape == op.inputs[0].type.shape:
        inner, c = _scores(op.inputs[0]), _fit(op.inputs[1].data, rank)
        if op.kind == "add":
            return _Scores(inner.product, inner.scale, inner.bias + c, inner.kept)
        if op.kind == "mul" and c.any() and not c.all() and np.isin(c, (0.0, 1.0)).all() and inner.kept is None:
            return _Scores(inner.product, inner.scale, inner.bias * c, c != 0)
        if not c.all():
            raise _NoMatch("the score scale is not finite or 0")
        c = c if op.kind == "mul" else 1.0 / c
        return _Scores(inner.product, inner.scale * c, inner.bias * c, inner.kept)
    if op.kind == "reshape":
        inner = _scores(op.inputs[0])
        kept = None if inner.kept is None else relayout(op, inner.kept)
        return _Scores(inner.product, relayout(op, inner.scale), relayout(op, inner.bias), kept)
    arithmetic = op.kind in ("mul", "div", "add")
    raise _NoMatch("the score scale is not a constant" if arithmetic else "the scores are no product of codes")


def _masked(scores: _Scores, shape: tuple[int, ...], largest: float) -> F64:
    """The bias with the score of what is masked out: -inf, where the exponential vanishes beside every other of the row.

    Args:
        scores: what the softmax reads.
        shape: of the scores.
        largest: bound of |scale * product|.
    """
    if scores.kept is None:
        return scores.bias
    kept = np.broadcast_to(scores.kept, shape)
    bias = np.broadcast_to(scores.bias, shape)
    if not bool(kept.any(axis=-1).all()):
        raise _NoMatch("a mask hides every key of a query")
    least = np.where(kept, bias, np.inf).min(axis=-1, keepdims=True) - largest
    if not bool((kept | (bias < least - TABLE_BITS)).all()):
        raise _NoMatch("a mask fills in scores that are not far below the others")
    return np.where(kept, bias, -np.inf)


# -- spellings: layout ops between the products, products of transposes ---------------------------------------------------------

_POINTWISE = ("add", "sub", "mul", "div", "round", "clamp", "sign", "neg")


def _rows_kept(op: Op) -> bool:
    """A layout op that leaves the matrices of the last two axes whole, or transposes them."""
    old, new = op.inputs[0].type.shape, op.out.type.shape
    if op.kind == "reshape":
        return len(old) > 2 and len(new) > 2 and old[-2:] == new[-2:]
    return op.kind == "permute" and len(old) > 2 and set(op.attrs["perm"][-2:]) == {len(old) - 2, len(old) - 1}


def _applied(graph: Graph, layout: Op, value: Value, before: Op) -> Value | None:
    """The layout op on a value, moved in front of what computes it; None where it cannot be moved."""
    op = value.producer
    attrs = dict(layout.attrs)
    rank, shape = len(layout.inputs[0].type.shape), layout.inputs[0].type.shape
    if op is None:
        return None

    def emit(kind: str, inputs: list[Value], attributes: dict[str, Any]) -> Value:
        return graph.append(kind, inputs, attributes, module=op.module, before=before)

    def shaped(x: Value) -> Value:
        """The layout on leading axes, of an operand whose matrices have another size."""
        if layout.kind == "permute":
            lead = [p for p in attrs["perm"] if p < rank - 2]
            return emit("permute", [x], {"perm": (*lead, rank - 2, rank - 1)})
        return emit("reshape", [x], {"shape": (*attrs["shape"][:-2], *x.type.shape[-2:])})

    swaps = layout.kind == "permute" and tuple(attrs["perm"][-2:]) == (rank - 1, rank - 2)
    if len(value.type.shape) != rank:
        return None
    if op.kind == "matmul":
        sides = [shaped(x) for x in op.inputs]
        if swaps:
            turn = {"perm": (*range(rank - 2), rank - 1, rank - 2)}
            sides = [emit("permute", [x], turn) for x in reversed(sides)]
        return emit("matmul", sides, {})
    if op.kind == "softmax":
        axis = op.attrs["axis"] % rank
        inner = _applied(graph, layout, op.inputs[0], before)
        if inner is None or axis < rank - 2:
            return None
        last = len(inner.type.shape) - 1
        return emit("softmax", [inner], {"axis": last - ((rank - 1 - axis) ^ swaps)})
    if op.kind == "reduce_max" and not swaps and op.attrs["keepdim"] and tuple(op.attrs["axes"]) == (rank - 1,):
        inner = _applied(graph, layout, op.inputs[0], before)
        return inner and emit("reduce_max", [inner], {"axes": (len(inner.type.shape) - 1,), "keepdim": True})
    if op.kind in _POINTWISE:
        sides = []
        for x in op.inputs:
            if x.data is not None:
                full = np.broadcast_to(x.data, shape) if x.data.size > 1 else None
                moved = x if full is None else graph.constant(REGISTRY[layout.kind].reference(attrs, [full])[0], before=before)
                sides.append(moved)
                continue
            inner = _applied(graph, layout, x, before)
            if inner is None:
                return None
            sides.append(inner)
        return emit(op.kind, sides, dict(op.attrs))
    if op.kind in ("permute", "reshape") and _rows_kept(op):
        inner = _applied(graph, op, op.inputs[0], before)
        return None if inner is None else _applied(graph, layout, inner, before)
    return None


def _merge(graph: Graph, value: Value) -> Value:
    """The chain of reshapes and permutes that ends in a value as one permute and one reshape, where that says the same: an einsum
    is exported with axes of one element that come and go."""
    chain, at = [], value
    while (op := at.producer) is not None and op.kind in ("reshape", "permute"):
        chain.append(op)
        at = op.inputs[0]
    if len(chain) < 2:
        return value
    shape, target = at.type.shape, value.type.shape
    wide = [i for i, n in enumerate(shape) if n > 1]
    if len(wide) > 5:
        return value
    index = np.arange(at.type.size, dtype=np.int32).reshape(shape)
    moved = index
    for op in reversed(chain):
        moved = REGISTRY[op.kind].reference(op.attrs, [moved])[0]
    for order in permutations(wide):
        taken = iter(order)
        perm = tuple(next(taken) if n > 1 else i for i, n in enumerate(shape))
        turned = index.transpose(perm)
        if np.array_equal(turned.reshape(-1), moved.reshape(-1)):
            op, result = chain[0], at
            if order != tuple(wide):
                result = graph.append("permute", [result], {"perm": perm}, module=op.module, before=op)
            if result.type.shape != target:
                result = graph.append("reshape", [result], {"shape": target}, module=op.module, before=op)
            if len(chain) > (order != tuple(wide)) + (turned.shape != target):
                graph.supersede(value, result)
                return result
            return value
    return value


def _merge_above(graph: Graph, value: Value) -> None:
    """`_merge` wherever it applies from a value up to the next product."""
    while (op := _merge(graph, value).producer) is not None and op.kind in (*_POINTWISE, "permute", "reshape", "softmax"):
        value = op.inputs[0] if op.inputs[0].data is None else op.inputs[-1]


def _probabilities(value: Value) -> bool:
    """A softmax stands behind the value, seen through pointwise ops and layouts."""
    while (op := value.producer) is not None and (op.kind in _POINTWISE or op.kind in ("permute", "reshape")):
        value = op.inputs[0] if op.inputs[0].data is None else op.inputs[-1]
    return op is not None and op.kind == "softmax"


def _normal(graph: Graph, context: Op) -> Op:
    """The same product with the probabilities first and no layout op between the softmax and it, as far as that can be had."""
    rank = len(context.out.type.shape)
    if rank < 3:
        return context
    turn = {"perm": (*range(rank - 2), rank - 1, rank - 2)}
    for side in (0, 1):
        if _probabilities(context.inputs[side]):
            _merge_above(graph, context.inputs[side])
    if _probabilities(context.inputs[1]) and not _probabilities(context.inputs[0]):  # (P V)' = V' P'
        sides = [graph.append("permute", [x], turn, module=context.module, before=context) for x in reversed(context.inputs)]
        product = graph.append("matmul", sides, module=context.module, before=context)
        back = graph.append("permute", [product], turn, module=context.module, before=context)
        graph.supersede(context.out, back)
        assert product.producer is not None
        context = product.producer
    chain, at = [], context.inputs[0]
    while (op := at.producer) is not None and (op.kind in _POINTWISE or op.kind in ("permute", "reshape")):
        chain.append(op)
        at = op.inputs[0] if op.inputs[0].data is None else op.inputs[-1]
    if op is None or op.kind != "softmax":
        return context
    for layout in chain:  # the last one first: what stands in front of it is moved along
        if layout.kind in ("permute", "reshape") and _rows_kept(layout):
            moved = _applied(graph, layout, layout.inputs[0], layout)
            if moved is not None:
                graph.supersede(layout.out, moved)
                return _normal(graph, context)
    return context


def _levels(steps: _Steps, value: Value) -> tuple[F64, npt.NDArray[np.int32] | None, F64]:
    """(unit[h], integer base and heights [1+P, h] or None, real heights [P, h]) of a step function, normalised a head."""
    base = _per_head(steps.base, value, "the probability level")
    heights = np.stack([_per_head(s.height, value, "the probability level") for s in steps.steps])
    levels = np.concatenate([base[None], heights])
    unit = np.where(heights[0] == 0, 1.0, np.abs(heights[0]))
    for divisor in (1, 2, 3, 4):
        ratio = levels / (unit / divisor)
        if np.allclose(ratio, np.rint(ratio), rtol=0, atol=1e-5) and np.abs(ratio).max() < 1 << 10:
            return unit / divisor, np.rint(ratio).astype(np.int32), heights
    return np.ones(heights.shape[1]), None, heights


def _only_inside(op: Op, context: Op, graph: Graph) -> bool:
    """Nothing outside of this attention reads the result of `op` or what is computed from it."""
    waiting, seen = [op], set()
    while waiting:
        at = waiting.pop()
        if at in seen or at is context:
            continue
        seen.add(at)
        if any(v in graph.outputs for v in at.outputs) or len(seen) > 200:
            return False
        waiting += [user for v in at.outputs for user in v.users]
        if at.kind in ("linear", "conv2d", "batch_norm", "layer_norm"):
            return False
    return True


def _bias(bias: F64, shape: tuple[int, ...]) -> tuple[F64, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """A bias [windows, h, N, M] as (factors f64[U, h], pattern i32[K*N, M], class of each window i32[1, W])."""
    windows, heads, n, m = shape
    full = np.ascontiguousarray(np.broadcast_to(bias, shape))
    unique, of_window = np.unique(full.reshape(windows, -1), axis=0, return_inverse=True)
    columns = unique.reshape(-1, heads, n * m).transpose(0, 2, 1).reshape(-1, heads)
    values, pattern = np.unique(columns, axis=0, return_inverse=True)
    with np.errstate(under="ignore"):
        factors = np.exp(values)
    return factors, pattern.reshape(-1, m).astype(np.int32), of_window.reshape(1, -1).astype(np.int32)


def _turned(graph: Graph, value: Value, q: _Codes, scale: F64, before: Op) -> _Codes:
    """The query codes with the other sign in the heads whose score scale is negative: the signs of -x."""
    chain: list[Op] = []
    inner = value
    while (op := inner.producer) is not None and op.kind != "sign":
        chain += [op] if op.kind in LAYOUT else []
        inner = op.inputs[0]
    assert op is not None and q.codes.producer is not None
    x = op.inputs[0]
    zero = q.codes.type.alphabet == BIPOLAR and can_be_zero(x)  # -0 is a +1 too: turn codes that are no longer 0
    if zero:
        plain = graph.append("sign", [x], module=op.module, before=before)
        x = graph.append("add", [plain, graph.constant(np.array(0.5, np.float32), before=before)], module=op.module, before=before)
    for layout in reversed(chain):
        x = graph.append(layout.kind, [x], dict(layout.attrs), module=layout.module, before=before)
    side = np.sign(scale).astype(np.float32)
    factor = side[:1].reshape(()) if bool((side == side[0]).all()) else side.reshape(-1, 1, 1)
    x = graph.append("mul", [x, graph.constant(factor, before=before)], module=op.module, before=before)
    attrs = {"ternary": True} if q.codes.type.alphabet == TERNARY else {}
    codes = graph.append("binarise", [x], attrs, module=op.module, before=before)
    return _Codes(codes, q.alpha, (q.zero * side).astype(np.int64))


def _match(graph: Graph, context: Op, report: Report, memo: dict[Value, Value | None]) -> None:
    steps = _steps(context.inputs[0])
    if steps is None or steps.softmax is None:
        unknown = "the probabilities of a softmax are no step function of two to four levels that is known"
        raise _NoMatch(unknown if _probabilities(context.inputs[0]) else "")
    softmax = steps.softmax
    # From here on it is an attention; what does not fit is reported.
    rank = len(softmax.out.type.shape)
    if softmax.attrs["axis"] % rank != rank - 1:
        raise _NoMatch("the softmax is not over the keys")
    scores = _scores(softmax.inputs[0])
    if not 1 <= len(steps.steps) <= 3:
        raise _NoMatch(f"the probabilities take {len(steps.steps) + 1} levels; two to four are supported")
    for step in steps.steps:
        if not bool((step.limit > 0).all()) or not np.isfinite(step.limit).all():
            raise _NoMatch(f"the probability threshold is {float(step.limit.min()):g}: the step of the quantiser must be positive")
    q = _codes(graph, scores.product.inputs[0], memo, report)
    kt = _codes(graph, scores.product.inputs[1], memo, report)
    v = _codes(graph, context.inputs[1], memo, report)
    if q is None or kt is None or v is None:
        names = [name for name, value in (("query", q), ("key", kt), ("value", v)) if value is None]
        raise _NoMatch(f"{' and '.join(names)} codes are not binary")
    if rank not in (3, 4):
        raise _NoMatch(f"scores of rank {rank}; expected batch, head, query, key")
    if not _only_inside(softmax, context, graph):
        raise _NoMatch("an intermediate of the attention is also read elsewhere")
    scale = _per_head(scores.scale, scores.product.out, "the score scale") * q.alpha * kt.alpha
    if not scale.all() or not np.isfinite(scale).all():
        raise _NoMatch(f"the score scale is {float(scale.min()):g}: it must not be 0")
    if bool((scale < 0).any()):
        q = _turned(graph, scores.product.inputs[0], q, scale, context)
        scale = np.abs(scale)

    def emit(kind: str, inputs: list[Value], **attrs: Any) -> Value:
        return graph.append(kind, inputs, attrs, module=context.module, before=context)

    codes = [q.codes, kt.codes, v.codes]
    if rank == 3:  # batch and heads as one axis, or a single head without an axis of its own
        codes = [emit("reshape", [value], shape=(1, *value.type.shape)) for value in codes]
    qc, ktc, vc = codes
    kc = emit("permute", [ktc], perm=(0, 1, 3, 2))
    windows, heads, n, d = qc.type.shape
    keys = kc.type.shape[2]

    def spread(a: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return a if a.size == heads else np.resize(a, heads)

    unit = 2 if qc.type.alphabet == kc.type.alphabet == BIPOLAR else 1
    zq, zv, scale = spread(q.zero), spread(v.zero), spread(scale)
    last = 2 * d * (1 + int(np.abs(zq).max())) // unit
    tables = [softmax_table(last, float(s), keys, unit) for s in scale]
    table = tables[0] if bool((scale == scale[0]).all()) else np.concatenate(tables)
    gain, ints, heights = _levels(steps, context.inputs[0])
    limits = np.stack([spread(_per_head(s.limit, context.inputs[0], "the probability threshold")) for s in steps.steps])
    planes = len(steps.steps)

    def constant(array: npt.NDArray[Any]) -> Value:
        elem = {"uint64": "u64", "float64": "f64", "int32": "i32", "float32": "f32"}[str(array.dtype)]
        return graph.constant(array, before=context, type=Type(elem, array.shape))

    at: dict[str, Value] = {"q": qc, "k": kc, "v": vc, "table": constant(table), "limit": constant(limits)}
    plain = planes == 1 and ints is not None and not ints[0].any() and bool((ints[1] == 1).all()) and not zq.any() and not zv.any()
    if ints is None:
        if np.abs(_per_head(steps.base, context.inputs[0], "the probability level")).max() > 1e-9 or zv.any():
            raise _NoMatch("real probability levels must start at 0 and need values without a zero point")
        at["real_steps"] = constant(np.stack([spread(h) for h in heights]).astype(np.float32))
    if zq.any() or (ints is not None and not plain):
        parts = [zq, zv, *([] if ints is None else [spread(r) for r in ints])]
        if ints is None:
            parts += [np.zeros(heads)] * (1 + planes)
        at["ints"] = constant(np.stack(parts).astype(np.int32))
    if ints is not None and (most := largest_result(keys, planes, at["ints"].data if "ints" in at else None)) > MOST_RESULT:
        raise _NoMatch(f"its integers reach {most}, and beyond {MOST_RESULT} not every one is a float")
    largest = float((np.abs(scale) * last * unit).max())
    bias = _masked(scores, softmax.out.type.shape, largest)
    if bias.any():
        full = np.broadcast_to(bias, softmax.out.type.shape)
        factors, pattern, of_window = _bias(full.reshape(windows, heads, n, keys), (windows, heads, n, keys))
        at |= {"bias": constant(factors), "pattern": constant(pattern), "window_class": constant(of_window)}
    attrs: dict[str, Any] = {}
    if len(at) > 5 or unit != 2 or planes > 1 or steps.steps[0].reference != "sum" or steps.steps[0].inclusive:
        attrs = {
            "roles": tuple(at),
            "planes": planes,
            "unit": unit,
            "references": tuple(s.reference for s in steps.steps),
            "inclusive": tuple(s.inclusive for s in steps.steps),
        }
    factor = (spread(gain) * spread(v.alpha)).astype(np.float32).reshape(1, -1, 1, 1)
    factor = factor[0, 0, 0, 0].reshape(()) if bool((factor == factor[0, 0, 0, 0]).all()) else factor
    result = graph.append("binary_attention", list(at.values()), attrs, module=context.module, before=context)
    result = emit("mul", [result, graph.constant(factor, before=context)])  # also by 1: it makes the integers f32
    if result.type.shape != context.out.type.shape:
        result = emit("reshape", [result], shape=context.out.type.shape)
    graph.supersede(context.out, result)


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites every attention whose operands are codes."""
    memo: dict[Value, Value | None] = {}
    for op in graph.of_kind("matmul"):
        try:
            op = _normal(graph, op)
            _match(graph, op, report, memo)
            report.fused["attention"] += 1
        except _NoMatch as reason:
            if str(reason):
                report.decline(op, str(reason))
    graph.drop_dead()
    for op in graph.of_kind("sign"):
        _settle(graph, op)
    return graph


def _settle(graph: Graph, op: Op) -> None:
    """A sign that is still read as numbers, says something else of 0 than torch's, and meets zeros: sign(sign(x) +- 1/2)."""
    zero = op.attrs.get("zero", 0)
    if not zero or not any(user.kind != "binarise" for user in op.out.users) or not can_be_zero(op.inputs[0]):
        return
    plain = graph.append("sign", [op.inputs[0]], module=op.module, before=op)
    half = graph.constant(np.array(0.5 * zero, np.float32), before=op)
    moved = graph.append("add", [plain, half], module=op.module, before=op)
    graph.supersede(op.out, graph.append("sign", [moved], module=op.module, before=op))


PASS = Pass("attention", "softmax attention of codes becomes one op with a table and an integer threshold a row", REASSOCIATES, run)
