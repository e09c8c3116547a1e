from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bvtdeploy.boards import load_board
from bvtdeploy.build import build_runtime, read_elf, runtime
from bvtdeploy.build.sources import read_sources, runtime_folder, sources_hash
from bvtdeploy.errors import UserError
from bvtdeploy.host import runtime_version


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BVTDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "runtime").iterdir())


def test_the_extension_is_built_from_the_sources_that_are_there() -> None:
    assert runtime_version()[2] == sources_hash(runtime_folder()), "install again: pip install -e ."


def test_a_runtime_is_built_once_and_a_damaged_one_anew(own_cache: Path, tmp_path: Path) -> None:
    first = build_runtime(load_board("host"), output=tmp_path / "out")
    assert not first.cached
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"bvt_run", "libbvt.a", "bvt.h", "build.json"}
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
    for name in ("bvt_run", "libbvt.a"):
        content = (tmp_path / "here" / name).read_bytes()
        for trace in (str(runtime_folder()), str(tmp_path), str(Path.home())):
            assert trace.encode() not in content
    moved = tmp_path / "elsewhere" / "deep"
    shutil.copytree(runtime_folder(), moved)
    monkeypatch.setattr(runtime, "runtime_folder", lambda: moved)
    monkeypatch.setenv("BVTDEPLOY_CACHE", str(tmp_path / "other"))
    there = build_runtime(load_board("rpi4"))
    assert not there.cached
    assert there.files == here.files


def test_zig_builds_the_same_without_apt(emulator: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang: pip install ziglang")
    built = build_runtime(load_board("rpi4"), toolchain="zig", output=tmp_path)
    assert built.elf.static
    told = subprocess.run([emulator, "-cpu", "cortex-a72", built.program, "--version"], capture_output=True, text=True, check=True)
    assert "asimd" in told.stdout


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
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runtime, "check_elf", interrupted)
    monkeypatch.setattr(
        runtime, "_call", lambda command, *_: Path(command[command.index("-o") + 1]).touch() if "-o" in command else None
    )
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
