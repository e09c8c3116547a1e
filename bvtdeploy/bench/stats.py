"""What is said about ratios of times that were taken in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from bvtdeploy.profile.stats import percentile

RESAMPLES, CONFIDENCE = 2000, 0.95
WIDE = 1.25  # the upper quartile of the ratios over the lower one; beyond, the ratio is not settled


@dataclass(frozen=True)
class Ratio:
    """The peer's time over ours, one ratio a round: above 1, we are faster.

    Attributes:
        median: of all rounds.
        low, high: bootstrap confidence interval of the median (95 %; percentile method, the same in every run).
        q1, q3, min, max: of the rounds.
    """

    median: float
    low: float
    high: float
    q1: float
    q3: float
    min: float
    max: float

    @property
    def settled(self) -> bool:
        """Whether the rounds agree with each other."""
        return self.q3 <= WIDE * self.q1

    def as_dict(self) -> dict[str, float]:
        """The ratio as JSON."""
        return {k: getattr(self, k) for k in ("median", "low", "high", "q1", "q3", "min", "max")}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of two rows of times, in the same unit; round i of the one belongs to round i of the other.

    A ratio a round, and not one of two medians: what slows the machine for a while slows both sides of the rounds in it.
    """
    if len(ours) != len(theirs) or not ours or min(*ours, *theirs) <= 0:
        raise ValueError("ratios need as many positive times of the one as of the other")
    each = [b / a for a, b in zip(ours, theirs, strict=True)]
    draws = np.random.Generator(np.random.PCG64(0)).integers(0, len(each), (RESAMPLES, len(each)))
    medians = np.median(np.asarray(each)[draws], axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = (float(q) for q in np.percentile(medians, [tail, 100 - tail]))
    return Ratio(median(each), low, high, percentile(each, 0.25), percentile(each, 0.75), min(each), max(each))
