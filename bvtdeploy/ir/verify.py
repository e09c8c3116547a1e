"""The verifier: what must hold for every graph, after every pass."""

from __future__ import annotations

from collections import Counter

from bvtdeploy.ir.graph import Graph


class InvalidGraph(Exception):
    """A pass left a graph that is not well formed: a bug of ours, never the user's."""


def verify(graph: Graph) -> None:
    """Checks SSA order, use-lists, unique names and that every type is what the op's shape rule says.

    Raises InvalidGraph with the op that is wrong.
    """
    from bvtdeploy.ops import REGISTRY

    defined = {id(v) for v in graph.inputs}
    names = Counter(v.name for v in graph.values())
    for name, n in names.items():
        if n > 1:
            raise InvalidGraph(f"%{name} is defined {n} times")
    expected: Counter[tuple[int, int, int]] = Counter()
    for op in graph.ops:
        for i, value in enumerate(op.inputs):
            if id(value) not in defined:
                raise InvalidGraph(f"{op}: %{value.name} is used before it is defined")
            expected[(id(value), id(op), i)] += 1
        try:
            types = REGISTRY[op.kind].infer([v.type for v in op.inputs], op.attrs)
        except (ValueError, KeyError, IndexError) as error:
            raise InvalidGraph(f"{op}: {error}") from error
        if types != [v.type for v in op.outputs]:
            raise InvalidGraph(f"{op}: types are {[str(v.type) for v in op.outputs]}, the rule says {[str(t) for t in types]}")
        for i, value in enumerate(op.outputs):
            if value.producer is not op or value.index != i:
                raise InvalidGraph(f"{op}: output {i} does not point back")
        defined.update(id(v) for v in op.outputs)
    actual: Counter[tuple[int, int, int]] = Counter((id(v), id(op), i) for v in graph.values() for op, i in v.uses)
    if actual != expected:
        raise InvalidGraph("use-lists and operands differ")
    for value in graph.outputs:
        if id(value) not in defined:
            raise InvalidGraph(f"output %{value.name} is not defined")
