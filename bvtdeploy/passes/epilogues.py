"""epilogues: chains of elementwise steps become one `epilogue` op, and signs become outputs of what they read.

The steps of a chain are S (scale and shift), R (a residual sum) and P (PReLU). An epilogue executes, in this order,
    S  R R R  P  S  R R R  then thresholds                                   (ops/epilogue.py)
and a chain is merged while it fits. Rewrites of parameters, all in fp64 and narrowed once:
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

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value, single_use
from bvtdeploy.ops.epilogue import RESIDUALS, ROLES, THRESHOLDS
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, row

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass
class S:
    """v * scale + shift; None means 1 or 0."""

    scale: F64 | None = None
    shift: F64 | None = None


@dataclass
class R:
    """v + value, through a row map: factor and width, or (factor 0) a table of rows."""

    value: Value
    factor: int = 1
    width: int = 0
    rows: Value | None = None


@dataclass
class P:
    """PReLU."""

    slope: Value


Step = S | R | P


def _data(value: Value) -> F64:
    assert value.data is not None
    return np.asarray(value.data, np.float64)


def _steps(op: Op) -> list[Step]:
    """The steps of an epilogue, in order."""
    at = dict(zip(op.attrs["roles"], op.inputs, strict=True))
    factors = dict(zip([r for r in op.attrs["roles"] if r in RESIDUALS], op.attrs["factors"], strict=True))

    def affine(scale: str, shift: str) -> list[Step]:
        parts = [_data(at[name]) if name in at else None for name in (scale, shift)]
        return [S(*parts)] if any(p is not None for p in parts) else []

    def residuals(roles: tuple[str, ...]) -> list[Step]:
        present = [r for r in roles if r in at]
        tables = [at["rows"] if factors[r] == 0 else None for r in present]
        return [R(at[r], factors[r], op.attrs["width"] if factors[r] > 1 else 0, t) for r, t in zip(present, tables, strict=True)]

    steps = [*affine("scale", "shift"), *residuals(RESIDUALS[:3])]
    steps += [P(at["slope"])] if "slope" in at else []
    steps += [S(None, _data(at["post"]))] if "post" in at else []
    return [*steps, *affine("scale2", "shift2"), *residuals(RESIDUALS[3:])]


def _combine(first: S, second: S) -> S:
    scale = second.scale if first.scale is None else first.scale if second.scale is None else first.scale * second.scale
    shift = first.shift
    if shift is not None and second.scale is not None:
        shift = shift * second.scale
    if second.shift is not None:
        shift = second.shift if shift is None else shift + second.shift
    return S(scale, shift)


def normalise(steps: list[Step]) -> list[Step]:
    """Merges neighbouring S, and moves a pure shift in front of the residual sums that precede it."""
    out: list[Step] = []
    for step in steps:
        if isinstance(step, S) and out and isinstance(out[-1], S):
            out[-1] = _combine(out[-1], step)
            continue
        if isinstance(step, S) and step.scale is None and out and isinstance(out[-1], R):
            at = len(out)
            while at > 0 and isinstance(out[at - 1], R):
                at -= 1
            if at > 0 and isinstance(before := out[at - 1], S):
                out[at - 1] = _combine(before, step)
            else:
                out.insert(at, step)
            continue
        out.append(step)
    return out


@dataclass
class Plan:
    """An epilogue's inputs by role."""

    inputs: dict[str, Value | F64] = field(default_factory=dict)
    factors: dict[str, int] = field(default_factory=dict)
    width: int = 0
    rows: Value | None = None


def assign(steps: list[Step]) -> Plan | None:
    """The template's roles for a normalised chain; None where it does not fit."""
    plan, rest = Plan(), list(steps)

    def affine(scale: str, shift: str) -> None:
        if rest and isinstance(step := rest[0], S):
            rest.pop(0)
            plan.inputs |= {n: v for n, v in ((scale, step.scale), (shift, step.shift)) if v is not None}

    def residuals(roles: tuple[str, ...]) -> bool:
        for role in roles:
            if not (rest and isinstance(step := rest[0], R)):
                break
            if step.factor > 1 and plan.width not in (0, step.width):
                return False
            if step.rows is not None:
                if plan.rows is not None and not np.array_equal(_data(plan.rows), _data(step.rows)):
                    return False
                plan.rows = step.rows
            plan.width = max(plan.width, step.width)
            plan.inputs[role] = step.value
            plan.factors[role] = step.factor
            rest.pop(0)
        return True

    affine("scale", "shift")
    if not residuals(RESIDUALS[:3]):
        return None
    if rest and isinstance(step := rest[0], P):
        rest.pop(0)
        plan.inputs["slope"] = step.slope
    if rest and isinstance(step := rest[0], S):
        if step.scale is None and "slope" in plan.inputs and step.shift is not None:
            plan.inputs["post"] = step.shift
            rest.pop(0)
        else:
            affine("scale2", "shift2")
    if not residuals(RESIDUALS[3:]):
        return None
    return plan if not rest else None


def _thresholds(op: Op) -> list[tuple[Value, int]]:
    """(threshold, packed axis) of every bits result."""
    at = dict(zip(op.attrs["roles"], op.inputs, strict=True))
    return list(zip([at[t] for t in THRESHOLDS if t in at], op.attrs["packed"], strict=True))


def _build(graph: Graph, x: Value, plan: Plan, real: bool, signs: list[tuple[Value, int]], module: str, before: Op) -> Op:
    """Creates the epilogue of a plan in front of `before`."""
    at: dict[str, Value] = {"x": x}
    for role, value in plan.inputs.items():
        at[role] = value if isinstance(value, Value) else graph.constant(row(value), before=before)
    at |= {role: value for role, (value, _) in zip(THRESHOLDS, signs, strict=False)}
    if plan.rows is not None:
        at["rows"] = graph.constant(np.asarray(plan.rows.data), before=before)
    roles = tuple(r for r in ROLES if r in at)
    attrs = {
        "roles": roles,
        "results": ("f32",) * real + tuple("trits" if value.type.shape[0] == 2 else "bits" for value, _ in signs),
        "factors": tuple(plan.factors[r] for r in RESIDUALS if r in plan.factors),
        "width": plan.width,
        "packed": tuple(packed for _, packed in signs),
    }
    return graph.create("epilogue", [at[r] for r in roles], attrs, module=module, before=before)


def _moved(threshold: Value, shift: F64) -> F32:
    """The threshold of v for a compare of v + shift; where 0 had a code of its own, it keeps exactly one number."""
    low = row(_data(threshold)[:1] - shift) + np.float32(0.0)  # + 0: no negative zero
    return low if threshold.type.shape[0] == 1 else np.concatenate([low, np.nextafter(low, np.float32(np.inf))])


def _only_sign(op: Op) -> bool:
    return op.kind == "epilogue" and op.attrs["roles"] == ("x", "threshold0")


def _shift_into_threshold(graph: Graph, op: Op) -> bool:
    """sign(v + s), where v + s is a lone shift step: the sign reads v instead, with threshold t - s."""
    source = op.inputs[0].producer
    if not _only_sign(op) or source is None or source.kind != "epilogue" or source.attrs["results"] != ("f32",):
        return False
    if source.attrs["roles"] != ("x", "shift"):
        return False
    threshold = _moved(op.inputs[1], _data(source.inputs[1]))
    inputs = [source.inputs[0], graph.constant(threshold, before=op)]
    merged = graph.append("epilogue", inputs, dict(op.attrs), module=op.module, before=op)
    graph.supersede(op.out, merged)
    graph.remove(op)
    return True


def _merge_chain(graph: Graph, op: Op, report: Report) -> bool:
    """Merges the producer of the operand x (or of a plain residual, sums commute) into `op`."""
    steps = _steps(op)
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
        plan = assign(normalise([*_steps(source), *rest]))
        if plan is None:
            continue
        real = op.attrs["results"][0] == "f32"
        merged = _build(graph, source.inputs[0], plan, real, _thresholds(op), source.module or op.module, op)
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
        have = _thresholds(op)
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
        steps = _steps(op)
        new = [(group[0].inputs[1], group[0].attrs["packed"][0]) for group in taken]
        if not real and not have and steps and isinstance(last := steps[-1], S) and last.scale is None and last.shift is not None:
            # Only signs read the value: its last shift moves into their thresholds.
            steps, shift = steps[:-1], last.shift
            new = [(graph.constant(_moved(t, shift), before=op), packed) for t, packed in new]
        plan = assign(steps)
        assert plan is not None
        # Thresholds may be defined after the epilogue; constants can simply be placed again in front of it.
        new = [(graph.constant(np.asarray(t.data), before=op), packed) for t, packed in new]
        merged = _build(graph, op.inputs[0], plan, real, [*have, *new], op.module, op)
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
        affine = _combine(S(_data(norm.inputs[1]), _data(norm.inputs[2])), *[s for s in _steps(op) if isinstance(s, S)])
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
            parameters = _cut_of(_data(sign.inputs[1]), _data(op.inputs[1]), _data(op.inputs[2]))
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
