"""The fused multiply-adds of fp32 and fp16 against exact rational arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bvtdeploy.ops.numerics import fma, fma16, reciprocal, sum_in_order

F = np.float32


def rounded(q: Fraction, bits: int, least: int, end: int) -> float:
    """An exact number, not zero, to `bits` bits, from 2^least on: half to even, gradual underflow, 2^end and more to infinity."""
    magnitude = abs(q)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    quantum = Fraction(2) ** (max(exponent, least) - bits + 1)
    nearest = round(magnitude / quantum) * quantum
    return math.copysign(float(nearest) if nearest < 2**end else math.inf, q)


def round32(q: Fraction) -> float:
    return rounded(q, 24, -126, 128)


def round16(q: Fraction) -> float:
    return rounded(q, 11, -14, 16)


def exact(a: float, b: float, c: float, to: Callable[[Fraction], float] = round32) -> float:
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c  # Python's float64: the same rules for infinities and NaN
    q = Fraction(a) * Fraction(b) + Fraction(c)
    return to(q) if q else a * b * 1.0 + c  # the sign of a zero: IEEE addition of exact operands


def same(got: np.ndarray, want: float) -> bool:
    return bool(np.isnan(got)) if math.isnan(want) else np.asarray(got).tobytes() == F(want).tobytes()


f32s = st.floats(width=32)
near = st.builds(
    lambda m, e, s: float(F(s * math.ldexp(m, e))), st.integers(1, 2**24 - 1), st.integers(-149, 60), st.sampled_from([-1, 1])
)


@settings(max_examples=800)
@given(f32s | near, f32s | near, f32s | near)
@example(1.0 + 2.0**-23, 1.0 + 2.0**-23, -1.0)
@example(3.4e38, 2.0, -3.4e38)
@example(2.0**-149, 0.5, 0.0)  # half of the smallest: to even, 0
@example(2.0**-149, 0.5, 2.0**-149)  # 1.5 quanta: to even, 2
@example(-0.0, 1.0, -0.0)
@example(-0.0, 1.0, 0.0)
@example(1.0, -1.0, 1.0)
@example(math.inf, 0.0, 1.0)
def test_fma_is_exact(a: float, b: float, c: float) -> None:
    a, b, c = (float(F(v)) for v in (a, b, c))
    assert same(fma(F(a), F(b), F(c)), exact(a, b, c))


@settings(max_examples=300)
@given(st.integers(-(2**24) + 1, 2**24 - 1), st.integers(0, 40), st.integers(-1, 1), st.integers(-30, 20))
def test_fma_at_and_beside_halfway(m: int, gap: int, beside: int, e: int) -> None:
    """c stands at a midpoint of its neighbours by +- half an ulp, and a*b is a hair to either side: the double-rounding trap."""
    c = math.ldexp(m, e)
    half = math.ldexp(0.5, e)
    hair = 1 + beside * 2.0**-23
    assert same(fma(F(half), F(hair), F(c)), exact(half, float(F(hair)), c))
    a, b = F(math.ldexp(1, e)), F(math.ldexp(1 + 2.0**-gap if gap < 24 else 1, -1))
    assert same(fma(a, b, F(c)), exact(float(a), float(b), c))


def test_fma_rounds_once() -> None:
    """1 + 2^-24 + 2^-60: rounding to fp64 first would lose the last bit and then tie to 1."""
    assert float(fma(F(1 + 2.0**-12), F(2.0**-24), F(1))) == float(F(1 + 2.0**-23))


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
POSITIVE = (0.0, 2.0**-24, 3 * 2.0**-24, 1023 * 2.0**-24, 2.0**-14, 1.0, 65504.0, math.inf)
EDGES = [v * s for v in POSITIVE for s in (1, -1)] + [math.nan]


def check16(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    got = fma16(a, b, c)
    want = np.array([exact(float(x), float(y), float(z), round16) for x, y, z in zip(a, b, c, strict=True)], np.float64)
    np.testing.assert_array_equal(got.astype(np.float64), want)  # NaN equals NaN
    there = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[there]), np.signbit(want[there]))


def test_fma16_is_exact() -> None:
    """Any bit patterns, numbers of like size, and every triple of edges."""
    rng = np.random.default_rng(16)
    check16(*rng.choice(HALVES, (3, 20_000)))
    check16(*(rng.standard_normal((3, 20_000)) * 2.0 ** rng.integers(-6, 7, (3, 20_000))).astype(np.float16))
    check16(*np.array([(a, b, c) for a in EDGES for b in EDGES for c in EDGES]).T.astype(np.float16))


def test_fma16_at_and_beside_halfway() -> None:
    """A product in the middle between two fp16 numbers, and c a hair; or c, and a product of half of its last bit and a hair.
    Rounding the sum to fp32 and then to fp16 goes wrong."""
    rng = np.random.default_rng(17)
    n = 4000
    odd = rng.integers(512, 1024, n) * 2 + 1  # 11 bits, the last one set
    sign, tiny = rng.choice([-1.0, 1.0], n), rng.integers(1, 4, n) * 2.0**-24
    # 1.5 * odd has 12 or 13 bits; c is a subnormal
    a = (odd * 2.0 ** rng.integers(-10, 3, n)).astype(np.float16)
    b, c = np.full(n, 1.5, np.float16), (sign * tiny).astype(np.float16)
    check16(a, b, c)
    wide = (a.astype(np.float32) * b.astype(np.float32) + c.astype(np.float32)).astype(np.float16)
    assert (fma16(a, b, c) != wide).sum() > 50, "the trap is one"
    # c, and half of its last bit and a hair: 2^-k * (1 +- 2^-10)
    e = rng.integers(-10, 6, n)
    hair = 1 + rng.integers(-1, 2, n) * 2.0**-10
    check16((sign * 2.0 ** (e - 1)).astype(np.float16), hair.astype(np.float16), (odd * 2.0**e).astype(np.float16))
    # results that are subnormal, and around the end of the range
    check16((odd * 2.0**-20).astype(np.float16), rng.choice(HALVES[0x0C00:0x1800], n), (sign * tiny).astype(np.float16))
    some = (sign * rng.integers(0, 64, n)).astype(np.float16)
    check16(np.full(n, 255.875, np.float16), rng.choice(HALVES[0x5B00:0x5D00], n), some)


def test_fma_broadcasts_and_keeps_shape() -> None:
    out = fma(np.ones((3, 1), F), np.ones((1, 4), F), np.zeros((1, 4), F))
    assert out.shape == (3, 4) and out.dtype == F
    assert fma(F(2), F(3), F(4)).shape == () and float(fma(F(2), F(3), F(4))) == 10
    assert fma(np.ones((4, 3), F).T, np.ones((4, 3), F).T, F(1)).tolist() == [[2] * 4] * 3  # not contiguous


def test_fma_is_silent(recwarn: pytest.WarningsRecorder) -> None:
    fma(np.array([np.inf, 3e38, np.nan, 1e-45], F), np.array([0, 3e38, 1, 1e-45], F), F(1))
    assert not recwarn.list


def test_sums_are_taken_in_order() -> None:
    x = np.array([[2.0**24, 1, 1, -(2.0**24)]], F)
    assert sum_in_order(x, 1).tolist() == [0.0]
    assert sum_in_order(x[:, ::-1], 1).tolist() == [2.0]
    assert sum_in_order(x, 0).tolist() == x[0].tolist()


def test_reciprocal_is_rounded_once() -> None:
    assert all(float(reciprocal(n)) == round32(Fraction(1, n)) for n in range(1, 3000))
