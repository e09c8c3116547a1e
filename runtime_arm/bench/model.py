"""Modelled cycles of the binary GEMM kernels: executed instructions (counted by icount.c under qemu) times published rates.

    python bench/model.py [--cpu a76 ...] [--layout tbl2 ...] [--k 64 192 ...] [--rows 49 197 3136] [--outputs N] [--block N]

The program is run twice, with two products and with one, which gives the count of every instruction of a product alone; each core
runs the kernel that the runtime chooses on it. The counts are exact; the cycles are a model, and no board has measured them.
Straight pieces of code take the most of what their instructions need: of dispatch slots, and of each pipe (out-of-order cores), or
what an in-order issue simulation says (A53); the times of pieces add up. Latencies and caches are left out for the out-of-order
cores: the loops have enough independent work, and their operands are in L1.

Rates: github.com/ocxtal/insn_bench_aarch64 (A53: Raspberry Pi 3, A72: NXP LX2160A, Neoverse N1 = A76: Ampere Altra), and what
their relations say about slots: on A72 an instruction with a 128-bit result takes two of the three dispatch slots, so EOR and ADD
run at 1.5 a cycle, CNT and BSL at 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYOUTS = ("lanes16", "csa", "tbl2", "lut", "lanes16-trits", "tbl2-trits")
# Upper bounds of the main loops in MAC/cycle, from the operations that a scheme needs (KERNELS.md).
BOUNDS = {
    "a76": {"lanes16": 85.3, "csa": 102.4, "tbl2": 137.1, "lut": 181.0, "lanes16-trits": 64.0, "tbl2-trits": 112.9},
    "a72": {"lanes16": 64.0, "csa": 73.0, "tbl2": 44.0, "lut": 99.0, "lanes16-trits": 48.0},
    "a53": {"lanes16": 42.7, "csa": 51.2, "tbl2": 48.0, "lut": 58.0, "lanes16-trits": 32.0},
}
# Larq Compute Engine's bgemm (8x4 kernel) in the same model, its padding of K to 128 bits and its reductions included.
LARQ = {
    "a76": {64: 34, 128: 68, 192: 57, 384: 79, 768: 82, 1536: 84, 3072: 85},
    "a72": {64: 23, 128: 46, 192: 38, 384: 52, 768: 54, 1536: 55, 3072: 56},
    "a53": {64: 14, 128: 28, 192: 22, 384: 31, 768: 31, 1536: 32, 3072: 32},
}


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


# kind -> (dispatch slots, {pipe: cycles}); a pipe group's cycles are divided by PIPES. Loads and stores: of one register.
PIPES = {"a76": {"V": 2, "V1": 1, "L": 2, "I": 3, "M": 1, "B": 1}, "a72": {"F": 2, "F1": 1, "L": 1, "S": 1, "I": 2, "M": 1, "B": 1}}
WIDTH = {"a76": 4, "a72": 3}


def _needs(cpu: str, i: Instruction) -> tuple[float, dict[str, float]]:
    n, k = i.registers, i.kind
    if cpu == "a76":
        table: dict[str, tuple[float, dict[str, float]]] = {
            "v": (1, {"V": 1}), "v2": (1, {"V": 1}), "shift": (1, {"V": 1, "V1": 1}), "tbl": (1, {"V": 1 if n < 3 else 2}),
            "zero": (1, {}), "load": (n, {"L": n}), "loaddup": (2, {"L": 1, "V": 1}), "store": (2 * n, {"L": n, "V": n}),
            "xload": (1, {"L": n}), "xstore": (1, {"L": 1}), "to_v": (1, {"M": 1, "I": 1}), "to_x": (1, {"V": 1, "V1": 1}),
            "int": (1, {"I": 1}), "shifted": (1, {"I": 1}), "mul": (1, {"M": 1, "I": 1}), "branch": (1, {"B": 1}),
        }  # fmt: skip
        return table[k]
    q = 2 if i.quad else 1
    table = {
        "v": (q, {"F": 1}), "v2": (q, {"F": q}), "shift": (q, {"F": 1, "F1": 1}),
        "tbl": (3, {"F": 3}) if n == 1 else (5, {"F": 6}), "zero": (q, {"F": 1}),
        "load": (q * n, {"L": n}), "loaddup": (3, {"L": 1, "F": 1}), "store": (q * n, {"S": q * n}),
        "xload": (n, {"L": 1}), "xstore": (1, {"S": 1}), "to_v": (2, {"L": 1, "F": 1}), "to_x": (1, {"L": 1}),
        "int": (1, {"I": 1}), "shifted": (1, {"M": 1}), "mul": (1, {"M": 1}), "branch": (1, {"B": 1}),
    }  # fmt: skip
    return table[k]


def out_of_order(cpu: str, piece: list[Instruction]) -> float:
    """Cycles of a straight piece of code."""
    slots, load = 0.0, defaultdict[str, float](float)
    for i in piece:
        s, pipes = _needs(cpu, i)
        slots += s
        for pipe, cycles in pipes.items():
            load[pipe] += cycles / PIPES[cpu][pipe]
    return max([slots / WIDTH[cpu], *load.values()])


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


@dataclass
class Program:
    """bench_bgemm for aarch64 with its disassembly, and the plugin."""

    binary: Path
    plugin: Path
    code: dict[int, tuple[Instruction, str]]  # address -> instruction, function


def build(folder: Path, cross: str) -> Program:
    """Compiles the runtime, the benchmark and the plugin."""
    sources = []
    for line in (ROOT / "sources.txt").read_text().splitlines():
        if line.startswith("@"):
            break
        words = line.split()
        if words and not line.startswith("#") and (len(words) == 1 or words[1] == "aarch64"):
            sources.append(words[0])
    binary, plugin = folder / "bench_bgemm", folder / "libicount.so"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-ffp-contract=off", "-fno-math-errno", "-static", "-Iinclude", "-Isrc"]
    subprocess.run([cross, *flags, "bench/bench_bgemm.c", *sources, "-pthread", "-lm", "-o", binary], cwd=ROOT, check=True)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", plugin, "bench/icount.c"], cwd=ROOT, check=True)
    listing = subprocess.run(
        [cross.replace("gcc", "objdump"), "-d", "--no-show-raw-insn", binary], capture_output=True, text=True, check=True
    ).stdout
    code, function = {}, ""
    for line in listing.splitlines():
        if head := re.match(r"[0-9a-f]+ <(.+)>:", line):
            function = head[1]
        elif text := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*([^/<]*)", line):
            code[int(text[1], 16)] = decode(text[2], text[3].strip()), function
    return Program(binary, plugin, code)


def count(program: Program, qemu: str, cpu: str, arguments: Iterable[object]) -> Counter[int]:
    """How often each instruction of a run was executed."""
    with tempfile.NamedTemporaryFile("r") as log:
        command = [
            "env",
            "-i",
            qemu,
            "-cpu",
            f"cortex-{cpu}",
            "-d",
            "plugin",
            "-D",
            log.name,
            "-plugin",
            program.plugin,
            program.binary,
            *map(str, arguments),
        ]
        subprocess.run(list(map(str, command)), check=True)
        counts: Counter[int] = Counter()
        for line in Path(log.name).read_text().splitlines():
            address, n = line.split()
            counts[int(address, 16)] += int(n)
    return counts


def cycles(program: Program, counts: Counter[int], cpu: str) -> tuple[float, dict[str, float], tuple[float, int]]:
    """All cycles, those of each function, and of the piece that takes the most: its cycles a pass and its passes."""
    total, by_function, top = 0.0, defaultdict[str, float](float), (0.0, 0.0, 0)
    piece: list[Instruction] = []
    addresses = sorted(a for a, n in counts.items() if n)
    for i, address in enumerate(addresses):
        instruction, function = program.code[address]
        piece.append(instruction)
        after = addresses[i + 1] if i + 1 < len(addresses) else -1
        if instruction.kind == "branch" or after != address + 4 or counts[after] != counts[address]:
            one = in_order(piece) if cpu == "a53" else out_of_order(cpu, piece)
            here = one * counts[address]
            total, piece = total + here, []
            by_function[function] += here
            top = max(top, (here, one, counts[address]))
    return total, dict(by_function), top[1:]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="modelled MAC/cycle of the binary GEMM kernels")
    parser.add_argument("--cpu", nargs="+", choices=list(BOUNDS), default=list(BOUNDS))
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--k", nargs="+", type=int, default=[64, 192, 384, 768, 3072])
    parser.add_argument("--rows", nargs="+", type=int, default=[49, 197])
    parser.add_argument("--outputs", type=int, default=192)
    parser.add_argument("--block", type=int, default=0, help="rows of a call; default: all, as many as 128 at a time")
    parser.add_argument("--cross", default="aarch64-linux-gnu-gcc")
    parser.add_argument("--qemu", default="qemu-aarch64", help="one with plugins, which static builds have not")
    parser.add_argument("--functions", action="store_true", help="also where the cycles go")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder), args.cross)
        print("modelled MAC/cycle of one core; larq: its bgemm in the same model; bound: of the scheme's main loop")
        columns = f"{'rows':>5} {'K':>5} {'O':>5} {'MAC/c':>7} {'larq':>5} {'ratio':>6} {'bound':>6}  main loop"
        print(f"{'cpu':4} {'layout':13} {columns}")
        for layout in args.layout:
            for rows in args.rows:
                for k in args.k:
                    shape = [layout, rows, k, args.outputs, args.block or 128]
                    for cpu in args.cpu:
                        counts = count(program, args.qemu, cpu, [*shape, 2])
                        counts.subtract(count(program, args.qemu, cpu, [*shape, 1]))
                        total, functions, (one, passes) = cycles(program, counts, cpu)
                        rate, larq = rows * k * args.outputs / total, LARQ[cpu].get(k)
                        bound = f"{BOUNDS[cpu][layout]:6.1f}" if layout in BOUNDS[cpu] else f"{'-':>6}"
                        compared = f"{larq:5} {rate / larq:6.2f}" if larq else f"{'-':>5} {'-':>6}"
                        print(
                            f"{cpu:4} {layout:13} {rows:5} {k:5} {args.outputs:5} {rate:7.1f} {compared} {bound}"
                            f"  {one * passes / total:4.0%} ({one:.1f} cycles a pass)",
                            flush=True,
                        )
                        if args.functions:
                            for name, here in sorted(functions.items(), key=lambda x: -x[1])[:6]:
                                print(f"       {here / total:6.1%} {name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
