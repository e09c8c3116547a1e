"""patch_embed: the first float products of the image become dense_i8, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from rewriting import outputs, rewrite, show, why

from bvtdeploy.ir import Graph, Type
from bvtdeploy.ir.text import constants, parse, print_graph
from bvtdeploy.passes import patch_embed, side
from bvtdeploy.passes.base import Report

PATCHES = '{"channels": 1, "height": 4, "kernel": 2, "stride": 2, "width": 4}'
TEXT = f"""
graph @g(%image: f32[4x4]) -> (%logits) {{
  %rows = patches(%image) {PATCHES} : f32[4x4]
  %w = const @w : f32[4x2]
  %b = const [10, 20] : f32[1x2]
  %embedded = dense(%rows, %w, %b) : f32[4x2]  # patch_embed.proj
  %head = const @head : f32[2x3]
  %logits = dense(%embedded, %head) : f32[4x3]  # head
}}
"""
W = np.array([[127, 1], [-1, -2], [0, 0.5], [63.5, 4]], np.float32)
HEAD = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_the_first_product_and_no_other() -> None:
    before, after, report = rewrite(patch_embed.run, TEXT, w=W, head=HEAD)
    rows = f"patches(image){PATCHES}".replace(', "stride": 2', "")  # which show() leaves out
    embedded = f"dense_i8({rows}, [127.0, -1.0, 0.0, 64.0, 32.0, -64.0, 16.0, 127.0], [1.0, 0.0314961], [10.0, 20.0])"
    assert show(after.outputs[0]) == f"dense({embedded}, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])"
    (op,) = after.of_kind("dense_i8")
    assert (op.out.name, op.module) == ("embedded", "patch_embed.proj"), "reports find the layer again"
    assert op.inputs[1].type == Type("i8", (2, 4)) and not any(v.name == "w" for v in after.values())
    assert report.fused["patch embedding -> int8"] == 1 and not report.declined
    x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    (exact,), (rounded,) = outputs(before, x), outputs(after, x)
    assert 0 < np.abs(exact - rounded).max() < 0.02 * np.abs(exact).max()


def test_the_text_round_trips() -> None:
    _, after, _ = rewrite(patch_embed.run, TEXT, w=W, head=HEAD)
    text = print_graph(after)
    assert " : i8[2x4]" in text
    assert print_graph(parse(text, constants(after))) == text


def test_a_padded_stem_and_two_products_of_the_image() -> None:
    """The rows of a padded convolution come from pixels; another product may read them too."""
    text = """
    graph @g(%image: f32[4x4]) -> (%sum) {
      %pixels = patches(%image) {"channels": 1, "height": 4, "kernel": 1, "stride": 1, "width": 4} : f32[16x1]
      %rows = row_patches(%pixels) {"height": 4, "kernel": 3, "padding": 1, "stride": 2, "width": 4} : f32[4x9]
      %w = const @w : f32[9x2]
      %v = const @v : f32[9x2]
      %a = dense(%rows, %w) : f32[4x2]
      %b = dense(%rows, %v) : f32[4x2]
      %sum = multiply(%a, %b) : f32[4x2]
    }
    """
    w = np.random.default_rng(1).standard_normal((9, 2)).astype(np.float32)
    _, after, report = rewrite(patch_embed.run, text, w=w, v=-w)
    assert after.count() == {"dense_i8": 2, "multiply": 1, "patches": 1, "row_patches": 1}
    assert report.fused["patch embedding -> int8"] == 2


def test_what_stays_says_why() -> None:
    broken = W.copy()
    broken[1, 1] = np.inf
    before, after, report = rewrite(patch_embed.run, TEXT, w=broken, head=HEAD)
    assert print_graph(after) == print_graph(before) and why(report) == ["it stays fp32: a weight is not finite"]
    text = """
    graph @g(%x: f32[2x4]) -> (%y) {
      %y = activation(%x) {"kind": "gelu"} : f32[2x4]
    }
    """
    _, _, report = rewrite(patch_embed.run, text)
    assert why(report) == ["it stays as it is: no float product reads the image"]


def test_more_columns_than_a_sum_of_32_bits_holds() -> None:
    graph = Graph("g")
    x = graph.add_input("x", Type("f32", (1, (1 << 17) + 1)))
    graph.set_outputs([graph.append("dense", [x, graph.constant(np.ones(((1 << 17) + 1, 1), np.float32))])])
    report = Report()
    patch_embed.run(graph, report)
    assert graph.count() == {"dense": 1} and why(report) == ["it stays fp32: more than 131072 columns"]


@pytest.mark.parametrize("how", ["fp16", "int8"])
def test_side_parameters_beside_it(how: str) -> None:
    """Its scales are rounded as scales are, its bias as everything is; codes stay."""
    _, after, _ = rewrite(patch_embed.run, TEXT, w=W * np.float32(0.3), head=HEAD)
    report = Report(side=how)  # type: ignore[arg-type]
    side.run(after, report)
    (op,) = after.of_kind("dense_i8")
    marks = [v.producer.attrs.get("stored") for v in op.inputs[1:] if v.producer is not None]
    assert marks == [None, "F16", "F16"] and not report.declined
    scales = op.inputs[2].data
    assert scales is not None and (scales == scales.astype(np.float16)).all() and (scales > 0).all()
    _, small, _ = rewrite(patch_embed.run, TEXT, w=W * np.float32(1e-5), head=HEAD)
    report = Report(side=how)  # type: ignore[arg-type]
    side.run(small, report)
    assert why(report) == ["it stays fp32: a scale is below 2^-14, where fp16 loses its bits"]
