"""offsets: additions of constants leave the chains: what a value lacks, its readers know.

An epilogue keeps v' = v - c in place of v, with a constant c for each channel, wherever that saves an addition for every element.
c goes through its steps, in fp64:
    v*a + b                 = v'*a               + (c*a + b)
    v + r                   = (v' + r)           + c           whatever r lacks itself joins c
    v + (s-1)*min(v, k)     = v' + (s-1)*min(v', k - c)  + s*c           PReLU, whose knee is then elsewhere than at 0
and what is left at the end is taken by who reads the result:
    w*a2 + b2 + v           = w*a2 + v' + (b2 + c)             v is a residual of the next layer, whose own chain goes on with it
    v*a2 + b2               = v'*a2 + (b2 + c*a2)
    v >= t                  = v' >= t - c
    pool(v)                 = pool(v') + pool(c)               over channels, or windows without padding
So both moves of RPReLU and the shift of the batch norm in front of it cost nothing, and the scale of the dots is one multiply-add
with the residual (ops/epilogue.py). The stream does not drift away from the source's: of what a value lacks, a PReLU passes on the
fraction s. (Where slopes are rounded they are so before, half.SLOPES.)

Legality: every reader of v can take c for nothing: it is an epilogue that scales or compares, or that gives c on in its turn, or a
pool whose readers are; v is no output of the graph. Elsewhere c is added where the chain scales last, or stays where it was,
whichever takes the fewest operations. `Report.offsets` tells what each value lacks.
Promise: reassociates; codes move only where that crosses a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report
from bvtdeploy.passes.steps import F64, P, Plan, R, S, Step, assign, build, moved, normalise, steps_of, thresholds_of


@dataclass
class _Form:
    """An epilogue as it could be: its plan, what its result then lacks, and its operations an element."""

    plan: Plan
    lacks: F64 | None
    cost: int


def _cost(steps: Sequence[Step]) -> int:
    """Arithmetic operations an element; a scale and what is added to its product are one."""
    cost, product = 0, False
    for step in steps:
        cost += 2 if isinstance(step, P) else 0 if isinstance(step, R) and product else 1
        product = isinstance(step, S) and step.scale is not None and step.shift is None
    return cost


def _carry(steps: Sequence[Step]) -> tuple[list[Step], F64 | None]:
    """The steps without additions of constants, and what their result lacks."""
    out: list[Step] = []
    c: F64 | None = None
    for step in steps:
        if isinstance(step, S):
            if step.scale is not None:
                out.append(S(step.scale))
                c = None if c is None else c * step.scale
            if step.shift is not None:
                c = step.shift if c is None else c + step.shift
        elif isinstance(step, P) and c is not None:
            out.append(P(step.slope, -c if step.knee is None else step.knee - c))
            less = np.asarray(step.slope.data, np.float32) - np.float32(1)  # rounded, as it is multiplied
            c = c + c * less.astype(np.float64)
        else:
            out.append(step)
    return out, c


def _forms(steps: list[Step], may_lack: bool) -> list[_Form]:
    """What an epilogue of these steps can become, nearest to what it is first. may_lack: whether its result may lack
    something."""
    bends = [i for i, step in enumerate(steps) if isinstance(step, P)]
    behind = bends[0] + 1 if bends else 0
    chains: list[tuple[list[Step], F64 | None]] = [(steps, None)]
    if may_lack:
        last, c = _carry(steps[behind:])
        chains += [(steps[:behind] + last, c), _carry(steps)]
    if bends:
        first, c = _carry(steps[:behind])
        if c is not None:  # added where the chain scales or shifts next
            chains.insert(1, (normalise([*first, S(None, c), *steps[behind:]]), None))
    found = [(chain, c, assign(chain)) for chain, c in chains]
    return [_Form(plan, c, _cost(chain)) for chain, c, plan in found if plan is not None]


def _best(steps: list[Step], may_lack: bool) -> _Form | None:
    """The form of fewest operations; the first of equals."""
    return min(_forms(steps, may_lack), key=lambda form: form.cost, default=None)


def _with_offsets(op: Op, lacks: dict[Value, F64]) -> list[Step]:
    """The steps of an epilogue that reads v + lacks[v] wherever it reads v."""

    def offset(value: Value) -> list[Step]:
        c = lacks.get(value)
        return [] if c is None else [S(None, np.tile(c, (1, op.outputs[0].type.shape[1] // c.shape[1])))]

    steps = offset(op.inputs[0])
    for step in steps_of(op):
        steps.append(step)
        if isinstance(step, R):
            steps += offset(step.value)
    return normalise(steps)


def _is_real(op: Op) -> bool:
    return bool(op.attrs["results"][0] == "f32")


def _pooled(op: Op, offset: F64) -> F64 | None:
    """The offset of a pool's result; None of other ops."""
    if op.kind == "channel_pool":
        return np.asarray(offset.reshape(1, -1, op.attrs["group"]).mean(axis=2))
    if op.kind == "mean_rows" or (op.kind in ("avg_pool", "max_pool") and not op.attrs.get("padding")):
        return offset
    return None


def _may_lack(graph: Graph) -> set[Value]:
    """The values of which every reader takes an offset for nothing. Readers come later, so last ops first."""
    may: set[Value] = set()

    def takes(user: Op, value: Value) -> bool:
        some = np.ones((1, value.type.shape[1]))
        if user.kind != "epilogue":
            return _pooled(user, some) is not None and user.out in may
        too = not _is_real(user) or user.outputs[0] in may
        now, then = _best(steps_of(user), too), _best(_with_offsets(user, {value: some}), too)
        return now is not None and then is not None and then.cost <= now.cost

    for op in reversed(graph.ops):
        for value in op.outputs:
            real = value.type.elem == "f32" and len(value.type.shape) == 2
            if real and value.uses and value not in graph.outputs and all(takes(user, value) for user in value.users):
                may.add(value)
    return may


def _rebuild(graph: Graph, op: Op, form: _Form) -> Op:
    signs = thresholds_of(op)
    if form.lacks is not None:
        signs = [(graph.constant(moved(t, form.lacks), before=op), packed) for t, packed in signs]
    fresh = build(graph, op.inputs[0], form.plan, _is_real(op), signs, op.module, op)
    for old, new in zip(op.outputs, fresh.outputs, strict=True):
        graph.supersede(old, new)
    graph.remove(op)
    return fresh


def run(graph: Graph, report: Report) -> Graph:
    """First ops first: a reader then knows what its operands lack."""
    may = {value.name for value in _may_lack(graph)}
    lacks: dict[Value, F64] = {}
    for op in list(graph.ops):
        if op.kind != "epilogue":
            for value in op.inputs[:1]:
                if value in lacks and (pooled := _pooled(op, lacks[value])) is not None:
                    lacks[op.out] = pooled
            continue
        form = _best(_with_offsets(op, lacks), not _is_real(op) or op.outputs[0].name in may)
        assert form is not None
        saved = _cost(steps_of(op)) - form.cost
        if saved == 0 and form.lacks is None and not any(v in lacks for v in op.inputs):
            continue
        fresh = _rebuild(graph, op, form)
        if saved > 0:
            report.fused["operations for constants"] += saved
        if form.lacks is not None and _is_real(fresh):
            lacks[fresh.outputs[0]] = form.lacks
    report.offsets |= {value.name: offset for value, offset in lacks.items()}
    graph.drop_dead()
    return graph


PASS = Pass("offsets", "shifts of batch norms and RPReLU go into knees, thresholds and what is read next", REASSOCIATES, run)
