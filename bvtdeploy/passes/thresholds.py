"""thresholds: signs of scaled and shifted integers become compares of the integers.

    code = [f(s) >= t]   with s an integer dot and f the very fp32 chain of the epilogue (scale, shift, PReLU, scale, shift)
         = [s >= T],  T the smallest attainable s with f(s) >= t, found by bisection on f itself

Correctly rounded fp32 multiplications and additions by constants are weakly monotone, and so is a PReLU of slope a >= 0, wherever
its knee k is: v + (a-1)*min(v, k) is continuous, rises by 1 + fp32(a-1) >= 0 below k and by 1 above, and is rounded once. So f is
monotone, and the bisection is exact: no division, no rounding of thresholds. Where f falls (a negative scale), the channel's
weights change their signs, -s is what the product gives, and f(-s) rises. Three codes have two thresholds, found likewise.

Legality: only codes are read (a real result keeps its epilogue), no residual stands in between; a channel is turned only where the
epilogue is the product's single reader. |s| is at most K, or what the levels of an attention allow; always and never are the
ends of that range, exact in fp32 below 2^24.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, single_use
from bvtdeploy.ir.types import bits
from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.dots import largest_dot
from bvtdeploy.ops.epilogue import RESIDUALS, THRESHOLDS
from bvtdeploy.passes.base import BITWISE, Pass, Report


def _chain(op: Op) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """Attributes and parameters of the epilogue as a function x -> f32."""
    kept = [(r, v.data) for r, v in zip(op.attrs["roles"], op.inputs, strict=True) if r != "x" and r not in THRESHOLDS]
    attrs = {"roles": ("x", *(r for r, _ in kept)), "results": ("f32",), "factors": (), "width": 0, "packed": ()}
    return attrs, [np.asarray(data) for _, data in kept]


def _rewrite(graph: Graph, op: Op, report: Report) -> bool:
    product = op.inputs[0].producer
    roles = op.attrs["roles"]
    bound = largest_dot(product)
    if product is None or bound is None:
        return False
    if "f32" in op.attrs["results"] or any(r in RESIDUALS for r in roles) or len(roles) == 1 + len(op.attrs["packed"]):
        return False
    at = {r: np.asarray(v.data) for r, v in zip(roles, op.inputs, strict=True) if r != "x"}
    channels = op.inputs[0].type.shape[1]
    if "slope" in at and bool((at["slope"] < 0).any()):
        report.decline(op, "a negative PReLU slope: its sign is no single threshold")
        return False
    turn = np.ones(channels, np.int64)
    for name in ("scale", "scale2"):
        if name in at:
            turn = np.where(at[name][0] < 0, -turn, turn)
    if bound >= 1 << 23:
        return False
    if bool((turn < 0).any()):
        weight = product.inputs[1].data
        if product.kind != "bgemm" or weight is None or not single_use(op.inputs[0], graph):
            report.decline(op, "a negative scale, and the product cannot be turned")
            return False
        turned = (weight * turn[:, None]).astype(np.int8)
        graph.set_input(product, 1, graph.constant(turned, before=product, type=bits(*turned.shape)))
    attrs, parameters = _chain(op)

    def chain(s: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        x = (s * turn).astype(np.int32).reshape(1, -1)
        with np.errstate(all="ignore"):
            return np.asarray(REGISTRY["epilogue"].reference(attrs, [x, *parameters])[0][0])

    def smallest(t: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        low, high = np.full(channels, -bound, np.int64), np.full(channels, bound + 1, np.int64)
        while bool((low < high).any()):
            middle = (low + high) >> 1
            reached = chain(middle) >= t
            open_ = low < high
            high = np.where(open_ & reached, middle, high)
            low = np.where(open_ & ~reached, middle + 1, low)
        return low.astype(np.float32)

    new = [graph.constant(np.stack([smallest(t) for t in at[r]]), before=op) for r in THRESHOLDS if r in at]
    plain = {**op.attrs, "roles": ("x", *(r for r in THRESHOLDS if r in at))}
    merged = graph.create("epilogue", [op.inputs[0], *new], plain, module=op.module, before=op)
    for old, fresh in zip(op.outputs, merged.outputs, strict=True):
        graph.supersede(old, fresh)
    graph.remove(op)
    report.fused["integer thresholds"] += 1
    return True


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites every epilogue that only makes codes of integers."""
    for op in graph.of_kind("epilogue"):
        _rewrite(graph, op, report)
    graph.drop_dead()
    return graph


PASS = Pass("thresholds", "signs of scaled integers compare the integers", BITWISE, run)
