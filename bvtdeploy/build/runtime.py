"""Building the C runtime for a board: a bundle of `bvt_run` (what is pushed) and `libbvt.a` with what a program of one's own needs
to link it (bundle.py).

The result is kept in a cache, under a name made of everything that went into it, and is the same bytes for the same compiler: no
paths of this machine, no times, no random section names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bvtdeploy
from bvtdeploy.boards import Board
from bvtdeploy.build.bundle import FACTS, HEADER, LIBRARY, PROGRAM, side_files
from bvtdeploy.build.compile import CFLAGS, LINK, OPTIMISE, SCALAR, commands, run_here
from bvtdeploy.build.container import Container, find_container
from bvtdeploy.build.elf import ElfFacts, check_elf
from bvtdeploy.build.files import cache_folder, sha256, write_whole
from bvtdeploy.build.sources import read_sources, runtime_folder, sources_hash
from bvtdeploy.build.toolchains import Toolchain, find_toolchain
from bvtdeploy.errors import UserError

__all__ = ["CFLAGS", "FACTS", "HEADER", "LIBRARY", "PROGRAM", "Build", "build_runtime"]

_HOW = ".how.json"  # in the cache only: what differs from one build of the same bytes to the next


@dataclass(frozen=True)
class Build:
    """A runtime that was built and checked.

    Attributes:
        board: the board's name.
        folder: where the files are.
        toolchain: kind, version, target and flags of the compiler.
        files: path in the folder -> bytes and sha256.
        elf: what `bvt_run` needs of the target.
        container: engine and image that it was built in; None where it was built on this machine.
        seconds: how long the build took; of a cached one, how long it took then.
        cached: whether it was there already.
    """

    board: str
    folder: Path
    toolchain: dict[str, Any]
    files: dict[str, dict[str, Any]]
    elf: ElfFacts
    container: dict[str, str] | None
    seconds: float
    cached: bool
    warnings: tuple[str, ...] = field(default=())

    @property
    def program(self) -> Path:
        """The program that runs artifacts."""
        return self.folder / PROGRAM

    def as_dict(self) -> dict[str, Any]:
        """The build as JSON."""
        return {
            "board": self.board,
            "output": str(self.folder),
            "toolchain": self.toolchain,
            "files": self.files,
            "elf": self.elf.as_dict(),
            "container": self.container,
            "seconds": self.seconds,
            "cached": self.cached,
        }


def build_runtime(
    board: Board,
    *,
    toolchain: str = "auto",
    dynamic: bool = False,
    glibc: str = "",
    output: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Build:
    """Compile the runtime for a board, or find it in the cache.

    Args:
        board: the target.
        toolchain: "auto", "gcc", "zig", "docker" (GCC in a container), or the path of a C compiler.
        dynamic: link the program dynamically.
        glibc: the glibc that a dynamic program must do with; "": that of the board's usual system.
        output: folder that also gets the files; without it they are only in the cache.
        progress: told what is being done.

    Raises:
        UserError: there is no compiler, it refuses the sources, or what it made does not fit the board.
    """
    say = progress or (lambda _: None)
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(
            "the output is no folder", where=str(output), why="a file has that name", fix="give another name to --output"
        )
    root = runtime_folder()
    container: Container | None = None
    if toolchain == "docker":
        container = find_container(board, dynamic=dynamic, glibc=glibc)
        compiler = container.compiler
    else:
        compiler = find_toolchain(board, toolchain, dynamic=dynamic, glibc=glibc)
    side = side_files(root, compiler.machine)
    folder = cache_folder() / "runtime" / f"{board.name}-{_key(root, compiler, side, container)[:16]}"
    facts = _cached(folder)
    cached = facts is not None
    if facts is None:
        if container is not None:
            container.prepare(say)
            say(f"compiling the runtime for {board.name} in a container ({container.engine.name})")
        else:
            patience = " (for each core it first builds a C library: a minute or two)" if "musl" in " ".join(compiler.flags) else ""
            say(f"compiling the runtime for {board.name} with {compiler.version}{patience}")
        _build(root, compiler, board, side, folder, container)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    how = json.loads((folder / _HOW).read_text(encoding="utf-8"))
    if output is not None:
        try:
            for name in (*facts["files"], FACTS):
                write_whole(output / name, (folder / name).read_bytes(), mode=0o755 if name == PROGRAM else 0o644)
        except OSError as error:
            fix = "give a folder to --output that can be written"
            raise UserError(
                "the runtime cannot be written", where=str(output), why=error.strerror or str(error), fix=fix
            ) from error
        folder = output
    elf = _check(folder / PROGRAM, compiler, board)
    return Build(board.name, folder, facts["toolchain"], facts["files"], elf, how["container"], how["seconds"], cached)


def _check(program: Path, compiler: Toolchain, board: Board) -> ElfFacts:
    return check_elf(program, machine=compiler.machine, static=compiler.static, glibc_has=compiler.glibc, float_abi=board.float_abi)


def _key(root: Path, compiler: Toolchain, side: dict[str, bytes], container: Container | None) -> str:
    """A name for everything that the result depends on."""
    parts = (
        sources_hash(root),
        compiler.kind,
        compiler.version,
        *compiler.cc,
        *compiler.flags,
        *CFLAGS,
        *LINK,
        repr((OPTIMISE, SCALAR)),
        str(compiler.static),
        compiler.glibc,
        container.image if container is not None else "",
        *(name + hashlib.sha256(content).hexdigest() for name, content in side.items()),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _cached(folder: Path) -> dict[str, Any] | None:
    """The facts of a build in the cache, if its files are still what they were."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        how = json.loads((folder / _HOW).read_text(encoding="utf-8"))
        whole = all(sha256(folder / name) == entry["sha256"] for name, entry in facts["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if whole and {"seconds", "container"} <= set(how) else None


def _build(
    root: Path, compiler: Toolchain, board: Board, side: dict[str, bytes], folder: Path, container: Container | None
) -> None:
    """Compile into a folder beside `folder`, which then takes its place."""
    started = time.monotonic()
    sources = read_sources(root)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        fix = "set BVTDEPLOY_CACHE to a folder that can be written"
        raise UserError("the cache folder cannot be written", where=str(folder.parent), why=str(error), fix=fix) from error
    try:
        for name, content in side.items():
            write_whole(work / name, content)
        version = compiler.version
        if container is not None:
            version = container.compile(root, sources, library=work / LIBRARY, program=work / PROGRAM)
        else:
            objects = work / "objects"
            objects.mkdir()
            todo = commands(
                str(root),
                sources,
                compiler,
                objects=str(objects),
                library=str(work / LIBRARY),
                program=str(work / PROGRAM),
            )
            run_here(todo, root, compiler)
            shutil.rmtree(objects)
        _check(work / PROGRAM, compiler, board)
        names = sorted([*side, LIBRARY, PROGRAM])
        facts = {
            "bvtdeploy": bvtdeploy.__version__,
            "board": board.name,
            "machine": compiler.machine,
            "sources": sources_hash(root),
            "toolchain": {
                "kind": compiler.kind,
                "version": version,
                "command": shlex.join(compiler.cc),
                "flags": [*CFLAGS, *compiler.flags],
                "static": compiler.static,
                "glibc": compiler.glibc,
            },
            "files": {name: {"bytes": (work / name).stat().st_size, "sha256": sha256(work / name)} for name in names},
        }
        how = {
            "seconds": round(time.monotonic() - started, 3),
            "container": container.as_dict() if container is not None else None,
        }
        (work / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        (work / _HOW).write_text(json.dumps(how) + "\n", encoding="utf-8")
        work.chmod(0o755)
        if folder.exists():  # damaged, or another process was as quick: ours is whole
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the other process was quicker after all
            work.rename(folder)
        if _cached(folder) is None:
            raise UserError("the built runtime could not be put into the cache", where=str(folder))
    finally:
        shutil.rmtree(work, ignore_errors=True)
