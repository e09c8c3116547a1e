"""Profiles that are made up, for comparisons and reports: a small model with known times."""

from __future__ import annotations

from typing import Any

import numpy as np
from given_device import Given

from bvtdeploy.device.base import Counter, Span
from bvtdeploy.profile.environment import read_environment
from bvtdeploy.profile.measure import lanes
from bvtdeploy.profile.result import OpTime, Profile, Timing

KINDS = ("bgemm", "epilogue", "attention", "stencil")
USAGE = {"user_ms": 1.0, "system_ms": 0.0, "waited_ms": 0.0, "preempted": 0, "yielded": 0, "page_faults": 0, "major_faults": 0}


def typed_profile(
    *,
    seed: int = 0,
    scale: float = 1.0,
    faster: tuple[str, float] = ("", 1.0),
    runs: int = 100,
    files: dict[str, bytes] | None = None,
    module: str = "encoder.layer",
    during: tuple[dict[str, Any], ...] = (),
    energy: dict[str, Any] | None = None,
) -> Profile:
    """A stable profile of eight ops with 1 and 2 threads; times spread by 0.2 %."""
    random = np.random.default_rng(seed)
    record = read_environment(Given(files or {"/proc/loadavg": b"0.1 0 0 1/2 3"}))
    base = np.array([0.8 / (i + 1) * (faster[1] if f"v{i}" == faster[0] else 1) for i in range(8)])
    timings = []
    for threads in (1, 2):
        parts = base * random.normal(1, 0.002, (min(20, runs), 8))
        samples = tuple((scale * (3 / threads) * random.normal(1, 0.002, runs)).tolist())
        spans = [span for thread in range(threads) for group in range(4) for span in _spans(thread, group)]
        timings.append(
            Timing(
                threads=threads, isa="neon", firsts_ms=(5.0, 5.5, 4.9), load_ms=1.0, warmup=12, warmup_ms=(4.0, *(3.0,) * 11),
                settled=True, samples_ms=samples, profiled_ms=tuple(1.01 * x for x in samples),
                ops_ms=tuple(parts.mean(axis=0).tolist()), op_blocks_ms=tuple(map(tuple, parts.tolist())), groups_ms=(0.5,) * 4,
                lanes=lanes(spans), spans=tuple(spans), spans_ms=2.0, cores_allowed=(0, 1), cores_seen=(0,), usage=dict(USAGE),
                counters={"cycles": Counter(1000 * runs), "instructions": Counter(1700 * runs), "misses": Counter(None, 0, "no")},
                during=during, energy=energy, no_energy="" if energy else "no power rails that can be read",
                golden_checked=2, golden_equal=2, unstable=(), notes=(),
            )
        )  # fmt: skip
    times = timings[0].ops_ms
    ops = tuple(
        OpTime(
            name=f"v{i}", kind=KINDS[i % 4], module=f"{module}.{i // 2}", group=i // 2, ms=ms, share=ms / sum(times),
            cumulative=min(1.0, sum(times[: i + 1]) / sum(times)), macs={"binary": 10**7 if i % 2 == 0 else 0, "float": 0},
            macs_per_s=1e10 / ms if i % 2 == 0 else None, bytes=100, read_bytes=10_000 * (i + 1), written_bytes=5000,
        )
        for i, ms in enumerate(times)
    )  # fmt: skip
    return Profile(
        "m.bvt", "0" * 64, "local", "host", False, ("avx2",), tuple(timings), ops, record, record, (), (), {"version": "gcc"}
    )


def _spans(thread: int, group: int) -> list[Span]:
    at = group * 500_000
    work = [Span(thread, 2 * group + i, at + 200_000 * i, at + 200_000 * (i + 1), 0, 8) for i in range(2)]
    return [*work, Span(thread, -1, at + 400_000, at + 450_000 + 10_000 * thread, group, 0)]


def made_profile(**how: Any) -> dict[str, Any]:
    """The same as JSON."""
    return typed_profile(**how).as_dict()
