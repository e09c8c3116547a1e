"""Profiles and comparisons as the page wants them: what is shown in words and tables, and what the charts draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bvtdeploy.boards import board_names, load_board

MOST_MODULES = 28
_COLOURED = 6  # kinds that get a colour of their own, by time

Record = Mapping[str, Any]


# ---- Numbers for people ---------------------------------------------------------------------------------------------------------


def ms(value: float | None) -> str:
    """Milliseconds with three digits that count; below a microsecond they count no more."""
    if value is None or not math.isfinite(value):
        return "–"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}" if value >= 0.1 else f"{value:.4f}"


def amount(value: float | None) -> str:
    """12.3 M."""
    if value is None:
        return "–"
    for unit in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or unit == "T":
            return f"{value:.3g} {unit}".strip() if abs(value) < 1000 else f"{value:.0f} {unit}"
        value /= 1000
    return ""


def size(value: float) -> str:
    """1.5 MB."""
    return f"{amount(value)}B" if value >= 1000 else f"{value:.0f} B"


def percent(value: float) -> str:
    """12.3 %."""
    return f"{100 * value:.1f} %"


def tail(path: str) -> str:
    """A path's last part."""
    return path.rstrip("/").rpartition("/")[2] or path


def _temperature(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} °C"


def _mhz(values: Sequence[int] | None) -> str:
    return "" if not values else ", ".join(f"{khz / 1000:.0f}" for khz in values) + " MHz"


# ---- Profiles -------------------------------------------------------------------------------------------------------------------


def of_profile(p: Record) -> dict[str, Any]:
    """What the page says of a profile in words and tables."""
    before, head = p["environment"]["before"], p["scaling"][0]
    counters = {name.replace("_", " "): value for name, value in head["counters"].items() if value is not None}
    cycles, instructions = counters.get("cycles"), counters.get("instructions")
    state = "emulated" if p["emulated"] else "stable" if p["stable"] else "unstable"
    golden, rows = p["golden"], _environment_rows(p)
    return {
        "artifact": p["artifact"],
        "device": p["device"],
        "machine": before["model"] or before["cpu"] or p["board"],
        "board": p["board"],
        "isa": p["isa"],
        "state": state,
        "verdict": {"stable": "Stable", "unstable": "Unstable", "emulated": "Emulated: these times say nothing about a board"}[
            state
        ],
        "reasons": [] if p["emulated"] else p["unstable_because"],
        "notes": p["notes"],
        "golden": golden,
        "golden_ok": golden["checked"] == golden["equal"],
        "head": head,
        "timings": p["scaling"],
        "kinds": kinds(p),
        "ops": sorted(p["ops"], key=lambda op: -op["ms"]),
        "counters": counters,
        "ipc": instructions / cycles if cycles and instructions else None,
        "no_counters": sorted({why for name, why in head["unavailable"].items() if name != "energy"}),
        "energy": head["energy"],
        "no_energy": head["unavailable"].get("energy", ""),
        "environment": [row for row in rows if row["before"] or row["after"]],
        "untold": [row for row in rows if not row["before"] and not row["after"]],
        "cores": _cores(p),
        "toolchain": ", ".join(str(p["toolchain"].get(key, "")) for key in ("compiler", "version") if p["toolchain"].get(key)),
    }


def kinds(p: Record) -> list[dict[str, Any]]:
    """Kinds of ops by time; `colour` is the number of the kind's colour, the same in all charts, 0 for the small ones."""
    found: dict[str, dict[str, Any]] = {}
    for op in p["ops"]:
        kind = found.setdefault(op["kind"], {"kind": op["kind"], "ops": 0, "ms": 0.0, "share": 0.0, "macs": 0})
        kind["ops"] += 1
        kind["ms"] += op["ms"]
        kind["share"] += op["share"]
        kind["macs"] += op["macs"]["binary"] + op["macs"]["float"]
    ranked = sorted(found.values(), key=lambda kind: -kind["ms"])
    for i, kind in enumerate(ranked):
        kind["colour"] = i + 1 if i < _COLOURED else 0
        kind["rate"] = 1000 * kind["macs"] / kind["ms"] if kind["macs"] and kind["ms"] else None
    return ranked


def _cores(p: Record) -> str:
    before = p["environment"]["before"]
    told = [f"{len(k['cores'])} × {k['core'] or 'core'}" for k in before["core_kinds"] or ()]
    return ", ".join(told)


def _environment_rows(p: Record) -> list[dict[str, Any]]:
    """(name, before, after, doubt): what was read, and whether it is among the reasons or notes."""
    before, after = p["environment"]["before"], p["environment"]["after"]
    rows = []

    def row(name: str, show: Any, *keys: str, doubt: str = "") -> None:
        shown = [show(*(record[key] for key in keys)) for record in (before, after)]
        why = next((before["unavailable"][key] for key in keys if key in before["unavailable"]), "")
        told = [*p["unstable_because"], *p["notes"]]
        marked = next((text for text in told if doubt and doubt in text), "")
        rows.append({"name": name, "before": shown[0], "after": shown[1], "why": "" if shown[0] else why, "doubt": marked})

    row("Model", lambda x: x or "", "model")
    row("System", lambda *x: ", ".join(str(y) for y in x if y), "os", "kernel")
    row("CPU", lambda x: x or "", "cpu")
    row("Cores online", lambda x: ", ".join(map(str, x or ())), "cores_online", doubt="offline")
    row("Governor", lambda x: ", ".join(dict.fromkeys(x or ())), "governor", doubt="governor")
    row("Clock", _mhz, "khz", doubt="the clock of")
    row("Highest clock", _mhz, "max_khz", doubt="is limited")
    row("Temperature", _temperature, "temperature_c", doubt="warmed up")
    row("Throttled now", lambda x: "" if x is None else ", ".join(x["now"]) or "no", "throttle", doubt="the board reports")
    row(
        "Throttled since start",
        lambda x: "" if x is None else ", ".join(x["since_start"]) or "no",
        "throttle",
        doubt="the board had",
    )
    row(
        "Over-current events",
        lambda x: "" if x is None else ", ".join(f"{k} {v}" for k, v in x.items()),
        "events",
        doubt="over-current",
    )
    row("Power mode", lambda x: x or "", "power_mode")
    row("Power", lambda x: ", ".join(f"{k} {v / 1000:.2f} W" for k, v in (x or {}).items()), "rails_mw")
    row("Load average", lambda x: "" if x is None else f"{x:.2f}", "load", doubt="busy")
    row("Memory available", lambda x: "" if x is None else size(1024 * x), "memory_available_kib", doubt="memory is short")
    return rows


def chart_data(p: Record) -> dict[str, Any]:
    """What the charts of a profile draw."""
    table = kinds(p)
    colour = {kind["kind"]: kind["colour"] for kind in table}
    groups: dict[int, dict[str, Any]] = {}
    for op in p["ops"]:
        group = groups.setdefault(op["group"], {"modules": [], "kinds": {}})
        if op["module"] not in group["modules"]:
            group["modules"].append(op["module"])
        group["kinds"][op["kind"]] = group["kinds"].get(op["kind"], 0.0) + op["ms"]
    return {
        "emulated": p["emulated"],
        "kinds": [{key: kind[key] for key in ("kind", "colour", "ms", "share")} for kind in table],
        "modules": _modules(p["ops"]),
        "groups": {
            str(n): {
                "modules": g["modules"][:4],
                "more": max(0, len(g["modules"]) - 4),
                "kind": max(g["kinds"], key=g["kinds"].get),
            }
            for n, g in groups.items()
        },
        "ops": [
            {
                "name": op["name"],
                "kind": op["kind"],
                "module": op["module"],
                "share": op["share"],
                "rate": op["macs_per_s"],
                "intensity": (op["macs"]["binary"] + op["macs"]["float"]) / max(1, op["read_bytes"] + op["written_bytes"]),
                "bytes_per_s": 1000 * (op["read_bytes"] + op["written_bytes"]) / op["ms"] if op["ms"] else None,
            }
            for op in p["ops"]
        ],
        "colour": colour,
        "modelled": _modelled_rate(p["board"]),
        "timings": [
            {
                "threads": t["threads"],
                "warm": t["warm_ms"],
                "first": t["first_ms"],
                "speedup": t["speedup"],
                "warmup": t["warmup_ms"],
                "samples": t["samples_ms"],
                "timeline": t["timeline"],
                "during": [
                    {"at": look["at_ms"], "mhz": {k: v / 1000 for k, v in look["khz"].items()}, "c": look["temperatures_c"],
                     "w": {k: v / 1000 for k, v in look["rails_mw"].items()}}
                    for look in t["during"]
                ],
            }
            for t in p["scaling"]
        ],
    }  # fmt: skip


def _modelled_rate(board: str) -> float | None:
    """Binary MACs/s of one core as the board's file models its best layout; None where nothing is known of it."""
    if board not in board_names():
        return None
    known = load_board(board)
    if not known.bgemm or not known.clock_mhz:
        return None
    return known.clock_mhz * 1e6 * 1000 / min(costs[0] for costs in known.bgemm.values())


def _modules(ops: Sequence[Record]) -> list[dict[str, Any]]:
    """Time by module, in the order of the network. Of the modules the heaviest is divided into its parts until there are as many as
    can be shown: what takes long is seen in detail, what does not stays together."""
    paths = [tuple(op["module"].split(".")) if op["module"] else ("(none)",) for op in ops]
    times: dict[tuple[str, ...], float] = {}
    for op, path in zip(ops, paths, strict=True):
        times[path] = times.get(path, 0.0) + op["ms"]

    def parts(prefix: tuple[str, ...]) -> set[tuple[str, ...]]:
        return {path[: len(prefix) + 1] for path in times if path[: len(prefix)] == prefix}

    def weight(prefix: tuple[str, ...]) -> float:
        return sum(t for path, t in times.items() if path[: len(prefix)] == prefix)

    chosen, whole = parts(()), set[tuple[str, ...]]()
    while open_ones := chosen - whole:
        heaviest = max(sorted(open_ones), key=weight)
        inside = parts(heaviest)
        whole.add(heaviest)  # with ops of its own it stays, beside its parts
        if len((chosen - {heaviest}) | inside) <= MOST_MODULES:
            chosen = (chosen - {heaviest}) | inside
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for op, path in zip(ops, paths, strict=True):
        prefix = max((c for c in chosen if path[: len(c)] == c), key=len)
        kinds = found.setdefault(prefix, {})
        kinds[op["kind"]] = kinds.get(op["kind"], 0.0) + op["ms"]
    return [{"module": ".".join(prefix), "kinds": kinds} for prefix, kinds in found.items()]


# ---- Comparisons ----------------------------------------------------------------------------------------------------------------


def of_comparison(c: Record) -> dict[str, Any]:
    """What the page says of a comparison."""
    words = {"faster": "faster", "slower": "slower", "same": "no difference", "cannot tell": "cannot tell"}

    def shown(row: Record) -> dict[str, Any]:
        change = "from 0" if row["ratio"] is None else f"{100 * (row['ratio'] - 1):+.1f} %"
        interval = "too few runs" if row["low"] is None else f"{100 * (row['low'] - 1):+.1f} to {100 * (row['high'] - 1):+.1f} %"
        return {**row, "change": change, "interval": interval, "word": words[row["verdict"]]}

    return {**c, "totals": [shown(t) for t in c["totals"]], "ops": [shown(op) for op in c["ops"]]}
