"""The trace: events of the Chrome format, nested as Perfetto nests them."""

from __future__ import annotations

import json
from pathlib import Path

from reports import typed_profile

from bvtdeploy import api
from bvtdeploy.profile.trace import trace


def test_a_real_trace(artifact: Path) -> None:
    profile = api.profile(artifact, threads=(2,), runs=3, warmup=0)
    made = json.loads(json.dumps(trace(profile)))
    events = made["traceEvents"]
    ops = [e for e in events if e["ph"] == "X" and e["cat"] not in ("group", "wait")]
    groups = [e for e in events if e["ph"] == "X" and e["cat"] == "group"]
    assert len({e["name"] for e in ops}) == len(profile.ops)
    near = 1e-3
    for op in ops:  # inside exactly one group of its thread: tracks nest by time
        begin, end = op["ts"], op["ts"] + op["dur"]
        inside = [g for g in groups if g["tid"] == op["tid"] and g["ts"] - near <= begin and end <= g["ts"] + g["dur"] + near]
        assert len(inside) == 1
    tracks: dict[int, float] = {}
    for group in sorted(groups, key=lambda e: e["ts"]):  # and groups of a thread do not overlap
        assert group["ts"] >= tracks.get(group["tid"], 0) - near
        tracks[group["tid"]] = group["ts"] + group["dur"]
    assert [e["args"]["ms"] for e in events if e["name"] == "inference ms"] == list(profile.timings[0].samples_ms)
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"} == {"thread 0", "thread 1"}
    assert made["otherData"]["emulated"] is False


def test_what_was_read_between_the_runs_is_a_counter() -> None:
    look = {"at_ms": 10.0, "run": 5, "khz": {"policy0": 1_800_000}, "temperatures_c": {"cpu": 50.0}, "rails_mw": {"VDD_IN": 5000.0}}
    events = trace(typed_profile(during=(look,)))["traceEvents"]
    found = {e["name"]: e for e in events if e["ph"] == "C" and e["name"] != "inference ms"}
    args = {name: e["args"] for name, e in found.items()}
    assert args == {"MHz": {"policy0": 1800.0}, "degrees C": {"cpu": 50.0}, "mW": {"VDD_IN": 5000.0}}
    assert found["MHz"]["ts"] > 0
