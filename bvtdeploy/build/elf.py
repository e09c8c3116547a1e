"""What an ELF file needs from the machine that is to run it, and whether that machine has it.

The two commonest failures on a board are a glibc that is too old and an instruction that the core does not have. The first is read
from the file here, before anything is pushed; the second is avoided by the flags of the board and checked by the emulator's tests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.segments import InterpSegment

from bvtdeploy.errors import UserError

_MACHINES = {"EM_AARCH64": "aarch64", "EM_X86_64": "x86_64", "EM_ARM": "arm", "EM_386": "i386", "EM_RISCV": "riscv"}


@dataclass(frozen=True)
class ElfFacts:
    """What a program file asks for.

    Attributes:
        machine: "aarch64", "x86_64", ... as `uname -m` spells it.
        bits: 32 or 64.
        little_endian: byte order.
        static: it needs no loader and no shared library.
        interpreter: the dynamic loader that it names, or "".
        needed: shared libraries.
        glibc_min: the newest GLIBC symbol version that it asks for, e.g. "2.34", or "".
        load_align: the smallest alignment of its segments: boards with 16 KiB pages need as much.
    """

    machine: str
    bits: int
    little_endian: bool
    static: bool
    interpreter: str
    needed: tuple[str, ...]
    glibc_min: str
    load_align: int

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON."""
        return asdict(self) | {"needed": list(self.needed)}


def read_elf(path: Path) -> ElfFacts:
    """Read the facts from a program file."""
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            interpreter, align = "", 1 << 30
            for segment in elf.iter_segments():
                if isinstance(segment, InterpSegment):
                    interpreter = str(segment.get_interp_name())
                if segment["p_type"] == "PT_LOAD":
                    align = min(align, int(segment["p_align"]))
            needed: list[str] = []
            versions: list[tuple[int, ...]] = []
            for section in elf.iter_sections():
                if isinstance(section, DynamicSection):
                    needed += [str(tag.needed) for tag in section.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
                if isinstance(section, GNUVerNeedSection):
                    for _, auxiliaries in section.iter_versions():
                        names = [str(aux.name) for aux in auxiliaries]
                        versions += [_version(name) for name in names if name.startswith("GLIBC_2")]
            return ElfFacts(
                machine=_MACHINES.get(str(elf["e_machine"]), str(elf["e_machine"])),
                bits=int(elf.elfclass),
                little_endian=bool(elf.little_endian),
                static=not interpreter and not needed,
                interpreter=interpreter,
                needed=tuple(needed),
                glibc_min=".".join(map(str, max(versions))) if versions else "",
                load_align=align,
            )
    except (ELFError, OSError, KeyError, ValueError) as error:
        raise UserError(
            "the file is not a readable ELF program", where=str(path), why=str(error) or type(error).__name__
        ) from error


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.removeprefix("GLIBC_").split(".") if part.isdigit())


def check_elf(path: Path, *, machine: str, static: bool, glibc_has: str = "") -> ElfFacts:
    """Refuse a program that the target cannot start.

    Args:
        machine: what the target is ("aarch64").
        static: whether the program must need nothing from the target.
        glibc_has: the target's glibc version, where it is known and the program is not static.
    """
    facts = read_elf(path)
    where = str(path)
    if facts.machine != machine or facts.bits != 64 or not facts.little_endian:
        order = "little" if facts.little_endian else "big"
        raise UserError(
            f"the program is for {facts.machine}, the target is {machine}",
            where=where,
            why=f"its ELF header says {facts.bits}-bit {order}-endian {facts.machine}",
            fix="build it for this board: bvtdeploy build --board NAME",
        )
    if static and not facts.static:
        raise UserError(
            "the program is not static, so it may not start on the board",
            where=where,
            why=f"it asks for {', '.join(facts.needed) or facts.interpreter}"
            + (f" and GLIBC {facts.glibc_min}" if facts.glibc_min else ""),
            fix="the compiler lacks static libraries: for GCC libc6-dev-arm64-cross has them; or take --toolchain zig",
        )
    if facts.glibc_min and glibc_has and _version(facts.glibc_min) > _version(glibc_has):
        raise UserError(
            f"the program needs glibc {facts.glibc_min}, the target has {glibc_has}",
            where=where,
            fix="build it statically: bvtdeploy build --board NAME does so by default",
        )
    return facts
