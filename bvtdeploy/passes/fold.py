"""fold: source spellings to one normal form.

    batch_norm(x)  = x * A + B,  A = gamma / sqrt(var + eps),  B = beta - mean * A     (fp64, narrowed once: FINN's bug class)
    x - c          = x + (-c)                  exact
    c - x          = x * (-1) + c              exact; a - b of two results likewise
    x / c          = x * (1/c)                 exact for powers of two, else within one rounding; left alone in front of a
                                               quantiser (softmax / clip), where the attention pass wants to see the clip
    -x             = x * (-1)                  exact
    clamp(clamp(x)) = clamp(x)                 between the inner bounds, clamped to the outer ones (the way in which torch's ONNX
                                               exporter writes a clamp to 0 .. 1): exact
    max(x, 0)      = prelu(x, slope 0)         exact for finite x, but for the sign of a zero, which no later op can tell
    sign(clamp(x)) = sign(x)                   where the bounds have 0 strictly between them: exact
    sign(gelu(x))  = sign(x)                   x * Phi(x) has the sign of x. (An fp32 gelu is flushed to -0 below x = -5.5, where
                                               its sign reads 0 instead of -1: the ideal function is what we compile.)
    sign(tanh(x))  = sign(x)                   exact
    sign(prelu(x)) = sign(x)                   slope > 0: exact but for underflow
    sign(x * c)    = sign(x)                   c > 0 everywhere: exact but for underflow
    sign(relu(x))  = [x > 0], sign(clamp(x, ..0)) = [x >= 0] - 1, sign(round(x)) = [x > 1/2] + [x >= -1/2] - 1: codes of two levels
                     (the last: two of them), scaled and shifted; half to even rounds +-1/2 to 0. Exact.
    [x > 0]        = 1 - [-x >= 0]             where 0 is an ordinary value (passes/lattice.py) and codes of 0 are +1: exact
    a relu(x) + b relu(-x)   = a prelu(x, slope -b/a)          up to a rounding; also by clamps
    (x - mean(x)) / sqrt(mean((x - mean(x))^2) * f + eps)      = layer_norm(x, eps / f) / sqrt(f): within fp32 rounding
    x / sqrt(mean(x^2) * f + eps)              = half of the layer norm of x beside -x, whose mean is 0 and whose variance is
                                                 mean(x^2)

Equal ops on equal operands become one (tracing repeats a softmax for every reader).

Legality: c, gamma ... are constants. A division by a constant that holds a zero is declined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, scalar
from bvtdeploy.passes.lattice import can_be_zero


def _batch_norm(graph: Graph, op: Op) -> bool:
    x, *parameters = op.inputs
    arrays = [p.data for p in parameters]
    if any(a is None for a in arrays):
        return False
    gamma, beta, mean, var = (np.asarray(a, np.float64) for a in arrays)
    scale = gamma / np.sqrt(var + op.attrs["eps"])
    shift = beta - mean * scale
    shape = [-1 if i == op.attrs["axis"] else 1 for i in range(len(x.type.shape))]
    a = graph.constant(scale.astype(np.float32).reshape(shape), before=op)
    b = graph.constant(shift.astype(np.float32).reshape(shape), before=op)
    scaled = graph.append("mul", [x, a], module=op.module, before=op)
    graph.supersede(op.out, graph.append("add", [scaled, b], module=op.module, before=op))
    return True


def _number(graph: Graph, value: float, before: Op) -> Value:
    return graph.constant(np.array(value, np.float32), before=before)


def _times(graph: Graph, x: Value, c: float, op: Op) -> Value:
    return graph.append("mul", [x, _number(graph, c, op)], module=op.module, before=op)


def _plus(graph: Graph, x: Value, c: float, op: Op) -> Value:
    return graph.append("add", [x, _number(graph, c, op)], module=op.module, before=op)


def _sub(graph: Graph, op: Op) -> bool:
    x, c = op.inputs
    if c.data is None:
        minus = _times(graph, c, -1.0, op)
        pair = [minus, x] if x.data is not None else [x, minus]
        graph.supersede(op.out, graph.append("add", pair, module=op.module, before=op))
        return True
    if x.data is not None:
        return False
    graph.supersede(op.out, graph.append("add", [x, graph.constant(-c.data, before=op)], module=op.module, before=op))
    return True


def _feeds_quantiser(value: Value) -> bool:
    return any(op.kind in ("round", "clamp") for op in value.users)


def _div(graph: Graph, op: Op, report: Report) -> bool:
    x, c = op.inputs
    if c.data is None or _feeds_quantiser(op.out):
        return False
    if not np.all(c.data):
        report.decline(op, "division by a constant that holds a zero")
        return False
    inverse = graph.constant((1.0 / c.data.astype(np.float64)).astype(np.float32), before=op)
    graph.supersede(op.out, graph.append("mul", [x, inverse], module=op.module, before=op))
    return True


def _neg(graph: Graph, op: Op) -> bool:
    minus = graph.constant(np.array(-1.0, np.float32), before=op)
    graph.supersede(op.out, graph.append("mul", [op.inputs[0], minus], module=op.module, before=op))
    return True


def _clamps(graph: Graph, op: Op) -> bool:
    """A clamp of a clamp is one."""
    inner = op.inputs[0].producer
    if inner is None or inner.kind != "clamp":
        return False
    ends = {"min": -np.inf, "max": np.inf}
    outer = {name: end if op.attrs[name] is None else float(op.attrs[name]) for name, end in ends.items()}
    both = {name: end if inner.attrs[name] is None else float(inner.attrs[name]) for name, end in ends.items()}
    both = {name: min(max(bound, outer["min"]), outer["max"]) for name, bound in both.items()}
    bounds = {name: None if np.isinf(bound) else bound for name, bound in both.items()}
    graph.supersede(op.out, graph.append("clamp", [inner.inputs[0]], bounds, module=op.module, before=op))
    return True


def _relu(graph: Graph, op: Op) -> bool:
    if (op.attrs["min"], op.attrs["max"]) != (0.0, None):
        return False
    slope = graph.constant(np.zeros(1, np.float32), before=op)
    axis = {"axis": len(op.out.type.shape) - 1}
    graph.supersede(op.out, graph.append("prelu", [op.inputs[0], slope], axis, module=op.module, before=op))
    return True


def _see_through(source: Op) -> bool:
    """The op does not change the sign of any number."""
    if source.kind == "clamp":
        low, high = source.attrs["min"], source.attrs["max"]
        return (low is None or low < 0) and (high is None or high > 0)
    c = source.inputs[1].data if source.kind in ("mul", "prelu") else None
    if source.kind == "mul":
        return c is not None and source.out.type == source.inputs[0].type and bool((c > 0).all())
    if source.kind == "prelu":
        return c is not None and bool((c > 0).all())
    return source.kind in ("gelu", "tanh")


def _unipolar(graph: Graph, op: Op) -> Value | None:
    """A sign of a ReLU, of a clamp that ends at 0, or of a rounded tensor, by signs that see no such zero."""
    source = op.inputs[0].producer
    if source is None or op.attrs.get("zero", 0) != 0:
        return None
    x = source.inputs[0]

    def sign(y: Value, zero: int) -> Value:
        return graph.append("sign", [y], {"zero": zero}, module=op.module, before=op)

    if source.kind == "round":
        both = graph.append("add", [sign(_plus(graph, x, -0.5, op), -1), sign(_plus(graph, x, 0.5, op), 1)], before=op)
        return _times(graph, both, 0.5, op)
    low, high = (source.attrs["min"], source.attrs["max"]) if source.kind == "clamp" else (None, None)
    slope = source.inputs[1].data if source.kind == "prelu" else None
    if (low == 0 and (high is None or high > 0)) or (slope is not None and not slope.any()):
        return _plus(graph, _times(graph, sign(x, -1), 0.5, op), 0.5, op)
    if high == 0 and (low is None or low < 0):
        return _plus(graph, _times(graph, sign(x, 1), 0.5, op), -0.5, op)
    return None


def _sign(graph: Graph, op: Op, report: Report) -> None:
    """Looks through what cannot change a sign, and writes one of what is often 0 as codes of two levels."""
    x = op.inputs[0]
    while (source := x.producer) is not None and _see_through(source):
        report.fused[f"{source.kind} in front of a sign removed"] += 1
        x = source.inputs[0]
    if x is not op.inputs[0]:
        graph.set_input(op, 0, x)
    unipolar = _unipolar(graph, op)
    if unipolar is not None:
        producer = op.inputs[0].producer
        assert producer is not None
        report.fused[f"sign of a {producer.kind}: codes of two levels"] += 1
        graph.supersede(op.out, unipolar)


def _exclusive(graph: Graph, op: Op) -> None:
    """x > 0 where x can be 0: codes say +1 of 0, so the sign of -x is taken."""
    if op.attrs.get("zero", 0) == -1 and can_be_zero(op.inputs[0]):
        turned = graph.append("sign", [_times(graph, op.inputs[0], -1.0, op)], {"zero": 1}, module=op.module, before=op)
        graph.supersede(op.out, _times(graph, turned, -1.0, op))


@dataclass
class _Half:
    """gain * max(side * x, 0); side is +1 or -1."""

    x: Value
    side: int
    gain: npt.NDArray[np.float64]


def _half(value: Value) -> _Half | None:
    """A scaled ReLU of x or of -x, also as a clamp."""
    op, gain = value.producer, np.ones(())
    while op is not None and op.kind == "mul" and op.inputs[1].data is not None and op.out.type == op.inputs[0].type:
        c = np.asarray(op.inputs[1].data, np.float64)
        gain = gain * c.reshape([1] * (len(op.out.type.shape) - c.ndim) + list(c.shape))
        op = op.inputs[0].producer
    if op is None:
        return None
    relu = op.kind == "prelu" and op.inputs[1].data is not None and not op.inputs[1].data.any()
    bounds = (op.attrs["min"], op.attrs["max"]) if op.kind == "clamp" else None
    if not relu and bounds not in ((0.0, None), (None, 0.0)):
        return None
    x, side = op.inputs[0], 1
    if bounds == (None, 0.0):
        gain, side = -gain, -1
    source = x.producer
    if bounds != (None, 0.0) and source is not None and source.kind == "mul" and scalar(source.inputs[1]) == -1.0:
        x, side = source.inputs[0], -1
    return _Half(x, side, gain)


def _rectifier(graph: Graph, op: Op, report: Report) -> bool:
    """a relu(x) + b relu(-x) as one PReLU with a factor."""
    halves = [_half(v) for v in op.inputs]
    if halves[0] is None or halves[1] is None or halves[0].x is not halves[1].x or halves[0].side == halves[1].side:
        return False
    above, below = sorted((h for h in halves if h is not None), key=lambda h: -h.side)
    if not above.gain.all():
        return False
    rank = len(op.out.type.shape)
    slope = np.asarray(-below.gain / above.gain)
    axes = [i + rank - slope.ndim for i, n in enumerate(slope.shape) if n > 1]
    if len(axes) > 1:
        return False
    constant = graph.constant(slope.reshape(-1).astype(np.float32), before=op)
    attrs = {"axis": axes[0] if axes else rank - 1}
    result = graph.append("prelu", [above.x, constant], attrs, module=op.module, before=op)
    if bool((above.gain != 1).any()):
        gain = graph.constant(above.gain.astype(np.float32), before=op)
        result = graph.append("mul", [result, gain], module=op.module, before=op)
    report.fused["pair of ReLUs -> PReLU"] += 1
    graph.supersede(op.out, result)
    return True


def _affine_scalar(value: Value) -> tuple[Value, float, float]:
    """(x, f, c) of f * x + c with numbers f and c."""
    op = value.producer
    if op is not None and op.kind == "reshape":
        x, f, shift = _affine_scalar(op.inputs[0])
        return (x, f, shift) if x is not op.inputs[0] or x.producer is None or x.producer.kind == "mean" else (value, 1.0, 0.0)
    if op is None or op.kind not in ("mul", "div", "add") or (c := scalar(op.inputs[1])) is None:
        return value, 1.0, 0.0
    x, f, shift = _affine_scalar(op.inputs[0])
    if op.kind == "add":
        return x, f, shift + c
    c = c if op.kind == "mul" else 1.0 / c if c else np.inf
    return x, f * c, shift * c


def _root(value: Value) -> tuple[Value, float] | None:
    """(v, side) of sqrt(v) (+1) or 1 / sqrt(v) (-1)."""
    op = value.producer
    if op is not None and op.kind == "sqrt":
        return op.inputs[0], 1.0
    if op is not None and op.kind == "div" and scalar(op.inputs[0]) == 1.0:
        inner = _root(op.inputs[1])
        return None if inner is None else (inner[0], -inner[1])
    return None


def _reduced(x: Value, axis: int) -> tuple[int, ...]:
    """The shape of a mean along an axis that stays there."""
    return tuple(1 if i == axis else n for i, n in enumerate(x.type.shape))


def _is_centred(x: Value, axis: int) -> Value | None:
    """y of x = y - mean(y) along one axis."""
    op = x.producer
    if op is None or op.kind not in ("sub", "add"):
        return None
    y, minus = op.inputs
    mean = minus.producer
    if op.kind == "add":
        if mean is None or mean.kind != "mul" or scalar(mean.inputs[1]) != -1.0:
            return None
        mean = mean.inputs[0].producer
    shape = mean.out.type.shape if mean is not None else ()
    if mean is not None and mean.kind == "reshape":
        mean = mean.inputs[0].producer
    means = mean is not None and mean.kind == "mean" and tuple(mean.attrs["axes"]) == (axis,) and mean.inputs[0] is y
    return y if means and shape == _reduced(y, axis) else None


def _norm(graph: Graph, op: Op, report: Report) -> bool:
    """A norm by hand: a layer norm, or one by the root of the mean square."""
    for x, divisor in ((op.inputs[0], op.inputs[1]), (op.inputs[1], op.inputs[0])):
        root = _root(divisor)
        if root is not None and (root[1] < 0) == (op.kind == "mul") and (op.kind == "mul" or x is op.inputs[0]):
            break
    else:
        return False
    mean, factor, eps = _affine_scalar(root[0])
    source = mean.producer
    if source is None or source.kind != "mean" or len(source.attrs["axes"]) != 1:
        return False
    (axis,) = source.attrs["axes"]
    if root[0].type.shape != _reduced(source.inputs[0], axis):
        return False
    square = source.inputs[0].producer
    if square is None or square.kind != "mul" or square.inputs[0] is not square.inputs[1] or square.inputs[0] is not x:
        return False
    rank, n = len(x.type.shape), x.type.shape[axis]
    if factor <= 0 or not np.isfinite(factor) or eps < 0:
        return False
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor
    centre = _is_centred(x, axis)
    rows = x if centre is None else centre
    order = (*(i for i in range(rank) if i != axis), axis)

    def emit(kind: str, inputs: list[Value], **attrs: object) -> Value:
        return graph.append(kind, inputs, attrs, module=op.module, before=op)

    if axis != rank - 1:
        rows = emit("permute", [rows], perm=order)
    if centre is None:  # the rows [x, -x] are a product with [I, -I]: exact
        mirror = np.concatenate([np.eye(n, dtype=np.float32), -np.eye(n, dtype=np.float32)])
        rows = emit("linear", [rows, graph.constant(mirror, before=op)])
    width = rows.type.shape[-1]
    gamma = graph.constant(np.full(width, 1 / np.sqrt(factor), np.float32), before=op)
    beta = graph.constant(np.zeros(width, np.float32), before=op)
    rows = emit("layer_norm", [rows, gamma, beta], eps=float(eps / factor))
    if centre is None:
        rows = emit("linear", [rows, graph.constant(np.eye(n, width, dtype=np.float32), before=op)])
        report.decline(op, "a norm without a mean: two float products around a layer norm of twice the width")
    if axis != rank - 1:
        rows = emit("permute", [rows], perm=tuple(order.index(i) for i in range(rank)))
    report.fused["norm by hand -> layer norm"] += 1
    graph.supersede(op.out, rows)
    return True


def _key(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype), value.tobytes()
    return str(value)


def _merge_equal(graph: Graph) -> None:
    """Common subexpressions; small constants compare by content, large ones by identity."""
    seen: dict[object, Op] = {}
    number: dict[Value, object] = {}
    for op in list(graph.ops):
        if op.kind == "const" and op.out.type.size > 4:
            continue
        attrs = tuple((k, _key(v)) for k, v in sorted(op.attrs.items()))
        key = op.kind, attrs, tuple(number.get(v, id(v)) for v in op.inputs)
        first = seen.setdefault(key, op)
        if first is op:
            continue
        for old, new in zip(op.outputs, first.outputs, strict=True):
            if op.kind == "const":
                number[old] = id(new)
            elif old.type == new.type:
                graph.replace(old, new)


def _commute(graph: Graph, op: Op) -> bool:
    """Constant operands of commutative ops stand second, so that no later pass looks at positions."""
    first, second = op.inputs
    if first.data is None or second.data is not None:
        return False
    graph.supersede(op.out, graph.append(op.kind, [second, first], module=op.module, before=op))
    return True


def run(graph: Graph, report: Report) -> Graph:
    """Applies the identities above once to every op, then drops what is dead."""
    _merge_equal(graph)
    graph.drop_dead()
    for op in graph.of_kind("clamp"):
        _clamps(graph, op)
    for op in graph.of_kind("div", "mul"):
        _norm(graph, op, report)
    graph.drop_dead()
    for op in list(graph.ops):
        if op.kind == "batch_norm":
            report.fused["batch norm -> scale and shift"] += _batch_norm(graph, op)
        elif op.kind == "sub":
            _sub(graph, op)
        elif op.kind == "div":
            _div(graph, op, report)
        elif op.kind == "neg":
            _neg(graph, op)
        elif op.kind == "clamp":
            _relu(graph, op)
        elif op.kind in ("add", "mul"):
            _commute(graph, op)
    for op in graph.of_kind("add"):
        _rectifier(graph, op, report)
    for op in graph.of_kind("sign"):
        _sign(graph, op, report)
    for op in graph.of_kind("sign"):
        _exclusive(graph, op)
    graph.drop_dead()
    return graph


PASS = Pass("fold", "norms and arithmetic by constants become multiply and add", REASSOCIATES, run)
