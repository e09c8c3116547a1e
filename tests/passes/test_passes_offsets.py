"""offsets: a shift goes through knees to who can take it for nothing, and stays where somebody cannot."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from rewriting import outputs, rewrite, show

from bvtdeploy.ir import Graph
from bvtdeploy.ir.text import parse
from bvtdeploy.ops.epilogue import ROLES
from bvtdeploy.passes import offsets, pipeline
from bvtdeploy.passes.base import Report

F = np.float32
X = np.array([[1, -2, 0.5, 0], [3, 0.25, -1, -0.0], [-4, 5, 2, 1], [0, -1, 7, -0.5]], F)
CONSTANTS = {"a": [2, -1, 0.5, 4], "b": [1, 2, 3, 4], "s": [0.25, 0, -0.5, 1], "p": [8, -4, 2, 6], "t": [1, -1, 0, 5]}


def epilogue(outs: str, x: str, packed: int = 1, factor: int = 1, wide: int = 4, **roles: str) -> str:
    """One epilogue over 4 rows: results (f32 first, codes after it), operands by role."""
    names = outs.split()
    real = [n for n in names if not n.startswith("bits")]
    types = [f"f32[4x{wide}]"] * len(real) + [f"bits{{-1,+1}}[4x{wide}; packed {packed}]"] * (len(names) - len(real))
    results = ["f32"] * len(real) + ["bits"] * (len(names) - len(real))
    residuals = sum(r.startswith(("res", "post_res")) for r in roles)
    given = ", ".join(f'"{r}"' for r in ("x", *roles))
    quoted = ", ".join(f'"{r}"' for r in results)
    return (
        f"{', '.join('%' + n for n in names)} = epilogue(%{x}{''.join(', %' + v for v in roles.values())}) "
        f'{{"factors": {[factor] * residuals}, "packed": {[packed] * (len(names) - len(real))}, "results": [{quoted}], '
        f'"roles": [{given}], "width": 0}} : {", ".join(types)}'
    )


LAYER = epilogue("v", "x", scale="a", shift="b", slope="s", post="p")  # of which only `post` can go: nothing is added to x*a but b
NEXT = epilogue("y", "x", res0="v", scale="a", shift="b")  # it reads v as a residual, and adds b anyway


def moved(out: str, *steps: str, x: np.ndarray = X) -> tuple[Graph, Report]:
    """The graph after the pass; its results are those before it (all constants are short: no sum rounds)."""
    lines = [f"%{k} = const {v} : f32[1x4]" for k, v in CONSTANTS.items()]
    head = f"graph @g(%x: f32[4x{x.shape[1]}]) -> ({out}) {{"
    before, after, report = rewrite(offsets.run, "\n".join([head, *lines, *steps, "}"]))
    for a, b in zip(outputs(before, x), outputs(after, x), strict=True):
        assert np.array_equal(a, b), (a, b)
    return after, report


INNER = "f32(x, scale=[2.0, -1.0, 0.5, 4.0], shift=[1.0, 2.0, 3.0, 4.0], slope=[0.25, 0.0, -0.5, 1.0])"


def test_a_residual_takes_it_in_its_shift() -> None:
    graph, report = moved("%y", LAYER, NEXT)
    assert show(graph.outputs[0]) == f"f32(x, res0={INNER}, scale=[2.0, -1.0, 0.5, 4.0], shift=[9.0, -2.0, 5.0, 10.0])"
    assert {name: o.tolist() for name, o in report.offsets.items()} == {"v": [[8, -4, 2, 6]]}
    assert report.fused["operations for constants"] == 1


def test_an_operand_that_is_scaled_takes_it_in_the_shift_behind_the_scale() -> None:
    graph, _ = moved("%y", LAYER, epilogue("y", "v", scale="a"))
    assert show(graph.outputs[0]) == f"f32({INNER}, scale=[2.0, -1.0, 0.5, 4.0], shift=[16.0, 4.0, 1.0, 24.0])"


def test_thresholds_are_moved_its_own_and_those_of_a_reader() -> None:
    layer = epilogue("v bits1", "x", scale="a", shift="b", slope="s", post="p", threshold0="t")
    graph, _ = moved("%bits1, %bits2", layer, epilogue("bits2", "v", threshold0="t"))
    assert [show(op.inputs[-1]) for op in graph.of_kind("epilogue")] == ["[-7.0, 3.0, -2.0, -1.0]"] * 2
    assert all("post" not in op.attrs["roles"] for op in graph.ops if op.kind == "epilogue")


def test_a_layer_with_a_residual_adds_nothing_its_knees_are_elsewhere() -> None:
    """v = prelu(x*a + r + b) + p is kept as prelu'(x*a + r) with knees at -b; it lacks s*b + p."""
    layer = epilogue("v bits1", "x", res0="x", scale="a", shift="b", slope="s", post="p", threshold0="t")
    graph, report = moved("%y, %bits1", layer, NEXT)
    inner = "(x, res0=x, scale=[2.0, -1.0, 0.5, 4.0], slope=[0.25, 0.0, -0.5, 1.0], knee=[-1.0, -2.0, -3.0, -4.0]"
    assert show(graph.outputs[0]).startswith(f"f32(x, res0=f320{inner}")
    assert show(graph.outputs[0]).endswith("shift=[9.25, -2.0, 3.5, 14.0])")  # b + p + s*b
    assert {name: o.tolist() for name, o in report.offsets.items()} == {"v": [[8.25, -4, 0.5, 10]]}
    assert show(graph.of_kind("epilogue")[0].inputs[-1]) == "[-7.25, 3.0, -0.5, -5.0]"
    assert report.fused["operations for constants"] == 2


def test_what_a_value_lacks_moves_the_knees_of_who_reads_it() -> None:
    """Three layers, each with its residual sum; what is left of b is multiplied by the slopes every time."""
    layers = [epilogue(f"v{i + 1}", "x", res0=f"v{i}" if i else "x", scale="a", shift="b", slope="s") for i in range(3)]
    graph, report = moved("%y", *layers, NEXT.replace("%v", "%v3"))
    b, s = np.array(CONSTANTS["b"]), np.array(CONSTANTS["s"])
    lacks = np.zeros(4)
    for i, op in enumerate(graph.of_kind("epilogue")[:3]):
        knee = dict(zip(op.attrs["roles"], op.inputs, strict=True))["knee"].data
        assert knee is not None and np.array_equal(knee[0], -(lacks + b)) and "shift" not in op.attrs["roles"]
        lacks = s * (lacks + b)
        assert np.array_equal(report.offsets[f"v{i + 1}"][0], lacks)


def test_it_stops_at_a_second_scale_where_the_result_cannot_lack_it() -> None:
    layer = epilogue("y", "x", res0="x", scale="a", shift="b", slope="s", scale2="a", shift2="t")
    graph, report = moved("%y", layer)
    text = show(graph.outputs[0])
    assert text.endswith("knee=[-1.0, -2.0, -3.0, -4.0], scale2=[2.0, -1.0, 0.5, 4.0], shift2=[1.5, -1.0, -0.75, 21.0])")
    assert " shift=" not in text and not report.offsets
    graph, _ = moved("%y", epilogue("y", "x", res0="x", scale="a", shift="b", slope="s", post="p"))
    assert show(graph.outputs[0]).endswith("post=[8.25, -4.0, 0.5, 10.0])")


def test_a_residual_that_is_tiled_and_one_behind_a_second_scale() -> None:
    wide = ['%w = channel_pool(%x) {"group": 2} : f32[4x2]']
    first = epilogue("v", "w", wide=2, scale="a2", slope="s2", post="p2")
    constants = ["%a2 = const [2, 4] : f32[1x2]", "%s2 = const [0.5, 0.25] : f32[1x2]", "%p2 = const [1, -2] : f32[1x2]"]
    graph, _ = moved(
        "%y", *constants, *wide, first, epilogue("y", "x", post_res0="v", scale="a", slope="s", scale2="b", shift2="t")
    )
    assert show(graph.outputs[0]).endswith("scale2=[1.0, 2.0, 3.0, 4.0], shift2=[2.0, -3.0, 1.0, 3.0])")


def test_pools_pass_it_on() -> None:
    steps = ['%q = channel_pool(%v) {"group": 2} : f32[4x2]', epilogue("y", "x", res0="q", scale="a", shift="b")]
    graph, report = moved("%y", LAYER, *steps)
    assert show(graph.outputs[0]).endswith("shift=[3.0, 6.0, 5.0, 8.0])")  # pairs (8, -4) and (2, 6): 2 and 4, tiled
    assert {name: o.tolist() for name, o in report.offsets.items()} == {"v": [[8, -4, 2, 6]], "q": [[2, 4]]}


def test_it_stays_where_a_reader_would_need_a_step_more_or_is_none_of_these() -> None:
    others = {
        "%y, %v": [],  # an output of the graph
        "%y, %z": [epilogue("z", "x", res0="v")],  # a sum without a scale
        "%y, %w": [epilogue("w", "x", res0="v", scale="a")],  # one multiply-add, which adds the residual
        "%y, %n": ['%n = layer_norm_rows(%v, %a, %b) {"eps": 1e-05, "groups": 2} : f32[4x4]'],
        "%y, %d": ['%q = avg_pool(%v) {"height": 2, "kernel": 2, "padding": 1, "stride": 2, "width": 2} : f32[4x4]',
                   epilogue("d", "q", scale="a", shift="b")],
        "%y, %s": ['%q = channel_pool(%v) {"group": 2} : f32[4x2]', '%s = channel_pool(%q) {"group": 2} : f32[4x1]'],
    }  # fmt: skip
    for out, more in others.items():
        graph, report = moved(out, LAYER, NEXT, *more)
        assert not report.offsets and "post=" in show(graph.outputs[0]), out


def test_several_layers_each_give_theirs_to_the_next() -> None:
    layers = [LAYER.replace("%v =", "%v0 =")]
    layers += [epilogue(f"v{i + 1}", "x", res0=f"v{i}", scale="a", shift="b", slope="s", post="p") for i in range(3)]
    graph, report = moved("%y", *layers, NEXT.replace("%v", "%v3"))
    assert report.fused["operations for constants"] == 7 and "post=" not in show(graph.outputs[0])
    assert sorted(report.offsets) == ["v0", "v1", "v2", "v3"]


def test_in_fp16_they_are_multiplied_by_the_slopes_that_are_computed_with() -> None:
    """s -> 1 + f16(f16(s) - 1): the values that lack a constant are multiplied by just that."""
    slope = np.array([[0.1, 1 / 3, -0.7, 1.3]], F)
    text = "\n".join(
        ["graph @g(%x: f32[4x4]) -> (%y) {", *(f"%{k} = const {v} : f32[1x4]" for k, v in CONSTANTS.items()),
         "%slope = const @slope : f32[1x4]", epilogue("v", "x", res0="x", scale="a", shift="b", slope="slope", post="p"), NEXT, "}"]
    )  # fmt: skip
    for how in ({}, {"side": "fp16"}, {"elementwise": "fp16"}):
        report = Report(**how)
        graph = parse(text, {"slope": slope})
        for step in pipeline.passes_of(report):
            if step.name in ("slopes", "offsets"):
                graph = step.run(graph, report)
        stored = slope.astype(np.float16).astype(F) if how else slope
        less = (stored - 1).astype(np.float16).astype(F) if "elementwise" in how else stored - 1
        (offset,) = report.offsets.values()
        np.testing.assert_array_equal(offset[0], np.float64([1, 2, 3, 4]) * (1 + less[0].astype(np.float64)) + CONSTANTS["p"])


@given(st.integers(0, 2**32 - 1))
def test_any_graph_of_layers_computes_the_same(seed: int) -> None:
    """Random layers, some with knees of their own, over values that earlier ones made, wide or pooled, which are tiled where they
    are too narrow; some have signs, of their own or of who reads them."""
    rng = np.random.default_rng(seed)
    lines = [f"%{name}8 = const {data * 2} : f32[1x8]" for name, data in CONSTANTS.items()]
    widths: dict[str, int] = {"x": 8}
    results: list[str] = []
    for i in range(int(rng.integers(1, 6))):
        x = str(rng.choice(list(widths)))
        wide = widths[x]
        if wide == 8 and rng.random() < 0.3:
            lines.append(f'%v{i} = channel_pool(%{x}) {{"group": 2}} : f32[4x4]')
            widths[f"v{i}"] = 4
            continue
        parameters = zip(("scale", "shift", "slope", "knee", "post", "scale2", "shift2"), "abstptb", strict=True)
        at = {role: name + "8" * (wide == 8) for role, name in parameters if rng.random() < 0.6}
        for role in ("res0", "res1", "post_res0"):
            if rng.random() < 0.5:
                at[role] = str(rng.choice([v for v in widths if wide % widths[v] == 0]))
        if "slope" not in at:
            at.pop("post", None)
            at.pop("knee", None)
        codes = rng.random() < 0.3
        if codes:
            at["threshold0"] = "t8" if wide == 8 else "t"
            results.append(f"bits{i}")
        lines.append(epilogue(f"v{i} bits{i}" if codes else f"v{i}", x, wide=wide, **{r: at[r] for r in ROLES if r in at}))
        widths[f"v{i}"] = wide
        if wide == 4 and rng.random() < 0.3:
            lines.append(epilogue(f"bits{i}_", f"v{i}", threshold0="t"))
            results.append(f"bits{i}_")
    moved(", ".join(f"%{n}" for n in [*results, list(widths)[-1]]), *lines, x=np.hstack((X, X[::-1] * 2)))
