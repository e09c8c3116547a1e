"""What an op moves: the bytes of its operands, for the rates beside its time."""

from __future__ import annotations

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.reader import Artifact, Record


def operand_bytes(artifact: Artifact) -> list[tuple[int, int]]:
    """(read, written) of every op for one inference: each operand once, as it lies in memory.

    That is what must be moved at least, from whatever cache it lies in. An op that reads an operand several times (a window slides
    over it) is counted once, and padding that is never touched is counted as it is stored.
    """
    found = []
    for op in artifact.ops:
        reads = {i for i in op["inputs"] if i != spec.NONE}
        writes = {i for i in op["outputs"] if i != spec.NONE}
        found.append((sum(_bytes(artifact.values[i]) for i in reads), sum(_bytes(artifact.values[i]) for i in writes)))
    return found


def _bytes(value: Record) -> int:
    if value["stored"] != spec.STORED["AS_IS"]:  # widened to fp32 when the file was opened
        return int(4 * value["rows"] * value["cols"])
    if value["layout"] == spec.LAYOUTS["ROWS"]:  # of a value in tile memory `bytes` are those of one block
        return int(value["rows"] * value["stride"])
    if value["layout"] == spec.LAYOUTS["COLS"]:
        return int(value["cols"] * value["stride"])
    return int(value["bytes"])
