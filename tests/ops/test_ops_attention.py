"""Integer attention against the float definition: a = clip * clamp(round(softmax(q k / sqrt d) / clip), 0, 1), o = a v."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.attention import attend
from bvtdeploy.passes.attention import softmax_table

Array = npt.NDArray[Any]


def signs(rng: np.random.Generator, *shape: int) -> Array:
    return rng.choice(np.array([-1, 1], np.int8), shape)


def float_mask(q: Array, k: Array, clip: float, scale: float) -> tuple[Array, Array]:
    """(a / clip, p / clip): the definition in float64, np.rint is half to even."""
    s = q.astype(np.float64) @ k.T.astype(np.float64) * scale
    e = np.exp(s - s.max(1, keepdims=True))
    ratio = e / e.sum(1, keepdims=True) / clip
    return np.clip(np.rint(ratio), 0, 1), ratio


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (3, 5, 7), (8, 4, 8), (17, 33, 64), (4, 1000, 64), (5, 300, 16)])
def test_against_the_float_definition(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n * m + d)
    for clip in (0.004, 0.02, 0.1, 0.31, 0.7, 1.0, 1.9, 2.1):
        q, k, v = signs(rng, n, d), signs(rng, m, d), signs(rng, m, d)
        a, ratio = float_mask(q, k, clip, d**-0.5)
        assert not (np.abs(ratio - 0.5) < 1e-7).any() or m == 1, "the test must stand clear of rounding"
        out = attend(q, k, v, softmax_table(d, d**-0.5, m)[0], 0.5 * clip)
        assert out.dtype == np.int32 and np.array_equal(out, a @ v)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 40), st.integers(1, 20), st.floats(0.01, 2.5), st.floats(0.05, 2))
def test_mask_wherever_the_float_definition_is_clear(seed: int, n: int, m: int, d: int, clip: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    q, k = signs(rng, n, d), signs(rng, m, d)
    a, ratio = float_mask(q, k, clip, scale)
    clear = (np.abs(ratio - 0.5) > 1e-6).all(axis=1)
    if m > d:
        return  # V is the identity in +-1: column c shows whether key c is taken, through the difference of two runs
    v = np.ones((m, d), np.int8)
    w = v.copy()
    w[np.arange(m), np.arange(m)] = -1
    table, limit = softmax_table(d, scale, m)[0], 0.5 * clip
    mask = (attend(q, k, v, table, limit) - attend(q, k, w, table, limit))[:, :m] // 2
    assert np.array_equal(mask[clear], a[clear])


def test_exact_ties_are_zero() -> None:
    """Four equal keys: p = 1/4 exactly; p/clip = 1/2 rounds to the even 0. A hair below the tie is 1, above is 0."""
    q = np.ones((1, 8), np.int8)
    k = np.repeat(signs(np.random.default_rng(0), 1, 8), 4, 0)
    v = np.ones((4, 8), np.int8)
    table = softmax_table(8, 8**-0.5, 4)[0]
    for clip, want in ((0.5, 0), (np.nextafter(0.5, 0), 4), (np.nextafter(0.5, 1), 0)):
        assert attend(q, k, v, table, 0.5 * clip).tolist() == [[want] * 8]
        assert float_mask(q, k, 0.5, 8**-0.5)[0].sum() == 0


def test_rows_without_any_key_are_zero() -> None:
    rng = np.random.default_rng(0)
    q, k, v = signs(rng, 3, 16), signs(rng, 9, 16), signs(rng, 9, 16)
    assert not attend(q, k, v, softmax_table(16, 0.25, 9)[0], 1.0).any(), "clip = 2: no probability is above 1"


def test_single_key() -> None:
    v = np.array([[1, -1]], np.int8)
    table = softmax_table(2, 1.0, 1)[0]
    assert attend(v, v, v, table, 0.49).tolist() == [[1, -1]]
    assert attend(v, v, v, table, 1.0).tolist() == [[0, 0]]


def test_heads_are_independent() -> None:
    rng = np.random.default_rng(2)
    q, k, v = signs(rng, 5, 12), signs(rng, 6, 12), signs(rng, 6, 12)
    table, limit = softmax_table(4, 0.5, 6), np.array([[0.05, 0.1, 0.2]])
    (out,) = REGISTRY["attention"].reference({"heads": 3}, [q, k, v, table, limit])
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        assert np.array_equal(out[:, part], attend(q[:, part], k[:, part], v[:, part], table[0], float(limit[0, h])))
    source = [np.ascontiguousarray(z.reshape(-1, 3, 4).transpose(1, 0, 2))[None] for z in (q, k, v)]
    (same,) = REGISTRY["binary_attention"].reference({}, [*source, table, limit])
    assert np.array_equal(same[0].transpose(1, 0, 2).reshape(5, 12), out)


@pytest.mark.parametrize("keys", [1, 49, 196, 4095, 4096, 50_000, 10**9])
def test_table(keys: int) -> None:
    """Decreasing, exact to half a unit, and so small that Z is an exact integer and an exact double."""
    table = softmax_table(64, 0.125, keys)[0]
    assert table.dtype == np.uint64 and len(table) == 65 and (np.diff(table.astype(object)) <= 0).all()
    assert int(table[0]) * keys < 2**53 and int(table[0]) in (1 << b for b in range(53))
    exact = [Fraction(np.exp(np.longdouble(-0.25) * i).astype(float)) * int(table[0]) for i in range(65)]
    assert all(abs(int(t) - e) <= Fraction(51, 100) for t, e in zip(table, exact, strict=True))


def test_strong_scales_underflow_to_zero_and_take_the_maximum_only() -> None:
    rng = np.random.default_rng(3)
    q, k, v = signs(rng, 20, 32), signs(rng, 10, 32), signs(rng, 10, 32)
    table = softmax_table(32, 50.0, 10)[0]
    assert not table[1:].any()
    dots = q.astype(int) @ k.T
    best = (dots == dots.max(1, keepdims=True)) & ((dots == dots.max(1, keepdims=True)).sum(1, keepdims=True) < 5)
    assert np.array_equal(attend(q, k, v, table, 0.2), best.astype(int) @ v)
