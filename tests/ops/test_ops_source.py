"""Source ops: shapes, references at the edges, and what their shape rules refuse. Against torch: tests/frontend/test_ops.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bvtdeploy.ir.types import f32
from bvtdeploy.ops import REGISTRY


def apply(kind: str, x: Any, *rest: Any, **attrs: Any) -> Any:
    inputs = [np.asarray(v, np.float32) for v in (x, *rest)]
    (kind_of,) = REGISTRY[kind].infer([f32(*v.shape) for v in inputs], attrs)
    (out,) = REGISTRY[kind].reference(attrs, inputs)
    assert (kind_of.shape, out.dtype) == (out.shape, np.float32)
    return out


def test_sign_of_zero() -> None:
    x = [-1.0, -0.0, 0.0, 2.0, np.nan]
    assert apply("sign", x).tolist() == [-1, 0, 0, 1, 0]
    assert apply("sign", x, zero=1).tolist() == [-1, 1, 1, 1, 0]
    assert apply("sign", x, zero=-1).tolist() == [-1, -1, -1, 1, 0]


def test_edges() -> None:
    assert apply("gelu", [0.0, -20.0, 20.0]).tolist() == [0, 0, 20]
    assert apply("layer_norm", [[3.0, 3.0]], [1.0, 2.0], [5.0, 6.0], eps=1e-5).tolist() == [[5, 6]]
    assert apply("max_pool2d", -np.ones((1, 1, 2, 2)), kernel=(3, 3), stride=(1, 1), padding=(1, 1)).max() == -1
    assert apply("roll", [[1, 2, 3]], shifts=(1,), axes=(1,)).tolist() == [[3, 1, 2]]
    assert apply("take", [1, 2, 3], axis=0, indices=(2, 0, 0)).tolist() == [3, 1, 1]
    assert apply("reduce_max", [[1, 5], [7, 2]], axes=(0,), keepdim=True).tolist() == [[7, 5]]


@pytest.mark.parametrize(
    ("kind", "shapes", "attrs"),
    [
        ("layer_norm", [(2, 3), (2,), (3,)], {"eps": 1e-5}),
        ("max_pool2d", [(1, 1, 4, 4)], {"kernel": (3, 3), "stride": (1, 1), "padding": (2, 2)}),
        ("max_pool2d", [(4, 4)], {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0)}),
        ("roll", [(2, 3)], {"shifts": (1, 1), "axes": (0, 0)}),
        ("roll", [(2, 3)], {"shifts": (1,), "axes": (2,)}),
        ("take", [(3,)], {"axis": 0, "indices": (3,)}),
        ("reduce_max", [(3,)], {"axes": (1,), "keepdim": False}),
        ("sign", [(3,)], {"zero": 2}),
    ],
)
def test_refusals(kind: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=kind if kind != "reduce_max" else "maximum"):
        REGISTRY[kind].infer([f32(*s) for s in shapes], attrs)
