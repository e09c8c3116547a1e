"""The graph IR: SSA values with use-lists, ops in a valid execution order.

    g = Graph("net")
    x = g.add_input("x", f32(1, 64))
    y = g.append("sign", [x], module="vit.encoder")
    g.set_outputs([y])

Constants are ops of kind `const` without inputs, whose array is in attrs["data"]. Mutation goes through the methods here, so that
use-lists stay true; the verifier (ir/verify.py) checks them after every pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.types import Type

Array = npt.NDArray[Any]

_ELEM_OF_DTYPE = {"float32": "f32", "float16": "f16", "int32": "i32", "uint64": "u64", "float64": "f64", "bool": "bool"}


class Value:
    """One SSA value: an input of the graph (producer None) or a result of an op."""

    __slots__ = ("index", "name", "producer", "type", "uses")

    def __init__(self, type: Type, name: str, producer: Op | None, index: int) -> None:
        self.type = type
        self.name = name
        self.producer = producer
        self.index = index
        self.uses: list[tuple[Op, int]] = []

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"

    @property
    def users(self) -> list[Op]:
        """The ops that read this value, each once, in order of use."""
        return list(dict.fromkeys(op for op, _ in self.uses))

    @property
    def data(self) -> Array | None:
        """The array of a constant, None of anything else."""
        if self.producer is not None and self.producer.kind == "const":
            array: Array = self.producer.attrs["data"]
            return array
        return None


class Op:
    """One operation. `module` names the source module (for reports); `attrs` are plain Python values."""

    __slots__ = ("attrs", "inputs", "kind", "module", "outputs")

    def __init__(self, kind: str, inputs: list[Value], attrs: dict[str, Any], module: str) -> None:
        self.kind = kind
        self.inputs = inputs
        self.attrs = attrs
        self.module = module
        self.outputs: list[Value] = []

    @property
    def out(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    def __repr__(self) -> str:
        return f"{self.kind}({', '.join('%' + v.name for v in self.inputs)}) -> {self.outputs}"


class Graph:
    """A function from `inputs` to `outputs` through `ops`, which stand in an order that can be executed."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.ops: list[Op] = []
        self._counter = 0
        self._names: set[str] = set()

    # -- building -------------------------------------------------------------------------------------------------------

    def fresh_name(self, hint: str = "") -> str:
        """A value name that is not taken: the hint itself where possible."""
        base = "".join(ch if ch.isalnum() or ch in "._" else "_" for ch in hint) or "v"
        name = base
        while name in self._names or (not hint and name == "v"):
            name = f"{base}_{self._counter}" if hint else f"v{self._counter}"
            self._counter += 1
        self._names.add(name)
        return name

    def add_input(self, name: str, type: Type) -> Value:
        """A new input of the graph."""
        value = Value(type, self.fresh_name(name), None, len(self.inputs))
        self.inputs.append(value)
        return value

    def set_outputs(self, values: Sequence[Value]) -> None:
        """Declares what the graph returns."""
        self.outputs = list(values)

    def create(
        self,
        kind: str,
        inputs: Sequence[Value],
        attrs: dict[str, Any] | None = None,
        *,
        module: str = "",
        names: Sequence[str] = (),
        before: Op | None = None,
    ) -> Op:
        """Creates an op and places it before `before` (default: at the end). Types come from the op's shape rule.

        Raises ValueError when the operands do not fit the op.
        """
        from bvtdeploy.ops import REGISTRY

        if kind not in REGISTRY:
            raise ValueError(f"unknown op kind {kind!r}")
        attrs = dict(attrs or {})
        types = REGISTRY[kind].infer([v.type for v in inputs], attrs)
        op = Op(kind, list(inputs), attrs, module)
        for i, type in enumerate(types):
            op.outputs.append(Value(type, self.fresh_name(names[i] if i < len(names) else ""), op, i))
        for i, value in enumerate(op.inputs):
            value.uses.append((op, i))
        if before is None:
            self.ops.append(op)
        else:
            self.ops.insert(self.ops.index(before), op)
        return op

    def append(
        self, kind: str, inputs: Sequence[Value], attrs: dict[str, Any] | None = None, *, module: str = "", before: Op | None = None
    ) -> Value:
        """`create` for ops with one output; returns that value."""
        return self.create(kind, inputs, attrs, module=module, before=before).out

    def constant(self, array: Array, name: str = "", *, before: Op | None = None, type: Type | None = None) -> Value:
        """A constant. int8 arrays need `type` (bits or i8); other dtypes say their own."""
        array = np.asarray(array)
        if type is None:
            if str(array.dtype) not in _ELEM_OF_DTYPE:
                raise ValueError(f"no IR type for a constant of {array.dtype}")
            type = Type(_ELEM_OF_DTYPE[str(array.dtype)], array.shape)
        array = np.ascontiguousarray(array).reshape(array.shape)
        array.setflags(write=False)
        return self.create("const", [], {"data": array, "type": type}, names=[name], before=before).out

    # -- changing -------------------------------------------------------------------------------------------------------

    def replace(self, old: Value, new: Value) -> None:
        """Every use of `old`, also as a graph output, reads `new` from now on."""
        if new is old:
            return
        for op, i in old.uses:
            op.inputs[i] = new
            new.uses.append((op, i))
        old.uses = []
        self.outputs = [new if v is old else v for v in self.outputs]

    def supersede(self, old: Value, new: Value) -> None:
        """`replace` by a value that was made for it: the two also exchange their names, so that names outlive rewrites."""
        self.replace(old, new)
        old.name, new.name = new.name, old.name

    def set_input(self, op: Op, i: int, new: Value) -> None:
        """Operand `i` of `op` becomes `new`."""
        op.inputs[i].uses.remove((op, i))
        op.inputs[i] = new
        new.uses.append((op, i))

    def remove(self, op: Op) -> None:
        """Removes an op whose outputs nobody reads."""
        assert not any(v.uses or v in self.outputs for v in op.outputs), f"{op} is still in use"
        for i, value in enumerate(op.inputs):
            value.uses.remove((op, i))
        self.ops.remove(op)

    def drop_dead(self) -> int:
        """Removes every op that no output depends on; returns how many."""
        live: set[int] = {id(v) for v in self.outputs}
        kept: list[Op] = []
        dead: list[Op] = []
        for op in reversed(self.ops):
            if any(id(v) in live for v in op.outputs):
                live.update(id(v) for v in op.inputs)
                kept.append(op)
            else:
                dead.append(op)
        for op in dead:
            for i, value in enumerate(op.inputs):
                value.uses.remove((op, i))
        self.ops = kept[::-1]
        return len(dead)

    # -- asking ---------------------------------------------------------------------------------------------------------

    def values(self) -> Iterator[Value]:
        """Every value: inputs, then results in execution order."""
        yield from self.inputs
        for op in self.ops:
            yield from op.outputs

    def count(self) -> dict[str, int]:
        """How many ops of each kind, constants left out, sorted by kind."""
        kinds = sorted(op.kind for op in self.ops if op.kind != "const")
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}

    def of_kind(self, *kinds: str) -> list[Op]:
        """A snapshot of the ops of these kinds, in order: safe to iterate while rewriting."""
        return [op for op in self.ops if op.kind in kinds]


def single_use(value: Value, graph: Graph) -> bool:
    """The value is read once and is not a graph output: its producer can be absorbed by the reader."""
    return len(value.uses) == 1 and not any(v is value for v in graph.outputs)


def producers(value: Value, kinds: Iterable[str]) -> Op | None:
    """The producer of a value if it is of one of these kinds."""
    op = value.producer
    return op if op is not None and op.kind in kinds else None
