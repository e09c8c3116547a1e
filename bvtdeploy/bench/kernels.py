"""Kernels by themselves: executed instructions at the shapes that the networks have, weighed by a model of the core, beside bounds.

runtime_arm/bench/bench_kernels.c runs them under user-mode QEMU, linked with the library that the board gets; bounds.toml has what
they may take at best. Nothing here is measured on a board.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bvtdeploy.bench.cores import Core, core_source, find_core
from bvtdeploy.bench.counting import (
    GET_QEMU,
    build_kernel_bench,
    build_plugin,
    check_boards,
    count_runs,
    find_counting_qemu,
    pieces,
)
from bvtdeploy.bench.peers import Say
from bvtdeploy.boards import Board, load_board
from bvtdeploy.errors import UserError


@dataclass(frozen=True)
class ElementKernel:
    """An element-wise op on a board's core.

    Attributes:
        case: what is run; `element` is what its cycles are given for.
        cycles: modelled, for one element.
        bound: cycles that one element takes at best; `why` says what is in it.
        ratio: how many times the bound it takes.
        over: whether that is more than the limit.
    """

    case: str
    element: str
    why: str
    cycles: float
    bound: float
    ratio: float
    over: bool


@dataclass(frozen=True)
class ProductKernel:
    """A binary product on a board's core.

    Attributes:
        layout: of the weights; "-trits": the rows have three codes.
        rows, k, outputs: the shape.
        macs_a_cycle: modelled, all included.
        bound: multiply-accumulates a cycle of the layout's main loop at best.
        larq: of Larq Compute Engine's bgemm in the same model; None where K was not looked at.
        main_loop: share of the cycles in the piece of code that takes most of them.
    """

    layout: str
    rows: int
    k: int
    outputs: int
    macs_a_cycle: float
    bound: float
    larq: float | None
    main_loop: float


@dataclass(frozen=True)
class BoardKernels:
    """The kernels of one board's library on its core. `limit`: times the bound."""

    board: str
    core: str
    stands_for: str
    compiler: str
    limit: float
    elements: tuple[ElementKernel, ...]
    products: tuple[ProductKernel, ...]

    def as_dict(self) -> dict[str, Any]:
        """The board as JSON."""
        return {**vars(self), "elements": [vars(e) for e in self.elements], "products": [vars(p) for p in self.products]}


@dataclass(frozen=True)
class Kernels:
    """What counting found."""

    boards: tuple[BoardKernels, ...]
    rates: str

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON, in the place of a benchmark of an artifact."""
        kernels = {"boards": [b.as_dict() for b in self.boards], "rates": self.rates}
        return {"artifact": None, "measured": None, "modelled": None, "kernels": kernels}


@cache
def _bounds() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((Path(__file__).parent / "bounds.toml").read_text(encoding="utf-8"))
    return loaded


def bound_of(case: Mapping[str, Any], core: Core) -> float:
    """Cycles that one element of a case of bounds.toml takes at best."""
    if "cycles" in case:
        return float(case["cycles"][core.name])
    piece = []
    for text, times in case["needs"].items():
        kind, _, half = text.partition("/")
        piece += [(kind, not half)] * times
    return core.cycles(piece) / float(case["elements"])


def model_kernels(boards: Sequence[str], *, progress: Say | None = None, only: Sequence[str] = ()) -> Kernels:
    """Count and model the kernels of boards.

    Args:
        boards: names of boards with 64-bit ARM cores.
        progress: told what is being done.
        only: beginnings of the names of cases ("bgemm": the binary products); none: all.

    Raises:
        UserError: a board cannot be modelled; there is no compiler or emulator; there is no such case.
    """
    say = progress or (lambda _: None)
    chosen = [load_board(name) for name in boards]
    cores = [find_core(board.core) for board in chosen]
    check_boards(chosen)
    cases = [case for case in _bounds()["case"] if not only or case["name"].startswith(tuple(only))]
    products = not only or any("bgemm".startswith(name) for name in only)
    if not cases and not products:
        names = dict.fromkeys(case["name"] for case in _bounds()["case"])
        raise UserError("there is no such kernel case", where=", ".join(only), fix=f"take some of: bgemm, {', '.join(names)}")
    qemu, plugin = find_counting_qemu(), build_plugin()
    found = []
    for board, core in zip(chosen, cores, strict=True):
        program, compiler = build_kernel_bench(board, say)
        elements = _elements(board, core, cases, program, qemu, plugin, say)
        rows = _products(board, core, program, qemu, plugin, say) if products else ()
        found.append(BoardKernels(board.name, board.core, core.stands_for, compiler, _bounds()["limit"], elements, rows))
    return Kernels(tuple(found), core_source())


def _sizes(qemu: str, board: Board, program: Path) -> dict[str, float]:
    """The elements of each case of the program."""
    command = [qemu, "-cpu", board.qemu_cpu, str(program), "list"]
    try:
        done = subprocess.run(command, env={}, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError("the emulator cannot run the kernels", where=qemu, why=str(error), fix=GET_QEMU) from error
    return {name: float(count) for name, count in (line.split() for line in done.stdout.splitlines())}


def _elements(
    board: Board, core: Core, cases: Sequence[Mapping[str, Any]], program: Path, qemu: str, plugin: Path, say: Say
) -> tuple[ElementKernel, ...]:
    sizes, limit = _sizes(qemu, board, program), _bounds()["limit"]
    found = []
    for case in cases:
        name, functions = case["name"], tuple(case.get("functions", ()))
        say(f"{board.name}: {name}")
        counts = count_runs(qemu, plugin, board.qemu_cpu, program, [name, "1"], [name, "2"])
        spent = sum(p.cycles for p in pieces(program, counts, core) if not functions or p.function.split(".")[0] in functions)
        bound, cycles = bound_of(case, core), spent / sizes[name]
        title = case.get("title", name)
        found.append(ElementKernel(title, case["element"], case["why"], cycles, bound, cycles / bound, cycles > limit * bound))
    return tuple(found)


def _products(board: Board, core: Core, program: Path, qemu: str, plugin: Path, say: Say) -> tuple[ProductKernel, ...]:
    table, found = _bounds()["bgemm"], []
    own = table["cores"][core.name]
    shapes: list[tuple[str, int, int]] = [(la, r, k) for la in own["bounds"] for r in table["rows"] for k in table["k"]]
    for layout, rows, k in shapes:
        say(f"{board.name}: bgemm {layout} {rows} x {k} x {table['outputs']}")
        arguments = ["bgemm", layout, *(str(n) for n in (rows, k, table["outputs"], table["block"]))]
        counts = count_runs(qemu, plugin, board.qemu_cpu, program, [*arguments, "1"], [*arguments, "2"])
        spent = [p.cycles for p in pieces(program, counts, core)]
        rate = rows * k * table["outputs"] / sum(spent)
        larq = own["larq"].get(str(k)) if not layout.endswith("-trits") else None  # it has no third code
        found.append(
            ProductKernel(
                layout,
                rows,
                k,
                table["outputs"],
                rate,
                own["bounds"][layout],
                float(larq) if larq else None,
                max(spent) / sum(spent),
            )
        )
    return tuple(found)
