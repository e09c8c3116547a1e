"""epilogues: which steps merge, which readers forbid it, and where thresholds go."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from rewriting import outputs, rewrite, show, why

from bvtdeploy.ir import Graph
from bvtdeploy.passes import epilogues
from bvtdeploy.passes.base import Report

F = np.float32
X = np.array([[1, -2, 0.5, 0], [3, 0.25, -1, -0.0], [-4, 5, 2, 1], [0, -1, 7, -0.5]], F)


def step(result: str, x: str, role: str, value: str, **attrs: object) -> str:
    """One single-step epilogue of the layout pass, over 4 rows of 4."""
    factors, width = attrs.get("factors", [1] if role.startswith("res") else []), attrs.get("width", 0)
    kind = "bits" if role.startswith("threshold") else "f32"
    packed = [attrs.get("packed", 1)] if kind == "bits" else []
    type = f"bits{{-1,+1}}[4x4; packed {packed[0]}]" if packed else "f32[4x4]"
    return (
        f'%{result} = epilogue(%{x}, %{value}) {{"factors": {factors}, "packed": {packed}, "results": ["{kind}"], '
        f'"roles": ["x", "{role}"], "width": {width}}} : {type}'
    )


CONSTANTS = {
    "a": [2, -1, 0.5, 4], "b": [1, 2, 3, 4], "c": [-1, 0.5, -1, 3], "s": [0.25, 0, -0.5, 1],
    "z": [0, 0, 0, 0], "n": [-0.0, 0, -0.0, 0], "h": [1e30, 1e30, 1e30, 1e30],
}  # fmt: skip


def merged(out: str, *steps: str, rounds: bool = False) -> tuple[Graph, Report]:
    """The graph after the pass, whose results are those before it; with `rounds`, but for roundings."""
    lines = [f"%{k} = const {v} : f32[1x4]" for k, v in CONSTANTS.items()]
    lines += ["%half = const @half : f32[1x4]", "%map = const @map : f32[4x4]"]
    text = "\n".join([f"graph @g(%x: f32[4x4]) -> ({out}) {{", *lines, *steps, "}"])
    half, rows = np.array([[1, -1, 2, 3]], F), np.arange(16, dtype=F).reshape(4, 4)
    before, after, report = rewrite(epilogues.run, text, half=half, map=rows)
    for a, b, v in zip(outputs(before, X), outputs(after, X), after.outputs, strict=True):
        assert np.allclose(a, b, rtol=1e-6, atol=1e-6) if rounds else np.array_equal(a, b), (v, a, b)
    assert [v.name for v in after.outputs] == [v.strip()[1:] for v in out.split(",")]
    return after, report


def one(out: str, *steps: str) -> str:
    graph, _ = merged(out, *steps)
    assert graph.count() == {"epilogue": 1}
    return show(graph.outputs[0])


NORM = '%l = layer_norm_rows(%x, %a, %b) {"eps": 1e-05, "groups": 2} : f32[4x4]'


def test_a_norm_in_front_of_a_sign_is_a_threshold_a_row() -> None:
    """2*d/s + 1 >= t is 2*d >= (t - 1)*s, and s > 0; a move in front of the sign joins the cut."""
    graph, report = merged("%y", NORM, step("m", "l", "shift", "c"), step("y", "m", "threshold0", "z"))
    assert graph.count() == {"norm_sign": 1} and sum(report.fused.values()) == 1
    assert show(graph.outputs[0]).startswith("norm_sign(x, [0.0, -2.5, -4.0, -1.75], [1.0, -1.0, 1.0, 1.0])")
    twice, _ = merged("%y, %t", NORM, step("y", "l", "threshold0", "z"), step("t", "l", "threshold0", "z", packed=0))
    assert twice.count() == {"norm_sign": 2} and [v.type.packed for v in twice.outputs] == [1, 0]


def test_scales_behind_a_norm_are_the_norms() -> None:
    """(g*d/s + b)*a, behind it a sign: direction sign(g*a), cut (t - b*a)/|g*a|. Its real result keeps the norm and the scale."""
    graph, report = merged("%y", NORM, step("m", "l", "scale", "c"), step("y", "m", "threshold0", "c"))
    assert graph.count() == {"norm_sign": 1} and report.fused["scales behind norms"] == 1
    assert show(graph.outputs[0]).startswith("norm_sign(x, [0.0, -1.0, 4.0, -0.75], [-1.0, -1.0, -1.0, 1.0])")
    graph, _ = merged("%r", NORM, step("m", "l", "scale", "c"), step("r", "m", "shift", "b"), rounds=True)
    assert graph.count() == {"layer_norm_rows": 1}
    read_twice, _ = merged("%m, %l", NORM, step("m", "l", "scale", "c"))
    assert read_twice.count() == {"layer_norm_rows": 1, "epilogue": 1}


def test_a_scale_that_leaves_fp32_stays_behind_the_norm() -> None:
    graph, report = merged("%r", NORM, step("m", "l", "scale", "h"), step("r", "m", "scale", "h"))
    assert graph.count() == {"layer_norm_rows": 1, "epilogue": 1}
    assert any("beyond fp32" in d.why for d in report.declined)


def test_a_norm_that_something_else_reads_stays() -> None:
    graph, _ = merged("%y, %l", NORM, step("y", "l", "threshold0", "z"))
    assert "norm_sign" not in graph.count() and graph.count()["layer_norm_rows"] == 1


def test_scale_shift_and_rprelu() -> None:
    """(x*a + b) prelu s, + c: the first move is merged into the shift, the second is `post`."""
    got = one(
        "%y", step("1", "x", "scale", "a"), step("2", "1", "shift", "b"), step("3", "2", "slope", "s"), step("y", "3", "shift", "c")
    )
    assert (
        got == "f32(x, scale=[2.0, -1.0, 0.5, 4.0], shift=[1.0, 2.0, 3.0, 4.0], slope=[0.25, 0.0, -0.5, 1.0], "
        "post=[-1.0, 0.5, -1.0, 3.0])"
    )


def test_scales_multiply_and_shifts_follow() -> None:
    got = one("%y", step("1", "x", "shift", "b"), step("2", "1", "scale", "a"), step("y", "2", "shift", "c"))
    assert got == "f32(x, scale=[2.0, -1.0, 0.5, 4.0], shift=[1.0, -1.5, 0.5, 19.0])"


def test_a_shift_behind_a_residual_joins_the_one_in_front() -> None:
    got = one("%y", step("1", "x", "shift", "b"), step("2", "1", "res0", "map"), step("y", "2", "shift", "c"))
    assert got.startswith("f32(x, res0=") and got.endswith("shift=[0.0, 2.5, 2.0, 7.0])")


def test_a_scale_behind_a_residual_does_not() -> None:
    got = one("%y", step("1", "x", "res0", "map"), step("y", "1", "scale", "a"))
    assert got.endswith("scale2=[2.0, -1.0, 0.5, 4.0])")


def test_scale_behind_prelu_is_the_second_scale() -> None:
    got = one(
        "%y",
        step("1", "x", "slope", "s"),
        step("2", "1", "scale", "a"),
        step("3", "2", "shift", "b"),
        step("y", "3", "res0", "map"),
    )
    assert "scale2=[2.0, -1.0, 0.5, 4.0], shift2=[1.0, 2.0, 3.0, 4.0]" in got and "post_res0" in got


def test_two_prelus_do_not_fit() -> None:
    graph, _ = merged("%y", step("1", "x", "slope", "s"), step("y", "1", "slope", "s"))
    assert graph.count() == {"epilogue": 2}


def test_a_seventh_residual_does_not_fit() -> None:
    names = ["x", "1", "2", "3", "4", "5", "6", "y"]
    graph, _ = merged("%y", *(step(b, a, "res0", "map") for a, b in pairwise(names)))
    assert graph.count() == {"epilogue": 2}


def test_tiled_residual() -> None:
    text = """graph @g(%x: f32[4x4]) -> (%y) {
      %t = const @t : f32[4x2]
      %b = const [1, 2, 3, 4] : f32[1x4]
      %1 = epilogue(%x, %t) {"factors": [1], "packed": [], "results": ["f32"], "roles": ["x", "res0"], "width": 0} : f32[4x4]
      %y = epilogue(%1, %b) {"factors": [], "packed": [], "results": ["f32"], "roles": ["x", "shift"], "width": 0} : f32[4x4]
    }"""
    before, after, _ = rewrite(epilogues.run, text, t=np.arange(8, dtype=F).reshape(4, 2))
    assert after.count() == {"epilogue": 1} and np.array_equal(outputs(before, X)[0], outputs(after, X)[0])


def test_residual_maps_of_different_width_stay_apart() -> None:
    """A 1x1 map on a 2x2 grid has width 2; the factor-1 one has none; maps of two widths cannot share an epilogue."""
    up = {"factors": [2], "width": 2}
    graph, _ = merged(
        "%y", step("1", "x", "res0", "half", **up), step("2", "1", "res0", "map"), step("y", "2", "res0", "half", **up)
    )
    assert graph.count() == {"epilogue": 1}
    text = """graph @g(%x: f32[16x1]) -> (%y) {
      %a = const [1, 2, 3, 4] : f32[4x1]
      %1 = epilogue(%x, %a) {"factors": [2], "packed": [], "results": ["f32"], "roles": ["x", "res0"], "width": 4} : f32[16x1]
      %y = epilogue(%1, %a) {"factors": [2], "packed": [], "results": ["f32"], "roles": ["x", "res0"], "width": 8} : f32[16x1]
    }"""
    before, after, _ = rewrite(epilogues.run, text)
    assert after.count() == {"epilogue": 2} and np.array_equal(outputs(before, X)[0], outputs(after, X)[0])


def test_a_value_with_two_readers_is_not_merged_away() -> None:
    """FINN #881, #1188: x*a is read by both branches of a fork, and returned."""
    graph, _ = merged("%y, %w", step("1", "x", "scale", "a"), step("y", "1", "shift", "b"), step("w", "1", "slope", "s"))
    assert [show(v) for v in graph.outputs][1].startswith("f32(f32(x, scale=")
    graph, _ = merged("%y, %1", step("1", "x", "scale", "a"), step("y", "1", "shift", "b"))
    assert graph.count() == {"epilogue": 2}


def test_a_value_added_to_itself() -> None:
    text = """graph @g(%x: f32[4x4]) -> (%y) {
      %a = const [2, -1, 0.5, 4] : f32[1x4]
      %1 = epilogue(%x, %a) {"factors": [], "packed": [], "results": ["f32"], "roles": ["x", "scale"], "width": 0} : f32[4x4]
      %y = epilogue(%1, %1) {"factors": [1], "packed": [], "results": ["f32"], "roles": ["x", "res0"], "width": 0} : f32[4x4]
    }"""
    before, after, _ = rewrite(epilogues.run, text)
    assert after.count() == {"epilogue": 2} and np.array_equal(outputs(before, X)[0], outputs(after, X)[0])


def test_the_operand_that_can_be_merged_is_found_on_either_side() -> None:
    """x + prelu(x*a): the chain is the second operand, x itself the residual."""
    text = """graph @g(%x: f32[4x4]) -> (%y) {
      %a = const [2, -1, 0.5, 4] : f32[1x4]
      %1 = epilogue(%x, %a) {"factors": [], "packed": [], "results": ["f32"], "roles": ["x", "scale"], "width": 0} : f32[4x4]
      %y = epilogue(%x, %1) {"factors": [1], "packed": [], "results": ["f32"], "roles": ["x", "res0"], "width": 0} : f32[4x4]
    }"""
    before, after, _ = rewrite(epilogues.run, text)
    assert show(after.outputs[0]) == "f32(x, res0=x, scale=[2.0, -1.0, 0.5, 4.0])"
    assert np.array_equal(outputs(before, X)[0], outputs(after, X)[0])


# -- signs ------------------------------------------------------------------------------------------------------------


def test_a_move_becomes_a_threshold() -> None:
    """sign(x + b) = x >= -b, exactly, also where x + b is 0 (X has such elements); the input has no producer to join."""
    got = one("%q", step("1", "x", "shift", "c"), step("q", "1", "threshold0", "z"))
    assert got == "bits(x, threshold0=[1.0, -0.5, 1.0, -3.0])"


def test_no_negative_zero_thresholds() -> None:
    graph, _ = merged("%q", step("1", "x", "shift", "z"), step("q", "1", "threshold0", "z"))
    data = graph.outputs[0].producer.inputs[1].data  # type: ignore[union-attr]
    assert data is not None and not np.signbit(data).any()


def test_signs_join_their_producer_and_equal_ones_are_one() -> None:
    """Three signs of one value at two thresholds; -0.0 and 0.0 of `n` and `z` move to the same threshold."""
    graph, report = merged(
        "%y, %p, %r",
        step("y", "x", "scale", "a"),
        *(step(f"m{q}", "y", "shift", v) for q, v in (("p", "z"), ("q", "n"), ("r", "b"))),
        *(step(q, f"m{q}", "threshold0", "z") for q in "pqr"),
        step("t", "y", "threshold0", "z"),
    )
    (op,) = graph.of_kind("epilogue")
    assert op.attrs["results"] == ("f32", "bits", "bits") and report.fused["signs in epilogues"] == 2


def test_the_value_that_only_signs_read_is_not_computed() -> None:
    moved = (step("3", "2", "shift", "c"), step("q", "3", "threshold0", "z"))
    got = one("%q", step("1", "x", "scale", "a"), step("2", "1", "shift", "b"), *moved)
    assert got == "bits(x, scale=[2.0, -1.0, 0.5, 4.0], shift=[1.0, 2.0, 3.0, 4.0], threshold0=[1.0, -0.5, 1.0, -3.0])"
    got = one("%q", step("1", "x", "slope", "s"), step("2", "1", "shift", "b"), *moved)  # a lone shift moves too
    assert got == "bits(x, slope=[0.25, 0.0, -0.5, 1.0], threshold0=[0.0, -2.5, -2.0, -7.0])"


def test_packed_along_both_axes_are_two_signs() -> None:
    graph, _ = merged(
        "%q, %r", step("1", "x", "scale", "a"), step("q", "1", "threshold0", "z"), step("r", "1", "threshold0", "z", packed=0)
    )
    (op,) = graph.of_kind("epilogue")
    assert [v.type.packed for v in op.outputs] == [1, 0]


def test_a_fifth_sign_is_declined_and_stays() -> None:
    moves = ["a", "b", "c", "s", "z"]
    graph, report = merged(
        "%q0, %q1, %q2, %q3, %q4",
        step("1", "x", "scale", "a"),
        *(step(f"m{i}", "1", "shift", m) for i, m in enumerate(moves)),
        *(step(f"q{i}", f"m{i}", "threshold0", "z") for i in range(5)),
    )
    assert why(report) == ["its operand already has 4 sign outputs"]
    assert sorted(op.attrs["results"] for op in graph.of_kind("epilogue")) == [("bits",), ("f32", "bits", "bits", "bits", "bits")]


def test_four_signs_fit() -> None:
    graph, report = merged(
        "%q0, %q1, %q2, %q3",
        step("1", "x", "scale", "a"),
        *(step(f"m{i}", "1", "shift", m) for i, m in enumerate("abcs")),
        *(step(f"q{i}", f"m{i}", "threshold0", "z") for i in range(4)),
    )
    assert graph.count() == {"epilogue": 1} and not report.declined


@pytest.mark.parametrize("slope", [0.0, -1.0, 0.5])
def test_signs_behind_any_slope(slope: float) -> None:
    """No monotonicity is needed: the comparison stands behind the PReLU, it is not pulled through it."""
    line = step("2", "1", "slope", "k")
    graph, _ = merged(
        "%q", f"%k = const {[slope] * 4} : f32[1x4]", step("1", "x", "scale", "a"), line, step("q", "2", "threshold0", "z")
    )
    assert "slope=" in show(graph.outputs[0])


def test_modules_survive() -> None:
    lines = [step("1", "x", "shift", "b") + "  # m.add", step("q", "1", "threshold0", "z") + "  # m.sign"]
    graph, _ = merged("%q", *lines)
    assert [op.module for op in graph.of_kind("epilogue")] == ["m.sign"]
