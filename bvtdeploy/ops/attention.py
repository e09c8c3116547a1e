"""attention: binary attention in integers, with a table in place of exp and one integer threshold a row.

    in   q bits{-1,+1}[N x h*d; packed 1], k bits{-1,+1}[M x h*d; packed 1], v bits{-1,+1}[M x h*d; packed 0],
         table u64[1 x d+1] (non-increasing, table[0]*M < 2^53), limit f64[1 x h]                 out  i32[N x h*d]
    for each head and query row i:
        p_j = popcount(q_i xor k_j) over the head's d bits        (dot_j = d - 2*p_j)
        m_j = p_j - min_j p_j                                     (0 .. d; the score is exp(-2*scale*m_j) up to a row factor)
        Z   = sum_j table[m_j]                                    (u64, exact, any order)
        lim = limit[head] * float64(Z)                            (one fp64 product)
        T   = (number of m in 0 .. d with float64(table[m]) > lim) - 1
        a_j = m_j <= T ? 1 : 0
        out[i][c] = sum_j a_j * v[j][c] = 2*popcount(a and v_c) - popcount(a)

Source: BinaryViT (Le & Li 2023, arXiv 2306.16678), whose code computes a = clip*clamp(round(p/clip), 0, 1). Rounding half to even
makes that clip where p > clip/2 (strictly) and 0 elsewhere; p_j = table[m_j]/Z, so limit = clip/2. The factor clip itself goes into
the following scale.
    attrs: heads h        record: inputs[0..4] = q, k, v (layout COLS), table, limit; attr[0] = heads; N is the row space
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, Type, i32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register
from bvtdeploy.ops.bgemm import exact_matmul


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    q, k, v, table, limit = inputs
    heads = attrs["heads"]
    expect(q.alphabet == k.alphabet == v.alphabet == BIPOLAR, "attention: q, k, v are +-1 codes")
    expect(q.packed == k.packed == 1 and v.packed == 0, "attention: q and k are packed along channels, v along tokens")
    expect(k.shape == v.shape and q.shape[1] == k.shape[1] and q.shape[1] % heads == 0, f"attention of {q}, {k}, {v}")
    d = q.shape[1] // heads
    expect(table == Type("u64", (1, d + 1)) and limit == Type("f64", (1, heads)), "attention: table of d+1, limit a head")
    return [i32(*q.shape)]


def attend(q: Array, k: Array, v: Array, table: Array, limit: float) -> Array:
    """One head: codes q[N x d], k[M x d], v[M x d] -> i32[N x d], as defined above."""
    d = q.shape[1]
    p = (d - exact_matmul(q, k.T)) >> 1
    m = p - p.min(axis=1, keepdims=True)
    z = table[m].sum(axis=1, dtype=np.uint64)
    lim = limit * z.astype(np.float64)
    last = (table.astype(np.float64)[None, :] > lim[:, None]).sum(axis=1) - 1
    return exact_matmul(m <= last[:, None], v)


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    q, k, v, table, limit = inputs
    d = q.shape[1] // attrs["heads"]
    parts = [slice(h * d, (h + 1) * d) for h in range(attrs["heads"])]
    heads = [attend(q[:, p], k[:, p], v[:, p], table[0], float(limit[0, h])) for h, p in enumerate(parts)]
    return [np.concatenate(heads, axis=1)]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=2 * inputs[0].size * inputs[1].shape[0])


register(OpDef("attention", _infer, _reference, _cost, compiled=True, whole_inputs=lambda attrs, n: frozenset({1, 2})))
