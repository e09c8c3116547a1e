"""bgemm: +-1 rows times +-1 weights -> integer dots.

    in   x bits{-1,+1}[N x K; packed 1], weight bits{-1,+1}[O x K] (record: layout LANES16)      out  i32[N x O]
    y[n][o] = sum_k x[n][k] * weight[o][k] = K - 2*popcount(x[n] xor weight[o]);   any K >= 1, pad bits are zero in both
    record: inputs[0..1] = x, weight
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, Type, i32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register


def exact_matmul(a: Array, b: Array) -> Array:
    """Integer matmul through float32 BLAS: exact, because every partial sum of +-1 products stays below 2^24."""
    assert a.shape[-1] < 1 << 24
    return np.asarray(np.rint(a.astype(np.float32) @ b.astype(np.float32)).astype(np.int32))


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    expect(x.alphabet == w.alphabet == BIPOLAR and len(x.shape) == len(w.shape) == 2, f"bgemm of {x} with {w}")
    expect(x.shape[1] == w.shape[1], f"bgemm: K differs, {x} and {w}")
    return [i32(x.shape[0], w.shape[0])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [exact_matmul(inputs[0], inputs[1].T)]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=inputs[0].size * inputs[1].shape[0])


register(OpDef("bgemm", _infer, _reference, _cost, compiled=True))
