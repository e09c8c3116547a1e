"""How `profile` looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bvtdeploy.console import Console, amount, percent, size

if TYPE_CHECKING:
    from bvtdeploy.profile import OpTime, Profile, Profiles, Timing


def show_profile(console: Console, profile: Profile, *, ops: int | None = None) -> None:
    """Times, where they go, and what speaks against them. `ops`: rows of the per-op table, None for all."""
    label = "emulated: no device time" if profile.emulated else "native" if profile.device == "local" else profile.board
    console.say(f"{profile.artifact} on {profile.device} ({label}), {profile.timings[0].isa} kernels", style="bold")
    console.facts(_machine(profile))
    rows = []
    for t in profile.timings:
        w = t.warm_ms
        runs = len(t.samples_ms)
        p90, p99 = (f"{ms:.3f}" if runs >= least else "-" for ms, least in ((w.p90, 10), (w.p99, 100)))  # of fewer they say nothing
        cores = _numbers(t.cores_seen)
        rows.append((t.threads, cores, runs, *(f"{ms:.3f}" for ms in (t.first_ms, w.min, w.p50)), p90, p99, f"{w.max:.3f}"))
    columns = ["threads", "cores", "runs", "first ms", "min", "p50", "p90", "p99", "max"]
    console.table(columns, rows, align="rnrrrrrrr", optional=("cores",))
    count = profile.timings[0].threads
    console.heading(
        f"where the time goes with {count} threads: busy time of all {count} threads together, for one inference"
        if count > 1
        else "where the time goes with 1 thread, for one inference"
    )
    _show_kinds(console, profile)
    _show_ops(console, profile, ops)
    _show_hardware(console, profile.timings[0])
    _show_golden(console, profile)
    for reason in profile.unstable_because:
        console.note(reason if profile.emulated else f"unstable: {reason}")
    for note in profile.notes:
        console.note(note)


def show_profiles(console: Console, result: Profiles) -> None:
    """Several devices beside each other, and those that failed."""
    if result.profiles:
        console.heading("all devices")
        rows = []
        for p in result.profiles:
            model = p.before["model"] or p.before["cpu"] or p.board
            for t in p.timings:
                what = "emulated" if p.emulated else "stable" if p.stable else "unstable"
                rows.append((p.device, model, t.threads, f"{t.warm_ms.p50:.3f}", f"{t.warm_ms.p90:.3f}", f"{t.first_ms:.3f}", what))
        console.table(["device", "machine", "threads", "p50 ms", "p90", "first", ""], rows, align="nlrrrrn", optional=("machine",))
    for failed in result.failed:
        console.bad(f"{failed.device}: {failed.error}")


def _machine(profile: Profile) -> list[tuple[str, Any]]:
    e = profile.before
    kinds = ", ".join(f"{len(k['cores'])} x {k['core']}" for k in e["core_kinds"] or () if k["core"])
    clocks = ", ".join(f"{khz / 1e6:.2f} GHz" for khz in dict.fromkeys(e["max_khz"] or ()))
    governors = ", ".join(dict.fromkeys(e["governor"] or ()))
    heat = [r["temperature_c"] for r in (e, profile.after) if r["temperature_c"] is not None]
    return [
        ("machine", e["model"]),
        ("system", ", ".join(str(x) for x in (e["os"], e["kernel"]) if x)),
        ("cores", kinds),
        ("clock", ", ".join(x for x in (f"to {clocks}" if clocks else "", governors) if x)),
        ("power mode", e["power_mode"]),
        ("temperature", " -> ".join(f"{c:.0f}" for c in heat) + " degrees" if heat else ""),
    ]


def _show_kinds(console: Console, profile: Profile) -> None:
    kinds: dict[str, tuple[int, float, int]] = {}
    for op in profile.ops:
        count, ms, macs = kinds.get(op.kind, (0, 0.0, 0))
        kinds[op.kind] = (count + 1, ms + op.ms, macs + _macs(op))
    total = sum(op.ms for op in profile.ops) or 1.0
    by_time = sorted(kinds.items(), key=lambda item: -item[1][1])
    rows = [(kind, n, f"{ms:.4f}", percent(ms / total), amount(macs), _rate(macs, ms)) for kind, (n, ms, macs) in by_time]
    console.table(["kind", "ops", "busy ms", "share", "MACs", "MAC/s"], rows, align="nrrrrr")


def _show_ops(console: Console, profile: Profile, count: int | None) -> None:
    ranked = sorted(profile.ops, key=lambda op: -op.ms)
    shown = ranked if count is None else ranked[:count]
    rows = []
    for op in shown:
        times = (f"{op.ms:.4f}", percent(op.share), percent(op.cumulative))
        moved = (size(op.read_bytes), size(op.written_bytes))
        rows.append((op.module, op.name, op.kind, *times, amount(_macs(op)), _rate(_macs(op), op.ms), *moved))
    console.table(
        ["source module", "op", "kind", "busy ms", "share", "sum", "MACs", "MAC/s", "reads", "writes"],
        rows,
        align="lnnrrrrrrr",
        optional=("MACs", "reads", "writes"),
    )
    if len(shown) < len(ranked):
        rest = percent(sum(op.share for op in ranked[len(shown) :]))
        console.say(
            f"and {len(ranked) - len(shown)} more ops, {rest} of the time (bvtdeploy profile --ops 0 shows all)", style="dim"
        )


def _show_hardware(console: Console, t: Timing) -> None:
    """What the ops' clock costs, what the CPU counted, and what an inference takes of the battery."""
    cost = "nothing to speak of" if t.overhead < 0.005 else percent(t.overhead)
    cost += " (as far as an unstable run can tell)" if t.unstable else ""
    console.say(f"timing the ops costs {cost}; the times above the table are without it", style="dim")
    runs = len(t.samples_ms)
    counted = {name: c.value / runs for name, c in t.counters.items() if c.value is not None}
    if counted:
        text = ", ".join(f"{amount(value)} {name.replace('_', ' ')}" for name, value in counted.items())
        cycles, instructions = counted.get("cycles"), counted.get("instructions")
        rate = f"; {instructions / cycles:.2f} instructions a cycle" if cycles and instructions else ""
        console.say(f"for one inference: {text}{rate}", style="dim")
    missing = {c.why: [n for n, other in t.counters.items() if other.why == c.why] for c in t.counters.values() if c.why}
    for why, names in missing.items():
        what = "hardware counters" if len(names) == len(t.counters) else ", ".join(names).replace("_", " ")
        console.say(f"no {what}: {why}", style="dim")
    if t.energy is not None:
        rails = t.energy["rails"]
        for name in [t.energy["total"]] if t.energy["total"] else list(rails):
            console.say(f"{name}: {rails[name]['mw'] / 1000:.2f} W, {rails[name]['mj']:.3g} mJ an inference", style="dim")


def _show_golden(console: Console, profile: Profile) -> None:
    checked = sum(t.golden_checked for t in profile.timings)
    equal = sum(t.golden_equal for t in profile.timings)
    if checked:
        (console.good if checked == equal else console.bad)(
            f"{equal} of {checked} golden outputs have equal bits on {profile.device}"
        )


def _macs(op: OpTime) -> int:
    return op.macs["binary"] + op.macs["float"]


def _rate(macs: int, ms: float) -> str:
    return amount(1000 * macs / ms) if ms and macs else ""


def _numbers(cores: tuple[int, ...]) -> str:
    """0, 1, 2, 5 as 0-2,5."""
    parts: list[list[int]] = []
    for core in cores:
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
