"""half: which ops compute in fp16, where is converted, and that thresholds rounded up decide the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from rewriting import outputs, rewrite, why

from bvtdeploy.ir import Graph
from bvtdeploy.ops.epilogue import small_dots
from bvtdeploy.passes import half
from bvtdeploy.passes.base import Report

F = np.float32
N, K, C = 4, 8, 8


def network(lines: list[str], result: str, **constants: Any) -> tuple[Graph, Graph, Report]:
    """A product %s of bits, some lines, and a real result f32[4x8]."""
    text = [f"graph @g(%x: bits{{-1,+1}}[{N}x{K}; packed 1]) -> ({result}) {{", f"%w = const @w : bits{{-1,+1}}[{C}x{K}]"]
    text += [f"%{name} = const @{name} : f32[{len(data)}x{C}]" for name, data in constants.items()]
    text += [f"%s = bgemm(%x, %w) : i32[{N}x{C}]", *lines, "}"]
    weight = np.where(np.arange(C * K).reshape(C, K) % 3 == 0, -1, 1).astype(np.int8)
    return rewrite(half.run, "\n".join(text), w=weight, **constants)


def epilogue(out: str, x: str, *, bits: bool = False, real: bool = True, **roles: str) -> str:
    names = ["x", *roles]
    results = ["f32"] * real + ["bits"] * bits
    types = [f"f32[{N}x{C}]"] * real + [f"bits{{-1,+1}}[{N}x{C}; packed 1]"] * bits
    attrs = f'{{"factors": {[1] * sum(n.startswith("res") for n in names)}, "packed": {[1] * bits}, "width": 0, '
    attrs += f'"results": {results}, "roles": {names}}}'.replace("'", '"')
    left = ", ".join(f"%{o}" for o in out.split())
    return f"{left} = epilogue({', '.join('%' + n for n in (x, *roles.values()))}) {attrs} : {', '.join(types)}"


def row(*numbers: float) -> np.ndarray:
    return np.resize(np.array(numbers, F), (1, C))


def codes(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (N, K))


def test_a_chain_computes_in_fp16() -> None:
    lines = [
        epilogue("a", "s", scale="scale", shift="shift"),
        epilogue("b t", "a", bits=True, res0="a", slope="slope", threshold0="cut"),
        epilogue("c", "b", res0="a"),
        f"%m = mean_rows(%c) : f32[1x{C}]",
    ]
    at = {"scale": row(0.1, 0.3), "shift": row(1 / 3), "slope": row(0.25, 1.7), "cut": row(0.7, -0.1)}
    before, after, report = network(lines, "%m, %t", **at)
    kinds = [tuple(v.type.elem for v in (*op.inputs, *op.outputs)) for op in after.of_kind("epilogue", "mean_rows")]
    assert kinds == [
        ("i32", "f16", "f16", "f16"),
        ("f16", "f16", "f16", "f16", "f16", "bits"),
        ("f16", "f16", "f16"),
        ("f16", "f32"),
    ]
    assert report.half_ops == 3 and why(report) == ["it stays fp32: it has no form that computes in fp16"]
    x = codes()
    dots = outputs(rewrite(lambda g, r: g, print_dots(), w=before.ops[0].attrs["data"])[0], x)[0]
    h = {name: data.astype(np.float16) for name, data in at.items()}

    def multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        return (a.astype(np.float64) * b + c).astype(np.float16)  # rounded once: the sum is exact in fp64

    a = multiply_add(dots, h["scale"], h["shift"])
    b = a + a
    b = multiply_add(np.minimum(b, 0), h["slope"] - np.float16(1), b)
    total, signs = (b + a).astype(F), np.where(b >= half.round_up(at["cut"]), 1, -1)
    mean = ((total[0] + total[1]) + total[2]) + total[3]
    got = outputs(after, x)
    np.testing.assert_array_equal(got[0][0], mean * F(0.25))
    np.testing.assert_array_equal(got[1], signs)
    assert small_dots(next(op for op in after.ops if op.kind == "epilogue")), "8 columns"


def print_dots() -> str:
    return "\n".join([
        f"graph @g(%x: bits{{-1,+1}}[{N}x{K}; packed 1]) -> (%s) {{", f"%w = const @w : bits{{-1,+1}}[{C}x{K}]",
        f"%s = bgemm(%x, %w) : i32[{N}x{C}]", "}",
    ])  # fmt: skip


def test_thresholds_on_bare_dots_stay() -> None:
    _, after, report = network([epilogue("t", "s", bits=True, real=False, threshold0="cut")], "%t", cut=row(2049.5))
    assert report.half_ops == 0 and not report.declined
    assert [v.type.elem for op in after.of_kind("epilogue") for v in op.inputs] == ["i32", "f32"]


def test_a_parameter_that_fp16_cannot_hold() -> None:
    """The op stays fp32, and its neighbours convert."""
    for bad, told in ((row(1e5), "shift: it stays fp32: a value is beyond"), (row(1.0), "scale: it stays fp32: a scale is below")):
        lines = [
            epilogue("a", "s", scale="ok", shift="ok"),
            epilogue("b", "a", res0="a", post="ok"),
            epilogue("c", "b", scale="tiny" if bad[0, 0] == 1 else "ok", shift="bad"),
            epilogue("d", "a", res0="c", post="ok"),
            epilogue("e", "d", res0="b"),
            epilogue("f", "e", res0="d"),
            f"%m = mean_rows(%f) : f32[1x{C}]",
        ]
        _, after, report = network(lines, "%m", ok=row(0.5, 0.3), bad=bad, tiny=row(1e-6, 1))
        assert why(report)[0].startswith(told) and report.half_ops == 5
        real = [(op.inputs[0].type.elem, op.outputs[0].type.elem) for op in after.of_kind("epilogue")]
        assert ("f32", "f32") in real, "the one that was refused"
        assert real.count(("f16", "f32")) == 1 and real.count(("f32", "f16")) == 1, "one conversion to it, and one back"


def test_what_would_only_be_converted_stays() -> None:
    """A stencil between ops of fp32."""
    lines = [
        f'%a = activation(%e) {{"kind": "gelu"}} : f32[{N}x{C}]',
        f'%b = stencil(%a, %taps) {{"boundary": "zero", "height": 2, "offsets": [[0, 0]], "width": 2}} : f32[{N}x{C}]',
        f'%c = activation(%b) {{"kind": "gelu"}} : f32[{N}x{C}]',
    ]
    _, after, report = network([epilogue("e", "s", scale="taps"), *lines], "%c", taps=row(0.5))
    assert report.half_ops == 0 and sum("neighbours" in w for w in why(report)) == 2
    assert all(v.type.elem != "f16" for v in after.values())


def test_every_threshold_decides_the_same() -> None:
    """v >= t for all 65536 values of v, with t between, at and beyond the numbers of fp16."""
    v = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = v[np.isfinite(v)].astype(F)
    rng = np.random.default_rng(0)
    some = rng.choice(numbers, 200)
    at = np.concatenate(
        [some, np.nextafter(some, F(9e9)), np.nextafter(some, F(-9e9)), some * F(1.0003), rng.standard_normal(50).astype(F)]
    )
    edges = np.array([0.0, -0.0, 1e-9, -1e-9, 65504, 65519, 65520, 1e6, -65504, -65505, -65520, -1e6, np.inf, -np.inf, np.nan], F)
    with np.errstate(over="ignore"):
        for t in (*at, *edges):
            up = half.round_up(np.array([[t]], F))[0, 0]
            wide = v.astype(F)
            np.testing.assert_array_equal(wide >= t, v >= up, str(t))
            np.testing.assert_array_equal(wide < t, v < up, str(t))
