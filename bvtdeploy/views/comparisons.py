"""How `compare` looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bvtdeploy.console import Console

if TYPE_CHECKING:
    from bvtdeploy.profile.compare import Comparison, OpDelta, Total

_WORDS = {"faster": "faster", "slower": "slower", "same": "no difference", "cannot tell": "cannot tell"}


def show_comparison(console: Console, pair: Comparison, *, ops: int | None = None) -> None:
    """The totals, what speaks against comparing, and the ops by difference. `ops`: rows of the per-op table, None for all."""
    told = [f"{side['artifact']} on {side['device']}" for side in (pair.before, pair.after)]
    console.say(f"before: {told[0]}", style="bold")
    console.say(f"after:  {told[1]}", style="bold")
    for reason in pair.because:
        console.bad(f"cannot compare: {reason}")
    for note in pair.notes:
        console.note(note)
    rows = [
        (t.threads, f"{t.before_ms:.3f}", f"{t.after_ms:.3f}", _change(t), _interval(t), _WORDS[t.verdict]) for t in pair.totals
    ]
    console.table(["threads", "before ms", "after ms", "change", "95 % interval", ""], rows, align="rrrrrn")
    if not pair.ops:
        return
    threads = f"{pair.threads} thread{'s' if pair.threads > 1 else ''}"
    console.heading(f"ops by difference, busy time of one inference with {threads}")
    shown = pair.ops if ops is None else pair.ops[:ops]
    console.table(
        ["source module", "op", "kind", "before ms", "after ms", "difference", "change", "99 % interval", ""],
        [
            (o.module, o.name, o.kind, *_times(o), _change(o), _interval(o), _WORDS[o.verdict])
            for o in shown
        ],
        align="lnnrrrrrn",
        optional=("kind", "99 % interval"),
    )  # fmt: skip
    if len(shown) < len(pair.ops):
        console.say(f"and {len(pair.ops) - len(shown)} more ops with smaller differences (--ops 0 shows all)", style="dim")
    for which, names in (("first", pair.only_before), ("second", pair.only_after)):
        if names:
            console.note(f"{len(names)} ops are in the {which} only: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")


def _times(op: OpDelta) -> tuple[str, str, str]:
    return f"{op.before_ms:.4f}", f"{op.after_ms:.4f}", f"{op.delta_ms:+.4f}"


def _change(row: Total | OpDelta) -> str:
    return "from 0" if row.ratio is None else f"{100 * (row.ratio - 1):+.1f} %"


def _interval(row: Total | OpDelta) -> str:
    if row.low is None or row.high is None:
        return "too few runs"
    return f"{100 * (row.low - 1):+.1f} to {100 * (row.high - 1):+.1f} %"
