"""fold: source spellings to one normal form.

    batch_norm(x)  = x * A + B,  A = gamma / sqrt(var + eps),  B = beta - mean * A     (fp64, narrowed once: FINN's bug class)
    x - c          = x + (-c)                  exact
    c - x          = x * (-1) + c              exact
    x / c          = x * (1/c)                 exact for powers of two, else within one rounding; left alone in front of a
                                               quantiser (softmax / clip), where the attention pass wants to see the clip
    -x             = x * (-1)                  exact
    max(x, 0)      = prelu(x, slope 0)         exact for finite x, but for the sign of a zero, which no later op can tell
    sign(clamp(x)) = sign(x)                   where the bounds have 0 strictly between them: exact
    sign(gelu(x))  = sign(x)                   x * Phi(x) has the sign of x. (An fp32 gelu is flushed to -0 below x = -5.5, where
                                               its sign reads 0 instead of -1: the ideal function is what we compile.)
    sign(x * c)    = sign(x)                   c > 0 everywhere: exact but for underflow

Equal ops on equal operands become one (tracing repeats a softmax for every reader).

Legality: c, gamma ... are constants. A division by a constant that holds a zero is declined.
"""

from __future__ import annotations

import numpy as np

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report


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


def _sub(graph: Graph, op: Op) -> bool:
    x, c = op.inputs
    if x.data is not None and c.data is None:
        minus = graph.append("mul", [c, graph.constant(np.array(-1.0, np.float32), before=op)], module=op.module, before=op)
        graph.supersede(op.out, graph.append("add", [minus, x], module=op.module, before=op))
        return True
    if c.data is None or x.data is not None:
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


def _relu(graph: Graph, op: Op) -> bool:
    if (op.attrs["min"], op.attrs["max"]) != (0.0, None):
        return False
    slope = graph.constant(np.zeros(1, np.float32), before=op)
    axis = {"axis": len(op.out.type.shape) - 1}
    graph.supersede(op.out, graph.append("prelu", [op.inputs[0], slope], axis, module=op.module, before=op))
    return True


def _sign(graph: Graph, op: Op, report: Report) -> bool:
    """Looks through what cannot change a sign."""
    x = op.inputs[0]
    while (source := x.producer) is not None:
        if source.kind == "clamp":
            low, high = source.attrs["min"], source.attrs["max"]
            through = (low is None or low < 0) and (high is None or high > 0)
        elif source.kind == "mul":
            c = source.inputs[1].data
            through = c is not None and source.out.type == source.inputs[0].type and bool((c > 0).all())
        else:
            through = source.kind == "gelu"
        if not through:
            break
        report.fused[f"{source.kind} in front of a sign removed"] += 1
        x = source.inputs[0]
    if x is op.inputs[0]:
        return False
    graph.set_input(op, 0, x)
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
    for op in graph.of_kind("sign"):
        _sign(graph, op, report)
    graph.drop_dead()
    return graph


PASS = Pass("fold", "norms and arithmetic by constants become multiply and add", REASSOCIATES, run)
