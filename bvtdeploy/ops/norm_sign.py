"""norm_sign: the sign after a LayerNorm, with the norm's affine part folded into a threshold a channel: no divide, no floats out.

    in   x f32[N x C], cut f32[1 x C], direction f32[1 x C]      out  bits{-1,+1}[N x C; packed 1 or 0]
    d, s as in layer_norm_rows (attrs groups, eps)
    code = direction[c] * d[c] >= cut[c] * s ? +1 : -1           two fp32 products; NaN gives -1
    x may be f16, which is widened first
    attrs: groups G (default 1), eps, packed (1: layout ROWS, 0: COLS; default 1)
    record: inputs[0..2] = x, cut, direction; attr[0] = G, fattr[0] = eps

gamma*d/s + beta >= t is gamma*d >= (t - beta)*s: direction is gamma or its sign (cut then (t - beta)/|gamma|).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, Type, bits
from bvtdeploy.ops.base import Array, Attrs, OpDef, register
from bvtdeploy.ops.layer_norm_rows import check_norm, moments


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    x, cut, direction = inputs
    check_norm("norm_sign", x, (cut, direction), attrs)
    return [bits(*x.shape, alphabet=BIPOLAR, packed=attrs.get("packed", 1))]


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    x, cut, direction = inputs
    d, s = moments(x, attrs.get("groups", 1), attrs["eps"])
    return [np.where(direction * d >= cut * s, 1, -1).astype(np.int8)]


register(OpDef("norm_sign", _infer, _reference, compiled=True))
