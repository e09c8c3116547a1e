"""The text form of a graph, which round-trips: `parse(print_graph(g), constants(g))` is g again.

    graph @net(%x: f32[2x8]) -> (%y) {
      %w = const @c0 : f32[8x4]                                  # large constants live beside the text, by name
      %b = const [0.5, 1] : f32[1x2]                             # up to 4 elements stand in it
      %y = dense(%x, %w) {"k": 1} : f32[2x4]  # vit.head         # attributes as JSON, then the source module
      %f, %s = epilogue(%y, %t) {...} : f32[2x4], bits{-1,+1}[2x4; packed 1]
    }
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bvtdeploy.ir.graph import Array, Graph, Op, Value
from bvtdeploy.ir.types import DTYPES, Type

_INLINE = 4


def _inline(array: Array) -> bool:
    return array.size <= _INLINE and bool(np.isfinite(array.astype(np.float64)).all()) and array.dtype != np.uint64


def constants(graph: Graph) -> dict[str, Array]:
    """The constants that the text form refers to by name."""
    return {op.out.name: op.attrs["data"] for op in graph.ops if op.kind == "const" and not _inline(op.attrs["data"])}


def _line(op: Op) -> str:
    results = ", ".join("%" + v.name for v in op.outputs)
    types = ", ".join(str(v.type) for v in op.outputs)
    if op.kind == "const":
        data = op.attrs["data"]
        body = json.dumps(data.reshape(-1).tolist()) if _inline(data) else f"@{op.out.name}"
        return f"  {results} = const {body} : {types}"
    attrs = f" {json.dumps(op.attrs, sort_keys=True)}" if op.attrs else ""
    module = f"  # {op.module}" if op.module else ""
    return f"  {results} = {op.kind}({', '.join('%' + v.name for v in op.inputs)}){attrs} : {types}{module}"


def print_graph(graph: Graph) -> str:
    """The graph as text, one op a line."""
    inputs = ", ".join(f"%{v.name}: {v.type}" for v in graph.inputs)
    outputs = ", ".join("%" + v.name for v in graph.outputs)
    return "\n".join([f"graph @{graph.name}({inputs}) -> ({outputs}) {{", *map(_line, graph.ops), "}", ""])


_HEAD = re.compile(r"graph @(\S*?)\((.*)\) -> \((.*)\) \{")
_CONST = re.compile(r"%(\S+) = const (.+) : (.+)")
_OP = re.compile(r"(%[^=]+?) = (\w+)\(([^)]*)\)(?: (\{.*\}))? : (.*?)(?:  # (.*))?")


def _tuples(x: Any) -> Any:
    return tuple(map(_tuples, x)) if isinstance(x, list) else x


def _split_types(text: str) -> list[Type]:
    return [Type.parse(part) for part in re.findall(r"[a-z]+[0-9]*(?:\{[^}]*\})?\[[^\]]*\]", text)]


def parse(text: str, constants: Mapping[str, Array] | None = None) -> Graph:
    """Reads the text form. Raises ValueError naming the line that is not understood."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    head = _HEAD.fullmatch(lines[0]) if lines else None
    if head is None or lines[-1] != "}":
        raise ValueError("not a graph: expected `graph @name(...) -> (...) {` ... `}`")
    graph = Graph(head[1])
    at: dict[str, Value] = {}
    for name, type_text in re.findall(r"%([\w.]+): ([a-z]+[0-9]*(?:\{[^}]*\})?\[[^\]]*\])", head[2]):
        at[name] = graph.add_input(name, Type.parse(type_text))
    for line in lines[1:-1]:
        try:
            if m := _CONST.fullmatch(line):
                type = Type.parse(m[3])
                if m[2].startswith("@"):
                    data = np.asarray((constants or {})[m[2][1:]])
                else:
                    data = np.asarray(json.loads(m[2]), DTYPES[type.elem]).reshape(type.shape)
                at[m[1]] = graph.constant(data, m[1], type=type)
            elif m := _OP.fullmatch(line):
                names = [n.strip()[1:] for n in m[1].split(",")]
                inputs = [at[n.strip()[1:]] for n in m[3].split(",") if n.strip()]
                attrs = {k: _tuples(v) for k, v in json.loads(m[4] or "{}").items()}
                op = graph.create(m[2], inputs, attrs, module=m[6] or "", names=names)
                if [v.type for v in op.outputs] != _split_types(m[5]):
                    raise ValueError(f"the types are {[str(v.type) for v in op.outputs]}")
                at.update(zip(names, op.outputs, strict=True))
            else:
                raise ValueError("neither a constant nor an op")
        except (KeyError, ValueError) as error:
            raise ValueError(f"{line!r}: {error}") from error
    graph.set_outputs([at[n.strip()[1:]] for n in head[3].split(",")])
    return graph
