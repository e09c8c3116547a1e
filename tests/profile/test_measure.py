"""Real profiles, of this machine and of an emulated core."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bvtdeploy import api
from bvtdeploy.device import RunOptions, open_device
from bvtdeploy.errors import UserError
from bvtdeploy.profile import Profile
from bvtdeploy.profile.measure import lanes, time_limit


@pytest.fixture(scope="module")
def profile(artifact: Path, images: list[Path]) -> Profile:
    return api.profile(artifact, threads=(1, 2), runs=30, warmup=3, image=images[0])


def test_a_profile_has_every_sample_and_every_op(profile: Profile, artifact: Path) -> None:
    assert [t.threads for t in profile.timings] == [1, 2]
    for timing in profile.timings:
        assert len(timing.samples_ms) == len(timing.profiled_ms) == 30
        assert (timing.warmup, len(timing.warmup_ms), timing.settled) == (3, 3, None)
        assert timing.warm_ms.min == min(timing.samples_ms)
        assert timing.golden_checked == timing.golden_equal > 0
        assert len(timing.firsts_ms) == 3
        assert timing.cores_seen and set(timing.cores_seen) <= set(timing.cores_allowed)
        assert timing.usage["preempted"] >= 0
    facts = api.inspect(artifact)
    assert [(op.name, op.kind, op.module) for op in profile.ops] == [(op["name"], op["kind"], op["module"]) for op in facts["ops"]]
    assert sum(op.share for op in profile.ops) == pytest.approx(1)
    assert sum(op.macs["binary"] for op in profile.ops) == facts["macs"]["binary"]
    # The ops are what an inference consists of: their times come near to those of the runs that they were counted in.
    head = profile.timings[0]
    assert 0.3 < sum(head.ops_ms) / (sum(head.profiled_ms) / 30) < 1.05
    assert profile.ok
    assert not profile.emulated
    assert profile.before["load"] is not None


def test_ops_are_ranked_and_their_rates_and_bytes_told(profile: Profile) -> None:
    ranked = sorted(profile.ops, key=lambda op: -op.ms)
    assert [op.cumulative for op in ranked] == sorted(op.cumulative for op in profile.ops)
    assert ranked[0].cumulative == pytest.approx(ranked[0].share)
    assert ranked[-1].cumulative == pytest.approx(1)
    for op in profile.ops:
        macs = op.macs["binary"] + op.macs["float"]
        assert op.macs_per_s == (pytest.approx(1000 * macs / op.ms) if macs else None)
        assert op.read_bytes > 0 and op.written_bytes > 0
        assert op.read_bytes >= (op.bytes if op.kind in ("bgemm", "dense") else 0)  # its weights are among what it reads


def test_parts_of_the_runs_add_up(profile: Profile) -> None:
    sizes = [(i + 1) * 30 // 20 - i * 30 // 20 for i in range(20)]
    for timing in profile.timings:
        assert len(timing.op_blocks_ms) == 20
        parts = sum(sum(block) * n for block, n in zip(timing.op_blocks_ms, _sizes(sizes), strict=True))
        assert parts / 30 == pytest.approx(sum(timing.ops_ms), rel=0.6)
        assert sum(timing.groups_ms) == pytest.approx(sum(timing.profiled_ms) / 30, rel=0.3)


def _sizes(sizes: list[int]) -> list[int]:
    assert sum(sizes) == 30
    return sizes


def test_the_timeline_is_of_one_inference(profile: Profile) -> None:
    groups = {op.group for op in profile.ops}
    for timing in profile.timings:
        assert {(lane[0], lane[1]) for lane in timing.lanes} == {(t, g) for t in range(timing.threads) for g in groups}
        for _, _, start, worked, waited in timing.lanes:
            assert 0 <= start <= worked <= waited <= timing.spans_ms
        assert lanes(timing.spans) == timing.lanes


def test_hardware_counters_are_there_or_there_is_a_reason(profile: Profile) -> None:
    counters = profile.timings[0].counters
    assert set(counters) == {"cycles", "instructions", "cache_references", "cache_misses", "branch_misses"}
    for counter in counters.values():
        assert (counter.value is None) == bool(counter.why)
        assert counter.value is None or counter.value > 0


def test_warm_up_and_runs_by_themselves(artifact: Path) -> None:
    with open_device("local") as device:
        watch = ("/proc/loadavg", "/nowhere")
        done = device.run_model(artifact, None, RunOptions(runs="auto", warmup="auto", watch=watch, cpus="all"))
    assert done.settled in (True, False)
    assert sum(done.warmup_ns) >= 0.3e9 and 20 <= len(done.samples_ns) <= 500
    assert done.looks[0].run == 0 and done.looks[-1].run == len(done.samples_ns)
    assert all(float(look.values[0].split()[0]) >= 0 and look.values[1] == "" for look in done.looks)
    assert [look.at_ns for look in done.looks] == sorted(look.at_ns for look in done.looks)


def test_cores_are_chosen(artifact: Path) -> None:
    with open_device("local") as device:
        core = device.run_model(artifact, None, RunOptions(runs=1)).cores_allowed[-1]
    profile = api.profile(artifact, runs=2, warmup=0, cpus=str(core))
    assert profile.timings[0].cores_allowed == profile.timings[0].cores_seen == (core,)
    with pytest.raises(UserError, match="this process has not all of '1023'"):
        api.profile(artifact, runs=2, warmup=0, cpus="1023")


def test_an_emulated_profile_says_so(artifact: Path, emulator: str) -> None:
    profile = api.profile(artifact, device="qemu:cortex-a76", runs=2, warmup=0)
    assert profile.emulated and profile.trusted
    assert profile.board == "rpi5"
    assert not profile.stable
    assert "emulated" in profile.unstable_because[0]
    assert (len(profile.timings[0].samples_ms), profile.timings[0].warmup) == (2, 0)
    assert profile.ok
    assert "perf events" in profile.timings[0].counters["cycles"].why


def test_one_failing_device_does_not_spoil_the_others(artifact: Path) -> None:
    found = api.profile_all(artifact, ["local", "qemu:no-such-core"], runs=2, warmup=0)
    assert [p.device for p in found.profiles] == ["local"]
    assert [f.device for f in found.failed] == ["qemu:no-such-core"]
    assert not found.ok


def test_wrong_thread_counts_are_refused(artifact: Path) -> None:
    for threads in ((), (0,)):
        with pytest.raises(UserError, match="threads"):
            api.profile(artifact, threads=threads)


def test_many_runs_get_the_time_that_they_need(artifact: Path) -> None:
    with open_device("local") as device:
        cold = device.run_model(artifact, None, RunOptions(runs=1))
        assert time_limit(cold, "auto", "auto") == 600
        slow = replace(cold, samples_ns=(60_000_000_000,), n_golden=2)  # a minute
        assert 3 * 60 * 35 <= time_limit(slow, "auto", "auto") < 4 * 60 * 50
        assert 3 * 60 * 1100 <= time_limit(slow, 1000, 100) < 4 * 60 * 1100
        with pytest.raises(UserError, match=r"within 0\.5 s"):  # the user's limit counts, whatever we think
            api.profile(artifact, device=device, runs=10_000_000, timeout=0.5)
        assert device.timeout is None
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UserError, match="time limit"):
            api.profile(artifact, timeout=timeout)
