"""verify: does the artifact compute what the source model computes, and the same bits everywhere?

These are two questions. *Exact* is between executions of the artifact: the numpy interpreter, the runtime's portable and SIMD
kernels on one and several threads, and a device must give equal bits. Against the *source* there is no such thing: eager PyTorch is
not reproducible even against itself (one code that flips between fp32 and fp64 cascades), so there the answers are agreement of
classes, cosine and error of logits, codes that differ, and accuracy where labels are known. Op by op there is (`teacher_forced`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact.reader import Artifact, read, to_graph
from bvtdeploy.ir.graph import Op
from bvtdeploy.ir.interp import run as interpret
from bvtdeploy.lower.pack import logical_bytes
from bvtdeploy.verifier.forced import Source, site_of
from bvtdeploy.verifier.forced import teacher_force as force_all
from bvtdeploy.verifier.images import load_images
from bvtdeploy.verifier.source import TorchSide

if TYPE_CHECKING:
    from bvtdeploy.device import Device

F32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

INTERPRETED: Final = 64  # images that the numpy interpreter runs, and whose codes are compared: it is exact but slow
FORCED: Final = 4  # images of the teacher-forced comparison: it looks at every op
SIDE_IMAGES: Final = 8
THREADS: Final = (1, 2, 4)
MIN_AGREEMENT: Final = 0.99
OPTIONAL: Final = ("accuracy", "teacher_forced", "side")  # entries of a report that are there only where they apply


@dataclass
class VerifyReport:
    """What `verify` found; `as_dict` has the keys of `bvtdeploy verify --json`."""

    images: int
    pairs: dict[str, bool] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    top1_agreement: float = 1.0
    logit_cosine_min: float = 1.0
    logit_error_max: float = 0.0
    flips: list[dict[str, Any]] = field(default_factory=list)
    zeros_at_sign: int = 0
    signs_seen: int = 0
    residue_max: float = 0.0
    first_difference: dict[str, Any] | None = None
    accuracy: dict[str, float] | None = None
    teacher_forced: dict[str, Any] | None = None
    side: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """All executions of the artifact gave equal bits."""
        return all(self.pairs.values())

    @property
    def ok(self) -> bool:
        """The answer to `verify`: exact, agreeing with the source on at least 99 % of the images, and (where that was
        asked) without a wrong integer op by op."""
        forced = self.teacher_forced is None or bool(self.teacher_forced["ok"])
        return self.exact and self.top1_agreement >= MIN_AGREEMENT and forced

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        result = {k: v for k, v in vars(self).items() if k not in OPTIONAL or v is not None}
        return {"ok": self.ok, "exact": self.exact, "min_agreement": MIN_AGREEMENT, **result}


def same_bits(a: Array, b: Array) -> bool:
    """Equal bit patterns; NaNs of any payload are equal."""
    a, b = np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)
    return a.shape == b.shape and bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def _flips(report: VerifyReport, source: Source, x: F32, codes: dict[str, Array], totals: dict[str, list[int]]) -> None:
    """Counts the codes that differ from those that PyTorch has in float32, by the sign of the source that they come from."""
    known = source.run(x, policy=False)
    report.zeros_at_sign += known.zeros
    report.signs_seen += known.signs
    for name, ours in codes.items():
        theirs = known.arrays.get(name)
        if theirs is None or (site := site_of(name)) not in source.sites:
            continue
        told = ~np.isnan(theirs)
        total = totals.setdefault(site, [0, 0])
        total[0] += int((told & (ours != theirs)).sum())
        total[1] += int(told.sum())


def _side_loss(torch_side: TorchSide, flat: F32, reference: list[Array], coded: list[dict[str, Array]]) -> dict[str, Any]:
    """What was rounded on purpose changes this: the artifact's results and codes in the interpreter against those of the fp32
    compilation."""
    source = torch_side.known
    errors, agree, changed, total = [], 0, 0, 0
    for x, ours, second in zip(flat, reference, coded, strict=False):
        seen: list[dict[str, Array]] = []
        (exact,) = interpret(source.graph, {source.graph.inputs[0].name: x}, _codes_into(seen))
        errors.append(np.abs(ours.reshape(-1) - exact.reshape(-1)))
        agree += int(ours.argmax() == exact.argmax())
        for name, codes in seen[0].items():
            if name in second and second[name].shape == codes.shape:
                changed += int((second[name] != codes).sum())
                total += codes.size
    return {
        "kind": torch_side.side, "patch_embed": torch_side.patch_embed, "elementwise": torch_side.elementwise,
        "images": len(errors), "logit_error_max": float(np.max(errors)), "logit_error_mean": float(np.mean(errors)),
        "top1_agreement": agree / len(errors), "codes_changed": changed / max(total, 1),
    }  # fmt: skip


def _codes_into(seen: list[dict[str, Array]]) -> Callable[[Op, list[Array]], None]:
    """An observer that collects the codes of one run in a new entry of `seen`."""
    codes: dict[str, Array] = {}
    seen.append(codes)

    def observe(op: Op, results: list[Array]) -> None:
        codes.update((v.name, a) for v, a in zip(op.outputs, results, strict=True) if v.type.elem == "bits")

    return observe


def _first_difference(artifact: Artifact, x: F32, crcs: dict[str, list[int]], who: str) -> dict[str, Any] | None:
    """The first op whose output CRC differs from the interpreter's, with its place in the source."""
    import zlib

    found: list[dict[str, Any]] = []
    graph = to_graph(artifact)
    number = -1

    def observe(op: Op, results: list[Array]) -> None:
        nonlocal number
        number += 1
        if found:
            return
        for i, (value, array) in enumerate(zip(op.outputs, results, strict=True)):
            theirs = crcs.get(value.name)
            data = logical_bytes(_canonical_nan(array), value.type.packed, value.type.alphabet)
            if theirs is not None and zlib.crc32(data) not in theirs:
                found.append({"op": number, "kind": op.kind, "name": value.name, "output": i, "module": op.module, "against": who})
                return

    interpret(graph, {graph.inputs[0].name: x}, observe)
    return found[0] if found else None


def _canonical_nan(array: Array) -> Array:
    if array.dtype in (np.float32, np.float16) and np.isnan(array).any():
        array = array.copy()
        bits, quiet = (np.uint32, 0x7FC00000) if array.dtype == np.float32 else (np.uint16, 0x7E00)
        array.view(bits)[np.isnan(array)] = quiet
    return array


def verify_model(
    source: Any,
    artifact: Path,
    *,
    images: Path | None = None,
    random: int | None = None,
    device: Device | None = None,
    bisect: bool = False,
    limit: int | None = None,
    trust_pickle: bool = False,
    example_input: Any = None,
    model_output: str | int | None = None,
    teacher_forced: bool = False,
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Compares an artifact with its source model and with itself on every executor.

    Args:
        source: what `compile` took.
        artifact: the `.bvt` file.
        images: an `.npz`, a folder or an image; without it, `random` inputs (16).
        device: an opened device (device/), or None.
        bisect: where bits differ, name the first op.
        limit: at most so many images.
        trust_pickle: as for `compile`.
        example_input: of a live module; default: the artifact's input shape.
        teacher_forced: also compare every op alone with the source, on the source's operands (verifier/forced.py).
        model_output: as for `compile`; default: what the artifact was compiled with.

    Raises:
        UserError: an input cannot be read or used.
    """
    from bvtdeploy.host import Session

    say = progress or (lambda _: None)
    parsed = read(artifact)
    say("reading the source model")
    torch_side = TorchSide(source, parsed, trust_pickle, example_input, model_output)
    data = load_images(parsed, images, random, limit)
    n = len(data.inputs)
    report = VerifyReport(n, residue_max=torch_side.imported.residue_max, warnings=torch_side.warnings)
    flat = data.inputs.reshape(n, -1, data.inputs.shape[-1])

    say(f"running the source model on {n} images")
    theirs = torch_side.logits(data.inputs)

    say(f"running the interpreter on {min(n, INTERPRETED)} images")
    graph = to_graph(parsed)
    totals: dict[str, list[int]] = {}
    reference: list[Array] = []
    coded: list[dict[str, Array]] = []  # the codes of the first images
    for i, x in enumerate(flat[:INTERPRETED]):
        codes: list[dict[str, Array]] = []
        reference.append(interpret(graph, {graph.inputs[0].name: x}, _codes_into(codes))[0])
        _flips(report, torch_side.known, data.inputs[i], codes[0], totals)
        coded += codes if i < SIDE_IMAGES else []
    modules = torch_side.known.sites
    report.flips = [{"op": name, "module": modules[name], "rate": bad / max(size, 1)} for name, (bad, size) in totals.items()]
    if torch_side.rounded:
        say("comparing with the model in fp32")
        report.side = _side_loss(torch_side, flat, reference, coded)
    if teacher_forced:
        say(f"comparing every op with the source, on {min(n, FORCED)} images")
        if not torch_side.same_graph:
            why = torch_side.rounded or "other ops (another source or compiler)"
            report.warnings.append(f"the artifact has {why}: compared op by op was what this source compiles to in fp32")
        forced_graph = graph if torch_side.same_graph else torch_side.graph
        report.teacher_forced = force_all(torch_side.known, data.inputs[:FORCED], forced_graph).as_dict()

    say(f"running the runtime on {n} images")
    expected = np.stack(reference)
    for x, y in parsed.golden:
        golden = interpret(graph, {graph.inputs[0].name: x})[0]
        report.pairs["interpreter/golden"] = report.pairs.get("interpreter/golden", True) and same_bits(golden, y)
    ours = _run_all(Session(artifact, isa="ref"), flat)
    report.pairs["interpreter/reference"] = same_bits(expected, ours[: len(expected)])
    report.compared["interpreter/reference"] = len(expected)
    for threads in THREADS:
        simd = _run_all(Session(artifact, threads=threads), flat)
        name = f"reference/simd-{threads}-thread{'s' if threads > 1 else ''}"
        report.pairs[name] = same_bits(ours, simd)
        report.compared[name] = n
    if device is not None:
        say(f"running {n} images on {device}")
        _on_device(report, device, artifact, flat, ours)
    if bisect and not report.exact:
        report.first_difference = _bisect(parsed, artifact, flat, expected, device)

    ours = ours.reshape(n, -1)
    report.top1_agreement = float((ours.argmax(1) == theirs.argmax(1)).mean())
    report.logit_error_max = float(np.abs(ours - theirs).max())
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    report.logit_cosine_min = float((np.einsum("ij,ij->i", ours, theirs) / np.maximum(norms, 1e-30)).min())
    if data.labels is not None:
        report.accuracy = {
            "source": float((theirs.argmax(1) == data.labels).mean()),
            "artifact": float((ours.argmax(1) == data.labels).mean()),
        }
    return report


def _on_device(report: VerifyReport, device: Device, artifact: Path, flat: F32, ours: F32) -> None:
    """All images with the device's best kernels, some with its portable ones and on several threads."""
    from bvtdeploy.device import RunOptions

    some = flat[:INTERPRETED]
    runs = (("", flat, RunOptions()), ("-portable", some, RunOptions(isa="ref")), ("-4-threads", some, RunOptions(threads=4)))
    for suffix, inputs, options in runs:
        outputs = device.run_model(artifact, inputs, options).outputs
        name = f"reference/{device}{suffix}"
        report.pairs[name] = same_bits(ours[: len(inputs)], outputs)
        report.compared[name] = len(inputs)


def _run_all(session: Any, flat: F32) -> F32:
    return np.stack([session.run(x) for x in flat])


def _bisect(parsed: Artifact, path: Path, flat: F32, expected: F32, device: Device | None) -> dict[str, Any] | None:
    """Searches the executors in turn for the first op that differs from the interpreter."""
    from bvtdeploy.host import Session

    for isa in ("ref", "auto"):
        for i, x in enumerate(flat[: len(expected)]):
            session = Session(path, isa=isa, op_crc=True)
            if not same_bits(np.asarray(session.run(x)), expected[i]):
                return _first_difference(parsed, x, session.crcs(), f"host {session.isa}")
    if device is not None:
        for x in flat:
            found = _first_difference(parsed, x, device.op_crcs(path, x), str(device))
            if found is not None:
                return found
    return None
