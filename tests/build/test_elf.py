from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bvtdeploy.build import check_elf, read_elf
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
