"""bgemm: +-1 rows (or rows with zeros) times +-1 weights -> integer dots.

    in   x bits{-1,+1}[N x K; packed 1] or bits{-1,0,+1} likewise, weight bits{-1,+1}[O x K/G] (record: a layout of weights)
    out  i32[N x O]
    y[n][o] = sum_j x[n][g*K/G + j] * weight[o][j],  g = o / (O/G): G segments of the row, each with its own O/G outputs
    of +-1 rows, with K' = K/G: K' - 2*popcount(x xor weight);  of rows with zeros (planes s: code is +1, m: code is not 0):
    popcount(m) - 2*popcount((s xor weight) and m);   any K' >= 1, pad bits are zero in all
    attrs: groups G (default 1)       record: inputs[0..1] = x, weight; attr[0] = G (0: 1)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, TERNARY, Type, i32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register


def exact_matmul(a: Array, b: Array) -> Array:
    """Integer matmul through float32 BLAS: exact, because every partial sum of products of -1, 0, +1 stays below 2^24."""
    assert a.shape[-1] < 1 << 24
    return np.asarray(np.rint(a.astype(np.float32) @ b.astype(np.float32)).astype(np.int32))


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    codes = x.alphabet in (BIPOLAR, TERNARY) and w.alphabet == BIPOLAR
    expect(codes and len(x.shape) == len(w.shape) == 2, f"bgemm of {x} with {w}")
    groups = attrs.get("groups", 1)
    expect(groups > 0 and x.shape[1] == groups * w.shape[1], f"bgemm: K differs, {x} and {w} in {groups} groups")
    expect(w.shape[0] % groups == 0, f"bgemm: {groups} groups of {w.shape[0]} outputs")
    return [i32(x.shape[0], w.shape[0])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, w = inputs
    groups = attrs.get("groups", 1)
    k, o = w.shape[1], w.shape[0] // groups
    parts = [exact_matmul(x[:, g * k : (g + 1) * k], w[g * o : (g + 1) * o].T) for g in range(groups)]
    return [np.concatenate(parts, axis=1)]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=inputs[0].shape[0] * inputs[1].size)


register(OpDef("bgemm", _infer, _reference, _cost, compiled=True))
