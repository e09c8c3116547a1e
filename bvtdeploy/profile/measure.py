"""How a model is timed on a device.

Three runs of `bvt_run`, each a process of its own: the first is cold and shows the first inference and how many more it takes until
the times settle; the second is timed; the third counts the ops' times, which costs a little and so is kept out of the second, and
compares the golden outputs. All samples are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.device import Device, ModelRun, RunOptions
from bvtdeploy.errors import UserError
from bvtdeploy.profile import environment, stats

PILOT_RUNS = 20
WARM_SECONDS, TIMED_SECONDS = 0.2, 2.0  # at least, and about
LEAST_RUNS, MOST_RUNS, EMULATED_RUNS = 20, 500, 10


@dataclass(frozen=True)
class Timing:
    """Times with one number of threads, in milliseconds."""

    threads: int
    isa: str
    warmup: int
    first_ms: float
    warm_ms: stats.Summary
    samples_ms: tuple[float, ...]
    ops_ms: tuple[float, ...]
    golden_checked: int
    golden_equal: int
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class OpTime:
    """One row of the per-op table. `ms` is CPU time of one inference, summed over threads; `share` is its part of all ops."""

    name: str
    kind: str
    module: str
    ms: float
    share: float
    macs: dict[str, int]
    bytes: int


@dataclass(frozen=True)
class Profile:
    """What profiling found. The head is the first of the thread counts; `timings` has them all."""

    artifact: str
    device: str
    board: str
    emulated: bool
    cpu_features: tuple[str, ...]
    timings: tuple[Timing, ...]
    ops: tuple[OpTime, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    unstable_because: tuple[str, ...]
    toolchain: dict[str, Any]

    @property
    def stable(self) -> bool:
        """Whether nothing speaks against the times. Emulated times are no times of a device at all."""
        return not self.unstable_because

    @property
    def ok(self) -> bool:
        """Whether every golden output came out with the same bits."""
        return all(t.golden_checked == t.golden_equal for t in self.timings)

    def as_dict(self) -> dict[str, Any]:
        """The profile as JSON."""
        head = self.timings[0]
        return {
            "artifact": self.artifact,
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
            "scaling": [
                {
                    "threads": t.threads,
                    "first_ms": t.first_ms,
                    "warm_ms": t.warm_ms.as_dict(),
                    "samples_ms": list(t.samples_ms),
                    "speedup": head.warm_ms.p50 / t.warm_ms.p50,
                }
                for t in self.timings
            ],
            "environment": {"before": self.before, "after": self.after},
            "stable": self.stable,
            "unstable_because": list(self.unstable_because),
            "golden": {"checked": sum(t.golden_checked for t in self.timings), "equal": sum(t.golden_equal for t in self.timings)},
            "toolchain": self.toolchain,
        }


def profile_model(
    artifact: Path,
    device: Device,
    *,
    ops: Sequence[dict[str, Any]],
    threads: Sequence[int] = (1,),
    runs: int | None = None,
    warmup: int | None = None,
    inputs: npt.NDArray[np.float32] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Time an artifact on an open device.

    Args:
        artifact: the `.bvt` file.
        device: where.
        ops: the artifact's ops as `bvtdeploy.artifact.inspect` tells them, for names, MACs and bytes.
        threads: the thread counts to time; the per-op table is of the first.
        runs: timed runs; None: as many as take about two seconds.
        warmup: runs before them; None: until the times settle.
        inputs: one preprocessed input; None: a golden one. Times do not depend on values.
        progress: told what is being done.
    """
    say = progress or (lambda _: None)
    before = environment.read_environment(device)
    timings: list[Timing] = []
    first_run: ModelRun | None = None
    for count in threads:
        say(f"timing on {device.name} with {count} thread{'s' if count > 1 else ''}")
        timing, counted = _time(artifact, device, count, runs, warmup, inputs)
        timings.append(timing)
        first_run = first_run or counted
    after = environment.read_environment(device)
    if first_run is None or len(first_run.ops_ns) != len(ops):
        raise UserError("the device's runtime tells of other ops than the artifact has", where=str(artifact))
    total = sum(timings[0].ops_ms) or 1.0
    table = tuple(
        OpTime(op["name"], op["kind"], op["module"], ms, ms / total, op["macs"], op["bytes"])
        for op, ms in zip(ops, timings[0].ops_ms, strict=True)
    )
    reasons = [f"{t.threads} thread{'s' if t.threads > 1 else ''}: {text}" for t in timings for text in t.doubts]
    if device.emulated:
        reasons.insert(0, "emulated: these times say nothing about a board")
    else:
        reasons += environment.doubts(before, after)
    return Profile(
        artifact=str(artifact),
        device=device.name,
        board=device.board,
        emulated=device.emulated,
        cpu_features=first_run.cpu,
        timings=tuple(timings),
        ops=table,
        before=before,
        after=after,
        unstable_because=tuple(reasons),
        toolchain=device.build.toolchain,
    )


def _time(
    artifact: Path, device: Device, threads: int, runs: int | None, warmup: int | None, inputs: npt.NDArray[np.float32] | None
) -> tuple[Timing, ModelRun]:
    pilot_runs = 2 * stats.WINDOW if device.emulated else PILOT_RUNS
    cold = device.run_model(artifact, None, RunOptions(threads=threads, runs=pilot_runs))
    pilot = _ms(cold.samples_ns)
    level = median(pilot[len(pilot) // 2 :])
    reasons: list[str] = []
    settled = stats.warm_after(pilot)
    if warmup is None:
        if settled is None and not device.emulated:
            reasons.append(f"the times did not settle within {pilot_runs} runs")
        enough = 1 if device.emulated else math.ceil(1000 * WARM_SECONDS / level)
        warmup = max(settled if settled is not None else pilot_runs, min(enough, MOST_RUNS))
    if runs is None:
        wanted = math.ceil(1000 * TIMED_SECONDS / level)
        runs = EMULATED_RUNS if device.emulated else min(max(wanted, LEAST_RUNS), MOST_RUNS)
    timed = device.run_model(artifact, inputs, RunOptions(threads=threads, runs=runs, warmup=warmup))
    counting = RunOptions(threads=threads, runs=runs, warmup=warmup, profile=True, golden=cold.n_golden > 0)
    counted = device.run_model(artifact, inputs, counting)
    samples = _ms(timed.samples_ns)
    return Timing(
        threads=threads,
        isa=timed.isa,
        warmup=warmup,
        first_ms=pilot[0],
        warm_ms=stats.summarise(samples),
        samples_ms=samples,
        ops_ms=tuple(ns / 1e6 / runs for ns in counted.ops_ns),
        golden_checked=counted.golden_checked,
        golden_equal=counted.golden_equal,
        doubts=tuple(reasons + ([] if device.emulated else stats.doubts(samples))),
    ), counted


def _ms(samples_ns: Sequence[int]) -> tuple[float, ...]:
    return tuple(ns / 1e6 for ns in samples_ns)
