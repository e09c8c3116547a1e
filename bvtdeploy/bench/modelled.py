"""Executed instructions of an artifact on an emulated board, and what a model of the core makes of them.

The program that boards get is linked once more with its symbols and run under user-mode QEMU with a plugin that counts how often
each instruction is executed (runtime_arm/bench/icount.c): for one inference, and for two; the difference is one inference
without the start. The counts are exact; cycles and milliseconds are a model (cores.toml) and are called so wherever they are shown.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from bvtdeploy.artifact.reader import read
from bvtdeploy.bench.a64 import COUNTED, GROUPS, decode
from bvtdeploy.bench.peers import Say
from bvtdeploy.bench.shape import NoPlainViTError, shape_of
from bvtdeploy.boards import Board, load_board
from bvtdeploy.build import build_runtime
from bvtdeploy.build.files import cache_folder, sha256
from bvtdeploy.build.runtime import CFLAGS, LIBRARY
from bvtdeploy.build.sources import read_sources, runtime_folder
from bvtdeploy.build.toolchains import GET_CC, find_toolchain
from bvtdeploy.errors import UserError

GET_QEMU: Final = "apt-get install qemu-user (the static build has no plugins; neither do builds without --enable-plugins)"
RUN_TIMEOUT = 3600.0
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Core:
    """A row of cores.toml.

    Attributes:
        name: of the core.
        stands_for: the core that is asked about where it is another one, and why this one is taken.
        width: dispatch slots a cycle.
        pipes: how many of each.
        bound: vector instructions a cycle, at most: of "fmla" and of the other "simd".
        needs: (class, 128 bits) -> slots, cycles of each pipe.
    """

    name: str
    stands_for: str
    width: int
    pipes: Mapping[str, int]
    bound: Mapping[str, float]
    needs: Mapping[tuple[str, bool], tuple[float, Mapping[str, float]]]

    def cycles(self, piece: Sequence[tuple[str, bool]]) -> float:
        """Cycles of a straight piece of code, given as (class, 128 bits): the most that a pipe, or the dispatch, is held."""
        slots, held = 0.0, defaultdict[str, float](float)
        for instruction in piece:
            if instruction not in self.needs:
                why = f"it has no '{instruction[0]}' instructions, but the emulated core ran one"
                raise UserError(
                    f"the model of {self.name} does not fit", why=why, fix="set qemu.cpu in the board's file to its core"
                )
            own, pipes = self.needs[instruction]
            slots += own
            for pipe, cycles in pipes.items():
                held[pipe] += cycles / self.pipes[pipe]
        return max([slots / self.width, *held.values()])

    def least(self, counts: Mapping[str, float]) -> float:
        """Cycles that vector arithmetic takes at least, in the unit of the counts of "simd" and "fmla"."""
        return (counts["simd"] - counts["fmla"]) / self.bound["simd"] + counts["fmla"] / self.bound["fmla"]


@cache
def _cores() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((_HERE / "cores.toml").read_text(encoding="utf-8"))
    return loaded


def core_source() -> str:
    """Where the rates come from."""
    return str(_cores()["source"])


def find_core(name: str) -> Core:
    """The model of a core. Raises UserError where there is none."""
    table = _cores()
    alias = table["stands_for"].get(name)
    taken = alias["core"] if alias else name
    if taken not in table["cores"]:
        known = ", ".join(sorted([*table["cores"], *table["stands_for"]]))
        raise UserError(f"there is no model of the core '{name}'", fix=f"take a board with one of: {known}")
    row = table["cores"][taken]
    needs = {}
    for kind, entry in row["classes"].items():
        for quad in (False, True):
            own = dict(entry.get("quad", entry) if quad else entry)
            own.pop("quad", None)
            needs[kind, quad] = (float(own.pop("slots", 1)), {pipe: float(cycles) for pipe, cycles in own.items()})
    text = f"{taken} for {name}: {alias['why']}" if alias else ""
    return Core(taken, text, row["width"], row["pipes"], row["bound"], needs)


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
    for board in chosen:
        if board.machine != "aarch64":
            why = f"its programs are for {board.machine}, and the rates are those of 64-bit ARM instructions"
            raise UserError(f"board {board.name} cannot be modelled", why=why, fix="take a 64-bit board")
        if not board.qemu_cpu or not board.clock_mhz:
            raise UserError(
                f"board {board.name} cannot be modelled",
                why="its file names no emulated core (qemu.cpu) or no clock (clock_mhz)",
                fix="take rpi4 or rpi5, or add both to the board's file",
            )
    qemu, plugin = find_counting_qemu(), build_plugin()
    peers = tomllib.loads((_HERE / "peers.toml").read_text(encoding="utf-8"))
    known, no_peers = _known(path, like, {row["model"] for row in peers["peer"]})
    found = []
    for board, core in zip(chosen, cores, strict=True):
        program, compiler = build_with_symbols(board, say)
        say(f"counting the instructions of one inference on an emulated {board.qemu_cpu}")
        counts = count_inference(qemu, plugin, program, path, board.qemu_cpu)
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


def find_counting_qemu() -> str:
    """A user-mode emulator that takes plugins. Raises UserError where there is none."""
    tried = []
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        path = shutil.which(name)
        if path is None:
            continue
        try:
            done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if "-plugin" in done.stdout:
            return path
        tried.append(path)
    why = f"{', '.join(tried)} has none" if tried else "no qemu-aarch64 was found"
    raise UserError("counting instructions needs user-mode QEMU with plugins", why=why, fix=GET_QEMU)


def build_plugin() -> Path:
    """The counting plugin for this machine's QEMU, from the cache or compiled now."""
    source = runtime_folder() / "bench" / "icount.c"
    compiler = find_toolchain(load_board("host"))
    key = hashlib.sha256("\0".join([sha256(source), compiler.version, *compiler.cc]).encode()).hexdigest()[:16]
    path = cache_folder() / "bench" / f"libicount-{key}.so"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as folder:
            made = Path(folder) / path.name
            _call([*compiler.cc, "-std=c11", "-O2", "-shared", "-fPIC", "-o", str(made), str(source)], None, compiler.environ())
            os.replace(made, path)
    return path


def build_with_symbols(board: Board, say: Say) -> tuple[Path, str]:
    """`bvt_run` of a board with its symbols, and the compiler. The library is that of `bvtdeploy build`: the code is the same."""
    build = build_runtime(board, progress=say)
    compiler = find_toolchain(board)
    path = cache_folder() / "bench" / f"bvt_run-{board.name}-{sha256(build.folder / LIBRARY)[:16]}"
    if not path.is_file():
        root = runtime_folder()
        sources = [s.path for s in read_sources(root) if s.target == "bvt_run" and s.machine in ("", compiler.machine)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [*compiler.cc, *CFLAGS, *compiler.flags, "-Iinclude", "-static", "-Wl,--gc-sections", "-o", str(made)]
            _call([*command, *sources, str(build.folder / LIBRARY), "-lm"], root, compiler.environ())
            os.replace(made, path)
    return path, compiler.version


def _call(command: list[str], cwd: Path | None, environ: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, env=dict(environ), capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError("the compiler cannot be run", where=command[0], why=str(error), fix=GET_CC) from error
    if done.returncode:
        why = "\n       ".join(done.stderr.strip().splitlines()[:8])
        raise UserError("what counts instructions does not compile", where=" ".join(command[:2]), why=why, fix=GET_CC)


def count_inference(qemu: str, plugin: Path, program: Path, artifact: Path, cpu: str) -> Counter[int]:
    """How often each instruction (by address) is executed in the second inference of a process."""
    counts = _count(qemu, plugin, program, artifact, cpu, 2)
    counts.subtract(_count(qemu, plugin, program, artifact, cpu, 1))
    return counts


def _count(qemu: str, plugin: Path, program: Path, artifact: Path, cpu: str, runs: int) -> Counter[int]:
    with tempfile.TemporaryDirectory(prefix="bvtdeploy-") as folder:
        log = Path(folder) / "counts"
        command = [qemu, "-cpu", cpu, "-d", "plugin", "-D", str(log), "-plugin", str(plugin), str(program), str(artifact)]
        try:
            # Without an environment, the start does not depend on its size.
            done = subprocess.run(
                [*command, "--runs", str(runs), "--top", "0"],
                env={},
                capture_output=True,
                text=True,
                timeout=RUN_TIMEOUT,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError("the emulator cannot be run", where=qemu, why=str(error), fix=GET_QEMU) from error
        if done.returncode or not log.is_file():
            why = "\n       ".join((done.stderr or done.stdout).strip().splitlines()[:6]) or f"it ended with code {done.returncode}"
            raise UserError("the artifact does not run on the emulated core", where=f"{qemu} -cpu {cpu}", why=why, fix=GET_QEMU)
        counts: Counter[int] = Counter()
        for line in log.read_text(encoding="utf-8").splitlines():
            address, times = line.split()
            counts[int(address, 16)] += int(times)
        return counts


@dataclass(frozen=True)
class _Code:
    """Instruction words by address, and the functions: their starts, in order, and their names."""

    words: Mapping[int, int]
    starts: Sequence[int]
    names: Sequence[str]

    def function(self, address: int) -> str:
        at = bisect.bisect_right(self.starts, address) - 1
        return self.names[at] if at >= 0 else "(unknown)"


def _read_code(program: Path) -> _Code:
    words: dict[int, int] = {}
    symbols: dict[int, str] = {}
    with program.open("rb") as file:
        elf = ELFFile(file)
        for section in elf.iter_sections():
            if section["sh_flags"] & 4 and section["sh_type"] == "SHT_PROGBITS":  # SHF_EXECINSTR
                start, data = section["sh_addr"], section.data()
                for at in range(0, len(data) - 3, 4):
                    words[start + at] = int.from_bytes(data[at : at + 4], "little")
            if isinstance(section, SymbolTableSection):
                for symbol in section.iter_symbols():
                    if symbol["st_info"]["type"] == "STT_FUNC" and symbol.name and symbol["st_value"]:
                        symbols[symbol["st_value"]] = symbol.name
    starts = sorted(symbols)
    return _Code(words, starts, [symbols[start] for start in starts])


def _account(program: Path, counts: Mapping[int, int], core: Core) -> tuple[dict[str, int], list[Function]]:
    """Counts by class, and the functions by modelled cycles.

    A straight piece of code ends with a branch, with a change of the count, and where a function ends.
    """
    code = _read_code(program)
    totals = dict.fromkeys(("total", *COUNTED), 0)
    instructions, cycles = defaultdict[str, int](int), defaultdict[str, float](float)
    piece: list[tuple[str, bool]] = []
    executed = sorted(address for address, times in counts.items() if times > 0 and address in code.words)
    for at, address in enumerate(executed):
        times, word = counts[address], decode(code.words[address])
        group = GROUPS[word.kind]
        totals["total"] += times
        totals[group] += times
        if word.kind in ("fmla", "dot", "cnt"):
            totals[word.kind] += times
        function = code.function(address)
        instructions[function] += times
        piece.append((word.kind, word.quad))
        following = executed[at + 1] if at + 1 < len(executed) else -1
        goes_on = following == address + 4 and counts[following] == times and code.function(following) == function
        if word.kind == "branch" or not goes_on:
            cycles[function] += core.cycles(piece) * times
            piece = []
    rows = [Function(name, instructions[name], cycles[name]) for name in sorted(cycles, key=lambda name: -cycles[name])]
    return totals, rows
