"""dense: f32 rows times f32 weights, plus a bias.

    in   x f32[N x K], weight f32[K x O], optional bias f32[1 x O]      out  f32[N x O]
    y[n][o]: acc = +0; for k = 0 .. K-1: acc = fma(x[n][k], weight[k][o], acc);  y = acc + bias[o] (if there is a bias)
    record: inputs[0..2] = x, weight, bias
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register
from bvtdeploy.ops.numerics import fma


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs[:2]
    expect(len(inputs) in (2, 3) and x.elem == w.elem == "f32" and x.shape[1] == w.shape[0], f"dense of {x} with {w}")
    expect(len(inputs) == 2 or inputs[2] == f32(1, w.shape[1]), "the bias of dense is one row of all outputs")
    return [f32(x.shape[0], w.shape[1])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, w = inputs[:2]
    acc = np.zeros((x.shape[0], w.shape[1]), np.float32)
    for k in range(w.shape[0]):
        acc = fma(x[:, k : k + 1], w[k : k + 1], acc)
    return [acc + inputs[2] if len(inputs) == 3 else acc]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=inputs[0].size * inputs[1].shape[1])


register(OpDef("dense", _infer, _reference, _cost, compiled=True))
