"""Whether a program can run on a device: everything that can be known before it is pushed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from bvtdeploy.boards import Board
from bvtdeploy.boards.machines import BITS, machine_name
from bvtdeploy.build.elf import ElfFacts, check_glibc, read_elf
from bvtdeploy.errors import UserError


class Target(Protocol):
    """What has to be known of a device. `bvtdeploy.device.Probe` is one."""

    @property
    def machine(self) -> str:
        """As `uname -m` says it."""
        ...

    @property
    def features(self) -> Sequence[str]:
        """The CPU's features, as /proc/cpuinfo spells them; none where they are not known."""
        ...

    @property
    def glibc(self) -> str | None:
        """The version of its glibc; None where it is not known, or there is none."""
        ...


# A board's feature -> how /proc/cpuinfo of a 64-bit and of a 32-bit kernel calls it.
HWCAPS: Final[dict[str, tuple[str, ...]]] = {
    "neon": ("asimd", "neon"),
    "vfpv4": ("asimd", "vfpv4"),
    "idiv": ("asimd", "idiva"),
    "crc": ("crc32",),
    "lse": ("atomics",),
    "rdma": ("asimdrdm",),
    "fp16": ("asimdhp",),
    "dotprod": ("asimddp",),
    "rcpc": ("lrcpc",),
}


def missing_features(board: Board, features: Sequence[str]) -> list[str]:
    """What a program for a board may use and a CPU with these features (of /proc/cpuinfo) lacks; none where there are none."""
    return [name for name in board.features if features and name in HWCAPS and not set(HWCAPS[name]) & set(features)]


def check_fits(program: Path, board: Board, probe: Target, *, page_bytes: int | None = None) -> ElfFacts:
    """Refuse a program that a device cannot run.

    Args:
        program: what was built.
        board: the board that it was built for.
        probe: what the device says of itself.
        page_bytes: the page size of its kernel; None: the board's usual one.

    Returns:
        What the program asks for.

    Raises:
        UserError: it is for another machine, its segments do not fit the pages, it needs a newer C library, or the CPU lacks an
            instruction that the compiler was allowed to use. Says what to do.
    """
    facts = read_elf(program)
    where = str(program)
    machine = machine_name(probe.machine)
    # A 64-bit ARM kernel also starts static 32-bit programs (where its pages are small: checked below).
    if facts.machine != machine and not (machine == "aarch64" and facts.machine == "arm" and facts.static):
        wanted = {"aarch64": "generic", "arm": "generic-32"}.get(machine, "host")
        raise UserError(
            f"the program is for {facts.machine}, the device is {machine}",
            where=where,
            why=f"board {board.name} is {board.machine}, {BITS.get(board.machine, 0)} bits; uname -m says {probe.machine}",
            fix=f"take a board of that kind: --board {wanted} runs on any {machine}",
        )
    pages = page_bytes or board.page_kib * 1024
    if pages and facts.load_align < pages:
        raise UserError(
            f"the program's parts are aligned to {facts.load_align} bytes, the device has pages of {pages}",
            where=where,
            why="the kernel cannot load them",
            fix="build for its 64-bit system (rpi5, generic)" if facts.machine == "arm" else "link with -Wl,-z,max-page-size=65536",
        )
    if not facts.static and "musl" not in facts.interpreter and probe.glibc is not None:
        check_glibc(facts, where, probe.glibc)
    lacking = missing_features(board, probe.features)
    if lacking:
        plain = "generic-32" if board.machine == "arm" else "generic"
        told = ", ".join(f"{name} ({HWCAPS[name][0]})" for name in lacking)
        raise UserError(
            f"the device's CPU has no {told}",
            where=where,
            why=f"a program for {board.name} ({board.core}) may use it, and would be stopped by SIGILL",
            fix="the runtime needs it on a 32-bit system: there is no build for this CPU"
            if board.name == plain
            else f"name the board that it is, or build for any: --board {plain}",
        )
    return facts
