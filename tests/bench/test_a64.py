"""Classes of instruction words. The words are what GNU as makes of the text beside them."""

from __future__ import annotations

import pytest

from bvtdeploy.bench.a64 import GROUPS, decode
from bvtdeploy.bench.modelled import find_core

WORDS = [
    (0x6E221C20, "eor v0.16b, v1.16b, v2.16b", "alu", True),
    (0x6E621C20, "bsl v0.16b, v1.16b, v2.16b", "select", True),
    (0x4E205820, "cnt v0.16b, v1.16b", "cnt", True),
    (0x0E205820, "cnt v0.8b, v1.8b", "cnt", False),
    (0x6E206820, "uadalp v0.8h, v1.16b", "accumulate", True),
    (0x6E202820, "uaddlp v0.8h, v1.16b", "pairwise", True),
    (0x6F1C1420, "usra v0.8h, v1.8h, #4", "accumulate", True),
    (0x6F0C4420, "sri v0.16b, v1.16b, #4", "insert", True),
    (0x6F7D0420, "ushr v0.2d, v1.2d, #3", "shift", True),
    (0x2F08A420, "uxtl v0.8h, v1.8b", "shift", True),
    (0x4E020020, "tbl v0.16b, {v1.16b}, v2.16b", "tbl1", True),
    (0x4E032020, "tbl v0.16b, {v1.16b, v2.16b}, v3.16b", "tbl2", True),
    (0x4E056020, "tbl v0.16b, {v1.16b-v4.16b}, v5.16b", "tbl4", True),
    (0x4E829420, "sdot v0.4s, v1.16b, v2.16b", "dot", True),
    (0x6FA2E020, "udot v0.4s, v1.16b, v2.4b[1]", "dot", True),
    (0x4E22CC20, "fmla v0.4s, v1.4s, v2.4s", "fmla", True),
    (0x4FA21020, "fmla v0.4s, v1.4s, v2.s[1]", "fmla", True),
    (0x1F020C20, "fmadd s0, s1, s2, s3", "fmla", False),
    (0x4F829020, "fmul v0.4s, v1.4s, v2.s[0]", "fp", True),
    (0x4E22D420, "fadd v0.4s, v1.4s, v2.4s", "fp", True),
    (0x4E22F420, "fmax v0.4s, v1.4s, v2.4s", "compare", True),
    (0x1E212000, "fcmp s0, s1", "compare", False),
    (0x6E22FC20, "fdiv v0.4s, v1.4s, v2.4s", "divide", True),
    (0x1E221820, "fdiv s0, s1, s2", "divide", False),
    (0x6EA1F820, "fsqrt v0.4s, v1.4s", "root", True),
    (0x6E21D820, "ucvtf v0.4s, v1.4s", "convert", True),
    (0x1E230020, "ucvtf s0, w1", "to_vector", False),
    (0x4E218820, "frintn v0.4s, v1.4s", "convert", True),
    (0x4EA29C20, "mul v0.4s, v1.4s, v2.4s", "multiply", True),
    (0x2E628020, "umlal v0.4s, v1.4h, v2.4h", "multiply", True),
    (0x4E31B820, "addv b0, v1.16b", "reduce", True),
    (0x4E040C20, "dup v0.4s, w1", "to_vector", True),
    (0x4E140420, "dup v0.4s, v1.s[2]", "alu", True),
    (0x0E0C3C20, "mov w0, v1.s[1]", "to_general", False),
    (0x4F00E400, "movi v0.16b, #0x0", "alu", True),
    (0x4E023820, "zip1 v0.16b, v1.16b, v2.16b", "alu", True),
    (0x0E212820, "xtn v0.8b, v1.8h", "alu", False),
    (0x3DC00020, "ldr q0, [x1]", "load", True),
    (0xFD400420, "ldr d0, [x1, #8]", "load", False),
    (0xACC10440, "ldp q0, q1, [x2], #32", "load_pair", True),
    (0x4CDF2020, "ld1 {v0.16b-v3.16b}, [x1], #64", "load4", True),
    (0x4D40C820, "ld1r {v0.4s}, [x1]", "load_lane", True),
    (0x3D800020, "str q0, [x1]", "store", True),
    (0x6D000440, "stp d0, d1, [x2]", "store_pair", False),
    (0xF8627820, "ldr x0, [x1, x2, lsl #3]", "xload", False),
    (0xA8C107E0, "ldp x0, x1, [sp], #16", "xload_pair", False),
    (0x39000020, "strb w0, [x1]", "xstore", False),
    (0x885F7C20, "ldxr w0, [x1]", "xload", False),
    (0x91001020, "add x0, x1, #0x4", "int", False),
    (0x8B020020, "add x0, x1, x2", "int", False),
    (0x8B020C20, "add x0, x1, x2, lsl #3", "shifted", False),
    (0x4AC21C20, "eor w0, w1, w2, ror #7", "shifted", False),
    (0x9B020C20, "madd x0, x1, x2, x3", "multiply_int", False),
    (0x9AC20820, "udiv x0, x1, x2", "divide_int", False),
    (0x9A820020, "csel x0, x1, x2, eq", "int", False),
    (0xB37D0C20, "bfi x0, x1, #3, #4", "multiply_int", False),
    (0x54000001, "b.ne", "branch", False),
    (0xD65F03C0, "ret", "branch", False),
    (0xD503201F, "nop", "int", False),
]


@pytest.mark.parametrize(("word", "text", "kind", "quad"), WORDS, ids=[text for _, text, _, _ in WORDS])
def test_class_of_a_word(word: int, text: str, kind: str, quad: bool) -> None:
    found = decode(word)
    assert (found.kind, found.quad) == (kind, quad), text


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a72", "cortex-a76"])
def test_every_core_has_every_class(core: str) -> None:
    kinds = {kind for kind, _ in find_core(core).needs}
    assert kinds == set(GROUPS) - (set() if core == "cortex-a76" else {"dot"})  # the older two have no dot products
    assert all(set(pipes) <= set(find_core(core).pipes) for _, pipes in find_core(core).needs.values())
