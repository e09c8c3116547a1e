"""Profiles over SSH, on simulated boards whose facts change while they are measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from boardsim.simulated import Board

from bvtdeploy import api
from bvtdeploy.device import open_device
from bvtdeploy.profile import stability
from bvtdeploy.profile.environment import look, read_environment


def test_a_simulated_pi_and_what_happens_during_the_runs(pi4: Board, artifact: Path, emulator: str) -> None:
    flags = pi4.facts / "sys/devices/platform/soc/soc:firmware/get_throttled"
    heat = pi4.facts / "sys/class/thermal/thermal_zone0/temp"

    def work_begins(what: str) -> None:  # told after the first look at the board
        if what.startswith("timing on"):
            heat.write_text("71500\n")
            flags.write_text("40004\n")

    try:
        profile = api.profile(artifact, device=pi4.name, runs=20, warmup=0, progress=work_begins)
    finally:
        heat.write_text("48312\n")
        flags.write_text("0\n")
    assert profile.emulated and profile.board == "rpi4"
    assert profile.before["model"].startswith("Raspberry Pi 4")
    assert profile.before["governor"] == ["ondemand"] and profile.before["throttled"] == 0
    assert profile.after["throttle"] == {"now": ["throttled"], "since_start": ["throttled"]}
    during = profile.timings[0].during
    assert during[-1]["temperatures_c"] == {"cpu-thermal": 71.5} and during[-1]["throttled"] == 0x40004
    assert during[0]["khz"] == {"policy0": 1500000}
    notes = " | ".join(profile.notes)  # of an emulated board reasons are notes
    assert "the board reports: throttled" in notes and "warmed up by 23 degrees" in notes and "governor is ondemand" in notes
    assert profile.ok and profile.timings[0].golden_checked > 0
    assert pi4.is_clean()


def test_a_simulated_orin(orin: Board) -> None:
    with open_device(orin.name) as device:
        seen = look(device)
        counter = orin.facts / "sys/class/hwmon/hwmon3/oc1_event_cnt"
        counter.write_text("2\n")
        try:
            after = read_environment(device)
        finally:
            counter.write_text("0\n")
    before = seen.record
    assert before["power_mode"] == "15W"
    assert before["rails_mw"] == {"VDD_IN": pytest.approx(4984 * 1016 / 1000)}
    assert before["temperatures_c"]["tj-thermal"] == 44.5 and before["temperature_c"] == 40.5
    assert before["core_kinds"] == [{"core": "Cortex-A78AE", "cores": [0, 1, 2, 3, 4, 5], "capacity": None}]
    assert "VDD_CPU_GPU_CV 521mW" in before["tegrastats"]
    assert before["emulated"]
    assert {w.kind for w in seen.watch} == {"khz", "temperature", "event", "mv", "ma"}
    assert any("oc1" in reason for reason in stability.judge_environment(before, after).unstable)


def test_a_whole_machine(booted_pi4: Board, artifact: Path) -> None:
    """It has real cpufreq: a clock that is lowered is seen."""
    policy = "/sys/devices/system/cpu/cpufreq/policy0"
    booted_pi4.shell(f"echo powersave > {policy}/scaling_governor")
    profile = api.profile(artifact, device=booted_pi4.name, threads=(2,), runs=2, warmup=0, cpus="1,3")
    assert profile.emulated and profile.ok
    assert profile.before["governor"] == ["powersave"] and profile.before["khz"] == [600000]
    assert profile.timings[0].cores_allowed == (1, 3) and set(profile.timings[0].cores_seen) <= {1, 3}
    assert any("the clock of policy0 was at 33 %" in note for note in profile.notes)
    assert booted_pi4.is_clean()
