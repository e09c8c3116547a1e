"""The lowered model: what an artifact's VALUES, OPS, GROUPS and CONSTANTS sections say, as Python objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from bvtdeploy.artifact.spec import NONE, OPCODES
from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import BIPOLAR, TERNARY
from bvtdeploy.lower.memory import Request, align, plan
from bvtdeploy.lower.pack import pack_quads, pack_stored, quads_stride, trit_stride
from bvtdeploy.lower.schedule import Group, schedule, whole_inputs
from bvtdeploy.lower.weights import DEFAULT, TILES, Costs, Measured, Product, choose, pack_weight, table_rows
from bvtdeploy.lower.weights import scratch_bytes as bgemm_scratch
from bvtdeploy.ops import REGISTRY, attention, dense_i8
from bvtdeploy.ops.activation import KINDS as ACTIVATIONS
from bvtdeploy.ops.base import is_real
from bvtdeploy.ops.dots import MOST_I16, largest_dot
from bvtdeploy.ops.epilogue import RESIDUALS, ROLES, small_dots

BLOCKS: Final = (64, 32, 16, 8)
TILE_BUDGET: Final = 24 * 1024  # bytes of a block's values: with the weights that pass by they should stay in a 32 KB L1
MIN_BLOCKS: Final = 4  # so that a few threads have something to share
ATTENTION_ROWS: Final = 128
ATTENTION_BUDGET: Final = 160 * 1024  # the same where tables of an attention's values are made for each block: in L2
TABLE_BUDGET: Final = 256 * 1024  # where a table of the rows is built for each block: of 32 rows; they should stay in L2
WIDENED_ROWS: Final = 8  # of f16, that a kernel of f32 reads at a time

_DTYPE = {"f32": "F32", "f16": "F16", "i32": "I32", "bits": "BITS", "u64": "U64", "f64": "F64", "i8": "I8"}
_BYTES = {"F32": 4, "I32": 4, "I16": 2, "F16": 2, "U64": 8, "F64": 8}


@dataclass
class LoweredValue:
    """A value record; see spec.VALUE."""

    name: str
    dtype: str
    storage: str
    layout: str
    rows: int
    cols: int
    stride: int
    offset: int = 0
    bytes: int = 0
    stored: str = "AS_IS"
    widened: int = 0


@dataclass
class LoweredOp:
    """An op record; see spec.OP."""

    kind: str
    name: str
    module: str
    inputs: list[int]
    outputs: list[int]
    attr: list[int]
    scratch: int
    macs_binary: int
    macs_float: int
    fattr: list[float] = field(default_factory=list)


@dataclass
class LoweredGroup:
    """A group record; see spec.GROUP."""

    first_op: int
    n_ops: int
    rows: int
    block: int


@dataclass
class Lowered:
    """Everything that the writer needs. `ops[i]` executes `sources[i]` of the compiled graph."""

    values: list[LoweredValue] = field(default_factory=list)
    ops: list[LoweredOp] = field(default_factory=list)
    groups: list[LoweredGroup] = field(default_factory=list)
    constants: bytes = b""
    arena_bytes: int = 0
    tile_bytes: int = 0
    widened_bytes: int = 0
    sources: list[Op] = field(default_factory=list)


def _window(op: Op) -> list[int]:
    return [op.attrs[n] for n in ("height", "width", "kernel", "stride")]


def _padded_window(op: Op) -> list[int]:
    return [*_window(op), op.attrs.get("padding", 0)]


def _groups(op: Op) -> list[int]:
    return [op.attrs.get("groups", 1)]


def _stencil(op: Op) -> list[int]:
    a = op.attrs
    taps = [(dy & 255) | (dx & 255) << 8 for dy, dx in a["offsets"]]
    return [a["height"], a["width"], len(taps), int(a["boundary"] == "circular"), *taps]


def _epilogue(op: Op) -> list[int]:
    present = dict(zip([r for r in op.attrs["roles"] if r in RESIDUALS], op.attrs["factors"], strict=True))
    return [op.attrs["width"], *(present.get(r, 1) for r in RESIDUALS), int(small_dots(op)), op.attrs.get("pool", 0)]


# Attributes of each op record, as its file in bvtdeploy/ops/ says.
_ATTR: Final[Mapping[str, Any]] = {
    "patches": lambda op: [op.attrs["channels"], *_window(op)],
    "row_patches": lambda op: [*_padded_window(op), op.attrs.get("dilation", 1), *_groups(op)],
    "avg_pool": _padded_window,
    "max_pool": _padded_window,
    "bgemm": _groups,
    "mean_rows": _groups,
    "layer_norm_rows": _groups,
    "norm_sign": _groups,
    "activation": lambda op: [ACTIVATIONS.index(op.attrs["kind"])],
    "stencil": _stencil,
    "epilogue": _epilogue,
    "attention": attention.record_attr,
    "channel_pool": lambda op: [op.attrs["group"]],
}

# Likewise the floating-point attributes.
_FATTR: Final[Mapping[str, Any]] = {
    "layer_norm_rows": lambda op: [op.attrs["eps"]],
    "norm_sign": lambda op: [op.attrs["eps"]],
    "activation": lambda op: [op.attrs["low"], op.attrs["high"]] if op.attrs["kind"] == "clamp" else [],
}


def scratch_bytes(op: Op, layout: str = DEFAULT) -> int:
    """Tile memory that the kernel of an op needs while it runs (runtime_arm/README.md, "Scratch"). `layout`: a bgemm weight's."""
    if op.kind == "bgemm":
        x, weight = (v.type for v in op.inputs)
        return bgemm_scratch(layout, weight.shape[1], x.alphabet == TERNARY)
    if op.kind == "attention":
        return attention.scratch_bytes(op)
    if op.kind == "dense_i8":
        return dense_i8.scratch_bytes(op.inputs[1].type.shape[1])
    if op.kind in ("layer_norm_rows", "norm_sign") and op.inputs[0].type.elem == "f16":
        return WIDENED_ROWS * 4 * op.inputs[0].type.shape[1]
    return 0


def record_dtype(value: Value) -> str:
    """The dtype of a value's record: i32 dots are in 16 bits where they fit."""
    most = largest_dot(value.producer)
    if most is not None and most <= MOST_I16:
        return "I16"
    return "TRITS" if value.type.alphabet == TERNARY else _DTYPE[value.type.elem]


def _stride(value: Value, layout: str) -> int:
    rows, cols = value.type.shape
    if layout in TILES:
        return TILES[layout][1](cols)
    if layout == "QUADS":
        return quads_stride(cols)
    if value.type.elem == "bits":
        line = rows if layout == "COLS" else cols
        return trit_stride(line) if value.type.alphabet == TERNARY else align(-(-line // 8), 8)
    return cols * _BYTES[record_dtype(value)]


def _layout(value: Value) -> str:
    if value.type.elem == "i8":
        return "QUADS"
    if value.type.elem != "bits":
        return "ROWS"
    if value.data is not None:
        if value.type.alphabet != BIPOLAR:
            raise ValueError(f"%{value.name} is a constant {value.type}: only {BIPOLAR} constants have a layout")
        return DEFAULT
    return "COLS" if value.type.packed == 0 else "ROWS"


def _attention_rows(rows: int) -> int:
    """Rows of a call of an attention, so that the tables of its values are used by many and four threads still have work."""
    quarter = -(-rows // MIN_BLOCKS)
    return min(ATTENTION_ROWS, -(-quarter // 8) * 8, rows)


def _size(v: LoweredValue, rows: int) -> int:
    if v.layout == "COLS":
        return v.cols * v.stride
    channels = 16 if v.layout == "QUADS" else TILES[v.layout][0] if v.layout in TILES else 1
    return v.stride * -(-rows // channels)


class _Lowering:
    def __init__(self, graph: Graph, costs: Costs, measured: Measured) -> None:
        self.graph = graph
        self.costs, self.measured = costs, measured
        self.groups = schedule(graph)
        self.result = Lowered()
        self.index: dict[Value, int] = {}
        self.weights: dict[tuple[Value, str], int] = {}  # of a bgemm, by layout
        self.constants: dict[tuple[Any, ...], int] = {}
        self.data = bytearray()

    def run(self) -> Lowered:
        group_of = {op: g for g, group in enumerate(self.groups) for op in group.ops}
        out = self.result
        for value in self.graph.inputs:
            self._add(value, "INPUT")
        for value in self.graph.outputs:
            self._add(value, "OUTPUT")
        for g, group in enumerate(self.groups):
            out.groups.append(LoweredGroup(len(out.ops), len(group.ops), group.rows, 0))
            for op in group.ops:
                layout = self._weight_layout(op)
                for value in op.inputs:
                    if value.data is not None and not (layout and value is op.inputs[1]):
                        self._constant(value)
                if layout:
                    self._weight(op.inputs[1], layout)
                for value in op.outputs:
                    if value not in self.index:
                        self._add(value, "TILE" if self._local(value, g, group_of) else "ARENA")
                out.ops.append(self._op(op))
                out.sources.append(op)
        self._plan_arena(group_of)
        self._plan_tiles()
        out.constants = bytes(self.data)
        return out

    def _local(self, value: Value, g: int, group_of: dict[Op, int]) -> bool:
        if value.type.packed == 0:
            return False
        return all(group_of[user] == g and value not in whole_inputs(user) for user in value.users)

    def _weight_layout(self, op: Op) -> str:
        """The layout of a bgemm's weight; of another op "". Groups only LANES16 has."""
        if op.kind != "bgemm":
            return ""
        x, weight = (v.type for v in op.inputs)
        if op.attrs.get("groups", 1) != 1:
            return DEFAULT
        product = Product(x.shape[0], weight.shape[1], weight.shape[0], x.alphabet == TERNARY)
        return choose(self.costs, product, self.measured)

    def _record(self, value: Value, storage: str, layout: str) -> int:
        """A new value record."""
        rows, cols = value.type.shape
        record = LoweredValue(value.name, record_dtype(value), storage, layout, rows, cols, _stride(value, layout))
        record.bytes = _size(record, rows)
        self.result.values.append(record)
        return len(self.result.values) - 1

    def _add(self, value: Value, storage: str) -> None:
        self.index[value] = self._record(value, storage, _layout(value))

    def _constant(self, value: Value) -> None:
        """A constant that is no bgemm's weight."""
        if value not in self.index:
            self.index[value] = self._stored(value, _layout(value))

    def _weight(self, value: Value, layout: str) -> None:
        """A bgemm's weight, in its layout."""
        if (value, layout) not in self.weights:
            self.weights[value, layout] = self._stored(value, layout)

    def _stored(self, value: Value, layout: str) -> int:
        """The record of a constant whose bytes are in CONSTANTS; equal ones are there once."""
        data = value.data
        assert data is not None and value.producer is not None
        marks = value.producer.attrs
        stored = marks.get("stored", "AS_IS")
        if stored != "AS_IS":
            raw = pack_stored(data, stored, marks.get("codes"), marks.get("scales"))
        elif value.type.elem == "bits":
            raw = pack_weight(data, layout).tobytes()
        elif layout == "QUADS":
            raw = pack_quads(data).tobytes()
        else:
            raw = np.ascontiguousarray(data).tobytes()
        key = (value.type, layout, stored, raw)
        if key not in self.constants:
            self.constants[key] = self._record(value, "CONST", layout)
            record = self.result.values[self.constants[key]]
            self.data += bytes(align(len(self.data)) - len(self.data))
            record.offset, record.stored = len(self.data), stored
            if stored != "AS_IS":
                record.widened = self.result.widened_bytes
                self.result.widened_bytes += align(record.bytes)
                record.bytes = len(raw)
            self.data += raw
        return self.constants[key]

    def _op(self, op: Op) -> LoweredOp:
        if op.kind == "epilogue":
            at = dict(zip(op.attrs["roles"], op.inputs, strict=True))
            inputs = [self.index[at[r]] if r in at else NONE for r in ROLES]
            real = [v for v in op.outputs if is_real(v.type)]
            outputs = [self.index[real[0]] if real else NONE, *(self.index[v] for v in op.outputs if v.type.elem == "bits")]
        elif op.kind == "attention":
            inputs = [NONE if v is None else self.index[v] for v in attention.record_inputs(op)]
            outputs = [self.index[v] for v in op.outputs]
        else:
            layout = self._weight_layout(op)
            inputs = [self.weights[v, layout] if layout and i == 1 else self.index[v] for i, v in enumerate(op.inputs)]
            if op.kind == "gather":  # the record has the index first
                inputs = [inputs[-1], *inputs[:-1]]
            outputs = [self.index[v] for v in op.outputs]
        cost = REGISTRY[op.kind].cost([v.type for v in op.inputs], [v.type for v in op.outputs], op.attrs)
        attr = [int(a) for a in _ATTR[op.kind](op)] if op.kind in _ATTR else []
        fattr = [float(a) for a in _FATTR[op.kind](op)] if op.kind in _FATTR else []
        name, scratch = op.outputs[0].name, scratch_bytes(op, self._weight_layout(op) or DEFAULT)
        return LoweredOp(op.kind, name, op.module, inputs, outputs, attr, scratch, cost.macs_binary, cost.macs_float, fattr)

    def _plan_arena(self, group_of: dict[Op, int]) -> None:
        values = [v for v, i in self.index.items() if self.result.values[i].storage == "ARENA"]
        lives: dict[Value, tuple[int, int]] = {}
        for v in values:
            assert v.producer is not None
            lives[v] = group_of[v.producer], max([group_of[user] for user in v.users], default=group_of[v.producer])
        over = self._overwritten(lives)
        room: dict[Value, Value] = {}  # the first of all values that follow each other in one place
        for v in sorted(values, key=lambda v: lives[v]):
            room[v] = room[over[v]] if v in over else v
        requests = {v: Request(self.result.values[self.index[v]].bytes, *lives[v]) for v in values if room[v] is v}
        for v in values:
            own = requests[room[v]]
            requests[room[v]] = Request(own.size, min(own.first, lives[v][0]), max(own.last, lives[v][1]))
        places, self.result.arena_bytes = plan(list(requests.values()))
        offsets = dict(zip(requests, places, strict=True))
        for v in values:
            self.result.values[self.index[v]].offset = offsets[room[v]]

    def _overwritten(self, lives: dict[Value, tuple[int, int]]) -> dict[Value, Value]:
        """Result -> the operand of the same group in whose very place it may be written: of equal shape and rows, read for the last
        time here, only at the row that is being produced, and by ops that are through with the row before it is written. An
        epilogue may also write over an operand while it still reads it, as it reads each element before it writes the one in its
        place; not if it pools: an operand of its result's shape is then a residual, which it reads again for later channels."""
        taken: dict[Value, Value] = {}
        for g, group in enumerate(self.groups):
            step = {op: i for i, op in enumerate(group.ops)}
            whole = {v for op in group.ops for v in whole_inputs(op)}
            ends = [v for v in dict.fromkeys(v for op in group.ops for v in op.inputs) if v in lives and lives[v][1] == g]
            ends = [v for v in ends if lives[v][0] < g and v not in whole]
            for out in (v for op in group.ops for v in op.outputs if v in lives):
                assert out.producer is not None
                at = step[out.producer]
                for v in ends:
                    same = v.type == out.type and is_real(out.type) and v not in taken.values()
                    readers = [step[user] for user in v.users if user in step]
                    while_it_reads = out.producer.kind == "epilogue" and "pool" not in out.producer.attrs
                    if same and (max(readers) < at or (max(readers) == at and while_it_reads)):
                        taken[out] = v
                        break
        return taken

    def _plan_tiles(self) -> None:
        scratch = max((align(op.scratch) for op in self.result.ops), default=0)
        largest = 0
        for group, record in zip(self.groups, self.result.groups, strict=True):
            record.block, offsets, size = self._block(group)
            for value, offset in offsets.items():
                v = self.result.values[self.index[value]]
                v.offset, v.bytes = offset, _size(v, record.block)
            largest = max(largest, size)
        self.result.tile_bytes = align(largest) + scratch

    def _block(self, group: Group) -> tuple[int, dict[Value, int], int]:
        """Rows of a block: the largest that keeps the block's values in cache and leaves blocks for several threads."""
        step = {op: i for i, op in enumerate(group.ops)}
        values = [v for op in group.ops for v in op.outputs if self.result.values[self.index[v]].storage == "TILE"]
        spans = []
        for v in values:
            assert v.producer is not None
            spans.append((step[v.producer], max([step[user] for user in v.users], default=step[v.producer])))
        blocks, budget = [b for b in BLOCKS if b * MIN_BLOCKS <= group.rows], TILE_BUDGET
        if any(self._weight_layout(op) == "LUT" for op in group.ops):  # its kernel makes 32 or 16 rows at a time
            blocks, budget = [b for b in BLOCKS if 16 <= b <= min(table_rows(group.rows), group.rows)], TABLE_BUDGET
        elif any(op.kind == "attention" for op in group.ops):
            most = _attention_rows(group.rows)
            blocks, budget = [most, *(b for b in BLOCKS if b < most)], ATTENTION_BUDGET
        for block in (*blocks, min(BLOCKS[-1], group.rows)):
            sizes = [_size(self.result.values[self.index[v]], block) for v in values]
            requests = [Request(size, *span) for size, span in zip(sizes, spans, strict=True)]
            offsets, total = plan(requests)
            if total <= budget or block <= BLOCKS[-1]:
                return block, dict(zip(values, offsets, strict=True)), total
        raise AssertionError("the last candidate is always taken")


def describe(low: Lowered) -> str:
    """The schedule and the memory plan as text: groups, their ops, and where each value lives."""

    def place(i: int) -> str:
        v = low.values[i]
        at = f"+{v.offset}" if v.storage in ("ARENA", "TILE", "CONST") else ""
        return f"%{v.name}:{v.storage.lower()}{at}"

    lines = [
        f"arena {low.arena_bytes} bytes, tile {low.tile_bytes} bytes a thread, constants {len(low.constants)} bytes, "
        f"widened {low.widened_bytes} bytes"
    ]
    for n, g in enumerate(low.groups):
        lines.append(f"group {n}: {g.rows} rows in blocks of {g.block}")
        for op in low.ops[g.first_op : g.first_op + g.n_ops]:
            inputs = ", ".join(place(i) for i in op.inputs if i != NONE)
            outputs = ", ".join(place(i) for i in op.outputs if i != NONE)
            lines.append(f"  {outputs} = {op.kind}({inputs})" + (f"  # {op.module}" if op.module else ""))
    return "\n".join([*lines, ""])


def lower(graph: Graph, costs: Costs | None = None, measured: Measured | None = None) -> Lowered:
    """Schedules, plans memory and packs the constants of a compiled graph. `costs` and `measured` choose the layouts of binary
    weights.

    Raises ValueError when an op has no opcode: a pass left a source op behind.
    """
    left = sorted({op.kind for op in graph.ops if op.kind != "const" and op.kind not in OPCODES})
    if left:
        raise ValueError(f"these ops have no compiled form: {', '.join(left)}")
    return _Lowering(graph, costs or {}, measured or {}).run()


__all__ = ["Lowered", "LoweredGroup", "LoweredOp", "LoweredValue", "lower"]
