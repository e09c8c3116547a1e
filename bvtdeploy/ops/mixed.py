"""mixed_linear: the source form of products of real activations with one-bit weights.

x f32[..., K], weight bits{-1,+1}[O, K] -> f32[..., O]: sum of +-x, in fp64 and rounded once (mixed_gemm defines the compiled
order).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, Type, f32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, w = inputs
    expect(x.elem == "f32" and w.alphabet == BIPOLAR and x.shape[-1] == w.shape[1], f"mixed_linear of {x} with {w}")
    return [f32(*x.shape[:-1], w.shape[0])]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [(inputs[0].astype(np.float64) @ inputs[1].astype(np.float64).T).astype(np.float32)]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_float=outputs[0].size * inputs[1].shape[1])


register(OpDef("mixed_linear", _infer, _reference, _cost))
