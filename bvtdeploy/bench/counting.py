"""How often each instruction of a program is executed, under user-mode QEMU with a plugin (runtime_arm/bench/icount.c).

Counts are exact and the same in every run of one thread; `pieces` weighs them with the model of a core.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from bvtdeploy.bench.a64 import Instruction, decode
from bvtdeploy.bench.cores import Core
from bvtdeploy.bench.peers import Say
from bvtdeploy.boards import Board, load_board
from bvtdeploy.build import build_runtime
from bvtdeploy.build.files import cache_folder, sha256
from bvtdeploy.build.runtime import CFLAGS, LIBRARY
from bvtdeploy.build.sources import read_sources, runtime_folder
from bvtdeploy.build.toolchains import GET_CC, find_toolchain
from bvtdeploy.errors import UserError

GET_QEMU: Final = "apt-get install qemu-user (the static build has no plugins; neither do builds without --enable-plugins)"
RUN_TIMEOUT = 3600.0


def check_boards(boards: Sequence[Board]) -> None:
    """Raises UserError where instructions of a board's programs cannot be counted, or have no clock to be timed with."""
    for board in boards:
        if board.machine != "aarch64":
            why = f"its programs are for {board.machine}, and the rates are those of 64-bit ARM instructions"
            raise UserError(f"board {board.name} cannot be modelled", why=why, fix="take a 64-bit board")
        if not board.qemu_cpu or not board.clock_mhz:
            raise UserError(
                f"board {board.name} cannot be modelled",
                why="its file names no emulated core (qemu.cpu) or no clock (clock_mhz)",
                fix="take rpi4 or rpi5, or add both to the board's file",
            )


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
    machine = find_toolchain(board).machine
    sources = [s.path for s in read_sources(runtime_folder()) if s.target == "bvt_run" and s.machine in ("", machine)]
    return _link(board, "bvt_run", sources, ["-Iinclude"], say)


def build_kernel_bench(board: Board, say: Say) -> tuple[Path, str]:
    """`bench_kernels` of a board with its symbols, and the compiler. The library is that of `bvtdeploy build`."""
    return _link(board, "bench_kernels", ["bench/bench_kernels.c"], ["-Iinclude", "-Isrc"], say)


def _link(board: Board, name: str, sources: Sequence[str], include: Sequence[str], say: Say) -> tuple[Path, str]:
    build, root = build_runtime(board, progress=say), runtime_folder()
    compiler = find_toolchain(board)
    key = hashlib.sha256("\0".join(sha256(p) for p in [build.folder / LIBRARY, *(root / s for s in sources)]).encode()).hexdigest()
    path = cache_folder() / "bench" / f"{name}-{board.name}-{key[:16]}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as folder:
            made = Path(folder) / path.name
            command = [*compiler.cc, *CFLAGS, *compiler.flags, *include, "-static", "-Wl,--gc-sections", "-o", str(made)]
            _call([*command, *sources, str(build.folder / LIBRARY), "-pthread", "-lm"], root, compiler.environ())
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


def count_runs(qemu: str, plugin: Path, cpu: str, program: Path, before: Sequence[str], after: Sequence[str]) -> Counter[int]:
    """How often each instruction (by address) is executed in a run with the arguments `after` and not in one with `before`."""
    counts = _count(qemu, plugin, cpu, program, after)
    counts.subtract(_count(qemu, plugin, cpu, program, before))
    return counts


def _count(qemu: str, plugin: Path, cpu: str, program: Path, arguments: Sequence[str]) -> Counter[int]:
    with tempfile.TemporaryDirectory(prefix="bvtdeploy-") as folder:
        log = Path(folder) / "counts"
        command = [qemu, "-cpu", cpu, "-d", "plugin", "-D", str(log), "-plugin", str(plugin), str(program), *arguments]
        try:
            # Without an environment, the start does not depend on its size.
            done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=RUN_TIMEOUT, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError("the emulator cannot be run", where=qemu, why=str(error), fix=GET_QEMU) from error
        if done.returncode or not log.is_file():
            why = "\n       ".join((done.stderr or done.stdout).strip().splitlines()[:6]) or f"it ended with code {done.returncode}"
            raise UserError(f"{program.name} does not run on the emulated core", where=f"{qemu} -cpu {cpu}", why=why, fix=GET_QEMU)
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


@lru_cache(maxsize=8)
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


@dataclass(frozen=True)
class Piece:
    """A straight piece of code: its function, instructions, how often it ran, and the modelled cycles of all of these runs."""

    function: str
    instructions: Sequence[Instruction]
    times: int
    cycles: float


def pieces(program: Path, counts: Mapping[int, int], core: Core) -> Iterator[Piece]:
    """The pieces of code that ran. One ends with a branch, with a change of the count, and where a function ends."""
    code = _read_code(program)
    piece: list[Instruction] = []
    executed = sorted(address for address, times in counts.items() if times > 0 and address in code.words)
    for at, address in enumerate(executed):
        times, instruction, function = counts[address], decode(code.words[address]), code.function(address)
        piece.append(instruction)
        following = executed[at + 1] if at + 1 < len(executed) else -1
        goes_on = following == address + 4 and counts[following] == times and code.function(following) == function
        if instruction.kind == "branch" or not goes_on:
            yield Piece(function, tuple(piece), times, core.cycles([(i.kind, i.quad) for i in piece]) * times)
            piece = []
