from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest
from boardsim import facts

from bvtdeploy.boards import load_board
from bvtdeploy.device.identify import TREE, System, board_of, check_board, read_system
from bvtdeploy.device.ssh import scripts
from bvtdeploy.errors import UserError

SHELL = {
    "aarch64": "7f 45 4c 46 02 01 01 00 00 00 00 00 00 00 00 00 03 00 b7 00",
    "arm": "7f 45 4c 46 01 01 01 00 00 00 00 00 00 00 00 00 03 00 28 00",
    "x86_64": "7f 45 4c 46 02 01 01 00 00 00 00 00 00 00 00 00 03 00 3e 00",
}


def system(board: dict[str, str] | None, machine: str = "aarch64", userland: str = "", **told: str) -> System:
    board = board or {}
    files = {"/proc/cpuinfo": board.get("cpuinfo", ""), "/proc/meminfo": "MemTotal: 1 kB\nMemAvailable:  2048 kB\n"}
    files |= {f"{TREE}/{name}": board.get(f"sys/firmware/devicetree/base/{name}", "") for name in ("model", "compatible")}
    said = {"machine": machine, "shell": SHELL.get(userland or machine, ""), "kernel": "6.6", **told}
    return read_system(said, {path: text.encode() for path, text in files.items() if text})


def test_boards_that_say_what_they_are() -> None:
    pi = system(facts.PI4, libc="glibc 2.36", nproc="4")
    assert (pi.model, pi.probe.cpu, pi.probe.cores, pi.probe.glibc) == ("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72", 4, "2.36")
    assert pi.memory_available == 2 << 20
    assert not pi.emulated
    assert board_of(pi, "pi") == "rpi4"
    assert board_of(system(facts.ORIN), "orin") == "jetson-orin"


def test_a_32_bit_system_on_a_64_bit_kernel() -> None:
    found = system(facts.PI4, userland="arm", page="4096")
    assert (found.kernel_machine, found.userland) == ("aarch64", "arm")
    name = board_of(found, "pi")
    assert load_board(name).machine == "arm"
    check_board(load_board(name), found, "pi")
    check_board(load_board("rpi4"), found, "pi")  # its kernel runs 64-bit programs that bring everything along
    only = system(facts.PI4, machine="armv7l", userland="arm")
    with pytest.raises(UserError, match="programs for rpi4 are for aarch64, the device is arm"):
        check_board(load_board("rpi4"), only, "pi")


def test_machines_that_say_little() -> None:
    assert board_of(system({}), "x") == "generic"
    bare = system({}, nproc="2")
    assert set(bare.probe.unavailable) == {"cpu", "features", "glibc"}
    assert (bare.probe.cpu, bare.probe.features, bare.probe.cores) == (None, (), 2)
    check_board(load_board("rpi5"), bare, "x")  # what is not known does not forbid
    with pytest.raises(UserError, match=r"no board for riscv64"):
        board_of(system({}, machine="riscv64"), "x")
    if platform.machine() == "x86_64":
        assert board_of(system({}, machine="x86_64"), "x") == "host"


@pytest.mark.parametrize(
    ("libc", "glibc", "why"),
    [
        ("GNU C Library (Debian GLIBC 2.31-13+deb11u5) stable release version 2.31.", "2.31", ""),
        ("musl 1.2.4", None, "the C library is musl 1.2.4"),
        ("", None, "no C library was found"),
    ],
)
def test_c_libraries(libc: str, glibc: str | None, why: str) -> None:
    probe = system(facts.PI4, libc=libc).probe
    assert probe.glibc == glibc
    assert probe.unavailable.get("glibc", "") == why


def test_a_missing_feature_is_named() -> None:
    with pytest.raises(UserError, match=r"asimddp \(dotprod\).*, which this CPU lacks") as caught:
        check_board(load_board("rpi5"), system(facts.PI4), "pi")
    assert "Cortex-A72 has: fp asimd" in caught.value.why
    check_board(load_board("rpi5"), system(facts.ORIN), "orin")


def test_emulated_machines_are_known() -> None:
    assert system({**facts.PI4, "sys/firmware/devicetree/base/compatible": "linux,dummy-virt\0"}).emulated
    assert system(facts.PI4, init="/usr/libexec/qemu-binfmt/aarch64-binfmt-P /sbin/init").emulated


@pytest.mark.parametrize(("machine", "emulated"), [("x86_64", False), ("aarch64", True)])
def test_a_virtual_machine_on_an_x86_is_not_emulated(machine: str, emulated: bool, tmp_path: Path) -> None:
    """The script with a `uname` of the test and the folder that QEMU's machines have."""
    (tmp_path / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (tmp_path / "uname").chmod(0o755)
    script = scripts.FACTS.replace("/sys/firmware/qemu_fw_cfg", str(tmp_path))
    assert script != scripts.FACTS
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", script, "x", "mark", ""], capture_output=True, text=True, check=True, env={"PATH": path})
    assert f"machine={machine}\n" in done.stdout
    assert ("qemu=yes\n" in done.stdout) == emulated
