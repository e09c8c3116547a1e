"""The runtimes that ours is timed against, and the models that they run.

Adding a peer: a subclass of `Engine`, its jobs in `convert.py`, and a line in `ENGINES`. One that is not installed is said to be
missing; none is a stand-in.
"""

from __future__ import annotations

import abc
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

import bvtdeploy
from bvtdeploy.bench.shape import Shape
from bvtdeploy.build.files import cache_folder, sha256
from bvtdeploy.errors import UserError

F32 = npt.NDArray[np.float32]
Say = Callable[[str], None]
Infer = Callable[[], Any]
CONVERT_TIMEOUT = 1800.0
SAME_NETWORK, SAME_SHAPE = "the same network", "plain ViT of the same shape"
FP32, INT8 = "fp32", "int8 dynamic"


@dataclass(frozen=True)
class Source:
    """The model that the artifact was compiled from: its file, how to read it, and the image's shape [1, C, H, W]."""

    path: Path
    input_shape: tuple[int, int, int, int]
    trust_pickle: bool
    model_output: str | int | None


@dataclass(frozen=True)
class Unavailable:
    """A peer that cannot be timed here."""

    engine: str
    model: str
    why: str
    fix: str

    def as_dict(self) -> dict[str, str]:
        """The row as JSON."""
        return dict(vars(self))


class MissingError(Exception):
    """Why a peer has no model here: the reason, and what to do."""

    def __init__(self, why: str, fix: str = "") -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


class Engine(abc.ABC):
    """A runtime.

    Attributes:
        name, title: what the user writes, and what is printed.
        suffix: of its model files.
        packages: whose versions are reported; the first is its own.
        modules: what must be installed, its converter included.
        extra: the extra of this package that installs them.
        jobs: precision -> job of `convert.py` that makes the plain Vision Transformer.
    """

    name: str
    title: str
    suffix: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    extra: str
    jobs: ClassVar[dict[str, str]]

    @abc.abstractmethod
    def open(self, model: Path, x: F32, threads: int, output: str | int | None) -> Infer:
        """A function without arguments that runs the model once on one image f32[1, C, H, W] and returns the output."""


class OnnxRuntime(Engine):
    """ONNX Runtime on the CPU. Its threads stop spinning when an inference ends: they would take time from who comes next."""

    name, title, suffix = "onnxruntime", "ONNX Runtime", ".onnx"
    packages, modules, extra = ("onnxruntime",), ("onnxruntime", "onnxscript"), "bench"
    jobs: ClassVar = {FP32: "plain_onnx", INT8: "plain_onnx_int8"}

    def open(self, model: Path, x: F32, threads: int, output: str | int | None) -> Infer:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        inputs = {session.get_inputs()[0].name: x}
        wanted = [_output([o.name for o in session.get_outputs()], output, str(model))]
        return lambda: session.run(wanted, inputs)[0]


class LiteRt(Engine):
    """LiteRT (once TensorFlow Lite) with XNNPACK."""

    name, title, suffix = "litert", "LiteRT", ".tflite"
    packages, modules, extra = ("ai-edge-litert",), ("ai_edge_litert", "litert_torch", "ai_edge_quantizer"), "bench-litert"
    jobs: ClassVar = {FP32: "plain_litert", INT8: "plain_litert_int8"}

    def open(self, model: Path, x: F32, threads: int, output: str | int | None) -> Infer:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(model), num_threads=threads)
        interpreter.allocate_tensors()
        into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

        def infer() -> Any:
            interpreter.set_tensor(into, x)
            interpreter.invoke()
            return interpreter.get_tensor(out)

        return infer


class ExecuTorch(Engine):
    """ExecuTorch with XNNPACK, through its Python binding."""

    name, title, suffix = "executorch", "ExecuTorch XNNPACK", ".pte"
    packages, modules, extra = ("executorch",), ("executorch",), "bench-executorch"
    jobs: ClassVar = {FP32: "plain_executorch", INT8: "plain_executorch_int8"}

    def open(self, model: Path, x: F32, threads: int, output: str | int | None) -> Infer:
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        portable_lib._unsafe_reset_threadpool(threads)  # the pool is the process's: there is no other way to size it
        method = Runtime.get().load_program(model).load_method("forward")
        image = torch.from_numpy(x)
        return lambda: method.execute([image])[0].numpy()


ENGINES: Final[dict[str, Engine]] = {engine.name: engine for engine in (OnnxRuntime(), LiteRt(), ExecuTorch())}


def missing_modules(engine: Engine) -> list[str]:
    """What of an engine and its converter is not installed."""
    return [name for name in engine.modules if importlib.util.find_spec(name) is None]


def version(engine: Engine) -> str:
    """The engine's own version."""
    return ", ".join(metadata.version(name) for name in engine.packages)


@dataclass(frozen=True)
class Peer:
    """One model on one engine.

    Attributes:
        network: SAME_NETWORK (the outputs can be compared) or SAME_SHAPE (random weights: only times mean something).
        output: which output of the file the logits are; None: the one called so, or the only one.
    """

    engine: Engine
    network: str
    precision: str
    model: Path
    output: str | int | None = None

    @property
    def title(self) -> str:
        """What a row is called."""
        return f"{self.engine.title} {self.precision}"


def find_peers(
    engines: Iterable[str], source: Source | None, shape: Shape | None, no_shape: str, say: Say
) -> tuple[list[Peer], list[Unavailable]]:
    """Every model that can be run on the engines here; the others, with the reason.

    Args:
        engines: names of ENGINES.
        source: the model that was compiled; None: there is no peer of the same network.
        shape: of the plain Vision Transformer; None where there is none, which `no_shape` explains.
        say: told what is being done.
    """
    peers: list[Peer] = []
    missing: list[Unavailable] = []
    for name in engines:
        engine = ENGINES[name]
        absent = missing_modules(engine)
        if absent:
            what = "not installed: " + ", ".join(absent)
            missing.append(Unavailable(engine.title, "", what, f'pip install "bvtdeploy[{engine.extra}]"'))
            continue
        if name == OnnxRuntime.name:
            wanted = [(SAME_NETWORK, FP32), *((SAME_SHAPE, precision) for precision in engine.jobs)]
        else:
            wanted = [(SAME_SHAPE, precision) for precision in engine.jobs]
        for network, precision in wanted:
            try:
                same = network == SAME_NETWORK
                peers.append(_same_network(engine, source, say) if same else _same_shape(engine, precision, shape, no_shape, say))
            except MissingError as error:
                missing.append(Unavailable(f"{engine.title} {precision}", network, error.why, error.fix))
    return peers, missing


def _same_network(engine: Engine, source: Source | None, say: Say) -> Peer:
    if source is None:
        raise MissingError("the model that was compiled is not given", "--model CHECKPOINT")
    if source.path.suffix == ".onnx":
        return Peer(engine, SAME_NETWORK, FP32, source.path, source.model_output)
    job = {
        "kind": "source_onnx",
        "input_shape": list(source.input_shape),
        "trust_pickle": source.trust_pickle,
        "model_output": source.model_output,
    }
    say(f"exporting {source.path.name} to ONNX (kept for the next time)")
    key = {**job, "sha256": sha256(source.path), "package": _package_hash("models", "frontend", "bench")}
    return Peer(engine, SAME_NETWORK, FP32, _converted({**job, "source": str(source.path)}, key, engine.suffix))


def _same_shape(engine: Engine, precision: str, shape: Shape | None, no_shape: str, say: Say) -> Peer:
    if shape is None:
        raise MissingError(f"this network has no plain ViT of its shape: {no_shape}", "--like deit_tiny takes one that you choose")
    say(f"making the plain ViT of the same shape for {engine.title}, {precision} (kept for the next time)")
    versions = {name: metadata.version(name) for name in ("torch", *engine.packages)}

    def job(which: str) -> tuple[dict[str, Any], dict[str, Any]]:
        work = {"kind": engine.jobs[which], "shape": shape.as_dict()}
        return work, {**work, "versions": versions, "package": _package_hash("bench", "models")}

    work, key = job(precision)
    if precision == INT8 and engine.name != ExecuTorch.name:  # made from the fp32 file
        plain = _converted(*job(FP32), engine.suffix)
        work = {**work, "from": str(plain)}
    return Peer(engine, SAME_SHAPE, precision, _converted(work, key, engine.suffix))


def _package_hash(*folders: str) -> str:
    """A hash of the parts of this package that decide what a converted model is."""
    root = Path(bvtdeploy.__file__).parent
    files = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _converted(job: dict[str, Any], key: dict[str, Any], suffix: str) -> Path:
    """The file of a job: from the cache, or made now. Raises MissingError where the converter fails, UserError for a bad source."""
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / "bench" / f"{job['kind']}-{name}{suffix}"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent)
    except OSError as error:
        fix = "set BVTDEPLOY_CACHE to a folder that can be written"
        raise UserError("the cache folder cannot be written", where=str(path.parent), why=str(error), fix=fix) from error
    with folder:
        made = Path(folder.name) / f"model{suffix}"
        _run({**job, "to": str(made)})
        os.replace(made, path)
    return path


def _run(job: dict[str, Any]) -> None:
    package = str(Path(bvtdeploy.__file__).resolve().parent.parent)
    paths = os.pathsep.join([package, *(p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)])
    command = [sys.executable, "-m", "bvtdeploy.bench.convert", json.dumps(job)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CONVERT_TIMEOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
        )
    except subprocess.TimeoutExpired as error:
        raise MissingError(f"the converter did not finish within {CONVERT_TIMEOUT:.0f} s") from error
    if done.returncode == 2 and '{"error"' in done.stdout:
        told = json.loads(done.stdout.strip().splitlines()[-1])["error"]
        raise UserError(told["what"], where=told["where"], why=told["why"], fix=told["fix"])
    if done.returncode or not Path(job["to"]).is_file():
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise MissingError("its converter failed: " + (lines[-1] if lines else f"it ended with code {done.returncode}"))


def _output(names: list[str], chosen: str | int | None, where: str) -> str:
    """The output that the logits are, as `compile` chooses it."""
    if isinstance(chosen, str) and chosen not in names and chosen.isdecimal():
        chosen = int(chosen)
    if chosen is None and ("logits" in names or len(names) == 1):
        return "logits" if "logits" in names else names[0]
    if isinstance(chosen, str) and chosen in names:
        return chosen
    if isinstance(chosen, int) and 0 <= chosen < len(names):
        return names[chosen]
    raise UserError(
        "which output the logits are is not known" if chosen is None else f"the model has no output {chosen!r}",
        where=where,
        why="outputs: " + ", ".join(names),
        fix="choose one by name or position: --model-output",
    )
