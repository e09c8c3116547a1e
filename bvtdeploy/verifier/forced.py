"""Teacher forcing: every op of a compiled graph alone, on the operands that the source model has at this place.

Run freely, two executions of a binary network drift apart: one sum that rounds to the other side of a threshold changes a code, and
from there on everything differs a little. So each op is given the *source's* operands, and its results are compared with the
source's: integers and codes exactly, real numbers to 1e-5. What is wrong then is wrong in this very op.

    source      PyTorch in float64 (frontend/reference.py): codes and integers are then those of the exact real numbers, and a
                real operand is their rounding to fp32
    codes       the sign of what the source takes a sign of
    integers    the source's product, divided by the scale of its row (and less its bias), which must be an integer again
    reals       |ours - source| <= 1e-5 * max(|source|, m): m is the same op applied to the magnitudes of its operands, that is, of
                what it adds up. A difference of large numbers has no relative precision of its own in any fp32 program
    ties        a code that differs where the source's own number is within 1e-5 of the threshold, relative to the largest of the
                terms that it is the sum of (for an attention: where this holds for a probability of the same row). They are
                counted apart, and are the only difference that is allowed
    operands    a value that has no counterpart in the source (half of a sum that was regrouped, say) is the op's own result,
                computed from forced operands, and is checked by its reader
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bvtdeploy.errors import UserError
from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import BIPOLAR, DTYPES, TERNARY
from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.layer_norm_rows import moments
from bvtdeploy.passes import pipeline
from bvtdeploy.passes.base import Report
from bvtdeploy.passes.trace import Trace

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]

TOLERANCE: Final = 1e-5
SHOWN: Final = 20  # failures that are listed with their place; all are counted
LAYOUT: Final = ("permute", "reshape", "expand", "slice", "roll", "take", "upsample", "concat")


@dataclass
class Row:
    """What was compared of one kind of op."""

    kind: str
    ops: int = 0
    integers: int = 0
    codes: int = 0
    mismatches: int = 0
    ties: int = 0
    floats: int = 0
    float_mismatches: int = 0
    worst: float = 0.0
    unnamed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The row as plain data."""
        return dict(vars(self))


@dataclass
class Forced:
    """The table of a teacher-forced comparison, over all images."""

    images: int = 0
    rows: dict[str, Row] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    zeros: int = 0

    @property
    def total(self) -> Row:
        """The sum of all rows, the worst of all errors."""
        total = Row("all")
        for row in self.rows.values():
            for name in vars(row):
                if name not in ("kind", "worst"):
                    setattr(total, name, getattr(total, name) + getattr(row, name))
            total.worst = max(total.worst, row.worst)
        return total

    @property
    def ok(self) -> bool:
        """No integer and no code is wrong (ties apart), and no real number is off by more than the tolerance."""
        return self.total.mismatches == 0 and self.total.float_mismatches == 0

    def as_dict(self) -> dict[str, Any]:
        """The table as plain data."""
        rows = [self.rows[kind].as_dict() for kind in sorted(self.rows)]
        return {
            "ok": self.ok, "images": self.images, "tolerance": TOLERANCE, "rows": rows, "total": self.total.as_dict(),
            "zeros": self.zeros, "failures": self.failures,
        }  # fmt: skip


@dataclass(frozen=True)
class _SourceOp:
    kind: str
    inputs: tuple[str, ...]
    attrs: dict[str, Any]
    module: str
    shape: tuple[int, ...]


class Source:
    """An imported model and what every value of its compiled graph is in it. Consumes the imported graph.

    Attributes:
        sites: source module of every sign of an activation, by its name.
        graph: the model compiled in fp32.
        report: of that compilation.
    """

    def __init__(self, imported: Any, zeros: str = "exact") -> None:
        source: Graph = imported.graph
        self.reference = imported.reference
        self.ops: dict[str, _SourceOp] = {}
        self.constants: dict[str, Array] = {}
        self.image = source.inputs[0].name
        self.uses: dict[str, int] = {}
        self.sites: dict[str, str] = {}
        self._look(source)
        (_, *self.input_shape) = source.inputs[0].type.shape
        self.report = Report(residue_max=imported.residue_max, zeros="positive" if zeros == "positive" else "exact", traced=True)
        self.graph, _ = pipeline.run(source, self.report, self._observe)
        assert self.report.trace is not None
        self.trace: Trace = self.report.trace
        binarised = [v for op in self.trace.source.of_kind("binarise") for v in op.outputs]
        self.two_codes = {site_of(v.name) for v in binarised if v.type.alphabet == BIPOLAR}

    def _look(self, graph: Graph) -> None:
        """Takes down the ops of a graph, those that are known already left out: what their names mean does not change."""
        for op in graph.ops:
            for value in op.outputs:
                if value.name in self.ops:
                    continue
                inputs = tuple(v.name for v in op.inputs)
                self.ops[value.name] = _SourceOp(op.kind, inputs, dict(op.attrs), op.module, value.type.shape)
                self.uses[value.name] = len(value.uses)
                if value.data is not None:
                    self.constants[value.name] = value.data
        self.sites = {op.out.name: op.module for op in graph.of_kind("sign")}

    def _observe(self, number: int, name: str, graph: Graph) -> None:
        if name == "fold":  # the last pass that writes signs: x > 0 as -sign(-x), say
            self._look(graph)

    def run(self, image: Array, *, policy: bool = True) -> Known:
        """What the source computes of an image [C, H, W], in its dtype. `policy`: where a code has two values, the source's sign
        of 0 is +1 as well, so that what follows is comparable. Without it, only codes are told."""
        named = self.reference.run(image[None], self._signs() if policy else {})
        named[self.image] = image[None]
        return Known(self, named, only_codes=not policy)

    def _signs(self) -> dict[str, str]:
        """For each sign with two codes whose 0 would be a third: what it takes the sign of."""
        signs = {}
        for name in self.two_codes:
            op = self.ops[name]
            if not op.attrs.get("zero"):
                signs[name] = self.operand(name)
        return signs

    def operand(self, site: str) -> str:
        """What a sign takes the sign of. A GELU has its operand's sign, which erf loses below -8."""
        name = self.ops[site].inputs[0]
        while name in self.ops and self.ops[name].kind == "gelu":
            name = self.ops[name].inputs[0]
        return name


def site_of(name: str) -> str:
    """The sign of the source that a value of codes comes from."""
    return name.split(".bits")[0]


class Known:
    """What the source says about the values of the compiled graph, for one image.

    Attributes:
        arrays: by name of a compiled value, as float64 [rows, channels]; NaN where the source does not tell.
        signs: how many operands the source's signs have.
        zeros: how many of them are exactly 0.
        moved: how many of these have a code that cannot say so.
    """

    def __init__(self, source: Source, named: dict[str, Array], only_codes: bool = False) -> None:
        self.source, self.named = source, named
        self.arrays: dict[str, F64] = {}
        self.signs = self.zeros = self.moved = 0
        self._near: dict[str, Callable[[], Array]] = {}  # source value -> where the source itself is next to a threshold
        for op in source.trace.source.ops:
            for value in op.outputs:
                if value.name in source.trace.views and (op.kind == "binarise" or not only_codes):
                    self._tell(op, value)
        # Zeros and signs of the source, each once, whether or not a value of the compiled graph holds their codes.
        for site in source.sites:
            if (p := self.value(source.operand(site))) is None:
                continue
            self.signs += p.size
            if not source.ops[site].attrs.get("zero"):  # a comparison says itself what 0 is
                self.zeros += (zeros := int((p == 0).sum()))
                self.moved += zeros if site in source.two_codes else 0
        self.arrays = self._with_parts(self.arrays)

    def _tell(self, op: Op, value: Value) -> None:
        name = value.name
        if op.kind == "binarise":
            site = site_of(name)
            self._spread(name, self.codes(site, value.type.alphabet == TERNARY))
            self._near[name] = lambda: self._near_zero(self.source.operand(site))
        elif op.kind in ("binary_linear", "mixed_linear", "binary_conv2d", "binary_attention"):
            array, context = self._product(value)
            self._spread(name, array)
            if op.kind == "binary_attention" and context in self.source.ops:
                self._near[name] = lambda: self._near_rows(context, value.type.shape)
        elif value.type.elem == "f32" and name in self.named:
            self._spread(name, self.named[name])

    def _spread(self, name: str, array: Array | None) -> None:
        """Writes a source value where its elements are in the compiled one."""
        if array is not None:
            base, index = self.source.trace.views[name]
            full = self.arrays.setdefault(base, np.full(self.source.trace.shapes[base], np.nan))
            full.reshape(-1)[index.reshape(-1)] = np.asarray(array, np.float64).reshape(-1)

    def _with_parts(self, arrays: dict[str, F64]) -> dict[str, F64]:
        """Adds what is made of parts of known values."""
        parts, known = dict(self.source.trace.parts), dict(arrays)
        while ready := [name for name, (sources, _) in parts.items() if all(s in known for s in sources)]:
            for name in ready:
                sources, index = parts.pop(name)
                array = np.concatenate([known[s].reshape(-1) for s in sources])[index]
                known.setdefault(name, array.reshape(self.source.trace.shapes[name]))
        return known

    # -- source values --------------------------------------------------------------------------------------------------

    def value(self, name: str) -> Array | None:
        """A value of the imported graph: PyTorch's, or computed from PyTorch's where an importer wrote it by other ops."""
        if name in self.named:
            return self.named[name]
        if name in self.source.constants:
            return self.source.constants[name].astype(np.float64)
        op = self.source.ops.get(name)
        if op is None:
            return None
        inputs = [self.value(v) for v in op.inputs]
        simple: dict[str, Callable[..., Array]] = {
            "neg": np.negative, "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide
        }  # fmt: skip
        if any(v is None for v in inputs):
            return None
        if op.kind in simple:
            self.named[name] = np.asarray(simple[op.kind](*inputs))
        elif op.kind in LAYOUT:
            self.named[name] = REGISTRY[op.kind].reference(op.attrs, [v for v in inputs if v is not None])[0]
        return self.named.get(name)

    def codes(self, site: str, ternary: bool) -> Array | None:
        """The codes of a sign; of two codes, 0 has +1."""
        p = self.value(self.source.operand(site))
        if p is None:
            return None
        zero = self.source.ops[site].attrs.get("zero", 0) or (0 if ternary else 1)
        return np.where(p > 0, 1.0, np.where(p < 0, -1.0, zero))

    def _product(self, value: Value) -> tuple[Array | None, str]:
        """(the integers or levels of a product, the name of the source's result): what the source has, less its bias, by its
        scale."""
        for op in value.users:
            if op.kind != "mul" or op.inputs[1].data is None:
                continue
            scale = op.inputs[1].data.astype(np.float64)
            with np.errstate(all="ignore"):
                if op.out.name in self.named:
                    return self.named[op.out.name] / scale, op.out.name
                for then in op.out.users:
                    if then.out.name not in self.named:
                        continue
                    there = self.named[then.out.name]
                    if then.kind == "reshape":
                        return there.reshape(op.out.type.shape) / scale, then.out.name
                    if then.kind == "add" and then.inputs[1].data is not None:
                        return (there - then.inputs[1].data) / scale, then.out.name
        return None, ""

    # -- ties -----------------------------------------------------------------------------------------------------------

    def near(self, name: str) -> Array:
        """Where, in a compiled value, the source itself is next to a threshold."""
        saved, self.arrays = self.arrays, {}
        for source, (base, _) in self.source.trace.views.items():
            if source in self._near and self._leads_to(base, name):
                self._spread(source, self._near[source]())
        known = self._with_parts(self.arrays)
        self.arrays = saved
        found = known.get(name)
        return np.zeros(saved[name].shape, bool) if found is None else found == 1.0

    def _leads_to(self, base: str, name: str) -> bool:
        return base == name or any(self._leads_to(base, s) for s in self.source.trace.parts.get(name, ((), None))[0])

    def _near_zero(self, name: str) -> Array:
        p = self.value(name)
        assert p is not None
        return np.abs(p) <= TOLERANCE * self._size(name, root=True)

    def _size(self, name: str, root: bool = False) -> F64:
        """The largest of the terms that a source value is the sum of, elementwise. What several ops read counts as one term: it
        exists by itself in the compiled graph too."""
        p, op = self.value(name), self.source.ops.get(name)
        assert p is not None
        size = np.abs(np.asarray(p, np.float64))
        if op is None or name in self.source.constants or (self.source.uses[name] > 1 and not root):
            return size
        first = op.inputs[0] if op.inputs else ""
        if op.kind in ("add", "sub"):
            return np.maximum(size, np.maximum(self._size(op.inputs[0]), self._size(op.inputs[1])))
        if op.kind in ("mul", "div") and (c := self.source.constants.get(op.inputs[1])) is not None:
            with np.errstate(all="ignore"):
                factor = np.abs(c.astype(np.float64))
                return np.maximum(size, self._size(first) * factor if op.kind == "mul" else self._size(first) / factor)
        if op.kind in ("neg", "gelu", "clamp", "prelu"):
            return np.maximum(size, self._size(first))
        if op.kind == "batch_norm":
            shape = [-1 if i == op.attrs["axis"] else 1 for i in range(len(op.shape))]
            gamma, beta, mean, var = (self.source.constants[v].astype(np.float64).reshape(shape) for v in op.inputs[1:])
            gain = np.abs(gamma) / np.sqrt(var + op.attrs["eps"])
            terms = [size, gain * self._size(first), np.broadcast_to(gain * np.abs(mean), op.shape), np.abs(beta) + 0 * size]
            return np.asarray(np.maximum.reduce(terms))
        if op.kind == "layer_norm":
            x, beta = self.value(first), self.source.constants[op.inputs[2]].astype(np.float64)
            assert x is not None
            gamma = np.abs(self.source.constants[op.inputs[1]].astype(np.float64))
            mean, deviation = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + op.attrs["eps"])
            spread = gamma * np.maximum(np.abs(x), np.abs(mean)) / deviation
            return np.asarray(np.maximum.reduce([size, spread, np.abs(beta) + 0 * size]))
        if op.kind in LAYOUT:
            return np.asarray(REGISTRY[op.kind].reference(op.attrs, [self._size(v) for v in op.inputs])[0])
        return size

    def _near_rows(self, context: str, shape: tuple[int, ...]) -> Array:
        """The rows of an attention's result of which a probability is next to a step of its quantiser."""
        near: npt.NDArray[np.bool_] | None = None
        waiting, seen = [self.source.ops[context].inputs[0]], set[str]()
        while waiting:
            name = waiting.pop()
            op = self.source.ops.get(name)
            if op is None or name in seen or op.kind == "softmax":
                continue
            seen.add(name)
            if op.kind not in ("round", "sign"):
                waiting += op.inputs
                continue
            x = self.value(op.inputs[0])
            if x is None:
                continue
            if op.kind == "round":
                close = np.abs(x - np.floor(x) - 0.5) <= TOLERANCE * np.maximum(np.abs(x), 0.5)
            else:
                close = np.abs(x) <= TOLERANCE * self._size(op.inputs[0], root=True)
            rows = np.asarray(close.any(-1, keepdims=True))
            near = rows if near is None else near | rows
        if near is None:
            return np.zeros(shape)
        return np.asarray(np.broadcast_to(near, (*near.shape[:-1], shape[-1]))).reshape(shape)


# -- the comparison ---------------------------------------------------------------------------------------------------


def force(graph: Graph, source: Source, image: Array, result: Forced) -> None:
    """Compares every op of a compiled graph with the source on one image f32[C, H, W]; adds to `result`.

    The graph must be the one that `source` compiles to, or one with the same ops and names (an artifact of it).
    """
    known = source.run(image.astype(np.float64))
    result.images += 1
    result.zeros += known.moved
    expected = dict(known.arrays)
    for op in graph.of_kind("bgemm"):
        if op.out.name in expected:
            expected[op.out.name] = expected[op.out.name] * _turned(op, source.trace)
    offsets = source.report.offsets
    expected |= {name: expected[name] - offset for name, offset in offsets.items() if name in expected}
    at: dict[Value, Array] = {graph.inputs[0]: image.reshape(graph.inputs[0].type.shape)}
    terms: dict[Value, Array] = {}  # of real values that the source does not tell: what they add up
    for op in graph.ops:
        if op.kind == "const":
            at[op.out] = op.attrs["data"]
            continue
        inputs = [at[v] for v in op.inputs]
        # The source's number is the sum of ours and what it lacks: an error is one of that sum, not of what cancels in it.
        sizes = [(terms[v] if v in terms else np.abs(at[v])) + np.abs(offsets.get(v.name, 0)) for v in op.inputs]
        with np.errstate(all="ignore"):
            outputs = REGISTRY[op.kind].reference(op.attrs, inputs)
        row = result.rows.setdefault(op.kind, Row(op.kind))
        row.ops += result.images == 1
        for value, ours in zip(op.outputs, outputs, strict=True):
            theirs = expected.get(value.name)
            if theirs is None or theirs.shape != ours.shape or np.isnan(theirs).all():
                row.unnamed += result.images == 1
                at[value] = ours
                if value.type.elem == "f32":
                    terms[value] = _magnitudes(op, inputs, sizes, ours)
                continue
            size = None
            if value.type.elem == "f32":
                size = np.maximum(np.abs(theirs), _magnitudes(op, inputs, sizes, theirs)) + np.abs(offsets.get(value.name, 0))
            _compare(op, value, size, ours, theirs, known, row, result)
            told = theirs if value.type.elem == "f32" else np.rint(theirs)
            at[value] = np.where(np.isnan(theirs), ours, told).astype(DTYPES[value.type.elem])


def _turned(op: Op, trace: Trace) -> F64:
    """-1 for every channel [O] whose weights the thresholds pass has turned."""
    ours, first = op.inputs[1].data, trace.weights.get(op.out.name)
    if ours is None or first is None or ours.shape != first.shape:
        return np.ones(op.out.type.shape[1])
    return np.where((ours == -first).all(axis=1), -1.0, 1.0)


def _compare(op: Op, value: Value, size: F64 | None, ours: Array, theirs: F64, known: Known, row: Row, result: Forced) -> None:
    told = ~np.isnan(theirs)
    if size is not None:
        with np.errstate(all="ignore"):
            error = np.where(ours == theirs, 0.0, np.abs(ours - theirs) / size)
        wrong = told & ~(error <= TOLERANCE)
        row.floats += int(told.sum())
    else:
        whole = np.rint(theirs)
        fits = np.abs(theirs - whole) <= 1e-4 + 1e-6 * np.abs(whole)
        wrong = told & ((ours != whole) | ~fits)
        error = np.zeros(ours.shape)
        if value.type.elem == "bits":
            row.codes += int(told.sum())
        else:
            row.integers += int(told.sum())
    ties = np.zeros(ours.shape, bool)
    if bool(wrong.any()):
        ties = wrong & known.near(value.name)
        wrong = wrong & ~ties
    if size is not None:
        row.float_mismatches += int(wrong.sum())
        row.worst = max(row.worst, float(error[told & ~ties].max(initial=0.0)))
    else:
        row.mismatches += int(wrong.sum())
    row.ties += int(ties.sum())
    if bool(wrong.any()) and len(result.failures) < SHOWN:
        r, c = (int(i) for i in np.argwhere(wrong)[0])
        where = {"op": value.name, "kind": op.kind, "module": op.module, "image": result.images - 1, "row": r, "channel": c}
        counts = {"wrong": int(wrong.sum()), "of": int(told.sum())}
        result.failures.append({**where, **counts, "ours": float(ours[r, c]), "source": float(theirs[r, c])})


def _magnitudes(op: Op, inputs: list[Array], sizes: list[Array], result: Array) -> F64:
    """What an op with a real result adds up, elementwise: the same op on the magnitudes (`sizes`) of its operands."""
    if op.kind == "attention":
        return np.full(result.shape, np.nanmax(np.abs(result), initial=0.0))
    if op.kind == "layer_norm_rows":
        x, gamma, beta = inputs
        centred, deviation = (a.astype(np.float64) for a in moments(x, op.attrs.get("groups", 1), op.attrs["eps"]))
        return np.asarray(np.abs(gamma) * np.maximum(sizes[0], np.abs(x - centred)) / deviation + np.abs(beta))
    if op.kind == "activation":
        return sizes[0].astype(np.float64)
    attrs, terms = op.attrs, [a.astype(DTYPES[v.type.elem]) for v, a in zip(op.inputs, sizes, strict=True)]
    if op.kind == "epilogue" and "slope" in attrs["roles"]:  # v * |slope - 1|, whatever the knee, is what may be added
        roles = list(attrs["roles"])
        slope = roles.index("slope")
        terms[slope] = 1 + np.abs(inputs[slope] - 1)
        if "knee" not in roles:
            roles.insert(slope + 1, "knee")
            terms.insert(slope + 1, terms[slope])
        terms[roles.index("knee")] = np.full_like(terms[slope], np.inf)
        attrs = {**attrs, "roles": tuple(roles)}
    with np.errstate(all="ignore"):
        return np.asarray(REGISTRY[op.kind].reference(attrs, terms)[0], np.float64)


def teacher_force(source: Source, images: npt.NDArray[np.float32], graph: Graph | None = None) -> Forced:
    """Compares a compiled graph, op by op, with its source.

    Args:
        source: the model.
        images: f32 [n, C, H, W].
        graph: an artifact's graph of this very model; default: what the source compiles to.
    """
    if source.reference is None:
        raise UserError("this source cannot be run call by call", fix="give a checkpoint, an exported program or an ONNX file")
    result = Forced()
    for image in images:
        force(source.graph if graph is None else graph, source, image, result)
    return result


__all__ = ["TOLERANCE", "Forced", "Known", "Row", "Source", "force", "teacher_force"]
