"""thresholds: the integer compare equals the fp32 chain, on every dot that there can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rewriting import outputs, rewrite, why

from bvtdeploy.ir import Graph
from bvtdeploy.passes import thresholds
from bvtdeploy.passes.base import Report

F = np.float32
K, C = 8, 64
# Row i holds codes whose sum is i - K, so that every weight row (all ones) meets every integer of -K .. K.
EVERY = np.array([np.sign(s) * (np.arange(K) < abs(s)) for s in range(-K, K + 1)], np.int8)
KINDS = {"threshold0": ("bits", "{-1,+1}"), "threshold1": ("trits", "{-1,0,+1}"), "threshold2": ("bits", "{-1,+1}")}


def parameters(seed: int, **fixed: Any) -> dict[str, np.ndarray]:
    """A chain of all steps with dots near the thresholds; negative and zero scales among them."""
    rng = np.random.default_rng(seed)
    at = {name: rng.standard_normal((1, C)).astype(F) for name in ("scale", "shift", "slope", "post", "scale2", "shift2")}
    at["slope"] = np.abs(at["slope"])
    at["scale"][0, :4] = at["scale2"][0, 4:8] = at["slope"][0, 8:24] = 0
    at["scale"][0, 30:34] *= F(1e-30)
    at["threshold0"] = rng.standard_normal((1, C)).astype(F)
    low = rng.standard_normal((1, C)).astype(F)
    at["threshold1"] = np.concatenate([low, low + np.abs(rng.standard_normal((1, C)).astype(F))])
    at["threshold2"] = np.zeros((1, C), F)
    return {**at, **{k: np.full((1, C), v, F) for k, v in fixed.items()}}


def chain(at: dict[str, np.ndarray], more: str = "") -> tuple[Graph, Graph, Report]:
    """(before, after, report) of a product and an epilogue with these parameters."""
    marks = [n for n in at if n in KINDS]
    types = [f"bits{KINDS[n][1]}[{2 * K + 1}x{C}; packed 1]" for n in marks]
    results = ", ".join(f"%y{i}" for i in range(len(marks)))
    attrs = f'"factors": [], "packed": {[1] * len(marks)}, "width": 0, '
    attrs += f'"results": {[KINDS[n][0] for n in marks]}, "roles": {["x", *at]}'.replace("'", '"')
    text = "\n".join([
        f"graph @g(%x: bits{{-1,0,+1}}[{2 * K + 1}x{K}; packed 1]) -> ({results}{more}) {{",
        f"%w = const @w : bits{{-1,+1}}[{C}x{K}]",
        *(f"%{name} = const @{name} : f32[{len(data)}x{C}]" for name, data in at.items()),
        f"%s = bgemm(%x, %w) : i32[{2 * K + 1}x{C}]",
        f"{results} = epilogue(%s, {', '.join('%' + n for n in at)}) {{{attrs}}} : {', '.join(types)}",
        "}",
    ])  # fmt: skip
    return rewrite(thresholds.run, text, w=np.ones((C, K), np.int8), **at)


def equal(before: Graph, after: Graph) -> None:
    for a, b in zip(outputs(before, EVERY), outputs(after, EVERY), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_rows_hold_every_integer() -> None:
    assert EVERY.sum(axis=1).tolist() == list(range(-K, K + 1))


@pytest.mark.parametrize("seed", range(6))
def test_equal_on_every_dot(seed: int) -> None:
    before, after, report = chain(parameters(seed))
    equal(before, after)
    (op,) = after.of_kind("epilogue")
    assert op.attrs["roles"] == ("x", "threshold0", "threshold1", "threshold2") and report.fused["integer thresholds"] == 1
    for value in op.inputs[1:]:
        data = np.asarray(value.data)
        assert np.array_equal(data, np.rint(data)) and data.min() >= -K and data.max() <= K + 1
    assert len(np.unique(outputs(after, EVERY)[1])) == 3  # all three codes occur


@pytest.mark.parametrize("fixed", [{"scale": -0.5}, {"scale": 0}, {"scale2": 0}, {"slope": 0}, {"scale": -1, "scale2": -1}])
def test_extremes(fixed: dict[str, float]) -> None:
    before, after, _ = chain(parameters(1, **fixed))
    equal(before, after)


def test_a_falling_channel_turns_its_weights() -> None:
    at = {"scale": np.where(np.arange(C) % 2, F(0.5), F(-0.5)).reshape(1, C), "threshold0": np.full((1, C), 1.25, F)}
    before, after, _ = chain(at)
    equal(before, after)
    weight = after.of_kind("bgemm")[0].inputs[1].data
    assert weight is not None and np.array_equal(weight[:, 0], np.where(np.arange(C) % 2, 1, -1))
    assert np.asarray(after.of_kind("epilogue")[0].inputs[1].data).tolist() == [[3.0] * C]


def test_ties_and_thresholds_out_of_reach() -> None:
    """3*0.1 in fp32 is above 0.3: the very chain decides. Always and never are the ends of the range."""
    at = {"scale": np.full((1, C), 0.1, F), "threshold0": np.full((1, C), 0.3, F)}
    at["threshold0"][0, :3] = -100, 100, np.nan
    before, after, _ = chain(at)
    equal(before, after)
    found = np.asarray(after.of_kind("epilogue")[0].inputs[1].data)[0]
    assert found[:4].tolist() == [-K, K + 1, K + 1, 3 if F(3) * F(0.1) >= F(0.3) else 4]


def test_what_is_declined() -> None:
    before, after, report = chain(parameters(0, slope=-0.25))
    equal(before, after)
    assert why(report) == ["a negative PReLU slope: its sign is no single threshold"] and not report.fused
    before, after, report = chain(parameters(0), more=", %s")  # the dots themselves are read: they may not change their signs
    equal(before, after)
    assert why(report) == ["a negative scale, and the product cannot be turned"]
    before, after, report = chain(parameters(0, scale=1, scale2=2), more=", %s")
    equal(before, after)
    assert report.fused["integer thresholds"] == 1


def test_plain_thresholds_are_left_alone() -> None:
    _, after, report = chain({"threshold0": np.full((1, C), 2, F)})
    assert not report.fused and not report.declined and after.count() == {"bgemm": 1, "epilogue": 1}
