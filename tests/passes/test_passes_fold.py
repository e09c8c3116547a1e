"""fold and binarise, text in and expression out."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import outputs, rewrite, show, why

from bvtdeploy.passes import binarise, fold
from bvtdeploy.passes.binary_weights import binary_rows

F = np.float32


def folded(line: str, *constants: str) -> tuple[str, list[str]]:
    text = "graph @g(%x: f32[2x2]) -> (%y) {\n" + "\n".join([*constants, f"%y = {line} : f32[2x2]  # layer"]) + "\n}"
    before, after, report = rewrite(fold.run, text)
    x = np.array([[1.5, -2], [0, 7]], F)
    np.testing.assert_allclose(outputs(after, x)[0], outputs(before, x)[0], rtol=1e-6)
    assert after.outputs[0].name == "y"
    return show(after.outputs[0]), why(report)


C = "%c = const [2, 4] : f32[1x2]"


@pytest.mark.parametrize(
    ("line", "constants", "want"),
    [
        ("sub(%x, %c)", [C], "add(x, [-2.0, -4.0])"),
        ("div(%x, %c)", [C], "mul(x, [0.5, 0.25])"),
        ("neg(%x)", [], "mul(x, -1)"),
        ("add(%c, %x)", [C], "add(x, [2.0, 4.0])"),
        ("mul(%c, %x)", [C], "mul(x, [2.0, 4.0])"),
        ("mul(%x, %c)", [C], "mul(x, [2.0, 4.0])"),
        ("sub(%c, %x)", [C], "add(mul(x, -1), [2.0, 4.0])"),
        ("sub(%x, %x)", [], "sub(x, x)"),
    ],
)
def test_arithmetic(line: str, constants: list[str], want: str) -> None:
    assert folded(line, *constants) == (want, [])


def test_division_by_zero_is_declined() -> None:
    text = "graph @g(%x: f32[2x2]) -> (%y) {\n%c = const [2, 0] : f32[1x2]\n%y = div(%x, %c) : f32[2x2]  # layer\n}"
    _, after, report = rewrite(fold.run, text)
    assert show(after.outputs[0]) == "div(x, [2.0, 0.0])" and why(report) == ["division by a constant that holds a zero"]
    assert report.declined[0].site == "layer (div)"


@pytest.mark.parametrize("kind", ["round", "clamp"])
def test_division_in_front_of_a_quantiser_stays(kind: str) -> None:
    attrs = ' {"min": 0.0, "max": 1.0}' if kind == "clamp" else ""
    text = f"""graph @g(%x: f32[2x2]) -> (%y) {{
      %c = const [0.3] : f32[]
      %d = div(%x, %c) : f32[2x2]
      %y = {kind}(%d){attrs} : f32[2x2]
    }}"""
    assert "div(x, 0.3)" in show(rewrite(fold.run, text)[1].outputs[0])


BN = """graph @g(%x: f32[2x3x2]) -> (%y) {{
  %g = const @g : f32[{n}]
  %b = const @b : f32[{n}]
  %m = const @m : f32[{n}]
  %v = const @v : f32[{n}]
  %y = batch_norm(%x, %g, %b, %m, %v) {{"axis": {axis}, "eps": {eps}}} : f32[2x3x2]
}}"""


@pytest.mark.parametrize(("axis", "n"), [(1, 3), (2, 2)])
def test_batch_norm(axis: int, n: int) -> None:
    """Negative, zero and tiny gammas; parameters are computed in fp64 and narrowed once."""
    rng = np.random.default_rng(0)
    g, b, m = (rng.standard_normal(n).astype(F) for _ in range(3))
    g[0], v = 0, np.array([1e-7, 2, 1e4][:n], F)
    before, after, report = rewrite(fold.run, BN.format(n=n, axis=axis, eps=1e-5), g=g, b=b, m=m, v=v)
    shape = tuple(n if i == axis else 1 for i in range(3))
    scale = g.astype(np.float64) / np.sqrt(v.astype(np.float64) + 1e-5)
    mul = after.outputs[0].producer.inputs[0].producer  # type: ignore[union-attr]
    assert after.count() == {"add": 1, "mul": 1} and report.fused["batch norm -> scale and shift"] == 1
    assert np.array_equal(mul.inputs[1].data, scale.astype(F).reshape(shape))  # type: ignore[union-attr]
    assert np.array_equal(
        after.outputs[0].producer.inputs[1].data,
        (b - m.astype(np.float64) * scale).astype(F).reshape(shape),  # type: ignore[union-attr]
    )
    x = rng.standard_normal((2, 3, 2)).astype(F)
    np.testing.assert_allclose(outputs(after, x)[0], outputs(before, x)[0], rtol=1e-5, atol=1e-4)


def test_a_value_with_other_readers_is_left_to_them() -> None:
    text = """graph @g(%x: f32[2x2]) -> (%y, %d) {
      %c = const [2] : f32[]
      %d = sub(%x, %c) : f32[2x2]
      %y = mul(%d, %d) : f32[2x2]
    }"""
    _, after, _ = rewrite(fold.run, text)
    assert [show(v) for v in after.outputs] == ["mul(add(x, -2), add(x, -2))", "add(x, -2)"]
    assert after.count() == {"add": 1, "mul": 1} and after.outputs[1].name == "d"


# -- binarise ---------------------------------------------------------------------------------------------------------

LINEAR = """graph @g(%x: f32[2x3]) -> (%y) {{
  %w = const @w : f32[2x3]
  %b = const [0.5, -1] : f32[2]
  %s = {sign} : f32[2x3]
  %y = linear(%s, %w{bias}) : f32[2x2]  # fc
}}"""
W = np.array([[0.5, -0.5, 0.5], [-2, 2, 2]], F)


@pytest.mark.parametrize("bias", ["", ", %b"])
def test_binary_linear(bias: str) -> None:
    before, after, report = rewrite(binarise.run, LINEAR.format(sign="sign(%x)", bias=bias), w=W)
    dots = "mul(binary_linear(binarise(x), [1.0, -1.0, 1.0, -1.0, 1.0, 1.0]), [0.5, 2.0])"
    assert show(after.outputs[0]) == (f"add({dots}, [0.5, -1.0])" if bias else dots)
    x = np.array([[0.0, -0.0, np.nan], [1, -1, 1e-45]], F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()
    assert (report.binary_layers, report.float_layers, report.residue_max, report.zeros_in_weights) == (1, 0, 0.0, 0)


@pytest.mark.parametrize(
    ("sign", "weight", "reason"),
    [
        ("neg(%x)", W, "the weights are binary but the activations are not: runs in float"),
        ("sign(%x)", W * F([[1, 1, 1.01]]), "the activations are binary but the weights are not one magnitude a row"),
        ("neg(%x)", W * F([[1, 1, 1.01]]), None),
    ],
)
def test_one_float_operand_keeps_the_product_in_float(sign: str, weight: np.ndarray, reason: str | None) -> None:
    _, after, report = rewrite(binarise.run, LINEAR.format(sign=sign, bias=""), w=weight)
    assert after.count()["linear"] == 1 and "binarise" not in after.count()
    assert why(report) == ([reason] if reason else []) and (report.binary_layers, report.float_layers) == (0, 1)


def test_zeros_and_residue_of_weights_are_counted() -> None:
    weight = np.array([[0.5, -0.5, 0.0], [-2, np.nextafter(F(2), F(3)), 2]], F)
    _, after, report = rewrite(binarise.run, LINEAR.format(sign="sign(%x)", bias=""), w=weight)
    assert "[1.0, -1.0, 1.0, -1.0, 1.0, 1.0]), [0.5, 2.0])" in show(after.outputs[0])
    assert report.zeros_in_weights == 1 and 0 < report.residue_max < 2e-7


CONV = """graph @g(%x: f32[1x2x4x4]) -> (%y) {{
  %w = const @w : f32[{w}]
  %s = sign(%x) : f32[1x2x4x4]
  %y = conv2d(%s, %w) {{"stride": [{s}], "padding": [{p}], "dilation": [{d}], "groups": {g}}} : f32[1x2x{out}]  # conv
}}"""


def test_binary_conv() -> None:
    rng = np.random.default_rng(1)
    w = (np.sign(rng.standard_normal((2, 2, 2, 2))) * [[[[0.5]]], [[[3]]]]).astype(F)
    before, after, _ = rewrite(binarise.run, CONV.format(w="2x2x2x2", s="2, 1", p="0, 0", d="1, 1", g=1, out="2x3"), w=w)
    assert after.count() == {"binarise": 1, "binary_conv2d": 1, "mul": 1}
    x = rng.standard_normal((1, 2, 4, 4)).astype(F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()


@pytest.mark.parametrize(
    "attrs",
    [
        {"w": "2x2x3x3", "s": "1, 1", "p": "1, 1", "d": "1, 1", "g": 1, "out": "4x4"},
        {"w": "2x2x2x2", "s": "1, 1", "p": "0, 0", "d": "2, 2", "g": 1, "out": "2x2"},
        {"w": "2x1x2x2", "s": "2, 2", "p": "0, 0", "d": "1, 1", "g": 2, "out": "2x2"},
    ],
    ids=["padding", "dilation", "groups"],
)
def test_binary_conv_with_a_third_value_is_declined(attrs: dict[str, object]) -> None:
    shape = tuple(map(int, str(attrs["w"]).split("x")))
    _, after, report = rewrite(binarise.run, CONV.format(**attrs), w=np.ones(shape, F))
    assert after.count() == {"conv2d": 1, "sign": 1}
    assert why(report) == ["a binary convolution with padding, groups or dilation has no compiled form yet"]


def test_one_sign_feeds_two_products_and_a_float_reader() -> None:
    """FINN's bug class: the sign has three readers; the codes are made once, and the float reader keeps its sign."""
    text = """graph @g(%x: f32[2x3]) -> (%a, %b, %c) {
      %w = const @w : f32[2x3]
      %s = sign(%x) : f32[2x3]
      %a = linear(%s, %w) : f32[2x2]
      %p = permute(%s) {"perm": [1, 0]} : f32[3x2]
      %w2 = const [1, -1] : f32[1x2]
      %b = linear(%p, %w2) : f32[3x1]
      %c = add(%s, %x) : f32[2x3]
    }"""
    before, after, report = rewrite(binarise.run, text, w=W)
    assert after.count() == {"add": 1, "binarise": 1, "binary_linear": 2, "mul": 2, "permute": 1, "sign": 1}
    x = np.array([[1, -2, 3], [-1, 0, -5]], F)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(outputs(before, x), outputs(after, x), strict=True))
    assert report.fused["binary product"] == 2


def test_tied_weights_are_read_not_changed() -> None:
    text = """graph @g(%x: f32[2x2]) -> (%a, %b) {
      %w = const @w : f32[2x2]
      %s = sign(%x) : f32[2x2]
      %a = linear(%s, %w) : f32[2x2]
      %b = linear(%x, %w) : f32[2x2]
    }"""
    w = np.array([[-3, 3], [1, 1]], F)
    before, after, report = rewrite(binarise.run, text, w=w)
    x = np.array([[1, -2], [-1, 0.5]], F)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(outputs(before, x), outputs(after, x), strict=True))
    assert why(report) == ["the weights are binary but the activations are not: runs in float"]


# -- binary_rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weight",
    [
        np.zeros((2, 4), F),
        np.array([[1, 1, -1], [0, 0, 2]], F),
        np.array([[1], [2]], F),
        np.array([[1, np.nan, 1]], F),
        np.array([[1, 1.01, 1]], F),
        np.ones((2, 3, 4), F),
        np.zeros((0, 4), F),
    ],
    ids=["zero", "one live", "one column", "nan", "spread", "rank 3", "empty"],
)
def test_not_binary(weight: np.ndarray) -> None:
    assert binary_rows(weight) is None


def test_random_weights_are_not_binary() -> None:
    rng = np.random.default_rng(0)
    assert all(binary_rows(rng.standard_normal((4, k)).astype(F)) is None for k in range(2, 40))
