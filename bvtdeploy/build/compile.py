"""The commands of a build, in one place: the same ones run here and in a container, so the bytes are the same."""

from __future__ import annotations

import concurrent.futures
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bvtdeploy.build.sources import Source
from bvtdeploy.build.toolchains import Toolchain
from bvtdeploy.errors import UserError

COMPILE_TIMEOUT = 600.0  # one file; zig's very first one builds a C library before

# The contract of the numbers: a multiply and an add are fused where the source says so and nowhere else.
CFLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-DNDEBUG",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-ffunction-sections",
    "-fdata-sections",
    "-fPIC",  # libbvt.a also goes into shared libraries
    "-fno-semantic-interposition",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-pthread",
)
# By folder, the first that fits. Kernels are vectorised by hand: what a compiler adds around them is larger and takes more
# instructions (by 2 % on a Cortex-A72). What runs once, or for a file, is made small. runtime_arm/CMakeLists.txt does the same.
OPTIMISE = (("src/kernels/", ("-O3", "-fno-tree-vectorize")), ("", ("-Os",)))
# NEON of 32-bit ARM rounds subnormal numbers to zero. GCC leaves floats to VFP; Clang's vectorisers take NEON for comparisons.
SCALAR = {"arm": ("-fno-tree-vectorize", "-fno-tree-slp-vectorize")}
LINK = ("-s", "-Wl,--gc-sections")


@dataclass(frozen=True)
class Commands:
    """What is run, in the folder of the sources: `compile` in any order, then `archive`, then `link`."""

    compile: tuple[tuple[str, ...], ...]
    archive: tuple[str, ...]
    link: tuple[str, ...]


def commands(root: str, sources: list[Source], compiler: Toolchain, *, objects: str, library: str, program: str) -> Commands:
    """The commands that make library and program.

    Args:
        root: the folder of the sources; it is kept out of the result.
        sources: of every machine.
        compiler: the toolchain.
        objects: a folder for object files.
        library, program: the files to make.
    """
    wanted = [source for source in sources if source.machine in ("", compiler.machine)]
    # Relative paths and the prefix map keep this machine's folders out of the result, in __FILE__ too.
    common = (*compiler.cc, *CFLAGS, *compiler.flags, f"-ffile-prefix-map={root}=.", "-Iinclude")
    result = {source: f"{objects}/{source.path.replace('/', '_').removesuffix('.c')}.o" for source in wanted}
    of = {target: tuple(path for source, path in result.items() if source.target == target) for target in ("bvt", "bvt_run")}
    link = (*compiler.cc, *compiler.flags, "-pthread", *(("-static",) if compiler.static else ()))
    identity = () if compiler.kind == "zig" else ("-Wl,--build-id=none",)
    return Commands(
        tuple(
            (*common, *_optimise(source, compiler), *source.isa_flags, "-c", source.path, "-o", path)
            for source, path in result.items()
        ),
        (*compiler.ar, "rcsD", library, *of["bvt"]),
        (*link, *LINK, *identity, "-o", program, *of["bvt_run"], library, "-lm"),
    )


def _optimise(source: Source, compiler: Toolchain) -> tuple[str, ...]:
    level = next(flags for folder, flags in OPTIMISE if source.path.startswith(folder))
    return (*level, *SCALAR.get(compiler.machine, ()))


def run_here(todo: Commands, root: Path, compiler: Toolchain) -> None:
    """Run the commands on this machine, as many at a time as there are CPUs."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(lambda command: call(command, root, compiler), todo.compile):
            pass
    call(todo.archive, root, compiler)
    call(todo.link, root, compiler)


def call(command: tuple[str, ...], cwd: Path, compiler: Toolchain) -> None:
    """Run the compiler; what it says goes into the error."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=compiler.environ(),
            capture_output=True,
            text=True,
            errors="replace",
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
        raise does_not_compile(shlex.join(command), done.stderr, done.returncode, compiler)


def does_not_compile(where: str, told: str, code: int, compiler: Toolchain) -> UserError:
    """The error of a compiler that refuses the sources."""
    return UserError(
        "the runtime does not compile with this compiler",
        where=where,
        why="\n       ".join(told.strip().splitlines()[:12]) or f"it ended with code {code}",
        fix="try --toolchain zig (pip install ziglang)" if compiler.kind != "zig" else "try --toolchain gcc",
    )
