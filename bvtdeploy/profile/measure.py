"""How a model is timed on a device.

For each number of threads some runs of `bvt_run`, each a process of its own:

1. cold ones, of one inference: its time, and what opening the artifact took;
2. the timed one: warm-up until the times settle, then the timed runs, in the same process, with looks at clocks, heat and power
   between them and hardware counters where the kernel grants them;
3. the counting one, which times every op. That costs a little and so is kept out of the second; what it costs is told. It also
   compares the golden outputs and keeps what each thread did when in one inference.

The rules of warm-up, runs and looks are at the head of `runtime_arm/tools/timing.h`. All samples are kept.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact.inspect import describe
from bvtdeploy.artifact.reader import read
from bvtdeploy.device import Device, ModelRun, RunOptions
from bvtdeploy.device.base import DEFAULT_TIMEOUT, Span
from bvtdeploy.errors import UserError
from bvtdeploy.profile import environment, power, stability
from bvtdeploy.profile.result import KEPT_WARMUP, OpTime, Profile, Timing
from bvtdeploy.profile.work import operand_bytes

FRESH_PROCESSES = 3
SLOW_RUNS, SLOW_WARMUP = 20, 15  # what "auto" comes to for slow models; for others it goes by time, which is seconds
EMULATED_RUNS, EMULATED_WARMUP = 10, 2  # an emulator's times say nothing: fewer do
CPUS = {"big": "fast", "little": "slow"}  # as the runtime calls them


def profile_model(
    artifact: Path,
    device: Device,
    *,
    threads: Sequence[int] = (1,),
    runs: int | None = None,
    warmup: int | None = None,
    cpus: str = "",
    inputs: npt.NDArray[np.float32] | None = None,
    verify: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Time an artifact on an open device.

    Args:
        artifact: the `.bvt` file.
        device: where.
        threads: the thread counts to time; the per-op table is of the first.
        runs: timed runs; None: as many as take about two seconds.
        warmup: runs before them; None: until the times settle.
        cpus: cores to run on: "big", "little", "all" or a list such as "0-3,6"; "": as the system likes.
        inputs: one preprocessed input; None: a golden one. Times do not depend on values.
        verify: there must be golden outputs to compare. Where there are, they are compared in any case.
        progress: told what is being done.
    """
    say = progress or (lambda _: None)
    parsed = read(artifact)
    facts = describe(parsed)["ops"]
    if verify and not parsed.golden_records:
        why = "it was compiled without golden inputs and outputs"
        raise UserError("there is nothing to verify", where=str(artifact), why=why, fix="compile the model again")
    say(f"looking at {device.name}")
    before = environment.look(device)
    timings: list[Timing] = []
    cold: ModelRun | None = None
    emulated = bool(device.emulated or before.emulated)
    for count in threads:
        say(f"timing on {device.name} with {count} thread{'s' if count > 1 else ''}")
        cold = device.run_model(artifact, None, RunOptions(threads=count, runs=1, cpus=CPUS.get(cpus, cpus)))
        if cold.timer_hz == environment.QEMU_TIMER_HZ and not emulated:
            emulated = True
            before.record["emulated"] = "its timer runs at 62.5 MHz, as QEMU's does"
        timing = _time(artifact, device, count, cold, runs, warmup, cpus, inputs, before, emulated)
        if len(timing.ops_ms) != len(facts):
            raise UserError("the device's runtime tells of other ops than the artifact has", where=str(artifact))
        timings.append(timing)
    assert cold is not None
    after = environment.look(device).record
    verdict = stability.judge_environment(before.record, after, [look for t in timings for look in t.during])
    unstable = [*_with_threads(timings, "unstable"), *verdict.unstable]
    notes = [*verdict.notes, *_with_threads(timings, "notes")]
    if emulated:
        notes = [*unstable, *notes]
        unstable = ["emulated: these times say nothing about a board"]
    return Profile(
        artifact=str(artifact),
        model_sha256=hashlib.sha256(artifact.read_bytes()).hexdigest(),
        device=device.name,
        board=device.board,
        emulated=emulated,
        cpu_features=cold.cpu,
        timings=tuple(timings),
        ops=_op_table(facts, timings[0].ops_ms, operand_bytes(parsed)),
        before=before.record,
        after=after,
        unstable_because=tuple(unstable),
        notes=tuple(notes),
        toolchain=device.build.toolchain,
    )


def _with_threads(timings: Sequence[Timing], kind: Literal["unstable", "notes"]) -> Iterable[str]:
    for t in timings:
        for text in getattr(t, kind):
            yield f"{t.threads} thread{'s' if t.threads > 1 else ''}: {text}"


def _op_table(facts: Sequence[dict[str, Any]], ops_ms: Sequence[float], moved: Sequence[tuple[int, int]]) -> tuple[OpTime, ...]:
    total = sum(ops_ms) or 1.0
    ranked = sorted(range(len(ops_ms)), key=lambda i: -ops_ms[i])
    above = dict(zip(ranked, itertools.accumulate(ops_ms[i] / total for i in ranked), strict=True))
    rows = []
    for i, (op, ms, (read_bytes, written)) in enumerate(zip(facts, ops_ms, moved, strict=True)):
        macs = op["macs"]["binary"] + op["macs"]["float"]
        rows.append(
            OpTime(
                name=op["name"],
                kind=op["kind"],
                module=op["module"],
                group=op["group"],
                ms=ms,
                share=ms / total,
                cumulative=min(above[i], 1.0),
                macs=op["macs"],
                macs_per_s=1000 * macs / ms if macs and ms else None,
                bytes=op["bytes"],
                read_bytes=read_bytes,
                written_bytes=written,
            )
        )
    return tuple(rows)


def _time(
    artifact: Path,
    device: Device,
    threads: int,
    cold: ModelRun,
    runs: int | None,
    warmup: int | None,
    cpus: str,
    inputs: npt.NDArray[np.float32] | None,
    before: environment.Environment,
    emulated: bool,
) -> Timing:
    where = CPUS.get(cpus, cpus)
    alone = RunOptions(threads=threads, runs=1, cpus=where)
    again = range(0 if emulated else FRESH_PROCESSES - 1)
    firsts = [cold.samples_ns[0], *(device.run_model(artifact, None, alone).samples_ns[0] for _ in again)]
    many: int | Literal["auto"] = runs or (EMULATED_RUNS if emulated else "auto")
    first: int | Literal["auto"] = warmup if warmup is not None else EMULATED_WARMUP if emulated else "auto"
    watch = tuple(file.path for file in before.watch)
    limit = time_limit(cold, many, first)
    plain = RunOptions(threads=threads, runs=many, warmup=first, cpus=where, counters=True, watch=watch, timeout=limit)
    timed = device.run_model(artifact, inputs, plain)
    counting = RunOptions(
        threads=threads, runs=many, warmup=first, cpus=where, profile=True, spans=True, golden=cold.n_golden > 0, timeout=limit
    )  # fmt: skip
    counted = device.run_model(artifact, inputs, counting)
    samples = _ms(timed.samples_ns)
    during = tuple(environment.between(before.watch, look) for look in timed.looks)
    policies = before.record["policies"] or ()
    used = [p["name"] for p in policies if not p["cores"] or not timed.cores_seen or set(p["cores"]) & set(timed.cores_seen)]
    waited = timed.usage.get("waited_ns")
    verdict = stability.judge_times(
        samples,
        threads=threads,
        cores=len(timed.cores_allowed),
        waited_ms=None if waited is None else waited / 1e6,
        settled=timed.settled,
        clocks_khz={name: [look["khz"][name] for look in during if name in look["khz"]] for name in used},
    )
    for name, part in stability.slowest_clocks(during, [p for p in policies if p["name"] in used]).items():
        if part < 0.9:
            verdict.notes.append(f"the clock of {name} was at {100 * part:.0f} % of the highest that it has")
    if cpus in CPUS and len(before.record["core_kinds"] or ()) == 1 and len(policies) <= 1:
        verdict.notes.append(f"this processor's cores are all alike: --cpu {cpus} means any of them")
    joules, no_energy = power.energy(before.record, during, sum(samples) / len(samples))
    profiled = len(counted.samples_ns)
    usage = {
        key.replace("_ns", "_ms"): None if n is None else n / 1e6 if key.endswith("_ns") else n for key, n in timed.usage.items()
    }
    return Timing(
        threads=threads,
        isa=timed.isa,
        firsts_ms=_ms(firsts),
        load_ms=(cold.open_ns + cold.session_ns) / 1e6,
        warmup=len(timed.warmup_ns),
        warmup_ms=_ms(timed.warmup_ns[:KEPT_WARMUP]),
        settled=timed.settled,
        samples_ms=samples,
        profiled_ms=_ms(counted.samples_ns),
        ops_ms=tuple(ns / 1e6 / profiled for ns in counted.ops_ns),
        op_blocks_ms=tuple(tuple(ns / 1e6 / n for ns in ops) for n, ops in counted.blocks),
        groups_ms=tuple(ns / 1e6 / profiled for ns in counted.groups_ns),
        lanes=lanes(counted.spans),
        spans=counted.spans,
        spans_ms=counted.spans_ns / 1e6,
        cores_allowed=timed.cores_allowed,
        cores_seen=timed.cores_seen,
        usage=usage,
        counters=timed.counters,
        during=during,
        energy=joules,
        no_energy=no_energy,
        golden_checked=counted.golden_checked,
        golden_equal=counted.golden_equal,
        unstable=tuple(verdict.unstable),
        notes=tuple(verdict.notes),
    )


def time_limit(cold: ModelRun, runs: int | Literal["auto"], warmup: int | Literal["auto"]) -> float:
    """Seconds that a program may take for its runs: three times what they take at the pace of the first, and never little.

    Args:
        cold: a run of one inference with as many threads.
        runs, warmup: as of `RunOptions`. Golden inputs and the timeline come on top.
    """
    inferences = (SLOW_RUNS if runs == "auto" else runs) + (SLOW_WARMUP if warmup == "auto" else warmup) + cold.n_golden + 10
    return max(DEFAULT_TIMEOUT, 3 * (cold.open_ns + cold.session_ns + inferences * cold.samples_ns[0]) / 1e9)


def lanes(spans: Sequence[Span]) -> tuple[tuple[int, int, float, float, float], ...]:
    """Spans of one inference by thread and group: (thread, group, start, end of the work, end of the wait), in ms.

    A thread that had nothing to do in a group starts to wait where it came in.
    """
    found = []
    start: int | None = None
    for span in spans:
        if span.op >= 0:
            start = span.start_ns if start is None else start
            continue
        begin = span.start_ns if start is None else start
        found.append((span.thread, span.row0, begin / 1e6, span.start_ns / 1e6, span.end_ns / 1e6))
        start = None
    return tuple(found)


def _ms(samples_ns: Sequence[int]) -> tuple[float, ...]:
    return tuple(ns / 1e6 for ns in samples_ns)
