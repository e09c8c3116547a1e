from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bvtdeploy.boards import load_board
from bvtdeploy.build import build_runtime, read_elf, runtime
from bvtdeploy.build.compile import Commands
from bvtdeploy.build.sources import read_sources, runtime_folder, sources_hash
from bvtdeploy.device.local import find_qemu
from bvtdeploy.errors import UserError
from bvtdeploy.host import runtime_version


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BVTDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


BUNDLE = {
    "bvt_run",
    "lib/libbvt.a",
    "lib/cmake/bvt/bvtConfig.cmake",
    "lib/cmake/bvt/bvtConfigVersion.cmake",
    "lib/pkgconfig/bvt.pc",
    "include/bvt.h",
    "LICENSE",
    "build.json",
}


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "runtime").iterdir())


def test_the_extension_is_built_from_the_sources_that_are_there() -> None:
    assert runtime_version()[2] == sources_hash(runtime_folder()), "install again: pip install -e ."


def test_a_runtime_is_built_once_and_a_damaged_one_anew(own_cache: Path, tmp_path: Path) -> None:
    first = build_runtime(load_board("host"), output=tmp_path / "out")
    assert not first.cached
    assert files_of(tmp_path / "out") == BUNDLE
    told = subprocess.run([first.program, "--version"], capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"bvt_run {runtime_version()[0]}, format {runtime_version()[1]}")
    facts = json.loads((first.folder / "build.json").read_text())
    assert facts["files"] == first.files
    assert "-ffp-contract=off" in facts["toolchain"]["flags"]
    second = build_runtime(load_board("host"))
    assert second.cached
    assert (second.files, second.elf) == (first.files, first.elf)
    second.program.write_bytes(second.program.read_bytes()[:-1] + b"?")
    third = build_runtime(load_board("host"))
    assert not third.cached
    assert third.files == first.files
    assert left(own_cache) == [third.folder.name]


def test_a_board_gets_a_static_program_with_no_trace_of_this_machine(
    cross_gcc: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = build_runtime(load_board("rpi4"), output=tmp_path / "here")
    assert read_elf(here.program).static
    assert read_elf(here.program).machine == "aarch64"
    for path in (tmp_path / "here").rglob("*"):
        for trace in (str(runtime_folder()), str(tmp_path), str(Path.home())):
            assert path.is_dir() or trace.encode() not in path.read_bytes(), path
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(runtime_folder(), moved)
    monkeypatch.setattr(runtime, "runtime_folder", lambda: moved)
    monkeypatch.setenv("BVTDEPLOY_CACHE", str(tmp_path / "other"))
    there = build_runtime(load_board("rpi4"), output=tmp_path / "there")
    assert not there.cached
    assert files_of(here.folder) == files_of(there.folder) == BUNDLE
    for name in BUNDLE:  # the whole bundle, build.json too
        assert (here.folder / name).read_bytes() == (there.folder / name).read_bytes(), name


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The runtime's folder with few of its files, which compile in no time, and a program that needs threads of the C library."""
    folder = tmp_path / "tiny"
    shutil.copytree(runtime_folder(), folder, ignore=shutil.ignore_patterns("tests", "bench", "fuzz"))
    (folder / "sources.txt").write_text("src/crc.c\nsrc/kernels/avg_pool_neon.c aarch64\n@bvt_run\ntools/tiny.c\n")
    (folder / "tools" / "tiny.c").write_text(
        "#include <pthread.h>\n#include <stdio.h>\nstatic void *f(void *x) { puts(__FILE__); return x; }\n"
        "int main(void) { pthread_t t; return pthread_create(&t, 0, f, 0) || pthread_join(t, 0); }\n"
    )
    monkeypatch.setattr(runtime, "runtime_folder", lambda: folder)
    return folder


def needs_zig(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang: pip install ziglang")
    for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"):  # it builds a C library, a minute or two: once for all tests
        monkeypatch.setenv(name, str(cache / "zig"))


def test_zig_builds_without_apt_and_the_same_twice(
    emulator: str, runtime_cache: Path, own_cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs_zig(monkeypatch, runtime_cache)
    built = build_runtime(load_board("rpi4"), toolchain="zig", output=tmp_path / "here")
    assert built.elf.static
    told = subprocess.run([emulator, "-cpu", "cortex-a72", built.program], capture_output=True, text=True, check=True)
    assert told.stdout == "tools/tiny.c\n"
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(tiny, moved)
    monkeypatch.setattr(runtime, "runtime_folder", lambda: moved)
    monkeypatch.setenv("BVTDEPLOY_CACHE", str(tmp_path / "other"))
    again = build_runtime(load_board("rpi4"), toolchain="zig", output=tmp_path / "there")
    assert not again.cached
    assert [name for name in BUNDLE if (tmp_path / "here" / name).read_bytes() != (tmp_path / "there" / name).read_bytes()] == []


def test_zig_links_against_the_glibc_that_one_names(
    runtime_cache: Path, own_cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_zig(monkeypatch, runtime_cache)
    built = build_runtime(load_board("rpi4"), toolchain="zig", dynamic=True, glibc="2.28")
    assert not built.elf.static
    assert "libc.so.6" in built.elf.needed
    assert tuple(map(int, built.elf.glibc_min.split("."))) <= (2, 28)


def test_gcc_links_dynamically_where_the_boards_glibc_is_new_enough(cross_gcc: str, own_cache: Path, tiny: Path) -> None:
    built = build_runtime(load_board("rpi4"), toolchain="gcc", dynamic=True)  # Raspberry Pi OS 12 has 2.36
    assert not built.elf.static
    assert built.toolchain["glibc"] == "2.36"
    assert built.elf.glibc_min == "2.34"  # of Debian 12's GCC
    with pytest.raises(UserError, match=r"needs glibc 2\.34, the target has 2\.31") as caught:
        build_runtime(load_board("jetson-orin"), toolchain="gcc", dynamic=True)
    assert "__libc_start_main" in caught.value.why
    assert "--toolchain zig" in caught.value.fix
    assert left(own_cache) == [built.folder.name]


@pytest.mark.parametrize(("given", "what"), [({"glibc": "2.31"}, "static"), ({"glibc": "new", "dynamic": True}, "no version")])
def test_a_wish_for_a_glibc_that_means_nothing(given: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        build_runtime(load_board("rpi4"), **given)


def test_a_32_bit_board_gets_a_hard_float_program() -> None:
    if shutil.which("arm-linux-gnueabihf-gcc") is None:
        pytest.skip("no arm-linux-gnueabihf-gcc: apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross")
    built = build_runtime(load_board("rpi2"), toolchain="gcc")
    assert (built.elf.machine, built.elf.bits, built.elf.float_abi, built.elf.static) == ("arm", 32, "hard", True)
    emulator = find_qemu("arm")
    if emulator:
        told = subprocess.run([emulator, "-cpu", "cortex-a7", built.program, "--version"], capture_output=True, text=True)
        assert told.stdout.startswith(f"bvt_run {runtime_version()[0]}"), told.stderr


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Takes the runtime's sources from a copy with one C file replaced."""

    def change(text: str) -> None:
        copy = tmp_path / "changed"
        shutil.copytree(runtime_folder(), copy)
        (copy / read_sources(copy)[0].path).write_text(text)
        monkeypatch.setattr(runtime, "runtime_folder", lambda: copy)

    return change


def test_what_the_compiler_says_is_told_and_nothing_stays(own_cache: Path, changed: Callable[[str], None]) -> None:
    changed("int f(void) { return undeclared; }\n")
    with pytest.raises(UserError, match="does not compile") as caught:
        build_runtime(load_board("host"))
    assert "undeclared" in caught.value.why
    assert left(own_cache) == []


def test_an_interrupted_build_leaves_nothing(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(todo: Commands, *_: object) -> None:
        Path(todo.compile[0][-1]).touch()  # an object file is there already
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "run_here", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_runtime(load_board("host"))
    assert left(own_cache) == []


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BVTDEPLOY_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cache folder cannot be written") as caught:
        build_runtime(load_board("host"))
    assert "BVTDEPLOY_CACHE" in caught.value.fix


def test_an_output_that_is_a_file_and_a_compiler_that_is_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        build_runtime(load_board("host"), output=tmp_path / "file")
    assert caught.value.why
    assert caught.value.fix
    with pytest.raises(UserError) as caught:
        build_runtime(load_board("host"), toolchain="/bin/true")
    assert "answers nothing" in caught.value.why
    assert "--toolchain" in caught.value.fix
