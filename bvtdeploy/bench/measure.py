"""Timing an artifact against peers in this process, in turn.

In every round each peer is visited beside us: ours, then the peer; in every second round the peer first. A visit is one inference
that is not timed (it brings the weights back into the caches) and then as many as take 20 ms, of which the mean counts. So whatever
else the machine does meets both sides, and a round gives one ratio.
"""

from __future__ import annotations

import gc
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bvtdeploy.bench.peers import ENGINES, F32, SAME_NETWORK, Infer, Peer, Say, Source, Unavailable, find_peers, version
from bvtdeploy.bench.shape import KNOWN, NoPlainViTError, Shape, shape_of
from bvtdeploy.bench.stats import Ratio, ratio
from bvtdeploy.device.local import LocalDevice
from bvtdeploy.errors import UserError
from bvtdeploy.profile import stats
from bvtdeploy.profile.environment import read_environment
from bvtdeploy.profile.stability import doubts

VISIT_MS = 20.0
ROUND_SECONDS, LEAST_ROUNDS, MOST_ROUNDS = 4.0, 10, 100  # of one peer with one number of threads
CHECKED = 4  # images on which the same network's outputs are compared
SAME = 0.5  # least cosine of the logits of two executions of one network, whose signs flip; of different networks it is about 0
CPU_TIME = "CPU time is the process's: with more than one thread it counts waiting, so it is not given there"


@dataclass(frozen=True)
class Check:
    """How the outputs of the same network on a peer agree with ours, over a few random images.

    Attributes:
        images, same_class: how many, and on how many the largest logit is the same class's.
        max_error: the largest difference of a logit.
        largest: the largest magnitude of our logits.
        cosine: the least of an image.
    """

    images: int
    same_class: int
    max_error: float
    largest: float
    cosine: float

    def as_dict(self) -> dict[str, float]:
        """The check as JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Duel:
    """Us and one peer, with one number of threads. Times in milliseconds, one a round.

    Attributes:
        inner: inferences of a visit: ours, the peer's.
        wall, cpu: the peer's time over ours; CPU time only with one thread.
    """

    threads: int
    inner: tuple[int, int]
    ours_wall: tuple[float, ...]
    peer_wall: tuple[float, ...]
    ours_cpu: tuple[float, ...]
    peer_cpu: tuple[float, ...]
    wall: Ratio
    cpu: Ratio | None

    def as_dict(self) -> dict[str, Any]:
        """The times as JSON."""
        sides = {}
        for side, wall, cpu in (("ours", self.ours_wall, self.ours_cpu), ("peer", self.peer_wall, self.peer_cpu)):
            sides[side] = {
                "inferences_of_a_visit": self.inner[side == "peer"],
                "wall_ms": stats.summarise(wall).as_dict(),
                "cpu_ms": stats.summarise(cpu).as_dict() if self.threads == 1 else None,
                "wall_samples_ms": list(wall),
                "cpu_samples_ms": list(cpu) if self.threads == 1 else None,
            }
        return {
            "threads": self.threads,
            "rounds": len(self.ours_wall),
            **sides,
            "ratio": {"wall": self.wall.as_dict(), "cpu": self.cpu.as_dict() if self.cpu else None},
        }


@dataclass(frozen=True)
class Row:
    """One peer and its times."""

    peer: Peer
    version: str
    model_bytes: int
    check: Check | None
    duels: tuple[Duel, ...]

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON."""
        return {
            "engine": self.peer.engine.name,
            "title": self.peer.title,
            "version": self.version,
            "precision": self.peer.precision,
            "network": self.peer.network,
            "same_network": self.peer.network == SAME_NETWORK,
            "model_bytes": self.model_bytes,
            "check": self.check.as_dict() if self.check else None,
            "timings": [duel.as_dict() for duel in self.duels],
        }


@dataclass(frozen=True)
class Measured:
    """What timing against peers found."""

    isa: str
    artifact_bytes: int
    macs_binary: int
    macs_float: int
    shape: Shape | None
    no_shape: str
    rows: tuple[Row, ...]
    unavailable: tuple[Unavailable, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    versions: dict[str, str]
    unstable_because: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def stable(self) -> bool:
        """Whether nothing speaks against the times."""
        return not self.unstable_because

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "isa": self.isa,
            "artifact_bytes": self.artifact_bytes,
            "macs": {"binary": self.macs_binary, "float": self.macs_float},
            "shape": self.shape.as_dict() if self.shape else None,
            "no_shape": self.no_shape or None,
            "peers": [row.as_dict() for row in self.rows],
            "unavailable": [row.as_dict() for row in self.unavailable],
            "environment": {"before": self.before, "after": self.after, "versions": self.versions},
            "stable": self.stable,
            "unstable_because": list(self.unstable_because),
            "cpu_time": CPU_TIME,
        }


def measure(
    path: Path,
    *,
    against: Sequence[str],
    model: Path | None,
    threads: Sequence[int],
    rounds: int | None,
    like: str | None,
    trust_pickle: bool,
    model_output: str | int | None,
    progress: Say | None,
) -> Measured:
    """Time an artifact against peers; the arguments are those of `bvtdeploy.api.bench`."""
    from bvtdeploy.artifact.reader import read
    from bvtdeploy.host import Session
    from bvtdeploy.verifier.images import load_images

    say = progress or (lambda _: None)
    artifact = read(path)
    before = read_environment(LocalDevice())  # what the conversions cost the machine is not part of it
    channels, height, width = (int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width"))
    inputs = load_images(artifact, None, CHECKED, None).inputs
    warnings: list[str] = []
    shape, no_shape = None, ""
    try:
        shape = KNOWN[like] if like else shape_of(artifact)
    except NoPlainViTError as error:
        no_shape = str(error)
    source = None
    if model is not None:
        chosen = artifact.meta.get("source.output") if model_output is None else model_output
        source = Source(model, (1, channels, height, width), trust_pickle, chosen if isinstance(chosen, (str, int)) else None)
        if not _compiled_from(model, artifact.meta.get("source.sha256")):
            warnings.append("the artifact was compiled from another file than this model")
    peers, unavailable = find_peers(against, source, shape, no_shape, say)
    session = Session(path)
    checks = {}
    for peer in peers:
        if peer.network == SAME_NETWORK:
            say(f"comparing the outputs with {peer.engine.title}")
            checks[peer] = _check(session, peer, inputs, model)
    found: dict[Peer, list[Duel]] = {peer: [] for peer in peers}
    for count in threads:
        ours = Session(path, threads=count)
        for peer in peers:
            say(f"timing against {peer.title} ({peer.network}), {count} thread{'s' if count > 1 else ''}")
            found[peer].append(_duel(ours, peer, inputs, shape, count, rounds))
        del ours
    after = read_environment(LocalDevice())
    rows = tuple(Row(peer, version(peer.engine), peer.model.stat().st_size, checks.get(peer), tuple(found[peer])) for peer in peers)
    return Measured(
        isa=session.isa,
        artifact_bytes=path.stat().st_size,
        macs_binary=session.macs_binary,
        macs_float=session.macs_float,
        shape=shape,
        no_shape=no_shape,
        rows=rows,
        unavailable=tuple(unavailable),
        before=before,
        after=after,
        versions=_versions(against),
        unstable_because=tuple(_doubts(rows, before, after)),
        warnings=tuple(warnings),
    )


def _compiled_from(model: Path, digest: Any) -> bool:
    from bvtdeploy.build.files import sha256

    # An ONNX file's digest may cover weights beside it: only where it is one file can it be compared here.
    return model.suffix == ".onnx" or sha256(model) == digest


def _versions(against: Sequence[str]) -> dict[str, str]:
    packages = {package for name in against for package in ENGINES[name].packages}
    found = {"python": platform.python_version()}
    for name in ["numpy", "torch", *sorted(packages)]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _check(session: Any, peer: Peer, inputs: F32, model: Path | None) -> Check:
    """Compares the logits. Raises UserError where these are two different functions."""
    ours = np.stack([session.run(x).reshape(-1) for x in inputs]).astype(np.float64)
    theirs = np.stack([np.asarray(peer.engine.open(peer.model, x[None], 1, peer.output)()).reshape(-1) for x in inputs])
    where = str(model or peer.model)
    fix = "give the model that the artifact was compiled from"
    if ours.shape != theirs.shape:
        why = f"{ours.shape[1]} outputs in the artifact, {theirs.shape[1]} on {peer.engine.title}"
        raise UserError("the artifact and the model are different networks", where=where, why=why, fix=fix)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(1) / np.maximum(lengths, 1e-30)).min())
    if not cosine >= SAME:  # also where it is no number
        why = f"the logits of a random image have a cosine of {cosine:.3f} (signs that flip leave it above {SAME:g})"
        raise UserError("the artifact and the model compute different functions", where=where, why=why, fix=fix)
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())
    return Check(len(ours), same, float(np.abs(ours - theirs).max()), float(np.abs(ours).max()), cosine)


def _duel(session: Any, peer: Peer, inputs: F32, shape: Shape | None, threads: int, rounds: int | None) -> Duel:
    x = inputs[0]
    theirs_x = x[None]
    if shape is not None and peer.network != SAME_NETWORK:  # with --like, its image may have another size
        size = (1, shape.channels, shape.height, shape.width)
        theirs_x = np.random.Generator(np.random.PCG64(0)).standard_normal(size, np.float32)

    def ours() -> Any:
        return session.run(x)

    theirs = peer.engine.open(peer.model, theirs_x, threads, peer.output)
    inner = (_inner(ours), _inner(theirs))
    collecting = gc.isenabled()
    gc.disable()
    try:
        started = time.perf_counter()
        samples: list[tuple[tuple[float, float], tuple[float, float]]] = []
        while len(samples) < (rounds or MOST_ROUNDS):
            if rounds is None and len(samples) >= LEAST_ROUNDS and time.perf_counter() - started > ROUND_SECONDS:
                break
            samples.append(visit_both(ours, theirs, inner, peer_first=len(samples) % 2 == 1))
    finally:
        if collecting:
            gc.enable()
    ours_wall, ours_cpu, peer_wall, peer_cpu = zip(*((*a, *b) for a, b in samples), strict=True)
    cpu = ratio(ours_cpu, peer_cpu) if threads == 1 else None
    return Duel(threads, inner, ours_wall, peer_wall, ours_cpu, peer_cpu, ratio(ours_wall, peer_wall), cpu)


def _inner(infer: Infer) -> int:
    """How many inferences take a visit's time."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        infer()
        times.append(1000 * (time.perf_counter() - started))
    return max(1, math.ceil(VISIT_MS / max(min(times), 1e-4)))


def visit_both(
    ours: Infer, theirs: Infer, inner: tuple[int, int], *, peer_first: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """One round: wall and CPU milliseconds of one inference of ours, and of theirs."""
    if peer_first:
        b = _visit(theirs, inner[1])
        return _visit(ours, inner[0]), b
    return _visit(ours, inner[0]), _visit(theirs, inner[1])


def _visit(infer: Infer, count: int) -> tuple[float, float]:
    infer()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    for _ in range(count):
        infer()
    wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
    return wall / 1e6 / count, max(cpu, 1) / 1e6 / count


def _doubts(rows: Sequence[Row], before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What speaks against the times."""
    found = doubts(before, after)
    for row in rows:
        for duel in row.duels:
            who = f"{row.peer.title} ({row.peer.network}), {duel.threads} thread{'s' if duel.threads > 1 else ''}"
            if not duel.wall.settled:
                found.append(f"{who}: the rounds disagree, half of their wall ratios span {duel.wall.q1:.2f} to {duel.wall.q3:.2f}")
    return found
