"""What speaks against a profile's times: reasons that make it unstable, and notes.

A profile is *unstable*, and the command exits with 1 unless that is allowed, where something is known to have moved its times:

- throttled: a Raspberry Pi's flags of now (before, between or after the runs), new flags of "since the start", a Jetson's
  over-current counters that rose, or a cooling device that takes clock from the CPU (a fan is none);
- loaded: the runtime's threads were ready to run and had to wait for a core for more than 3 % of the time, which the kernel counts;
- drifting: the median of the last third of the runs is more than 5 % off that of the first third, or the 90th percentile is more
  than 15 % above the median. Where the clock of a used core moved by more than 5 % meanwhile, that is named as the cause.

Everything else is a *note*: it says what the numbers are of, but nothing was seen to move them. So are a governor other than
`performance`, a load average (which also counts what ended a minute ago), a rise of temperature, flags from before the runs, cores
that are offline, more threads than cores, a warm-up that did not settle, and anything about fewer than 20 runs, which are too few
to judge drift and spread by. Times of an emulated machine never count; they are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bvtdeploy.profile import parsers, stats
from bvtdeploy.profile.environment import slows_the_cpu

WAITED, MOVED = 0.03, 0.05
WARMED_C = 10
BUSY = 0.5  # of the cores, as a load average
FEW_RUNS = 20


@dataclass
class Verdict:
    """What was found, in sentences."""

    unstable: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def judge_environment(before: Mapping[str, Any], after: Mapping[str, Any], during: Sequence[Mapping[str, Any]] = ()) -> Verdict:
    """Judge two environment records and the looks between them (`environment.between`)."""
    found = Verdict()
    _throttling(found, before, after, during)
    governors = sorted({g for g in before["governor"] or [] if g != "performance"})
    if governors:
        found.notes.append(f"the governor is {', '.join(governors)}, not performance: the clock changes with the load")
    for policy in before["policies"] or ():
        limit, most = policy["max_khz"], policy["hardware_max_khz"]
        if limit and most and limit < 0.99 * most:
            found.notes.append(f"the clock of {policy['name']} is limited to {limit // 1000} of {most // 1000} MHz")
    cores, load = before["cores"], before["load"]
    if cores and load is not None and load > BUSY * cores:
        found.notes.append(f"the machine was busy before the runs: load {load:.1f} on {cores} cores")
    listed = before["cores_listed"]
    if cores and listed and cores < listed:
        found.notes.append(f"programs may use {cores} of the {listed} cores that the system lists")
    offline = before["cores_offline"]
    if offline:
        found.notes.append(f"cores that are offline: {', '.join(map(str, offline))}")
    heat = [
        x for x in (after["temperature_c"], *(max(d["temperatures_c"].values(), default=None) for d in during)) if x is not None
    ]
    if before["temperature_c"] is not None and heat and max(heat) - before["temperature_c"] > WARMED_C:
        found.notes.append(f"it warmed up by {max(heat) - before['temperature_c']:.0f} degrees during the runs")
    available, total = after["memory_available_kib"], after["memory_total_kib"]
    if available is not None and total and available < 0.05 * total:
        found.notes.append(f"memory is short: {available // 1024} of {total // 1024} MiB are available")
    return found


def _throttling(found: Verdict, before: Mapping[str, Any], after: Mapping[str, Any], during: Sequence[Mapping[str, Any]]) -> None:
    now = [name for record in (before, after) if record["throttle"] for name in record["throttle"]["now"]]
    now += [name for look in during if look["throttled"] is not None for name in parsers.throttle_names(look["throttled"] & 0xF)]
    if now:
        found.unstable.append("the board reports: " + ", ".join(dict.fromkeys(now)))
    if before["throttle"] and after["throttle"]:
        old = before["throttle"]["since_start"]
        fresh = [name for name in after["throttle"]["since_start"] if name not in old and name not in now]
        if fresh:
            found.unstable.append("during the runs the board had: " + ", ".join(fresh))
        if old:
            found.notes.append("before the runs, since it was started, the board had: " + ", ".join(old))
    rose = [name for name, n in (after["events"] or {}).items() if n > (before["events"] or {}).get(name, n)]
    if rose:
        found.unstable.append(
            f"over-current or under-voltage events during the runs: {', '.join(rose)} of the board's counters rose"
        )
    states: dict[str, int] = {}
    for cooling in [*(record["cooling"] or {} for record in (before, after)), *(look["cooling"] for look in during)]:
        for name, state in cooling.items():
            states[name] = max(state, states.get(name, 0))
    slowed = [name for name, state in states.items() if state > 0 and slows_the_cpu(name)]
    if slowed:
        found.unstable.append(f"the system slowed the CPU down to cool it: {', '.join(slowed)}")


def judge_times(
    samples_ms: Sequence[float],
    *,
    threads: int,
    cores: int,
    waited_ms: float | None,
    settled: bool | None,
    clocks_khz: Mapping[str, Sequence[int]],
) -> Verdict:
    """Judge the timed runs with one number of threads.

    Args:
        samples_ms: of all of them, in order.
        threads, cores: that computed, and that they were free to use (0: unknown).
        waited_ms: how long threads were ready and had no core, summed over them; None: the kernel does not say.
        settled: whether an automatic warm-up ended in time.
        clocks_khz: by policy, the clock at every look.
    """
    found = Verdict()
    crowded = 0 < cores < threads
    if crowded:
        found.notes.append(f"{threads} threads share {cores} core{'s' if cores > 1 else ''}: they wait for each other")
    if settled is False:
        found.notes.append("the times did not settle during the warm-up")
    moved = {name: (min(khz), max(khz)) for name, khz in clocks_khz.items() if khz and max(khz) > (1 + MOVED) * min(khz)}
    clock = "; ".join(f"the clock of {name} went from {a // 1000} to {b // 1000} MHz" for name, (a, b) in moved.items())
    if len(samples_ms) < FEW_RUNS:
        found.notes.append(f"only {len(samples_ms)} runs: too few to judge them")
    else:
        total = sum(samples_ms)
        if waited_ms is not None and not crowded and waited_ms > WAITED * total * threads:
            share = 100 * waited_ms / (total * threads)
            found.unstable.append(f"other programs had the cores: our threads waited for one {share:.0f} % of the time")
        unsteady = stats.doubts(samples_ms)
        (found.notes if crowded else found.unstable).extend(f"{text} ({clock})" if clock else text for text in unsteady)
        if clock and not unsteady:
            found.notes.append(clock)
    return found


def slowest_clocks(during: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]] | None) -> dict[str, float]:
    """By policy, the median clock between the runs as a part of the highest that the hardware has."""
    found = {}
    for policy in policies or ():
        khz = [look["khz"][policy["name"]] for look in during if policy["name"] in look["khz"]]
        if khz and policy["hardware_max_khz"]:
            found[policy["name"]] = median(khz) / policy["hardware_max_khz"]
    return found


def doubts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Everything in the environment that one should know of times taken between two records."""
    found = judge_environment(before, after)
    return found.unstable + found.notes
