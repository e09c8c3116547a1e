"""How large the integers of products can be, and the dtype of their records that follows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bvtdeploy.ir import Graph, Type
from bvtdeploy.ir.graph import Value
from bvtdeploy.ir.types import bits
from bvtdeploy.lower.lowered import record_dtype
from bvtdeploy.ops.attention import PLAIN, attend_windows
from bvtdeploy.ops.dots import largest_dot


def attention(keys: int, windows: int = 1, ints: list[list[int]] | None = None, real: bool = False) -> Value:
    """The result of an attention of 8 queries a window, one head a column of `ints`, whose rows are zq, zv, base and the steps."""
    at: dict[str, Any] = {}
    heads, planes = (len(ints[0]), len(ints) - 3) if ints else (1, 1)
    graph = Graph("g")
    if ints:
        at["ints"] = np.array(ints, np.int32)
    if real:
        at["real_steps"] = np.ones((planes, heads), np.float32)
    at = {"table": np.ones((1, 100), np.uint64), "limit": np.zeros((planes, heads)), **at}
    inputs = [graph.add_input(n, bits(windows * r, 8 * heads, packed=1)) for n, r in (("q", 8), ("k", keys))]
    inputs.append(graph.add_input("v", bits(windows * keys, 8 * heads, packed=int(windows > 1))))
    elems = {"uint64": "u64", "float64": "f64", "int32": "i32", "float32": "f32"}
    inputs += [graph.constant(a, type=Type(elems[str(a.dtype)], a.shape)) for a in at.values()]
    attrs = {"heads": heads, "windows": windows, "planes": planes, "roles": (*PLAIN[:3], *at)}
    attrs |= {"references": ("sum",) * planes, "inclusive": (False,) * planes}
    return graph.append("attention", inputs, attrs)


@pytest.mark.parametrize(
    "keys,windows,ints,largest,dtype",
    [
        (32766, 1, None, 32766, "I16"),
        (32767, 1, None, 32767, "I32"),
        (300, 200, None, 300, "I16"),  # of a window
        (16383, 1, [[0], [0], [0], [1], [1]], 32766, "I16"),  # two planes
        (10923, 1, [[0], [0], [0], [1], [1], [1]], 32769, "I32"),
        (49, 4, [[5, 0], [3, -1], [1, 0], [-2, 9]], 49 * 9 * 2, "I16"),  # of the head that has more; no zero point of queries
        (49, 4, [[0, 0], [-222, 0], [1, 0], [-2, 9]], 49 * 3 * 223, "I32"),
        (1, 1, [[0], [-(2**31)], [2**31 - 1], [-(2**31)]], (2**31 + 1) * (2**32 - 1), "I32"),  # no overflow
    ],
)
def test_of_attention(keys: int, windows: int, ints: list[list[int]] | None, largest: int, dtype: str) -> None:
    value = attention(keys, windows, ints)
    assert largest_dot(value.producer) == largest and record_dtype(value) == dtype


def test_real_levels_give_no_dots() -> None:
    value = attention(5, real=True)
    assert largest_dot(value.producer) is None and record_dtype(value) == "F32"


def test_of_bgemm() -> None:
    for k, dtype in ((32766, "I16"), (32767, "I32")):
        graph = Graph("g")
        x = graph.add_input("x", bits(4, k, packed=1))
        weight = graph.constant(np.ones((3, k), np.int8), type=bits(3, k))
        value = graph.append("bgemm", [x, weight])
        assert largest_dot(value.producer) == k and record_dtype(value) == dtype


def test_of_other_ops() -> None:
    graph = Graph("g")
    x = graph.add_input("x", Type("f32", (4, 6)))
    assert largest_dot(None) is None and largest_dot(graph.append("channel_pool", [x], {"group": 2}).producer) is None


def test_the_largest_result_is_reached() -> None:
    """All keys are taken, and all values are the farthest from their zero point."""
    ints = [[0], [-4], [3], [2], [5]]
    at = {"table": np.ones((1, 100), np.uint64), "limit": np.zeros((2, 1)), "ints": np.array(ints, np.int32)}
    attrs = {"planes": 2, "references": ("sum",) * 2, "inclusive": (False,) * 2}
    codes = np.ones((1, 7, 8), np.int8)
    result = attend_windows(attrs, at, 0, codes, codes, codes)
    assert int(result.max()) == largest_dot(attention(7, 1, ints).producer) == 7 * (3 + 2 + 5) * 5
