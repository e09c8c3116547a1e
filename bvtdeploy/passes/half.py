"""half: element-wise ops compute in fp16, on request (`compile --elementwise fp16`), for cores with the FP16 instructions of v8.2.

Values between epilogues, stencils, pools of channels and pools on the grid become f16, and these ops compute in fp16: what each
does is defined as one IEEE operation at a time, rounded to binary16 (to nearest even, subnormals kept): additions, multiplications,
and fused multiply-adds, which round once. So results are the same bits on every machine, whether it has such instructions, converts
after every step, or has neither.
Dots stay integers, and so do thresholds on bare dots. What the ops compute is in their files (bvtdeploy/ops/); in short
    epilogue        v = f16(x), then every sum, product and multiply-add rounded
    stencil         acc = f16(x * tap + acc)
    channel_pool    every sum rounded, times f16(1/g)
    avg_pool        in fp32, rounded at the end
    max_pool, gather                           exact
    mean_rows, layer_norm_rows, norm_sign      read f16 and compute in fp32
An epilogue may read its x in fp32 (rounded while it is loaded) and may write fp32 (its fp16 result, widened), for what stays fp32
beside it. Where a residual or an op without these two comes upon the wrong type, an epilogue that does nothing else converts.

Parameters are rounded to the nearest fp16, as `--side fp16` does (passes/side.py). An op stays fp32, which is reported, where that
would make a parameter infinite or where a nonzero scale is below 2^-14; and where no fewer elements would have to be converted for
it than it shares in fp16 with its neighbours. A threshold t on v in fp16 is rounded up to the next fp16 t': no fp16 number is in
[t, t'), so that v >= t' decides as v >= t, and v < t' as v < t, for every v.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ops.epilogue import THRESHOLDS
from bvtdeploy.passes.base import ROUNDS, Pass, Report
from bvtdeploy.passes.side import to_f16

F16 = npt.NDArray[np.float16]
ELEMENTWISE = ("epilogue", "stencil", "channel_pool", "avg_pool", "max_pool", "gather")
READERS = ("mean_rows", "layer_norm_rows", "norm_sign")
UNKNOWN = ("activation", "multiply", *READERS)  # element-wise or nearly so, and without a form that computes in fp16


def round_up(data: npt.NDArray[np.float32]) -> F16:
    """The least fp16 that is not below; NaN of NaN."""
    with np.errstate(over="ignore", under="ignore"):
        near = data.astype(np.float16)
    return np.where(near.astype(np.float32) < data, np.nextafter(near, np.float16(np.inf)), near)


def _role(op: Op, i: int) -> str:
    """What operand i is to an op: a role of an epilogue; "x", "taps" or "shift" of a stencil; "index" or "x" of a gather."""
    if op.kind == "epilogue":
        return str(op.attrs["roles"][i])
    if op.kind == "stencil":
        return ("x", "taps", "shift")[i]
    return "index" if op.kind == "gather" and i == len(op.inputs) - 1 else "x"


def _is_real(value: Value) -> bool:
    return value.type.elem == "f32" and value.data is None


def _in_fp16(op: Op, i: int) -> bool:
    """Operand i has to be f16 where the op computes in fp16; only an epilogue's x may be f32."""
    return op.inputs[i].type.elem == "f32" and not (op.kind == "epilogue" and i == 0)


def _refusal(op: Op) -> str | None:
    """Why the parameters of an op are not for fp16."""
    for i, value in enumerate(op.inputs):
        role = _role(op, i)
        if value.data is None or value.type.elem != "f32" or role in THRESHOLDS:
            continue
        rounded = to_f16(value.data, {role})
        if isinstance(rounded, str):
            return f"{role}: {rounded}"
    return None


class _Half:
    """Which ops compute in fp16, and the graph in which they do."""

    def __init__(self, graph: Graph, report: Report) -> None:
        self.graph, self.report = graph, report
        self.chosen: set[Op] = set()
        self.narrow: dict[Value, Value] = {}  # the f16 form of a value of the graph
        self.wide: dict[Value, Value] = {}  # what was converted back
        self.constants: dict[tuple[Value, bool], Value] = {}

    def choose(self) -> None:
        for op in self.graph.of_kind(*ELEMENTWISE):
            if not any(_is_real(v) for v in (*op.inputs, *op.outputs)):
                continue  # codes, or thresholds on bare dots
            why = _refusal(op)
            if why is None:
                self.chosen.add(op)
            else:
                self.report.decline(op, why)
        candidates = [op for op in self.graph.ops if op in self.chosen]
        while rejected := [op for op in candidates if op in self.chosen and not self._pays(op)]:
            self.chosen -= set(rejected)
        for op in candidates:
            if op not in self.chosen:
                self.report.decline(op, "it stays fp32: its neighbours do, so that its operands would have to be converted")
        for op in self.graph.of_kind(*UNKNOWN):
            self.report.decline(op, "it stays fp32: it has no form that computes in fp16")

    def is_half(self, value: Value) -> bool:
        """The result is written as f16: somebody has to read it so, or nobody has to read it as f32."""
        op = value.producer
        if op not in self.chosen or not _is_real(value):
            return False
        needed = any(user in self.chosen and _in_fp16(user, i) for user, i in value.uses)
        others = any(user not in self.chosen and user.kind not in READERS for user in value.users) or value in self.graph.outputs
        return op.kind != "epilogue" or needed or not others

    def _pays(self, op: Op) -> bool:
        """More elements are shared in fp16 with the op's neighbours than are converted because of it (a value is converted once for
        all that read it so)."""
        shared = converted = 0.0
        for i, value in enumerate(op.inputs):
            if _is_real(value) and self.is_half(value):
                shared += value.type.size
            elif _is_real(value) and _in_fp16(op, i):
                converted += value.type.size / sum(user in self.chosen and _in_fp16(user, j) for user, j in value.uses)
        for value in filter(self.is_half, op.outputs):
            narrow = sum(user in self.chosen or user.kind in READERS for user in value.users)
            shared += value.type.size * narrow
            converted += value.type.size * (narrow < len(value.users) or value in self.graph.outputs)
        return shared > converted

    def rewrite(self) -> None:
        for op in list(self.graph.ops):
            if op in self.chosen:
                self._compute_half(op)
                continue
            for i, value in enumerate(list(op.inputs)):
                if value in self.narrow:
                    reads = op.kind in READERS and i == 0
                    self.graph.set_input(op, i, self.narrow[value] if reads else self._convert(value, "f32", op))
        self.graph.set_outputs([self._convert(v, "f32", None) if v in self.narrow else v for v in self.graph.outputs])
        self.graph.drop_dead()

    def _compute_half(self, op: Op) -> None:
        """A twin of the op that computes in fp16 and takes its place, names included."""
        inputs = []
        for i, value in enumerate(op.inputs):
            if value.data is not None and value.type.elem == "f32":
                inputs.append(self._constant(value, _role(op, i) in THRESHOLDS, op))
            elif _in_fp16(op, i) and value not in self.narrow:
                inputs.append(self._convert(value, "f16", op))
            else:
                inputs.append(self.narrow.get(value, value))
        attrs = dict(op.attrs)
        if op.kind == "epilogue":
            real = "f16" if self.is_half(op.outputs[0]) else "f32"
            attrs["results"] = tuple(real if r == "f32" else r for r in attrs["results"])
        twin = self.graph.create(op.kind, inputs, attrs, module=op.module, before=op)
        for old, new in zip(op.outputs, twin.outputs, strict=True):
            if new.type.elem == "f16":
                self.narrow[old] = new
                old.name, new.name = new.name, old.name
            else:
                self.graph.supersede(old, new)

    def _constant(self, value: Value, threshold: bool, before: Op) -> Value:
        data = value.data
        assert data is not None
        if (value, threshold) not in self.constants:
            with np.errstate(over="ignore", under="ignore"):
                rounded = round_up(data) if threshold else data.astype(np.float16)
            # In front of everything: several ops may read it, and this one need not be the first.
            self.constants[value, threshold] = self.graph.constant(rounded, value.name, before=self.graph.ops[0])
        return self.constants[value, threshold]

    def _convert(self, value: Value, elem: str, before: Op | None) -> Value:
        known = self.narrow if elem == "f16" else self.wide
        if value not in known:
            source = value if elem == "f16" else self.narrow[value]
            attrs = {"roles": ("x",), "factors": (), "width": 0, "results": (elem,), "packed": ()}
            module = "" if value.producer is None else value.producer.module
            known[value] = self.graph.append("epilogue", [source], attrs, module=module, before=before)
        return known[value]


def run(graph: Graph, report: Report) -> Graph:
    """Makes f16 of the values of the element-wise domain, and lets its ops compute in fp16."""
    half = _Half(graph, report)
    half.choose()
    if half.chosen:
        half.rewrite()
    report.half_ops = len(half.chosen)
    return graph


def round_slopes(graph: Graph, report: Report) -> Graph:
    """Slopes become what is multiplied once they are rounded: s -> 1 + f16(f16(s) - 1), or f16(s) where the op computes in fp32. A
    constant that the pass `offsets` carries through a PReLU is then multiplied by the same number as the values that lack it."""
    for op in graph.of_kind("epilogue"):
        for i, value in enumerate(op.inputs):
            if op.attrs["roles"][i] != "slope" or value.data is None:
                continue
            rounded = to_f16(value.data, {"slope"})
            if isinstance(rounded, str):
                continue
            if report.elementwise == "fp16":
                rounded = np.float32(1) + (rounded - np.float32(1)).astype(np.float16).astype(np.float32)
            if not np.array_equal(rounded, value.data, equal_nan=True):
                graph.set_input(op, i, graph.constant(rounded, value.name, before=op))
    graph.drop_dead()
    return graph


SLOPES = Pass("slopes", "offsets go through PReLUs as they will be computed", ROUNDS, round_slopes)
PASS = Pass("half", "element-wise ops compute in fp16, twice as many a vector", ROUNDS, run)
