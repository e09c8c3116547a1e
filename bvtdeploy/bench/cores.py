"""Models of cores: what classes of instructions take (cores.toml)."""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bvtdeploy.errors import UserError

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Core:
    """A row of cores.toml.

    Attributes:
        name: of the core.
        stands_for: the core that is asked about where it is another one, and why this one is taken.
        width: dispatch slots a cycle.
        pipes: how many of each.
        bound: vector instructions a cycle, at most: of "fmla" and of the other "simd".
        needs: (class, 128 bits) -> slots, cycles of each pipe.
    """

    name: str
    stands_for: str
    width: int
    pipes: Mapping[str, int]
    bound: Mapping[str, float]
    needs: Mapping[tuple[str, bool], tuple[float, Mapping[str, float]]]

    def cycles(self, piece: Sequence[tuple[str, bool]]) -> float:
        """Cycles of a straight piece of code, given as (class, 128 bits): the most that a pipe, or the dispatch, is held."""
        slots, held = 0.0, defaultdict[str, float](float)
        for instruction in piece:
            if instruction not in self.needs:
                why = f"it has no '{instruction[0]}' instructions, but the emulated core ran one"
                raise UserError(
                    f"the model of {self.name} does not fit", why=why, fix="set qemu.cpu in the board's file to its core"
                )
            own, pipes = self.needs[instruction]
            slots += own
            for pipe, cycles in pipes.items():
                held[pipe] += cycles / self.pipes[pipe]
        return max([slots / self.width, *held.values()])

    def least(self, counts: Mapping[str, float]) -> float:
        """Cycles that vector arithmetic takes at least, in the unit of the counts of "simd" and "fmla"."""
        return (counts["simd"] - counts["fmla"]) / self.bound["simd"] + counts["fmla"] / self.bound["fmla"]


@cache
def _cores() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((_HERE / "cores.toml").read_text(encoding="utf-8"))
    return loaded


def core_source() -> str:
    """Where the rates come from."""
    return str(_cores()["source"])


def find_core(name: str) -> Core:
    """The model of a core. Raises UserError where there is none."""
    table = _cores()
    alias = table["stands_for"].get(name)
    taken = alias["core"] if alias else name
    if taken not in table["cores"]:
        known = ", ".join(sorted([*table["cores"], *table["stands_for"]]))
        raise UserError(
            f"there is no model of the core '{name}'",
            why="times are modelled from published rates, and bvtdeploy/bench/cores.toml has none of this core",
            fix=f"take a board with one of: {known}",
        )
    row = table["cores"][taken]
    needs = {}
    for kind, entry in row["classes"].items():
        for quad in (False, True):
            own = dict(entry.get("quad", entry) if quad else entry)
            own.pop("quad", None)
            needs[kind, quad] = (float(own.pop("slots", 1)), {pipe: float(cycles) for pipe, cycles in own.items()})
    text = f"{taken} for {name}: {alias['why']}" if alias else ""
    return Core(taken, text, row["width"], row["pipes"], row["bound"], needs)
