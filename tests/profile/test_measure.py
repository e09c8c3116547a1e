from __future__ import annotations

from pathlib import Path

import pytest

from bvtdeploy import api
from bvtdeploy.errors import UserError


def test_a_profile_has_every_sample_and_every_op(artifact: Path, images: list[Path]) -> None:
    profile = api.profile(artifact, threads=(1, 2), runs=30, image=images[0])
    assert [t.threads for t in profile.timings] == [1, 2]
    for timing in profile.timings:
        assert len(timing.samples_ms) == 30
        assert timing.warmup > 0
        assert timing.warm_ms.min == min(timing.samples_ms)
        assert timing.golden_checked == timing.golden_equal > 0
    facts = api.inspect(artifact)
    assert [(op.name, op.kind, op.module) for op in profile.ops] == [(op["name"], op["kind"], op["module"]) for op in facts["ops"]]
    assert sum(op.share for op in profile.ops) == pytest.approx(1)
    assert sum(op.macs["binary"] for op in profile.ops) == facts["macs"]["binary"]
    # The ops are what an inference consists of: their times, taken in another run, come near to a whole one's.
    assert 0.3 < sum(op.ms for op in profile.ops) / profile.timings[0].warm_ms.p50 < 3
    assert profile.ok
    assert not profile.emulated
    assert profile.before["load"] is not None


def test_an_emulated_profile_says_so(artifact: Path, emulator: str) -> None:
    profile = api.profile(artifact, device="qemu:cortex-a76", runs=2, warmup=0)
    assert profile.emulated
    assert profile.board == "rpi5"
    assert not profile.stable
    assert "emulated" in profile.unstable_because[0]
    assert (len(profile.timings[0].samples_ms), profile.timings[0].warmup) == (2, 0)
    assert profile.ok


def test_wrong_thread_counts_are_refused(artifact: Path) -> None:
    for threads in ((), (0,)):
        with pytest.raises(UserError, match="threads"):
            api.profile(artifact, threads=threads)
