"""verify: does the artifact compute what the source model computes, and the same bits everywhere?

These are two questions. *Exact* is between executions of the artifact: the numpy interpreter, the runtime's portable and SIMD
kernels on one and several threads, and a device must give equal bits. Against the *source* there is no such thing: eager PyTorch is
not reproducible even against itself (one code that flips between fp32 and fp64 cascades), so there the answers are agreement of
classes, cosine and error of logits, codes that differ, and accuracy where labels are known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact import preprocess as preprocessing
from bvtdeploy.artifact.reader import Artifact, read, to_graph
from bvtdeploy.errors import UserError
from bvtdeploy.ir.graph import Op
from bvtdeploy.ir.interp import run as interpret
from bvtdeploy.ir.types import TERNARY
from bvtdeploy.lower.pack import logical_bytes

if TYPE_CHECKING:
    from bvtdeploy.device import Device

F32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

INTERPRETED: Final = 64  # images that the numpy interpreter runs, and whose codes are compared: it is exact but slow
BATCH: Final = 50
THREADS: Final = (1, 2, 4)
MIN_AGREEMENT: Final = 0.99
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")


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
    warnings: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """All executions of the artifact gave equal bits."""
        return all(self.pairs.values())

    @property
    def ok(self) -> bool:
        """The answer to `verify`: exact, and agreeing with the source on at least 99 % of the images."""
        return self.exact and self.top1_agreement >= MIN_AGREEMENT

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        result = {k: v for k, v in vars(self).items() if k != "accuracy" or v is not None}
        return {"ok": self.ok, "exact": self.exact, **result}


# -- images -----------------------------------------------------------------------------------------------------------


@dataclass
class ImageSet:
    """Network inputs f32[n, C, H, W], labels where known, and where they came from."""

    inputs: F32
    labels: npt.NDArray[np.int64] | None
    origin: str


def load_images(artifact: Artifact, source: Path | None, random: int | None, limit: int | None) -> ImageSet:
    """Images from an `.npz` (`images` uint8 [N,H,W] or [N,H,W,C], `labels`), a folder or a file, or random inputs.

    Raises UserError when there are none, or when the artifact says nothing about preprocessing.
    """
    c, h, w = (int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width"))
    if source is None:
        n = random or 16
        x = np.random.Generator(np.random.PCG64(0)).standard_normal((n, c, h, w), np.float32)
        return ImageSet(x, None, f"{n} random inputs")
    pixels, labels = _read_npz(source) if source.suffix == ".npz" else (_read_files(source), None)
    if limit is not None:
        pixels, labels = pixels[:limit], None if labels is None else labels[:limit]
    if not pixels:
        raise UserError(f"no images in {source}", where=str(source), fix=f"give an .npz, or files ending in {', '.join(SUFFIXES)}")
    if artifact.preprocess is None:
        raise UserError(
            "the artifact does not say how an image becomes its input",
            where=artifact.path,
            fix="compile with --preprocess imagenet|FILE, or verify with --random N",
        )
    process = artifact.preprocess
    return ImageSet(np.stack([preprocessing.apply(process, p) for p in pixels]), labels, str(source))


def _read_npz(path: Path) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int64] | None]:
    try:
        with np.load(path, allow_pickle=False) as data:
            images = data["images"]
            labels = data["labels"].astype(np.int64) if "labels" in data else None
    except FileNotFoundError as error:
        raise UserError(f"cannot read {path}", why="no such file", fix="check the path of --images") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not a set of images", why=str(error), fix="an .npz needs `images` (uint8 N,H,W[,C]) and may have `labels`"
        ) from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(f"{path}: images are {images.dtype} {images.shape}", fix="give uint8 [N,H,W], [N,H,W,1] or [N,H,W,3]")
    if labels is not None and labels.shape != images.shape[:1]:
        raise UserError(f"{path}: {labels.shape} labels for {images.shape[0]} images", fix="give one label an image")
    return list(images), labels


def _read_files(path: Path) -> list[npt.NDArray[np.uint8]]:
    from bvtdeploy.host import read_image

    if not path.exists():
        raise UserError(f"cannot read {path}", why="no such file or folder", fix="check the path of --images")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    return [read_image(file) for file in files]


# -- the source model -------------------------------------------------------------------------------------------------


class _Source:
    """The source model in PyTorch, with an eye on its signs."""

    def __init__(self, source: Any, artifact: Artifact, trust_pickle: bool, example_input: Any) -> None:
        from bvtdeploy.compiler import compile_graph
        from bvtdeploy.frontend import import_model

        if example_input is None and not isinstance(source, (str, Path)):
            example_input = (1, *(int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width")))
        self.imported = import_model(source, example_input=example_input, trust_pickle=trust_pickle)
        self.sites = [(op.out.name, op.module) for op in self.imported.graph.of_kind("sign") if not op.attrs.get("zero")]
        self.warnings: list[str] = []
        if self.imported.source_sha256 != artifact.meta.get("source.sha256"):
            self.warnings.append("the artifact was compiled from another file than this source")
        zeros: Literal["exact", "positive"] = "positive" if artifact.meta.get("zeros") == "positive" else "exact"
        self.compiled = compile_graph(self.imported, zeros=zeros)
        ours, theirs = (artifact.output["rows"] * artifact.output["cols"], self.compiled.graph.outputs[0].type.size)
        shape = tuple(int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width"))
        if ours != theirs or shape != self.compiled.input_shape:
            raise UserError(
                "the artifact and the source are different networks",
                where=artifact.path,
                why=f"input {shape} and {ours} outputs in the artifact, {self.compiled.input_shape} and {theirs} in the source",
                fix="verify with the model that was compiled",
            )
        self.index = self.compiled.report.sign_index
        self.ternary = {v.name for v in self.compiled.graph.values() if v.type.alphabet == TERNARY}

    def logits(self, inputs: F32) -> F32:
        """Logits f32[n, classes] of inputs f32[n, C, H, W]: in batches where the module takes them."""
        import torch

        from bvtdeploy.frontend.lower import one_thread

        def of(x: F32) -> F32:
            return _logits(self.imported.module(torch.from_numpy(x)))

        with torch.no_grad(), one_thread():
            first = of(inputs[:1])
            try:
                if len(of(inputs[:2])) != len(inputs[:2]):
                    raise ValueError("not a batch")
                size = BATCH
            except Exception:  # noqa: BLE001  (whatever a foreign module raises: it takes one image at a time)
                size = 1
            assert first.ndim == 2
            return np.concatenate([of(inputs[i : i + size]) for i in range(0, len(inputs), size)])

    def signs(self, x: F32) -> list[tuple[Array, int]]:
        """(signs -1, 0, +1, how many are 0) of every sign of an activation, in order of execution."""
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_leaves

        from bvtdeploy.frontend.lower import one_thread

        seen: list[tuple[Array, int]] = []
        from_input: dict[int, Any] = {}  # id -> tensor, kept alive so that ids stay unique

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                out = func(*args, **(kwargs or {}))
                if any(id(t) in from_input for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)):
                    for t in tree_leaves(out):
                        if isinstance(t, torch.Tensor):
                            from_input[id(t)] = t
                    if func in (torch.ops.aten.sign.default, torch.ops.aten.sgn.default):
                        seen.append((np.sign(args[0].numpy()), int((args[0] == 0).sum())))
                return out

        tensor = torch.from_numpy(x[None])
        from_input[id(tensor)] = tensor
        with torch.no_grad(), one_thread(), Watch():  # type: ignore[no-untyped-call]
            self.imported.module(tensor)
        return seen


def _logits(out: Any) -> F32:
    """The logits [n, classes] of whatever the module returned: a tensor, or an object or tuple that holds them."""
    if hasattr(out, "logits"):
        out = out.logits
    elif isinstance(out, dict) and "logits" in out:
        out = out["logits"]
    elif isinstance(out, (tuple, list)):
        out = out[0]
    array: F32 = out.numpy()
    return array


# -- comparing --------------------------------------------------------------------------------------------------------


def same_bits(a: Array, b: Array) -> bool:
    """Equal bit patterns; NaNs of any payload are equal."""
    a, b = np.ascontiguousarray(a, np.float32), np.ascontiguousarray(b, np.float32)
    return a.shape == b.shape and bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


def _flips(report: VerifyReport, source: _Source, x: F32, codes: dict[str, Array], totals: dict[str, list[int]]) -> None:
    signs = source.signs(x)
    if len(signs) != len(source.sites):
        message = "codes could not be compared: the source takes its signs in another way than torch.sign"
        if message not in report.warnings:
            report.warnings.append(message)
        return
    for (name, _), (theirs, zeros) in zip(source.sites, signs, strict=True):
        report.zeros_at_sign += zeros
        report.signs_seen += theirs.size
        for suffix in (".bits", ".bits.cols"):
            ours, index = codes.get(name + suffix), source.index.get(name + suffix)
            if ours is None or index is None or index.size != theirs.size:
                continue
            if name + suffix not in source.ternary:
                theirs = np.where(theirs >= 0, 1, -1)  # the policy: 0 is +1 where there are two codes
            different = int((ours.reshape(-1)[index.reshape(-1)] != theirs.reshape(-1)).sum())
            total = totals.setdefault(name, [0, 0])
            total[0] += different
            total[1] += theirs.size
            break


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
    if array.dtype == np.float32 and np.isnan(array).any():
        array = array.copy()
        array.view(np.uint32)[np.isnan(array)] = 0x7FC00000
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

    Raises:
        UserError: an input cannot be read or used.
    """
    from bvtdeploy.host import Session

    say = progress or (lambda _: None)
    parsed = read(artifact)
    say("reading the source model")
    torch_side = _Source(source, parsed, trust_pickle, example_input)
    data = load_images(parsed, images, random, limit)
    n = len(data.inputs)
    report = VerifyReport(n, residue_max=torch_side.compiled.report.residue_max, warnings=torch_side.warnings)
    flat = data.inputs.reshape(n, -1, data.inputs.shape[-1])

    say(f"running the source model on {n} images")
    theirs = torch_side.logits(data.inputs)

    say(f"running the interpreter on {min(n, INTERPRETED)} images")
    graph = to_graph(parsed)
    totals: dict[str, list[int]] = {}
    reference = []
    for i, x in enumerate(flat[:INTERPRETED]):
        codes: dict[str, Array] = {}

        def observe(op: Op, results: list[Array], codes: dict[str, Array] = codes) -> None:
            codes |= {v.name: a for v, a in zip(op.outputs, results, strict=True) if v.type.elem == "bits"}

        reference.append(interpret(graph, {graph.inputs[0].name: x}, observe)[0])
        _flips(report, torch_side, data.inputs[i], codes, totals)
    modules = dict(torch_side.sites)
    report.flips = [{"op": name, "module": modules[name], "rate": bad / size} for name, (bad, size) in totals.items()]

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
