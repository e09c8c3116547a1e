"""How large the runtime is on a board: its code and constants, the image decoder included, without the C library."""

from __future__ import annotations

import subprocess
from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from bvtdeploy.boards import load_board
from bvtdeploy.build import build_runtime
from bvtdeploy.build.compile import commands
from bvtdeploy.build.sources import read_sources, runtime_folder
from bvtdeploy.build.toolchains import find_toolchain

LIMIT = 300_000  # bytes: a program of a megabyte is mostly the C library


def loaded_bytes(path: Path) -> tuple[int, int]:
    """Bytes of an object file that a program loads from its file: ours, and stb_image's."""
    ours = theirs = 0
    with path.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            if section["sh_flags"] & SH_FLAGS.SHF_ALLOC and section["sh_type"] != "SHT_NOBITS":
                if ".stbi_" in section.name:
                    theirs += section["sh_size"]
                else:
                    ours += section["sh_size"]
    return ours, theirs


def test_the_runtime_is_small(cross_gcc: str, tmp_path: Path) -> None:
    board, root = load_board("rpi4"), runtime_folder()
    built = build_runtime(board, toolchain="gcc")
    subprocess.run(["aarch64-linux-gnu-ar", "x", built.folder / "lib/libbvt.a"], cwd=tmp_path, check=True)
    tools = [source for source in read_sources(root) if source.target == "bvt_run"]
    todo = commands(
        str(root), tools, find_toolchain(board, "gcc"), objects=str(tmp_path), library="none", program=str(tmp_path / "none")
    )
    for command in todo.compile:
        subprocess.run(command, cwd=root, check=True)
    sizes = {path.name: loaded_bytes(path) for path in tmp_path.glob("*.o")}
    ours, theirs = (sum(column) for column in zip(*sizes.values(), strict=True))
    largest = sorted(((size, name) for name, (size, _) in sizes.items()), reverse=True)[:8]
    print(f"{ours} bytes of our own, {theirs} of stb_image; the largest: {largest}")
    assert len(sizes) == len(todo.compile) + len(
        [s for s in read_sources(root) if s.target == "bvt" and s.machine in ("", "aarch64")]
    )
    assert ours > 100_000 and ours + theirs <= LIMIT, largest
    assert 5_000 < theirs < 60_000
    assert built.files["bvt_run"]["bytes"] < 1_200_000
