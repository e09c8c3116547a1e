"""steps: an epilogue as the chain of steps that it computes, for the passes that change chains.

The steps are S (scale and shift), R (a residual sum) and P (PReLU). An epilogue executes, in this order,
    S  R R R  P  S  R R R  then thresholds                                   (ops/epilogue.py)
and a chain is one epilogue where it fits (`assign`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ops.epilogue import RESIDUALS, ROLES, THRESHOLDS
from bvtdeploy.passes.base import row

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
    """PReLU whose knee may be elsewhere than at 0: v + (slope - 1) * min(v, knee)."""

    slope: Value
    knee: F64 | None = None


Step = S | R | P


def data_of(value: Value) -> F64:
    assert value.data is not None
    return np.asarray(value.data, np.float64)


def steps_of(op: Op) -> list[Step]:
    """The steps of an epilogue, in order."""
    at = dict(zip(op.attrs["roles"], op.inputs, strict=True))
    factors = dict(zip([r for r in op.attrs["roles"] if r in RESIDUALS], op.attrs["factors"], strict=True))

    def affine(scale: str, shift: str) -> list[Step]:
        parts = [data_of(at[name]) if name in at else None for name in (scale, shift)]
        return [S(*parts)] if any(p is not None for p in parts) else []

    def residuals(roles: tuple[str, ...]) -> list[Step]:
        present = [r for r in roles if r in at]
        tables = [at["rows"] if factors[r] == 0 else None for r in present]
        return [R(at[r], factors[r], op.attrs["width"] if factors[r] > 1 else 0, t) for r, t in zip(present, tables, strict=True)]

    steps = [*affine("scale", "shift"), *residuals(RESIDUALS[:3])]
    steps += [P(at["slope"], data_of(at["knee"]) if "knee" in at else None)] if "slope" in at else []
    steps += [S(None, data_of(at["post"]))] if "post" in at else []
    return [*steps, *affine("scale2", "shift2"), *residuals(RESIDUALS[3:])]


def combine(first: S, second: S) -> S:
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
            out[-1] = combine(out[-1], step)
            continue
        if isinstance(step, S) and step.scale is None and out and isinstance(out[-1], R):
            at = len(out)
            while at > 0 and isinstance(out[at - 1], R):
                at -= 1
            if at > 0 and isinstance(before := out[at - 1], S):
                out[at - 1] = combine(before, step)
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
                if plan.rows is not None and not np.array_equal(data_of(plan.rows), data_of(step.rows)):
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
        if step.knee is not None:
            plan.inputs["knee"] = step.knee
    if rest and isinstance(step := rest[0], S):
        if step.scale is None and "slope" in plan.inputs and step.shift is not None:
            plan.inputs["post"] = step.shift
            rest.pop(0)
        else:
            affine("scale2", "shift2")
    if not residuals(RESIDUALS[3:]):
        return None
    return plan if not rest else None


def thresholds_of(op: Op) -> list[tuple[Value, int]]:
    """(threshold, packed axis) of every bits result."""
    at = dict(zip(op.attrs["roles"], op.inputs, strict=True))
    return list(zip([at[t] for t in THRESHOLDS if t in at], op.attrs["packed"], strict=True))


def build(graph: Graph, x: Value, plan: Plan, real: bool, signs: list[tuple[Value, int]], module: str, before: Op) -> Op:
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


def moved(threshold: Value, shift: F64) -> npt.NDArray[np.float32]:
    """The threshold of v for a compare of v + shift; where 0 had a code of its own, it keeps exactly one number."""
    low = row(data_of(threshold)[:1] - shift) + np.float32(0.0)  # + 0: no negative zero
    return low if threshold.type.shape[0] == 1 else np.concatenate([low, np.nextafter(low, np.float32(np.inf))])
