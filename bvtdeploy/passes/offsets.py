"""offsets: the shift behind a PReLU (RPReLU's second move) goes where its sum is read, and costs nothing there.

    v = prelu(x*a + b + r) + post          is kept as v' = v - post
    w*a2 + b2 + v                          = w*a2 + (b2 + post) + v'                   v is a residual of the next layer
    v*a2 + b2                              = v'*a2 + (b2 + post*a2)
    v >= t                                 = v' >= t - post
    pool(v)                                = pool(v') + pool(post)                     over channels, or windows without padding

So an addition for every element of the residual stream becomes one for every channel, made at compile time (in fp64, narrowed once
a step). The stream does not drift away from the source's: each value lacks its own `post` alone, since its reader adds it.

Legality: every reader of v is an epilogue that scales (so that it has an addend anyway), adds or compares, or is a pool whose
readers are; v is no output of the graph. Elsewhere the op stays as it is. `Report.offsets` tells what each value lacks.
Promise: reassociates; codes move only where that crosses a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report
from bvtdeploy.passes.steps import F64, Plan, R, S, Step, assign, build, moved, normalise, steps_of, thresholds_of


@dataclass
class _Form:
    """An epilogue as it will be: its plan, and what is taken off its thresholds."""

    plan: Plan
    taken: F64 | None = None


def _with_offset(op: Op, value: Value, offset: F64) -> _Form | None:
    """An epilogue that reads value + offset wherever it reads value; None where that would cost a step more."""
    steps: list[Step] = []
    wide = np.tile(offset, (1, op.outputs[0].type.shape[1] // offset.shape[1]))
    if op.inputs[0] is value:
        steps.append(S(None, wide))
    for step in steps_of(op):
        steps.append(step)
        if isinstance(step, R) and step.value is value:
            steps.append(S(None, wide))
    steps = normalise(steps)
    taken = None
    real = op.attrs["results"][0] == "f32"
    if not real and steps and isinstance(last := steps[-1], S) and last.scale is None:
        taken, steps = last.shift, steps[:-1]
    plan = assign(steps)
    if plan is None:
        return None
    free = {shift for scale, shift in (("scale", "shift"), ("scale2", "shift2")) if scale in plan.inputs}
    return _Form(plan, taken) if set(plan.inputs) - set(op.attrs["roles"]) <= free else None


class _Move:
    """How an offset leaves a value: the readers' new forms, and the offsets of what is computed without one now."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.forms: dict[Op, _Form] = {}
        self.offsets: dict[Value, F64] = {}

    def through(self, value: Value, offset: F64) -> bool:
        """False: somebody who reads the value, or a pool of it, cannot take the offset."""
        self.offsets[value] = offset
        if value in self.graph.outputs or not value.uses:
            return False
        for user in value.users:
            if user.kind == "epilogue":
                form = (
                    None if user in self.forms else _with_offset(user, value, offset)
                )  # two offsets at a time: not worth the case
                if form is None:
                    return False
                self.forms[user] = form
                continue
            pooled = _pooled(user, offset)
            if pooled is None or not self.through(user.out, pooled):
                return False
        return True


def _pooled(op: Op, offset: F64) -> F64 | None:
    """The offset of a pool's result; None of other ops."""
    if op.kind == "channel_pool":
        return np.asarray(offset.reshape(1, -1, op.attrs["group"]).mean(axis=2))
    if op.kind == "mean_rows" or (op.kind in ("avg_pool", "max_pool") and not op.attrs.get("padding")):
        return offset
    return None


def _rebuild(graph: Graph, op: Op, form: _Form) -> None:
    signs = thresholds_of(op)
    if form.taken is not None:
        signs = [(graph.constant(moved(t, form.taken), before=op), packed) for t, packed in signs]
    fresh = build(graph, op.inputs[0], form.plan, op.attrs["results"][0] == "f32", signs, op.module, op)
    for old, new in zip(op.outputs, fresh.outputs, strict=True):
        graph.supersede(old, new)
    graph.remove(op)


def _offset(op: Op) -> tuple[F64, _Form] | None:
    """What is added last to an epilogue's f32 result, alone or in front of residual sums, and the epilogue without it."""
    if op.attrs["results"][0] != "f32" or "post" not in op.attrs["roles"] or "scale2" in op.attrs["roles"]:
        return None
    steps = steps_of(op)
    last = next(step for step in reversed(steps) if isinstance(step, S))
    plan = assign([step for step in steps if step is not last])
    assert plan is not None and last.shift is not None
    return last.shift, _Form(plan, last.shift)


def run(graph: Graph, report: Report) -> Graph:
    """Last epilogues first: a reader has then its final steps."""
    for op in reversed(graph.of_kind("epilogue")):
        found = _offset(op)
        if found is None:
            continue
        offset, form = found
        move = _Move(graph)
        value = op.outputs[0]
        if not move.through(value, offset):
            continue
        report.offsets |= {v.name: v_offset for v, v_offset in move.offsets.items()}
        for reader, reader_form in move.forms.items():
            _rebuild(graph, reader, reader_form)
        _rebuild(graph, op, form)
        report.fused["shifts behind PReLU"] += 1
    graph.drop_dead()
    return graph


PASS = Pass("offsets", "RPReLU's second move goes into the shifts and thresholds of what reads it", REASSOCIATES, run)
