"""What is in an artifact: ops, shapes, multiply-accumulates, bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.reader import Artifact, Record, read
from bvtdeploy.artifact.storage import storage


def describe(artifact: Artifact) -> dict[str, Any]:
    """The keys of `bvtdeploy inspect --json` and what else is known.

    `bytes` of an op are those of its constants, a shared constant counted where it is read first; `layout` is that of its +-1
    or int8 weight, "" where it has none; `live_bytes` is the working memory that holds something while its group runs.
    """
    kinds = {number: kind for kind, number in spec.OPCODES.items()}
    dtypes = {number: dtype.lower() for dtype, number in spec.DTYPES.items()}
    layouts = {number: layout.lower() for layout, number in spec.LAYOUTS.items()}
    seen: set[int] = set()
    ops = []
    group_of = {g["first_op"] + i: n for n, g in enumerate(artifact.groups) for i in range(g["n_ops"])}
    live = live_bytes(artifact, group_of)
    for number, op in enumerate(artifact.ops):
        constants = [i for i in op["inputs"] if i != spec.NONE and artifact.values[i]["storage"] == spec.STORAGES["CONST"]]
        own = [i for i in dict.fromkeys(constants) if i not in seen]
        seen.update(own)
        outputs = [artifact.values[i] for i in op["outputs"] if i != spec.NONE]
        ops.append(
            {
                "name": artifact.name(op["name"]),
                "kind": kinds[op["opcode"]],
                "module": artifact.name(op["module"]),
                "out_shape": [[v["rows"], v["cols"]] for v in outputs],
                "out_type": [dtypes[v["dtype"]] for v in outputs],
                "group": group_of[number],
                "layout": next((layouts[v["layout"]] for v in map(artifact.values.__getitem__, constants) if _is_weight(v)), ""),
                "macs": {"binary": op["macs_binary"], "float": op["macs_float"]},
                "bytes": sum(artifact.values[i]["bytes"] for i in own),
                "live_bytes": live[group_of[number]],
            }
        )
    macs = {k: sum(op[f"macs_{k}"] for op in artifact.ops) for k in ("binary", "float")}
    mixed, int8 = (sum(op["macs_float"] for op in artifact.ops if kinds[op["opcode"]] == k) for k in ("mixed_gemm", "dense_i8"))
    result: dict[str, Any] = {
        "format": artifact.header["version"],
        "board": artifact.meta.get("board", ""),
        "ops": ops,
        "groups": [{"ops": g["n_ops"], "rows": g["rows"], "block": g["block"]} for g in artifact.groups],
        "sections": {name: record["bytes"] for name, record in artifact.sections.items()},
        "bytes": artifact.header["file_bytes"],
        "arena_bytes": artifact.header["arena_bytes"],
        "tile_bytes": artifact.header["tile_bytes"],
        "side": artifact.meta.get("side", "fp32"),
        "patch_embed": artifact.meta.get("patch_embed", "fp32"),
        "elementwise": artifact.meta.get("elementwise", "fp32"),
        "constants": _forms(artifact),
        "widened_bytes": artifact.header["widened_bytes"],
        "macs": {"binary": macs["binary"], "mixed": mixed, "int8": int8, "float": macs["float"] - mixed - int8},
        "storage": storage(artifact),
        "input": {"rows": artifact.input["rows"], "cols": artifact.input["cols"]},
        "output": {"rows": artifact.output["rows"], "cols": artifact.output["cols"]},
        "golden": len(artifact.golden_records),
        "labels": artifact.labels,
        "meta": {k: v for k, v in artifact.meta.items() if not isinstance(v, bytes)},
        "preprocess": None,
    }
    if artifact.preprocess is not None:
        p = artifact.preprocess
        result["preprocess"] = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(p).items()}
    return result


def live_bytes(artifact: Artifact, group_of: Mapping[int, int]) -> list[int]:
    """Of each group, the bytes of the arena whose values are needed while or after it runs, and those of one thread's tile.

    Values may lie in one place one after the other, and a result in that of an operand: places count once.
    """
    groups: dict[int, list[int]] = defaultdict(list)  # of each value, where it is written or read
    for number, op in enumerate(artifact.ops):
        for i in (*op["inputs"], *op["outputs"]):
            if i != spec.NONE:
                groups[i].append(group_of[number])
    places: list[dict[str, list[tuple[int, int]]]] = [{"ARENA": [], "TILE": []} for _ in artifact.groups]
    for i, where in groups.items():
        value = artifact.values[i]
        for name in ("ARENA", "TILE"):
            if value["storage"] == spec.STORAGES[name]:
                for group in range(min(where), max(where) + 1):
                    places[group][name].append((value["offset"], value["offset"] + value["bytes"]))
    return [sum(_union(parts) for parts in place.values()) for place in places]


def _union(parts: Iterable[tuple[int, int]]) -> int:
    """How many numbers are in at least one of the ranges."""
    total = end = 0
    for first, last in sorted(parts):
        total += max(0, last - max(first, end))
        end = max(end, last)
    return total


def _is_weight(value: Record) -> bool:
    return value["dtype"] in (spec.DTYPES["BITS"], spec.DTYPES["I8"])


def _forms(artifact: Artifact) -> dict[str, int]:
    """Bytes of the constants by how they are stored."""
    found = dict.fromkeys(("bits", "fp32", "fp16", "int8", "tables"), 0)
    kinds = {spec.STORED["F16"]: "fp16", spec.STORED["I8"]: "int8"}
    for v in artifact.values:
        if v["storage"] == spec.STORAGES["CONST"]:
            words = {"BITS": "bits", "F32": "fp32", "F16": "fp16", "I8": "int8"}
            plain = {spec.DTYPES[name]: word for name, word in words.items()}.get(v["dtype"], "tables")
            found[kinds.get(v["stored"], plain)] += v["bytes"]
    return found


def inspect(path: Path | str) -> dict[str, Any]:
    """`describe` of a file. Raises UserError when it is missing or damaged."""
    return describe(read(path))
