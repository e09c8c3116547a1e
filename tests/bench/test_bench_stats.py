"""Ratios of times that were taken in turn."""

from __future__ import annotations

import pytest

from bvtdeploy.bench.measure import visit_both
from bvtdeploy.bench.stats import ratio


def test_a_ratio_is_of_each_round_and_not_of_medians() -> None:
    # The machine is ten times slower in two rounds of five: for both sides.
    ours, theirs = [1.0, 10.0, 1.0, 10.0, 1.0], [2.0, 30.0, 3.0, 20.0, 4.0]
    r = ratio(ours, theirs)
    assert (r.median, r.q1, r.q3, r.min, r.max) == (3.0, 2.0, 3.0, 2.0, 4.0)
    assert r.min <= r.low <= r.median <= r.high <= r.max


def test_equal_rounds_leave_no_interval() -> None:
    r = ratio([2.0] * 7, [3.0] * 7)
    assert r.as_dict() == dict.fromkeys(("median", "low", "high", "q1", "q3", "min", "max"), 1.5)
    assert r.settled


def test_the_interval_narrows_with_the_rounds() -> None:
    few = ratio([1.0] * 8, [1.0, 2.0] * 4)
    many = ratio([1.0] * 200, [1.4 + 0.2 * (i % 2) for i in range(200)])
    assert few.high - few.low > many.high - many.low
    assert not few.settled
    assert many.settled


def test_the_interval_holds_the_median_of_nine_tenths_of_rows() -> None:
    # 95 % in theory; of 100 rows of 25 rounds each, drawn around 2, at least 90 intervals hold 2.
    import numpy as np

    draw = np.random.Generator(np.random.PCG64(1))
    rows = [ratio([1.0] * 25, [float(x) for x in 2 + 0.2 * draw.standard_normal(25)]) for _ in range(100)]
    assert 90 <= sum(r.low <= 2 <= r.high for r in rows) <= 100


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0, 2.0]), ([], []), ([0.0, 1.0], [1.0, 1.0])])
def test_rows_that_have_no_ratio(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="as many positive times"):
        ratio(ours, theirs)


@pytest.mark.parametrize(("peer_first", "order"), [(False, "ooo" + "pppp"), (True, "pppp" + "ooo")])
def test_a_round_visits_both_with_one_untimed_inference_each(peer_first: bool, order: str) -> None:
    seen: list[str] = []
    (ours, ours_cpu), (theirs, _) = visit_both(lambda: seen.append("o"), lambda: seen.append("p"), (2, 3), peer_first=peer_first)
    assert "".join(seen) == order
    assert min(ours, ours_cpu, theirs) > 0
