from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from bvtdeploy.boards import Board, load_board
from bvtdeploy.build import check_elf, check_fits, read_elf
from bvtdeploy.errors import UserError

HELLO = '#include <stdio.h>\n#include <pthread.h>\nint main(void) { return !pthread_self() || puts("x") < 0; }\n'


@pytest.fixture(scope="module")
def hello(cross_gcc: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("elf")
    (folder / "hello.c").write_text(HELLO)
    for name, flags in (("static", ["-static"]), ("dynamic", [])):
        subprocess.run([cross_gcc, "hello.c", *flags, "-o", name], cwd=folder, check=True)
    return {name: folder / name for name in ("static", "dynamic")}


def test_a_static_program_needs_nothing(hello: dict[str, Path]) -> None:
    facts = check_elf(hello["static"], machine="aarch64", static=True)
    assert (facts.bits, facts.little_endian, facts.static, facts.needed, facts.interpreter, facts.glibc_min) == (
        64,
        True,
        True,
        (),
        "",
        "",
    )
    assert facts.load_align >= 16384  # boards with 16 KiB pages


def test_what_a_dynamic_program_needs_is_told(hello: dict[str, Path]) -> None:
    facts = read_elf(hello["dynamic"])
    assert not facts.static
    assert "libc.so.6" in facts.needed
    assert facts.interpreter.startswith("/lib/ld-linux-aarch64")
    assert facts.glibc_min == "2.34"  # Debian 12's: too new for Raspberry Pi OS 11 and JetPack 5
    with pytest.raises(UserError, match="not static") as caught:
        check_elf(hello["dynamic"], machine="aarch64", static=True)
    assert "libc.so.6" in caught.value.why
    assert "2.34" in caught.value.why
    assert "__libc_start_main" in facts.glibc_why


def test_an_old_glibc_is_found_before_the_board_finds_it(hello: dict[str, Path]) -> None:
    check_elf(hello["dynamic"], machine="aarch64", static=False, glibc_has="2.36")
    with pytest.raises(UserError, match=r"needs glibc 2.34, the target has 2.31"):
        check_elf(hello["dynamic"], machine="aarch64", static=False, glibc_has="2.31")
    with pytest.raises(UserError, match=r"the target has 2.4"):  # 2.4 is older than 2.34
        check_elf(hello["dynamic"], machine="aarch64", static=False, glibc_has="2.4")


def test_another_machine_is_refused(hello: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="the program is for aarch64, the target is x86_64"):
        check_elf(hello["static"], machine="x86_64", static=True)


def test_what_is_no_program_is_refused(hello: dict[str, Path], tmp_path: Path) -> None:
    whole = hello["dynamic"].read_bytes()
    for i, content in enumerate((b"", b"#!/bin/sh\n", b"\x7fELF", whole[:70], whole[: len(whole) // 2])):
        path = tmp_path / str(i)
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable ELF program"):
            read_elf(path)


@dataclass(frozen=True)
class Device:
    machine: str = "aarch64"
    features: tuple[str, ...] = ()
    glibc: str | None = None


A53 = ("fp", "asimd", "evtstrm", "crc32", "cpuid")  # as /proc/cpuinfo of a Raspberry Pi 3 says
A76 = (*A53, "aes", "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "dcpop", "asimddp", "ssbs")


def test_what_a_device_lacks_is_said_before_anything_is_pushed(hello: dict[str, Path]) -> None:
    rpi4, rpi5, static = load_board("rpi4"), load_board("rpi5"), hello["static"]
    check_fits(static, rpi4, Device(features=A53))
    check_fits(static, rpi5, Device(features=A76))
    check_fits(static, rpi5, Device())  # features not known
    cases: list[tuple[Path, Board, Device, str, str]] = [
        (static, rpi5, Device(features=A53), r"no lse \(atomics\), .* dotprod \(asimddp\)", "--board generic"),
        (static, rpi4, Device("x86_64"), "the program is for aarch64, the device is x86_64", "--board host"),
        (static, rpi4, Device("armv7l"), "the device is arm", "--board generic-32"),
        (hello["dynamic"], rpi4, Device(glibc="2.31"), "needs glibc 2.34, the target has 2.31", "statically"),
    ]
    for program, board, device, what, fix in cases:
        with pytest.raises(UserError, match=what) as caught:
            check_fits(program, board, device)
        assert fix in caught.value.fix
    with pytest.raises(UserError, match="aligned to 65536 bytes, the device has pages of 131072"):
        check_fits(static, rpi4, Device(features=A53), page_bytes=131072)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if shutil.which("arm-linux-gnueabihf-gcc") is None:
        pytest.skip("no arm-linux-gnueabihf-gcc: apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross")
    folder = tmp_path_factory.mktemp("arm")
    (folder / "f.c").write_text("float same(float x) { return x; }\nvoid _start(void) { for (;;) same(1); }\n")
    for name, flags in (("hard", ["-mfloat-abi=hard"]), ("soft", ["-mfloat-abi=soft", "-marm"])):
        command = ["arm-linux-gnueabihf-gcc", "-march=armv7-a+fp", *flags, "-nostdlib", "-static", "f.c", "-o", name]
        subprocess.run(command, cwd=folder, check=True)
    return {name: folder / name for name in ("hard", "soft")}


def test_a_32_bit_program_and_how_it_passes_floats(arm: dict[str, Path]) -> None:
    rpi2 = load_board("rpi2")
    facts = check_elf(arm["hard"], machine="arm", static=True, float_abi=rpi2.float_abi)
    assert (facts.machine, facts.bits, facts.float_abi) == ("arm", 32, "hard")
    with pytest.raises(UserError, match="the soft-float way, the target's libraries the hard-float way"):
        check_elf(arm["soft"], machine="arm", static=True, float_abi="hard")
    check_fits(arm["hard"], rpi2, Device("armv7l", ("half", "neon", "vfpv4", "idiva")))
    check_fits(arm["hard"], rpi2, Device("aarch64", A53))  # a 64-bit kernel starts it ...
    with pytest.raises(UserError, match="pages of 16384") as caught:  # ... unless its pages are large
        check_fits(arm["hard"], rpi2, Device("aarch64", A76), page_bytes=16384)
    assert "rpi5" in caught.value.fix
    with pytest.raises(UserError, match="no vfpv4") as caught:  # a Cortex-A9
        check_fits(arm["hard"], load_board("generic-32"), Device("armv7l", ("half", "neon", "vfpv3")))
    assert "no build for this CPU" in caught.value.fix
