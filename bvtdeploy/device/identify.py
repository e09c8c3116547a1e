"""What a device is, from what its system says of itself: its probe, the board it is, and whether a program fits."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bvtdeploy.boards import Board, recognise
from bvtdeploy.boards.machines import machine_name, this_machine
from bvtdeploy.build.fits import HWCAPS, missing_features
from bvtdeploy.device.base import Probe
from bvtdeploy.device.cpuinfo import CORES, paragraphs
from bvtdeploy.errors import UserError

TREE = "/sys/firmware/devicetree/base"
FILES = ("/proc/cpuinfo", "/proc/meminfo", f"{TREE}/model", f"{TREE}/compatible")


@dataclass(frozen=True)
class System:
    """What a device's system says. What it does not say is None or empty.

    Attributes:
        kernel_machine: as `uname -m` says: "aarch64".
        userland: what its programs are: "aarch64", "arm". A 64-bit kernel may carry a 32-bit system.
        model, compatible: of its device tree.
        cpu_parts: "implementer:part" of every kind of core, in order.
        probe: the rest.
        emulated: it is a QEMU.
        facts: further values, by name, as the device wrote them.
        memory_available: bytes.
        looked_at: our clock then, in seconds since 1970.
    """

    kernel_machine: str
    userland: str | None
    model: str
    compatible: tuple[str, ...]
    cpu_parts: tuple[str, ...]
    probe: Probe
    emulated: bool
    facts: Mapping[str, str]
    memory_available: int | None
    looked_at: float


def read_system(facts: Mapping[str, str], files: Mapping[str, bytes]) -> System:
    """From the lines and files that a device sent.

    Args:
        facts: of the script `scripts.FACTS`.
        files: path -> content of `FILES`.
    """
    missing: dict[str, str] = {}
    cpus = _cpus(files.get("/proc/cpuinfo", b"").decode(errors="replace"))
    first = cpus[0] if cpus else {}
    parts = tuple(dict.fromkeys(_part(cpu) for cpu in cpus if _part(cpu)))
    names = [_core(part) for part in parts]
    cpu = " + ".join(names) or first.get("model name") or None
    if cpu is None:
        missing["cpu"] = "/proc/cpuinfo names no core"
    features = tuple((first.get("Features") or first.get("flags") or "").split())
    if not features:
        missing["features"] = "/proc/cpuinfo lists none"
    cores = int(facts["nproc"]) if facts.get("nproc", "").isdecimal() else len(cpus) or None
    if cores is None:
        missing["cores"] = "neither nproc nor /proc/cpuinfo tells"
    kernel = facts.get("kernel") or None
    if kernel is None:
        missing["kernel"] = "uname does not tell"
    libc = facts.get("libc", "")
    found = re.search(r"\b(2\.\d+)", libc) if "musl" not in libc else None
    glibc = found[1] if found else None
    if glibc is None:
        missing["glibc"] = f"the C library is {libc.strip()}" if libc else "no C library was found"
    machine = facts.get("machine", "")
    tree = files.get(f"{TREE}/compatible", b"").decode(errors="replace")
    compatible = tuple(text.strip() for text in tree.split("\0") if text.strip())
    model = files.get(f"{TREE}/model", b"").decode(errors="replace").strip("\0 \n")
    emulated = "linux,dummy-virt" in compatible or "qemu" in facts.get("init", "") or facts.get("qemu") == "yes"
    return System(
        machine, _userland(facts.get("shell", "")), model or first.get("Model", ""), compatible, parts,
        Probe(machine, cpu, features, cores, kernel, glibc, missing), emulated, facts, _available(files), time.time(),
    )  # fmt: skip


def _available(files: Mapping[str, bytes]) -> int | None:
    found = re.search(rb"MemAvailable:\s*(\d+) kB", files.get("/proc/meminfo", b""))
    return int(found[1]) << 10 if found else None


def _cpus(text: str) -> list[dict[str, str]]:
    """/proc/cpuinfo by CPU. What stands once at the end of an ARM board's (Model) belongs to the first."""
    found: list[dict[str, str]] = []
    tail: dict[str, str] = {}
    for fields in paragraphs(text):
        if "processor" in fields and ("CPU part" in fields or len(fields) > 2):
            found.append(fields)
        else:
            tail |= fields
    if found:
        found[0] = {**tail, **found[0]}
    return found


def _part(cpu: Mapping[str, str]) -> str:
    try:
        return f"{int(cpu['CPU implementer'], 16):02x}:{int(cpu['CPU part'], 16):03x}"
    except (KeyError, ValueError):
        return ""


def _core(part: str) -> str:
    implementer, _, number = part.partition(":")
    return CORES.get((int(implementer, 16), int(number, 16)), part)


def _userland(header: str) -> str | None:
    """What the shell's ELF header says that programs are."""
    data = header.split()
    if len(data) < 20 or data[:4] != ["7f", "45", "4c", "46"]:
        return None
    return {"b700": "aarch64", "2800": "arm", "3e00": "x86_64", "0300": "i386", "f300": "riscv64"}.get("".join(data[18:20]))


def board_of(system: System, where: str) -> str:
    """The name of the board that a device is, or of the nearest.

    Raises:
        UserError: there is none for such a machine.
    """
    machine = system.userland or machine_name(system.kernel_machine)
    if machine in ("x86_64", "i386") and machine == this_machine():
        return "host"  # a neighbour of our kind
    try:
        board = recognise(machine=machine, compatible=system.compatible, model=system.model, cpu_part=system.cpu_parts)
    except UserError as error:
        raise UserError(error.what, where=where, why=error.why, fix=error.fix) from error
    return board.name


def check_board(board: Board, system: System, where: str) -> None:
    """Refuse a board whose programs a device cannot run, before anything is built. `build.fits` looks at the program itself."""
    kernel = machine_name(system.kernel_machine)
    # A 64-bit ARM kernel runs 32-bit programs too, as far as the core can.
    if board.machine not in {kernel, system.userland or kernel} | ({"arm"} if kernel == "aarch64" else set()):
        raise UserError(
            f"programs for {board.name} are for {board.machine}, the device is {kernel}",
            where=where,
            why=f"uname -m there says {system.kernel_machine or 'nothing'}",
            fix="leave the board out, then it is recognised; or name one of that architecture (bvtdeploy boards)",
        )
    lacking = missing_features(board, system.probe.features)
    if lacking:
        generic = "generic-32" if board.machine == "arm" else "generic"
        raise UserError(
            f"programs for {board.name} need {', '.join(f'{HWCAPS[name][0]} ({name})' for name in lacking)}, which this CPU lacks",
            where=where,
            why=f"{system.probe.cpu or 'the CPU'} has: {' '.join(system.probe.features)}",
            fix=f"name the board that it is, or none: then it is recognised; {generic} runs on any",
        )
