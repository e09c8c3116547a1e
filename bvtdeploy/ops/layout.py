"""Layout source ops: permute reshape expand concat slice roll take upsample. None survives the layout pass.

permute: attrs perm. reshape: attrs shape. expand: attrs shape, numpy broadcasting. concat: attrs axis. slice: attrs axis, start,
stop, step. roll: attrs shifts, axes (of equal length; axes non-negative and different): element i along an axis goes to i + shift,
around the end. take: attrs axis, indices (non-negative constants): x indexed along one axis, in that order. upsample: nearest
neighbour of [B, C, H, W] by an integer attrs factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import Type, f32
from bvtdeploy.ops.base import Array, Attrs, OpDef, expect, register


def _infer_permute(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), perm = inputs, attrs["perm"]
    expect(sorted(perm) == list(range(len(x.shape))), f"permute {perm} of {x}")
    return [Type(x.elem, tuple(x.shape[i] for i in perm), x.alphabet)]


def _infer_reshape(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,) = inputs
    out = Type(x.elem, tuple(attrs["shape"]), x.alphabet)
    expect(out.size == x.size, f"reshape of {x} to {out}")
    return [out]


def _infer_expand(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), shape = inputs, tuple(attrs["shape"])
    expect(np.broadcast_shapes(x.shape, shape) == shape, f"expand of {x} to {shape}")
    return [Type(x.elem, shape, x.alphabet)]


def _infer_concat(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    axis, first = attrs["axis"], inputs[0]
    rest = [t.shape[:axis] + t.shape[axis + 1 :] for t in inputs]
    expect(len(set(rest)) == 1 and 0 <= axis < len(first.shape), f"concat of {[str(t) for t in inputs]} along {axis}")
    total = sum(t.shape[axis] for t in inputs)
    return [f32(*first.shape[:axis], total, *first.shape[axis + 1 :])]


def _infer_slice(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), axis = inputs, attrs["axis"]
    n = len(range(x.shape[axis])[attrs["start"] : attrs["stop"] : attrs["step"]])
    return [Type(x.elem, (*x.shape[:axis], n, *x.shape[axis + 1 :]), x.alphabet)]


def _slice(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    index = [slice(None)] * inputs[0].ndim
    index[attrs["axis"]] = slice(attrs["start"], attrs["stop"], attrs["step"])
    return [inputs[0][tuple(index)]]


def _infer_roll(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), shifts, axes = inputs, attrs["shifts"], attrs["axes"]
    expect(len(shifts) == len(axes) == len(set(axes)), f"roll of {x} by {shifts} along {axes}")
    expect(all(0 <= a < len(x.shape) for a in axes), f"roll of {x} along {axes}")
    return [x]


def _infer_take(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), axis, indices = inputs, attrs["axis"], attrs["indices"]
    expect(0 <= axis < len(x.shape), f"take of {x} along {axis}")
    expect(all(0 <= i < x.shape[axis] for i in indices), f"take: an index is outside of axis {axis} of {x}")
    return [Type(x.elem, (*x.shape[:axis], len(indices), *x.shape[axis + 1 :]), x.alphabet)]


def _take(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    return [np.take(inputs[0], np.asarray(attrs["indices"], np.int64), attrs["axis"])]


def _infer_upsample(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    (x,), f = inputs, attrs["factor"]
    expect(len(x.shape) == 4 and f >= 1, f"upsample of {x} by {f}")
    return [f32(x.shape[0], x.shape[1], x.shape[2] * f, x.shape[3] * f)]


register(OpDef("permute", _infer_permute, lambda attrs, inputs: [inputs[0].transpose(attrs["perm"])]))
register(OpDef("reshape", _infer_reshape, lambda attrs, inputs: [inputs[0].reshape(attrs["shape"])]))
register(OpDef("expand", _infer_expand, lambda attrs, inputs: [np.broadcast_to(inputs[0], attrs["shape"])]))
register(OpDef("concat", _infer_concat, lambda attrs, inputs: [np.concatenate(inputs, attrs["axis"])]))
register(OpDef("slice", _infer_slice, _slice))
register(OpDef("roll", _infer_roll, lambda attrs, inputs: [np.roll(inputs[0], attrs["shifts"], attrs["axes"])]))
register(OpDef("take", _infer_take, _take))
register(
    OpDef("upsample", _infer_upsample, lambda attrs, inputs: [inputs[0].repeat(attrs["factor"], 2).repeat(attrs["factor"], 3)])
)
