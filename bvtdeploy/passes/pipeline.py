"""The pipeline: the ordered list of passes is data; each says in one line why it is there (see its file for the maths).
Where parameters are rounded there are further ones (`passes_of`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bvtdeploy.ir.graph import Graph
from bvtdeploy.ir.verify import InvalidGraph, verify
from bvtdeploy.passes import (
    affines,
    attention,
    binarise,
    epilogues,
    fold,
    half,
    layout,
    offsets,
    patch_embed,
    pools,
    side,
    stencils,
    thresholds,
)
from bvtdeploy.passes.base import Pass, Report

PIPELINE: Final[tuple[Pass, ...]] = (
    fold.PASS,
    binarise.PASS,
    attention.PASS,
    layout.PASS,
    stencils.PASS,
    affines.PASS,
    epilogues.PASS,
    offsets.PASS,
    thresholds.PASS,
    pools.PASS,
)


def passes_of(report: Report) -> tuple[Pass, ...]:
    """PIPELINE with the passes that round what `report` says: slopes before offsets go through them, the rest before `pools`, which
    knows every type."""
    rounding = ((patch_embed.PASS, report.patch_embed), (half.PASS, report.elementwise), (side.PASS, report.side))
    before = {
        offsets.PASS: [half.SLOPES] if {report.elementwise, report.side} != {"fp32"} else [],
        pools.PASS: [step for step, how in rounding if how != "fp32"],
    }
    return tuple(one for step in PIPELINE for one in (*before.get(step, ()), step))


@dataclass(frozen=True)
class Timing:
    """One executed pass: seconds it took and ops (constants left out) it left."""

    name: str
    seconds: float
    nodes: int


def run(
    graph: Graph,
    report: Report,
    observe: Callable[[int, str, Graph], None] | None = None,
    passes: tuple[Pass, ...] | None = None,
) -> tuple[Graph, list[Timing]]:
    """Runs the passes in order and verifies the graph after each.

    Args:
        graph: source graph; it is consumed.
        report: filled by the passes.
        observe: called with (number, name, graph) for the source graph (0, "source") and after every pass.
        passes: by default those of `passes_of`.

    Raises:
        UserError: the model has something that cannot be compiled.
        InvalidGraph: a pass broke the graph (a bug); the text names the pass.
    """
    timings = []
    verify(graph)
    if observe is not None:
        observe(0, "source", graph)
    for number, step in enumerate(passes_of(report) if passes is None else passes, 1):
        start = time.perf_counter()
        graph = step.run(graph, report)
        try:
            verify(graph)
        except InvalidGraph as error:
            raise InvalidGraph(f"after pass {step.name}: {error}") from error
        timings.append(Timing(step.name, time.perf_counter() - start, sum(op.kind != "const" for op in graph.ops)))
        if observe is not None:
            observe(number, step.name, graph)
    return graph, timings
