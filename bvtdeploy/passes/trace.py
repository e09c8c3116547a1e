"""What every value of the graph over rows x channels is, in terms of the source's values: for whoever compares the two.

Names outlive the passes behind layout (`Graph.supersede`), so that a trace by name, taken when the layout pass ends, says what the
values of the final graph are, wherever their names are still there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph
from bvtdeploy.passes.rows import Index, Views, of_rows, order_of


@dataclass
class Trace:
    """Taken at the end of the layout pass.

    Attributes:
        source: the graph that the layout pass read.
        views: source value -> (compiled value, index): element p of the one is element index.flat[p] of the other.
        parts: compiled value -> (compiled values, index): element p of the one is element index.flat[p] of the others' elements.
            Columns that were cut, rows that were gathered, codes that were packed along the rows.
        weights: the +-1 weights [O, K] of every binary product, by the name of its result.
        shapes: of the compiled values, also of those that nobody reads any more.
    """

    source: Graph
    views: dict[str, tuple[str, Index]]
    parts: dict[str, tuple[tuple[str, ...], Index]]
    weights: dict[str, npt.NDArray[np.int8]]
    shapes: dict[str, tuple[int, ...]]


def trace(source: Graph, views: Views) -> Trace:
    """The trace of a finished translation."""
    made = [view.base for view in views.views.values()]
    made += [v for v in (*views.narrowed.values(), *views.gathers.values(), *views.graph.values()) if v is not None]
    parts: dict[str, tuple[tuple[str, ...], Index]] = {}
    for (base, first, width), part in views.narrowed.items():
        if part is not None and part.data is None:
            parts[part.name] = (base.name,), order_of(base.type.shape)[:, first : first + width]
    for rows in views.gathers.values():
        assert rows.producer is not None
        *sources, table = rows.producer.inputs
        assert table.data is not None
        parts[rows.name] = tuple(v.name for v in sources), of_rows(table.data, sources[0].type.shape[1])
    for value in views.graph.values():
        if value.name.endswith(".cols"):
            parts[value.name] = (value.name.removesuffix(".cols"),), order_of(value.type.shape)
    weights = {op.out.name: op.inputs[1].data for op in views.graph.of_kind("bgemm")}
    return Trace(
        source,
        {value.name: (view.base.name, view.index) for value, view in views.views.items()},
        parts,
        {name: data for name, data in weights.items() if data is not None},
        {value.name: value.type.shape for value in made},
    )
