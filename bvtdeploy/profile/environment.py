"""What a time depends on besides the program: CPU, governor, clocks, heat, load.

Every value is optional: what a device does not show is None, with the reason beside it. Read before and after the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bvtdeploy.device import Device

_FILES = {
    "model": ("/sys/firmware/devicetree/base/model",),
    "governor": ("/sys/devices/system/cpu/cpufreq/policy*/scaling_governor",),
    "khz": ("/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq",),
    "max_khz": ("/sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq",),
    "temperature_c": ("/sys/class/thermal/thermal_zone*/temp",),
    "throttled": ("/sys/devices/platform/soc/*/get_throttled", "/sys/devices/platform/*/*/get_throttled"),
    "load": ("/proc/loadavg",),
    "memory_available_kib": ("/proc/meminfo",),
}
_ABSENT = {
    "model": "no device tree",
    "governor": "no cpufreq: a virtual machine, as a rule",
    "khz": "no cpufreq",
    "max_khz": "no cpufreq",
    "temperature_c": "no thermal zone",
    "throttled": "no Raspberry Pi firmware",
    "load": "/proc/loadavg cannot be read",
    "memory_available_kib": "/proc/meminfo cannot be read",
}
# Bits of the Raspberry Pi's get_throttled that say "now"; 16 bits higher: "since the start".
_THROTTLE = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def read_environment(device: Device) -> dict[str, Any]:
    """The environment record of a device, as JSON."""
    probe = device.probe()
    record: dict[str, Any] = {key: value for key, value in probe.as_dict().items() if key not in ("unavailable", "features")}
    unavailable = dict(probe.unavailable)
    files = device.read_files([pattern for patterns in _FILES.values() for pattern in patterns])
    for name in _FILES:
        if device.emulated and name not in ("load", "memory_available_kib"):
            value, why = None, "emulated: what /sys shows is the machine that emulates"
        else:
            value, why = _read(name, files), _ABSENT[name]
        record[name] = value
        if value is None:
            unavailable[name] = why
    record["unavailable"] = unavailable
    return record


def _read(name: str, files: Mapping[str, bytes]) -> Any:
    leaf = {"model": "/model", "governor": "/scaling_governor", "khz": "/scaling_cur_freq", "max_khz": "/scaling_max_freq"}
    leaf |= {"temperature_c": "/temp", "throttled": "/get_throttled", "load": "/loadavg", "memory_available_kib": "/meminfo"}
    texts = [data.decode(errors="replace").strip("\0 \n") for path, data in sorted(files.items()) if path.endswith(leaf[name])]
    if not texts:
        return None
    try:
        if name in ("khz", "max_khz"):
            return [int(text) for text in texts]
        if name == "governor":
            return texts
        if name == "temperature_c":  # some zones show nonsense, such as -274000
            warm = [int(text) / 1000 for text in texts if -40_000 < int(text) < 150_000]
            return max(warm) if warm else None
        if name == "throttled":
            return int(texts[0], 16)
        if name == "load":
            return float(texts[0].split()[0])
        if name == "memory_available_kib":
            return int(texts[0].split("MemAvailable:", 1)[1].split()[0])
    except (ValueError, IndexError):
        return None
    return texts[0]


def doubts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What in the environment speaks against the times."""
    found: list[str] = []
    governors = [g for g in before["governor"] or [] if g != "performance"]
    if governors:
        found.append(f"the governor is {', '.join(sorted(set(governors)))}, not performance: the clock changes with the load")
    flags = after["throttled"]
    if flags is not None and flags & 0xF:
        found.append("the board reports: " + ", ".join(text for bit, text in _THROTTLE.items() if flags >> bit & 1))
    if flags is not None and before["throttled"] is not None and (flags & ~before["throttled"]) >> 16 & 0xF:
        fresh = (flags & ~before["throttled"]) >> 16
        found.append("during the runs the board had: " + ", ".join(text for bit, text in _THROTTLE.items() if fresh >> bit & 1))
    cores, load = before["cores"], before["load"]
    if cores and load is not None and load > 0.5 * cores:
        found.append(f"the machine was busy before the runs: load {load:.1f} on {cores} cores")
    hot, warm = after["temperature_c"], before["temperature_c"]
    if hot is not None and warm is not None and hot - warm > 10:
        found.append(f"the CPU warmed up by {hot - warm:.0f} degrees during the runs")
    return found
