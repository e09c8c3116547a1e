"""Texts that boards give, as values. Every parser takes what any generation of a board prints and skips what it does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from bvtdeploy.device.cpuinfo import CORES, paragraphs

# Bits of the Raspberry Pi's get_throttled that say "now"; 16 bits higher: "since the start".
THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}

MOST_CORES = 4096

_IMPLEMENTERS = {0x41: "", 0x42: "Broadcom ", 0x43: "Cavium ", 0x4E: "NVIDIA ", 0x51: "Qualcomm ", 0x61: "Apple "}


def text(data: bytes) -> str:
    """A file of /sys or /proc without its line end or NUL."""
    return data.decode(errors="replace").strip("\0 \t\r\n")


def integer(data: bytes | str, base: int = 10) -> int | None:
    """A whole number of at most 64 bits, or None where it is none."""
    try:
        number = int(text(data) if isinstance(data, bytes) else data.strip(), base)
    except ValueError:
        return None
    return number if abs(number) < 2**64 else None


def core_list(given: str) -> list[int] | None:
    """The kernel's "0-3,6" (or, of related_cpus, "0 1 2 3") as numbers, each once; None where it is neither, or no machine has
    as many cores."""
    found: dict[int, None] = {}
    for part in given.replace(",", " ").split():
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if match is None:
            return None
        low, high = int(match[1]), int(match[2] or match[1])
        if not low <= high < MOST_CORES:
            return None
        found |= dict.fromkeys(range(low, high + 1))
    return list(found)


def os_release(given: str) -> str | None:
    """PRETTY_NAME of /etc/os-release."""
    match = re.search(r"^PRETTY_NAME=(?:\"([^\"\n]*)\"|'([^'\n]*)'|(\S*))", given, re.MULTILINE)
    return next((g for g in match.groups() if g), None) if match else None


def core_name(implementer: int, part: int) -> str:
    """What a core is called, from its identification register."""
    return CORES.get((implementer, part)) or f"{_IMPLEMENTERS.get(implementer, f'implementer {implementer:#x} ')}part {part:#x}"


def cpuinfo_cores(given: str) -> dict[int, str]:
    """The cores in /proc/cpuinfo: number -> what it is called ("" where it does not say)."""
    found: dict[int, str] = {}
    for lines in paragraphs(given):
        number = integer(lines.get("processor", ""))
        if number is None:
            continue
        implementer, part = integer(lines.get("CPU implementer", ""), 16), integer(lines.get("CPU part", ""), 16)
        arm = core_name(implementer, part) if implementer is not None and part is not None else ""
        found[number] = arm or lines.get("model name", "")
    return found


def cpuinfo_serial(given: str) -> int | None:
    """The board's serial number in /proc/cpuinfo, as Raspberry Pis have it. An emulated one has 0."""
    match = re.search(r"^Serial\s*:\s*([0-9a-fA-F]+)\s*$", given, re.MULTILINE)
    return int(match[1], 16) if match else None


def get_throttled(given: str) -> int | None:
    """The Raspberry Pi's flags: "throttled=0x50000" of vcgencmd, "50000" (hexadecimal, no 0x) of /sys."""
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]{1,16})", given.strip())
    return int(match[1], 16) if match else None


def throttle_names(flags: int) -> list[str]:
    """The conditions in the low four bits of the Raspberry Pi's flags."""
    return [name for bit, name in THROTTLE_BITS.items() if flags >> bit & 1]


def pmic_rails(given: str) -> dict[str, float]:
    """`vcgencmd pmic_read_adc` of a Raspberry Pi 5: rail -> mW, of the rails that show both current and voltage."""
    line = r"^\s*(\w+_[AV])\s+(?:current|volt)\(\d+\)\s*=\s*(-?\d{1,9}(?:\.\d+)?)[AV]\s*$"
    readings = dict(re.findall(line, given, re.MULTILINE))
    amperes = {name.removesuffix("_A"): float(x) for name, x in readings.items() if name.endswith("_A")}
    return {
        name: 1000 * a * float(readings[f"{name}_V"]) for name, a in amperes.items() if f"{name}_V" in readings
    }  # fmt: skip


def nvpmodel(given: str) -> str | None:
    """The power mode in what `nvpmodel -q` prints, whatever warnings come before it."""
    match = re.search(r"^NV Power Mode:\s*(\S.*?)\s*$", given, re.MULTILINE)
    return match[1] if match else None


def tegrastats(line: str) -> tuple[dict[str, float], dict[str, float]]:
    """One line of tegrastats: temperatures in degrees by zone (lower case), and mW by rail.

    All generations: with and without a date, `CPU@52.5C` and `cpu@52.5C`, `VDD_IN 5064mW/5064mW` and `VDD_IN 3104/4029`.
    A zone that reads below -40 or above 150 is off (-256) or bogus (PMIC at 100 always).
    """
    heat = {name.lower(): float(value) for name, value in re.findall(r"\b(\w+)@(-?\d+(?:\.\d+)?)C\b", line)}
    power = {name: float(value) for name, value in re.findall(r"\b([A-Z][A-Z0-9_]*) (\d{1,9})(?:mW)?/\d+(?:mW)?(?![\w/(])", line)}
    memory = ("RAM", "SWAP", "IRAM")  # RAM 1903/7850MB
    bogus = ("pmic", "pmic-die")
    return (
        {name: value for name, value in heat.items() if -40 < value < 150 and name not in bogus},
        {name: value for name, value in power.items() if name not in memory},
    )


def last_line(given: str) -> str | None:
    """The last line that is not empty."""
    lines = [line.strip() for line in given.splitlines() if line.strip()]
    return lines[-1] if lines else None


def temperatures(zones: Iterable[tuple[str, str]]) -> dict[str, float]:
    """(type, milli-degrees) of thermal zones as degrees by type; what is no temperature of silicon is left out."""
    found: dict[str, float] = {}
    for kind, value in zones:
        number = integer(value)
        if number is None or not -40_000 < number < 150_000 or kind.lower().startswith("pmic"):
            continue
        name, count = kind, 2
        while name in found:
            name, count = f"{kind} {count}", count + 1
        found[name] = number / 1000
    return found


def rail_power(channels: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """ina3221 channels, label -> (mV, mA), as mW. Channels that are not connected are left out."""
    found = {}
    for label, (volts, amperes) in channels.items():
        mv, ma = integer(volts), integer(amperes)
        if mv is not None and ma is not None and label.upper() not in ("", "NC") and "sum" not in label.lower():
            found[label] = mv * ma / 1000
    return found
