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
    ],
)
def test_recognised(changes: dict[str, str]) -> None:
    before, after, report = attended(**changes)
    assert after.count() == {"add": 1, "binarise": 2, "binary_attention": 1, "mul": 1, "permute": 2}
    assert report.fused["attention"] == 1 and not report.declined and after.outputs[0].name == "y"
    assert outputs(after, X)[0].tobytes() == outputs(before, X)[0].tobytes()


def test_attributes_say_scale_and_clip() -> None:
    op = attended()[1].of_kind("binary_attention")[0]
    assert op.inputs[3].data is not None and np.array_equal(op.inputs[3].data, attention.softmax_table(4, 0.5, 5))
    assert op.inputs[4].data is not None and np.allclose(op.inputs[4].data, [[0.5 * F(0.3)] * 2], rtol=1e-15)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"clip": "[-0.3] : f32[]"}, "the probability step is -0.3: it must be positive"),
        ({"clip": "[0.0] : f32[]"}, "the probability step is 0: it must be positive"),
        ({"clip": "@nan : f32[1]"}, "the probability step is not one number"),
        ({"clip": "[0.3, 0.2] : f32[1x2x1x1]"}, "the probability step is not one number"),
        ({"scale": "[0.5, 0.2] : f32[1x2x1x1]"}, "the score scale is not one number"),
        ({"scale": "[-0.5] : f32[]"}, "the score scale is -0.5: it must be positive"),
        ({"scale": "[0.0] : f32[]"}, "the score scale is 0: it must be positive"),
        ({"scale": "[0.0] : f32[]", "by": "div"}, "the score scale is inf: it must be positive"),
        ({"low": "-1.0"}, "the probabilities are clamped to -1.0..1.0, not to 0..1"),
        ({"high": "3.0"}, "the probabilities are clamped to 0.0..3.0, not to 0..1"),
        ({"axis": "2"}, "the softmax is not over the keys"),
        ({"q": "neg(%x)"}, "query codes are not binary"),
        ({"more": ", %s"}, "an intermediate of the attention is also read elsewhere"),
        ({"more": ", %n"}, "an intermediate of the attention is also read elsewhere"),
    ],
)
def test_declined(changes: dict[str, str], reason: str) -> None:
    text = TEXT.format(**{**GOOD, **changes})
    _, after, report = rewrite(attention.run, text, m=M, nan=np.array([np.nan], F))
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
