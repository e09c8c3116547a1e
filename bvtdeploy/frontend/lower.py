"""From an exported program to the graph of source ops: estimators removed, constants folded, every live call imported."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from bvtdeploy.errors import Problem, UserError
from bvtdeploy.frontend import aten_layout, aten_nn  # noqa: F401  (they fill IMPORTERS)
from bvtdeploy.frontend.aten import IMPORTERS, Lowering, UnsupportedError, move_levels, op_name
from bvtdeploy.frontend.reference import Reference
from bvtdeploy.frontend.report import source_line, unsupported
from bvtdeploy.frontend.ste import FROM_SHAPE, StraightThrough
from bvtdeploy.frontend.upsampling import recognise_upsampling
from bvtdeploy.ir import Graph, Value, f32

_RANDOM = ("rand", "bernoulli", "multinomial", "normal")
_LAYOUT = {"view", "reshape", "permute", "transpose", "expand", "unsqueeze", "squeeze", "flatten", "slice", "select", "clone"}
_HINTS = {
    "group_norm": ("GroupNorm has no rule in this release", "use batch norm or layer norm"),
    "silu": ("SiLU has no rule in this release", "use GELU, PReLU or ReLU"),
    "argmax": ("integer results are not supported", "return the logits"),
    "topk": ("integer results are not supported", "return the logits"),
    "cond": ("control flow on data", "make both branches one expression, or choose the branch before the export"),
    "while_loop": ("control flow on data", "unroll the loop"),
}
_DATA_SIZES = "its size depends on values: use a mask, or torch.where"
_NO_RULE = ("no rule for it in this release", "replace it by supported ops, or move it out of the model")


@dataclass(frozen=True)
class SourceTensor:
    """A parameter, buffer or constant of the source.

    Attributes:
        name: as in the state dict.
        bytes, elements: its size.
        constants: the constants of the graph that were computed from it, by name.
        read: whether the inference reads it at all.
    """

    name: str
    bytes: int
    elements: int
    constants: tuple[str, ...]
    read: bool


@dataclass
class Lowered:
    """What importing a program gave.

    Attributes:
        graph: the graph of source ops.
        tensors: every parameter and buffer of the program, and what became of it.
        lines: `file.py:12` of the call that each op of the graph comes from, by the name of its first result.
        residue: max |with - without| / row scale over all constants from which an estimator was removed.
        estimators: how many were removed, in weights (constants) and in activations.
        notes: remarks, with how often each applies.
        reference: runs the same network in PyTorch, with the graph's names for its values.
    """

    graph: Graph
    tensors: list[SourceTensor] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)
    residue: float = 0.0
    estimators: dict[str, int] = field(default_factory=lambda: {"weights": 0, "activations": 0})
    notes: dict[str, int] = field(default_factory=dict)
    reference: Reference | None = None


def lower(program: ExportedProgram, output: int, name: str, where: str, strip: str = "") -> Lowered:
    """Imports a functional program at batch 1.

    Args:
        program: without in-place ops, with one f32 input and static shapes.
        output: which of its outputs is the graph's output.
        name: of the graph.
        where: the source, for errors.
        strip: a module path in front of every other, which is left out.

    Raises:
        UserError: the table of everything that is not supported.
    """
    with torch.no_grad(), one_thread():
        return _Importer(program, name, where, strip).run(output)


@contextmanager
def one_thread() -> Iterator[None]:
    """Results must not depend on the number of cores: torch splits large sums by threads. Small layers are also faster so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _base(node: fx.Node) -> str:
    name = op_name(node.target)
    return name.split(".")[1] if name.startswith("aten.") else name


class _Importer:
    def __init__(self, program: ExportedProgram, name: str, where: str, strip: str) -> None:
        self._program, self._where, self._strip = program, where, strip
        self._nodes: list[fx.Node] = list(program.graph_module.graph.nodes)
        names = {spec.arg.name for spec in program.graph_signature.input_specs if spec.target is not None}
        parameters = {n for n in self._nodes if n.op == "placeholder" and n.name in names}
        self._ste = StraightThrough(program.graph_module.graph, parameters)
        self._low = Lowering(Graph(name))
        self._lowered = Lowered(self._low.graph, notes=self._low.notes)
        self._tensors: dict[fx.Node, Any] = {}  # folded: what live calls read
        self._results: dict[fx.Node, Any] = {}
        self._sources: dict[str, Tensor] = {}  # parameters and buffers by name, those that are the same tensor once
        self._names: dict[fx.Node, str] = {}  # of the placeholders that stand for them
        self._read_sources: set[str] = set()
        self._findings: list[Problem] = []
        self._input: fx.Node | None = None

    def run(self, output: int) -> Lowered:
        graph, (end,) = self._low.graph, [n for n in self._nodes if n.op == "output"]
        self._bind_inputs()
        self._varies = self._varying()
        outputs: Any = end.args[0]
        result = outputs[output]
        live = self._live(result)
        for node in self._nodes:
            if node in live and node.op == "call_function":
                self._results[node] = self._import(node)
            elif node in live and node.op not in ("placeholder", "call_function"):
                self._finding(node, *_NO_RULE)
        if self._findings:
            raise unsupported(self._findings, self._where)
        graph.set_outputs([self._low.value(self._read(result))])
        self._lowered.tensors = self._tensors_and_constants()
        self._lowered.reference = self._reference(live)
        recognise_upsampling(graph)
        graph.drop_dead()
        return self._lowered

    def _reference(self, live: set[fx.Node]) -> Reference:
        calls = [node for node in self._nodes if node in live and node.op == "call_function"]
        origins = {value.name: node for node in reversed(calls) if isinstance(value := self._results.get(node), Value)}
        return Reference(calls, self._input, origins, self._varies, self._ste.resolve, self._read)

    def _bind_inputs(self) -> None:
        specs = {spec.arg.name: spec for spec in self._program.graph_signature.input_specs}
        for node in self._nodes:
            if node.op != "placeholder":
                continue
            spec = specs[node.name]
            if spec.kind == InputKind.USER_INPUT and isinstance(node.meta.get("val"), Tensor):
                self._input = node
                self._results[node] = self._low.graph.add_input("x", f32(*(int(n) for n in node.meta["val"].shape)))
            elif spec.target is not None:
                store = self._program.constants if spec.target in self._program.constants else self._program.state_dict
                tensor = store[spec.target]
                self._tensors[node] = tensor = tensor.detach() if isinstance(tensor, Tensor) else tensor
                self._low.names[id(tensor)] = spec.target
                if isinstance(tensor, Tensor):
                    self._names[node] = self._source(spec.target, tensor)

    def _source(self, name: str, tensor: Tensor) -> str:
        """The name under which a stored tensor is counted: the first, where it has several."""
        same = (n for n, t in self._sources.items() if t.data_ptr() == tensor.data_ptr() and t.shape == tensor.shape)
        first = next(same, None) if tensor.numel() else None
        self._sources.setdefault(first or name, tensor)
        return first or name

    def _roots(self, node: fx.Node) -> set[str]:
        """The names of the stored tensors that a constant node is computed from."""
        found, seen, stack = set[str](), set[fx.Node](), [node]
        while stack:
            node = self._ste.resolve(stack.pop())
            if node in seen:
                continue
            seen.add(node)
            if node in self._names:
                found.add(self._names[node])
            elif _base(node) not in FROM_SHAPE:
                stack.extend(node.all_input_nodes)
        return found

    def _tensors_and_constants(self) -> list[SourceTensor]:
        constants: dict[str, list[str]] = {name: [] for name in self._sources}
        for constant, names in self._low.origins.items():
            for name in names:
                constants[name].append(constant)
        return [
            SourceTensor(name, t.numel() * t.element_size(), t.numel(), tuple(constants[name]), name in self._read_sources)
            for name, t in self._sources.items()
        ]

    def _varying(self) -> set[fx.Node]:
        """Nodes that depend on the input, or on chance."""
        varying: set[fx.Node] = set() if self._input is None else {self._input}
        for node in self._nodes:
            if node.op != "call_function":
                continue
            real = self._ste.resolve(node)
            if real is not node:
                if real in varying:
                    varying.add(node)
            elif _base(node) not in FROM_SHAPE:
                random = any(word in _base(node) for word in _RANDOM)
                if random or any(n in varying for n in node.all_input_nodes):
                    varying.add(node)
        return varying

    def _live(self, result: fx.Node) -> set[fx.Node]:
        """Calls whose result the output needs, estimators and constants left out."""
        live: set[fx.Node] = set()
        removed: set[fx.Node] = set()
        stack = [result]
        while stack:
            node = stack.pop()
            if node not in self._varies:
                continue
            if node in self._ste.found:
                removed.add(node)
                node = self._ste.resolve(node)
            if node not in live:
                live.add(node)
                stack.extend(node.all_input_nodes)
        self._lowered.estimators["activations"] = len(removed)
        return live

    # -- constants ----------------------------------------------------------------------------------------------------------

    def _fold(self, root: fx.Node) -> Any:
        """The value of a constant node, by torch's own arithmetic; intermediate results live as long as this call."""
        memo: dict[fx.Node, Any] = {}

        def get(node: fx.Node) -> Any:
            return self._tensors[node] if node in self._tensors else memo[node]

        stack = [root]
        while stack:
            node = stack[-1]
            if node in memo or node in self._tensors:
                stack.pop()
                continue
            needs = [] if _base(node) in FROM_SHAPE else list(node.all_input_nodes)
            if node in self._ste.found:
                needs.append(self._ste.resolve(node))
            missing = [n for n in needs if n not in memo and n not in self._tensors]
            if missing:
                stack.extend(missing)
                continue
            memo[node] = self._evaluate(node, get)
            stack.pop()
        self._tensors[root] = get(root)
        return self._tensors[root]

    def _evaluate(self, node: fx.Node, get: Any) -> Any:
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._program.graph_module)
        if _base(node) in FROM_SHAPE:
            fill = FROM_SHAPE[_base(node)]
            meta = node.meta["val"]
            return torch.full(meta.shape, node.args[-1] if fill is None else fill, dtype=meta.dtype)  # type: ignore[arg-type]
        args = fx.map_arg(node.args, get)
        kwargs = fx.map_arg(node.kwargs, get)
        value = node.target(*args, **kwargs)  # type: ignore[operator]
        if node not in self._ste.found:
            return value
        exact = get(self._ste.resolve(node))
        self._lowered.estimators["weights"] += 1
        rows = exact.abs().reshape(exact.shape[0] if exact.ndim > 1 else 1, -1).amax(dim=1)
        error = (value - exact).abs().reshape(rows.shape[0], -1).amax(dim=1)
        relative = torch.where(rows > 0, error / rows, torch.zeros_like(rows))
        self._lowered.residue = max(self._lowered.residue, float(relative.max()))
        return exact

    # -- calls --------------------------------------------------------------------------------------------------------------

    def _read(self, node: fx.Node) -> Any:
        if node in self._varies:
            return self._results[self._ste.resolve(node)]
        value = self._tensors[node] if node in self._tensors else self._fold(node)
        if roots := self._roots(node):
            self._read_sources |= roots
            if isinstance(value, Tensor):
                self._low.roots.setdefault(value.untyped_storage().data_ptr(), set()).update(roots)
        return value

    def _finding(self, node: fx.Node, why: str, fix: str) -> None:
        line = source_line(node.meta.get("stack_trace"))
        if not line and not isinstance(node.target, torch._ops.OpOverload):  # a branch or a loop: where its predicate comes from
            line = next((found for n in node.all_input_nodes if (found := source_line(n.meta.get("stack_trace")))), "")
        self._findings.append(Problem(op_name(node.target), self._module(node), line, why, fix))

    def _module(self, node: fx.Node) -> str:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        for prefix in ("L['self'].", self._strip + "."):
            path = path.removeprefix(prefix)
        return "" if path in ("L['self']", self._strip) else path

    def _import(self, node: fx.Node) -> Any:
        low = self._low
        low.node, low.module = node, self._module(node)
        args: Any = fx.map_arg(node.args, self._read)
        kwargs: Any = fx.map_arg(node.kwargs, self._read)
        if node.target is operator.getitem:
            return args[0][args[1]]
        name = op_name(node.target)
        try:
            if name.startswith("aten."):
                moved = move_levels(low, node.target, args, kwargs)
                if moved is not None:
                    return moved
            importer = IMPORTERS.get(name.removeprefix("aten."))
            if importer is None:
                raise UnsupportedError(*_HINTS.get(_base(node), _NO_RULE))
            before = len(low.graph.ops)
            result = importer(low, *args, **kwargs)
            if line := source_line(node.meta.get("stack_trace")):
                self._lowered.lines.update((op.outputs[0].name, line) for op in low.graph.ops[before:] if op.kind != "const")
            if isinstance(result, Value):
                self._check(node, result)
            return result
        except UnsupportedError as error:
            self._finding(node, error.why, error.fix)
        except (ValueError, TypeError) as error:  # a shape rule, or an argument that the importer does not know
            self._finding(node, str(error).splitlines()[0], "simplify this call")
        return self._stand_in(node)

    def _check(self, node: fx.Node, result: Value) -> None:
        meta = node.meta["val"]
        shape = tuple(int(n) for n in meta.shape)
        if result.type.shape != shape:
            raise UnsupportedError(f"importing it gives {result.type}, torch gives {list(shape)}", "report this bug of bvtdeploy")
        if meta.dtype != torch.float32 and _base(node) not in _LAYOUT:
            raise UnsupportedError(f"{str(meta.dtype)[6:]} arithmetic", "keep activations in float32: model.float(), no autocast")

    def _stand_in(self, node: fx.Node) -> Any:
        """Something of the right shape, so that the rest of the model is checked too. The graph is not used."""
        meta = node.meta.get("val")
        metas = meta if isinstance(meta, (list, tuple)) else [meta]
        values = [
            self._low.graph.add_input("missing", f32(*(int(n) for n in m.shape))) if isinstance(m, Tensor) else None for m in metas
        ]
        return values if isinstance(meta, (list, tuple)) else values[0]


def static_shape(program: ExportedProgram, where: str) -> tuple[int, ...]:
    """The shape of the only tensor input. Raises UserError on several inputs, dynamic shapes, other dtypes, another batch."""
    signature = program.graph_signature
    nodes = {n.name: n for n in program.graph_module.graph.nodes if n.op == "placeholder"}
    inputs = [nodes[name] for name in signature.user_inputs if isinstance(name, str) and name in nodes]
    inputs = [n for n in inputs if isinstance(n.meta.get("val"), Tensor)]
    if len(inputs) != 1:
        raise UserError(
            f"the model takes {len(inputs)} input tensors", where=where, why="one image [1, C, H, W] is expected",
            fix="wrap it in a module whose forward takes the image alone",
        )  # fmt: skip
    value = inputs[0].meta["val"]
    sizes = []
    for node in program.graph_module.graph.nodes:  # not range_constraints: static programs may have left-overs there
        meta = node.meta.get("val")
        dims: list[Any] = list(meta.shape) if isinstance(meta, Tensor) else []
        if symbolic := [n for n in dims if not isinstance(n, int)]:
            symbols = {str(s) for n in symbolic for s in n.node.expr.free_symbols}
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            module = str(stack[-1][0]).removeprefix("L['self']").removeprefix(".") if stack else ""
            line, what = source_line(node.meta.get("stack_trace")), "input" if node.op == "placeholder" else op_name(node.target)
            sizes.append(Sizes(what, module, line, [str(n) for n in dims], symbols))
    if sizes:
        raise dynamic_shapes(where, sizes)
    shape = tuple(int(n) for n in value.shape)
    if value.dtype != torch.float32:
        raise UserError(
            f"the input is {str(value.dtype)[6:]}", where=where, why="bvtdeploy compiles float32 models",
            fix="export model.float() with a float32 example input",
        )  # fmt: skip
    if len(shape) != 4 or shape[0] != 1:
        raise UserError(
            f"the input has shape {list(shape)}", where=where, why="a program for one image [1, C, H, W] is expected",
            fix="export with an example input of batch 1",
        )  # fmt: skip
    return shape


@dataclass(frozen=True)
class Sizes:
    """A tensor with symbolic sizes: the op that gives it, or `input`, its place, its shape as text, and the symbols in it."""

    op: str
    module: str
    line: str
    shape: Sequence[str]
    symbols: Iterable[str]


def dynamic_shapes(where: str, tensors: Sequence[Sizes]) -> UserError:
    """The refusal of programs with symbolic sizes. `tensors`: in the order of the program; listed are those that bring a symbol in,
    not those that only have it from an operand."""
    problems, known = [], set[str]()
    for t in tensors:
        if new := sorted(set(t.symbols) - known):
            known.update(new)
            why = f"its shape is [{', '.join(t.shape)}]: no number for {', '.join(new)}"
            fix = "export with fixed sizes: no dynamic_shapes, an example of batch 1" if t.op == "input" else _DATA_SIZES
            problems.append(Problem(t.op, t.module, t.line, why, fix))
    return UserError(
        "the program has dynamic shapes", where=where, why="memory is planned when the model is compiled, so sizes are numbers",
        fix="nothing was written; export it without dynamic_shapes, with an example of batch 1", problems=problems,
    )  # fmt: skip
