"""Boards: what is known of each target, one TOML file a board beside this one.

Adding a board: copy the nearest file and change its values; its file name is its name. A path to such a file of your own is taken
wherever a board's name is. A board chooses layouts, kernels and compiler flags, never results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from bvtdeploy.boards.board import Board, Cluster
from bvtdeploy.boards.reading import read_board, suggest
from bvtdeploy.boards.recognise import recognise_among
from bvtdeploy.errors import UserError

__all__ = ["DEFAULT", "Board", "Cluster", "all_boards", "board_names", "load_board", "recognise", "suggest"]

_HERE = Path(__file__).parent
DEFAULT = "generic"


def board_names() -> list[str]:
    """The names of the boards that come with the package."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load_board(name: str | Path) -> Board:
    """A board by name, or from the TOML file at a path (anything with a slash, or that ends in .toml)."""
    text = str(name)
    if "/" in text or text.endswith(".toml"):
        return read_board(Path(text))
    if text not in board_names():
        raise UserError(
            f"there is no board named '{text}'",
            fix=suggest(text, board_names()) + " (`bvtdeploy boards` lists them; a path to a TOML file works too)",
        )
    return _known(text)


@lru_cache(maxsize=64)
def _known(name: str) -> Board:
    return read_board(_HERE / f"{name}.toml")


def all_boards() -> list[Board]:
    """The boards that come with the package, by name."""
    return [load_board(name) for name in board_names()]


def recognise(*, machine: str, compatible: Sequence[str] = (), model: str = "", cpu_part: str | Sequence[str] = ()) -> Board:
    """The board that a device is.

    Args:
        machine: what its `uname -m` says. It decides between the boards of 64-bit and of 32-bit systems; where the kernel has 64
            bits and the system 32, a static 64-bit program runs nevertheless.
        compatible: the strings of /sys/firmware/devicetree/base/compatible (it separates them with NUL).
        model: /sys/firmware/devicetree/base/model.
        cpu_part: "part" or "implementer:part" of every kind of core in /proc/cpuinfo ("0xd08", "0x41:0xd08"). Only looked at where
            there is no device tree, as in a container.

    Returns:
        The board; of an ARM device that is none of ours, "generic" or "generic-32".

    Raises:
        UserError: the machine is no ARM.
    """
    return recognise_among(all_boards(), machine=machine, compatible=compatible, model=model, cpu_part=cpu_part)
