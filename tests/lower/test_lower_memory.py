"""The memory plan never overlaps, and is as small as it can be where that is easy to say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bvtdeploy.lower.memory import ALIGN, Request, align, plan

requests = st.lists(
    st.builds(
        lambda size, first, length: Request(size, first, first + length),
        st.integers(0, 5000),
        st.integers(0, 20),
        st.integers(0, 8),
    ),
    max_size=40,
)


def load(items: list[Request]) -> int:
    """The lower bound: the most that lives at one time."""
    return max((sum(align(r.size) for r in items if r.first <= t <= r.last) for t in range(40)), default=0)


@settings(max_examples=300)
@given(requests)
def test_what_lives_together_does_not_overlap(items: list[Request]) -> None:
    offsets, total = plan(items)
    assert len(offsets) == len(items) and all(o >= 0 and o % ALIGN == 0 for o in offsets)
    assert all(o + align(r.size) <= total for o, r in zip(offsets, items, strict=True))
    for i, a in enumerate(items):
        for j, b in enumerate(items[:i]):
            if a.first <= b.last and b.first <= a.last and a.size and b.size:
                assert offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i], (a, b)
    assert load(items) <= total <= 2 * load(items) + ALIGN


@given(st.lists(st.integers(1, 5000), max_size=20))
def test_optimal_on_simple_cases(sizes: list[int]) -> None:
    aligned = [align(s) for s in sizes]
    assert plan([Request(s, 0, 9) for s in sizes])[1] == sum(aligned), "all at once"
    assert plan([Request(s, i, i) for i, s in enumerate(sizes)])[1] == max(aligned, default=0), "one after the other"
    chain = plan([Request(s, i, i + 1) for i, s in enumerate(sizes)])[1]
    assert chain <= 3 * max(aligned, default=0), "each with its neighbour: greedy, so not always 2"
    even = [Request(1 + s % 64, i, i + 1) for i, s in enumerate(sizes)]
    assert plan(even)[1] == min(128, 64 * len(sizes)), "sizes that are equal when rounded to 64"


def test_the_plan_depends_on_the_requests_only() -> None:
    items = [Request(64 * (i % 5 + 1), i, i + i % 4) for i in range(30)]
    assert plan(items) == plan(list(items))
    assert plan([]) == ([], 0)
