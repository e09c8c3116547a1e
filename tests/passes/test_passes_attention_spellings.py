"""The attention pattern in other spellings: the same compiled op."""

from __future__ import annotations

import numpy as np
import pytest

from bvtdeploy.ir.graph import Graph, Value
from bvtdeploy.ir.interp import run
from bvtdeploy.ir.types import f32
from bvtdeploy.ir.verify import verify
from bvtdeploy.passes import attention, fold
from bvtdeploy.passes.base import Report


def build(order: str, rank: int) -> Graph:
    """softmax attention of signs with the quantiser as clamp(round(.)) or round(clamp(.)), heads in their own axis or not."""
    g = Graph("a")
    shape = (1, 2, 6, 8) if rank == 4 else (2, 6, 8)
    q, k, v = (g.append("sign", [g.add_input(n, f32(*shape))]) for n in "qkv")
    last = list(range(rank))
    kt = g.append("permute", [k], {"perm": (*last[:-2], last[-1], last[-2])})
    scores = g.append("div", [g.append("matmul", [q, kt]), g.constant(np.array(8.0**0.5, np.float32))])
    p = g.append("softmax", [scores], {"axis": -1})
    clip = g.constant(np.array(0.21, np.float32))
    x: Value = g.append("div", [p, clip])
    for kind in ("round", "clamp") if order == "clamp(round)" else ("clamp", "round"):
        x = g.append(kind, [x], {"min": 0.0, "max": 1.0} if kind == "clamp" else {})
    g.set_outputs([g.append("matmul", [g.append("mul", [x, clip]), v])])
    return g


@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("order", ["clamp(round)", "round(clamp)"])
def test_spellings(order: str, rank: int) -> None:
    graph, report = build(order, rank), Report()
    random = np.random.default_rng(rank)
    inputs = {v.name: random.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
    before = run(graph, inputs)[0]
    graph = attention.run(fold.run(graph, report), report)
    verify(graph)
    assert graph.count().get("binary_attention") == 1
    assert "softmax" not in graph.count()
    np.testing.assert_allclose(run(graph, inputs)[0], before, rtol=1e-6)
