"""affines: norms in front of means and dense products vanish in the weights, and nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest

from bvtdeploy.ir import Graph, Value
from bvtdeploy.ir.interp import run as interpret
from bvtdeploy.ir.types import f32
from bvtdeploy.ir.verify import verify
from bvtdeploy.passes import affines
from bvtdeploy.passes.base import Report

RNG = np.random.default_rng(7)
N, C, O = 16, 6, 5


def constant(g: Graph, *shape: int) -> Value:
    return g.constant(RNG.normal(size=shape).astype(np.float32))


def step(g: Graph, x: Value, role: str) -> Value:
    attrs = {"roles": ("x", role), "results": ("f32",), "factors": (), "width": 0, "packed": ()}
    return g.append("epilogue", [x, constant(g, 1, x.type.shape[1])], attrs)


def dense(g: Graph, x: Value, bias: bool) -> Value:
    return g.append("dense", [x, constant(g, C, O), *([constant(g, 1, O)] if bias else [])])


def norm(g: Graph, x: Value) -> Value:
    return step(g, step(g, x, "scale"), "shift")


def rewritten(g: Graph, *outputs: Value) -> tuple[Graph, Report]:
    """The graph after the pass; results before and after agree to rounding."""
    g.set_outputs(outputs)
    x, report = RNG.normal(size=(N, C)).astype(np.float32), Report()
    want = interpret(g, {"x": x})
    after = affines.run(g, report)
    verify(after)
    for a, b in zip(interpret(after, {"x": x}), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return after, report


def kinds(g: Graph) -> list[str]:
    return [op.kind for op in g.ops if op.kind != "const"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pooled", [True, False])
def test_the_last_norm_vanishes_in_the_classifier(pooled: bool, bias: bool) -> None:
    g = Graph()
    v = norm(g, g.add_input("x", f32(N, C)))
    g, report = rewritten(g, dense(g, g.append("mean_rows", [v]) if pooled else v, bias))
    assert kinds(g) == ["mean_rows"] * pooled + ["dense"] and report.fused["scales and shifts -> dense weights"] == 2


def test_two_classifiers_each_take_the_norm() -> None:
    g = Graph()
    v = norm(g, g.add_input("x", f32(N, C)))
    g, _ = rewritten(g, dense(g, v, True), dense(g, v, False))
    assert kinds(g) == ["dense", "dense"] and [len(op.inputs) for op in g.of_kind("dense")] == [3, 3]


def test_a_norm_goes_behind_an_unpadded_pool_only() -> None:
    def pool(padding: int) -> list[str]:
        g = Graph()
        attrs = {"height": 4, "width": 4, "kernel": 2, "stride": 2, **({"padding": padding} if padding else {})}
        return kinds(rewritten(g, g.append("avg_pool", [step(g, g.add_input("x", f32(N, C)), "shift")], attrs))[0])

    assert pool(0) == ["avg_pool", "epilogue"] and pool(1) == ["epilogue", "avg_pool"]


def test_what_others_read_stays() -> None:
    g = Graph()
    v = step(g, g.add_input("x", f32(N, C)), "scale")
    g, report = rewritten(g, dense(g, v, True), v)
    assert kinds(g) == ["epilogue", "dense"] and not report.fused
    g = Graph()
    v = step(g, g.add_input("x", f32(N, C)), "scale")
    g, _ = rewritten(g, dense(g, v, True), step(g, v, "slope"))
    assert sorted(kinds(g)) == ["dense", "epilogue", "epilogue"]
