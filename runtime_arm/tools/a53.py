"""The issue rules of the in-order Cortex-A53, on assembly text: what csa_a53.py schedules by, and what judges its result.

`bvtdeploy bench` weighs executed instructions with rates alone (bvtdeploy/bench/cores.toml); on a core that issues in order,
waiting for results counts as well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Instruction:
    """A disassembled instruction: its class, registers, and how wide it is.

    Attributes:
        kind: see `decode`.
        quad: works on 128-bit registers.
        registers: vector or general registers that it moves (loads, stores), or that a table has (tbl).
    """

    name: str
    operands: str
    kind: str = "int"
    quad: bool = False
    registers: int = 1
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)


SHIFTS = {
    "ushr",
    "sshr",
    "shl",
    "ushll",
    "ushll2",
    "sshll",
    "sshll2",
    "shll",
    "shll2",
    "usra",
    "uxtl",
    "uxtl2",
    "sxtl",
    "sxtl2",
    "uadalp",
}
TWO_PIPES_ON_A72 = {"cnt", "bsl", "bit", "bif", "uaddlp"}
ACCUMULATE = {"usra", "uadalp", "bsl", "bit", "bif", "ins", "mla"}


def _registers(text: str) -> list[str]:
    found = []
    for kind, number in re.findall(r"\b([vqdxwsbh])(\d+)\b", text):
        found.append(("x" if kind in "xw" else "v") + number)
    return found


def decode(name: str, operands: str) -> Instruction:
    """The class of an instruction: v (vector), v2 (both vector pipes of an A72), shift (one vector pipe), tbl, zero (movi #0),
    load, loaddup, store, xload, xstore, to_v, to_x, int, shifted, mul, branch.
    """
    i = Instruction(name, operands)
    if (name.startswith(("b.", "cb", "tb")) and not name.startswith("tbl")) or name in ("b", "bl", "ret", "br", "blr"):
        i.kind = "branch"
        i.reads = _registers(operands) + ["flags"]
        return i
    if name.startswith(("ld", "st", "prf")):
        moved, _, address = operands.partition("[")
        regs = _registers(moved)
        vector = bool(regs) and regs[0][0] == "v"
        i.quad = bool(re.search(r"\bq\d|\.(16b|8h|4s|2d)\b", moved))
        i.registers = max(1, len(regs))
        base, written_back = _registers(address), "!" in address or "]," in address
        if name.startswith("ld"):
            i.kind = "loaddup" if name == "ld1r" or re.search(r"\}\[\d", operands) else "load" if vector else "xload"
            i.reads, i.writes = base + (regs if "}[" in operands else []), regs
        else:
            i.kind = "store" if vector else "xstore"
            i.reads = base + regs
        if written_back:
            i.writes = i.writes + base[:1]
        return i
    first, _, rest = operands.partition(",")
    into, others = _registers(first), _registers(rest)
    i.reads, i.writes = others, into[:1]
    if into and into[0][0] == "v":
        i.quad = bool(re.search(r"\.(16b|8h|4s|2d)\b", first))
        if name == "tbl":
            i.kind, i.registers = "tbl", operands.count("v") - 2
            if "-" in operands:
                i.registers = 2
        elif any(r[0] == "x" for r in others):
            i.kind = "to_v"
        elif name == "movi" and operands.endswith(("#0x0", "#0")):
            i.kind = "zero"
        else:
            i.kind = "shift" if name in SHIFTS else "v2" if name in TWO_PIPES_ON_A72 else "v"
        if name in ACCUMULATE or "[" in first:
            i.reads = i.reads + i.writes
        return i
    if any(r[0] == "v" for r in others):
        i.kind = "to_x"
    elif name in ("mul", "madd", "umull", "smull", "umulh", "udiv", "sdiv", "bfi", "bfxil", "msub", "umaddl"):
        i.kind = "mul"
    elif re.search(r", (lsl|lsr|asr|ror) #", operands) and name not in ("movk", "movz", "mov"):
        i.kind = "shifted"
    if name in ("cmp", "cmn", "tst", "ccmp"):
        i.reads, i.writes = into + others, ["flags"]
    elif name in ("subs", "adds", "ands"):
        i.writes = [*i.writes, "flags"]
    elif name.startswith("cs") or name in ("cinc", "cneg"):
        i.reads = [*i.reads, "flags"]
    return i


def in_order(piece: list[Instruction]) -> float:
    """Cycles of a straight piece of code on an A53, in a loop: two instructions a cycle in order, at most one 128-bit vector
    operation (or two of 64 bits) and one load or store; a 128-bit load takes two cycles alone, a 64-bit one pairs with no vector
    arithmetic but an insert.
    """
    ready: dict[str, int] = defaultdict(int)
    now = used = memory = fresh_load = 0
    vector = 0.0
    ends = []
    for _ in range(4):
        for i in piece:
            start = max([now, *(ready[r] for r in i.reads)])
            if start > now:
                now, used, memory, fresh_load, vector = start, 0, 0, 0, 0.0
            arithmetic = i.kind in ("v", "v2", "shift", "tbl", "zero", "to_v", "to_x")
            half = not i.quad or i.name == "ins" or i.kind == "to_v"
            big = (i.kind in ("load", "store") and i.quad) or (i.kind in ("load", "store", "xload") and i.registers > 1)
            alone = big and i.kind == "load"
            while not (
                used < (1 if alone else 2)
                and (not arithmetic or (vector + (0.5 if half else 1) <= 1 and not (fresh_load and i.name not in ("ins", "mov"))))
                and (i.kind not in ("load", "loaddup") or vector <= 0.5)
                and (i.kind not in ("load", "loaddup", "store", "xload", "xstore") or not memory)
            ):
                now, used, memory, fresh_load, vector = now + 1, 0, 0, 0, 0.0
            used += 1
            hold, latency = 0, 1
            if arithmetic:
                vector += 0.5 if half else 1
                latency = 1 if i.name in ("eor", "orr", "and", "bic", "mvn", "not") else 3 if i.kind == "shift" else 2
                if i.kind == "tbl":
                    latency, hold = 1 + i.registers, i.registers - 1
                if i.name == "uadalp":
                    latency, hold = 4, 1
            elif i.kind in ("load", "loaddup"):
                memory, fresh_load, latency = 1, int(not big), 6
                hold = (2 if i.quad else 1) * i.registers - 1 if i.kind == "load" else 0
            elif i.kind in ("xload", "xstore", "store"):
                memory, latency, hold = 1, 3, i.registers - 1
            elif i.kind in ("shifted", "mul"):
                latency = 2 if i.kind == "shifted" else 3
            for r in i.writes:
                moved_base = r[0] == "x" and i.kind in ("load", "loaddup", "store", "xstore")
                ready[r] = now + hold + (1 if moved_base else latency)
            if hold:
                now, used, memory, fresh_load, vector = now + hold + 1, 0, 0, 0, 0.0
        ends.append(now)
    return ends[3] - ends[2] or 1
