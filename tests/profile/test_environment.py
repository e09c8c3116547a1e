from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from bvtdeploy.device import LocalDevice, Probe
from bvtdeploy.profile.environment import doubts, read_environment

RPI4 = {
    "/sys/firmware/devicetree/base/model": b"Raspberry Pi 4 Model B Rev 1.4\0",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor": b"ondemand\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": b"600000\n",
    "/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": b"1800000\n",
    "/sys/class/thermal/thermal_zone0/temp": b"48312\n",
    "/sys/class/thermal/thermal_zone1/temp": b"-274000\n",
    "/sys/devices/platform/soc/soc:firmware/get_throttled": b"50000\n",
    "/proc/loadavg": b"0.10 0.20 0.30 1/200 4242\n",
    "/proc/meminfo": b"MemTotal: 3884136 kB\nMemFree: 1 kB\nMemAvailable: 3210000 kB\n",
}


class Fake(LocalDevice):
    """A device whose files are given."""

    def __init__(self, files: dict[str, bytes], *, emulated: bool = False) -> None:
        super().__init__()
        self.files, self.emulated = files, emulated

    def probe(self) -> Probe:
        return Probe("aarch64", None, (), 4, "6.6", "2.36", {"cpu": "not told"})

    def read_files(self, patterns: Sequence[str]) -> dict[str, bytes]:
        return {path: data for path, data in self.files.items() if any(fnmatch(path, pattern) for pattern in patterns)}


def test_a_raspberry_pi() -> None:
    record = read_environment(Fake(RPI4))
    assert record["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert (record["governor"], record["khz"], record["max_khz"]) == (["ondemand"], [600000], [1800000])
    assert (record["temperature_c"], record["throttled"], record["load"]) == (48.312, 0x50000, 0.1)
    assert record["memory_available_kib"] == 3210000
    assert record["unavailable"] == {"cpu": "not told"}


def test_what_is_not_there_or_nonsense_is_none_with_a_reason() -> None:
    record = read_environment(Fake({"/proc/loadavg": b"", "/sys/class/thermal/thermal_zone0/temp": b"hot"}))
    for name in ("model", "governor", "khz", "max_khz", "temperature_c", "throttled", "load", "memory_available_kib"):
        assert record[name] is None
        assert record["unavailable"][name]


def test_of_an_emulated_core_nothing_is_taken_from_the_machine_below() -> None:
    record = read_environment(Fake(RPI4, emulated=True))
    assert record["governor"] is record["temperature_c"] is record["model"] is None
    assert "emulated" in record["unavailable"]["governor"]


def test_doubts_name_governor_load_heat_and_throttling() -> None:
    before = read_environment(Fake(RPI4))
    assert doubts(before, before) == ["the governor is ondemand, not performance: the clock changes with the load"]
    quiet = RPI4 | {"/sys/devices/system/cpu/cpufreq/policy0/scaling_governor": b"performance"}
    busy = quiet | {"/proc/loadavg": b"3.50 0 0 1/2 3"}
    hot = quiet | {
        "/sys/class/thermal/thermal_zone0/temp": b"81000",
        "/sys/devices/platform/soc/soc:firmware/get_throttled": b"70004",
    }
    found = doubts(read_environment(Fake(busy)), read_environment(Fake(hot)))
    assert found == [
        "the board reports: throttled",
        "during the runs the board had: frequency capped",
        "the machine was busy before the runs: load 3.5 on 4 cores",
        "the CPU warmed up by 33 degrees during the runs",
    ]
