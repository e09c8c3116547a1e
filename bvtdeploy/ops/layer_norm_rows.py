"""layer_norm_rows: LayerNorm over the channels of every row, or over each of G groups of consecutive channels.

    in   x f32[N x C], gamma f32[1 x C], beta f32[1 x C]      out  f32[N x C]
    for each row and each group of n = C/G channels:
        mean = sum(x) * fp32(1/n);  d[c] = x[c] - mean;  var = sum(d^2) * fp32(1/n)      sums: `numerics.lane_sum`
        s = sqrt(var + eps);  r = 1 / s                                                    fp32, correctly rounded
    y[c] = fma(d[c] * r, gamma[c], beta[c])
    x may be f16, which is widened first
    attrs: groups G (default 1), eps       record: inputs[0..2] = x, gamma, beta; attr[0] = G, fattr[0] = eps
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, as_f32, expect, is_real, register
from bvtdeploy.ops.numerics import F32, fma, lane_sum, reciprocal


def check_norm(kind: str, x: Type, parameters: Sequence[Type], attrs: Attrs) -> None:
    """The shape rules that the row norms share."""
    expect(is_real(x) and len(x.shape) == 2 and x.size > 0, f"{kind} of {x}")
    groups = attrs.get("groups", 1)
    expect(groups > 0 and x.shape[1] % groups == 0, f"{kind}: {groups} groups of {x.shape[1]} channels")
    expect(all(t == f32(1, x.shape[1]) for t in parameters), f"{kind}: its parameters are one row of {x.shape[1]}")
    expect(0 <= float(attrs["eps"]) < float("inf"), f"{kind}: eps is {attrs['eps']}")


def moments(x: Array, groups: int, eps: float) -> tuple[F32, F32]:
    """(x - mean, sqrt(var + eps)), both [N x C]."""
    x = as_f32(x)
    rows, n = x.shape[0], x.shape[1] // groups
    parts = x.reshape(rows, groups, n)
    d = parts - (lane_sum(parts) * reciprocal(n))[..., None]
    deviation = np.sqrt(lane_sum(d, squares=True) * reciprocal(n) + np.float32(eps))
    return d.reshape(x.shape), np.repeat(deviation, n, axis=1)


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, gamma, beta = inputs
    check_norm("layer_norm_rows", x, (gamma, beta), attrs)
    return [f32(*x.shape)]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, gamma, beta = inputs
    d, s = moments(x, attrs.get("groups", 1), attrs["eps"])
    return [fma(d * (np.float32(1) / s), gamma, beta)]


register(OpDef("layer_norm_rows", _infer, _reference, compiled=True))
