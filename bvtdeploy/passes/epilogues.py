"""epilogues: chains of elementwise steps become one `epilogue` op, and signs become outputs of what they read.

A chain of steps (passes/steps.py) is merged while it fits into one epilogue. Rewrites of parameters, all in fp64 and narrowed once:
    S2(S1(v))             = v*(a1*a2) + (b1*a2 + b2)
    (v*a + b) + r + b2    = v*a + (b + b2) + r        a shift behind residual sums joins the one in front: RPReLU's first move
                                                      disappears into the scale and shift of the product
    sign(v + move)        = threshold at -move        exact (ops/epilogue.py)
    sign((v + s) + move)  = threshold at -(move + s)  where v + s has no other reader
    (g*(x - mean)/s + b)*a + c                        = (g*a)*(x - mean)/s + (b*a + c): the norm takes what is behind it
    sign(g*(x - mean)/s + b + move)                   = [g*(x - mean) >= -(b + move)*s]: the norm before a sign is one threshold a
                                                        row, without a division an element (s > 0; g = 0 is a constant code)

A sign with three codes has two thresholds, 0 lying between them (it is hit exactly, or by nothing).

Legality: a producer is merged into its reader only if that is its single reader; a sign never needs that, it becomes another
output of its producer (at most four). A sum commutes, exactly, so either operand of it can be the chain that is merged.
Promise: reassociates (merged parameters), codes move only where that crosses a threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, single_use
from bvtdeploy.ops.epilogue import THRESHOLDS
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, row
from bvtdeploy.passes.steps import F64, R, S, assign, build, combine, data_of, moved, normalise, steps_of, thresholds_of

F32 = npt.NDArray[np.float32]


def _only_sign(op: Op) -> bool:
    return op.kind == "epilogue" and op.attrs["roles"] == ("x", "threshold0")


def _shift_into_threshold(graph: Graph, op: Op) -> bool:
    """sign(v + s), where v + s is a lone shift step: the sign reads v instead, with threshold t - s."""
    source = op.inputs[0].producer
    if not _only_sign(op) or source is None or source.kind != "epilogue" or source.attrs["results"] != ("f32",):
        return False
    if source.attrs["roles"] != ("x", "shift"):
        return False
    threshold = moved(op.inputs[1], data_of(source.inputs[1]))
    inputs = [source.inputs[0], graph.constant(threshold, before=op)]
    merged = graph.append("epilogue", inputs, dict(op.attrs), module=op.module, before=op)
    graph.supersede(op.out, merged)
    graph.remove(op)
    return True


def _merge_chain(graph: Graph, op: Op, report: Report) -> bool:
    """Merges the producer of the operand x (or of a plain residual, sums commute) into `op`."""
    steps = steps_of(op)
    candidates = [0]
    first = steps[0] if steps else None
    if isinstance(first, R) and first.factor == 1 and first.rows is None and first.value.type == op.inputs[0].type:
        candidates.append(op.inputs.index(first.value))
    for at in candidates:
        source = op.inputs[at].producer
        if source is None or source.kind != "epilogue" or source.attrs["results"] != ("f32",):
            continue
        if not single_use(op.inputs[at], graph):
            continue
        rest = [R(op.inputs[0]), *steps[1:]] if at else steps
        plan = assign(normalise([*steps_of(source), *rest]))
        if plan is None:
            continue
        real = op.attrs["results"][0] == "f32"
        merged = build(graph, source.inputs[0], plan, real, thresholds_of(op), source.module or op.module, op)
        for old, new in zip(op.outputs, merged.outputs, strict=True):
            graph.supersede(old, new)
        graph.remove(op)
        graph.remove(source)
        report.fused["elementwise steps"] += 1
        return True
    return False


def _sign_outputs(graph: Graph, report: Report) -> None:
    """Every lone sign becomes a bits output of the epilogue that it reads; equal signs of one value become one."""
    for value in [v for op in graph.of_kind("epilogue") for v in op.outputs if v.type.elem == "f32"]:
        op = value.producer
        signs = [user for user in value.users if _only_sign(user) and user.inputs[0] is value]
        if op is None or not signs:
            continue
        have = thresholds_of(op)
        wanted: dict[tuple[bytes, int], list[Op]] = {}
        for sign in signs:
            wanted.setdefault((np.asarray(sign.inputs[1].data).tobytes(), sign.attrs["packed"][0]), []).append(sign)
        room = len(THRESHOLDS) - len(have)
        taken = list(wanted.values())[:room]
        for extra in list(wanted.values())[room:]:
            report.decline(extra[0], f"its operand already has {len(THRESHOLDS)} sign outputs")
        if not taken:
            continue
        real = any(user not in [s for group in taken for s in group] for user in value.users) or value in graph.outputs
        steps = steps_of(op)
        new = [(group[0].inputs[1], group[0].attrs["packed"][0]) for group in taken]
        if not real and not have and steps and isinstance(last := steps[-1], S) and last.scale is None and last.shift is not None:
            # Only signs read the value: its last shift moves into their thresholds.
            steps, shift = steps[:-1], last.shift
            new = [(graph.constant(moved(t, shift), before=op), packed) for t, packed in new]
        plan = assign(steps)
        assert plan is not None
        # Thresholds may be defined after the epilogue; constants can simply be placed again in front of it.
        new = [(graph.constant(np.asarray(t.data), before=op), packed) for t, packed in new]
        merged = build(graph, op.inputs[0], plan, real, [*have, *new], op.module, op)
        outputs = list(merged.outputs)
        if real:
            graph.supersede(value, outputs.pop(0))
        old_bits = [v for v in op.outputs if v.type.elem == "bits"]
        for old, fresh in zip(old_bits, outputs, strict=False):
            graph.supersede(old, fresh)
        for group, fresh in zip(taken, outputs[len(old_bits) :], strict=True):
            graph.supersede(group[0].out, fresh)
            for sign in group[1:]:
                graph.replace(sign.out, fresh)
            for sign in group:
                graph.remove(sign)
        graph.remove(op)
        report.fused["signs in epilogues"] += len(taken)


def _affines_into_norms(graph: Graph, report: Report) -> None:
    """A scale and shift that is a row norm's only reader, while norms are still floats: so the signs behind both are thresholds."""
    for op in graph.of_kind("epilogue"):
        norm = op.inputs[0].producer
        if op.attrs["results"] != ("f32",) or not set(op.attrs["roles"]) <= {"x", "scale", "shift"}:
            continue
        if norm is None or norm.kind != "layer_norm_rows" or not single_use(op.inputs[0], graph):
            continue
        affine = combine(S(data_of(norm.inputs[1]), data_of(norm.inputs[2])), *[s for s in steps_of(op) if isinstance(s, S)])
        assert affine.scale is not None and affine.shift is not None
        with np.errstate(over="ignore"):
            gamma, beta = row(affine.scale), row(affine.shift)
        if not (np.isfinite(gamma).all() and np.isfinite(beta).all()):
            report.decline(op, "with it the norm's scale or shift would be beyond fp32")
            continue
        inputs = [norm.inputs[0], graph.constant(gamma, before=op), graph.constant(beta, before=op)]
        merged = graph.append("layer_norm_rows", inputs, dict(norm.attrs), module=norm.module, before=op)
        graph.supersede(op.out, merged)
        graph.remove(op)
        graph.remove(norm)
        report.fused["scales behind norms"] += 1


def _cut_of(threshold: F64, gamma: F64, beta: F64) -> tuple[F32, F32]:
    """What norm_sign has in place of gamma*d/s + beta >= threshold: cut and direction.

    Divided by |gamma|, the direction is 1 or -1, of which kernels are faster; gamma itself stays where a cut would not be a
    normal number any more.
    """
    cut: F32 = row(threshold - beta)
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        unit = ((threshold - beta) / np.abs(gamma)).astype(np.float32).reshape(cut.shape)
    direction: F32 = row(gamma)
    usable = np.isfinite(unit) & (direction != 0) & ((np.abs(unit) >= np.finfo(np.float32).tiny) | (cut == 0))
    return np.where(usable, unit, cut), np.where(usable, np.copysign(np.float32(1), direction), direction)


def _norm_signs(graph: Graph, report: Report) -> None:
    """Row norms that only signs read."""
    for op in graph.of_kind("layer_norm_rows"):
        signs = op.out.users
        lone = all(_only_sign(user) and user.attrs["results"] == ("bits",) and user.inputs[0] is op.out for user in signs)
        if not signs or not lone or op.out in graph.outputs:
            continue
        for sign in signs:
            parameters = _cut_of(data_of(sign.inputs[1]), data_of(op.inputs[1]), data_of(op.inputs[2]))
            cut, direction = (graph.constant(p, before=sign) for p in parameters)
            attrs = {"groups": op.attrs.get("groups", 1), "eps": op.attrs["eps"], "packed": sign.attrs["packed"][0]}
            fused = graph.append("norm_sign", [op.inputs[0], cut, direction], attrs, module=op.module, before=sign)
            graph.supersede(sign.out, fused)
            graph.remove(sign)
        graph.remove(op)
        report.fused["norms in front of signs -> row thresholds"] += 1


def run(graph: Graph, report: Report) -> Graph:
    """Merges to a fixed point."""
    for op in graph.of_kind("epilogue"):
        _shift_into_threshold(graph, op)
    graph.drop_dead()
    _affines_into_norms(graph, report)
    _norm_signs(graph, report)
    changed = True
    while changed:
        chains = [op for op in graph.of_kind("epilogue") if not _only_sign(op)]
        changed = sum(op in graph.ops and _merge_chain(graph, op, report) for op in chains) > 0
    _sign_outputs(graph, report)
    graph.drop_dead()
    return graph


PASS = Pass("epilogues", "scale, shift, residuals, RPReLU and signs run in one pass behind each product", REASSOCIATES, run)
