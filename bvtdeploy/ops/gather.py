"""gather: rows picked from one to four sources by a constant table, P of them side by side in a result row.

    in   1..4 sources [R_i x C], all f32, all f16, all bits{-1,+1} or all bits{-1,0,+1} (packed 1), then index i32[N x P]
    out  [N x P*C] of the sources' kind; with attr ternary (+-1 sources only) bits{-1,0,+1}
    out[n][p*C + c] = S[index[n][p]][c], S = the rows of all sources one after the other; index -1: zeros (0.0, code 0)
    attrs: ternary (default False): the index has a -1 and the sources are +-1 codes, which have no zero
    record: inputs[0] = index (a constant), inputs[1..4] = sources
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, TERNARY, Type
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, is_real, register

MOST_SOURCES: Final = 4


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    *sources, index = inputs
    expect(1 <= len(sources) <= MOST_SOURCES, f"gather has {len(sources)} sources, not 1 to {MOST_SOURCES}")
    first = sources[0]
    expect(index.elem == "i32" and len(index.shape) == 2 and index.size > 0, f"gather: its index is {index}")
    for t in sources:
        expect(len(t.shape) == 2 and t.shape[1] == first.shape[1], f"gather of {first} and {t}")
        expect((t.elem, t.alphabet, t.packed) == (first.elem, first.alphabet, first.packed), f"gather of {first} and {t}")
    expect(is_real(first) or (first.alphabet in (BIPOLAR, TERNARY) and first.packed == 1), f"gather of {first}")
    ternary = bool(attrs.get("ternary", False))
    expect(not ternary or first.alphabet == BIPOLAR, f"gather: ternary is for +-1 sources, not {first}")
    n, parts = index.shape
    return [Type(first.elem, (n, parts * first.shape[1]), TERNARY if ternary else first.alphabet, first.packed)]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    *sources, index = inputs
    rows = np.concatenate(sources, axis=0)
    expect(bool((index >= -1).all() and (index < len(rows)).all()), "gather: an index is out of range")
    needs_zero = sources[0].dtype == np.int8 and bool((index < 0).any()) and bool((sources[0] != 0).all())
    expect(not needs_zero or attrs.get("ternary", False) or bool((rows == 0).any()), "gather: +-1 codes have no zero for -1")
    # Row -1, the last one, is the zeros.
    with_zeros = np.concatenate([rows, np.zeros((1, rows.shape[1]), rows.dtype)], axis=0)
    return [np.ascontiguousarray(with_zeros[index]).reshape(index.shape[0], -1)]


register(OpDef("gather", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset(range(n))))
