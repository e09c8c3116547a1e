"""Executed instructions of an artifact on an emulated board, and what a model of the core makes of them.

The program that boards get is linked once more with its symbols and run under user-mode QEMU with a plugin that counts how often
each instruction is executed (runtime_arm/bench/icount.c): for one inference, and for two; the difference is one inference
without the start. The counts are exact; cycles and milliseconds are a model (cores.toml) and are called so wherever they are shown.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bvtdeploy.artifact.reader import read
from bvtdeploy.bench.a64 import COUNTED, GROUPS
from bvtdeploy.bench.cores import Core, core_source, find_core
from bvtdeploy.bench.counting import (
    GET_QEMU,
    build_plugin,
    build_with_symbols,
    check_boards,
    count_runs,
    find_counting_qemu,
    pieces,
)
from bvtdeploy.bench.peers import Say
from bvtdeploy.bench.shape import NoPlainViTError, shape_of
from bvtdeploy.boards import load_board
from bvtdeploy.errors import UserError

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Function:
    """A function of the runtime: its instructions and modelled cycles, of one inference."""

    name: str
    instructions: int
    cycles: float


@dataclass(frozen=True)
class PeerCount:
    """A row of peers.toml beside ours: counts and the least cycles in millions, the least milliseconds, and how many times our
    modelled ones these are."""

    name: str
    version: str
    precision: str
    millions: Mapping[str, float]
    least_mcycles: float
    least_ms: float
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        return {**vars(self), "millions": dict(self.millions)}


@dataclass(frozen=True)
class BoardCount:
    """One board.

    Attributes:
        counts: executed instructions of one inference, by class of COUNTED, and "total".
        cycles, ms: modelled.
        least_ms: of the vector arithmetic alone, as for the peers.
    """

    board: str
    title: str
    core: str
    stands_for: str
    emulated: str
    clock_mhz: int
    compiler: str
    counts: Mapping[str, int]
    cycles: float
    ms: float
    least_ms: float
    functions: tuple[Function, ...]
    peers: tuple[PeerCount, ...]

    def as_dict(self) -> dict[str, Any]:
        """The board as JSON."""
        return {
            **vars(self),
            "counts": dict(self.counts),
            "functions": [vars(f) for f in self.functions],
            "peers": [p.as_dict() for p in self.peers],
        }


@dataclass(frozen=True)
class Modelled:
    """What counting found. `peers_of`: the published model whose peers are shown, or "" and then `no_peers` says why."""

    boards: tuple[BoardCount, ...]
    rates: str
    peers_of: str
    no_peers: str
    peers_counted: str

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "modelled": True,
            "boards": [b.as_dict() for b in self.boards],
            "rates": self.rates,
            "peers_of": self.peers_of or None,
            "no_peers": self.no_peers or None,
            "peers_counted": self.peers_counted,
        }


def model(path: Path, boards: Sequence[str], *, like: str | None, progress: Say | None) -> Modelled:
    """Count and model an artifact on boards; the arguments are those of `bvtdeploy.api.bench`."""
    say = progress or (lambda _: None)
    chosen = [load_board(name) for name in boards]
    cores = [find_core(board.core) for board in chosen]  # a board that has no model is said before any work
    check_boards(chosen)
    qemu, plugin = find_counting_qemu(), build_plugin()
    peers = tomllib.loads((_HERE / "peers.toml").read_text(encoding="utf-8"))
    known, no_peers = _known(path, like, {row["model"] for row in peers["peer"]})
    found = []
    for board, core in zip(chosen, cores, strict=True):
        program, compiler = build_with_symbols(board, say)
        say(f"counting the instructions of one inference on an emulated {board.qemu_cpu}")
        once, twice = ([str(path), "--runs", runs, "--top", "0"] for runs in "12")
        counts = count_runs(qemu, plugin, board.qemu_cpu, program, once, twice)
        if sum(counts.values()) <= 0:
            raise UserError("the emulator counted nothing", where=qemu, fix=GET_QEMU)
        totals, functions = _account(program, counts, core)
        cycles = sum(function.cycles for function in functions)
        ms = cycles / (1000 * board.clock_mhz)
        rows = []
        for row in peers["peer"]:
            if row["model"] == known and row["core"] == core.name:
                least = core.least(row["millions"])
                peer_ms = 1000 * least / board.clock_mhz
                rows.append(PeerCount(row["name"], row["version"], row["precision"], row["millions"], least, peer_ms, peer_ms / ms))
        found.append(
            BoardCount(
                board=board.name,
                title=board.title,
                core=board.core,
                stands_for=core.stands_for,
                emulated=board.qemu_cpu,
                clock_mhz=board.clock_mhz,
                compiler=compiler,
                counts=totals,
                cycles=cycles,
                ms=ms,
                least_ms=core.least(totals) / (1000 * board.clock_mhz),
                functions=tuple(functions),
                peers=tuple(rows),
            )
        )
    return Modelled(tuple(found), core_source(), known, no_peers, peers["counted"])


def _known(path: Path, like: str | None, counted: set[str]) -> tuple[str, str]:
    """The published model of the artifact's shape of which peers were counted, or "" and the reason."""
    name = like or ""
    if not name:
        try:
            name = shape_of(read(path)).known_as
        except NoPlainViTError as error:
            return "", f"this network has no plain ViT of its shape: {error}"
        if not name:
            return "", f"peers were counted for {', '.join(sorted(counted))} alone, and this network has another shape"
    return (name, "") if name in counted else ("", f"no peers were counted for {name}")


def _account(program: Path, counts: Mapping[int, int], core: Core) -> tuple[dict[str, int], list[Function]]:
    """Counts by class, and the functions by modelled cycles."""
    totals = dict.fromkeys(("total", *COUNTED), 0)
    instructions, cycles = defaultdict[str, int](int), defaultdict[str, float](float)
    for piece in pieces(program, counts, core):
        for instruction in piece.instructions:
            totals["total"] += piece.times
            totals[GROUPS[instruction.kind]] += piece.times
            if instruction.kind in ("fmla", "dot", "cnt"):
                totals[instruction.kind] += piece.times
        instructions[piece.function] += piece.times * len(piece.instructions)
        cycles[piece.function] += piece.cycles
    rows = [Function(name, instructions[name], cycles[name]) for name in sorted(cycles, key=lambda name: -cycles[name])]
    return totals, rows
