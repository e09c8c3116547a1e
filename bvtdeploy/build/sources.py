"""Where the runtime's C sources are, and what each file needs of the compiler."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import bvtdeploy
from bvtdeploy.errors import UserError


@dataclass(frozen=True)
class Source:
    """One C file, a line of `sources.txt`.

    Attributes:
        path: relative to the runtime's folder.
        target: "bvt" (the library) or "bvt_run" (the program).
        machine: the only machine that it is compiled for ("aarch64", "x86_64"), or "" for all.
        isa_flags: what GCC and Clang need to accept its instructions.
    """

    path: str
    target: str
    machine: str
    isa_flags: tuple[str, ...]


def runtime_folder() -> Path:
    """The runtime's sources: in a checkout beside the package, in an installed package inside it."""
    package = Path(bvtdeploy.__file__).resolve().parent
    for folder in (package.parent / "runtime_arm", package / "_runtime"):
        if (folder / "sources.txt").is_file():
            return folder
    fix = "install bvtdeploy again: pip install --force-reinstall bvtdeploy"
    raise UserError("the runtime's C sources are not there", where=str(package), fix=fix)


def read_sources(root: Path) -> list[Source]:
    """The lines of `sources.txt`; its head describes them."""
    found: list[Source] = []
    target = "bvt"
    for line in (root / "sources.txt").read_text(encoding="utf-8").splitlines():
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if words[0].startswith("@"):
            target = words[0][1:]
            continue
        found.append(Source(words[0], target, words[1] if len(words) > 1 else "", tuple(words[2:])))
    return found


def sources_hash(root: Path) -> str:
    """One hash over everything that the runtime is compiled from. CMakeLists.txt of the extension computes the same."""
    files = [
        p
        for folder in ("include", "src", "third_party", "tools")
        for p in (root / folder).rglob("*")
        if p.suffix in (".c", ".h", ".inc")
    ]
    names = sorted(p.relative_to(root).as_posix() for p in files)
    parts = [name + hashlib.sha256((root / name).read_bytes()).hexdigest() for name in ["sources.txt", *names]]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
