"""What an ELF file needs from the machine that is to run it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import ARMAttributesSection, SymbolTableSection
from elftools.elf.segments import InterpSegment

from bvtdeploy.boards.machines import BITS
from bvtdeploy.errors import UserError

_MACHINES = {"EM_AARCH64": "aarch64", "EM_X86_64": "x86_64", "EM_ARM": "arm", "EM_386": "i386", "EM_RISCV": "riscv"}
_ARM_SOFT, _ARM_HARD = 0x200, 0x400  # of e_flags


@dataclass(frozen=True)
class ElfFacts:
    """What a program file asks for.

    Attributes:
        machine: "aarch64", "x86_64", "arm", ... as `bvtdeploy.boards.machines` spells them.
        bits: 32 or 64.
        little_endian: byte order.
        float_abi: of a 32-bit ARM program "hard" or "soft"; "" elsewhere, and where the file does not say.
        static: it needs no loader and no shared library.
        interpreter: the dynamic loader that it names, or "".
        needed: shared libraries.
        glibc_min: the newest GLIBC symbol version that it asks for, e.g. "2.34", or "".
        glibc_why: the symbols that ask for it.
        load_align: the smallest alignment of its segments in bytes: boards with 16 KiB pages need as much.
    """

    machine: str
    bits: int
    little_endian: bool
    float_abi: str
    static: bool
    interpreter: str
    needed: tuple[str, ...]
    glibc_min: str
    glibc_why: tuple[str, ...]
    load_align: int

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON."""
        return asdict(self) | {"needed": list(self.needed), "glibc_why": list(self.glibc_why)}


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
            for section in elf.iter_sections():
                if isinstance(section, DynamicSection):
                    needed += [str(tag.needed) for tag in section.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
            newest, why = _newest_glibc(elf)
            return ElfFacts(
                machine=_MACHINES.get(str(elf["e_machine"]), str(elf["e_machine"])),
                bits=int(elf.elfclass),
                little_endian=bool(elf.little_endian),
                float_abi=_float_abi(elf),
                static=not interpreter and not needed,
                interpreter=interpreter,
                needed=tuple(needed),
                glibc_min=newest,
                glibc_why=why,
                load_align=align,
            )
    except (ELFError, OSError, KeyError, ValueError) as error:
        raise UserError(
            "the file is not a readable ELF program", where=str(path), why=str(error) or type(error).__name__
        ) from error


def _newest_glibc(elf: ELFFile) -> tuple[str, tuple[str, ...]]:
    """The newest version of GLIBC symbols that is asked for, and these symbols."""
    versions: dict[int, str] = {}  # as a symbol names it -> version
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for _, auxiliaries in section.iter_versions():
                versions |= {int(aux["vna_other"]): str(aux.name) for aux in auxiliaries if aux.name.startswith("GLIBC_2")}
    if not versions:
        return "", ()
    newest = max(versions.values(), key=version_numbers)
    names: list[str] = []
    symbols, indices = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".gnu.version")
    if isinstance(symbols, SymbolTableSection) and isinstance(indices, GNUVerSymSection):
        for number, symbol in enumerate(symbols.iter_symbols()):
            index = indices.get_symbol(number)["ndx"]
            if isinstance(index, int) and versions.get(index & 0x7FFF) == newest:
                names.append(str(symbol.name))
    return newest.removeprefix("GLIBC_"), tuple(sorted(names))


def _float_abi(elf: ELFFile) -> str:
    if elf["e_machine"] != "EM_ARM":
        return ""
    flags = int(elf["e_flags"])
    if flags & (_ARM_HARD | _ARM_SOFT):
        return "hard" if flags & _ARM_HARD else "soft"
    for section in elf.iter_sections():  # older linkers only wrote the attributes
        if isinstance(section, ARMAttributesSection):
            for part in section.iter_subsections():
                for whole in part.iter_subsubsections():
                    for attribute in whole.iter_attributes("TAG_ABI_VFP_ARGS"):
                        return "hard" if attribute.value == 1 else "soft"
    return ""


def version_numbers(name: str) -> tuple[int, ...]:
    """ "2.34" or "GLIBC_2.34" as numbers that compare: 2.4 is older than 2.34."""
    return tuple(int(part) for part in name.removeprefix("GLIBC_").split(".") if part.isdigit())


def check_elf(path: Path, *, machine: str, static: bool, glibc_has: str = "", float_abi: str = "") -> ElfFacts:
    """Refuse a program that the target cannot start.

    Args:
        path: the program.
        machine: what the target is ("aarch64").
        static: whether the program must need nothing from the target.
        glibc_has: the target's glibc version, where it is known and the program is not static.
        float_abi: of a 32-bit ARM target, "hard" or "soft"; "": not looked at.
    """
    facts = read_elf(path)
    where = str(path)
    again = "build it for this board: bvtdeploy build --board NAME"
    if facts.machine != machine or facts.bits != BITS.get(machine, facts.bits) or not facts.little_endian:
        order = "little" if facts.little_endian else "big"
        raise UserError(
            f"the program is for {facts.machine}, the target is {machine}",
            where=where,
            why=f"its ELF header says {facts.bits}-bit {order}-endian {facts.machine}",
            fix=again,
        )
    if float_abi and facts.float_abi and float_abi != facts.float_abi:
        raise UserError(
            f"the program passes real numbers the {facts.float_abi}-float way, the target's libraries the {float_abi}-float way",
            where=where,
            fix=f"take a compiler for {'arm-linux-gnueabihf' if float_abi == 'hard' else 'arm-linux-gnueabi'}",
        )
    if static and not facts.static:
        raise UserError(
            "the program is not static, so it may not start on the board",
            where=where,
            why=f"it asks for {', '.join(facts.needed) or facts.interpreter}"
            + (f" and GLIBC {facts.glibc_min}" if facts.glibc_min else ""),
            fix="the compiler lacks static libraries: for GCC libc6-dev-arm64-cross or libc6-dev-armhf-cross has them; "
            "or take --toolchain zig",
        )
    check_glibc(facts, where, glibc_has)
    return facts


def check_glibc(facts: ElfFacts, where: str, glibc_has: str) -> None:
    """Refuse a program that asks for a newer glibc than there is. `glibc_has` is a version, or "" where it is not known."""
    if facts.glibc_min and glibc_has and version_numbers(facts.glibc_min) > version_numbers(glibc_has):
        raise UserError(
            f"the program needs glibc {facts.glibc_min}, the target has {glibc_has}",
            where=where,
            why=f"{', '.join(facts.glibc_why[:6])} {'is' if len(facts.glibc_why) == 1 else 'are'} of glibc {facts.glibc_min}"
            if facts.glibc_why
            else "",
            fix="build it statically, as is the default, or against an older glibc: "
            f"--dynamic --glibc {glibc_has} --toolchain zig (pip install ziglang)",
        )
