"""fold and binarise, text in and expression out."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import outputs, rewrite, show, why

from bvtdeploy.ir import Graph
from bvtdeploy.passes import binarise, fold
from bvtdeploy.passes.base import Report
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
        ("sub(%x, %x)", [], "add(x, mul(x, -1))"),
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


SIGN = """graph @g(%x: f32[2x3]) -> (%y) {{
  %c = const {c} : f32[1x3]
  {line}
  %y = sign(%u) : f32[2x3]
}}"""


@pytest.mark.parametrize(
    ("line", "c", "want"),
    [
        ('%u = clamp(%x) {"max": 1.0, "min": -1.0} : f32[2x3]', "[1, 1, 1]", "sign(x)"),
        ('%u = clamp(%x) {"max": null, "min": -0.5} : f32[2x3]', "[1, 1, 1]", "sign(x)"),
        ("%u = gelu(%x) : f32[2x3]", "[1, 1, 1]", "sign(x)"),
        ("%u = mul(%x, %c) : f32[2x3]", "[2, 0.5, 3]", "sign(x)"),
        ('%t = mul(%x, %c) : f32[2x3]\n  %u = clamp(%t) {"max": 2.0, "min": -1.0} : f32[2x3]', "[2, 0.5, 3]", "sign(x)"),
        ("%u = mul(%x, %c) : f32[2x3]", "[2, -0.5, 3]", "sign(mul(x, [2.0, -0.5, 3.0]))"),
        ("%u = mul(%x, %c) : f32[2x3]", "[2, 0, 3]", "sign(mul(x, [2.0, 0.0, 3.0]))"),
        ("%u = add(%x, %c) : f32[2x3]", "[2, 1, 3]", "sign(add(x, [2.0, 1.0, 3.0]))"),
        ('%u = clamp(%x) {"max": 6.0, "min": 1.0} : f32[2x3]', "[1, 1, 1]", 'sign(clamp(x){"max": 6.0, "min": 1.0})'),
        ("%u = tanh(%x) : f32[2x3]", "[1, 1, 1]", "sign(x)"),
    ],
)
def test_what_cannot_change_a_sign_is_dropped_in_front_of_it(line: str, c: str, want: str) -> None:
    before, after, report = rewrite(fold.run, SIGN.format(line=line, c=c))
    assert show(after.outputs[0]) == want
    removed = sum(before.count().values()) - sum(after.count().values())
    assert sum(n for k, n in report.fused.items() if "in front of a sign" in k) == removed
    x = np.array([[-2, 0, 0.5], [-0.0, 1e-3, -4]], F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ('%u = clamp(%x) {"max": 6.0, "min": 0.0} : f32[2x3]', 'add(mul(sign(x){"zero": -1}, 0.5), 0.5)'),
        ('%u = clamp(%x) {"max": null, "min": 0.0} : f32[2x3]', 'add(mul(sign(x){"zero": -1}, 0.5), 0.5)'),
        ('%u = clamp(%x) {"max": 0.0, "min": null} : f32[2x3]', 'add(mul(sign(x){"zero": 1}, 0.5), -0.5)'),
        ("%u = round(%x) : f32[2x3]", 'mul(add(sign(add(x, -0.5)){"zero": -1}, sign(add(x, 0.5)){"zero": 1}), 0.5)'),
    ],
)
def test_a_sign_of_what_is_often_zero_is_codes_of_two_levels(line: str, want: str) -> None:
    before, after, _ = rewrite(fold.run, SIGN.format(line=line, c="[1, 1, 1]"))
    assert show(after.outputs[0]) == want
    for x in ([[-2, 0, 0.5], [-0.0, 1e-3, -4]], [[-0.5, 0.5001, -0.5001], [1.5, 0.49999, -1.5]]):
        np.testing.assert_array_equal(outputs(after, np.array(x, F))[0], outputs(before, np.array(x, F))[0])


def test_equal_ops_become_one_and_different_ones_do_not() -> None:
    text = """graph @g(%x: f32[2x2]) -> (%y, %z) {
      %a = softmax(%x) {"axis": 1} : f32[2x2]
      %b = softmax(%x) {"axis": 1} : f32[2x2]
      %c = softmax(%x) {"axis": 0} : f32[2x2]
      %two = const [2] : f32[]
      %also = const [2] : f32[]
      %three = const [3] : f32[]
      %d = mul(%a, %two) : f32[2x2]
      %e = mul(%b, %also) : f32[2x2]
      %f = mul(%b, %three) : f32[2x2]
      %g = add(%d, %e) : f32[2x2]
      %y = add(%g, %f) : f32[2x2]
      %z = add(%c, %x) : f32[2x2]
    }"""
    before, after, _ = rewrite(fold.run, text)
    assert after.count() == {"softmax": 2, "mul": 2, "add": 3}
    x = np.array([[1, -2], [0.5, 4]], F)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(outputs(before, x), outputs(after, x), strict=True))


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
    x = np.array([[-1e-45, 3, -np.inf], [1, -1, 1e-45]], F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()
    # A real number is 0 with probability 0: it costs no third code, and is +1.
    zeros, ones = np.array([[0, -0.0, 0], [1, -1, 0]], F), np.array([[1, 1, 1], [1, -1, 1]], F)
    assert outputs(after, zeros)[0].tobytes() == outputs(after, ones)[0].tobytes() and report.ternary_signs == 0
    assert (report.binary_layers, report.float_layers, report.residue_max, report.zeros_in_weights) == (1, 0, 0.0, 0)


@pytest.mark.parametrize(
    ("sign", "weight", "reason"),
    [
        ("sign(%x)", W * F([[1, 1, 1.01]]), "the activations are binary but the weights are not one magnitude a row"),
        ("neg(%x)", W * F([[1, 1, 1.01]]), None),
    ],
)
def test_one_float_operand_keeps_the_product_in_float(sign: str, weight: np.ndarray, reason: str | None) -> None:
    _, after, report = rewrite(binarise.run, LINEAR.format(sign=sign, bias=""), w=weight)
    assert after.count()["linear"] == 1 and "binarise" not in after.count()
    assert why(report) == ([reason] if reason else []) and (report.binary_layers, report.float_layers) == (0, 1)


@pytest.mark.parametrize("bias", ["", ", %b"])
def test_real_activations_under_binary_weights_are_a_mixed_product(bias: str) -> None:
    before, after, report = rewrite(binarise.run, LINEAR.format(sign="neg(%x)", bias=bias), w=W)
    dots = "mul(mixed_linear(neg(x), [1.0, -1.0, 1.0, -1.0, 1.0, 1.0]), [0.5, 2.0])"
    assert show(after.outputs[0]) == (f"add({dots}, [0.5, -1.0])" if bias else dots)
    x = np.array([[1.5, 0.25, -2], [0, -4, 8]], F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()
    assert (report.binary_layers, report.mixed_layers, report.float_layers) == (0, 1, 0)
    assert why(report) == ["the weights are binary but the activations are not: real activations, one-bit weights"]


def test_weights_with_zeros_stay_float_under_real_activations() -> None:
    """-1, 0, +1 weights are a float layer: a zero is no +1."""
    weight = np.array([[0.5, -0.5, 0], [0, 2, 2]], F)
    before, after, report = rewrite(binarise.run, LINEAR.format(sign="neg(%x)", bias=""), w=weight)
    assert after.count() == before.count() and (report.mixed_layers, report.float_layers, report.zeros_in_weights) == (0, 1, 0)
    assert why(report) == ["2 of the weights are 0, which one bit cannot say: runs in float"]


def test_zeros_and_residue_of_weights_are_counted() -> None:
    """A lonely zero is +1; in a short row it is meant, and the product is half of two."""
    weight = np.array([[0.5, -0.5, 0.5], [-2, np.nextafter(F(2), F(3)), 2]], F)
    _, after, report = rewrite(binarise.run, LINEAR.format(sign="sign(%x)", bias=""), w=weight)
    assert "[1.0, -1.0, 1.0, -1.0, 1.0, 1.0]), [0.5, 2.0])" in show(after.outputs[0])
    assert report.zeros_in_weights == 0 and 0 < report.residue_max < 2e-7


@pytest.mark.parametrize("k", [255, 256])
def test_zeros_of_weights(k: int) -> None:
    w = np.where(np.arange(2 * k).reshape(2, k) % 3, F(0.5), F(-0.5))
    w[1, 7] = 0
    text = f"""graph @g(%x: f32[2x{k}]) -> (%y) {{
      %w = const @w : f32[2x{k}]
      %s = sign(%x) : f32[2x{k}]
      %y = linear(%s, %w) : f32[2x2]
    }}"""
    before, after, report = rewrite(binarise.run, text, w=w)
    x = np.random.default_rng(0).normal(size=(2, k)).astype(F)
    error = outputs(after, x)[0] - outputs(before, x)[0]
    assert after.count()["binary_linear"] == (2 if k < 256 else 1)
    assert (np.abs(error).max(), report.zeros_in_weights, len(report.declined)) == ((0, 0, 1) if k < 256 else (0.5, 1, 0))


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
def test_binary_conv_with_padding_dilation_or_groups(attrs: dict[str, object]) -> None:
    rng = np.random.default_rng(2)
    shape = tuple(map(int, str(attrs["w"]).split("x")))
    w = np.where(rng.random(shape) < 0.5, F(-0.5), F(0.5))
    before, after, report = rewrite(binarise.run, CONV.format(**attrs), w=w)
    assert after.count() == {"binarise": 1, "binary_conv2d": 1, "mul": 1} and not why(report)
    x = rng.standard_normal((1, 2, 4, 4)).astype(F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()


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
    x = np.array([[1, -2, 3], [-1, 4, -5]], F)
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
    assert why(report) == ["the weights are binary but the activations are not: real activations, one-bit weights"]


# -- signs that can be 0 ----------------------------------------------------------------------------------------------

TWICE = """graph @g(%x: f32[2x{k}]) -> (%y) {{
  %w = const @w : f32[2x{k}]
  %v = const [1, -1, 1, 1] : f32[2x2]
  %t = const [{shift}] : f32[]
  %s = sign(%x) : f32[2x{k}]
  %a = linear(%s, %w) : f32[2x2]
  %b = add(%a, %t) : f32[2x2]
  %c = sign(%b){zero} : f32[2x2]
  %y = linear(%c, %v) : f32[2x2]
}}"""


@pytest.mark.parametrize(
    ("k", "shift", "zero", "ternary"),
    [
        (4, 0.0, "", 1),  # an even sum of +-0.5 is 0 at times
        (4, 0.25, "", 0),  # never
        (4, -1.0, "", 1),  # at two of 0.5
        (2, -1.5, "", 0),  # three of 0.5: beyond two weights
        (4, 0.0, ' {"zero": 1}', 0),  # the source itself says what 0 is
    ],
)
def test_a_sign_of_integers_has_three_codes_where_zero_is_attained(k: int, shift: float, zero: str, ternary: int) -> None:
    w = F([[0.5, -0.5, 0.5, 0.5], [0.5, 0.5, -0.5, 0.5]])[:, :k]
    before, after, report = rewrite(binarise.run, TWICE.format(k=k, shift=shift, zero=zero), w=w)
    assert report.ternary_signs == ternary
    assert [bool(op.attrs.get("ternary")) for op in after.of_kind("binarise")] == [False, bool(ternary)]
    every = np.array(np.meshgrid(*[[-1, 1]] * k)).reshape(k, -1).T.astype(F)
    for x in every.reshape(-1, 2, k):
        assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()


def test_the_policy_can_make_zeros_positive() -> None:
    def positive(graph: Graph, report: Report) -> Graph:
        report.zeros = "positive"
        return binarise.run(graph, report)

    w = F([[0.5, -0.5, 0.5, 0.5], [0.5, 0.5, -0.5, 0.5]])
    _, after, report = rewrite(positive, TWICE.format(k=4, shift=0.0, zero=""), w=w)
    assert report.ternary_signs == 0 and not any(op.attrs for op in after.of_kind("binarise"))
    source, *_ = rewrite(binarise.run, TWICE.format(k=4, shift=0.0, zero=' {"zero": 1}'), w=w)
    x = F([[1, 1, 1, -1], [1, 1, 1, 1]])
    assert outputs(after, x)[0].tobytes() == outputs(source, x)[0].tobytes()


def test_a_float_layer_makes_no_lattice() -> None:
    w = F([[0.5, -0.25, 0.5, 0.5], [0.5, 0.5, -0.5, 0.5]])
    assert rewrite(binarise.run, TWICE.format(k=4, shift=0.0, zero=""), w=w)[2].ternary_signs == 0


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
