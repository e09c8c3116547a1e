"""ONNX sources: the graph of a file as a torch module of ATen calls, and its exported program.

The module goes the way of every torch source from there on: `lower` removes straight-through estimators, folds constants and knows
what has a rule. Shapes are static: the graph is run once at batch 1 while it is built, so that what computes shapes is gone after.
Nodes carry the module path and source line that torch's exporters write into the file; without them, their own name.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from torch import Tensor, nn
from torch.export import ExportedProgram

from bvtdeploy.errors import Problem, UserError
from bvtdeploy.frontend.aten import UnsupportedError
from bvtdeploy.frontend.lower import one_thread
from bvtdeploy.frontend.onnx_ops import CONVERTERS, TO_TORCH, Call, Function, Node
from bvtdeploy.frontend.report import source_line, unsupported

OLDEST_OPSET = 17
_SCOPES, _TRACE = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.stack_trace"
_NO_RULE = ("no rule for it in this release", "replace it by supported ops, or move it out of the model")
_OTHER = {
    "If": ("control flow on data", "choose the branch before the export"),
    "Loop": ("control flow on data", "unroll the loop"),
    "Scan": ("control flow on data", "unroll the loop"),
    "QuantizeLinear": ("a quantised model", "export the float model: binarisation is part of its arithmetic"),
    "DequantizeLinear": ("a quantised model", "export the float model: binarisation is part of its arithmetic"),
}
_SCALE = 1e-6


@dataclass
class OnnxModel:
    """A file's graph: the torch module (image of batch 1 -> logits), its exported program, digest and size of the file's bytes."""

    module: nn.Module
    program: ExportedProgram
    sha256: str
    bytes: int


def load_onnx(path: Path, output: str | int | None = None) -> OnnxModel:
    """Reads an ONNX file, with external data beside it.

    Args:
        path: of the .onnx file.
        output: which of several outputs the logits are, by name or by position. None: the one called logits, or the only one.

    Raises:
        UserError: it cannot be read, is not a model of one f32 image [1 or N, C, H, W], or has something that is not supported.
    """
    where = str(path)
    model = _read(path)
    opsets = {entry.domain or "ai.onnx": int(entry.version) for entry in model.opset_import}
    opset = opsets.get("ai.onnx", 0)
    if opset < OLDEST_OPSET:
        raise UserError(
            f"the model is of ONNX opset {opset}", where=where, why=f"opset {OLDEST_OPSET} or later is read",
            fix=f"export it again with opset_version={OLDEST_OPSET} or later, or convert it with onnx.version_converter",
        )  # fmt: skip
    digest, size = _digest(path, model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    shape, name = _input(model.graph, where)
    result = _output(model.graph, output, where)
    nodes = _recognise(_live(_nodes(model.graph), result), _tensors(model.graph), result)
    module = _Builder(model, opset, name, shape, where).build(nodes, result)
    return OnnxModel(module, _program(module, shape, where), digest, size)


# -- the file -----------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> ModelProto:
    where = str(path)
    try:
        model = onnx.load(path)
        if model.ByteSize() < 2**31:
            onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise UserError(
            "a file with the weights is missing", where=where, why=str(error), fix="copy it beside the .onnx file, under its name"
        ) from error
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if "No Op registered" in lines[0]:  # the table of unsupported ops says more
            return model
        raise UserError("the ONNX file is damaged", where=where, why=lines[0], fix="copy or export it again") from error
    return model


def _digest(path: Path, model: ModelProto) -> tuple[str, int]:
    """Hash and size of the file and of the files of its external data."""
    stored = onnx.load(path, load_external_data=False)
    tensors = [t for t in stored.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    names = sorted({entry.value for t in tensors for entry in t.external_data if entry.key == "location"})
    digest, size = hashlib.sha256(), 0
    for file in (path, *(path.parent / name for name in names)):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        size += file.stat().st_size
    return digest.hexdigest(), size


def _tensors(graph: GraphProto) -> dict[str, TensorProto]:
    return {t.name: t for t in graph.initializer}


def _input(graph: GraphProto, where: str) -> tuple[tuple[int, ...], str]:
    """Shape and name of the only input; a batch without a size is 1."""
    stored = _tensors(graph)
    inputs: list[ValueInfoProto] = [v for v in graph.input if v.name not in stored]
    if len(inputs) != 1 or not inputs[0].type.HasField("tensor_type"):
        raise UserError(
            f"the model takes {len(inputs)} inputs", where=where, why="one image [1, C, H, W] is expected: it has "
            + (", ".join(v.name for v in inputs[:4]) or "none"), fix="export a module whose forward takes the image alone",
        )  # fmt: skip
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        raise UserError(
            f"the input is {TensorProto.DataType.Name(kind.elem_type).lower()}", where=where,
            why="bvtdeploy compiles float32 models", fix="export model.float() with a float32 example input",
        )  # fmt: skip
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    names = [str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    text = f"[{', '.join(names)}]"
    if len(sizes) != 4 or sizes[0] not in (1, None):
        raise UserError(
            f"the input has shape {text}", where=where, why="a model of one image [1, C, H, W] is expected",
            fix="export with an example input of batch 1",
        )  # fmt: skip
    if None in sizes[1:] or 0 in sizes:
        raise UserError(
            "the model has dynamic shapes", where=where,
            why=f"the input {inputs[0].name} is {text}; only the batch may have no size",
            fix="nothing was written; export it without dynamic axes, or fix them with onnxruntime.tools.make_dynamic_shape_fixed",
            problems=[
                Problem(f"input {inputs[0].name}", why=f"dimension {i} is {names[i]}, not a size", fix="give it a fixed size")
                for i in range(1, 4)
                if not sizes[i]
            ],
        )  # fmt: skip
    return tuple(1 if n is None else int(n) for n in sizes), inputs[0].name


def _output(graph: GraphProto, chosen: str | int | None, where: str) -> str:
    names = [str(v.name) for v in graph.output]
    if chosen is None and (len(names) == 1 or "logits" in names):
        return "logits" if "logits" in names else names[0]
    if isinstance(chosen, str) and chosen not in names and chosen.isdecimal():
        chosen = int(chosen)
    if isinstance(chosen, int) and 0 <= chosen < len(names):
        return names[chosen]
    if isinstance(chosen, str) and chosen in names:
        return chosen
    what = f"the model returns {len(names)} tensors, and none is called logits"
    if chosen is not None:
        what = f"the model has no output {chosen!r}"
    raise UserError(
        what, where=where, why="outputs: " + ", ".join(names),
        fix="export a module that returns the logits alone, or choose one by name or position: --model-output (model_output=)",
    )  # fmt: skip


def _nodes(graph: GraphProto) -> list[Node]:
    """The nodes as Python data. A node without a module path of its own belongs to the module whose result it takes."""
    nodes: list[Node] = []
    modules: dict[str, str] = {}
    for proto in graph.node:
        properties = {p.key: p.value for p in proto.metadata_props}
        module = _module_path(proto, properties)
        if module is None:
            module = next((modules[name] for name in proto.input if name in modules), None)
        else:
            modules.update(dict.fromkeys(proto.output, module))
        if module is None:
            module = proto.name or f"{proto.op_type}({next(iter(proto.output), '')})"
        op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}::{proto.op_type}"
        attrs = {a.name: _attribute(a) for a in proto.attribute}
        nodes.append(
            Node(op, proto.name, list(proto.input), list(proto.output), attrs, module, source_line(properties.get(_TRACE)))
        )
    return nodes


def _module_path(proto: NodeProto, properties: dict[str, str]) -> str | None:
    """The path of the torch module that the node comes from, where an exporter of torch wrote it; the top module is empty."""
    if _SCOPES in properties:
        try:
            scopes = ast.literal_eval(properties[_SCOPES])
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        if isinstance(scopes, list) and len(scopes) > 1 and all(isinstance(s, str) for s in scopes):
            return str(scopes[-2])
    if proto.name.startswith("/"):  # the older exporter: /encoder/layer.0/dense/MatMul
        return proto.name[1:].rpartition("/")[0].replace("/", ".")
    return None


def _attribute(attribute: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.FLOAT:  # stored as f32: 1e-6, not 9.99999997e-7, as the source wrote it
        return float(np.format_float_positional(np.float32(value)))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, TensorProto):
        return _torch(value)
    return value


def _torch(stored: TensorProto) -> Tensor | None:
    """The tensor; None of a type that torch does not have."""
    if stored.data_type not in TO_TORCH:
        return None
    array = numpy_helper.to_array(stored)
    if stored.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype("float32")).to(torch.bfloat16)
    return torch.from_numpy(array.copy().reshape(array.shape))


def _live(nodes: Sequence[Node], output: str) -> list[Node]:
    """What the output needs, in the same order."""
    needed, live = {output}, []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            live.append(node)
    return live[::-1]


# -- patterns -----------------------------------------------------------------------------------------------------------------


class _Patterns:
    """Looks for what older exporters write in pieces: layer norm and the erf form of GELU."""

    def __init__(self, nodes: Sequence[Node], tensors: dict[str, TensorProto]) -> None:
        self.producer = {name: node for node in nodes for name in node.outputs if name}
        self.uses = Counter(name for node in nodes for name in node.inputs)
        self.tensors = tensors

    def made_by(self, name: str, *ops: str) -> Node | None:
        node = self.producer.get(name)
        return node if node is not None and node.op in ops else None

    def number(self, name: str) -> float | None:
        """A constant of one element."""
        node = self.made_by(name, "Constant")
        value: Any = None
        if node is not None:
            value = node.attrs.get("value", node.attrs.get("value_float"))
        elif name in self.tensors and math.prod(self.tensors[name].dims) == 1:
            value = _torch(self.tensors[name])
        if isinstance(value, Tensor):
            return float(value) if value.numel() == 1 else None
        return float(value) if isinstance(value, (int, float)) else None

    def gelu(self, node: Node) -> Node | None:
        """x * 0.5 * (1 + erf(x / sqrt 2)), whatever the order of the factors."""
        factors: list[str] = []
        stack = list(node.inputs)
        while stack:
            name = stack.pop()
            inner = self.made_by(name, "Mul")
            if inner is not None and self.uses[name] == 1 and len(factors) + len(stack) < 3:
                stack.extend(inner.inputs)
            else:
                factors.append(name)
        sources = [self._erf(name) for name in factors]
        found = [x for x in sources if x is not None]
        rest = [name for name, x in zip(factors, sources, strict=True) if x is None]
        if len(factors) != 3 or len(found) != 1 or found[0] not in rest:
            return None
        rest.remove(found[0])
        if self.number(rest[0]) != 0.5:
            return None
        return Node("Gelu", node.name, [found[0]], node.outputs, {}, node.module, node.trace)

    def _erf(self, name: str) -> str | None:
        """x of 1 + erf(x / sqrt 2)."""
        add = self.made_by(name, "Add")
        if add is None or self.number(add.inputs[1]) != 1 != self.number(add.inputs[0]):
            return None
        erf = next((e for n in add.inputs if (e := self.made_by(n, "Erf")) is not None), None)
        scaled = self.made_by(erf.inputs[0], "Div", "Mul") if erf is not None else None
        if scaled is None:
            return None
        for x, by in (scaled.inputs, scaled.inputs[::-1])[: 1 if scaled.op == "Div" else 2]:
            n = self.number(by)
            if n is not None and abs(n * (0.5 if scaled.op == "Div" else 1) - math.sqrt(0.5)) < _SCALE:
                return x
        return None

    def layer_norm(self, node: Node) -> Node | None:
        """(x - mean) / sqrt(mean((x - mean)^2) + eps) * gamma [+ beta] over the last axis."""
        shift = None
        scale: Node | None = node
        if node.op == "Add":
            scale = next((n for name in node.inputs if (n := self.made_by(name, "Mul")) is not None and self.uses[name] == 1), None)
            if scale is None:
                return None
            shift = next(name for name in node.inputs if name not in scale.outputs)
        assert scale is not None
        for normal, gamma in (scale.inputs, scale.inputs[::-1]):
            whole = self._normalised(normal)
            if whole is not None and self._vector(gamma) and (shift is None or self._vector(shift)):
                x, eps = whole
                inputs = [x, gamma, *([] if shift is None else [shift])]
                return Node("LayerNormalization", node.name, inputs, node.outputs, {"epsilon": eps}, node.module, node.trace)
        return None

    def _vector(self, name: str) -> bool:
        return name in self.tensors and len(self.tensors[name].dims) == 1 and self.tensors[name].dims[0] > 1

    def _normalised(self, name: str) -> tuple[str, float] | None:
        div = self.made_by(name, "Div")
        centred = self.made_by(div.inputs[0], "Sub") if div is not None else None
        root = self.made_by(div.inputs[1], "Sqrt") if div is not None else None
        total = self.made_by(root.inputs[0], "Add") if root is not None else None
        if centred is None or total is None or not self._is_mean(centred.inputs[1], centred.inputs[0]):
            return None
        for variance, eps in (total.inputs, total.inputs[::-1]):
            mean = self.made_by(variance, "ReduceMean")
            square = self.made_by(mean.inputs[0], "Pow", "Mul") if mean is not None else None
            value = self.number(eps)
            if mean is None or square is None or value is None or not self._is_mean(variance, mean.inputs[0]):
                continue
            again = self.made_by(square.inputs[0], "Sub")
            same = again is not None and again.inputs == centred.inputs
            twice = self.number(square.inputs[1]) == 2 if square.op == "Pow" else square.inputs[0] == square.inputs[1]
            if same and twice:
                return centred.inputs[0], value
        return None

    def _is_mean(self, name: str, of: str) -> bool:
        mean = self.made_by(name, "ReduceMean")
        if mean is None or mean.inputs[0] != of or not mean.attrs.get("keepdims", 1):
            return False
        axes = mean.attrs.get("axes")
        if axes is None and len(mean.inputs) > 1:
            given = self.number(mean.inputs[1])
            axes = None if given is None else [int(given)]
        return list(axes or []) == [-1]


def _recognise(nodes: list[Node], tensors: dict[str, TensorProto], output: str) -> list[Node]:
    """The nodes with layer norms and GELUs in one piece each."""
    patterns = _Patterns(nodes, tensors)
    result = []
    for node in nodes:
        found = None
        if node.op in ("Add", "Mul"):
            found = patterns.layer_norm(node)
        if found is None and node.op == "Mul":
            found = patterns.gelu(node)
        result.append(found or node)
    return _live(result, output)


# -- the module ---------------------------------------------------------------------------------------------------------------


class _Step(nn.Module):
    """One node: a function of tensors."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *operands: Tensor) -> Any:
        return self.function(*operands)


@dataclass
class _Line:
    """Where a step's operands come from and its results go; names of stored tensors have a path in the module."""

    node: Node
    operands: tuple[str, ...]
    outputs: list[str] = field(default_factory=list)


class OnnxModule(nn.Module):
    """The graph of an ONNX file: image [1, C, H, W] -> logits. Initialisers keep their names; steps are numbered."""

    def __init__(self, image: str, output: str) -> None:
        super().__init__()
        self.image, self.output = image, output
        self.steps = nn.ModuleList()
        self.lines: list[_Line] = []
        self.paths: dict[str, str] = {}

    def store(self, name: str, tensor: Tensor, parameter: bool) -> None:
        """Keeps a tensor under its ONNX name, where torch allows it."""
        parts = [re.sub(r"\W", "_", p) or "_" for p in name.split(".")]
        place: nn.Module | None = self
        for part in parts[:-1]:
            child = getattr(place, part, None)
            if child is None and place is not None:
                child = nn.Module()
                place.add_module(part, child)
            place = child if isinstance(child, nn.Module) and not isinstance(child, nn.ModuleList) else None
            if place is None:
                break
        if place is None or hasattr(place, parts[-1]):
            place, parts = self, [f"tensor_{len(self.paths)}"]
        if parameter:
            place.register_parameter(parts[-1], nn.Parameter(tensor, requires_grad=False))
        else:
            place.register_buffer(parts[-1], tensor)
        self.paths[name] = ".".join(parts)

    def forward(self, image: Tensor) -> Tensor:
        values: dict[str, Any] = {self.image: image}

        def get(name: str) -> Any:
            return values[name] if name in values else reduce(getattr, self.paths[name].split("."), self)

        for step, line in zip(self.steps, self.lines, strict=True):
            result = step(*map(get, line.operands))
            results = result if isinstance(result, (tuple, list)) else (result,)
            values.update(zip(line.outputs, results, strict=False))
        logits: Tensor = get(self.output)
        return logits


class _Builder:
    """Runs the nodes once on an image, and notes the steps whose results depend on it or on float parameters."""

    def __init__(self, model: ModelProto, opset: int, image: str, shape: tuple[int, ...], where: str) -> None:
        self._model, self._opset, self._image, self._where = model, opset, image, where
        self._tensors = _tensors(model.graph)
        self._values: dict[str, Any] = {image: torch.rand(shape, generator=torch.Generator().manual_seed(0))}
        self._constant: set[str] = set()
        self._unknown: set[str] = set()  # results of what is not supported, whose shape the file does not tell either
        self._slices: dict[str, tuple[str, int, int, int]] = {}
        self._rolls: dict[str, tuple[str, list[int], list[int]]] = {}
        self._findings: list[Problem] = []
        self._shapes: dict[str, tuple[int, ...]] | None = None

    def build(self, nodes: Sequence[Node], output: str) -> OnnxModule:
        module = OnnxModule(self._image, output)
        statistics = {name for node in nodes if node.op == "BatchNormalization" for name in node.inputs[3:5]}
        last = {name: i for i, node in enumerate(nodes) for name in node.inputs}
        with torch.no_grad(), one_thread():
            for i, node in enumerate(nodes):
                self._load(node)
                try:
                    self._node(node, module)
                except UnsupportedError as error:
                    self._refuse(node, error.why, error.fix)
                except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AssertionError) as error:
                    lines = str(error).splitlines() or [type(error).__name__]
                    self._refuse(node, f"its operands do not fit: {lines[0]}", "check the file with onnx.checker and onnxruntime")
                kept = {self._image, output, *(source for source, *_ in self._slices.values())}  # a roll reads what was cut
                for name in node.inputs:
                    if last[name] == i and name not in self._constant and name not in kept:
                        self._values.pop(name, None)
        if self._findings:
            raise unsupported(self._findings, self._where)
        if output not in self._values:
            raise UserError("the output is not computed", where=self._where, why=f"no node gives {output}", fix="export it again")
        used = {name for line in module.lines for name in line.operands} | {output}
        computed = {name for line in module.lines for name in line.outputs} | {self._image}
        for name in sorted(used - computed):
            tensor = self._values[name]
            module.store(name, tensor, name in self._tensors and name not in statistics and tensor.is_floating_point())
        return module.eval()

    def _load(self, node: Node) -> None:
        """Reads the initialisers that the node is the first to use."""
        for name in node.inputs:
            if name in self._tensors and name not in self._values:
                value = _torch(self._tensors[name])
                if value is None:
                    kind = TensorProto.DataType.Name(self._tensors[name].data_type).lower()
                    self._refuse(node, f"the {kind} tensor {name}", "keep weights in float32")
                    value = torch.zeros(tuple(self._tensors[name].dims))
                self._values[name] = value
                self._constant.add(name)

    def _node(self, node: Node, module: OnnxModule) -> None:
        if node.op not in CONVERTERS:
            raise UnsupportedError(*_OTHER.get(node.op, _NO_RULE))
        if self._unknown.intersection(node.inputs):
            self._unknown.update(node.outputs)
            return
        inputs = [name for name in node.inputs if name]
        if missing := [name for name in inputs if name not in self._values]:
            raise UnsupportedError(f"no node gives its operand {missing[0]}", "check the file with onnx.checker")
        call = Call(node, self._values, self._constant, self._opset, self._slices, self._rolls)
        function, operands = CONVERTERS[node.op](call)
        result = function(*(self._values[name] for name in operands))
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        self._values.update(zip(node.outputs, results, strict=False))
        if self._constant.issuperset(operands):
            self._constant.update(node.outputs)
            # shapes, indices and masks are values from here on; float arithmetic on weights is folded later, estimators removed
            tensors = [t for r in results for t in (r if isinstance(r, list) else [r])]  # one result can be a sequence
            if not operands or not any(t.is_floating_point() for t in tensors):
                return
        module.steps.append(_Step(function))
        module.lines.append(_Line(node, operands, list(node.outputs)))

    def _refuse(self, node: Node, why: str, fix: str) -> None:
        """Notes what is not supported, and goes on with something of the right shape, so that the rest is checked too."""
        self._findings.append(Problem(node.op, node.module, node.trace, why, fix))
        if self._shapes is None:
            self._shapes = self._inferred()
        for name in node.outputs:
            if name in self._shapes:
                self._values[name] = torch.zeros(self._shapes[name])
            else:
                self._unknown.add(name)

    def _inferred(self) -> dict[str, tuple[int, ...]]:
        """Static shapes of f32 results, as far as the standard's own inference knows them."""
        try:
            graph = onnx.shape_inference.infer_shapes(self._model).graph
        except (RuntimeError, ValueError):  # too large, or not a valid model
            return {}
        shapes = {}
        for value in (*graph.value_info, *graph.output):
            kind = value.type.tensor_type
            sizes = [d.dim_value for d in kind.shape.dim]
            if kind.elem_type == TensorProto.FLOAT and kind.HasField("shape") and all(sizes):
                shapes[value.name] = tuple(int(n) for n in sizes)
        return shapes


# -- the program --------------------------------------------------------------------------------------------------------------


def _program(module: OnnxModule, shape: tuple[int, ...], where: str) -> ExportedProgram:
    """The exported program, whose nodes say which module and line of the original model they come from."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(module, (torch.zeros(shape),), strict=False)
        except Exception as error:  # torch.export has no common class of errors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                "the model cannot be traced", where=where, why=f"{type(error).__name__}: {reason}",
                fix="simplify the file, for example with onnxsim, or export it again",
            ) from error  # fmt: skip
    for node in program.graph_module.graph.nodes:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        step = str(stack[-1][0]).removeprefix("L['self'].") if stack else ""
        if step.startswith("steps."):
            source = module.lines[int(step.split(".")[1])].node
            node.meta["nn_module_stack"] = {"onnx": (source.module, source.op)}
            file, _, line = source.trace.rpartition(":")
            node.meta["stack_trace"] = f'File "{file}", line {line}' if line else ""
    return program
