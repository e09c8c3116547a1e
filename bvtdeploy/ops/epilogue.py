"""epilogue: everything elementwise that follows a product, in one pass, up to the sign bits of the next binary layers.

    v = float(x)                                       x: i32 dots (|x| <= 2^24, so exact) or f32
    v = fma(v, scale[c], shift[c])                     if both are there; shift alone: v = v + shift[c]
    v = fma(v, scale[c], res_0[..])                    scale without shift, and there is a residual 0: it is the addend;
                                                       there is none: v = v * scale[c]
    v = v + res_j[row_j(r)][c mod cols_j]              for j = 0, 1, 2 in this order, those that are there and not yet added
    v = fma(v <= knee[c] ? v : knee[c], slope[c] - 1, v)  if slope is there: PReLU, two instructions where a branch takes three;
                                                       of v < knee the one rounding is that of v * (1 + fp32(slope - 1));
                                                       an absent knee is 0. What knees are for: passes/offsets.py
    v = v + post[c]                                    if there
    v = fma(v, scale2[c], shift2[c])                   same rule as scale/shift, with post_res_0
    v = v + post_res_j[row_j(r)][c mod cols_j]         for j = 0, 1, 2
    f32 output:  v                                     if asked for; with attrs["pool"] = g the means of g consecutive channels, as
                                                       channel_pool makes them: [N x C/g]; g is 2, 4 or 8
    bits output i: v >= threshold_i[c] ? +1 : -1       up to 4; NaN gives -1. sign(v + move) with 0 -> +1 is threshold = -move: the
                                                       fp32 sum v + move is 0 only if v == -move (gradual underflow), so the
                                                       compare is exact
    trits output i: v >= threshold_i[1][c] ? +1 : v < threshold_i[0][c] ? -1 : 0           NaN gives 0; row 0 <= row 1

Residuals are f32[R x C'] with C' dividing C (channel c reads c mod C': the expansion shortcut that tiles its input). row_j(r) = r,
or, with factor f > 1 on a grid of width W: (y/f)*(W/f) + x/f for r = y*W + x (nearest-neighbour upsampling of a smaller grid),
or, with factor 0: rows[0][r], a constant table of row numbers; the residual then has any number of rows.

In fp16 (an operand or the result is f16; then all are, but x, which may be anything, and the result, which may be f32) every step
is rounded to binary16, once: v = f16(x); fma(v, a, b) is f16(v * a + b); slope[c] - 1 is f16; an f32 result is the fp16 v,
or the fp16 mean where it pools, widened.

In the IR the inputs are named by attrs["roles"], one of ROLES each, and the outputs by attrs["results"]: "f32" or "f16" (at most
one, first), then "bits" and "trits" in any order, one for each threshold. attrs["factors"]: a factor for every residual role
present, in order of presence; attrs["width"]: W (0 where all factors are 0 or 1). attrs["packed"]: for every bits or trits result
the packed axis: 1 (layout ROWS) or 0 (layout COLS).
record: inputs[i] = the value whose role is ROLES[i], or NONE; outputs[0] = f32 or NONE, outputs[1..4] = bits or trits;
        attr[0] = W, attr[1+j] = factor of residual slot j (0..2 res, 3..5 post_res), 1 where unused;
        attr[7] = 1 in fp16 where no dot of x can be beyond +-512 (`small_dots`): such dots need no conversion
        attr[8] = g, or 0 where nothing is pooled
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from bvtdeploy.ir.graph import Op
from bvtdeploy.ir.types import BIPOLAR, DTYPES, TERNARY, Type, bits, i32
from bvtdeploy.ops.base import Array, Attrs, OpDef, as_f32, expect, register
from bvtdeploy.ops.channel_pool import pool_channels
from bvtdeploy.ops.dots import are_small
from bvtdeploy.ops.numerics import fma, fma16

RESIDUALS: Final = ("res0", "res1", "res2", "post_res0", "post_res1", "post_res2")
PARAMETERS: Final = ("scale", "shift", "slope", "knee", "post", "scale2", "shift2")
THRESHOLDS: Final = ("threshold0", "threshold1", "threshold2", "threshold3")
ROLES: Final = ("x", *RESIDUALS, *PARAMETERS, *THRESHOLDS, "rows")
POOLS: Final = (2, 4, 8)


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    roles = attrs["roles"]
    expect(len(roles) == len(inputs) and roles[0] == "x", "epilogue: one role an input, x first")
    expect(list(roles) == [r for r in ROLES if r in roles], "epilogue: roles in the order of ROLES, each once")
    x = inputs[0]
    real = "f16" if any(t.elem == "f16" for t in inputs) or "f16" in attrs["results"] else "f32"
    expect(x.elem in ("f32", "i32", real) and len(x.shape) == 2, f"epilogue of {x}")
    n, c = x.shape
    results = attrs["results"]
    codes = results[1:] if results[:1] in (("f32",), ("f16",)) else results
    expect(set(codes) <= {"bits", "trits"} and len(results) > 0, "epilogue: results")
    expect(len(codes) == sum(r in THRESHOLDS for r in roles) == len(attrs["packed"]), "epilogue: a threshold for each bits result")
    factors, kinds = iter(attrs["factors"]), iter(codes)
    by_table = 0
    for role, t in zip(roles[1:], inputs[1:], strict=True):
        if role in RESIDUALS:
            f = next(factors)
            fits = t.elem == real and len(t.shape) == 2 and t.size > 0 and c % t.shape[1] == 0
            expect(fits, f"epilogue: residual {t} of {n}x{c}")
            expect(f == 0 or t.shape[0] * f * f == n, f"epilogue: residual {t} with factor {f} does not give {n} rows")
            expect(f < 2 or (attrs["width"] % f == 0 and n % (attrs["width"] * f) == 0), "epilogue: grid and factor differ")
            by_table += f == 0
        elif role == "rows":
            expect(t == i32(1, n), f"epilogue: rows is {t}, not one row of {n}")
        elif role in THRESHOLDS and next(kinds) == "trits":
            expect(t == Type(real, (2, c)), f"epilogue: {role} is {t}, not two rows of {c}")
        else:
            expect(t == Type(real, (1, c)), f"epilogue: {role} is {t}, not one row of {c}")
    expect(bool(by_table) == ("rows" in roles), "epilogue: rows belongs to residuals of factor 0")
    expect("knee" not in roles or "slope" in roles, "epilogue: a knee belongs to a slope")
    pool = attrs.get("pool", 1)
    pools = pool in POOLS and c % pool == 0 and len(codes) < len(results)
    expect("pool" not in attrs or pools, f"epilogue: pool {pool} of {c} channels")
    packed = iter(attrs["packed"])
    alphabets = {"bits": BIPOLAR, "trits": TERNARY}
    return [bits(n, c, alphabet=alphabets[r], packed=next(packed)) if r in codes else Type(r, (n, c // pool)) for r in results]


def small_dots(op: Op) -> bool:
    """In fp16: no dot of x can be beyond +-MOST_SMALL."""
    return are_small(op.inputs[0].producer) and any(v.type.elem == "f16" for v in (*op.inputs, *op.outputs))


def row_map(n: int, factor: int, width: int) -> Array:
    """Source row of every row: itself, or its nearest neighbour on a grid smaller by `factor`."""
    r = np.arange(n)
    if factor == 1:
        return r
    return (r // width // factor) * (width // factor) + (r % width) // factor


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    at = dict(zip(attrs["roles"], inputs, strict=True))
    half = any(a.dtype == np.float16 for a in inputs) or "f16" in attrs["results"]
    v: Array = as_f32(at["x"])
    v = v.astype(np.float16) if half else v  # arrays of float16: numpy rounds after every operation
    multiply_add: Callable[..., Array] = fma16 if half else fma
    n, c = v.shape
    factors = dict(zip([r for r in attrs["roles"] if r in RESIDUALS], attrs["factors"], strict=True))

    def residual(role: str) -> Array:
        rows = row_map(n, factors[role], attrs["width"]) if factors[role] else at["rows"][0]
        expect(bool((rows >= 0).all()), "epilogue: a negative row number")
        return np.asarray(np.tile(at[role], (1, c // at[role].shape[1]))[rows])

    def affine(v: Array, scale: str, shift: str, roles: Sequence[str]) -> Array:
        """The scale, the shift and the residual sums that follow them."""
        present = [role for role in roles if role in at]
        if scale in at and shift in at:
            v = multiply_add(v, at[scale], at[shift])
        elif scale in at and roles[0] in at:
            v = multiply_add(v, at[scale], residual(present.pop(0)))
        elif scale in at:
            v = v * at[scale]
        elif shift in at:
            v = v + at[shift]
        for role in present:
            v = v + residual(role)
        return v

    v = affine(v, "scale", "shift", RESIDUALS[:3])
    if "slope" in at:
        one = v.dtype.type(1)
        knee = at.get("knee", np.zeros((1, 1), v.dtype))
        v = multiply_add(np.where(v <= knee, v, knee), at["slope"] - one, v)
    v = v + at["post"] if "post" in at else v
    v = affine(v, "scale2", "shift2", RESIDUALS[3:])
    codes = []
    kinds = [r for r in attrs["results"] if r in ("bits", "trits")]
    for kind, t in zip(kinds, [at[t] for t in THRESHOLDS if t in at], strict=True):
        below = np.where(v < t[0], -1, 0) if kind == "trits" else -1
        codes.append(np.where(v >= t[-1], 1, below).astype(np.int8))
    real = [pool_channels(v, attrs.get("pool", 1)).astype(DTYPES[r]) for r in attrs["results"][:1] if r in ("f32", "f16")]
    return [*real, *codes]


def _whole(attrs: Attrs, n: int) -> frozenset[int]:
    factors = iter(attrs["factors"])
    return frozenset(i for i, r in enumerate(attrs["roles"]) if r == "rows" or (r in RESIDUALS and next(factors) != 1))


register(OpDef("epilogue", _infer, _reference, compiled=True, whole_inputs=_whole))
