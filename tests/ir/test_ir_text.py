"""The text form: what is printed parses to the same graph; what does not parse says where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from minimodel import Config, chain, codes, compiled, image, mini

from bvtdeploy.ir import Graph, Type, bits, f32, i32
from bvtdeploy.ir.text import constants, parse, print_graph
from bvtdeploy.ir.types import ALPHABETS
from bvtdeploy.ir.verify import verify


def again(graph: Graph) -> Graph:
    result = parse(print_graph(graph), constants(graph))
    verify(result)
    assert print_graph(result) == print_graph(graph)
    return result


@pytest.mark.parametrize("graph", [mini(), compiled()[0]], ids=["source", "compiled"])
def test_round_trip(graph: Graph) -> None:
    """Multi-output epilogues, u64 and f64 tables, bits constants and modules are all in these graphs."""
    result, x = again(graph), image(Config())
    assert [op.module for op in result.ops if op.kind != "const"] == [op.module for op in graph.ops if op.kind != "const"]
    assert codes(result, x)[0].tobytes() == codes(graph, x)[0].tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.array([np.nan, np.inf, -np.inf], np.float32),
        np.array([-0.0, 1e-45, 3.4e38], np.float32),
        np.array(0.1, np.float64),
        np.array([1 << 63], np.uint64),
        np.array([True, False]),
        np.array([-(2**31)], np.int32),
        np.zeros((0, 3), np.float32),
        np.arange(6, dtype=np.float32),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_constants_keep_their_bits(array: np.ndarray) -> None:
    graph = Graph("c")
    graph.set_outputs([graph.constant(array, "k")])
    data = again(graph).outputs[0].data
    assert data is not None and data.dtype == array.dtype and data.tobytes() == array.tobytes()


def test_few_codes_stand_in_the_text() -> None:
    graph = Graph("c")
    graph.set_outputs([graph.constant(np.array([[1, -1]], np.int8), "w", type=bits(1, 2))])
    assert "%w = const [1, -1] : bits{-1,+1}[1x2]" in print_graph(graph)
    assert constants(again(graph)) == {}


HEAD = "graph @g(%x: f32[2x3]) -> (%y) {\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("%y = nonsense", "neither a constant nor an op"),
        ("%y = sing(%x) : f32[2x3]", "unknown op kind 'sing'"),
        ("%y = sign(%z) : f32[2x3]", "%z|z"),
        ("%y = sign(%x) : f32[3x2]", r"the types are \['f32\[2x3\]'\]"),
        ("%y = add(%x, %x, %x) : f32[2x3]", "elementwise"),
        ('%y = permute(%x) {"perm": [0, 0]} : f32[2x3]', "permute"),
        ("%y = permute(%x) : f32[2x3]", "perm"),
        ('%y = permute(%x) {"perm": } : f32[2x3]', "Expecting value"),
        ("%y = const @y : f32[2]", "y"),
        ("%y = const [1, 2, 3] : f32[2]", "reshape"),
        ("%y = const [1] : f17[1]", "unknown element kind"),
    ],
)
def test_a_line_that_is_not_understood_is_named(line: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse(HEAD + "  " + line + "\n}")
    assert line in str(caught.value)


@pytest.mark.parametrize("text", ["", "graph @g() {}", HEAD + "%y = sign(%x) : f32[2x3]"])
def test_not_a_graph(text: str) -> None:
    with pytest.raises(ValueError, match="not a graph"):
        parse(text)


@given(
    st.builds(
        lambda elem, shape, alphabet, axis: Type(
            elem,
            tuple(shape),
            alphabet if elem == "bits" else "",
            axis % len(shape) if elem == "bits" and shape and axis is not None else None,
        ),
        st.sampled_from(["f32", "i32", "bits", "u64", "f64", "bool"]),
        st.lists(st.integers(0, 1000), max_size=4),
        st.sampled_from(ALPHABETS),
        st.none() | st.integers(0, 3),
    )
)
def test_types_round_trip(type: Type) -> None:
    assert Type.parse(str(type)) == type


@pytest.mark.parametrize(
    "text", ["", "f32", "f32[2", "f32[2x]", "f32{-1,+1}[2]", "bits[2]", "bits{2}[2]", "f32[2; packed 0]", "f33[1]"]
)
def test_not_a_type(text: str) -> None:
    with pytest.raises(ValueError):
        Type.parse(text)


def test_shorthands() -> None:
    assert [str(t) for t in (f32(), i32(2), bits(2, 8, packed=1))] == ["f32[]", "i32[2]", "bits{-1,+1}[2x8; packed 1]"]


def test_names_of_values_are_taken_from_the_text() -> None:
    graph = chain((1, 4), lambda b, t: b.op("sign", t))
    assert [v.name for v in again(graph).values()] == [v.name for v in graph.values()]
