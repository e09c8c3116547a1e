"""What makes a profile unstable, and what is a note only."""

from __future__ import annotations

from typing import Any

import pytest
from board_samples import ORIN, PI4, POLICY
from given_device import Given

from bvtdeploy.profile.environment import look
from bvtdeploy.profile.stability import doubts, judge_environment, judge_times

QUIET = PI4 | {f"{POLICY}/scaling_governor": b"performance\n", "/sys/devices/platform/soc/soc:firmware/get_throttled": b"0\n"}
FLAGS = "/sys/devices/platform/soc/soc:firmware/get_throttled"


def record(files: dict[str, bytes]) -> dict[str, Any]:
    return look(Given(files)).record


def test_a_quiet_board() -> None:
    verdict = judge_environment(record(QUIET), record(QUIET))
    assert (verdict.unstable, verdict.notes) == ([], [])


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (QUIET, QUIET | {FLAGS: b"70004"}, "the board reports: throttled"),
        (QUIET, QUIET | {FLAGS: b"50000"}, "during the runs the board had: under-voltage, throttled"),
        (QUIET, QUIET | {"/sys/class/hwmon/hwmon1/in0_lcrit_alarm": b"1"}, "the board reports: under-voltage"),
        (ORIN, ORIN | {"/sys/class/hwmon/hwmon3/oc3_event_cnt": b"8\n"}, "oc3"),
        (ORIN, ORIN | {"/sys/class/thermal/cooling_device1/cur_state": b"2\n"}, "slowed the CPU down to cool it: cpufreq-cpu0 1"),
    ],
)
def test_throttling_makes_it_unstable(before: dict[str, bytes], after: dict[str, bytes], text: str) -> None:
    assert any(text in reason for reason in judge_environment(record(before), record(after)).unstable)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({f"{POLICY}/scaling_governor": b"ondemand\n"}, "the governor is ondemand"),
        ({f"{POLICY}/scaling_max_freq": b"1500000\n"}, "limited to 1500 of 1800 MHz"),
        ({FLAGS: b"50000"}, "before the runs, since it was started, the board had: under-voltage, throttled"),
        ({"/proc/loadavg": b"3.50 0 0 1/2 3"}, "busy before the runs: load 3.5 on 4 cores"),
        ({"/proc/cpuinfo": b"".join(b"processor : %d\n\n" % i for i in range(6))}, "may use 4 of the 6 cores"),
        ({"/sys/devices/system/cpu/offline": b"2-3\n"}, "offline: 2, 3"),
        ({"/proc/meminfo": b"MemTotal: 1000000 kB\nMemAvailable: 10000 kB\n"}, "memory is short"),
    ],
)
def test_the_rest_is_noted(change: dict[str, bytes], text: str) -> None:
    verdict = judge_environment(record(QUIET | change), record(QUIET | change))
    assert verdict.unstable == []
    assert any(text in note for note in verdict.notes), verdict.notes


def test_what_happens_between_the_runs_counts() -> None:
    during = [{"throttled": 4, "cooling": {}, "temperatures_c": {"cpu-thermal": 70.0}}]
    verdict = judge_environment(record(QUIET), record(QUIET), during)
    assert verdict.unstable == ["the board reports: throttled"]
    assert verdict.notes == ["it warmed up by 22 degrees during the runs"]
    assert doubts(record(QUIET), record(QUIET | {FLAGS: b"1"})) == ["the board reports: under-voltage"]


def times(samples: list[float], **how: Any) -> tuple[list[str], list[str]]:
    known = {"threads": 1, "cores": 4, "waited_ms": 0.0, "settled": True, "clocks_khz": {}}
    verdict = judge_times(samples, **(known | how))
    return verdict.unstable, verdict.notes


STEADY, DRIFTING = [1.0] * 40, [1.0 + i / 100 for i in range(40)]


def test_steady_times_are_stable() -> None:
    assert times(STEADY) == ([], [])
    assert times(STEADY, waited_ms=1.0) == ([], [])  # 2.5 % of the time


def test_waiting_for_a_core_makes_it_unstable() -> None:
    assert times(STEADY, waited_ms=8.0) == (["other programs had the cores: our threads waited for one 20 % of the time"], [])
    assert times(STEADY, waited_ms=None) == ([], [])


def test_drift_names_the_clock() -> None:
    (drift,), notes = times(DRIFTING, clocks_khz={"policy0": [1800000, 1500000]})
    assert "the last third" in drift and "policy0 went from 1500 to 1800 MHz" in drift and notes == []
    assert times(STEADY, clocks_khz={"policy0": [600000, 1800000]}) == ([], ["the clock of policy0 went from 600 to 1800 MHz"])


def test_too_few_runs_and_too_many_threads_are_not_judged() -> None:
    assert times([1.0, 9.0, 1.0], waited_ms=9.0) == ([], ["only 3 runs: too few to judge them"])
    unstable, notes = times(DRIFTING, threads=4, cores=2, waited_ms=50.0)
    assert unstable == [] and notes[0] == "4 threads share 2 cores: they wait for each other" and len(notes) == 2
    assert times(STEADY, settled=False) == ([], ["the times did not settle during the warm-up"])
