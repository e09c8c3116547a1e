"""compile: source model -> graph -> passes -> lowered -> `.bvt` file, with a report of everything that was decided."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact import preprocess as preprocessing
from bvtdeploy.artifact.golden import golden_input
from bvtdeploy.artifact.inspect import describe as describe_artifact
from bvtdeploy.artifact.reader import parse
from bvtdeploy.artifact.writer import Content, to_bytes, write_aside
from bvtdeploy.errors import Problem, UserError, gathered
from bvtdeploy.ir import text
from bvtdeploy.ir.graph import Graph
from bvtdeploy.ir.interp import run as interpret
from bvtdeploy.lower.lowered import Lowered, describe, lower
from bvtdeploy.lower.weights import Costs, Measured
from bvtdeploy.ops.kinds import KINDS, WEIGHTS, source_kinds
from bvtdeploy.passes import pipeline
from bvtdeploy.passes.base import Elementwise, PatchEmbed, Report, Side
from bvtdeploy.passes.binary_weights import binary_rows

SIGN_POLICY = "sign(0) = +1"
GOLDEN_IMAGES = 2


def package_version() -> str:
    """The version of this package."""
    try:
        return version("bvtdeploy")
    except PackageNotFoundError:
        return "0+unknown"


@dataclass
class Compiled:
    """A compiled model in memory: the graph over rows x channels, its lowering, what the passes did, what the front end knew.

    `source_storage`: bytes of the source's parameters and buffers by what they are for (ops/kinds.py).
    """

    graph: Graph
    lowered: Lowered
    report: Report
    timings: list[pipeline.Timing]
    imported: Any
    input_shape: tuple[int, int, int]
    source_storage: dict[str, int] = field(default_factory=dict)


@dataclass
class CompileReport:
    """What `compile` did; `as_dict` has the keys of `bvtdeploy compile --json`."""

    artifact: Path
    compiled: Compiled = field(repr=False)  # graphs and arrays: pages of numbers
    description: dict[str, Any] = field(default_factory=dict, repr=False)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        c, d = self.compiled, self.description
        kinds: dict[str, int] = {}
        for op in d["ops"]:
            kinds[op["kind"]] = kinds.get(op["kind"], 0) + 1
        return {
            "artifact": str(self.artifact),
            "bytes": d["bytes"],
            "board": d["board"],
            "source": {
                "kind": c.imported.kind,
                "parameters": c.imported.parameters,
                "bytes": c.imported.bytes,
                "tensor_bytes": sum(c.source_storage.values()),
            },
            "layers": {"binary": c.report.binary_layers, "mixed": c.report.mixed_layers, "float": c.report.float_layers},
            "macs": d["macs"],
            "storage": {kind: {"before": c.source_storage.get(kind, 0), "after": d["storage"][kind]} for kind in KINDS},
            "ops": dict(sorted(kinds.items())),
            "groups": len(d["groups"]),
            "sections": d["sections"],
            "arena_bytes": d["arena_bytes"],
            "tile_bytes": d["tile_bytes"],
            "fused": {k: n for k, n in sorted(c.report.fused.items()) if n},
            "declined": [{"site": x.site, "line": x.line, "why": x.why} for x in c.report.declined],
            "residue_max": c.report.residue_max,
            "zeros_in_weights": c.report.zeros_in_weights,
            "ternary_signs": c.report.ternary_signs,
            "zeros": c.report.zeros,
            "side": c.report.side,
            "patch_embed": c.report.patch_embed,
            "elementwise": {"arithmetic": c.report.elementwise, "fp16_ops": c.report.half_ops},
            "policy": SIGN_POLICY,
            "passes": [{"name": t.name, "seconds": t.seconds, "nodes": t.nodes} for t in c.timings],
            "warnings": self.warnings,
        }


def _dump(folder: Path, number: int, name: str, graph: Graph) -> None:
    stem = folder / f"{number:02d}_{name}"
    stem.with_suffix(".txt").write_text(text.print_graph(graph))
    with zipfile.ZipFile(stem.with_suffix(".npz"), "w") as archive:  # as np.savez, which does not take every name
        for name, array in text.constants(graph).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def compile_graph(
    imported: Any,
    *,
    dump_ir: Path | None = None,
    progress: Callable[[str], None] | None = None,
    zeros: Literal["exact", "positive"] = "exact",
    side: Side = "fp32",
    patch_embed: PatchEmbed = "fp32",
    elementwise: Elementwise = "fp32",
    costs: Costs | None = None,
    measured: Measured | None = None,
) -> Compiled:
    """Runs the pipeline and the lowering on an imported model; for the options from `zeros` on see `compile_model`.

    Raises UserError when something has no compiled form, or when nothing in the model is binary.
    """
    if side not in get_args(Side):
        raise UserError(f"real parameters cannot be stored as {side!r}", where="side", fix=f"give {', '.join(get_args(Side))}")
    if patch_embed not in get_args(PatchEmbed):
        known = ", ".join(get_args(PatchEmbed))
        raise UserError(f"a patch embedding cannot be computed in {patch_embed!r}", where="patch_embed", fix=f"give {known}")
    if elementwise not in get_args(Elementwise):
        fix = f"give {', '.join(get_args(Elementwise))}"
        raise UserError(f"element-wise ops cannot compute in {elementwise!r}", where="elementwise", fix=fix)
    say = progress or (lambda _: None)
    report = Report(
        residue_max=imported.residue_max, zeros=zeros, side=side, patch_embed=patch_embed, elementwise=elementwise,
        lines=imported.lines,
    )  # fmt: skip
    (image,) = imported.graph.inputs
    _, c, h, w = image.type.shape
    if dump_ir is not None:
        try:
            dump_ir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write IR to {dump_ir}", why=error.strerror or "", fix="give a folder to --dump-ir") from error

    def observe(number: int, name: str, graph: Graph) -> None:
        say(f"pass {name}: {sum(op.kind != 'const' for op in graph.ops)} ops")
        if dump_ir is not None:
            _dump(dump_ir, number, name, graph)

    source_storage = _source_storage(imported)
    layers = [Problem(op.kind, op.module, report.line(op)) for op in imported.graph.of_kind("linear", "conv2d")]
    try:
        graph, timings = pipeline.run(imported.graph, report, observe)
    except UserError as error:
        if layers and report.float_layers == len(layers):  # the cause; what else such a model has is the second concern
            raise _nothing_binary(layers, report, error.problems) from error
        raise
    if report.binary_layers + report.mixed_layers == 0:
        raise _nothing_binary(layers, report)
    say("scheduling and packing")
    lowered = lower(graph, costs, measured)
    if dump_ir is not None:
        (dump_ir / f"{len(timings) + 1:02d}_plan.txt").write_text(describe(lowered))
    return Compiled(graph, lowered, report, timings, imported, (c, h, w), source_storage)


def _nothing_binary(layers: list[Problem], report: Report, others: Sequence[Problem] = ()) -> UserError:
    """Every layer of a float model, and what it lacks; then its other problems."""
    declined = {d.module: d.why for d in report.declined if d.kind in ("linear", "conv2d")}
    why = "real activations and weights of more than one magnitude a row"
    fix = "put a sign in front, and make each row of its weights one scale times +-1"
    return UserError(
        "nothing in this model is binary",
        why=f"none of its {report.float_layers} linear and convolution layers has +-1 activations and row-scaled +-1 weights",
        fix="give a trained binary ViT; a full-precision model is better served by ONNX Runtime or LiteRT",
        problems=gathered([Problem(x.what, x.module, x.line, declined.get(x.module, why), fix) for x in layers] + list(others)),
    )


def _source_storage(imported: Any) -> dict[str, int]:
    """Bytes of the source's tensors by kind. A tensor that several constants come from counts as the first kind in the
    order of KINDS; of those that make up one weight, the ones smaller than it are its scales."""
    constants = {op.out.name: op.out for op in imported.graph.of_kind("const")}
    binary = {name for name, v in constants.items() if v.data is not None and binary_rows(v.data) is not None}
    kinds = source_kinds(imported.graph, binary)
    found = dict.fromkeys(KINDS, 0)
    for tensor in imported.tensors:
        read_as = set()
        for name in tensor.constants:
            if name in constants:
                kind = kinds[name]
                read_as.add("scales" if kind in WEIGHTS and tensor.elements < constants[name].type.size else kind)
        default = "scales" if tensor.read else "unread"
        found[next((kind for kind in KINDS if kind in read_as), default)] += tensor.bytes
    return found


def golden_inputs(input_shape: tuple[int, int, int], count: int = GOLDEN_IMAGES) -> list[npt.NDArray[np.float32]]:
    """The golden inputs f32[C*H, W] of the seeds 0 .. count-1 (artifact/golden.py)."""
    c, h, w = input_shape
    return [golden_input(seed, c * h, w) for seed in range(count)]


def _labels(given: Path | Sequence[str] | None, from_source: list[str] | None, classes: int) -> list[str]:
    """The class names: given as a file or a list, else those of the source, else none."""
    where = str(given) if isinstance(given, Path) else "labels"
    labels = list(given if given is not None and not isinstance(given, Path) else from_source or [])
    if isinstance(given, Path):
        try:
            raw = given.read_text(encoding="utf-8-sig")
            labels = json.loads(raw) if given.suffix == ".json" else [s.strip() for s in raw.splitlines() if s.strip()]
        except OSError as error:
            raise UserError(f"cannot read the labels {given}", why=error.strerror or "", fix="one class name a line") from error
        except ValueError as error:
            raise UserError(f"{given} does not hold class names", why=str(error), fix="give one name a line") from error
    if not isinstance(labels, list) or not all(isinstance(x, str) and x and x.isprintable() for x in labels):
        raise UserError("class names must be a list of printable texts", where=where, fix="one name a line, or a JSON list")
    if labels and len(labels) != classes:
        raise UserError(f"{len(labels)} class names for {classes} classes", where=where, fix="give one name a class")
    return labels


def _check_target(source: Any, output: Path) -> None:
    """Refuses a target that cannot be written, or must not be: a folder, a device, the source itself."""
    what, fix = f"cannot write {output}", "give another file name to -o"
    if not output.parent.is_dir():
        raise UserError(what, why=f"there is no folder {output.parent}", fix="make the folder, or " + fix)
    if output.exists() and not output.is_file():
        raise UserError(what, why="it is a folder" if output.is_dir() else "it is not a regular file", fix=fix)
    if isinstance(source, (str, Path)) and Path(source).exists() and output.exists() and output.samefile(source):
        raise UserError(what, why="it is the source model, which would be lost", fix=fix)


def compile_model(
    source: Any,
    output: Path,
    *,
    board: str = "generic",
    preprocess: str | None = None,
    labels: Path | Sequence[str] | None = None,
    dump_ir: Path | None = None,
    trust_pickle: bool = False,
    progress: Callable[[str], None] | None = None,
    example_input: Any = None,
    model_output: str | int | None = None,
    zeros: Literal["exact", "positive"] = "exact",
    side: Side = "fp32",
    patch_embed: PatchEmbed = "fp32",
    elementwise: Elementwise = "fp32",
    costs: Costs | None = None,
    measured: Measured | None = None,
) -> CompileReport:
    """Compiles a model to a `.bvt` file.

    Args:
        source: a path (`.pt` checkpoint, `.pt2`, `.onnx`), an nn.Module (with example_input) or an ExportedProgram.
        output: the artifact; written aside and renamed.
        board: recorded in the artifact.
        preprocess: "imagenet" or a JSON/TOML file; default: what the checkpoint says.
        labels: class names, or a file of them, one a line or a JSON list; default: what the checkpoint says.
        dump_ir: a folder for the graph after every pass.
        trust_pickle: unpickle a whole module, which runs code from the file.
        model_output: which of several outputs the logits are, by name or position; see `frontend.import_model`.
        zeros: what a sign gives for an operand that can be exactly 0 by construction (a scaled integer without a bias): a third
            code, as the source does ("exact"), or +1 ("positive"), which is faster and another function.
        side: how real parameters (everything beside the +-1 weights) are stored: fp32, fp16, or matrices in int8 and the rest in
            fp16. What is stored is what everything computes with (passes/side.py): smaller files, slightly other logits.
        patch_embed: how the first float product of the image is computed: fp32, or int8 numbers with int32 sums, which are
            faster and slightly other numbers (passes/patch_embed.py).
        elementwise: what epilogues, stencils and pools compute in: fp32, or fp16 with every step rounded (passes/half.py):
            faster on cores with the FP16 instructions of ARMv8.2, slower on others; slightly other logits, the same bits on all.
        costs: the board's costs of binary products, which choose the layouts of their weights (never results); None: one layout.
        measured: the layouts of some shapes that were the fastest on a device; they win over the costs.

    Raises:
        UserError: the source cannot be read or holds something that cannot be compiled; nothing is written then.
    """
    from bvtdeploy.frontend import import_model

    say = progress or (lambda _: None)
    _check_target(source, output)
    say("reading the model")
    imported = import_model(source, example_input=example_input, trust_pickle=trust_pickle, output=model_output)
    try:
        compiled = compile_graph(
            imported,
            dump_ir=dump_ir,
            progress=progress,
            zeros=zeros,
            side=side,
            patch_embed=patch_embed,
            elementwise=elementwise,
            costs=costs,
            measured=measured,
        )
    except UserError as error:
        error.where = error.where or (str(source) if isinstance(source, (str, Path)) else type(source).__name__)
        raise
    process = preprocessing.load(preprocess if preprocess is not None else imported.preprocess, compiled.input_shape)
    (result,) = compiled.graph.outputs
    names = _labels(labels, imported.labels, result.type.size)
    say("computing golden outputs with the reference interpreter")
    (image,) = compiled.graph.inputs
    inputs = golden_inputs(compiled.input_shape)
    golden = [(seed, interpret(compiled.graph, {image.name: x})[0]) for seed, x in enumerate(inputs)]
    data = to_bytes(Content(compiled.lowered, _meta(imported, compiled, board, model_output), golden, names, process))
    description = describe_artifact(parse(data, str(output)))  # before it replaces anything
    try:
        write_aside(output, data)
    except OSError as error:
        raise UserError(f"cannot write {output}", why=error.strerror or str(error), fix="check folder and space") from error
    report = CompileReport(output, compiled, description)
    if patch_embed != "fp32" and not compiled.graph.of_kind("dense_i8"):
        why = next(d.why for d in reversed(compiled.report.declined) if d.kind in ("", "dense"))
        report.warnings.append(f"the patch embedding is not computed in {patch_embed}: {why}")
    if process is None:
        report.warnings.append("no preprocessing known: images cannot be run directly; compile with --preprocess imagenet|FILE")
    if not names:
        report.warnings.append("no class names known: classes are numbers; compile with --labels FILE")
    if elementwise == "fp16" and not compiled.report.half_ops:
        report.warnings.append("fp16 changed nothing: no element-wise op of this model could compute in it (--explain says why)")
    if compiled.report.zeros_in_weights:
        report.warnings.append(f"{compiled.report.zeros_in_weights} weights are exactly 0 and became +1 ({SIGN_POLICY})")
    return report


def _meta(imported: Any, compiled: Compiled, board: str, model_output: str | int | None) -> dict[str, int | float | str | bytes]:
    chosen = {} if model_output is None else {"source.output": model_output}
    return {
        **chosen,
        "compiler": f"bvtdeploy {package_version()}",
        "board": board,
        "source.sha256": str(imported.source_sha256),
        "source.kind": str(imported.kind),
        "source.parameters": int(imported.parameters),
        "source.bytes": int(imported.bytes),
        "policy": SIGN_POLICY,
        "passes": ",".join(t.name for t in compiled.timings),
        "graph.sha256": hashlib.sha256(text.print_graph(compiled.graph).encode()).hexdigest(),
        "input.channels": compiled.input_shape[0],
        "input.height": compiled.input_shape[1],
        "input.width": compiled.input_shape[2],
        "layers.binary": compiled.report.binary_layers,
        "layers.float": compiled.report.float_layers,
        "residue_max": float(compiled.report.residue_max),
        "zeros_in_weights": compiled.report.zeros_in_weights,
        "zeros": compiled.report.zeros,
        "side": compiled.report.side,
        "patch_embed": compiled.report.patch_embed,
        "elementwise": compiled.report.elementwise,
        "layers.mixed": compiled.report.mixed_layers,
        "signs.ternary": compiled.report.ternary_signs,
    }


__all__ = ["CompileReport", "Compiled", "compile_graph", "compile_model", "golden_inputs", "package_version"]
