"""Writes the loop of layout CSA for the in-order Cortex-A53: `python tools/csa_a53.py > src/kernels/bgemm_csa_a53.inc`.

An A53 issues in order, so the order of the instructions is the speed: this finds one by list scheduling, with the issue rules of
a53.py. 128-bit loads would take two cycles alone; they are split into two 64-bit ones, of which one goes through a general
register. Rows are broadcast from general registers, which takes half of a vector slot.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from a53 import Instruction, decode

ROWS, VECTORS = 4, 2  # of a tile; the loop makes two pairs of steps
CELLS = ROWS * VECTORS
WIDTH = 96  # text of a line of the output

# v0-v7: carries. v8-v15: the last sums, which move through three free places and come back to their own in the second pair.
PLACES = {cell: 8 + cell for cell in range(CELLS)}
FREE = [16, 17, 18]
BROADCAST = list(range(19, 27))  # of each row its even and its odd byte
WEIGHTS, XOR = [27, 28, 29], [30, 31]
WORDS = ["w13", "w14", "w15", "w16"]  # of each row, four bytes
HALVES = [f"x{i}" for i in range(5, 13)]  # second halves of weights on their way


def body() -> list[str]:
    """The loop in the order of the data flow. x: [4 rows][4 bytes], w: [4 steps][2 vectors][16]."""
    out = [f"ldr {WORDS[row]}, [%[x], #{4 * row}]" for row in range(ROWS)]
    place, free = dict(PLACES), list(FREE)
    loaded = made = 0
    for pair in range(2):
        for row in range(ROWS):
            for odd in range(2):
                out.append(f"dup v{BROADCAST[2 * row + odd]}.16b, {WORDS[row]}")
                if not (pair and odd):
                    out.append(f"lsr {WORDS[row]}, {WORDS[row]}, #8")
        # The second pair goes backwards, so that every sum finds its own place free again.
        order = 1 if pair == 0 else -1
        for vector in range(VECTORS)[::order]:
            weights = []
            for odd in range(2):
                v, x, at = WEIGHTS[loaded % len(WEIGHTS)], HALVES[loaded % len(HALVES)], 16 * ((2 * pair + odd) * VECTORS + vector)
                out += [f"ldr d{v}, [%[w], #{at}]", f"ldr {x}, [%[w], #{at + 8}]", f"ins v{v}.d[1], {x}"]
                weights.append(v)
                loaded += 1
            for row in range(ROWS)[::order]:
                cell, u = row * VECTORS + vector, XOR[made % len(XOR)]
                made += 1
                old = place[cell]
                new = free.pop(0) if pair == 0 else free.pop()
                out += [
                    f"eor v{u}.16b, v{BROADCAST[2 * row]}.16b, v{weights[0]}.16b",
                    f"eor v{new}.16b, v{BROADCAST[2 * row + 1]}.16b, v{weights[1]}.16b",
                    f"bsl v{u}.16b, v{new}.16b, v{old}.16b",
                    f"cnt v{u}.16b, v{u}.16b",
                    f"{'sub' if pair else 'add'} v{cell}.16b, v{cell}.16b, v{u}.16b",
                ]
                place[cell] = new
                free.insert(0 if pair else len(free), old)
    assert place == PLACES
    return [*out, f"add %[x], %[x], #{4 * ROWS}", f"add %[w], %[w], #{64 * VECTORS}", "subs %w[doubles], %w[doubles], #1"]


def latency(i: Instruction) -> int:
    """Cycles until a result can be used, a little more than the core needs: loads early."""
    if i.kind == "load":
        return 5
    if i.kind == "xload":
        return 3
    return 1 if i.name == "eor" or i.kind == "int" else 2


def schedule(lines: list[str]) -> list[str]:
    """The same instructions in an order that issues well: of those that can go, the one with the longest way to the end."""
    named = [line.replace("%[x]", "x1").replace("%[w]", "x2").replace("%w[doubles]", "x3") for line in lines]
    code = [decode(*line.split(" ", 1)) for line in named]
    after: dict[int, list[tuple[int, int]]] = defaultdict(list)
    waits = [0] * len(code)
    writer: dict[str, int] = {}
    readers: dict[str, list[int]] = defaultdict(list)
    for n, i in enumerate(code):
        before: dict[int, int] = {}
        for r in i.reads:
            if r in writer:
                before[writer[r]] = max(before.get(writer[r], 0), latency(code[writer[r]]))
        for r in i.writes:
            if r in writer:
                before[writer[r]] = max(before.get(writer[r], 0), 1)
            for reader in readers[r]:
                before.setdefault(reader, 0)
        before.pop(n, None)
        for m, cycles in before.items():
            after[m].append((n, cycles))
            waits[n] += 1
        for r in i.writes:
            writer[r], readers[r] = n, []
        for r in i.reads:
            readers[r].append(n)
    way = [0] * len(code)
    for n in reversed(range(len(code))):
        way[n] = latency(code[n]) + max([way[m] + cycles - latency(code[m]) for m, cycles in after[n]], default=0)
    ready, earliest, order, now = [n for n in range(len(code)) if not waits[n]], [0] * len(code), [], 0
    while len(order) < len(code):
        slots, vector, memory, loads_vector = 0, 0.0, False, False
        while slots < 2:
            able = []
            for n in ready:
                i = code[n]
                small = 0.5 if i.name in ("ins", "dup") else 1.0
                arithmetic = i.kind in ("v", "v2", "shift", "to_v")
                if earliest[n] > now or (arithmetic and (vector + small > 1 or (loads_vector and i.name != "ins"))):
                    continue
                if i.kind in ("load", "xload") and (memory or (i.kind == "load" and vector > 0.5)):
                    continue
                able.append(n)
            if not able:
                break
            n = max(able, key=lambda n: (way[n], -n))
            i = code[n]
            ready.remove(n)
            order.append(n)
            slots += 1
            if i.kind in ("v", "v2", "shift", "to_v"):
                vector += 0.5 if i.name in ("ins", "dup") else 1.0
            memory |= i.kind in ("load", "xload")
            loads_vector |= i.kind == "load"
            for m, cycles in after[n]:
                earliest[m] = max(earliest[m], now + cycles)
                waits[m] -= 1
                if not waits[m]:
                    ready.append(m)
        now += 1
    return [lines[n] for n in order]


def text() -> str:
    """The file."""
    lines = ["/* Written by tools/csa_a53.py: do not edit. */"]
    lines += [f'"{line}\\n\\t"' for line in schedule(body())]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(text())
