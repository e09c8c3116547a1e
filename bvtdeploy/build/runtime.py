"""Compiling the C runtime for a board: `bvt_run` (what is pushed), `libbvt.a` and `bvt.h` (to link into a program of one's own).

The result is kept in a cache, under a name made of everything that went into it, and is the same bytes for the same compiler: no
paths of this machine, no times, no random section names.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bvtdeploy.boards import Board
from bvtdeploy.build.elf import ElfFacts, check_elf
from bvtdeploy.build.files import cache_folder, sha256, write_whole
from bvtdeploy.build.sources import Source, read_sources, runtime_folder, sources_hash
from bvtdeploy.build.toolchains import Toolchain, find_toolchain
from bvtdeploy.errors import UserError

PROGRAM, LIBRARY, HEADER, FACTS = "bvt_run", "libbvt.a", "bvt.h", "build.json"
COMPILE_TIMEOUT = 600.0  # one file; zig's very first one builds a C library before

# The contract of the numbers: a multiply and an add are fused where the source says so and nowhere else.
CFLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-O3",
    "-DNDEBUG",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-ffunction-sections",
    "-fdata-sections",
    "-pthread",
)
LINK = ("-s", "-Wl,--gc-sections")


@dataclass(frozen=True)
class Build:
    """A runtime that was built and checked.

    Attributes:
        board: the board's name.
        folder: where the files are.
        toolchain: kind, version, target and flags of the compiler.
        files: name -> bytes and sha256.
        elf: what `bvt_run` needs of the target.
        seconds: how long the build took; of a cached one, how long it took then.
        cached: whether it was there already.
    """

    board: str
    folder: Path
    toolchain: dict[str, Any]
    files: dict[str, dict[str, Any]]
    elf: ElfFacts
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
            "seconds": self.seconds,
            "cached": self.cached,
        }


def build_runtime(
    board: Board,
    *,
    toolchain: str = "auto",
    output: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Build:
    """Compile the runtime for a board, or find it in the cache.

    Args:
        board: the target.
        toolchain: "auto", "gcc", "zig", or the path of a C compiler.
        output: folder that also gets the files; without it they are only in the cache.
        progress: told what is being done.
    """
    say = progress or (lambda _: None)
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(
            "the output is no folder", where=str(output), why="a file has that name", fix="give another name to --output"
        )
    compiler = find_toolchain(board, toolchain)
    root = runtime_folder()
    key = _key(root, compiler)
    folder = cache_folder() / "runtime" / f"{board.name}-{key[:16]}"
    facts = _cached(folder)
    if facts is None:
        patience = " (for each core it first builds a C library: a minute or two)" if "musl" in " ".join(compiler.flags) else ""
        say(f"compiling the runtime for {board.name} with {compiler.version}{patience}")
        _build(root, read_sources(root), compiler, folder)
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        cached = False
    else:
        cached = True
    if output is not None:
        try:
            for name in (PROGRAM, LIBRARY, HEADER, FACTS):
                write_whole(output / name, (folder / name).read_bytes(), mode=0o755 if name == PROGRAM else 0o644)
        except OSError as error:
            fix = "give a folder to --output that can be written"
            raise UserError(
                "the runtime cannot be written", where=str(output), why=error.strerror or str(error), fix=fix
            ) from error
        folder = output
    elf = check_elf(folder / PROGRAM, machine=compiler.machine, static=compiler.static)
    return Build(board.name, folder, facts["toolchain"], facts["files"], elf, facts["seconds"], cached)


def _key(root: Path, compiler: Toolchain) -> str:
    """A name for everything that the result depends on."""
    parts = (
        sources_hash(root),
        compiler.kind,
        compiler.version,
        *compiler.cc,
        *compiler.flags,
        *CFLAGS,
        *LINK,
        str(compiler.static),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _cached(folder: Path) -> dict[str, Any] | None:
    """The facts of a build in the cache, if its files are still what they were."""
    try:
        facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        whole = all(sha256(folder / name) == entry["sha256"] for name, entry in facts["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if whole else None


def _build(root: Path, sources: list[Source], compiler: Toolchain, folder: Path) -> None:
    """Compile into a folder beside `folder`, which then takes its place."""
    started = time.monotonic()
    wanted = [source for source in sources if source.machine in ("", compiler.machine)]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        fix = "set BVTDEPLOY_CACHE to a folder that can be written"
        raise UserError("the cache folder cannot be written", where=str(folder.parent), why=str(error), fix=fix) from error
    try:
        objects = work / "objects"
        objects.mkdir()
        # Relative paths and the prefix map keep this machine's folders out of the result, in __FILE__ too.
        common = [*compiler.cc, *CFLAGS, *compiler.flags, f"-ffile-prefix-map={root}=.", "-Iinclude"]

        def compile_one(source: Source) -> Path:
            result = objects / (source.path.replace("/", "_").removesuffix(".c") + ".o")
            _call([*common, *source.isa_flags, "-c", source.path, "-o", str(result)], root, compiler)
            return result

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            made = list(pool.map(compile_one, wanted))
        library = [str(path) for path, source in zip(made, wanted, strict=True) if source.target == "bvt"]
        program = [str(path) for path, source in zip(made, wanted, strict=True) if source.target == "bvt_run"]
        _call([*compiler.ar, "rcsD", str(work / LIBRARY), *library], root, compiler)
        link = [*compiler.cc, *compiler.flags, "-pthread", *(["-static"] if compiler.static else [])]
        identity = [] if compiler.kind == "zig" else ["-Wl,--build-id=none"]
        _call([*link, *LINK, *identity, "-o", str(work / PROGRAM), *program, str(work / LIBRARY), "-lm"], root, compiler)
        shutil.rmtree(objects)
        (work / HEADER).write_bytes((root / "include" / HEADER).read_bytes())
        check_elf(work / PROGRAM, machine=compiler.machine, static=compiler.static)
        facts = {
            "toolchain": {
                "kind": compiler.kind,
                "version": compiler.version,
                "command": shlex.join(compiler.cc),
                "flags": [*CFLAGS, *compiler.flags],
                "static": compiler.static,
            },
            "files": {
                name: {"bytes": (work / name).stat().st_size, "sha256": sha256(work / name)} for name in (PROGRAM, LIBRARY, HEADER)
            },
            "seconds": round(time.monotonic() - started, 3),
        }
        (work / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        work.chmod(0o755)
        if folder.exists():  # damaged, or another process was as quick: ours is whole
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # the other process was quicker after all
            work.rename(folder)
        if _cached(folder) is None:
            raise UserError("the built runtime could not be put into the cache", where=str(folder))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _call(command: list[str], cwd: Path, compiler: Toolchain) -> None:
    """Run the compiler; what it says goes into the error."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=compiler.environ(),
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            "the compiler did not finish", where=shlex.join(command), why=f"stopped after {COMPILE_TIMEOUT:.0f} s"
        ) from error
    except OSError as error:
        raise UserError("the compiler cannot be run", where=shlex.join(command), why=str(error)) from error
    if done.returncode:
        raise UserError(
            "the runtime does not compile with this compiler",
            where=shlex.join(command),
            why="\n       ".join(done.stderr.strip().splitlines()[:12]) or f"it ended with code {done.returncode}",
            fix="try --toolchain zig (pip install ziglang)" if compiler.kind != "zig" else "try --toolchain gcc",
        )
