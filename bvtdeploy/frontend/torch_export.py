"""Sources: checkpoints, exported programs, ONNX graphs, live modules. Everything goes through `torch.export` and `lower`."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import operator
import re
import traceback
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, OutputSpec
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from bvtdeploy.errors import Problem, UserError, gathered
from bvtdeploy.frontend.aten import IMPORTERS
from bvtdeploy.frontend.lower import Sizes, SourceTensor, dynamic_shapes, lower, static_shape
from bvtdeploy.frontend.reference import Reference
from bvtdeploy.frontend.report import source_line
from bvtdeploy.ir import Graph

_TRUST = "only for a file whose origin you trust: --trust-pickle (trust_pickle=True)"


@dataclass
class Imported:
    """An imported model.

    Attributes:
        graph: source ops at batch 1: one f32 input [1, C, H, W], one f32 output [1, classes].
        module: the eager reference; called with a batch it gives the logits (an exported program or ONNX graph takes batch 1 only).
        kind: "checkpoint", "pt2", "onnx" or "module".
        source_sha256: of the file; of a live module or program, of its parameters and buffers.
        parameters: number of parameters.
        bytes: size of the file; of a live source, of its parameters and buffers.
        tensors: every parameter and buffer, and which constants of the graph were computed from it.
        lines: `file.py:12` in the source of every op of the graph whose source tells, by the name of its first result.
        residue_max: the largest |with - without| / row scale over all weights from which a straight-through residue was removed.
        preprocess: the entry `preprocess` of the checkpoint, None where it has none.
        labels: the entry `labels` of the checkpoint, None where it has none.
        extras: `estimators` (removed from weights and activations), `notes` (remark -> count), `torch` (version), and the other
            entries beside the model in a checkpoint under `checkpoint`.
        reference: runs the network in PyTorch call by call, with the graph's names for its values.
    """

    graph: Graph
    module: nn.Module
    kind: str
    source_sha256: str
    parameters: int
    bytes: int
    residue_max: float
    preprocess: dict[str, Any] | None = None
    labels: list[str] | None = None
    tensors: list[SourceTensor] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)
    reference: Reference | None = None


def import_model(
    source: str | Path | nn.Module | ExportedProgram,
    *,
    example_input: Tensor | Sequence[int] | None = None,
    trust_pickle: bool = False,
    overrides: Mapping[str, Any] | None = None,
    output: str | int | None = None,
) -> Imported:
    """Imports a model from a file or from memory.

    Args:
        source: a checkpoint (`.pt`, `.pth`), an exported program (`.pt2`) or an ONNX graph (`.onnx`), told apart by content; a
            module; a program.
        example_input: a tensor [1, C, H, W], or that shape. Needed for modules that do not know their input shape; a program or a
            graph has one, and takes no other.
        trust_pickle: load files that can only be read by running code from them.
        overrides: configuration entries of a checkpoint's model, which win over what the file says.
        output: which of several outputs the logits are: a name ("logits", "0", "hidden_states.1") or a position among all float
            tensors, also as text where nothing has it for a name. None: the output that is called logits, or the only one that
            is a tensor.

    Raises:
        UserError: the source cannot be read, or the model has something that is not supported (all of it in one table).
    """
    if isinstance(source, ExportedProgram):
        digest, size = _digest(source.state_dict)
        where = "the exported program"
        return _of_shape(_from_program(source, "pt2", where, digest, size, "model", output=output), example_input, where)
    if isinstance(source, nn.Module):
        digest, size = _digest(source.state_dict())
        return _from_module(source, example_input, "module", type(source).__name__, digest, size, output)
    if not isinstance(source, (str, Path)):
        raise UserError(f"a {type(source).__name__} is not a model", fix="give a path, a torch module or an exported program")
    path = Path(source)
    content = _content(path)
    digest, size = _file_digest(path)
    if content == "onnx":
        from bvtdeploy.frontend.onnx_import import load_onnx

        model = load_onnx(path, output)
        imported = _from_program(model.program, "onnx", str(path), model.sha256, model.bytes, path.stem, module=model.module)
        return _of_shape(imported, example_input, str(path))
    if content == "pt2":
        imported = _from_program(_load_program(path, trust_pickle), "pt2", str(path), digest, size, path.stem, output=output)
        return _of_shape(imported, example_input, str(path))
    return _from_checkpoint(path, content, example_input, trust_pickle, overrides, digest, size, output)


# -- files --------------------------------------------------------------------------------------------------------------------


def _content(path: Path) -> str:
    """`pt2`, `zip` (a torch checkpoint) or `pickle` (one of the format before torch 1.6). Raises UserError on everything else."""
    where, formats = str(path), "give a .pt checkpoint or a .pt2 program (torch.export.save)"
    if not path.exists():
        raise UserError("the model file does not exist", where=where, fix="check the path")
    if path.is_dir():
        raise UserError("the model is a folder, not a file", where=where, fix=formats)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError("the model file cannot be read", where=where, why=str(error), fix="check its permissions") from error
    if not head:
        raise UserError("the model file is empty", where=where, fix="copy or save it again")
    if head[:4] == b"PK\x03\x04":
        return _zip_content(path)
    if head[:1] == b"\x80":
        return "pickle"
    if path.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and (b"onnx" in head or b"pytorch" in head)):
        return "onnx"
    text = all(byte in b"\t\n\r\f" or byte >= 32 for byte in head)
    if head.startswith(b"version https://git-lfs"):
        raise UserError("the model file is a Git LFS pointer, not the model", where=where, fix="fetch it: git lfs pull")
    why = f"it is a text file that starts with {head[:24].decode('utf-8', 'replace')!r}" if text else "it is not a torch file"
    raise UserError("the model file is neither a torch checkpoint nor an exported program", where=where, why=why, fix=formats)


def _zip_content(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/", 1)[-1] for name in archive.namelist()]
            damaged = archive.testzip() if "archive_format" in names else None
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise UserError(
            "the model file is damaged", where=str(path), why=f"its zip archive cannot be read: {error}",
            fix="copy or save it again; it may be incomplete",
        ) from error  # fmt: skip
    if damaged is not None:
        raise UserError("the model file is damaged", where=str(path), why=f"checksum of {damaged}", fix="copy or save it again")
    if "archive_format" in names or "models/model.json" in names:
        return "pt2"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        raise UserError(
            "TorchScript is not a supported input format", where=str(path), why="it is not a program of torch.export",
            fix="export the original model with torch.export, or save its state dict",
        )  # fmt: skip
    if "data.pkl" in names:
        return "zip"
    raise UserError(
        "the model file is a zip archive without a torch model", where=str(path),
        why="found " + ", ".join(sorted(names)[:4]), fix="give a .pt checkpoint or a .pt2 program",
    )  # fmt: skip


def _file_digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def _digest(state: Mapping[str, Any]) -> tuple[str, int]:
    """Hash and size of the tensors of a state dict, with their names, dtypes and shapes."""
    digest, size = hashlib.sha256(), 0
    for name, value in state.items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            size += value.numel() * value.element_size()
    return digest.hexdigest(), size


def _refuse_pickle(path: Path, names: Sequence[str]) -> UserError:
    return UserError(
        "the file can only be loaded by running code from it, and is refused", where=str(path),
        why=f"it is a pickle that calls {len(names)} function(s) or class(es) that are no tensors or plain values",
        fix=f"save the state dict (torch.save(model.state_dict(), path)) or the program of torch.export; {_TRUST}",
        problems=[Problem(name, why="loading the file calls it") for name in names],
    )  # fmt: skip


# -- checkpoints --------------------------------------------------------------------------------------------------------------


def _from_checkpoint(
    path: Path, content: str, example_input: Tensor | Sequence[int] | None, trust_pickle: bool,
    overrides: Mapping[str, Any] | None, digest: str, size: int, output: str | int | None,
) -> Imported:  # fmt: skip
    from bvtdeploy.models.checkpoint import load_model, read_checkpoint

    if content == "zip":
        foreign = _unsafe_globals(path.open("rb"))
        if foreign and foreign != ["argparse.Namespace"]:
            if not trust_pickle:
                raise _refuse_pickle(path, foreign)
            module = _load_pickle(path)
            return _from_module(module, example_input, "checkpoint", str(path), digest, size, output)
    checkpoint = read_checkpoint(path)
    try:
        module = load_model({"model": checkpoint.state, "config": checkpoint.config}, config=overrides)
    except UserError as error:
        error.where = error.where or str(path)
        raise
    imported = _from_module(module, example_input, "checkpoint", str(path), digest, size, output)
    preprocess, labels = checkpoint.extra.get("preprocess"), checkpoint.extra.get("labels")
    imported.preprocess = dict(preprocess) if isinstance(preprocess, Mapping) else None
    imported.labels = [str(label) for label in labels] if isinstance(labels, (list, tuple)) else None
    imported.extras["checkpoint"] = {k: v for k, v in checkpoint.extra.items() if k not in ("preprocess", "labels")}
    return imported


def _unsafe_globals(file: Any) -> list[str]:
    """What a torch file would call, beyond tensors, when it is unpickled. The pickle is read, not run."""
    with file:
        try:
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
        except Exception:  # noqa: BLE001  (not a file of torch.save: its loader says what is wrong with it)
            return []


def _load_pickle(path: Path) -> nn.Module:
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs the file's code, which can raise anything
        raise UserError(
            "the pickled model cannot be loaded", where=str(path), why=_reason(error), fix="make its classes importable"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"the file holds a {type(module).__name__}, not a module", where=str(path), fix="save the state dict alone")
    return module


# -- programs -----------------------------------------------------------------------------------------------------------------


def _load_program(path: Path, trust_pickle: bool) -> ExportedProgram:
    with zipfile.ZipFile(path) as archive:
        _screen_program(archive, path, trust_pickle)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.load(path)
    except Exception as error:  # torch raises whatever its readers meet
        raise UserError(
            "the exported program cannot be loaded", where=str(path), why=_reason(error),
            fix=f"export it again, with torch {torch.__version__.split('+')[0]}",
        ) from error  # fmt: skip


def _screen_program(archive: zipfile.ZipFile, path: Path, trust_pickle: bool) -> None:
    """Refuses programs whose loading runs code: pickles that are more than tensors, compiled code, and symbolic sizes (torch
    evaluates their text). Names are compared without case, as torch's own reader finds them."""
    foreign: list[str] = []
    names = [info.filename.lower() for info in archive.infolist()]
    if len(set(names)) != len(names):
        raise UserError("the program is damaged", where=str(path), why="its archive has a file twice", fix="export it again")
    for info, name in zip(archive.infolist(), names, strict=True):
        short = "/".join(name.split("/")[1:])
        if any(word in name for word in ("custom_obj_", "opaque_obj_", "aotinductor")):
            foreign.append(short)
        elif name.endswith(".json"):
            try:
                tree = json.loads(archive.read(info))
                found = _strings(tree)
            except ValueError as error:
                raise UserError("the program is damaged", where=str(path), why=str(error), fix="export it again") from error
            if any(key == "expr_str" for key, _ in found):
                raise dynamic_shapes(str(path), _stored_sizes(tree))
            foreign += [f"a pickled tensor of {short}" for key, _ in found if key == "use_pickle"]
        elif name.endswith(".pt") and info.file_size and not _only_tensors(archive.read(info)):
            foreign.append(short)
    if foreign and not trust_pickle:
        raise _refuse_pickle(path, foreign)


def _of_shape(imported: Imported, given: Tensor | Sequence[int] | None, where: str) -> Imported:
    """The imported program, whose input has one shape. Raises UserError where another one was asked for."""
    told = imported.graph.inputs[0].type.shape
    asked = told if given is None else tuple(given.shape if isinstance(given, Tensor) else given)
    if asked != told:
        raise UserError(
            f"the model takes an input of shape {list(told)}, not {list(asked)}", where=where,
            why="an exported program and an ONNX graph are of one input shape",
            fix="leave --input-shape (example_input=) out, or export the model for that shape",
        )  # fmt: skip
    return imported


def _strings(node: Any) -> list[tuple[str, str]]:
    """All (key, text) of a JSON tree whose value is a text, or true."""
    if isinstance(node, dict):
        own = [(key, str(value)) for key, value in node.items() if isinstance(value, str) or value is True]
        return own + [found for value in node.values() for found in _strings(value)]
    return [found for value in node for found in _strings(value)] if isinstance(node, list) else []


def _stored_sizes(tree: Any) -> list[Sizes]:
    """The tensors with symbolic sizes of a stored program, read as text: inputs first, then in the order of its nodes."""
    nodes = {name: node for node in _each(tree, "target") for name in {v for k, v in _strings(node.get("outputs")) if k == "name"}}
    shapes = {}
    for graph in _each(tree, "tensor_values"):
        shapes.update({name: meta["sizes"] for name, meta in graph["tensor_values"].items() if _each(meta, "expr_str")})
    found = []
    for name in sorted(shapes, key=lambda name: (name in nodes, list(nodes).index(name) if name in nodes else 0)):
        texts = [dict(_strings(size)).get("expr_str", str(size.get("as_int", "?"))) for size in shapes[name]]
        symbols = re.findall(r"Symbol\('(\w+)'", " ".join(texts))
        node = nodes.get(name, {})
        metadata = node.get("metadata", {})
        module = str(metadata.get("nn_module_stack", "")).rpartition(";")[2].split(",")[1:2]
        op = str(node.get("target", "input")).removeprefix("torch.ops.")
        shown = [re.sub(r"Symbol\('(\w+)'[^)]*\)", r"\1", text) for text in texts]
        found.append(Sizes(op, "".join(module), source_line(metadata.get("stack_trace")), shown, symbols or ["?"]))
    return found


def _each(node: Any, key: str) -> list[dict[str, Any]]:
    """All objects of a JSON tree that have this key, in order."""
    if isinstance(node, dict):
        return ([node] if key in node else []) + [found for value in node.values() for found in _each(value, key)]
    return [found for value in node for found in _each(value, key)] if isinstance(node, list) else []


def _only_tensors(data: bytes) -> bool:
    """A torch file can be loaded without running anything: then torch does not fall back to unpickling it."""
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  (whatever is wrong with it, it is not that)
        return False
    return True


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place ops, wrapped blocks, and ops that torch itself defines by others (einsum, clip, hstack) unless
    there is an importer. Rewriting takes longer than the export, so only where needed."""

    def simple(node: fx.Node) -> bool:
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            return not target._schema.is_mutable and not _composite(target)
        return node.op in ("placeholder", "output") or target is operator.getitem

    if all(map(simple, program.graph_module.graph.nodes)):
        return program
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        table: Any = torch.export.default_decompositions()
        functional: ExportedProgram = program.run_decompositions({op: f for op, f in table.items() if _composite(op)})
    return functional


def _composite(op: Any) -> bool:
    """torch defines the op by others, and we have no importer of it."""
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten" or str(op).removeprefix("aten.") in IMPORTERS:
        return False
    name: Any = op.name  # (untyped in torch)
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name(), "CompositeImplicitAutograd"))


def _from_program(
    program: ExportedProgram, kind: str, where: str, digest: str, size: int, name: str, *,
    module: nn.Module | None = None, output: str | int | None = None, strip: str = "",
) -> Imported:  # fmt: skip
    shape = static_shape(program, where)
    pick = 0 if module is not None else _pick_output(program, where, output)
    result = _user_outputs(program)[pick].arg
    value = next((n.meta.get("val") for n in program.graph_module.graph.nodes if n.name == getattr(result, "name", None)), None)
    out = list(value.shape) if isinstance(value, Tensor) else None
    if out is None or len(out) != 2 or out[0] != 1:
        raise UserError(
            f"the output has shape {out}", where=where, why="a classifier's logits [1, classes] are expected",
            fix="return the logits alone",
        )  # fmt: skip
    functional = _functional(program)
    specs = functional.graph_signature.output_specs  # written state comes before the outputs of the model
    if changed := [str(s.target) for s in specs if s.kind not in (OutputKind.USER_OUTPUT, OutputKind.USER_INPUT_MUTATION)]:
        raise UserError(
            "the forward pass changes the model's state", where=where, why="it writes " + ", ".join(changed[:4]),
            fix="call model.eval() before the export; the compiled model has no state",
        )  # fmt: skip
    position = [i for i, spec in enumerate(specs) if spec.kind == OutputKind.USER_OUTPUT][pick]
    lowered = lower(functional, position, name, where, strip)
    assert [v.type.shape for v in lowered.graph.inputs] == [shape]
    parameters = [p for p in program.state_dict.values() if isinstance(p, nn.Parameter)]
    return Imported(
        graph=lowered.graph,
        module=_Logits(program.module(), pick=pick) if module is None else module,
        kind=kind,
        source_sha256=digest,
        parameters=sum(p.numel() for p in parameters),
        bytes=size,
        residue_max=lowered.residue,
        tensors=lowered.tensors,
        lines=lowered.lines,
        extras={"estimators": lowered.estimators, "notes": dict(lowered.notes), "torch": torch.__version__},
        reference=lowered.reference,
    )


def _user_outputs(program: ExportedProgram) -> list[OutputSpec]:
    return [spec for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]


def _pick_output(program: ExportedProgram, where: str, output: str | int | None) -> int:
    """The position of the logits among the flat outputs."""
    values = {n.name: n.meta.get("val") for n in program.graph_module.graph.nodes}
    # each a tensor of its own: one node may be returned twice
    metas = [values.get(getattr(spec.arg, "name", "")) for spec in _user_outputs(program)]
    flat = [torch.empty(m.shape, dtype=m.dtype, device="meta") if isinstance(m, Tensor) else m for m in metas]
    if len(flat) == 1 and output is None:
        return 0
    try:
        outputs = _pytree.tree_unflatten(flat, program.call_spec.out_spec)
    except Exception:  # noqa: BLE001  (an output class that only its own package can rebuild)
        outputs = tuple(flat)
    chosen = _logits(outputs, where, output)
    return next(i for i, t in enumerate(flat) if t is chosen)


# -- modules ------------------------------------------------------------------------------------------------------------------


class _Logits(nn.Module):
    """A module whose forward gives the logits alone: the `output` that was asked for, or leaf number `pick` of the outputs."""

    def __init__(self, inner: nn.Module, output: str | int | None = None, pick: int | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.output, self.pick = output, pick

    def forward(self, x: Tensor) -> Tensor:
        out = self.inner(x)
        if self.pick is not None:
            found: Tensor = _pytree.tree_leaves(out)[self.pick]
            return found
        return _logits(out, "the model", self.output)

    def eval(self) -> _Logits:  # modules of exported programs refuse it
        return self


class _DataIsDetach(TorchFunctionMode):
    """torch.export cannot trace x.data, which old training code writes for x.detach()."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(getattr(func, "__self__", None), "__name__", "") == "data":
            return args[0].detach()
        return func(*args, **(kwargs or {}))


def _entries(outputs: Any) -> dict[str, Any]:
    """What a container of outputs holds, by name or by position; nothing of anything else."""
    if isinstance(outputs, Mapping):
        return {str(k): v for k, v in outputs.items()}
    if is_dataclass(outputs):
        return {f.name: getattr(outputs, f.name) for f in fields(outputs)}
    if hasattr(outputs, "_asdict"):
        return dict(outputs._asdict())
    return {str(i): v for i, v in enumerate(outputs)} if isinstance(outputs, (list, tuple)) else {}


def _float_tensors(outputs: Any, path: str = "") -> dict[str, Tensor]:
    """All float tensors of the outputs, in order, by path: `logits`, `0`, `hidden_states.1`."""
    if isinstance(outputs, Tensor):
        return {path: outputs} if outputs.dtype.is_floating_point else {}
    found: dict[str, Tensor] = {}
    for name, value in _entries(outputs).items():
        found |= _float_tensors(value, f"{path}.{name}" if path else name)
    return found


def _logits(outputs: Any, where: str, output: str | int | None = None) -> Tensor:
    """The logits among what a forward returned: the `output` asked for; else the tensor itself, the entry `logits`, or the only
    float tensor beside containers of others. Raises UserError, with a list of all outputs, otherwise."""
    if isinstance(outputs, Tensor) and output is None:
        return outputs
    found = _float_tensors(outputs)
    top = {name: t for name, t in found.items() if "." not in name}
    if output is None and "logits" in top:
        return top["logits"]
    if output is None and len(top) == 1:
        return next(iter(top.values()))
    by_position = dict(enumerate(found.values()))
    if isinstance(output, str) and output not in found and output.isdecimal():
        output = int(output)
    if output is not None and (chosen := by_position.get(output) if isinstance(output, int) else found.get(output)) is not None:
        return chosen
    names = [f"{name or '(the only one)'} {list(t.shape)}" for name, t in found.items()]
    what = f"the model returns {len(found)} tensors, and none is called logits"
    if output is not None:
        what = f"the model has no output {output!r}"
    raise UserError(
        what, where=where, why="outputs: " + (", ".join(names) or type(outputs).__name__),
        fix="wrap it so that forward returns the logits alone, or choose one by name or position: --model-output (model_output=)",
    )  # fmt: skip


def _from_module(
    module: nn.Module, example_input: Tensor | Sequence[int] | None, kind: str, where: str, digest: str, size: int,
    output: str | int | None = None,
) -> Imported:  # fmt: skip
    x = _example(module, example_input, where)
    with contextlib.suppress(NotImplementedError):  # the module of an exported program
        module.eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            out = module(x)
        except Exception as error:  # the user's code
            raise UserError(
                f"the model fails on an input of shape {list(x.shape)}", where=_place(error) or where, why=_reason(error),
                fix="give the input shape that it was trained with, and make its forward run on the CPU",
            ) from error  # fmt: skip
        reference = module if isinstance(out, Tensor) and output is None else _Logits(module, output)
        if reference is not module:
            _logits(out, where, output)
        try:
            with _DataIsDetach(), _quiet():
                program = torch.export.export(reference, (x,), strict=False)
        except Exception as error:  # torch.export has no common class of errors
            raise _untraceable(module, x, error, where) from error
    strip = "" if reference is module else "inner"
    name = type(module).__name__
    imported = _from_program(program, kind, where, digest, size, name, module=reference, strip=strip)
    imported.parameters = sum(p.numel() for p in module.parameters())
    return imported


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what torch prints and logs of a failed export (the graph so far) to itself: the error says it in a table."""
    log = logging.getLogger("torch")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


_DECIDES = {
    "__bool__": "bool(tensor)", "__int__": "int(tensor)", "__float__": "float(tensor)", "__index__": "a tensor as an index",
    "item": "tensor.item()", "tolist": "tensor.tolist()", "numpy": "tensor.numpy()", "__array__": "numpy of a tensor",
}  # fmt: skip


class _Decisions(TorchFunctionMode):
    """Notes every place where a forward makes Python values of tensors, with the module that is running there."""

    def __init__(self) -> None:
        super().__init__()
        self.modules = [""]
        self.found: list[Problem] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        what = _DECIDES.get(getattr(func, "__name__", ""))
        if what is not None:
            line = source_line("".join(traceback.format_list(traceback.extract_stack())))
            fix = "use torch.where or arithmetic on tensors, or decide it before the export"
            self.found.append(Problem(what, self.modules[-1], line, "Python needs a value that is data-dependent", fix))
        return func(*args, **(kwargs or {}))


def _untraceable(module: nn.Module, x: Tensor, error: Exception, where: str) -> UserError:
    """torch.export stops at the first thing that it cannot trace; running the model once more shows all that depend on values."""
    watch = _Decisions()
    hooks: list[Any] = []
    for name, child in module.named_modules():
        hooks.append(child.register_forward_pre_hook(lambda _, __, name=name: watch.modules.append(name)))
        hooks.append(child.register_forward_hook(lambda *_: watch.modules.pop() and None))
    try:
        with watch, torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    fix = "make forward free of Python control flow on tensor values, and of .item(), numpy and printing"
    return UserError(
        "torch.export cannot trace the model", where=where, why=_reason(error), fix=f"nothing was written; {fix}",
        problems=gathered(watch.found) or [Problem(type(error).__name__, "", _place(error), _reason(error), fix)],
    )  # fmt: skip


def _example(module: nn.Module, given: Tensor | Sequence[int] | None, where: str) -> Tensor:
    if isinstance(given, Tensor):
        x = given.detach()
    else:
        shape = given if given is not None else _known_shape(module)
        if shape is None:
            raise UserError(
                "the input shape of the model is not known", where=where, fix="give an example input, or its shape (1, C, H, W)"
            )
        x = torch.rand(tuple(int(n) for n in shape), generator=torch.Generator().manual_seed(0))
    if x.dtype != torch.float32 or x.ndim != 4 or x.shape[0] != 1:
        raise UserError(
            f"the example input is {str(x.dtype)[6:]} of shape {list(x.shape)}", where=where,
            why="the compiled model takes one float32 image [1, C, H, W]", fix="give a float32 tensor of batch 1",
        )  # fmt: skip
    return x


def _known_shape(module: nn.Module) -> Sequence[int] | None:
    shape = getattr(module, "input_shape", None)
    if isinstance(shape, (tuple, list, torch.Size)):
        return shape if len(shape) == 4 else (1, *shape)
    config = getattr(module, "config", None)
    size, channels = getattr(config, "image_size", None), getattr(config, "in_channels", getattr(config, "num_channels", None))
    if isinstance(size, int) and isinstance(channels, int):
        return (1, channels, size, size)
    return None


def _reason(error: BaseException) -> str:
    """The first sentence of an error, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """`file.py:12` of the innermost frame of the model's own code; empty where only torch and we were running."""
    own = [
        line for line in traceback.format_list(traceback.extract_tb(error.__traceback__))
        if "/torch/" not in line and "/bvtdeploy/frontend/" not in line
    ]  # fmt: skip
    return source_line("".join(own))
