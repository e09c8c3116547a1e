"""affines: a scale or shift in front of a mean or a dense product goes into the product's weights.

    mean(v * a + b)          =  mean(v) * a + b              a, b one number a channel; so too for average pools without padding
    (v * a) W + c            =  v (diag(a) W) + c
    (v + b) W + c            =  v W + (b W + c)

The last norm of a network (a batch norm, or a learned scale and shift) stands in front of the mean over the tokens and of the
classifier: this way it costs nothing. Parameters are combined in fp64 and narrowed once a step.

Legality: every reader of the step is such a pool, or every reader is such a product. Infinite values aside, both sides are the same
real number; roundings differ.
"""

from __future__ import annotations

import numpy as np

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, row


def _is_affine(op: Op) -> bool:
    step = op.attrs["roles"] in (("x", "scale"), ("x", "shift"))
    return step and op.attrs["results"] == ("f32",) and op.inputs[0].type.elem == "f32"


def _behind_pool(graph: Graph, op: Op, reader: Op) -> None:
    """pool(step(v)) becomes step(pool(v))."""
    pooled = graph.append(reader.kind, [op.inputs[0]], dict(reader.attrs), module=reader.module, before=reader)
    parameter = graph.constant(np.asarray(op.inputs[1].data), before=reader)
    graph.supersede(reader.out, graph.append("epilogue", [pooled, parameter], dict(op.attrs), module=op.module, before=reader))
    graph.remove(reader)


def _into_dense(graph: Graph, op: Op, reader: Op) -> None:
    """dense(step(v)) becomes a dense product of v."""
    step, weight = (np.asarray(v.data, np.float64) for v in (op.inputs[1], reader.inputs[1]))
    bias = np.asarray(reader.inputs[2].data, np.float64) if len(reader.inputs) == 3 else None
    if "scale" in op.attrs["roles"]:
        weight = weight * step.T
    else:
        bias = step @ weight + (0.0 if bias is None else bias)
    parameters: list[Value] = [graph.constant(weight.astype(np.float32), before=reader)]
    parameters += [graph.constant(row(bias), before=reader)] if bias is not None else []
    graph.supersede(
        reader.out, graph.append("dense", [op.inputs[0], *parameters], dict(reader.attrs), module=reader.module, before=reader)
    )
    graph.remove(reader)


def _sink(graph: Graph, op: Op, report: Report) -> bool:
    """Moves one step behind or into all its readers."""
    readers = op.out.users
    if not _is_affine(op) or not readers or op.out in graph.outputs or any(at != 0 for _, at in op.out.uses):
        return False
    if all(r.kind == "mean_rows" or (r.kind == "avg_pool" and not r.attrs.get("padding")) for r in readers):
        rewrite = _behind_pool
    elif all(r.kind == "dense" and r.inputs[1].data is not None for r in readers):
        rewrite = _into_dense
        report.fused["scales and shifts -> dense weights"] += 1
    else:
        return False
    for reader in readers:
        rewrite(graph, op, reader)
    graph.drop_dead()
    return True


def run(graph: Graph, report: Report) -> Graph:
    """Moves steps to a fixed point."""
    changed = True
    while changed:
        changed = sum(op in graph.ops and _sink(graph, op, report) for op in reversed(graph.of_kind("epilogue"))) > 0
    return graph


PASS = Pass("affines", "the last norm goes through the mean into the classifier's weights", REASSOCIATES, run)
