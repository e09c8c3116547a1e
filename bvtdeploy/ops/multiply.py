"""multiply: the product of two values, element by element.

    in   x f32[N x C], y f32[N x C] or f32[N x 1]      out  f32[N x C] = x * y
    record: inputs[0..1] = x, y
"""

from __future__ import annotations

from collections.abc import Sequence

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, y = inputs
    expect(x.elem == "f32" and len(x.shape) == 2 and y in (x, f32(x.shape[0], 1)), f"multiply of {x} with {y}")
    return [x]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [inputs[0] * inputs[1]]


register(OpDef("multiply", _infer, _reference, compiled=True))
