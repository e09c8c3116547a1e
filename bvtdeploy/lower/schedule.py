"""Scheduling: the ops of the compiled graph in groups that run block by block (artifact/spec.py).

The order is found backwards, so that every op runs as late as it can: an op joins the group in front of which it stands if it has
the group's row space and nothing in the group reads its result at other rows. So the query product of an attention layer lands in
the same group as the attention, the output projection and the next norm, and its float values never leave the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ops import REGISTRY


@dataclass(frozen=True)
class Group:
    """Ops that run together over `rows` rows."""

    ops: tuple[Op, ...]
    rows: int


def whole_inputs(op: Op) -> list[Value]:
    """The operands that `op` reads at rows other than the one it writes; constants left out."""
    indices = REGISTRY[op.kind].whole_inputs(op.attrs, len(op.inputs))
    return [op.inputs[i] for i in sorted(indices) if op.inputs[i].data is None]


def schedule(graph: Graph) -> list[Group]:
    """The groups, in execution order. Every op but the constants is in exactly one."""
    position = {op: i for i, op in enumerate(graph.ops)}
    waiting = [op for op in graph.ops if op.kind != "const"]
    left = {op: {user for v in op.outputs for user in v.users} for op in waiting}  # readers not yet placed
    groups: list[Group] = []
    while waiting:
        rows: int | None = None  # the seed takes what comes last
        members: list[Op] = []
        blocked: set[Value] = set()  # values that a member reads at other rows
        while fits := [
            op
            for op in waiting
            if not left[op] and rows in (None, op.outputs[0].type.shape[0]) and not any(v in blocked for v in op.outputs)
        ]:
            op = max(fits, key=position.__getitem__)
            rows = op.outputs[0].type.shape[0]
            members.append(op)
            waiting.remove(op)
            blocked.update(whole_inputs(op))
            for value in op.inputs:
                if value.producer in left:
                    left[value.producer].discard(op)
        assert rows is not None, "the graph has a cycle"
        groups.append(Group(tuple(reversed(members)), rows))
    return groups[::-1]
