"""The Python interface: the same as the command line, with typed results and nothing printed.

    import bvtdeploy
    bvtdeploy.compile("model.pt", "model.bvt", board="rpi4")
    assert bvtdeploy.verify("model.pt", "model.bvt", images="images.npz").ok
    print(bvtdeploy.profile("model.bvt", device="qemu:cortex-a72").as_dict())

What fails for a reason that the caller can cure raises `bvtdeploy.errors.UserError`. What needs torch is loaded when needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bvtdeploy.boards import Board, all_boards, load_board
from bvtdeploy.errors import UserError

if TYPE_CHECKING:
    from bvtdeploy.bench import Bench
    from bvtdeploy.bench.kernels import Kernels
    from bvtdeploy.bench.tune import Tuning
    from bvtdeploy.boards.explain import BoardFacts
    from bvtdeploy.build import Build
    from bvtdeploy.compiler import CompileReport
    from bvtdeploy.device import Device
    from bvtdeploy.device.adding import Added, Removed
    from bvtdeploy.device.examine import Examination
    from bvtdeploy.device.registry import Entry
    from bvtdeploy.doctor import Diagnosis
    from bvtdeploy.models.zoo import ModelFacts
    from bvtdeploy.passes.base import Elementwise, PatchEmbed, Side
    from bvtdeploy.profile import Profile, Profiles
    from bvtdeploy.profile.compare import Comparisons
    from bvtdeploy.verifier import VerifyReport
    from bvtdeploy.verifier.forced import Forced

StrPath = str | os.PathLike[str]
Say = Callable[[str], None]
HOST = "host"  # the device name of a run in this process
MOST_SECONDS = 10_000_000  # of a time limit


def compile(
    source: Any,
    output: StrPath,
    *,
    board: str = "generic",
    preprocess: str | None = None,
    labels: StrPath | Sequence[str] | None = None,
    dump_ir: StrPath | None = None,
    trust_pickle: bool = False,
    example_input: Any = None,
    model_output: str | int | None = None,
    zeros: Literal["exact", "positive"] = "exact",
    side: Side = "fp32",
    patch_embed: PatchEmbed = "fp32",
    elementwise: Elementwise = "fp32",
    tuning: StrPath | None = None,
    progress: Say | None = None,
) -> CompileReport:
    """Compile a trained model to a `.bvt` file.

    Args:
        source: path of a checkpoint (`.pt`), exported program (`.pt2`) or ONNX file (`.onnx`), or a live
            module with `example_input`.
        output: the artifact to write.
        board: name or TOML file of the board to choose layouts for; never changes results.
        preprocess: how images become input: "imagenet", or a JSON or TOML file; None: what the checkpoint says.
        labels: file of class names, or the names; None: what the checkpoint says.
        dump_ir: folder for the graph after every pass.
        trust_pickle: run the code that a pickled module brings.
        example_input: one input image, or its shape (1, C, H, W), for a model that does not tell its input's shape.
        model_output: which of several outputs of the model the logits are, by name ("logits", "0", "states.1") or by position
            among its float tensors; None: the one called logits, or the only one.
        zeros: the sign of an operand that can be exactly 0 by construction: a third code ("exact"), or +1 ("positive").
        side: how real parameters are stored: "fp32", "fp16", or "int8" (matrices in int8, the rest in fp16): smaller files,
            slightly other logits, the same bits everywhere.
        patch_embed: how the first float product of the image is computed: "fp32", or "int8" with sums in int32: faster, slightly
            other logits, which `verify` measures, the same bits everywhere.
        elementwise: what element-wise ops compute in: "fp32", or "fp16" for boards with FP16 arithmetic: faster there, slightly
            other logits, the same bits everywhere.
        tuning: file that `tune` wrote: its layouts win over the board's; never changes results.
        progress: told what is being done.
    """
    from bvtdeploy.compiler import compile_model

    target = load_board(board)
    measured = None
    if tuning is not None:
        from bvtdeploy.bench.tune import load_tuning

        measured = load_tuning(Path(tuning))
    report = compile_model(
        _source(source),
        Path(output),
        board=target.name,
        costs=target.costs,
        measured=measured,
        preprocess=preprocess,
        labels=_path(labels) if labels is None or isinstance(labels, (str, os.PathLike)) else list(labels),
        dump_ir=_path(dump_ir),
        trust_pickle=trust_pickle,
        example_input=_example(example_input),
        model_output=model_output,
        zeros=zeros,
        side=side,
        patch_embed=patch_embed,
        elementwise=elementwise,
        progress=progress,
    )
    if report.compiled.report.half_ops and "fp16" not in target.features:
        report.warnings.append(
            f"board {target.name} ({target.core}) need not have FP16 arithmetic: "
            "where it has none, every step is converted, which is slower than fp32"
        )
    return report


def inspect(artifact: StrPath) -> dict[str, Any]:
    """What is in an artifact; the keys are those of `bvtdeploy inspect --json`."""
    from bvtdeploy.artifact.inspect import inspect as inspect_artifact

    return inspect_artifact(_artifact(artifact))


def verify(
    source: Any,
    artifact: StrPath,
    *,
    images: StrPath | None = None,
    random: int | None = None,
    limit: int | None = None,
    device: str | Device | None = None,
    bisect: bool = False,
    teacher_forced: bool = False,
    trust_pickle: bool = False,
    example_input: Any = None,
    model_output: str | int | None = None,
    keep: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> VerifyReport:
    """Prove that an artifact computes the same bits everywhere, and measure how it agrees with the model that it came from.

    Args:
        source: what was compiled.
        artifact: the `.bvt` file.
        images: an `.npz` with `images` (and `labels`), a folder, or an image file; without it, random inputs.
        random: how many random inputs.
        limit: take no more images than this.
        device: also run there: "qemu:cortex-a72", "user@host" or the name of a device, or an open device.
        bisect: where bits differ, name the first op.
        teacher_forced: also compare every op alone with the model's, on the model's operands, on up to 4 images.
        trust_pickle: run the code that a pickled module brings.
        example_input: as for `compile`.
        model_output: as for `compile`; None: what the artifact was compiled with.
        keep: leave what was pushed on the device, for the next run.
        timeout: seconds that one run of our program may take on the device; None: 600.
        progress: told what is being done.
    """
    from bvtdeploy.verifier import verify_model

    with _opened(device, progress, keep=keep, timeout=timeout) as opened:
        return verify_model(
            _source(source),
            _artifact(artifact),
            images=_path(images),
            random=random,
            limit=limit,
            device=opened,
            bisect=bisect,
            teacher_forced=teacher_forced,
            trust_pickle=trust_pickle,
            example_input=_example(example_input),
            model_output=model_output,
            progress=progress,
        )


@dataclass(frozen=True)
class Guess:
    """One class: its index, its name ("" where the artifact has none), its logit, and its softmax share (NaN where a logit is not
    finite)."""

    index: int
    label: str
    logit: float
    share: float


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, and the whole output."""

    image: str
    top: tuple[Guess, ...]
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunResult:
    """What a model said about images."""

    artifact: str
    device: str
    emulated: bool
    isa: str
    threads: int
    predictions: tuple[Prediction, ...]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "artifact": self.artifact,
            "device": self.device,
            "emulated": self.emulated,
            "isa": self.isa,
            "threads": self.threads,
            "predictions": [{"image": p.image, "top": [vars(guess) for guess in p.top]} for p in self.predictions],
        }


def run(
    artifact: StrPath,
    images: StrPath | npt.NDArray[np.uint8] | Sequence[StrPath | npt.NDArray[np.uint8]],
    *,
    device: str | Device = HOST,
    threads: int = 1,
    top: int = 5,
    isa: str = "auto",
    keep: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> RunResult:
    """Classify images.

    Args:
        artifact: the `.bvt` file.
        images: image files or uint8 arrays (height x width, or height x width x channels), or one such.
        device: "host" runs in this process; "local", "qemu:CPU" and "user@host" run the program that boards get, there.
        threads: how many threads compute.
        top: how many classes to return for each image.
        isa: "auto", or the kernels to use.
        keep: leave what was pushed on the device, for the next run.
        timeout: seconds that one run of our program may take on the device; None: 600.
        progress: told what is being done.
    """
    from bvtdeploy.device import RunOptions
    from bvtdeploy.host import Session, read_image

    path = _artifact(artifact)
    images = _images(images)
    if not images:
        raise UserError("there are no images to run", where=str(path), fix="give image files")
    session = Session(path, threads=threads if device == HOST else 1, isa=isa if device == HOST else "auto")
    if session.preprocessing is None:
        raise UserError(
            "the artifact does not say how an image becomes its input",
            where=str(path),
            fix="compile it with --preprocess imagenet, or with a file that says how",
        )
    names = [f"array {i}" if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images)]
    inputs = np.stack([session.preprocess(image if isinstance(image, np.ndarray) else read_image(image)) for image in images])
    if device == HOST:
        outputs = np.stack([session.run(one) for one in inputs])
        shown, emulated, used = HOST, False, session.isa
    else:
        with _opened(device, progress, also=(HOST,), keep=keep, timeout=timeout) as opened:
            assert opened is not None
            done = opened.run_model(path, inputs, RunOptions(threads=threads, isa=isa))
            outputs, shown, emulated, used = done.outputs, opened.name, opened.emulated, done.isa
    predictions = tuple(_predict(name, out.reshape(-1), session.labels, top) for name, out in zip(names, outputs, strict=True))
    return RunResult(str(path), shown, emulated, used, threads, predictions)


def _predict(name: str, logits: npt.NDArray[np.float32], labels: Sequence[str], top: int) -> Prediction:
    wide = logits.astype(np.float64)
    if np.isfinite(wide).all():
        shares = np.exp(wide - wide.max())
        shares /= shares.sum()
    else:
        shares = np.full_like(wide, np.nan)
    order = np.argsort(-wide, kind="stable")[:top]
    guesses = (Guess(int(i), labels[i] if i < len(labels) else "", float(logits[i]), float(shares[i])) for i in order)
    return Prediction(name, tuple(guesses), logits)


def build(
    board: str,
    *,
    toolchain: str = "auto",
    dynamic: bool = False,
    glibc: str = "",
    output: StrPath | None = None,
    progress: Say | None = None,
) -> Build:
    """Compile the runtime for a board.

    Args:
        board: name or TOML file.
        toolchain: "auto", "gcc", "zig", "docker" (GCC in a container), or a compiler's path.
        dynamic: link `bvt_run` dynamically; else it is static and needs nothing of the board's system.
        glibc: the glibc that a dynamic program must do with, such as "2.31"; "": that of the board's usual system.
        output: folder for the bundle: `bvt_run`, `lib/libbvt.a`, `include/bvt.h`, packages for CMake and pkg-config, `LICENSE` and
            `build.json`; None: only the cache.
        progress: told what is being done.
    """
    from bvtdeploy.build import build_runtime

    return build_runtime(
        load_board(board), toolchain=toolchain, dynamic=dynamic, glibc=glibc, output=_path(output), progress=progress
    )


def profile(
    artifact: StrPath,
    *,
    device: str | Device = "local",
    threads: Sequence[int] = (1,),
    runs: int | None = None,
    warmup: int | None = None,
    cpus: str = "",
    image: StrPath | None = None,
    verify: bool = False,
    keep: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> Profile:
    """Time an artifact on a device, op by op.

    Args:
        artifact: the `.bvt` file.
        device: "local", "qemu:CPU" (emulated: never a board's times), "user@host" or the name of a device, or an open device.
        threads: thread counts to time.
        runs: timed runs; None: about two seconds.
        warmup: runs before them; None: until the times settle.
        cpus: cores to run on: "big", "little", "all" or a list such as "0-3,6"; "": as the system likes.
        image: the image to run; None: a golden input. Times do not depend on values.
        verify: an artifact without golden outputs is refused. Those that there are are compared in any case.
        keep: leave what was pushed on the device.
        timeout: seconds that one program of ours may take on the device; None: 600, or three times what its runs are likely to
            take.
        progress: told what is being done.
    """
    made = profile_all(
        artifact,
        [device],
        threads=threads,
        runs=runs,
        warmup=warmup,
        cpus=cpus,
        image=image,
        verify=verify,
        keep=keep,
        timeout=timeout,
        progress=progress,
    )
    if made.failed:
        raise made.failed[0].error
    return made.profiles[0]


def profile_all(
    artifact: StrPath,
    devices: Sequence[str | Device],
    *,
    threads: Sequence[int] = (1,),
    runs: int | None = None,
    warmup: int | None = None,
    cpus: str = "",
    image: StrPath | None = None,
    verify: bool = False,
    keep: bool = False,
    timeout: float | None = None,
    progress: Say | None = None,
) -> Profiles:
    """`profile` on several devices: boards at the same time, devices on this machine one after the other. One that fails is told
    among `failed`, and does not take the others with it. The other arguments are those of `profile`."""
    from bvtdeploy.device import open_device
    from bvtdeploy.host import Session, read_image
    from bvtdeploy.profile import Profiles, profile_devices, profile_model

    path = _artifact(artifact)
    if not threads or min(threads) < 1:
        raise UserError("the number of threads must be 1 or more", where="--threads")
    inspect(path)  # what is wrong with the file is said before any device is touched
    inputs = None if image is None else Session(path).preprocess(read_image(image))[None]

    def one(opened: Device) -> Profile:
        return profile_model(
            path,
            opened,
            threads=threads,
            runs=runs,
            warmup=warmup,
            cpus=cpus,
            inputs=inputs,
            verify=verify,
            progress=progress,
        )

    named = [device for device in devices if isinstance(device, str)]
    if len(named) < len(devices):  # devices that were given open stay so
        if len(devices) != 1 or isinstance(devices[0], str):
            raise UserError("several devices are given by name, not open")
        with _opened(devices[0], progress, timeout=timeout) as given:
            assert given is not None
            return Profiles((one(given),), ())

    def make(name: str) -> Device:
        device = open_device(name, progress=progress, keep=keep)
        device.timeout = _limit(timeout)
        return device

    return profile_devices([(name, partial(make, name)) for name in named], one)


def compare(before: StrPath | Mapping[str, Any], after: StrPath | Mapping[str, Any]) -> Comparisons:
    """Compare profiles: what got faster or slower, and where one cannot tell.

    Args:
        before, after: files that `bvtdeploy profile --output` wrote, or `Profile.as_dict()`. Of profiles of several devices, those
            of the same device are compared, and `warnings` of the result name the others.
    """
    from bvtdeploy.profile.compare import Comparisons, left_out, pair_up, read_profiles
    from bvtdeploy.profile.compare import compare as compare_profiles
    from bvtdeploy.profile.result import load_profiles

    sides = [load_profiles(side) if isinstance(side, Mapping) else read_profiles(Path(side)) for side in (before, after)]
    where = " and ".join(str(side) for side in (before, after) if not isinstance(side, Mapping))
    pairs = pair_up(sides[0], sides[1], where)
    return Comparisons(tuple(compare_profiles(a, b) for a, b in pairs), left_out(sides[0], sides[1]))


def bench(
    artifact: StrPath,
    *,
    against: Sequence[str] = ("onnxruntime",),
    model: StrPath | None = None,
    threads: Sequence[int] = (1, 2),
    rounds: int | None = None,
    boards: Sequence[str] = (),
    like: str | None = None,
    trust_pickle: bool = False,
    model_output: str | int | None = None,
    progress: Say | None = None,
) -> Bench:
    """Time an artifact against other runtimes in this process, in turn, and model it on boards.

    Args:
        artifact: the `.bvt` file.
        against: peers: "onnxruntime", "litert", "executorch"; one that is not installed is reported so. None of them: `()`.
        model: the file that was compiled (`.pt`, `.pt2`, `.onnx`): ONNX Runtime then also runs the same network.
        threads: thread counts to time.
        rounds: rounds of each peer and thread count; None: about four seconds.
        boards: boards on which the executed instructions are counted, emulated, and modelled times derived from them.
        like: the plain ViT that stands for a network that has none of its shape: "deit_tiny", "deit_small" or "deit_base".
        trust_pickle, model_output: of `model`, as for `compile`.
        progress: told what is being done.
    """
    from bvtdeploy.bench import run_bench

    path = _artifact(artifact)
    if not threads or min(threads) < 1:
        raise UserError("the number of threads must be 1 or more", where="--threads")
    if rounds is not None and rounds < 2:
        raise UserError("a ratio needs 2 rounds or more", where="--rounds")
    return run_bench(
        path,
        against=against,
        model=_path(model),
        threads=threads,
        rounds=rounds,
        boards=boards,
        like=like,
        trust_pickle=trust_pickle,
        model_output=model_output,
        progress=progress,
    )


def bench_kernels(boards: Sequence[str] = ("rpi4", "rpi5"), *, cases: Sequence[str] = (), progress: Say | None = None) -> Kernels:
    """Model the runtime's kernels on boards, one by one at common shapes, and compare with what they may take at best.

    Args:
        boards: names of boards with 64-bit ARM cores.
        cases: beginnings of the names of cases ("bgemm": the binary products); none: all.
        progress: told what is being done.

    Raises:
        UserError: a board cannot be modelled, there is no compiler or emulator, or no such case.
    """
    from bvtdeploy.bench.kernels import model_kernels

    return model_kernels(boards, only=cases, progress=progress)


def tune(
    source: Any,
    output: StrPath,
    *,
    device: str | Device = "local",
    threads: int = 1,
    rounds: int | None = None,
    trust_pickle: bool = False,
    example_input: Any = None,
    model_output: str | int | None = None,
    progress: Say | None = None,
) -> Tuning:
    """Time the layouts of binary weights on a device and write the fastest of every shape to a file that `compile` takes.

    Only 64-bit ARM has kernels for more than one layout: elsewhere nothing else is timed, and all shapes get it.

    Args:
        source: what `compile` takes.
        output: the file to write (TOML).
        device: "local", "user@host" or the name of a device, or an open one; none that is emulated.
        threads: with how many threads.
        rounds: how often every layout is timed, in turn; None: 5.
        trust_pickle, example_input, model_output: as for `compile`.
        progress: told what is being done.
    """
    from bvtdeploy.bench.tune import tune as tune_layouts

    if threads < 1 or (rounds is not None and rounds < 1):
        raise UserError("threads and rounds must be 1 or more")
    with _opened(device, progress) as opened:
        assert opened is not None
        return tune_layouts(
            _source(source),
            Path(output),
            opened,
            threads=threads,
            rounds=rounds,
            trust_pickle=trust_pickle,
            example_input=_example(example_input),
            model_output=model_output,
            progress=progress,
        )


def boards() -> list[Board]:
    """The boards that we know."""
    return all_boards()


def board(name: str) -> BoardFacts:
    """What is known of a board, and what is chosen for it: `bvtdeploy boards show`.

    Args:
        name: name or TOML file.
    """
    from bvtdeploy.boards.explain import explain

    return explain(load_board(name))


def models(*, progress: Say | None = None) -> list[ModelFacts]:
    """The models that `export_model` makes, and what they cost."""
    from bvtdeploy.frontend.lower import one_thread
    from bvtdeploy.models import zoo

    found = []
    with one_thread():
        for name in zoo.names():
            if progress:
                progress(f"counting the work of {name}")
            found.append(zoo.facts(name))
    return found


@dataclass(frozen=True)
class CheckedModels:
    """What a teacher-forced comparison found, by model."""

    tables: dict[str, Forced]

    @property
    def ok(self) -> bool:
        """Not one integer is wrong, and no real number by more than the tolerance."""
        return all(table.ok for table in self.tables.values())

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {"checked": [{"model": name, **table.as_dict()} for name, table in self.tables.items()]}


def check_models(names: Sequence[str] = (), *, all_sizes: bool = False, progress: Say | None = None) -> CheckedModels:
    """Compile named models in memory and compare every op with PyTorch, on PyTorch's operands: integers exactly.

    Args:
        names: some of `models()`; none: the small one of every family.
        all_sizes: with no names: every model there is. The large ones take minutes each.
        progress: told what is being done.
    """
    from bvtdeploy.models import zoo
    from bvtdeploy.verifier.named import check_model

    chosen = list(dict.fromkeys(names)) or [name for name in zoo.names() if all_sizes or name.endswith("_nano")]
    for name in chosen:
        zoo.find(name)  # a wrong name is said before any work
    tables = {}
    for name in chosen:
        if progress:
            progress(f"comparing every op of {name}")
        tables[name] = check_model(name)
    return CheckedModels(tables)


@dataclass(frozen=True)
class ExportedModel:
    """A file with a model of random weights: an exported program ("pt2") or a checkpoint."""

    model: str
    file: Path
    kind: str
    bytes: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {"model": self.model, "file": str(self.file), "kind": self.kind, "bytes": self.bytes, "seed": self.seed}


def export_model(name: str, output: StrPath, *, seed: int = 0, progress: Say | None = None) -> ExportedModel:
    """Write a named model with random weights to a file, to try the compiler on.

    Args:
        name: one of `models()`.
        output: `.pt2` for an exported program, `.pt` or `.pth` for a checkpoint.
        seed: of the weights.
        progress: told what is being done.
    """
    from bvtdeploy.artifact.writer import write_aside

    path = Path(output)
    kind = {".pt2": "pt2", ".pt": "checkpoint", ".pth": "checkpoint"}.get(path.suffix)
    if kind is None:
        raise UserError(
            "the file's ending says no format", where=str(path), fix="end it with .pt2 (exported program) or .pt (checkpoint)"
        )
    if not path.parent.is_dir():
        raise UserError("there is no such folder", where=str(path.parent), fix="make it, or give another")
    from bvtdeploy.frontend.lower import one_thread
    from bvtdeploy.models import zoo

    if progress:
        progress(f"making {name}")
    with one_thread():
        data = zoo.program_bytes(name, seed) if kind == "pt2" else zoo.checkpoint_bytes(name, seed)
    write_aside(path, data)
    return ExportedModel(name, path, kind, len(data), seed)


def doctor() -> Diagnosis:
    """What is installed, what is missing, and how to get it."""
    from bvtdeploy.doctor import diagnose

    return diagnose()


def devices() -> list[Entry]:
    """The devices that have a name."""
    from bvtdeploy.device import registry

    return list(registry.entries().values())


def add_device(
    name: str,
    address: str,
    *,
    board: str | None = None,
    folder: str | None = None,
    fingerprint: str | None = None,
    yes: bool = False,
    progress: Say | None = None,
) -> Added:
    """Name a board that is reached over SSH; its host key is confirmed and recorded.

    Args:
        name: for it; `device=` takes it from then on.
        address: "user@host", "user@host:port", "user@[IPv6]:port", or a Host of the SSH configuration.
        board: the board whose runtime goes there; None: recognised at each use.
        folder: where on the device files are put; None: the user's cache folder there.
        fingerprint: the host key must have this one ("SHA256:...").
        yes: record an unknown host key without asking.
        progress: told what is being done.
    """
    from bvtdeploy.device import adding
    from bvtdeploy.device.prompts import ask

    def confirm(host: str, kind: str, shown: str) -> bool | None:
        if yes:
            return True
        answer = ask(f"the {kind} host key of {host} is {shown}\nis that the board's own? (yes/no) ", secret=False)
        return None if answer is None else answer.strip().lower() in ("yes", "y")

    return adding.add(name, address, board=board, folder=folder, fingerprint=fingerprint, confirm=confirm, progress=progress)


def describe_device(name: str) -> dict[str, Any]:
    """What is known of a named device without asking it; the keys are those of `bvtdeploy devices show --json`."""
    from bvtdeploy.device import adding

    return adding.describe(name)


def remove_device(name: str) -> Removed:
    """Forget a named device, and its host key where no other named device has the same address."""
    from bvtdeploy.device import adding

    return adding.remove(name)


def clean_device(device: str, *, progress: Say | None = None) -> dict[str, int]:
    """Remove from a board what `keep` left there.

    Args:
        device: what `device=` takes elsewhere.
        progress: told what is being done.

    Returns:
        folder on the board -> bytes that were in it.
    """
    from bvtdeploy.device import SshDevice, open_device

    board = open_device(device, progress=progress)
    if not isinstance(board, SshDevice):
        raise UserError(f"nothing is ever kept on {device}", fix="name a board over SSH: user@host, or a named device")
    with board:
        return board.forget_kept()


def examine_device(device: str, *, progress: Say | None = None) -> Examination:
    """Look at everything that a run on a device needs.

    Args:
        device: what `device=` takes elsewhere.
        progress: told what is being done.
    """
    from bvtdeploy.device import open_device
    from bvtdeploy.device.examine import examine

    return examine(open_device(device, progress=progress))


@contextlib.contextmanager
def _opened(
    device: str | Device | None,
    progress: Say | None,
    also: Sequence[str] = (),
    keep: bool = False,
    timeout: float | None = None,
) -> Iterator[Device | None]:
    """A device that was given by name is opened and closed here; one that was given open stays so."""
    from bvtdeploy.device import open_device

    limit = _limit(timeout)
    if isinstance(device, str):
        made = open_device(device, progress=progress, also=also, keep=keep)
        made.timeout = limit
        with made as opened:
            yield opened
    elif device is None or limit is None:
        yield device
    else:
        before, device.timeout = device.timeout, limit
        try:
            yield device
        finally:
            device.timeout = before


def _limit(timeout: float | None) -> float | None:
    if timeout is not None and not 0 < timeout <= MOST_SECONDS:
        raise UserError("the time limit must be a number of seconds above 0", where=f"--timeout {timeout}")
    return timeout


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _images(
    images: StrPath | npt.NDArray[np.uint8] | Sequence[StrPath | npt.NDArray[np.uint8]],
) -> list[StrPath | npt.NDArray[np.uint8]]:
    """One image alone is a list of one."""
    if isinstance(images, (str, os.PathLike)):
        return [images]
    if isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3, 4))):
        return [images]
    return list(images)


def _example(example: Any) -> Any:
    """An array as the tensor that torch wants; what is no array is left as it is."""
    if not isinstance(example, np.ndarray):
        return example
    import torch

    return torch.from_numpy(np.array(example, dtype=np.float32))


def _source(source: Any) -> Any:
    return Path(source) if isinstance(source, (str, os.PathLike)) else source


def _artifact(path: StrPath) -> Path:
    found = Path(path)
    if not found.is_file():
        near = sorted(p.name for p in found.parent.glob("*.bvt")) if found.parent.is_dir() else []
        fix = f"in that folder: {', '.join(near[:5])}" if near else "`bvtdeploy compile MODEL -o OUT.bvt` makes one"
        raise UserError("there is no such artifact", where=str(found), why="it is a folder" if found.is_dir() else "", fix=fix)
    return found
