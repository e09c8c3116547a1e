"""The attention pass beyond {0, clip} codes: zero points, several levels, row maxima, biases; interpreter before == after."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import outputs, rewrite

from bvtdeploy.ir.graph import Op
from bvtdeploy.passes import attention

F = np.float32
M = np.array([0.5, -0.25, 0.125, 1], F)
X = np.random.default_rng(4).standard_normal((1, 2, 5, 4)).astype(F)

# Queries and keys are signs; {head}: what becomes of them, {bias}: scores %s1 to %s2, {levels}: probabilities %p to %a.
TEXT = """graph @g(%x: f32[1x2x5x4]) -> (%y) {{
  %scale = const [0.5] : f32[]
  %m = const @m : f32[4]
  %bias = const @bias : f32[1x2x5x5]
  %c1 = const {c1}
  %c2 = const {c2}
  %c3 = const {c3}
  %half = const [0.5] : f32[]
  %three = const [3.0] : f32[]
  %q0 = sign(%x) : f32[1x2x5x4]
  %xk = add(%x, %m) : f32[1x2x5x4]
  %k = sign(%xk) : f32[1x2x5x4]
  {codes}
  %kt = permute(%k) {{"perm": [0, 1, 3, 2]}} : f32[1x2x4x5]
  %s = matmul(%q, %kt) : f32[1x2x5x5]
  %s1 = mul(%s, %scale) : f32[1x2x5x5]
  {bias}
  %p = softmax(%s2) {{"axis": 3}} : f32[1x2x5x5]
  {levels}
  %y = matmul(%a, %v) : f32[1x2x5x4]  # attn
}}"""
NO_BIAS = '%s2 = reshape(%s1) {"shape": [1, 2, 5, 5]} : f32[1x2x5x5]'
PLAIN_CODES = """%q = reshape(%q0) {"shape": [1, 2, 5, 4]} : f32[1x2x5x4]
  %v = reshape(%k) {"shape": [1, 2, 5, 4]} : f32[1x2x5x4]"""
PLAIN_LEVELS = """%r = div(%p, %c1) : f32[1x2x5x5]
  %n = round(%r) : f32[1x2x5x5]
  %a = clamp(%n) {"max": 1.0, "min": 0.0} : f32[1x2x5x5]"""
SCALAR = "[0.3] : f32[]"


def fused(codes: str = PLAIN_CODES, bias: str = NO_BIAS, levels: str = PLAIN_LEVELS, *constants: str) -> Op:
    """The fused op; the results before and after agree to a rounding of the scale."""
    c1, c2, c3 = (*constants, SCALAR, SCALAR, SCALAR)[:3]
    text = TEXT.format(codes=codes, bias=bias, levels=levels, c1=c1, c2=c2, c3=c3)
    values = np.array([0, 0.5, -1, 2], F)[np.add.outer(np.arange(5), -np.arange(5)) % 4]
    table = np.stack([values, values.T])[None]
    before, after, report = rewrite(attention.run, text, m=M, bias=table)
    assert report.fused["attention"] == 1 and not report.declined and not {"softmax", "matmul"} & set(after.count())
    np.testing.assert_allclose(outputs(after, X)[0], outputs(before, X)[0], rtol=1e-5, atol=1e-6)
    (op,) = after.of_kind("binary_attention")
    return op


def given(op: Op, role: str) -> np.ndarray:
    return np.asarray(dict(zip(op.attrs["roles"], op.inputs, strict=True))[role].data)


def test_the_plain_form_needs_no_attributes() -> None:
    op = fused()
    assert not op.attrs and len(op.inputs) == 5


def test_scales_and_zero_points_of_the_codes() -> None:
    """q = 0.3*(sign - 2) and v = 0.3*(sign + 1), a scale a head; a term that a whole row of scores shares does not matter."""
    codes = """%q1 = mul(%q0, %c1) : f32[1x2x5x4]
  %q = add(%q1, %c2) : f32[1x2x5x4]
  %v1 = mul(%k, %c3) : f32[1x2x5x4]
  %v = add(%v1, %c3) : f32[1x2x5x4]"""
    op = fused(codes, NO_BIAS, PLAIN_LEVELS, "[0.3, 0.2] : f32[1x2x1x1]", "[-0.6, 0.2] : f32[1x2x1x1]", SCALAR)
    assert given(op, "ints").tolist() == [[2, -1], [-1, -1], [0, 0], [1, 1]]
    tables = given(op, "table")
    assert tables.shape == (2, 2 * 4 * 3 // 2 + 1) and np.array_equal(tables[:1], attention.softmax_table(12, 0.5 * F(0.3), 5))


def test_a_zero_point_that_is_no_integer_is_declined() -> None:
    codes = PLAIN_CODES.replace("%q = reshape(%q0)", "%q1 = add(%q0, %c1) : f32[1x2x5x4]\n  %q = reshape(%q1)")
    text = TEXT.format(codes=codes, bias=NO_BIAS, levels=PLAIN_LEVELS, c1=SCALAR, c2=SCALAR, c3=SCALAR)
    _, after, report = rewrite(attention.run, text, m=M, bias=np.zeros((1, 2, 5, 5), F))
    assert [d.why for d in report.declined] == ["the zero point of the codes is no integer"] and "softmax" in after.count()


def test_integers_that_are_no_floats_are_declined() -> None:
    """v = sign + 2^22: 5 keys, each up to 2^22 + 1."""
    codes = PLAIN_CODES.replace("%v = reshape(%k)", "%v1 = add(%k, %c2) : f32[1x2x5x4]\n  %v = reshape(%v1)")
    text = TEXT.format(codes=codes, bias=NO_BIAS, levels=PLAIN_LEVELS, c1=SCALAR, c2="[4194304.0] : f32[]", c3=SCALAR)
    _, after, report = rewrite(attention.run, text, m=M, bias=np.zeros((1, 2, 5, 5), F))
    (declined,) = report.declined
    assert declined.why == f"its integers reach {5 * (2**22 + 1)}, and beyond {2**24} not every one is a float"
    assert "softmax" in after.count()


@pytest.mark.parametrize("high", [2, 3])
def test_codes_of_more_bits(high: int) -> None:
    """round is half to even: p/step = 0.5 and 2.5 round down, 1.5 up."""
    op = fused(PLAIN_CODES, NO_BIAS, PLAIN_LEVELS.replace('"max": 1.0', f'"max": {high}.0'), "[0.125] : f32[]")
    assert given(op, "ints").tolist() == [[0, 0], [0, 0], [0, 0], *[[1, 1]] * high]
    assert op.attrs["inclusive"] == (False, True, False)[:high] and op.attrs["references"] == ("sum",) * high
    assert np.allclose(op.inputs[4].data, np.outer([0.5, 1.5, 2.5][:high], [0.125, 0.125]), rtol=1e-15)  # type: ignore[arg-type]


def test_signs_of_probabilities() -> None:
    """sign(p - c) with c a head's own number: +1 strictly above, -1 below; two levels with a base."""
    levels = """%r = sub(%p, %c1) : f32[1x2x5x5]
  %a = sign(%r) {"zero": -1} : f32[1x2x5x5]"""
    op = fused(PLAIN_CODES, NO_BIAS, levels, "[0.3, 0.15] : f32[1x2x1x1]")
    assert given(op, "ints").tolist() == [[0, 0], [0, 0], [-1, -1], [2, 2]] and op.attrs["inclusive"] == (False,)


def test_four_levels_that_are_no_multiples_of_one_number() -> None:
    """0.3*[p > 0.075] + 0.2*[p > 0.125] + 0.11*[p > 0.25]: real steps."""
    lines = [f"%half{i} = const [{0.5 * step}] : f32[]" for i, step in enumerate((0.3, 0.2, 0.11))]
    for i, cut in enumerate((0.075, 0.125, 0.25)):
        lines += [f"%t{i} = const [{cut}] : f32[]", f"%r{i} = sub(%p, %t{i}) : f32[1x2x5x5]"]
        lines += [f'%g{i} = sign(%r{i}) {{"zero": -1}} : f32[1x2x5x5]', f"%h{i} = mul(%g{i}, %half{i}) : f32[1x2x5x5]"]
        lines += [f"%u{i} = add(%h{i}, %half{i}) : f32[1x2x5x5]"]
    lines += ["%w = add(%u0, %u1) : f32[1x2x5x5]", "%a = add(%w, %u2) : f32[1x2x5x5]"]
    op = fused(PLAIN_CODES, NO_BIAS, "\n".join(lines))
    assert np.allclose(given(op, "real_steps"), np.outer([0.3, 0.2, 0.11], [1, 1])) and op.attrs["planes"] == 3
    assert op.out.type.elem == "f32" and "ints" not in op.attrs["roles"]


@pytest.mark.parametrize("keepdim", [True, False])
def test_a_threshold_relative_to_the_largest_of_the_row(keepdim: bool) -> None:
    """(sign(p - c*max(p)) + 1)/2, ties are ones."""
    top = '%t = reduce_max(%p) {"axes": [3], "keepdim": true} : f32[1x2x5x1]'
    if not keepdim:
        top = '%u = reduce_max(%p) {"axes": [3], "keepdim": false} : f32[1x2x5]\n'
        top += '%t = reshape(%u) {"shape": [1, 2, 5, 1]} : f32[1x2x5x1]'
    levels = f"""{top}
  %c = mul(%t, %c1) : f32[1x2x5x1]
  %r = sub(%p, %c) : f32[1x2x5x5]
  %n = sign(%r) {{"zero": 1}} : f32[1x2x5x5]
  %h = mul(%n, %half) : f32[1x2x5x5]
  %a = add(%h, %half) : f32[1x2x5x5]"""
    op = fused(PLAIN_CODES, NO_BIAS, levels, "[0.25] : f32[]")
    assert op.attrs["references"] == ("max",) and op.attrs["inclusive"] == (True,) and op.inputs[4].data is not None
    assert op.inputs[4].data.tolist() == [[0.25, 0.25]]


def test_levels_against_the_sum_and_against_the_maximum() -> None:
    """0.3*((b - m) + 2*m) with b = clamp(round(p/0.3)) and m = [p > 0.7*max(p)]: a quantiser of two references."""
    levels = (
        """%r = div(%p, %c1) : f32[1x2x5x5]
  %n = round(%r) : f32[1x2x5x5]
  %b = clamp(%n) {"max": 1.0, "min": 0.0} : f32[1x2x5x5]
  %t = reduce_max(%r) {"axes": [3], "keepdim": true} : f32[1x2x5x1]
  %c = mul(%t, %c2) : f32[1x2x5x1]
  %d = sub(%r, %c) : f32[1x2x5x5]
  %e = sign(%d) {"zero": -1} : f32[1x2x5x5]
  %h = mul(%e, %half) : f32[1x2x5x5]
  %m = add(%h, %half) : f32[1x2x5x5]
  %low = sub(%b, %m) : f32[1x2x5x5]
  %high = mul(%m, %c3) : f32[1x2x5x5]
  %both = add(%low, %high) : f32[1x2x5x5]
  %a = mul(%both, %c1) : f32[1x2x5x5]""".replace("%m ", "%mm ")
        .replace("%m,", "%mm,")
        .replace("%m)", "%mm)")
    )
    op = fused(PLAIN_CODES, NO_BIAS, levels, SCALAR, "[0.7] : f32[]", "[2.0] : f32[]")
    assert op.attrs["references"] == ("sum", "max") and given(op, "ints").tolist() == [[0, 0], [0, 0], [0, 0], [1, 1], [1, 1]]


def test_a_bias_on_the_scores_is_a_factor_of_the_weights() -> None:
    op = fused(PLAIN_CODES, "%s2 = add(%s1, %bias) : f32[1x2x5x5]")
    factors, pattern = given(op, "bias"), given(op, "pattern")
    assert pattern.shape == (5, 5) and given(op, "window_class").tolist() == [[0]] and factors.shape[1] == 2
    assert len(factors) < 25 and set(np.log(factors).round(6).ravel()) == {0, 0.5, -1, 2}  # equal pairs are stored once


def test_windows_of_two_kinds_share_their_patterns() -> None:
    """Three windows of one head: two without a mask, one that hides its last key; -100 is as good as minus infinity."""
    text = """graph @g(%x: f32[3x1x2x4]) -> (%y) {
      %mask = const @mask : f32[3x1x2x2]
      %clip = const [0.5] : f32[]
      %k = sign(%x) : f32[3x1x2x4]
      %kt = permute(%k) {"perm": [0, 1, 3, 2]} : f32[3x1x4x2]
      %s = matmul(%k, %kt) : f32[3x1x2x2]
      %s1 = add(%s, %mask) : f32[3x1x2x2]
      %p = softmax(%s1) {"axis": 3} : f32[3x1x2x2]
      %r = div(%p, %clip) : f32[3x1x2x2]
      %n = round(%r) : f32[3x1x2x2]
      %c = clamp(%n) {"max": 1.0, "min": 0.0} : f32[3x1x2x2]
      %y = matmul(%c, %k) : f32[3x1x2x4]
    }"""
    mask = np.zeros((3, 1, 2, 2), F)
    mask[1, :, :, 1] = -100
    before, after, _ = rewrite(attention.run, text, mask=mask)
    (op,) = after.of_kind("binary_attention")
    assert given(op, "window_class").tolist() in ([[0, 1, 0]], [[1, 0, 1]]) and given(op, "pattern").shape == (4, 2)
    x = np.random.default_rng(0).standard_normal((3, 1, 2, 4)).astype(F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()


def test_three_codes_have_scores_of_every_parity() -> None:
    """Queries that are signs of integers: 0 is one of them, and the table then has an entry for odd differences too."""
    text = """graph @g(%x: f32[1x1x3x4]) -> (%y) {
      %w = const @w : f32[4x4]
      %clip = const [0.3] : f32[]
      %k = sign(%x) : f32[1x1x3x4]
      %d = linear(%k, %w) : f32[1x1x3x4]
      %q = sign(%d) : f32[1x1x3x4]
      %kt = permute(%k) {"perm": [0, 1, 3, 2]} : f32[1x1x4x3]
      %s = matmul(%q, %kt) : f32[1x1x3x3]
      %p = softmax(%s) {"axis": 3} : f32[1x1x3x3]
      %r = div(%p, %clip) : f32[1x1x3x3]
      %n = round(%r) : f32[1x1x3x3]
      %c = clamp(%n) {"max": 1.0, "min": 0.0} : f32[1x1x3x3]
      %y = matmul(%c, %k) : f32[1x1x3x4]
    }"""
    w = F([[1, 1, 1, 1], [1, -1, 1, 1], [1, 1, -1, 1], [-1, -1, 1, 1]])
    before, after, report = rewrite(attention.run, text, w=w)
    (op,) = after.of_kind("binary_attention")
    assert op.attrs["unit"] == 1 and report.ternary_signs == 1 and op.inputs[3].type.shape == (1, 9)
    x = np.random.default_rng(1).standard_normal((1, 1, 3, 4)).astype(F)
    assert outputs(after, x)[0].tobytes() == outputs(before, x)[0].tobytes()
