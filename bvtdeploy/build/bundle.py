"""What stands beside program and library in a bundle: what CMake and pkg-config read, the header, the licence.

bvt_run                     the program that goes to a board
lib/libbvt.a                the library, include/bvt.h its header
lib/cmake/bvt/              find_package(bvt)
lib/pkgconfig/bvt.pc        pkg-config
LICENSE, build.json         what was built, and how
"""

from __future__ import annotations

import re
from pathlib import Path

import bvtdeploy
from bvtdeploy.boards.machines import BITS
from bvtdeploy.errors import UserError

PROGRAM, LIBRARY, HEADER, FACTS, LICENSE = "bvt_run", "lib/libbvt.a", "include/bvt.h", "build.json", "LICENSE"
_TEMPLATES = {
    "bvtConfig.cmake": "lib/cmake/bvt",
    "bvtConfigVersion.cmake": "lib/cmake/bvt",
    "bvt.pc": "lib/pkgconfig",
}
_THIRD_PARTY = """
The program bvt_run also contains stb_image by Sean Barrett and others, which is in the public domain (or MIT, at your choice).
A static program also contains the C library of its compiler: glibc (LGPL 2.1 or later) of GCC, musl (MIT) of zig. Who passes a
program with glibc on gives its receiver the means to link it again: libbvt.a and these sources are that.
"""


def side_files(root: Path, machine: str) -> dict[str, bytes]:
    """Path in the bundle -> content, of all but program, library and facts. `root` is the folder of the runtime's sources."""
    header = (root / "include" / "bvt.h").read_bytes()
    found = re.search(rb'#define BVT_RUNTIME_VERSION "(.*?)"', header)
    if found is None:
        raise UserError("the runtime's header has no version", where=str(root / "include" / "bvt.h"))
    values = {"BVT_VERSION": found[1].decode(), "BVT_MACHINE": machine, "BVT_POINTER_BYTES": str(BITS[machine] // 8)}
    files = {HEADER: header, LICENSE: (_license().rstrip() + "\n\n---\n" + _THIRD_PARTY).encode()}
    for name, folder in _TEMPLATES.items():
        text = (root / "cmake" / f"{name}.in").read_text(encoding="utf-8")
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        files[f"{folder}/{name}"] = text.encode()
    return files


def shipped(name: str) -> Path:
    """A file that is shipped beside the package ("LICENSE", "docker/Dockerfile"): in a checkout above it, else inside it."""
    package = Path(bvtdeploy.__file__).resolve().parent
    installed = package / "_runtime"
    path = (installed if installed.is_dir() else package.parent) / name
    if not path.is_file():
        raise UserError(
            f"{name} is not there", where=str(path), fix="install bvtdeploy again: pip install --force-reinstall bvtdeploy"
        )
    return path


def _license() -> str:
    return shipped("LICENSE").read_text(encoding="utf-8")
