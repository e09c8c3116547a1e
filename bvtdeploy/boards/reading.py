"""Reading a board's TOML file; every fault of it is told at once."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bvtdeploy.boards.board import Board, Cluster
from bvtdeploy.errors import UserError
from bvtdeploy.lower.weights import TILES

# attribute of Board -> (key in the file, kind)
_REQUIRED: dict[str, tuple[str, type[Any]]] = {
    "title": ("title", str),
    "core": ("core", str),
    "arch": ("arch", str),
    "features": ("features", list),
    "triple": ("toolchain.triple", str),
    "flags": ("toolchain.flags", list),
    "zig_target": ("toolchain.zig_target", str),
    "zig_flags": ("toolchain.zig_flags", list),
}
_OPTIONAL: dict[str, tuple[str, type[Any]]] = {
    "soc": ("soc", str),
    "cores": ("cores", int),
    "clock_mhz": ("clock_mhz", int),
    "notes": ("notes", list),
    "l1d_kib": ("caches.l1d_kib", int),
    "l2_kib": ("caches.l2_kib", int),
    "l3_kib": ("caches.l3_kib", int),
    "os": ("system.os", str),
    "glibc": ("system.glibc", str),
    "page_kib": ("system.page_kib", int),
    "compatible": ("recognise.compatible", list),
    "models": ("recognise.models", list),
    "cpu_parts": ("recognise.cpu_parts", list),
    "qemu_cpu": ("qemu.cpu", str),
}
_SAID = {list: "a list of strings", str: "a string", int: "a whole number"}


def suggest(name: str, known: Iterable[str]) -> str:
    """The `fix` text of an error about an unknown name: the nearest known ones, else all."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "known: " + ", ".join(known)


def read_board(path: Path) -> Board:
    """The board of a TOML file; its name is the file's."""
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
    for name, (key, kind) in (_REQUIRED | _OPTIONAL).items():
        value = _value(data, key)
        if value is None:
            problems += [f"{key} is missing"] if name in _REQUIRED else []
        elif not _fits(value, kind):
            problems.append(f"{key} must be {_SAID[kind]}")
        else:
            values[name] = tuple(value) if kind is list else value
    problems += _unknown_keys(data)
    if "bgemm" in data:
        problems += _costs_problems(data["bgemm"])
        values["bgemm"] = data["bgemm"]
    if "clusters" in data:
        faults = _clusters_problems(data["clusters"])
        problems += faults
        if not faults:
            values["clusters"] = tuple(Cluster(**cluster) for cluster in data["clusters"])
    if not problems:
        board = Board(name=path.stem, **values)
        problems = _contradictions(board)
    if problems:
        raise UserError(
            "the board file is not valid",
            where=str(path),
            why="; ".join(problems),
            fix="compare it with rpi4.toml in bvtdeploy/boards/",
        )
    return board


def _value(data: dict[str, Any], key: str) -> Any:
    table, _, inner = key.rpartition(".")
    holder = data.get(table, {}) if table else data
    return holder.get(inner) if isinstance(holder, dict) else None


def _fits(value: Any, kind: type[Any]) -> bool:
    if type(value) is not kind:
        return False
    return all(isinstance(v, str) for v in value) if kind is list else value >= 0 if kind is int else True


def _unknown_keys(data: dict[str, Any]) -> list[str]:
    keys = [key for key, _ in (_REQUIRED | _OPTIONAL).values()]
    tables = {key.split(".")[0] for key in keys if "." in key}
    known = {key for key in keys if "." not in key} | tables | {"bgemm", "clusters"}
    problems = [f"{key} is unknown ({suggest(key, known)})" for key in data if key not in known]
    for table in sorted(tables):
        inside = {key.split(".")[1] for key in keys if key.startswith(table + ".")}
        given = data.get(table, {})
        if isinstance(given, dict):
            problems += [f"{table}.{key} is unknown ({suggest(key, inside)})" for key in given if key not in inside]
        else:
            problems.append(f"{table} must be a table")
    return problems


def _costs_problems(table: object) -> list[str]:
    if not isinstance(table, dict):
        return ["bgemm must be a table"]
    names = [name.lower() for name in TILES]
    problems = [f"bgemm.{name} is unknown ({suggest(name, names)})" for name in table if name not in names]
    for name, costs in table.items():
        if not (
            isinstance(costs, list) and 2 <= len(costs) <= 5 and all(type(x) in (int, float) and 0 <= x < math.inf for x in costs)
        ):
            problems.append(f"bgemm.{name} must be two to five numbers")
    return problems


def _clusters_problems(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(cluster, dict) for cluster in given):
        return ["clusters must be tables: [[clusters]]"]
    kinds: dict[str, type[Any]] = {"core": str, "count": int, "clock_mhz": int}
    problems = []
    for cluster in given:
        problems += [f"clusters.{key} is unknown ({suggest(key, kinds)})" for key in cluster if key not in kinds]
        problems += [f"clusters.{key} is missing" for key in ("core", "count") if key not in cluster]
        wrong = [key for key, kind in kinds.items() if key in cluster and not _fits(cluster[key], kind)]
        problems += [f"clusters.{key} must be {_SAID[kinds[key]]}" for key in wrong]
    return problems


def _contradictions(board: Board) -> list[str]:
    problems = []
    if board.clusters and board.cores and sum(cluster.count for cluster in board.clusters) != board.cores:
        problems.append(f"cores is {board.cores}, but the clusters have {sum(c.count for c in board.clusters)}")
    if board.clusters and board.core not in {cluster.core for cluster in board.clusters}:
        problems.append(f"core is {board.core}, which is in no cluster")
    problems += [f'recognise.cpu_parts: "{part}" is not like "0x41:0xd08"' for part in board.cpu_parts if not _is_part(part)]
    if board.glibc and not all(part.isdecimal() for part in board.glibc.split(".")):
        problems.append(f'system.glibc: "{board.glibc}" is not like "2.36"')
    return problems


def _is_part(text: str) -> bool:
    try:
        numbers = [int(part, 16) for part in text.split(":")]
    except ValueError:
        return False
    return len(numbers) == 2
