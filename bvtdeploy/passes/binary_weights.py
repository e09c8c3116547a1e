"""Which weights are binary, decided by value: per output row one scale times {-1, +1}.

The test looks at values, not at names or at how they were computed, so it finds the same layers whatever front end the weights
came through. Full-precision weights are not mistaken for binary ones: a row of K independent reals has max|w|/min|w| near 1 only
by a coincidence that all rows would have to share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_SPREAD = 1e-3


@dataclass(frozen=True)
class BinaryWeight:
    """`weight[o, ...] = scale[o] * codes[o, ...]` up to `residue`.

    Attributes:
        codes: int8 of -1 and +1, the shape of the weight. Zeros of the weight are +1 here.
        scale: float32 [O]: the common |w| of the row where it is exactly one number, else the median; 0 of an all-zero row.
        residue: max |weight - scale * codes| / scale over the rows, zeros left out; 0 where the weight was exactly binary.
        zeros: how many zeros became +1.
    """

    codes: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]
    residue: float
    zeros: int


def binary_rows(weight: npt.NDArray[Any]) -> BinaryWeight | None:
    """Splits a weight [O, K] or [O, C, kh, kw] into codes and row scales; None where it is not binary.

    A row of zeros only (a dead channel) has scale 0, which makes its codes irrelevant; its zeros are not counted. None too where
    nothing can be concluded: rows of fewer than two elements, an all-zero weight, a row with a single element that is not zero, a
    value that is not finite.
    """
    if weight.ndim not in (2, 4) or weight.size == 0 or not np.isfinite(weight).all():
        return None
    rows = np.abs(weight.reshape(weight.shape[0], -1).astype(np.float32))
    live = rows > 0
    alive = live.any(axis=1)
    if rows.shape[1] < 2 or not alive.any() or int(live.sum(axis=1)[alive].min()) < 2:
        return None
    if not alive.all():
        found = binary_rows(weight[alive])
        if found is None:
            return None
        dead_codes = np.ones(weight.shape, np.int8)
        dead_codes[alive] = found.codes
        scales = np.zeros(len(weight), np.float32)
        scales[alive] = found.scale
        return BinaryWeight(dead_codes, scales, found.residue, found.zeros)
    high = rows.max(axis=1)
    low = np.where(live, rows, np.inf).min(axis=1)
    if not bool((high.astype(np.float64) / low - 1 < _SPREAD).all()):
        return None
    exact = high == low
    scale = high if bool(exact.all()) else np.where(exact, high, _median(rows, live)).astype(np.float32)
    deviation = np.where(live, np.abs(rows.astype(np.float64) - scale[:, None]), 0.0).max(axis=1) / scale
    codes = np.where(weight < 0, -1, 1).astype(np.int8)
    return BinaryWeight(codes, scale.astype(np.float32), float(deviation.max()), int(rows.size - live.sum()))


def _median(rows: npt.NDArray[Any], live: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """An element of each row that is its (lower) median, zeros left out: no new number arises."""
    ordered = np.sort(np.where(live, rows, np.inf), axis=1)
    return np.take_along_axis(ordered, ((live.sum(axis=1) - 1) // 2)[:, None], axis=1)[:, 0]
