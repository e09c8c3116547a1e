"""How `boards`, `build` and `doctor` look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bvtdeploy.boards import Board, Cluster
from bvtdeploy.boards.explain import FEATURES, BoardFacts
from bvtdeploy.boards.machines import BITS
from bvtdeploy.console import Console, amount, size

if TYPE_CHECKING:
    from bvtdeploy.build import Build
    from bvtdeploy.doctor import Diagnosis


def show_build(console: Console, build: Build) -> None:
    """What was built."""
    elf = build.elf
    kind = "static" if elf.static else f"needs {', '.join(elf.needed)}" + (f", GLIBC {elf.glibc_min}" if elf.glibc_min else "")
    inside = build.container
    console.say(str(build.program), style="bold")
    console.facts(
        [
            ("board", build.board),
            ("program", f"{elf.machine}, {elf.bits} bit, {kind}, {size(build.files['bvt_run']['bytes'])}"),
            ("library", f"lib/libbvt.a, {size(build.files['lib/libbvt.a']['bytes'])}"),
            ("compiler", build.toolchain["version"]),
            ("container", f"{inside['engine']}, {inside['image']}" if inside else ""),
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
    console.table(
        ["board", "what", "core", "arch", "cores", "MHz", "features", "emulated as"], rows, align="nlnlrrll", optional=["arch"]
    )


def show_board(console: Console, facts: BoardFacts) -> None:
    """One board, explained."""
    b = facts.board
    console.say(f"{b.name}: {b.title}", style="bold")
    clusters = b.clusters or ((Cluster(b.core, b.cores, b.clock_mhz),) if b.cores else ())
    caches = [f"L1 {b.l1d_kib} KiB a core", f"L2 {b.l2_kib} KiB", *([f"L3 {b.l3_kib} KiB"] if b.l3_kib else [])]
    system = ", ".join(part for part in (b.os, b.glibc and f"glibc {b.glibc}", b.page_kib and f"pages of {b.page_kib} KiB") if part)
    seen = [f'model "{model}..."' for model in b.models] + list(b.compatible) + [f"CPU part {part}" for part in b.cpu_parts]
    console.facts(
        [
            ("system on chip", b.soc),
            ("cores", " + ".join(f"{c.count} {c.core}" + (f" at {c.clock_mhz} MHz" if c.clock_mhz else "") for c in clusters)),
            ("caches", ", ".join(caches) if b.cores else ""),
            ("usual system", system),
            ("programs", f"{b.machine}, {BITS.get(b.machine, 64)} bits" + (f", {b.float_abi}-float" if b.float_abi else "")),
            ("recognised by", ", ".join(seen)),
            ("compiled with", f"{b.triple}-gcc {' '.join(b.flags)}" if not b.native else "this machine's compiler"),
            ("or with", f"zig cc -target {b.zig_target} {' '.join(b.zig_flags)}"),
            ("emulated", f"--device {facts.emulate}" if facts.emulate else ""),
        ]
    )
    if b.features:
        console.heading(f"what a program for it may use, beyond bare {b.arch}")
        console.facts((name, FEATURES.get(name, "")) for name in b.features)
    console.heading("how the weights of binary products are laid out")
    if b.costs:
        console.say(
            "The layout with the fewest modelled cycles on one core is taken; no board has measured them (bvtdeploy tune does)."
        )
    else:
        console.say("lanes16, always: the file of this board has no costs, and lanes16 is never bad.")
    names = list(b.costs)
    console.table(
        ["product", "rows", "columns", "outputs", "taken", *(f"{name.lower()}, cycles" for name in names)],
        [
            (p.product, p.rows, p.cols, p.outputs, p.layout, *(amount(p.cycles[name.lower()]) for name in names))
            for p in facts.layouts
        ],
        align="lrrrn" + "r" * len(names),
    )
    if b.notes:
        console.heading("to know")
        for note in b.notes:
            console.say(note)


def show_doctor(console: Console, diagnosis: Diagnosis) -> None:
    """What is there and what is not."""
    for finding in diagnosis.findings:
        if finding.present:
            console.good(f"{finding.name}: {finding.found}")
        else:
            say = console.bad if finding.needed else console.note
            say(f"{finding.name}: {finding.found} ({finding.purpose}). Get it: {finding.fix}")
