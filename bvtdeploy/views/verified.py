"""How `verify` and `models check` look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bvtdeploy.console import Console, percent

if TYPE_CHECKING:
    from bvtdeploy.api import CheckedModels


def show_verify(console: Console, report: Mapping[str, Any], *, ok: bool) -> None:
    """The report of `verify`."""
    for name, equal in report["pairs"].items():
        count = report.get("compared", {}).get(name)
        left, _, right = name.partition("/")
        text = f"{left} = {right}" + (f" on {count} inputs" if count else "")
        console.good(f"{text}: equal bits") if equal else console.bad(f"{text}: different bits")
    first = report.get("first_difference")
    if first:
        console.bad("the first op that differs: " + ", ".join(f"{key} {value}" for key, value in first.items()))
    agreement = f"the same class as the source model on {percent(report['top1_agreement'])} of {report['images']} inputs"
    detail = f"logit cosine at least {report['logit_cosine_min']:.6f}, error at most {report['logit_error_max']:.3g}"
    (console.good if ok or not report["exact"] else console.bad)(f"{agreement}; {detail}")
    if report["exact"] and report["top1_agreement"] < report["min_agreement"]:
        least = percent(report["min_agreement"])
        console.say(f"      the bits are the same everywhere, but fewer than {least} of the inputs get the source's class")
        console.say("      (with random weights logits are nearly equal, and any rounding decides)")
    accuracy = report.get("accuracy")
    if accuracy:
        console.say(f"      accuracy: source {percent(accuracy['source'])}, artifact {percent(accuracy['artifact'])}")
    flips = [flip for flip in report["flips"] if flip["rate"]]
    if flips:
        worst = max(flips, key=lambda flip: float(flip["rate"]))
        console.say(
            f"      binary codes that differ from PyTorch's: at {len(flips)} of {len(report['flips'])} signs, "
            f"at most {100 * worst['rate']:.3g} % (after {worst['module'] or worst['op']})"
        )
    if side := report.get("side"):
        console.say(
            f"      {_rounded(side)} instead of fp32, on {side['images']} inputs: logits move by at most "
            f"{side['logit_error_max']:.3g} (mean {side['logit_error_mean']:.3g}), "
            f"the same class on {percent(side['top1_agreement'])}, {100 * side['codes_changed']:.3g} % of the codes change"
        )
    if forced := report.get("teacher_forced"):
        show_forced(console, forced)


def _rounded(side: Mapping[str, Any]) -> str:
    """What of an artifact is not in fp32."""
    said = (("parameters", "kind"), ("patch embedding", "patch_embed"), ("element-wise arithmetic", "elementwise"))
    return ", ".join(f"{what} in {side[key]}" for what, key in said if side[key] != "fp32")


def _forced_cells(row: Mapping[str, Any]) -> list[str]:
    counts = [f"{row[name]:,}".replace(",", " ") for name in ("integers", "codes", "mismatches", "ties", "floats")]
    return [str(row["ops"]), *counts, f"{row['worst']:.1e}" if row["floats"] else "-"]


_FORCED = ["ops", "integers", "codes", "wrong", "ties", "floats", "worst error"]


def show_forced(console: Console, table: Mapping[str, Any]) -> None:
    """The table of a teacher-forced comparison, by kind of op."""
    total = table["total"]
    rows = [(row["kind"], *_forced_cells(row)) for row in (*table["rows"], total)]
    console.table(["kind", *_FORCED], rows, title="every op on the source's operands", align="nrrrrrrr")
    text = f"op by op on {table['images']} images: {total['mismatches']} wrong integers, worst real number {total['worst']:.1e} off"
    console.good(text) if table["ok"] else console.bad(text)
    show_failures(console, table["failures"])
    if table["zeros"]:
        console.say(f"      {table['zeros']} operands of a sign were exactly 0, which is +1 on both sides")


def show_failures(console: Console, failures: Sequence[Mapping[str, Any]]) -> None:
    """Where a teacher-forced comparison found differences."""
    for f in failures:
        console.bad(
            f"{f['kind']} {f['op']} ({f['module'] or 'top level'}): {f['wrong']} of {f['of']} differ on image {f['image']}; "
            f"at row {f['row']}, channel {f['channel']}: {f['ours']:.9g}, source {f['source']:.9g}"
        )


def show_checked(console: Console, checked: CheckedModels) -> None:
    """The teacher-forced comparison of named models."""
    tables = {name: table.as_dict() for name, table in checked.tables.items()}
    rows = [(name, *_forced_cells(table["total"]), "yes" if table["ok"] else "NO") for name, table in tables.items()]
    console.table(["model", *_FORCED, "equal"], rows, align="nrrrrrrrn")
    for name, table in tables.items():
        if not table["ok"]:
            console.say(name, style="bold")
            show_failures(console, table["failures"])
    text = "every integer of every op is the one that PyTorch has, ties apart; real numbers agree to 1e-5"
    console.good(text) if checked.ok else console.bad("some results are not those of PyTorch")
