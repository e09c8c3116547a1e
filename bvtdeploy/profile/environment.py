"""What a time depends on besides the program: board, system, cores, clocks, heat, throttling, power, load.

Read before and after the runs, through `Device.read_files` and a few programs of the board's own; and, of the files that tell of
clocks, heat, throttling and power, also between the runs: the runtime reads them itself every half second, never within a timed
run, so that looking costs the times nothing. Every value is optional: what a device does not show is None, with the reason beside
it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bvtdeploy.device import Device
from bvtdeploy.device.base import Look
from bvtdeploy.profile import parsers
from bvtdeploy.profile.parsers import integer, text

CPU = "/sys/devices/system/cpu"
_PATTERNS = (
    "/sys/firmware/devicetree/base/model",
    "/sys/firmware/devicetree/base/compatible",
    "/sys/firmware/devicetree/base/fw-cfg*/compatible",
    "/sys/class/dmi/id/sys_vendor",
    "/sys/class/dmi/id/product_name",
    "/proc/1/cmdline",
    "/etc/os-release",
    "/etc/nv_tegra_release",
    "/proc/cpuinfo",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/uptime",
    "/proc/sys/kernel/perf_event_paranoid",
    f"{CPU}/online",
    f"{CPU}/offline",
    f"{CPU}/cpu[0-9]*/cpu_capacity",
    *(
        f"{CPU}/cpufreq/policy*/{leaf}"
        for leaf in (
            "scaling_governor", "scaling_driver", "scaling_cur_freq", "scaling_min_freq", "scaling_max_freq",
            "cpuinfo_max_freq", "related_cpus",
        )
    ),
    "/sys/class/thermal/thermal_zone*/type",
    "/sys/class/thermal/thermal_zone*/temp",
    "/sys/class/thermal/cooling_device*/type",
    "/sys/class/thermal/cooling_device*/cur_state",
    "/sys/devices/platform/soc/*/get_throttled",
    "/sys/devices/platform/soc*/soc*/get_throttled",
    "/sys/devices/platform/axi/*/get_throttled",
    "/sys/class/hwmon/hwmon*/name",
    "/sys/class/hwmon/hwmon*/in*_label",
    "/sys/class/hwmon/hwmon*/in*_input",
    "/sys/class/hwmon/hwmon*/curr*_input",
    "/sys/class/hwmon/hwmon*/in0_lcrit_alarm",
    "/sys/class/hwmon/hwmon*/oc*_event_cnt",
    "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_*",
    "/sys/bus/i2c/drivers/ina3221x/*/iio:device*/in_power*_input",
)  # fmt: skip
_ABSENT = {
    "model": "no device tree",
    "compatible": "no device tree",
    "os": "no /etc/os-release that can be read",
    "governor": "no cpufreq: a virtual machine, as a rule",
    "khz": "no cpufreq",
    "max_khz": "no cpufreq",
    "policies": "no cpufreq: a virtual machine, as a rule",
    "temperature_c": "no thermal zone",
    "temperatures_c": "no thermal zone",
    "throttled": "no Raspberry Pi firmware",
    "throttle": "no flags that tell of it: neither a Raspberry Pi's nor rpi_volt",
    "events": "no soctherm_oc: not a Jetson",
    "cooling": "no cooling device",
    "power_mode": "no nvpmodel: not a Jetson",
    "tegrastats": "no tegrastats: not a Jetson",
    "rails_mw": "no power rails that can be read",
    "load": "/proc/loadavg cannot be read",
    "memory_available_kib": "/proc/meminfo cannot be read",
    "memory_total_kib": "/proc/meminfo cannot be read",
    "uptime_s": "/proc/uptime cannot be read",
    "cores_listed": "/proc/cpuinfo lists no cores",
    "cores_online": "the kernel does not say which cores are online",
    "cores_offline": "the kernel does not say which cores are offline",
    "core_kinds": "/proc/cpuinfo lists no cores",
    "perf_event_paranoid": "/proc/sys/kernel/perf_event_paranoid cannot be read",
    "page_bytes": "no getconf on the device",
}
_EMULATED = "emulated: what /sys shows is the machine that emulates"
_ANYWAY = ("load", "memory_available_kib", "memory_total_kib", "uptime_s")  # these are the emulating machine's, and matter


@dataclass(frozen=True)
class Watched:
    """A file to read between the runs: `kind` is khz, temperature, throttled, event, cooling, mw, mv or ma; `name` is whose."""

    path: str
    kind: str
    name: str


@dataclass(frozen=True)
class Environment:
    """A record, as JSON, and what of it can be read again between the runs."""

    record: dict[str, Any]
    watch: tuple[Watched, ...]

    @property
    def emulated(self) -> str:
        """How an emulated machine was recognised, or ""."""
        return str(self.record["emulated"] or "")


def read_environment(device: Device) -> dict[str, Any]:
    """The environment record of a device, as JSON."""
    return look(device).record


def look(device: Device) -> Environment:
    """Read everything once."""
    probe = device.probe()
    record: dict[str, Any] = {key: value for key, value in probe.as_dict().items() if key not in ("unavailable", "features")}
    unavailable = dict(probe.unavailable)
    files = device.read_files(_PATTERNS)
    own = device.own_system
    values = {name: read(files) for name, read in _READERS.items()}
    if own:
        values |= _from_programs(device, values, files)
    for name, why in _ABSENT.items():
        value = values.get(name)
        if not own and name not in _ANYWAY:
            value, why = None, _EMULATED
        record[name] = value
        if value is None:
            unavailable[name] = why
    record["emulated"] = "the device is an emulator" if device.emulated else emulation(files) or None
    record["unavailable"] = unavailable
    return Environment(record, tuple(_watch(files)) if own else ())


# ---- One value each -------------------------------------------------------------------------------------------------------------


def _line(files: Mapping[str, bytes], path: str) -> str | None:
    return text(files[path]) or None if path in files else None


def _by_folder(files: Mapping[str, bytes], pattern: str) -> dict[str, dict[str, str]]:
    """Files of numbered folders: folder -> leaf -> text, folders in order of their numbers."""
    found: dict[str, dict[str, str]] = {}
    for path, data in files.items():
        folder, _, leaf = path.rpartition("/")
        if re.fullmatch(pattern, folder):
            found.setdefault(folder, {})[leaf] = text(data)
    return dict(sorted(found.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]))


def _policies(files: Mapping[str, bytes]) -> list[dict[str, Any]] | None:
    found = []
    for folder, leaves in _by_folder(files, rf"{CPU}/cpufreq/policy\d+").items():
        found.append(
            {
                "name": folder.rpartition("/")[2],
                "cores": parsers.core_list(leaves.get("related_cpus", "")),
                "governor": leaves.get("scaling_governor") or None,
                "driver": leaves.get("scaling_driver") or None,
                "khz": integer(leaves.get("scaling_cur_freq", "")),
                "min_khz": integer(leaves.get("scaling_min_freq", "")),
                "max_khz": integer(leaves.get("scaling_max_freq", "")),
                "hardware_max_khz": integer(leaves.get("cpuinfo_max_freq", "")),
            }
        )
    return found or None


def _of_policies(key: str) -> Callable[[Mapping[str, bytes]], list[Any] | None]:
    return lambda files: [p[key] for p in _policies(files) or () if p[key] is not None] or None


def _temperatures(files: Mapping[str, bytes]) -> dict[str, float] | None:
    zones = _by_folder(files, r"/sys/class/thermal/thermal_zone\d+")
    return parsers.temperatures((z.get("type", name.rpartition("/")[2]), z.get("temp", "")) for name, z in zones.items()) or None


def _hottest(files: Mapping[str, bytes]) -> float | None:
    """Of the CPU where a zone says that it is, else of all."""
    found = _temperatures(files) or {}
    cpu = [c for name, c in found.items() if "cpu" in name.lower() or name.lower().startswith(("x86_pkg", "soc-thermal"))]
    return max(cpu or found.values(), default=None)


def _throttled(files: Mapping[str, bytes]) -> int | None:
    found = (parsers.get_throttled(text(data)) for path, data in files.items() if path.endswith("/get_throttled"))
    return next((flags for flags in found if flags is not None), None)


def _hwmon(files: Mapping[str, bytes], name: str) -> dict[str, dict[str, str]]:
    folders = _by_folder(files, r"/sys/class/hwmon/hwmon\d+")
    return {folder: leaves for folder, leaves in folders.items() if leaves.get("name") == name}


def _events(files: Mapping[str, bytes]) -> dict[str, int] | None:
    found = {}
    for leaves in _hwmon(files, "soctherm_oc").values():
        for leaf, value in leaves.items():
            count = integer(value)
            if leaf.endswith("_event_cnt") and count is not None:
                found[leaf.removesuffix("_event_cnt")] = count
    return dict(sorted(found.items())) or None


def _cooling(files: Mapping[str, bytes]) -> dict[str, int] | None:
    found = {}
    for folder, leaves in _by_folder(files, r"/sys/class/thermal/cooling_device\d+").items():
        state = integer(leaves.get("cur_state", ""))
        if state is not None and state >= 0:  # -1: of intel_powerclamp, which is off
            found[_cooling_name(folder, leaves)] = state
    return found or None


def _cooling_name(folder: str, leaves: Mapping[str, str]) -> str:
    return f"{leaves.get('type', 'cooling')} {folder.removeprefix('/sys/class/thermal/cooling_device')}"


def _rails(files: Mapping[str, bytes]) -> dict[str, float] | None:
    channels, found = {}, {}
    for leaves in _hwmon(files, "ina3221").values():
        for leaf, label in leaves.items():
            if leaf.endswith("_label"):
                n = leaf.removeprefix("in").removesuffix("_label")
                channels[label] = (leaves.get(f"in{n}_input", ""), leaves.get(f"curr{n}_input", ""))
    found = parsers.rail_power(channels)
    for path, data in files.items():  # JetPack 4
        if "/ina3221x/" in path and "/rail_name_" in path:
            n = path.rpartition("_")[2]
            mw = integer(files.get(f"{path.rpartition('/')[0]}/in_power{n}_input", b""))
            if mw is not None:
                found[text(data)] = float(mw)
    return found or None


def _meminfo(key: str) -> Callable[[Mapping[str, bytes]], int | None]:
    def read(files: Mapping[str, bytes]) -> int | None:
        match = re.search(rf"^{key}:\s+(\d{{1,15}}) kB", text(files.get("/proc/meminfo", b"")), re.MULTILINE)
        return int(match[1]) if match else None

    return read


def _first_number(path: str) -> Callable[[Mapping[str, bytes]], float | None]:
    def read(files: Mapping[str, bytes]) -> float | None:
        match = re.match(r"\d{1,15}(\.\d+)?", text(files.get(path, b"")))
        return float(match[0]) if match else None

    return read


def _core_kinds(files: Mapping[str, bytes]) -> list[dict[str, Any]] | None:
    """Cores that are alike: what they are, which, and the kernel's idea of their relative speed."""
    kinds: dict[tuple[str, int | None], list[int]] = {}
    for number, name in parsers.cpuinfo_cores(text(files.get("/proc/cpuinfo", b""))).items():
        capacity = integer(files.get(f"{CPU}/cpu{number}/cpu_capacity", b""))
        kinds.setdefault((name, capacity), []).append(number)
    return [{"core": name, "cores": cores, "capacity": capacity} for (name, capacity), cores in kinds.items()] or None


_READERS: dict[str, Callable[[Mapping[str, bytes]], Any]] = {
    "model": lambda files: _line(files, "/sys/firmware/devicetree/base/model"),
    "compatible": lambda files: (
        [part for part in text(files.get("/sys/firmware/devicetree/base/compatible", b"")).split("\0") if part] or None
    ),
    "os": lambda files: parsers.os_release(text(files.get("/etc/os-release", b""))),
    "governor": _of_policies("governor"),
    "khz": _of_policies("khz"),
    "max_khz": _of_policies("max_khz"),
    "policies": _policies,
    "temperature_c": _hottest,
    "temperatures_c": _temperatures,
    "throttled": _throttled,
    "events": _events,
    "cooling": _cooling,
    "rails_mw": _rails,
    "load": _first_number("/proc/loadavg"),
    "uptime_s": _first_number("/proc/uptime"),
    "memory_available_kib": _meminfo("MemAvailable"),
    "memory_total_kib": _meminfo("MemTotal"),
    "cores_listed": lambda files: len(parsers.cpuinfo_cores(text(files.get("/proc/cpuinfo", b"")))) or None,
    "cores_online": lambda files: parsers.core_list(text(files.get(f"{CPU}/online", b""))) or None,
    "cores_offline": lambda files: (
        parsers.core_list(text(files[f"{CPU}/offline"])) if f"{CPU}/offline" in files else None
    ),
    "core_kinds": _core_kinds,
    "perf_event_paranoid": lambda files: integer(files.get("/proc/sys/kernel/perf_event_paranoid", b"")),
    "throttle": lambda files: _throttle(_throttled(files), files),
}  # fmt: skip


def _throttle(flags: int | None, files: Mapping[str, bytes]) -> dict[str, list[str]] | None:
    """What holds now, and what was the case since the start."""
    alarms = [leaves["in0_lcrit_alarm"] for leaves in _hwmon(files, "rpi_volt").values() if "in0_lcrit_alarm" in leaves]
    if flags is None and not alarms:
        return None
    now, since = parsers.throttle_names((flags or 0) & 0xF), parsers.throttle_names((flags or 0) >> 16)
    if "1" in alarms and "under-voltage" not in now:
        now.append("under-voltage")
    return {"now": now, "since_start": since}


# ---- The board's own programs ---------------------------------------------------------------------------------------------------


def _from_programs(device: Device, values: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """What only a program tells. Asked for on the boards that have it, as each costs a visit."""
    found: dict[str, Any] = {}
    about = " ".join([values["model"] or "", *(values["compatible"] or ())]).lower()
    pages = parsers.integer(_output(device, ["getconf", "PAGESIZE"]) or "")
    if pages:
        found["page_bytes"] = pages
    if "raspberry" in about:
        if values["throttled"] is None:
            flags = parsers.get_throttled(_output(device, ["vcgencmd", "get_throttled"]) or "")
            if flags is not None:
                found |= {"throttled": flags, "throttle": _throttle(flags, files)}
        if "raspberry pi 5" in about or "compute module 5" in about:
            rails = parsers.pmic_rails(_output(device, ["vcgencmd", "pmic_read_adc"]) or "")
            found |= {"rails_mw": rails} if rails else {}
    if "nvidia" in about or "/etc/nv_tegra_release" in files:
        found["power_mode"] = parsers.nvpmodel(_output(device, ["nvpmodel", "-q"]) or "")
        # It never ends by itself. Two lines: older ones begin with a line of zeros.
        stats = parsers.last_line(_output(device, ["timeout", "1.5", "tegrastats", "--interval", "500"], ends=False) or "")
        if stats:
            heat, power = parsers.tegrastats(stats)
            found["tegrastats"] = stats
            if not values["rails_mw"] and power:
                found["rails_mw"] = power
            if not values["temperatures_c"] and heat:
                found |= {"temperatures_c": heat, "temperature_c": heat.get("cpu", max(heat.values()))}
    return found


def _output(device: Device, argv: Sequence[str], *, ends: bool = True) -> str | None:
    done = device.system(argv, timeout=10)
    if done is None or (ends and done.returncode != 0):
        return None
    return done.stdout.decode(errors="replace")


# ---- Emulated machines ----------------------------------------------------------------------------------------------------------

QEMU_TIMER_HZ = 62_500_000  # of every machine that QEMU emulates; no Raspberry Pi or Jetson has it (19.2, 54, 31.25 MHz)


def emulation(files: Mapping[str, bytes]) -> str:
    """How one sees that a machine is emulated, or "". An x86 virtual machine is none: its times are those of a real CPU."""
    compatible = text(files.get("/sys/firmware/devicetree/base/compatible", b"")).split("\0")
    model = _line(files, "/sys/firmware/devicetree/base/model") or ""
    cpuinfo = text(files.get("/proc/cpuinfo", b""))
    arm = bool(compatible != [""] or re.search(r"^CPU implementer", cpuinfo, re.MULTILINE))
    if "linux,dummy-virt" in (model, *compatible):
        return "its device tree is of QEMU's virtual board (linux,dummy-virt)"
    if any(b"qemu" in data for path, data in files.items() if "/fw-cfg" in path):
        return "its device tree has QEMU's firmware interface (fw-cfg)"
    if b"qemu-a" in files.get("/proc/1/cmdline", b"") or b"qemu-arm" in files.get("/proc/1/cmdline", b""):
        return "its first process runs in QEMU"
    if arm and (_line(files, "/sys/class/dmi/id/sys_vendor") or "") == "QEMU":
        return "its maker is QEMU"
    if model.startswith("Raspberry Pi") and parsers.cpuinfo_serial(cpuinfo) == 0:
        return "a Raspberry Pi whose serial number is 0"
    return ""


# ---- Between the runs -----------------------------------------------------------------------------------------------------------


def _watch(files: Mapping[str, bytes]) -> list[Watched]:
    policies = _by_folder(files, rf"{CPU}/cpufreq/policy\d+")
    found = [Watched(f"{folder}/scaling_cur_freq", "khz", folder.rpartition("/")[2]) for folder in policies]
    for folder, leaves in _by_folder(files, r"/sys/class/thermal/thermal_zone\d+").items():
        if parsers.temperatures([(leaves.get("type", "zone"), leaves.get("temp", ""))]):
            found.append(Watched(f"{folder}/temp", "temperature", leaves.get("type", folder.rpartition("/")[2])))
    for folder, leaves in _by_folder(files, r"/sys/class/thermal/cooling_device\d+").items():
        if slows_the_cpu(leaves.get("type", "")):
            found.append(Watched(f"{folder}/cur_state", "cooling", _cooling_name(folder, leaves)))
    for folder, leaves in _hwmon(files, "soctherm_oc").items():
        found += [
            Watched(f"{folder}/{leaf}", "event", leaf.removesuffix("_event_cnt")) for leaf in leaves if leaf.endswith("_event_cnt")
        ]
    for folder, leaves in _hwmon(files, "ina3221").items():
        for leaf, label in leaves.items():
            n = leaf.removeprefix("in").removesuffix("_label")
            if (
                leaf.endswith("_label")
                and f"curr{n}_input" in leaves
                and f"in{n}_input" in leaves
                and label in (_rails(files) or ())
            ):
                found += [Watched(f"{folder}/in{n}_input", "mv", label), Watched(f"{folder}/curr{n}_input", "ma", label)]
    for path, data in files.items():
        if path.endswith("/get_throttled"):
            found.append(Watched(path, "throttled", "throttled"))
        if "/ina3221x/" in path and "/rail_name_" in path:
            found.append(Watched(f"{path.rpartition('/')[0]}/in_power{path.rpartition('_')[2]}_input", "mw", text(data)))
    return found


def slows_the_cpu(cooling: str) -> bool:
    """Whether a cooling device, by its type, takes clock from the CPU; fans and the like do not."""
    kind = cooling.lower()
    return "cpufreq" in kind or kind.startswith(("cpu", "processor"))


def between(watch: Sequence[Watched], look: Look) -> dict[str, Any]:
    """One look of the runtime, as JSON: the keys of an environment record that were read, by whose they are."""
    khz: dict[str, int] = {}
    zones: list[tuple[str, str]] = []
    events: dict[str, int] = {}
    cooling: dict[str, int] = {}
    rails: dict[str, float] = {}
    volts: dict[str, str] = {}
    flags: int | None = None
    for file, value in zip(watch, look.values, strict=True):
        number = integer(value)
        if file.kind == "temperature":
            zones.append((file.name, value))
        elif file.kind == "throttled":
            flags = parsers.get_throttled(value)
        elif file.kind == "mv":
            volts[file.name] = value
        elif file.kind == "ma":
            rails |= parsers.rail_power({file.name: (volts.get(file.name, ""), value)})
        elif number is not None and file.kind == "mw":
            rails[file.name] = float(number)
        elif number is not None:
            {"khz": khz, "event": events, "cooling": cooling}[file.kind][file.name] = number
    return {
        "at_ms": look.at_ns / 1e6,
        "run": look.run,
        "khz": khz,
        "temperatures_c": parsers.temperatures(zones),
        "throttled": flags,
        "events": events,
        "cooling": cooling,
        "rails_mw": rails,
    }
