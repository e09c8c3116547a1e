"""Finding a compiler for a board.

For this machine: $CC, else cc, gcc or clang, else zig. For an ARM board: the distribution's cross GCC, else (on an ARM machine) its
own compiler, else zig, which comes from pip and brings its own C library. A program for a board is static, so that the age of the
board's system does not matter; on request it is dynamic, and then the oldest glibc that it may need is part of the wish. zig links
against whichever glibc one names; GCC only against its own, so what it made is looked at (elf.py).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from bvtdeploy.boards import Board
from bvtdeploy.boards.machines import machine_name, this_machine
from bvtdeploy.build.files import cache_folder
from bvtdeploy.errors import UserError

GET_GCC = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
GET_GCC_ARM = "apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"
GET_ZIG = "pip install ziglang"
GET_CC = "apt-get install build-essential"
OLDEST_GLIBC = "2.28"  # for a board whose system is not known: Debian 10, RHEL 8
_OTHER = "give --toolchain auto, gcc, zig, docker, or the path of a GCC or Clang"


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
        glibc: of a dynamic program for a board: the glibc that it must do with; "" where any will do.
        env: environment variables to set.
    """

    kind: str
    cc: tuple[str, ...]
    ar: tuple[str, ...]
    version: str
    machine: str
    flags: tuple[str, ...]
    static: bool
    glibc: str = ""
    env: dict[str, str] = field(default_factory=dict)

    def environ(self) -> dict[str, str]:
        """The environment to run it in. LC_ALL=C: so that messages can be read back."""
        return {**os.environ, **self.env, "LC_ALL": "C"}


def how_to_get(board: Board) -> str:
    """The command that installs the distribution's compiler for a board."""
    return GET_CC if board.native else GET_GCC_ARM if board.machine == "arm" else GET_GCC


def has_zig() -> bool:
    """Whether the ziglang wheel is installed."""
    return importlib.util.find_spec("ziglang") is not None


def check_linking(*, dynamic: bool, glibc: str) -> None:
    """Refuse what no toolchain can do: a glibc for a static program, or one that is no version."""
    if glibc and not dynamic:
        raise UserError("a static program needs no glibc", where=f"--glibc {glibc}", fix="give --dynamic too, or leave --glibc out")
    if glibc and not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4})+", glibc):
        raise UserError("this is no version of glibc", where=f"--glibc {glibc}", fix="for example --glibc 2.31")


def find_toolchain(board: Board, wish: str = "auto", *, dynamic: bool = False, glibc: str = "") -> Toolchain:
    """The compiler to take for a board.

    Args:
        board: the target.
        wish: "auto", "gcc", "zig", or the path or name of a C compiler (GCC or Clang).
        dynamic: link programs dynamically. On this machine they always are.
        glibc: of dynamic ones: the glibc that they must do with; "": that of the board's usual system.
    """
    check_linking(dynamic=dynamic, glibc=glibc)
    found = _find(board, wish, dynamic=dynamic, glibc=glibc)
    return replace(found, static=not (dynamic or board.native), glibc=(glibc or board.glibc) if dynamic else "")


def _find(board: Board, wish: str, *, dynamic: bool, glibc: str) -> Toolchain:
    if wish == "auto":
        candidates = _native_compilers() if board.native else _cross_compilers(board)
        if candidates:
            return _describe(board, candidates[0])
        if has_zig():
            return _zig(board, dynamic=dynamic, glibc=glibc)
        raise UserError(
            f"there is no C compiler for {board.machine} here",
            where=f"board {board.name}",
            why="neither " + ("cc, gcc or clang" if board.native else f"{board.triple}-gcc") + " nor the ziglang package was found",
            fix=f"{how_to_get(board)}    (or, with no root rights: {GET_ZIG})",
        )
    if wish == "gcc":
        name = "gcc" if board.native or board.machine == this_machine() else f"{board.triple}-gcc"
        if shutil.which(name) is None:
            raise UserError(f"there is no {name} here", where="--toolchain gcc", fix=how_to_get(board))
        return _describe(board, [name])
    if wish == "zig":
        if not has_zig():
            raise UserError("the ziglang package is not installed", where="--toolchain zig", fix=GET_ZIG)
        return _zig(board, dynamic=dynamic, glibc=glibc)
    if shutil.which(wish) is None:
        raise UserError(
            f"there is no compiler '{wish}'",
            where="--toolchain",
            fix="give auto, gcc, zig, docker, or the path of a C compiler that can be run",
        )
    return _describe(board, [wish])


def _native_compilers() -> list[list[str]]:
    chosen = shlex.split(os.environ.get("CC", ""))
    return [command for command in (chosen, ["cc"], ["gcc"], ["clang"]) if command and shutil.which(command[0])]


def _cross_compilers(board: Board) -> list[list[str]]:
    names = [f"{board.triple}-gcc"] + (["cc", "gcc", "clang"] if this_machine() == board.machine else [])
    return [[name] for name in names if shutil.which(name)]


def _describe(board: Board, command: list[str]) -> Toolchain:
    """Ask a GCC or Clang what it is and what it targets."""
    version = _ask(command, "--version").splitlines()[0]
    kind = "clang" if "clang" in version.lower() else "gcc"
    machine = board.machine
    target = _ask(command, "-dumpmachine")
    flags = board.flags
    if machine_name(target.split("-")[0]) != machine or (board.float_abi == "hard" and not target.endswith("hf")):
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
    return Toolchain(kind, tuple(command), (ar,), version, machine, flags, static=True)


def _zig(board: Board, *, dynamic: bool, glibc: str) -> Toolchain:
    zig = [sys.executable, "-m", "ziglang"]
    caches = {
        name: str(cache_folder() / "zig") for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR") if name not in os.environ
    }
    # Without optimisation zig links its undefined-behaviour sanitizer, which takes a minute to build and stops programs: never.
    name = board.zig_target
    if dynamic and not board.native:  # aarch64-linux-musl -> aarch64-linux-gnu.2.31
        name = name.replace("musl", "gnu") + "." + (glibc or board.glibc or OLDEST_GLIBC)
    target = () if name == "native" else ("-target", name)
    flags = (*target, *board.zig_flags, "-fno-sanitize=undefined")
    version = f"zig {_ask(zig, 'version')}"
    return Toolchain("zig", (*zig, "cc"), (*zig, "ar"), version, board.machine, flags, static=True, env=caches)


def _ask(command: list[str], *arguments: str) -> str:
    line = [*command, *arguments]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError("the compiler cannot be run", where=shlex.join(line), why=str(error), fix=_OTHER) from error
    if done.returncode or not done.stdout.strip():
        why = next(iter((done.stderr.strip() or done.stdout.strip()).splitlines()), "")[:400]
        silent = f"it ended with code {done.returncode}" if done.returncode else "it answers nothing, so it is no GCC or Clang"
        raise UserError("the compiler cannot be used", where=shlex.join(line), why=why or silent, fix=_OTHER)
    return done.stdout.strip()


def tool_path(name: str) -> str:
    """Where a tool is, or "" (for `doctor`)."""
    found = shutil.which(name)
    return str(Path(found)) if found else ""
