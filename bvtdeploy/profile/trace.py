"""A profile as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

Processes of the trace: for each number of threads one with the inference that was kept, a track a thread, groups with the ops of
their blocks inside and the waits between; and one with the timed runs after each other, as the counter `inference ms`, beside the
clocks, temperatures and power that were read between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bvtdeploy.profile.result import Profile, Timing

Event = dict[str, Any]


def trace(profile: Profile) -> dict[str, Any]:
    """The trace as JSON. Times are microseconds, as the format wants."""
    events: list[Event] = []
    for n, timing in enumerate(profile.timings):
        threads = f"{timing.threads} thread{'s' if timing.threads > 1 else ''}"
        events += _inference(profile, timing, 2 * n + 1, f"one inference, {threads}")
        events += _runs(timing, 2 * n + 2, f"timed runs, {threads}")
    about = {"artifact": profile.artifact, "device": profile.device, "board": profile.board, "emulated": profile.emulated}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}


def _named(pid: int, name: str, sort: int) -> Iterator[Event]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": sort}}


def _inference(profile: Profile, timing: Timing, pid: int, name: str) -> Iterator[Event]:
    yield from _named(pid, f"{profile.device}: {name}", pid)
    for thread in range(timing.threads):
        yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": thread + 1, "args": {"name": f"thread {thread}"}}
    modules: dict[int, list[str]] = {}
    for op in profile.ops:
        modules.setdefault(op.group, []).append(op.module)
    for thread, group, start, worked, waited in timing.lanes:
        own = {"pid": pid, "tid": thread + 1, "ph": "X"}
        inside = list(dict.fromkeys(modules.get(group, [])))
        if worked > start:
            about = {"modules": ", ".join(inside[:6])}
            yield {
                **own,
                "cat": "group",
                "name": f"group {group}",
                "ts": 1000 * start,
                "dur": 1000 * (worked - start),
                "args": about,
            }
        if waited > worked:
            yield {**own, "cat": "wait", "name": "waits", "ts": 1000 * worked, "dur": 1000 * (waited - worked), "args": {}}
    for span in timing.spans:
        if span.op < 0:
            continue
        op = profile.ops[span.op]
        yield {
            "ph": "X",
            "pid": pid,
            "tid": span.thread + 1,
            "cat": op.kind,
            "name": f"{op.kind} {op.name}",
            "ts": span.start_ns / 1000,
            "dur": (span.end_ns - span.start_ns) / 1000,
            "args": {"module": op.module, "rows": f"{span.row0} to {span.row0 + span.rows - 1}"},
        }


def _runs(timing: Timing, pid: int, name: str) -> Iterator[Event]:
    yield from _named(pid, name, pid)
    at, starts = 0.0, []
    for ms in timing.samples_ms:
        starts.append(at)
        yield {"ph": "C", "pid": pid, "tid": 0, "name": "inference ms", "ts": 1000 * at, "args": {"ms": ms}}
        at += ms
    starts.append(at)
    for look in timing.during:
        ts = 1000 * starts[min(look["run"], len(starts) - 1)]
        series = (
            ("MHz", {k: v / 1000 for k, v in look["khz"].items()}),
            ("degrees C", look["temperatures_c"]),
            ("mW", look["rails_mw"]),
        )
        for counter, values in series:
            if values:
                yield {"ph": "C", "pid": pid, "tid": 0, "name": counter, "ts": ts, "args": values}
