"""const: a constant array, attrs["data"] of type attrs["type"].

attrs["stored"], where it is there, says how an artifact holds an f32 matrix without changing it: "F16" (every element is an fp16
number) or "I8" (data = codes * scales in fp32, with attrs["codes"] i8[K x O] and attrs["scales"] f32[O]).
"""

from __future__ import annotations

from collections.abc import Sequence

from bvtdeploy.ir.types import Type
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    expect(not inputs and tuple(attrs["data"].shape) == attrs["type"].shape, "const: data and type differ")
    return [attrs["type"]]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [attrs["data"]]


register(OpDef("const", _infer, _reference))
