"""What an A64 instruction costs, from its 32 bits: its class, as cores.toml has them, and whether it works on a 128-bit register.

The field layout is the one of the Arm architecture's encoding index (DDI 0487, C4). What is not told apart falls into the class of
its neighbours ("alu" of vectors, "int" of general registers).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

# class -> what peers' counts call it
GROUPS: Final = {
    "alu": "simd", "cnt": "simd", "select": "simd", "shift": "simd", "insert": "simd", "accumulate": "simd", "pairwise": "simd",
    "tbl1": "simd", "tbl2": "simd", "tbl3": "simd", "tbl4": "simd", "dot": "simd", "fmla": "simd", "fp": "simd", "compare": "simd",
    "convert": "simd", "convert_half": "simd", "divide": "simd", "root": "simd", "multiply": "simd", "reduce": "simd",
    "to_vector": "simd", "to_general": "simd", "load": "vldst", "load_pair": "vldst", "load2": "vldst", "load3": "vldst",
    "load4": "vldst", "load_lane": "vldst", "store": "vldst", "store_pair": "vldst", "store2": "vldst", "store3": "vldst",
    "store4": "vldst", "xload": "ldst", "xload_pair": "ldst", "xstore": "ldst", "branch": "branch", "int": "int", "shifted": "int",
    "multiply_int": "int", "divide_int": "int",
}  # fmt: skip
COUNTED: Final = (
    "simd",
    "fmla",
    "dot",
    "cnt",
    "vldst",
    "ldst",
    "branch",
    "int",
)  # as peers.toml has them; fmla, dot, cnt are simd too


@dataclass(frozen=True)
class Instruction:
    """`kind` is a class of GROUPS."""

    kind: str
    quad: bool = False


@cache
def decode(word: int) -> Instruction:
    """The class of an instruction word."""
    group = word >> 25 & 15
    if group & 0b0101 == 0b0100:
        return _memory(word)
    if group & 0b0111 == 0b0111:
        return _vector(word)
    if group & 0b1110 == 0b1010:
        return Instruction("int" if word >> 22 == 0b1101010100 else "branch")  # hints, barriers and system registers
    if group & 0b1110 == 0b1000:
        return Instruction("multiply_int" if word & 0x7F800000 == 0x33000000 else "int")  # bfm goes where multiplies go
    return _integer(word)


def _memory(word: int) -> Instruction:
    load = bool(word >> 22 & 1)
    if word & 0xBF000000 == 0x0C000000:  # structures, from whole registers
        registers = {0: 4, 2: 4, 4: 3, 6: 3, 7: 1, 8: 2, 10: 2}.get(word >> 12 & 15, 1)
        return Instruction(("load" if load else "store") + ("" if registers == 1 else str(registers)), bool(word >> 30 & 1))
    if word & 0xBF000000 == 0x0D000000:  # one lane, or one element to all lanes
        return Instruction("load_lane" if load else "store", load and bool(word >> 30 & 1))
    vector = bool(word >> 26 & 1)
    if word & 0x3B000000 == 0x18000000:  # from beside the code
        return Instruction("load", word >> 30 == 2) if vector else Instruction("xload")
    if word & 0x3A000000 == 0x28000000:
        if vector:
            return Instruction("load_pair" if load else "store_pair", word >> 30 == 2)
        return Instruction("xload_pair" if load else "xstore")
    if vector and word & 0x3A000000 == 0x38000000:
        return Instruction("load" if load else "store", word >> 30 == 0 and bool(word >> 23 & 1))
    if word & 0x3A000000 == 0x38000000:
        return Instruction("xstore" if word >> 22 & 3 == 0 else "xload")
    return Instruction("xload" if load else "xstore")  # exclusive, acquire, release, atomic


def _integer(word: int) -> Instruction:
    shifted = bool(word >> 10 & 63)
    if word & 0x1F000000 == 0x0A000000 or word & 0x1F200000 == 0x0B000000:  # logical, add and subtract
        return Instruction("shifted" if shifted else "int")
    if word & 0x1F200000 == 0x0B200000:  # of an extended register
        return Instruction("shifted")
    if word & 0x1F000000 == 0x1B000000:
        return Instruction("multiply_int")
    if word & 0x5FE00000 == 0x1AC00000 and word >> 10 & 63 in (2, 3):
        return Instruction("divide_int")
    return Instruction("int")


def _vector(word: int) -> Instruction:
    if word & 0x5F000000 == 0x1F000000:  # fused multiply and add of scalars
        return Instruction("fmla")
    if word & 0x5F000000 == 0x1E000000:
        return _scalar(word)
    vector = not word >> 28 & 1  # else a scalar in the shape of a vector instruction
    kind, quad = _vector_kind(word), bool(word >> 30 & 1) or _widens(word)
    if kind == "convert" and word & 0x9F7E0C00 == 0x0E780800:  # integers and fp16
        return Instruction("convert_half", vector and quad)
    return Instruction(kind, vector and quad)


def _widens(word: int) -> bool:
    """Whether the result is twice as wide as the operands: then it has 128 bits, whatever the Q bit says."""
    if word >> 24 & 1:
        if word >> 10 & 1:
            return bool(word >> 19 & 15) and word >> 11 & 31 == 0b10100  # sshll, ushll
        return word >> 12 & 15 in (2, 3, 6, 7, 10, 11)
    if word >> 21 & 1 and not word >> 10 & 1:
        if not word >> 11 & 1:
            return word >> 12 & 15 not in (4, 6)  # addhn and subhn narrow
        # shll; fcvtl, and fcvtn, which has 128 bits to read
        return word >> 17 & 31 == 0b10000 and word >> 12 & 31 in (0b10011, 0b10110, 0b10111)
    return False


def _scalar(word: int) -> Instruction:
    low = word >> 10 & 63
    if not word >> 21 & 1 or low == 0:  # to and from general registers
        return Instruction("to_vector" if word >> 16 & 7 in (2, 3, 7) else "to_general")
    if low & 3 == 2:
        return Instruction({0: "fp", 1: "divide", 2: "fp", 3: "fp", 8: "fp"}.get(word >> 12 & 15, "compare"))
    if low & 31 == 16:
        operation = word >> 15 & 63
        return Instruction("root" if operation == 3 else "alu" if operation < 3 else "convert")
    return Instruction("alu" if low & 7 == 4 or low & 3 == 3 else "compare")  # constants and selections; comparisons


def _vector_kind(word: int) -> str:
    unsigned, size = word >> 29 & 1, word >> 22 & 3
    if word >> 24 & 1:
        if word >> 10 & 1:
            if not word >> 19 & 15:
                return "alu"  # constants
            return _shift(word >> 11 & 31, unsigned)
        return _by_element(word >> 12 & 15, unsigned)
    if word >> 21 & 1:
        if word >> 10 & 1:
            return _three_same(word >> 11 & 31, unsigned, size)
        if not word >> 11 & 1:
            operation = word >> 12 & 15
            return "multiply" if operation in (8, 9, 10, 11, 12, 13, 14) else "accumulate" if operation == 5 else "alu"
        operation = word >> 12 & 31
        return _reduction(operation) if word >> 17 & 31 == 0b11000 else _two_registers(operation, unsigned, size)
    if word & 0xBFE08C00 == 0x0E000000:
        return f"tbl{(word >> 13 & 3) + 1}"
    if word & 0xBFE08400 == 0x0E000400 and not word >> 28 & 1:  # copies
        return {1: "to_vector", 3: "to_vector", 5: "to_general", 7: "to_general"}.get(word >> 11 & 15, "alu")
    if word & 0x9F208400 == 0x0E008400:
        return "dot" if word >> 11 & 15 == 2 else "fmla"
    if word & 0x9F60C400 == 0x0E400400:  # halves
        operation = word >> 11 & 7
        return {1: "fmla", 2: "fp", 3: "fp", 7: "divide" if unsigned else "fp"}.get(operation, "compare")
    return "alu"  # ext, zip, uzp, trn, dup of an element


def _three_same(operation: int, unsigned: int, size: int) -> str:
    if operation == 0b00011:
        return "select" if unsigned and size else "alu"
    if operation >= 0b11000:
        if operation == 0b11001:
            return "fmla"
        if operation == 0b11010:
            return "compare" if unsigned and size & 2 else "fp"  # absolute differences; additions
        if operation == 0b11111:
            return "divide" if unsigned and not size & 2 else "fp"
        return "fp" if operation == 0b11011 else "compare"
    if operation in (0b01000, 0b01001, 0b01010, 0b01011):
        return "shift"
    if operation in (0b10010, 0b10011, 0b10110):
        return "multiply"
    return "accumulate" if operation == 0b01111 else "alu"


def _two_registers(operation: int, unsigned: int, size: int) -> str:
    if operation == 0b00101:
        return "cnt" if not unsigned else "alu"
    if operation in (0b00010, 0b00110):
        return "pairwise" if operation == 2 else "accumulate"
    if operation == 0b10011:
        return "shift"
    if operation == 0b11111 and unsigned and size & 2:
        return "root"
    if operation >= 0b10110:
        return "convert"
    if operation == 0b01111:
        return "alu"  # magnitudes and signs of floats
    return "compare" if operation in (0b01100, 0b01101, 0b01110) else "alu"


def _reduction(operation: int) -> str:
    return "fp" if operation == 0b01101 else "reduce"  # 01101: a pair of floats


def _shift(operation: int, unsigned: int) -> str:
    if operation in (0b00010, 0b00110):
        return "accumulate"  # ssra, usra
    if unsigned and operation in (0b01000, 0b01010):
        return "insert"  # sri, sli
    return "convert" if operation in (0b11100, 0b11111) else "shift"


def _by_element(operation: int, unsigned: int) -> str:
    if operation == 0b1110:
        return "dot"
    if operation in (0b0001, 0b0101) and not unsigned:
        return "fmla"
    return "fp" if operation == 0b1001 else "multiply"
