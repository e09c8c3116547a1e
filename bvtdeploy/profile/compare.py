"""Two profiles of a model: what got faster or slower, and where one cannot tell.

A ratio is the time after over the time before: below 1, it got faster. Its interval is a bootstrap over parts of the runs that
follow each other (up to 20 of them), because neighbouring runs are alike: of the median of all runs (95 %), and of each op's mean
time (99 %, as there are many ops). It says how the times spread within the two profiles. Two runs of one program differ a little
more than that, so a difference counts only where the whole interval is beyond 2 %; it is none ("same") where the whole interval
is within.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bvtdeploy.errors import UserError
from bvtdeploy.profile.result import load_profiles
from bvtdeploy.schemas import schema

RESAMPLES, PARTS = 2000, 20
TOTAL_CONFIDENCE, OP_CONFIDENCE = 0.95, 0.99
SMALLEST = 0.02  # a difference below this is none
LEAST_PARTS = 5

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Ratio:
    """The time after over the time before.

    `ratio` is None where there was no time before; `low` and `high` are None where there are too few runs for an interval.
    """

    ratio: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """ "faster", "slower", "same" or "cannot tell"."""
        if self.low is None or self.high is None:
            return "cannot tell"
        if self.high < 1 - SMALLEST:
            return "faster"
        if self.low > 1 + SMALLEST:
            return "slower"
        return "same" if self.low > 1 - SMALLEST and self.high < 1 + SMALLEST else "cannot tell"


@dataclass(frozen=True)
class Total:
    """Times of a whole inference with one number of threads."""

    threads: int
    before_ms: float
    after_ms: float
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class OpDelta:
    """An op that both profiles have, by name; times of one inference, summed over threads."""

    name: str
    kind: str
    module: str
    before_ms: float
    after_ms: float
    delta_ms: float
    ratio: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Two profiles beside each other.

    Attributes:
        before, after: what they are of: artifact, device, board, isa, emulated, stable.
        because: why the times cannot be compared; empty where they can. Verdicts are "cannot tell" then.
        notes: what differs besides, so that a difference need not be the program's.
        totals: by number of threads, those that both have.
        threads: of the ops' times.
        ops: in the order of the largest difference.
        only_before, only_after: ops that the other lacks.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    because: tuple[str, ...]
    notes: tuple[str, ...]
    totals: tuple[Total, ...]
    threads: int
    ops: tuple[OpDelta, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    @property
    def comparable(self) -> bool:
        """Whether a difference of the times would mean something."""
        return not self.because

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON."""
        return {
            "before": self.before,
            "after": self.after,
            "comparable": self.comparable,
            "because": list(self.because),
            "notes": list(self.notes),
            "totals": [asdict(total) for total in self.totals],
            "threads": self.threads,
            "ops": [asdict(op) for op in self.ops],
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
        }


@dataclass(frozen=True)
class Comparisons:
    """One comparison of each pair of profiles; `warnings` name the devices that only one side has."""

    pairs: tuple[Comparison, ...]
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The comparisons as JSON."""
        return {"comparisons": [pair.as_dict() for pair in self.pairs]}


def read_profiles(path: Path) -> list[Record]:
    """The profiles in a file that `bvtdeploy profile --output` or `--json` wrote. Raises UserError where it is none."""
    import jsonschema  # slow to load, and needed here only

    try:
        payload = json.loads(path.read_bytes(), parse_constant=_number, parse_float=_number, parse_int=_whole)
    except OSError as error:
        raise UserError("the profile cannot be read", where=str(path), why=error.strerror or str(error), fix=_FIX) from error
    except (ValueError, RecursionError) as error:
        raise UserError("this is no profile", where=str(path), why=f"not JSON that can be read: {error}", fix=_FIX) from error
    try:
        jsonschema.validate(payload, schema("profile"))
    except jsonschema.ValidationError as error:
        at = "/".join(map(str, error.absolute_path))
        raise UserError(
            "this is no profile", where=str(path), why=f"{at or 'the file'}: {error.message[:200]}", fix=_FIX
        ) from error
    found = load_profiles(payload)
    if not found:
        raise UserError("no device gave a profile in this file", where=str(path), fix=_FIX)
    for profile in found:
        for timing in profile["scaling"]:
            rows = (timing["ops_ms"], *timing["op_blocks_ms"])
            if any(len(row) != len(profile["ops"]) for row in rows):
                why = f"with {timing['threads']} threads it does not have a time for each of the {len(profile['ops'])} ops"
                raise UserError("this is no profile", where=str(path), why=why, fix=_FIX)
    return found


def _number(told: str) -> float:
    """A number that one can calculate with: no profile holds others, and one of them would spoil every sum."""
    value = float(told)
    if not (value == 0 or 1e-30 < abs(value) < 1e30):
        raise ValueError(f"{told[:40]} is no number of a profile")
    return value


def _whole(told: str) -> int:
    if len(told) > 20:
        raise ValueError(f"{told[:40]} is no number of a profile")
    return int(told)


_FIX = "`bvtdeploy profile MODEL --output profile.json` writes one"


def pair_up(before: Sequence[Record], after: Sequence[Record], where: str = "") -> list[tuple[Record, Record]]:
    """Which profile to compare with which: the only ones, or those of the same device."""
    if len(before) == 1 and len(after) == 1:
        return [(before[0], after[0])]
    names = {p["device"]: p for p in after}
    pairs = [(p, names[p["device"]]) for p in before if p["device"] in names]
    if not pairs:
        told = " and ".join(", ".join(str(p["device"]) for p in side) for side in (before, after))
        raise UserError("the two files have no device in common", where=where, why=told, fix="give files of one profile each")
    return pairs


def left_out(before: Sequence[Record], after: Sequence[Record]) -> tuple[str, ...]:
    """What `pair_up` leaves out, in words."""
    if len(before) == 1 and len(after) == 1:
        return ()
    names = [[str(p["device"]) for p in side] for side in (before, after)]
    alone = [("first", [n for n in names[0] if n not in names[1]]), ("second", [n for n in names[1] if n not in names[0]])]
    return tuple(f"only the {which} file has {', '.join(found)}: not compared" for which, found in alone if found)


def compare(before: Record, after: Record) -> Comparison:
    """Compare two profiles, given as JSON."""
    because, notes = _doubts(before, after)
    a = {t["threads"]: t for t in before["scaling"]}
    b = {t["threads"]: t for t in after["scaling"]}
    both = [n for n in a if n in b]
    if not both:
        because.append("they have no number of threads in common")
    tell = not because
    totals = []
    for n in both:
        r = ratio_of_medians(a[n]["samples_ms"], b[n]["samples_ms"])
        ms = (a[n]["warm_ms"]["p50"], b[n]["warm_ms"]["p50"])
        totals.append(Total(n, *ms, r.ratio, r.low, r.high, r.verdict if tell else "cannot tell"))
    ops: list[OpDelta] = []
    names_a, names_b = ([op["name"] for op in p["ops"]] for p in (before, after))
    if both:
        ops = _ops(before, after, a[both[0]], b[both[0]], tell)
    return Comparison(
        before=_about(before),
        after=_about(after),
        because=tuple(because),
        notes=tuple(notes),
        totals=tuple(totals),
        threads=both[0] if both else 0,
        ops=tuple(ops),
        only_before=tuple(n for n in names_a if n not in set(names_b)),
        only_after=tuple(n for n in names_b if n not in set(names_a)),
    )


def _about(profile: Record) -> dict[str, Any]:
    about = {key: profile[key] for key in ("artifact", "device", "board", "isa", "emulated", "stable")}
    return {**about, "model": profile["environment"]["before"]["model"] or profile["environment"]["before"]["cpu"]}


def _doubts(before: Record, after: Record) -> tuple[list[str], list[str]]:
    because, notes = [], []
    for name, profile in (("first", before), ("second", after)):
        if profile["emulated"]:
            because.append(f"the {name} is emulated: its times say nothing about a board")
        elif not profile["stable"]:
            first, *more = profile["unstable_because"] or ("it says no reason",)
            because.append(f"the {name} is unstable: {first}" + (f" (and {len(more)} more reasons)" if more else ""))
    if [op["name"] for op in before["ops"]] != [op["name"] for op in after["ops"]]:
        notes.append("the models differ: only ops that both have are compared")
    elif before["model_sha256"] != after["model_sha256"]:
        notes.append("the artifacts differ, though their ops have the same names")
    for key, what in (("device", "devices"), ("board", "boards' runtimes"), ("isa", "kernels")):
        if before[key] != after[key]:
            notes.append(f"the {what} differ: {before[key]} and {after[key]}")
    machines = [_about(profile)["model"] for profile in (before, after)]
    if machines[0] != machines[1]:
        notes.append(f"the machines differ: {machines[0]} and {machines[1]}")
    for key, what in (("governor", "governors"), ("max_khz", "highest clocks (kHz)"), ("power_mode", "power modes")):
        x, y = (profile["environment"]["before"].get(key) for profile in (before, after))
        if x is not None and y is not None and x != y:
            notes.append(f"the {what} differ: {_list(x)} and {_list(y)}")
    compilers = [profile["toolchain"].get("version", "") for profile in (before, after)]
    if compilers[0] != compilers[1]:
        notes.append(f"the compilers differ: {compilers[0]} and {compilers[1]}")
    return because, notes


def _list(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _ops(before: Record, after: Record, a: Record, b: Record, tell: bool) -> list[OpDelta]:
    at = {op["name"]: i for i, op in enumerate(after["ops"])}
    deltas = []
    for i, op in enumerate(before["ops"]):
        j = at.get(op["name"])
        if j is None:
            continue
        x, y = a["ops_ms"][i], b["ops_ms"][j]
        r = ratio_of_means([block[i] for block in a["op_blocks_ms"]], [block[j] for block in b["op_blocks_ms"]], x, y)
        verdict = r.verdict if tell else "cannot tell"
        deltas.append(OpDelta(op["name"], op["kind"], op["module"], x, y, y - x, r.ratio, r.low, r.high, verdict))
    return sorted(deltas, key=lambda d: -abs(d.delta_ms))


# ---- Bootstrap ------------------------------------------------------------------------------------------------------------------


def ratio_of_medians(before: Sequence[float], after: Sequence[float]) -> Ratio:
    """Of two rows of times, each in the order in which they were taken."""
    x, y = (float(np.median(row)) for row in (before, after))
    if x <= 0:
        return Ratio(1.0 if y <= 0 else None, None, None)
    a, b = (_medians(np.asarray(row, float), seed) for seed, row in enumerate((before, after)))
    if a is None or b is None or a.min() <= 0:
        return Ratio(y / x, None, None)
    return Ratio(y / x, *_interval(b / a, TOTAL_CONFIDENCE))


def ratio_of_means(before: Sequence[float], after: Sequence[float], x: float, y: float) -> Ratio:
    """Of the means of parts of two rows of times; x and y are the times of all of each."""
    if x <= 0:
        return Ratio(1.0 if y <= 0 else None, None, None)
    if min(len(before), len(after)) < LEAST_PARTS:
        return Ratio(y / x, None, None)
    a, b = (_draw(np.asarray(row, float), seed).mean(axis=1) for seed, row in enumerate((before, after)))
    usable = a > 0
    if not usable.any():
        return Ratio(y / x, None, None)
    return Ratio(y / x, *_interval(b[usable] / a[usable], OP_CONFIDENCE))


def _medians(times: np.ndarray[Any, np.dtype[np.float64]], seed: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Medians of resampled parts; None where there are too few times."""
    length = max(1, len(times) // PARTS)
    parts = len(times) // length
    if parts < LEAST_PARTS:
        return None
    blocks = times[: parts * length].reshape(parts, length)
    medians: np.ndarray[Any, np.dtype[np.float64]] = np.median(_draw(blocks, seed).reshape(RESAMPLES, -1), axis=1)
    return medians


def _draw(parts: np.ndarray[Any, np.dtype[np.float64]], seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Parts with replacement, as many as there are, RESAMPLES times; the same in every run."""
    return parts[np.random.Generator(np.random.PCG64(seed)).integers(0, len(parts), (RESAMPLES, len(parts)))]


def _interval(ratios: np.ndarray[Any, np.dtype[np.float64]], confidence: float) -> tuple[float, float]:
    tail = 50 * (1 - confidence)
    low, high = (float(q) for q in np.percentile(ratios, [tail, 100 - tail]))
    return low, high
