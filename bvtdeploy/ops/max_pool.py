"""max_pool: the largest of k x k windows of a grid.

    in   f32[(H*W) x C]      out  f32[(Ho*Wo) x C],  Ho = (H + 2p - k)/s + 1, Wo likewise
    m = -inf; the window's taps row by row, left to right, those that lie on the grid: m = x > m ? x : m     (NaN never wins)
    both may be f16
    attrs: height H, width W, kernel k, stride s, padding p < k (default 0)       record: attr[0..4] = H, W, k, s, p
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type
from bvtdeploy.ops.avg_pool import check_pool, taps
from bvtdeploy.ops.base import Array, Attrs, OpDef, register


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    oh, ow = check_pool("max_pool", inputs, attrs)
    return [Type(inputs[0].elem, (oh * ow, inputs[0].shape[1]))]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    most: Array | None = None
    for part, there in taps(attrs, inputs[0]):
        most = np.full(part.shape, -np.inf, part.dtype) if most is None else most
        most = np.where(there & (part > most), part, most)
    assert most is not None
    return [np.ascontiguousarray(most).reshape(-1, inputs[0].shape[1])]


register(OpDef("max_pool", _infer, _reference, compiled=True, whole_inputs=lambda attrs, n: frozenset({0})))
