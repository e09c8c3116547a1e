"""The attention pass: what is recognised, and each condition that must hold."""

from __future__ import annotations

import numpy as np
import pytest
from minimodel import Builder, Config
from rewriting import outputs, rewrite, why

from bvtdeploy.ir import Graph, Value, f32
from bvtdeploy.ir.verify import verify
from bvtdeploy.passes import attention, fold
from bvtdeploy.passes.base import Report

F = np.float32

TEXT = """graph @g(%x: f32[1x2x5x4]) -> (%y{more}) {{
  %clip = const {clip}
  %scale = const {scale}
  %gain = const [0.25] : f32[]
  %q = {q} : f32[1x2x5x4]
  %m = const @m : f32[4]
  %xk = add(%x, %m) : f32[1x2x5x4]
  %k = sign(%xk) : f32[1x2x5x4]
  %kt = permute(%k) {{"perm": [0, 1, 3, 2]}} : f32[1x2x4x5]
  %s = matmul(%q, %kt) : f32[1x2x5x5]
  %s1 = {by}(%s, %scale) : f32[1x2x5x5]
  %p = softmax(%s1) {{"axis": {axis}}} : f32[1x2x5x5]
  %r = div(%p, %clip) : f32[1x2x5x5]
  %n = round(%r) : f32[1x2x5x5]
  %c = clamp(%n) {{"max": {high}, "min": {low}}} : f32[1x2x5x5]
  %a = mul(%c, %gain) : f32[1x2x5x5]
  %y = matmul(%a, %k) : f32[1x2x5x4]  # attn
}}"""
GOOD = {
    "clip": "[0.3] : f32[]", "scale": "[0.5] : f32[]", "q": "sign(%x)", "by": "mul", "axis": "-1",
    "low": "0.0", "high": "1.0", "more": "",
}  # fmt: skip
M = np.array([0.5, -0.25, 0, 1], F)
X = np.random.default_rng(4).standard_normal((1, 2, 5, 4)).astype(F)


ROWS = np.arange(1, 6, dtype=F).reshape(1, 1, 5, 1)


def attended(**changes: str) -> tuple[Graph, Graph, Report]:
    return rewrite(attention.run, TEXT.format(**{**GOOD, **changes}), m=M)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"by": "div", "scale": "[2.0] : f32[]"},
        {"axis": "3"},
        {"clip": "[0.3, 0.3] : f32[1x2x1x1]"},  # the same number for every head
        {"clip": "[0.02] : f32[]"},
        {"clip": "[2.5] : f32[]"},
        {"clip": "[0.3, 0.2] : f32[1x2x1x1]"},
        {"scale": "[0.5, 0.2] : f32[1x2x1x1]"},
        {"high": "3.0", "clip": "[0.1] : f32[]"},  # 2-bit codes
        {"high": "2.0", "clip": "[0.2] : f32[]"},
        {"low": "1.0", "high": "2.0", "clip": "[0.2] : f32[]"},
        {"more": ", %s"},  # the scores' product is also read elsewhere: it simply stays
    ],
)
def test_recognised(changes: dict[str, str]) -> None:
    before, after, report = attended(**changes)
    kept = {"sign": 2, "matmul": 1} if "more" in changes else {}
    assert after.count() == {"add": 1, "binarise": 2, "binary_attention": 1, "mul": 1, "permute": 2 + bool(kept), **kept}
    assert report.fused["attention"] == 1 and not report.declined and after.outputs[0].name == "y"
    for a, b in zip(outputs(after, X), outputs(before, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", ["[0.5, -0.2] : f32[1x2x1x1]", "[-0.5] : f32[]"])
def test_a_negative_scale_turns_the_queries(scale: str) -> None:
    before, after, report = attended(scale=scale)
    assert report.fused["attention"] == 1 and not report.declined and "softmax" not in after.count()
    table = after.of_kind("binary_attention")[0].inputs[3].data
    assert table is not None and (np.diff(table.astype(np.float64), axis=1) <= 0).all()
    for a, b in zip(outputs(after, X), outputs(before, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=0)


def test_attributes_say_scale_and_clip() -> None:
    op = attended()[1].of_kind("binary_attention")[0]
    assert op.inputs[3].data is not None and np.array_equal(op.inputs[3].data, attention.softmax_table(4, 0.5, 5))
    assert op.inputs[4].data is not None and np.allclose(op.inputs[4].data, [[0.5 * F(0.3)] * 2], rtol=1e-15)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clip": "[-0.3] : f32[]"}, "the probability threshold is -0.15: the step of the quantiser must be positive"),
        ({"clip": "[0.0] : f32[]"}, "the probability step is 0: it must be positive"),
        ({"clip": "@nan : f32[1]"}, "the probability step is 0, or changes its sign between heads"),
        ({"clip": "[0.3, -0.2] : f32[1x2x1x1]"}, "the probability step is 0, or changes its sign between heads"),
        ({"clip": "@rows : f32[1x1x5x1]"}, "the probability threshold is not one number a head"),
        ({"scale": "@rows : f32[1x1x5x1]"}, "the score scale is not one number a head"),
        ({"scale": "[0.0] : f32[]"}, "the score scale is not finite or 0"),
        ({"scale": "[0.0] : f32[]", "by": "div"}, "the score scale is not finite or 0"),
        ({"low": "-1.0"}, "the probability threshold is -0.15: the step of the quantiser must be positive"),
        ({"high": "4.0"}, "the probabilities are clamped to 0.0..4.0: two to four integer levels are supported"),
        ({"high": "0.5"}, "the probabilities are clamped to 0.0..0.5: two to four integer levels are supported"),
        ({"axis": "2"}, "the softmax is not over the keys"),
        ({"q": "neg(%x)"}, "query codes are not binary"),
        ({"more": ", %p"}, "an intermediate of the attention is also read elsewhere"),
        ({"more": ", %n"}, "an intermediate of the attention is also read elsewhere"),
    ],
)
def test_declined(changes: dict[str, str], reason: str) -> None:
    text = TEXT.format(**{**GOOD, **changes})
    _, after, report = rewrite(attention.run, text, m=M, nan=np.array([np.nan], F), rows=ROWS)
    assert "binary_attention" not in after.count() and after.count()["matmul"] == 2
    assert [w for w in why(report) if w] == [reason]


def test_what_is_not_attention_is_passed_over_in_silence() -> None:
    text = "graph @g(%x: f32[1x2x2x2]) -> (%y) {\n%y = matmul(%x, %x) : f32[1x2x2x2]\n}"
    _, after, report = rewrite(attention.run, text)
    assert after.count() == {"matmul": 1} and not report.declined


def test_the_scaled_codes_that_are_an_output_stay() -> None:
    """a = clip * codes is also returned: nothing of the float side may be dropped."""
    before, after, report = attended(more=", %a")
    for a, b in zip(outputs(before, X), outputs(after, X), strict=True):
        assert a.tobytes() == b.tobytes()
    assert report.fused["attention"] in (0, 1)


def test_two_attentions_share_their_codes() -> None:
    b = Builder(Config())
    x = b.g.add_input("x", f32(1, 6, 16))
    t: Value = b.op("add", b.attention(x, x, x), b.attention(x, x, x))
    b.g.set_outputs([t])
    report = Report()
    graph = attention.run(fold.run(b.g, report), report)
    verify(graph)
    assert report.fused["attention"] == 2 and "softmax" not in graph.count()
