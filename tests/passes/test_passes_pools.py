"""pools: a pool of channels goes into the epilogue whose result it alone reads."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import outputs, rewrite

from bvtdeploy.ir import Graph
from bvtdeploy.passes import pools
from bvtdeploy.passes.base import Report

X = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
LAYER = (
    "%v, %s = epilogue(%x, %a, %t) {\"factors\": [], \"packed\": [1], \"results\": [\"f32\", \"bits\"], "
    "\"roles\": [\"x\", \"scale\", \"threshold0\"], \"width\": 0} : f32[3x16], bits{-1,+1}[3x16; packed 1]"
)


def pooled(results: str, *steps: str) -> tuple[Graph, Report]:
    """The graph after the pass; its results are bit for bit those before it."""
    constants = [f"%{name} = const {[value * i for i in range(16)]} : f32[1x16]" for name, value in (("a", 0.3), ("t", 0.1))]
    lines = [f"graph @g(%x: f32[3x16]) -> ({results}) {{", *constants, LAYER, *steps, "}"]
    before, after, report = rewrite(pools.run, "\n".join(lines))
    for a, b in zip(outputs(before, X), outputs(after, X), strict=True):
        assert np.array_equal(a, b)
    return after, report


def pool(group: int, of: str = "v", to: str = "p") -> str:
    return f'%{to} = channel_pool(%{of}) {{"group": {group}}} : f32[3x{16 // group}]'


@pytest.mark.parametrize("group", [2, 4, 8])
def test_what_is_wide_is_not_a_value_any_more(group: int) -> None:
    graph, report = pooled("%p, %s", pool(group))
    (op,) = [op for op in graph.ops if op.kind != "const"]
    assert op.attrs["pool"] == group and [v.name for v in op.outputs] == ["p", "s"]
    assert report.fused["pools in epilogues"] == 1


@pytest.mark.parametrize(
    ("results", "steps"),
    [
        ("%p, %v", [pool(4)]),  # v is a result
        ("%p, %q", [pool(4), pool(2, to="q")]),  # v has two readers
        ("%p, %s", [pool(16)]),  # no kernel adds 16 channels in registers
        ("%p", ['%w = channel_pool(%x) {"group": 2} : f32[3x8]', '%p = channel_pool(%w) {"group": 2} : f32[3x4]']),
    ],
)
def test_it_stays_elsewhere(results: str, steps: list[str]) -> None:
    graph, report = pooled(results, *steps)
    assert not report.fused and not any("pool" in op.attrs for op in graph.ops)


def test_a_pool_of_means_stays_a_pool() -> None:
    graph, _ = pooled("%q, %s", pool(4), '%q = channel_pool(%p) {"group": 2} : f32[3x2]')
    assert graph.count() == {"channel_pool": 1, "epilogue": 1}
