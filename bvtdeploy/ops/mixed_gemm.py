"""mixed_gemm: f32 rows times +-1 weights: sums and differences of activations.

    in   x f32[N x K], weight bits{-1,+1}[O x K] (record: layout LANES16)      out  f32[N x O]
    y[n][o]: acc = +0; for k = 0 .. K-1: acc = acc + (weight[o][k] > 0 ? x[n][k] : -x[n][k])
    record: inputs[0..1] = x, weight
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, Type, f32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    expect(x.elem == "f32" and w.alphabet == BIPOLAR and len(x.shape) == len(w.shape) == 2, f"mixed_gemm of {x} with {w}")
    expect(x.shape[1] == w.shape[1], f"mixed_gemm: K differs, {x} and {w}")
    return [f32(x.shape[0], w.shape[0])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, w = inputs
    acc: Array = np.zeros((x.shape[0], w.shape[0]), np.float32)
    weight = w.T.astype(np.float32)
    for k in range(x.shape[1]):
        acc = acc + x[:, k : k + 1] * weight[k : k + 1]  # times +-1: exact
    return [acc]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=inputs[0].size * inputs[1].shape[0])


register(OpDef("mixed_gemm", _infer, _reference, _cost, compiled=True))
