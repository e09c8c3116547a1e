"""How `boards`, `build` and `doctor` look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bvtdeploy.boards import Board
from bvtdeploy.console import Console, size

if TYPE_CHECKING:
    from bvtdeploy.build import Build
    from bvtdeploy.doctor import Diagnosis


def show_build(console: Console, build: Build) -> None:
    """What was built."""
    elf = build.elf
    kind = "static" if elf.static else f"needs {', '.join(elf.needed)}" + (f", GLIBC {elf.glibc_min}" if elf.glibc_min else "")
    console.say(str(build.program), style="bold")
    console.facts(
        [
            ("board", build.board),
            ("program", f"{elf.machine}, {elf.bits} bit, {kind}, {size(build.files['bvt_run']['bytes'])}"),
            ("compiler", build.toolchain["version"]),
            ("flags", " ".join(build.toolchain["flags"])),
            ("built", "before: found in the cache" if build.cached else f"now, in {build.seconds:.1f} s"),
        ]
    )


def show_boards(console: Console, boards: Sequence[Board]) -> None:
    """The boards."""
    rows = [
        (
            b.name,
            b.title,
            b.core,
            b.arch,
            b.cores or "",
            b.clock_mhz or "",
            " ".join(b.features),
            f"qemu:{b.qemu_cpu}" if b.qemu_cpu else "",
        )
        for b in boards
    ]
    console.table(["board", "what", "core", "arch", "cores", "MHz", "features", "emulated as"], rows, align="nlnlrrll")


def show_doctor(console: Console, diagnosis: Diagnosis) -> None:
    """What is there and what is not."""
    for finding in diagnosis.findings:
        if finding.present:
            console.good(f"{finding.name}: {finding.found}")
        else:
            say = console.bad if finding.needed else console.note
            say(f"{finding.name}: {finding.found} ({finding.purpose}). Get it: {finding.fix}")
