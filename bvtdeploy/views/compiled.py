"""How `compile` and `inspect` look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bvtdeploy.console import Console, amount, percent, size
from bvtdeploy.ops.kinds import KINDS

_SIDES = ("before", "after")


_ZEROS = {"exact": "a third code", "positive": "+1"}


def show_compile(console: Console, report: Mapping[str, Any], *, explain: bool) -> None:
    """The report of `compile`."""
    source, macs, layers = report["source"], report["macs"], report["layers"]
    whole = sum(macs.values())
    console.say(f"{report['artifact']}: {size(report['bytes'])}", style="bold")
    console.facts(
        [
            ("source", f"{source['kind']}, {amount(source['parameters'])} parameters, {size(source['bytes'])}"),
            (
                "layers",
                f"{layers['binary']} binary, "
                + (f"{layers['mixed']} mixed (real inputs, one-bit weights), " if layers["mixed"] else "")
                + f"{layers['float']} float",
            ),
            (
                "multiply-adds",
                f"{amount(macs['binary'])} binary ({percent(macs['binary'] / max(whole, 1))}), "
                + (f"{amount(macs['mixed'])} mixed, " if macs["mixed"] else "")
                + (f"{amount(macs['int8'])} int8, " if macs["int8"] else "")
                + f"{amount(macs['float'])} float",
            ),
            ("ops", ", ".join(f"{count} {kind}" for kind, count in report["ops"].items())),
            ("fused", ", ".join(f"{count} {kind}" for kind, count in report["fused"].items())),
            (
                "signs that can be 0",
                f"{report['ternary_signs']}, with a third code" if report["ternary_signs"] else None,
            ),
            ("sign policy", f"{report['policy']}; integers that can be 0: {_ZEROS[report['zeros']]}"),
            ("weights that are 0", report["zeros_in_weights"]),
            ("estimator residue", f"at most {report['residue_max']:.3g}, removed" if report["residue_max"] else "none"),
            ("real parameters", f"stored as {report['side']}"),
            ("patch embedding", None if report["patch_embed"] == "fp32" else f"computed in {report['patch_embed']}"),
            ("element-wise ops", _arithmetic(report["elementwise"])),
            ("time", f"{sum(p['seconds'] for p in report['passes']):.2f} s in {len(report['passes'])} passes"),
        ]
    )
    storage = {kind: row for kind, row in report["storage"].items() if row["before"] or row["after"]}
    rows = [(KINDS[kind], *(size(row[side]) if row[side] else "" for side in _SIDES)) for kind, row in storage.items()]
    total = ("all", *(size(sum(row[side] for row in storage.values())) for side in _SIDES))
    console.table(["bytes", "source tensors", "artifact"], [*rows, total], align="nrr")
    declined = report["declined"]
    if declined and explain:
        console.table(["not fused", "line", "why"], [(d["site"], d["line"], d["why"]) for d in declined])
    elif declined:
        places = "1 place as they found it" if len(declined) == 1 else f"{len(declined)} places as they found them"
        console.note(f"passes left {places}: --explain lists where and why")


def show_inspect(console: Console, facts: Mapping[str, Any]) -> None:
    """The contents of an artifact."""
    macs = facts["macs"]
    most = max(facts["ops"], key=lambda op: op["live_bytes"])
    console.facts(
        [
            ("format", facts["format"]),
            ("board", facts["board"]),
            (
                "multiply-adds",
                f"{amount(macs['binary'])} binary, "
                + (f"{amount(macs['mixed'])} mixed, " if macs["mixed"] else "")
                + (f"{amount(macs['int8'])} int8, " if macs["int8"] else "")
                + f"{amount(macs['float'])} float",
            ),
            ("working memory", f"{size(facts['arena_bytes'])} for values, and {size(facts['tile_bytes'])} for each thread"),
            ("most of it in use", f"{size(most['live_bytes'])}, at {most['module'] or most['name']}"),
            ("sections", ", ".join(f"{name} {size(count)}" for name, count in facts["sections"].items())),
        ]
    )
    kinds = [(KINDS[kind], size(count)) for kind, count in facts["storage"].items() if count]
    console.table(["bytes", "artifact"], kinds, align="nr")
    rows = [
        (
            i,
            op["module"],
            op["name"],
            op["kind"] + (f" ({op['layout']})" if op["layout"] else ""),
            _shapes(op["out_shape"]),
            amount(op["macs"]["binary"]),
            amount(op["macs"]["float"]),
            size(op["bytes"]),
            size(op["live_bytes"]),
        )
        for i, op in enumerate(facts["ops"])
    ]
    console.table(
        ["#", "source module", "op", "kind", "output", "binary MACs", "float MACs", "constants", "live"],
        rows,
        align="rlnnrrrrr",
        optional=("binary MACs", "float MACs", "constants", "live"),
    )


def _arithmetic(elementwise: Mapping[str, Any]) -> str | None:
    return f"{elementwise['fp16_ops']} compute in fp16, the others in fp32" if elementwise["arithmetic"] == "fp16" else None


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return " ".join(dict.fromkeys("x".join(map(str, shape)) for shape in shapes))
