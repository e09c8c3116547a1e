"""pools: a pool of channels becomes part of the epilogue whose result it alone reads: BinaryViT's shortcut around fc2.

    channel_pool(v, g), v an epilogue's f32 or f16 result          = the same epilogue with attrs["pool"] = g

The wide hidden values of an MLP are then never stored: their signs and their means are all that is read.
Legality: v has no other reader and is no output of the graph; g is one that kernels add up in registers (ops/epilogue.POOLS).
Promise: bitwise; the sums are made in the same order. It runs last, so that no other pass has to know of it.
"""

from __future__ import annotations

from bvtdeploy.ir.graph import Graph, single_use
from bvtdeploy.ops.epilogue import POOLS
from bvtdeploy.passes.base import BITWISE, Pass, Report


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites every pool of channels that has an epilogue for itself."""
    for op in graph.of_kind("channel_pool"):
        value, group = op.inputs[0], op.attrs["group"]
        source = value.producer
        if source is None or source.kind != "epilogue" or "pool" in source.attrs:
            continue
        if group not in POOLS or not single_use(value, graph) or op.out.type.elem != value.type.elem:
            continue
        attrs = {**source.attrs, "pool": group}
        fresh = graph.create("epilogue", source.inputs, attrs, module=source.module, before=source)
        graph.supersede(op.out, fresh.outputs[0])
        for old, new in zip(source.outputs[1:], fresh.outputs[1:], strict=True):
            graph.supersede(old, new)
        graph.remove(op)
        graph.remove(source)
        report.fused["pools in epilogues"] += 1
    return graph


PASS = Pass("pools", "means of hidden channels are made where these are computed", BITWISE, run)
