"""How `profile` looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bvtdeploy.console import Console, amount, percent, size

if TYPE_CHECKING:
    from bvtdeploy.profile import Profile


def show_profile(console: Console, profile: Profile, *, ops: int | None = None) -> None:
    """Times, where they go, and what speaks against them. `ops`: rows of the per-op table, None for all."""
    label = "emulated: no device time" if profile.emulated else "native"
    console.say(f"{profile.artifact} on {profile.device} ({label}), {profile.timings[0].isa} kernels", style="bold")
    rows = []
    for t in profile.timings:
        w = t.warm_ms
        runs = len(t.samples_ms)
        p90, p99 = (f"{ms:.3f}" if runs >= least else "-" for ms, least in ((w.p90, 10), (w.p99, 100)))  # of fewer they say nothing
        rows.append((t.threads, runs, *(f"{ms:.3f}" for ms in (t.first_ms, w.min, w.p50)), p90, p99, f"{w.max:.3f}"))
    console.table(["threads", "runs", "first ms", "min", "p50", "p90", "p99", "max"], rows, align="rrrrrrrr")
    count = profile.timings[0].threads
    console.heading(
        f"where the time goes with {count} threads: busy time of all {count} threads together, for one inference"
        if count > 1
        else "where the time goes with 1 thread, for one inference"
    )
    _show_kinds(console, profile)
    _show_ops(console, profile, ops)
    _show_golden(console, profile)
    for reason in profile.unstable_because:
        console.note(reason)


def _show_kinds(console: Console, profile: Profile) -> None:
    kinds: dict[str, tuple[int, float, int]] = {}
    for op in profile.ops:
        count, ms, macs = kinds.get(op.kind, (0, 0.0, 0))
        kinds[op.kind] = (count + 1, ms + op.ms, macs + op.macs["binary"] + op.macs["float"])
    total = sum(op.ms for op in profile.ops) or 1.0
    by_time = sorted(kinds.items(), key=lambda item: -item[1][1])
    rows = [(kind, n, f"{ms:.4f}", percent(ms / total), amount(macs), _rate(macs, ms)) for kind, (n, ms, macs) in by_time]
    console.table(["kind", "ops", "busy ms", "share", "MACs", "MAC/s"], rows, align="nrrrrr")


def _show_ops(console: Console, profile: Profile, count: int | None) -> None:
    ranked = sorted(profile.ops, key=lambda op: -op.ms)
    shown = ranked if count is None else ranked[:count]
    rows, above = [], 0.0
    for op in shown:
        above += op.share
        macs = op.macs["binary"] + op.macs["float"]
        times = (f"{op.ms:.4f}", percent(op.share), percent(above))
        rows.append((op.module, op.name, op.kind, *times, amount(macs), _rate(macs, op.ms), size(op.bytes)))
    console.table(
        ["source module", "op", "kind", "busy ms", "share", "sum", "MACs", "MAC/s", "constants"],
        rows,
        align="lnnrrrrrr",
        optional=("MACs", "constants"),
    )
    if len(shown) < len(ranked):
        rest = percent(sum(op.share for op in ranked[len(shown) :]))
        console.say(
            f"and {len(ranked) - len(shown)} more ops, {rest} of the time (bvtdeploy profile --ops 0 shows all)", style="dim"
        )


def _show_golden(console: Console, profile: Profile) -> None:
    checked = sum(t.golden_checked for t in profile.timings)
    equal = sum(t.golden_equal for t in profile.timings)
    if checked:
        (console.good if checked == equal else console.bad)(
            f"{equal} of {checked} golden outputs have equal bits on {profile.device}"
        )


def _rate(macs: int, ms: float) -> str:
    return amount(1000 * macs / ms) if ms and macs else ""
