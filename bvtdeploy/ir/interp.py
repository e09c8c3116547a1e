"""The numpy reference interpreter: runs a graph after any pass, with the semantics of each op's `reference`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bvtdeploy.ir.graph import Array, Graph, Op, Value
from bvtdeploy.ir.types import DTYPES


def run(graph: Graph, inputs: Mapping[str, Array], observe: Callable[[Op, list[Array]], None] | None = None) -> list[Array]:
    """Executes the graph on arrays by input name; returns its outputs.

    Args:
        graph: any valid graph.
        inputs: one array per graph input, of exactly the input's shape and element kind.
        observe: called after each op (constants left out) with its outputs; used by `verify` and by teacher forcing.

    Raises:
        ValueError: an input is missing or has another shape or element kind.
    """
    from bvtdeploy.ops import REGISTRY

    at: dict[Value, Array] = {}
    last: dict[Value, Op] = {v: op for op in graph.ops for v in op.inputs}
    for value in graph.inputs:
        given = inputs.get(value.name)
        if given is None or given.shape != value.type.shape or given.dtype != DTYPES[value.type.elem]:
            got = "nothing" if given is None else f"{given.dtype}{list(given.shape)}"
            raise ValueError(f"input {value.name}: expected {value.type}, got {got}")
        at[value] = inputs[value.name]
    keep = set(graph.outputs)
    for op in graph.ops:
        with np.errstate(all="ignore"):  # infinities and NaN are results like others
            results = REGISTRY[op.kind].reference(op.attrs, [at[v] for v in op.inputs])
        for value, array in zip(op.outputs, results, strict=True):
            assert array.shape == value.type.shape, f"{op}: reference gave {array.shape}"
            at[value] = array
        if observe is not None and op.kind != "const":
            observe(op, results)
        for value in {*op.inputs, *op.outputs}:
            if last.get(value, op) is op and value not in keep:
                at.pop(value, None)
    return [at[v] for v in graph.outputs]
