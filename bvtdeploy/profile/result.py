"""What profiling found: typed, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from bvtdeploy.device.base import Counter, Span
from bvtdeploy.errors import UserError
from bvtdeploy.profile import stats

KEPT_WARMUP = 1000  # runs of the warm-up that are kept, the first ones


@dataclass(frozen=True)
class Timing:
    """Times with one number of threads, in milliseconds.

    Attributes:
        threads, isa: what ran.
        firsts_ms: the first inference of each of some fresh processes.
        load_ms: opening the artifact and making the session in the first of them.
        warmup: how many runs the warm-up had.
        warmup_ms: the first of these.
        settled: whether an automatic warm-up ended because the times had settled; None: it was not automatic.
        samples_ms: every timed run, in order.
        profiled_ms: the runs in which ops were timed, in a process of their own.
        ops_ms: busy time of every op in one inference, summed over threads.
        op_blocks_ms: the same for each of up to 20 parts of the profiled runs.
        groups_ms: wall time of every group of ops.
        lanes: one inference: (thread, group, start, end of the work, end of the wait), in ms.
        spans: the same inference in detail; spans_ms: what it took.
        cores_allowed, cores_seen: cores that the threads were free to use, and those where one was met.
        usage: CPU time, waiting and context switches during the timed runs.
        counters: hardware counters over all timed runs.
        during: the looks at the environment between the runs.
        energy: by rail, or None with the reason in `no_energy`.
        golden_checked, golden_equal: golden pairs, and those with the same bits.
        unstable, notes: what speaks against the times, see `stability`.
    """

    threads: int
    isa: str
    firsts_ms: tuple[float, ...]
    load_ms: float
    warmup: int
    warmup_ms: tuple[float, ...]
    settled: bool | None
    samples_ms: tuple[float, ...]
    profiled_ms: tuple[float, ...]
    ops_ms: tuple[float, ...]
    op_blocks_ms: tuple[tuple[float, ...], ...]
    groups_ms: tuple[float, ...]
    lanes: tuple[tuple[int, int, float, float, float], ...]
    spans: tuple[Span, ...] = field(repr=False)
    spans_ms: float
    cores_allowed: tuple[int, ...]
    cores_seen: tuple[int, ...]
    usage: dict[str, Any]
    counters: dict[str, Counter]
    during: tuple[dict[str, Any], ...]
    energy: dict[str, Any] | None
    no_energy: str
    golden_checked: int
    golden_equal: int
    unstable: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def first_ms(self) -> float:
        """The first inference of the first process."""
        return self.firsts_ms[0]

    @property
    def warm_ms(self) -> stats.Summary:
        """Order statistics of the timed runs."""
        return stats.summarise(self.samples_ms)

    @property
    def overhead(self) -> float:
        """What timing the ops cost: 0.02 where the median was 2 % higher with it."""
        return stats.percentile(self.profiled_ms, 0.5) / self.warm_ms.p50 - 1

    def as_dict(self, speedup: float) -> dict[str, Any]:
        """The timing as JSON. Counters are of one inference."""
        runs = len(self.samples_ms)
        counters: dict[str, Any] = {name: None if c.value is None else c.value / runs for name, c in self.counters.items()}
        unavailable = {name: c.why for name, c in self.counters.items() if c.value is None}
        return {
            "threads": self.threads,
            "isa": self.isa,
            "runs": runs,
            "load_ms": self.load_ms,
            "first_ms": self.first_ms,
            "firsts_ms": list(self.firsts_ms),
            "warmup": self.warmup,
            "warmup_ms": _rounded(self.warmup_ms),
            "settled": self.settled,
            "warm_ms": self.warm_ms.as_dict(),
            "mean_ms": mean(self.samples_ms),
            "samples_ms": list(self.samples_ms),
            "speedup": speedup,
            "profiled_ms": stats.percentile(self.profiled_ms, 0.5),
            "overhead": self.overhead,
            "ops_ms": _rounded(self.ops_ms),
            "op_blocks_ms": [_rounded(block) for block in self.op_blocks_ms],
            "groups_ms": _rounded(self.groups_ms),
            "timeline": {"ms": self.spans_ms, "lanes": [[t, g, *_rounded(times)] for t, g, *times in self.lanes]},
            "cores": {"allowed": list(self.cores_allowed), "seen": list(self.cores_seen)},
            "usage": self.usage,
            "counters": counters,
            "during": list(self.during),
            "energy": self.energy,
            "golden": {"checked": self.golden_checked, "equal": self.golden_equal},
            "unstable_because": list(self.unstable),
            "notes": list(self.notes),
            "unavailable": unavailable | ({"energy": self.no_energy} if self.energy is None else {}),
        }


@dataclass(frozen=True)
class OpTime:
    """One row of the per-op table.

    Attributes:
        name, kind, module: which op, and the module of the source model that it came from.
        group: the group of ops that it runs in.
        ms: CPU time of one inference, summed over threads; `share` is its part of all ops, `cumulative` that of it and all
            slower ones.
        macs: multiply-accumulates, binary and float; macs_per_s: all of them in its time, None where it has none.
        bytes: of its constants in the artifact.
        read_bytes, written_bytes: of its operands in memory, each once.
    """

    name: str
    kind: str
    module: str
    group: int
    ms: float
    share: float
    cumulative: float
    macs: dict[str, int]
    macs_per_s: float | None
    bytes: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class Profile:
    """What profiling found. The head is the first of the thread counts; `timings` has them all."""

    artifact: str
    model_sha256: str
    device: str
    board: str
    emulated: bool
    cpu_features: tuple[str, ...]
    timings: tuple[Timing, ...]
    ops: tuple[OpTime, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    unstable_because: tuple[str, ...]
    notes: tuple[str, ...]
    toolchain: dict[str, Any]

    @property
    def stable(self) -> bool:
        """Whether nothing was seen to move the times. Emulated times are no times of a device at all."""
        return not self.unstable_because

    @property
    def ok(self) -> bool:
        """Whether every golden output came out with the same bits."""
        return all(t.golden_checked == t.golden_equal for t in self.timings)

    @property
    def trusted(self) -> bool:
        """Whether the times count as measured, or are of an emulator, where nobody would count them."""
        return self.stable or self.emulated

    def as_dict(self) -> dict[str, Any]:
        """The profile as JSON."""
        head = self.timings[0]
        return {
            "artifact": self.artifact,
            "model_sha256": self.model_sha256,
            "device": self.device,
            "board": self.board,
            "emulated": self.emulated,
            "threads": head.threads,
            "isa": head.isa,
            "cpu_features": list(self.cpu_features),
            "runs": len(head.samples_ms),
            "warmup": head.warmup,
            "first_ms": head.first_ms,
            "warm_ms": head.warm_ms.as_dict(),
            "samples_ms": list(head.samples_ms),
            "ops": [{**vars(op)} for op in self.ops],
            "scaling": [t.as_dict(head.warm_ms.p50 / t.warm_ms.p50) for t in self.timings],
            "environment": {"before": self.before, "after": self.after},
            "stable": self.stable,
            "unstable_because": list(self.unstable_because),
            "notes": list(self.notes),
            "golden": {"checked": sum(t.golden_checked for t in self.timings), "equal": sum(t.golden_equal for t in self.timings)},
            "toolchain": self.toolchain,
        }


@dataclass(frozen=True)
class Failed:
    """A device that gave no profile."""

    device: str
    error: UserError

    def as_dict(self) -> dict[str, Any]:
        """The failure as JSON."""
        return {"device": self.device, "error": self.error.as_dict()}


@dataclass(frozen=True)
class Profiles:
    """Profiles of several devices; a device that failed does not take the others with it."""

    profiles: tuple[Profile, ...]
    failed: tuple[Failed, ...]

    @property
    def ok(self) -> bool:
        """Whether every device gave a profile, and every golden output came out with the same bits."""
        return not self.failed and all(p.ok for p in self.profiles)

    def as_dict(self) -> dict[str, Any]:
        """The profiles as JSON."""
        return {"profiles": [p.as_dict() for p in self.profiles], "failed": [f.as_dict() for f in self.failed]}


def load_profiles(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The profiles in what `bvtdeploy profile --json` printed: one, or those of several devices."""
    return list(payload["profiles"]) if "profiles" in payload else [payload]


def _rounded(times: tuple[float, ...] | list[float]) -> list[float]:
    """To the nanosecond."""
    return [round(ms, 6) for ms in times]
