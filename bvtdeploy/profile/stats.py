"""What is said about a row of times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Summary:
    """Order statistics of times, in the unit of the samples."""

    min: float
    p50: float
    p90: float
    p99: float
    max: float

    def as_dict(self) -> dict[str, float]:
        """The summary as JSON."""
        return {"min": self.min, "p50": self.p50, "p90": self.p90, "p99": self.p99, "max": self.max}


def percentile(samples: Sequence[float], q: float) -> float:
    """The q-quantile (0..1), linear between neighbours."""
    ordered = sorted(samples)
    at = q * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summarise(samples: Sequence[float]) -> Summary:
    """Order statistics. There must be a sample."""
    return Summary(min(samples), percentile(samples, 0.5), percentile(samples, 0.9), percentile(samples, 0.99), max(samples))


WINDOW, TOLERANCE = 5, 0.10


def warm_after(samples: Sequence[float]) -> int | None:
    """How many first samples are warm-up: the first run from which WINDOW runs in a row lie within TOLERANCE of the level that the
    second half settles at. None: it never settles."""
    if len(samples) < 2 * WINDOW:
        return None
    level = median(samples[len(samples) // 2 :])
    for k in range(len(samples) - WINDOW + 1):
        if all(abs(s - level) <= TOLERANCE * level for s in samples[k : k + WINDOW]):
            return k
    return None


SPREAD, DRIFT = 1.15, 0.05


def doubts(samples: Sequence[float]) -> list[str]:
    """Why these times may not be what a quiet machine gives; empty where nothing speaks against them."""
    found: list[str] = []
    if len(samples) < 2 * WINDOW:
        return [f"only {len(samples)} runs: too few to tell"]
    middle, high = percentile(samples, 0.5), percentile(samples, 0.9)
    if high > SPREAD * middle:
        found.append(
            f"the 90th percentile is {100 * (high / middle - 1):.0f} % above the median: something else ran, or the clock changed"
        )
    third = len(samples) // 3
    start, end = median(samples[:third]), median(samples[-third:])
    if abs(end - start) > DRIFT * start:
        found.append(f"the last third of the runs took {100 * end / start:.0f} % of the time of the first")
    return found
