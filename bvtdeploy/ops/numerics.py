"""The project's float arithmetic, in numpy: what a fused multiply-add in fp32 and in fp16 is, and in which order sums are taken.

The C kernels implement the same definitions (runtime_arm/src/numerics.h) with hardware instructions. Nothing here may depend on
how numpy happens to sum: every reduction is written as a loop in its defined order.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Real = npt.NDArray[np.floating[Any]]


def fma(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> F32:
    """round32(a*b + c) with one rounding, elementwise on f32 operands.

    The product of two fp32 numbers is exact in fp64 (48 <= 53 bits). Its sum with c is taken in fp64 *rounded to odd*: with
    TwoSum (Knuth) the rounding error e of s = p + c is known exactly; where e != 0 and the last bit of s is even, s is moved
    one ulp towards the exact sum's other neighbour, which is odd. Rounding a round-to-odd number of >= 24+2 bits to 24 bits
    equals rounding the exact value (Boldo & Melquiond 2008, theorem 3).
    """
    with np.errstate(all="ignore"):
        p = np.asarray(a, np.float64) * np.asarray(b, np.float64)
        c64 = np.asarray(c, np.float64)
        s = np.asarray(p + c64)
        t = s - p
        e = (p - (s - t)) + (c64 - t)
        bits = s.view(np.int64)
        fix = np.isfinite(s) & (e != 0) & ((bits & 1) == 0)
        # Towards e's sign: away from zero where e and s agree in sign (bits + 1), else towards zero (bits - 1).
        step = np.where((e > 0) == (s > 0), np.int64(1), np.int64(-1))
        odd: F64 = np.asarray(bits + np.where(fix, step, np.int64(0))).view(np.float64)
        result: F32 = odd.astype(np.float32)
        return result


def fma16(a: npt.ArrayLike, b: npt.ArrayLike, c: npt.ArrayLike) -> F16:
    """round16(a*b + c) with one rounding, elementwise on f16 operands.

    The product of two fp16 numbers is exact in fp64 (22 bits, the last no less than 2^-48). Its sum with c, whose last bit is no
    less than 2^-24, loses bits only where it has more than 53, and these decide nothing: either the product is below 2^-30 of c, an
    fp16 number, to which the sum is rounded with or without them; or the sum is beyond 2^28, and rounds to infinity. numpy rounds
    fp64 to fp16 once.
    """
    with np.errstate(all="ignore"):
        exact = np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)
        result: F16 = exact.astype(np.float16)
        return result


def sum_in_order(x: Real, axis: int) -> Real:
    """Sum along `axis`, first to last, rounded to the type of x (fp32 or fp16) after every addition."""
    moved = np.moveaxis(x, axis, 0)
    total: Real = moved[0].copy()
    for part in moved[1:]:
        total = (total + part).astype(x.dtype)
    return total


def reciprocal(n: int) -> np.float32:
    """1/n rounded to fp32: means are sums times this."""
    return np.float32(np.float64(1.0) / np.float64(n))


LANES: Final = 8


def lane_sum(x: F32, *, squares: bool = False) -> F32:
    """Sum (or sum of squares) along the last axis in the order that vectors of 8 take.

    Lane l starts at +0 and takes the elements l, l+8, l+16, ... in order: acc + x, or fma(x, x, acc). The lanes then meet as
    ((0+4)+(2+6))+((1+5)+(3+7)). (An element that is not there counts as +0, which changes no lane.)
    """
    n = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], -(-n // LANES) * LANES), np.float32)
    padded[..., :n] = x
    acc = np.zeros((*x.shape[:-1], LANES), np.float32)
    for at in range(0, n, LANES):
        part = padded[..., at : at + LANES]
        acc = fma(part, part, acc) if squares else acc + part
    four = acc[..., :4] + acc[..., 4:]
    total: F32 = (four[..., 0] + four[..., 2]) + (four[..., 1] + four[..., 3])
    return total
