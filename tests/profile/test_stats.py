from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvtdeploy.profile.stats import doubts, percentile, summarise, warm_after

TIMES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=40)


@given(TIMES, st.floats(0, 1))
def test_percentiles_are_numpys(samples: list[float], q: float) -> None:
    assert percentile(samples, q) == pytest.approx(float(np.quantile(samples, q)), rel=1e-9)


@given(TIMES)
def test_a_summary_is_in_order(samples: list[float]) -> None:
    s = summarise(samples)
    assert min(samples) == s.min <= s.p50 * (1 + 1e-12)
    assert s.p50 <= s.p90 * (1 + 1e-12) <= s.p99 * (1 + 1e-12) ** 2 <= max(samples) * (1 + 1e-12) ** 3
    assert s.max == max(samples)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([1.0] * 20, 0),
        ([9.0, 3.0, 1.2] + [1.0] * 17, 3),
        ([9.0] + [1.0, 1.05, 0.95] * 7, 1),
        ([1.0] * 9, None),  # too few to tell
        ([1.0, 2.0] * 10, None),  # never settles
    ],
)
def test_warm_up_ends_where_the_times_settle(samples: list[float], expected: int | None) -> None:
    assert warm_after(samples) == expected


def test_a_quiet_machine_raises_no_doubt() -> None:
    assert doubts([1.0, 1.01, 0.99] * 10) == []


@pytest.mark.parametrize(
    ("samples", "text"),
    [
        ([1.0] * 3, "too few"),
        ([1.0] * 20 + [1.5] * 5, "90th percentile is 50 % above"),
        ([1.0 + i / 100 for i in range(30)], "the last third of the runs took 119 %"),
    ],
)
def test_doubts_say_what_is_wrong(samples: list[float], text: str) -> None:
    assert any(text in doubt for doubt in doubts(samples)), doubts(samples)
