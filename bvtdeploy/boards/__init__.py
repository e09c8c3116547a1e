"""Boards: what is known of each target, one TOML file a board beside this one.

Adding a board: copy the nearest file and change its values; its file name is its name. A path to such a file of your own is taken
wherever a board's name is. A board chooses layouts, kernels and compiler flags, never results.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bvtdeploy.errors import UserError
from bvtdeploy.lower.weights import TILES, Cost, Costs

_HERE = Path(__file__).parent
DEFAULT = "generic"


@dataclass(frozen=True)
class Board:
    """One target.

    Attributes:
        name: what `--board` takes.
        title: the product's name.
        core: CPU core as GCC spells it; "generic" or "native".
        arch: architecture level: "armv8-a", "armv8.2-a", or "native" for the machine that we run on.
        features: what its CPU has beyond the bare architecture: neon, crc, dotprod, fp16, lse.
        triple: GNU triple of the compiler, or "native".
        flags: target flags for GCC and Clang.
        zig_target, zig_flags: the same for zig, which spells CPU names with underscores.
        qemu_cpu: the `qemu-aarch64 -cpu` that has this board's instructions; empty where no one CPU does.
        soc, cores, clock_mhz: for reports; empty or 0 where they vary.
        l1d_kib, l2_kib, l3_kib: data caches; L1 is a core's own.
        bgemm: what a binary product costs by the layout of its weights (lower-case names): modelled cycles of 1000
            multiply-accumulates, of 1000 outputs, and of 1000 weights once a call (0 where it is not there). Empty: lanes16.
    """

    name: str
    title: str
    core: str
    arch: str
    features: tuple[str, ...]
    triple: str
    flags: tuple[str, ...]
    zig_target: str
    zig_flags: tuple[str, ...]
    qemu_cpu: str = ""
    soc: str = ""
    cores: int = 0
    clock_mhz: int = 0
    l1d_kib: int = 32
    l2_kib: int = 512
    l3_kib: int = 0
    bgemm: dict[str, list[float]] = field(default_factory=dict, hash=False)

    @property
    def costs(self) -> Costs:
        """`bgemm` as the lowering takes it."""
        return {name.upper(): Cost(*(x / 1000 for x in values)) for name, values in self.bgemm.items()}

    @property
    def native(self) -> bool:
        """Whether the board is the machine that we run on."""
        return self.triple == "native"

    def as_dict(self) -> dict[str, Any]:
        """The board as JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


# key -> (table, type); None is the top level
_REQUIRED: dict[str, tuple[str | None, type[Any]]] = {
    "title": (None, str),
    "core": (None, str),
    "arch": (None, str),
    "features": (None, list),
    "triple": ("toolchain", str),
    "flags": ("toolchain", list),
    "zig_target": ("toolchain", str),
    "zig_flags": ("toolchain", list),
}
_OPTIONAL: dict[str, tuple[str | None, type[Any]]] = {
    "soc": (None, str),
    "cores": (None, int),
    "clock_mhz": (None, int),
    "l1d_kib": ("caches", int),
    "l2_kib": ("caches", int),
    "l3_kib": ("caches", int),
    "qemu_cpu": ("qemu", str),
}


def suggest(name: str, known: Iterable[str]) -> str:
    """The `fix` text of an error about an unknown name: the nearest known ones, else all."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "known: " + ", ".join(known)


def board_names() -> list[str]:
    """The names of the boards that come with the package."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load_board(name: str | Path) -> Board:
    """A board by name, or from the TOML file at a path (anything with a slash, or that ends in .toml)."""
    text = str(name)
    if "/" in text or text.endswith(".toml"):
        return _read(Path(text))
    if text not in board_names():
        raise UserError(
            f"there is no board named '{text}'",
            fix=suggest(text, board_names()) + " (`bvtdeploy boards` lists them; a path to a TOML file works too)",
        )
    return _read(_HERE / f"{text}.toml")


def all_boards() -> list[Board]:
    """The boards that come with the package, by name."""
    return [load_board(name) for name in board_names()]


def _read(path: Path) -> Board:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            "there is no such board file", where=str(path), fix="`bvtdeploy boards` lists the boards that we know"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError("the board file cannot be read", where=str(path), why=str(error)) from error
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, (table, kind) in (_REQUIRED | _OPTIONAL).items():
        spelled = key if table is None else f"{table}.{key}"
        inner = key.removeprefix("qemu_")
        holder = data if table is None else data.get(table, {})
        value: Any = holder.get(inner) if isinstance(holder, dict) else None
        if value is None:
            if key in _REQUIRED:
                problems.append(f"{spelled} is missing")
        elif (
            type(value) is not kind or (kind is list and not all(isinstance(v, str) for v in value)) or (kind is int and value < 0)
        ):
            problems.append(
                f"{spelled} must be {'a list of strings' if kind is list else 'a string' if kind is str else 'a whole number'}"
            )
        else:
            values[key] = tuple(value) if kind is list else value
    tables = {"toolchain", "caches", "qemu"}
    if "bgemm" in data:
        problems += _costs_problems(data["bgemm"])
        values["bgemm"] = data.pop("bgemm")
    known = {key for key, (table, _) in (_REQUIRED | _OPTIONAL).items() if table is None} | tables
    problems += [f"{key} is unknown ({suggest(key, known)})" for key in data if key not in known]
    for table in tables:
        inside = {k.removeprefix("qemu_") for k, (t, _) in (_REQUIRED | _OPTIONAL).items() if t == table}
        given = data.get(table, {})
        if not isinstance(given, dict):
            problems.append(f"{table} must be a table")
        else:
            problems += [f"{table}.{key} is unknown ({suggest(key, inside)})" for key in given if key not in inside]
    if problems:
        raise UserError(
            "the board file is not valid",
            where=str(path),
            why="; ".join(problems),
            fix="compare it with rpi4.toml in bvtdeploy/boards/",
        )
    return Board(name=path.stem, **values)


def _costs_problems(table: object) -> list[str]:
    if not isinstance(table, dict):
        return ["bgemm must be a table"]
    names = [name.lower() for name in TILES]
    problems = [f"bgemm.{name} is unknown ({suggest(name, names)})" for name in table if name not in names]
    for name, costs in table.items():
        if not (
            isinstance(costs, list) and len(costs) in (2, 3) and all(type(x) in (int, float) and 0 <= x < math.inf for x in costs)
        ):
            problems.append(f"bgemm.{name} must be two or three numbers")
    return problems
