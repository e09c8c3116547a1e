"""Which board a device is, from what its system says of itself."""

from __future__ import annotations

from collections.abc import Sequence

from bvtdeploy.boards.board import Board
from bvtdeploy.boards.machines import machine_name
from bvtdeploy.boards.reading import suggest
from bvtdeploy.errors import UserError

_GENERIC = {"aarch64": "generic", "arm": "generic-32"}


def recognise_among(
    boards: Sequence[Board],
    *,
    machine: str,
    compatible: Sequence[str] = (),
    model: str = "",
    cpu_part: str | Sequence[str] = (),
) -> Board:
    """The board that fits best. See `bvtdeploy.boards.recognise`."""
    kind = machine_name(machine)
    if kind not in _GENERIC:
        fix = suggest(kind, _GENERIC) if kind else "check what the device is"
        raise UserError(
            f"there is no board for {machine or 'a machine that does not say what it is'}",
            why="boards are 64-bit and 32-bit ARM systems",
            fix=fix,
        )
    able = [board for board in boards if board.machine == kind and not board.native]
    for said in compatible:  # a device tree begins with the most specific string
        for board in able:
            if said.strip("\0 \n") in board.compatible:
                return board
    name = model.strip("\0 \n").lower()
    starts = [(len(start), board) for board in able for start in board.models if name.startswith(start.lower())]
    if starts:
        return max(starts, key=lambda found: found[0])[1]
    generic = next(board for board in able if board.name == _GENERIC[kind])
    if compatible or name:  # it says what it is, and it is none of ours
        return generic
    parts = [cpu_part] if isinstance(cpu_part, str) else cpu_part
    seen = {_numbers(part) for part in parts} - {()}
    with_core = [board for board in able if _has_part(board, seen)]
    return min(with_core, key=lambda board: len(board.name), default=generic)


def _has_part(board: Board, seen: set[tuple[int, ...]]) -> bool:
    """Whether every core that was seen is one of the board's, and the board's are all seen."""
    own = [_numbers(part) for part in board.cpu_parts]
    return (
        bool(own and seen)
        and {part[-1] for part in own} == {part[-1] for part in seen}
        and all(part in own or len(part) == 1 for part in seen)
    )


def _numbers(part: str) -> tuple[int, ...]:
    """ "0x41:0xd08" as numbers; () where it is none."""
    try:
        return tuple(int(number, 16) for number in part.split(":"))
    except ValueError:
        return ()
