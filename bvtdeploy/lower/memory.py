"""The memory plan: offsets for values with known lifetimes in one linear area."""

from __future__ import annotations

from dataclasses import dataclass

ALIGN = 64


def align(n: int, to: int = ALIGN) -> int:
    """n rounded up to a multiple."""
    return -(-n // to) * to


@dataclass(frozen=True)
class Request:
    """`size` bytes that must be intact from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int


def plan(requests: list[Request]) -> tuple[list[int], int]:
    """Offsets (multiples of 64) such that requests that live at the same time do not overlap, and the total size.

    Greedy by size, largest first, each at the lowest offset that is free during its whole life.
    """
    offsets = [0] * len(requests)
    placed: list[int] = []
    for i in sorted(range(len(requests)), key=lambda i: (-align(requests[i].size), requests[i].first, i)):
        a = requests[i]
        at = 0
        busy = sorted((offsets[j], offsets[j] + align(requests[j].size)) for j in placed if _overlap(a, requests[j]))
        for start, end in busy:
            if at + align(a.size) <= start:
                break
            at = max(at, end)
        offsets[i] = at
        placed.append(i)
    return offsets, max((offsets[i] + align(r.size) for i, r in enumerate(requests)), default=0)


def _overlap(a: Request, b: Request) -> bool:
    return a.first <= b.last and b.first <= a.last
