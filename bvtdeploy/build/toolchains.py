"""Finding a compiler for a board.

For this machine: $CC, else cc, gcc or clang, else zig. For an ARM board: the distribution's cross GCC, else (on an ARM machine) its
own compiler, else zig, which comes from pip and brings its own C library. A program for a board is static, so that the age of the
board's system does not matter.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bvtdeploy.boards import Board
from bvtdeploy.build.files import cache_folder
from bvtdeploy.errors import UserError

GET_GCC = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
GET_ZIG = "pip install ziglang"
GET_CC = "apt-get install build-essential"
_OTHER = "give --toolchain auto, gcc, zig, or the path of a GCC or Clang"


@dataclass(frozen=True)
class Toolchain:
    """A C compiler with what makes it produce code for one board.

    Attributes:
        kind: "gcc", "clang" or "zig".
        cc, ar: command lines to which arguments are added.
        version: the compiler's own first line.
        machine: what it produces code for, as `uname -m` spells it.
        flags: target flags of the board, for this kind of compiler.
        static: whether programs are linked statically.
        env: environment variables to set.
    """

    kind: str
    cc: tuple[str, ...]
    ar: tuple[str, ...]
    version: str
    machine: str
    flags: tuple[str, ...]
    static: bool
    env: dict[str, str] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        """The environment to run it in. LC_ALL=C: so that messages can be read back."""
        return {**os.environ, **self.env, "LC_ALL": "C"}


def board_machine(board: Board) -> str:
    """What `uname -m` says on a board."""
    return platform.machine() if board.native else "aarch64"


def has_zig() -> bool:
    """Whether the ziglang wheel is installed."""
    return importlib.util.find_spec("ziglang") is not None


def find_toolchain(board: Board, wish: str = "auto") -> Toolchain:
    """The compiler to take for a board.

    Args:
        board: the target.
        wish: "auto", "gcc", "zig", or the path or name of a C compiler (GCC or Clang).
    """
    if wish == "auto":
        candidates = _native_compilers() if board.native else _cross_compilers(board)
        if candidates:
            return _describe(board, candidates[0])
        if has_zig():
            return _zig(board)
        get = GET_CC if board.native else GET_GCC
        raise UserError(
            f"there is no C compiler for {board_machine(board)} here",
            where=f"board {board.name}",
            why="neither " + ("cc, gcc or clang" if board.native else f"{board.triple}-gcc") + " nor the ziglang package was found",
            fix=f"{get}    (or, with no root rights: {GET_ZIG})",
        )
    if wish == "gcc":
        name = "gcc" if board.native or board_machine(board) == platform.machine() else f"{board.triple}-gcc"
        if shutil.which(name) is None:
            raise UserError(f"there is no {name} here", where="--toolchain gcc", fix=GET_CC if board.native else GET_GCC)
        return _describe(board, [name])
    if wish == "zig":
        if not has_zig():
            raise UserError("the ziglang package is not installed", where="--toolchain zig", fix=GET_ZIG)
        return _zig(board)
    if shutil.which(wish) is None:
        raise UserError(
            f"there is no compiler '{wish}'",
            where="--toolchain",
            fix="give auto, gcc, zig, or the path of a C compiler that can be run",
        )
    return _describe(board, [wish])


def _native_compilers() -> list[list[str]]:
    chosen = shlex.split(os.environ.get("CC", ""))
    return [command for command in (chosen, ["cc"], ["gcc"], ["clang"]) if command and shutil.which(command[0])]


def _cross_compilers(board: Board) -> list[list[str]]:
    names = [f"{board.triple}-gcc"] + (["cc", "gcc", "clang"] if platform.machine() == board_machine(board) else [])
    return [[name] for name in names if shutil.which(name)]


def _describe(board: Board, command: list[str]) -> Toolchain:
    """Ask a GCC or Clang what it is and what it targets."""
    version = _ask(command, "--version").splitlines()[0]
    kind = "clang" if "clang" in version.lower() else "gcc"
    machine = board_machine(board)
    target = _ask(command, "-dumpmachine")
    flags = board.flags
    if target.split("-")[0].replace("arm64", "aarch64") != machine:
        if kind != "clang":
            raise UserError(
                f"{shlex.join(command)} produces code for {target}, board {board.name} needs {machine}",
                where="--toolchain",
                fix=f"take a compiler for {machine}, or --toolchain auto",
            )
        flags = (f"--target={board.triple}", *flags)
    ar = _ask([*command, *(f for f in flags if f.startswith("--target="))], "-print-prog-name=ar")
    if shutil.which(ar) is None:  # Clang may only know its own
        ar = next((name for name in (f"{board.triple}-ar", "llvm-ar", "ar") if shutil.which(name)), ar)
    return Toolchain(kind, tuple(command), (ar,), version, machine, flags, static=not board.native)


def _zig(board: Board) -> Toolchain:
    zig = [sys.executable, "-m", "ziglang"]
    caches = {
        name: str(cache_folder() / "zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR") if name not in os.environ
    }
    # Without optimisation zig links its undefined-behaviour sanitizer, which takes a minute to build and stops programs: never.
    target = () if board.zig_target == "native" else ("-target", board.zig_target)
    flags = (*target, *board.zig_flags, "-fno-sanitize=undefined")
    version = f"zig {_ask(zig, 'version')}"
    return Toolchain("zig", (*zig, "cc"), (*zig, "ar"), version, board_machine(board), flags, static=not board.native, env=caches)


def _ask(command: list[str], *arguments: str) -> str:
    line = [*command, *arguments]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError("the compiler cannot be run", where=shlex.join(line), why=str(error), fix=_OTHER) from error
    if done.returncode or not done.stdout.strip():
        why = (done.stderr or done.stdout).strip()[:400]
        silent = f"it ended with code {done.returncode}" if done.returncode else "it answers nothing, so it is no GCC or Clang"
        raise UserError("the compiler cannot be used", where=shlex.join(line), why=why or silent, fix=_OTHER)
    return done.stdout.strip()


def tool_path(name: str) -> str:
    """Where a tool is, or "" (for `doctor`)."""
    found = shutil.which(name)
    return str(Path(found)) if found else ""
