from __future__ import annotations

import platform
from pathlib import Path

import pytest

from bvtdeploy.boards import load_board
from bvtdeploy.build import build_runtime, toolchains
from bvtdeploy.build.toolchains import find_toolchain
from bvtdeploy.errors import UserError

OTHER_MACHINE = pytest.mark.skipif(platform.machine() == "aarch64", reason="this machine's own compiler is for the boards")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with no compiler at all."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(toolchains, "has_zig", lambda: False)
    return tmp_path


@pytest.mark.parametrize("wish", ["auto", "gcc", "zig"])
@pytest.mark.parametrize(("board", "package"), [("host", "build-essential"), ("rpi4", "gcc-aarch64-linux-gnu")])
def test_no_compiler_says_how_to_get_one(bare: Path, board: str, package: str, wish: str) -> None:
    with pytest.raises(UserError) as caught:
        find_toolchain(load_board(board), wish)
    assert ("pip install ziglang" if wish == "zig" else package) in caught.value.fix


def test_auto_for_a_board_takes_the_cross_gcc(cross_gcc: str) -> None:
    found = find_toolchain(load_board("rpi4"))
    assert (found.kind, found.cc, found.machine, found.static) == ("gcc", (cross_gcc,), "aarch64", True)
    assert found.flags == ("-mcpu=cortex-a72",)


def test_the_host_takes_what_cc_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc -pipe")
    assert find_toolchain(load_board("host")).cc == ("gcc", "-pipe")


@OTHER_MACHINE
def test_a_compiler_for_another_machine_is_refused() -> None:
    with pytest.raises(UserError, match="board rpi4 needs aarch64"):
        find_toolchain(load_board("rpi4"), "/usr/bin/gcc")


def test_what_is_no_compiler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no compiler 'gccc'"):
        find_toolchain(load_board("host"), "gccc")
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    fake.chmod(0o755)
    with pytest.raises(UserError, match="cannot be used") as caught:
        find_toolchain(load_board("host"), str(fake))
    assert caught.value.why == "broken" and "docker" in caught.value.fix
    with pytest.raises(UserError, match="cannot be used") as caught:
        find_toolchain(load_board("host"), "/bin/false")  # which answers --version with its licence
    assert "\n" not in caught.value.why


@pytest.mark.parametrize("toolchain", ["auto", "docker"])
@pytest.mark.parametrize(
    ("dynamic", "glibc", "what"),
    [
        (False, "2.31", "a static program needs no glibc"),
        (True, "2", "no version"),
        (True, "2.x", "no version"),
        (True, "٢.٣", "no version"),
    ],
)
def test_every_toolchain_refuses_a_glibc_that_makes_no_sense(toolchain: str, dynamic: bool, glibc: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        build_runtime(load_board("rpi4"), toolchain=toolchain, dynamic=dynamic, glibc=glibc)


def test_zig_is_told_target_and_cpu_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchains, "has_zig", lambda: True)
    monkeypatch.setattr(toolchains, "_ask", lambda *_: "0.14.0")
    found = find_toolchain(load_board("rpi5"), "zig")
    assert found.flags == ("-target", "aarch64-linux-musl", "-mcpu=cortex_a76", "-fno-sanitize=undefined")
    assert set(found.env) == {"ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"}
