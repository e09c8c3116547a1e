"""Binary weights by value: found whatever scale and noise, never seen where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvtdeploy.passes.binary_weights import binary_rows

SHAPES = st.sampled_from([(1, 2), (5, 9), (4, 3, 2, 2), (2, 8, 3, 3)])


def make(shape: tuple[int, ...], seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.array([-1, 1], np.int8), shape)
    return codes, np.exp(rng.normal(0, 4, shape[0])).astype(np.float32)


def rows(scale: Any, rank: int) -> Any:
    return scale.reshape(-1, *[1] * (rank - 1))


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.integers(0, 2**32))
def test_exact(shape: tuple[int, ...], seed: int) -> None:
    codes, scale = make(shape, seed)
    found = binary_rows(codes * rows(scale, len(shape)))
    assert found is not None and found.codes.dtype == np.int8
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_array_equal(found.scale, scale)
    assert (found.residue, found.zeros) == (0, 0)


@settings(deadline=None, max_examples=40)
@given(SHAPES, st.integers(0, 2**32), st.sampled_from([1e-7, 1e-5, 3e-4]))
def test_residue(shape: tuple[int, ...], seed: int, noise: float) -> None:
    codes, scale = make(shape, seed)
    w = (codes * rows(scale, len(shape)) * np.random.default_rng(seed).uniform(1 - noise, 1 + noise, shape)).astype(np.float32)
    found = binary_rows(w)
    assert found is not None
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.scale, scale, rtol=2 * noise)
    assert found.residue <= 2 * noise + 1e-6
    error = np.abs(w - found.codes * rows(found.scale, len(shape)).astype(np.float64)) / rows(found.scale, len(shape))
    assert error.max() == pytest.approx(found.residue, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([(2, 4), (5, 9), (64, 16), (4, 3, 2, 2), (32, 3, 4, 4)]), st.integers(0, 2**32))
def test_full_precision_weights_are_not_binary(shape: tuple[int, ...], seed: int) -> None:
    assert binary_rows(np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32)) is None


@pytest.mark.parametrize(
    "weight",
    [
        [[1.0], [2.0]],
        [[0.0, 0.0]],
        [[0.0, 2.0], [1.0, 1.0]],
        [[1.0, 2.0]],
        [[1.0, np.nan]],
        [[np.inf, -np.inf]],
        [1.0, -1.0],
        [[1.0, -1.0], [1.0, 1.002]],
    ],
)
def test_nothing_to_conclude(weight: Any) -> None:
    assert binary_rows(np.array(weight, np.float32)) is None


def test_zeros_become_plus_one_and_are_counted() -> None:
    found = binary_rows(np.array([[0.5, -0.5, 0.0, -0.0], [2.0, 2.0, -2.0, 2.0]], np.float32))
    assert found is not None
    assert found.codes.tolist() == [[1, -1, 1, 1], [1, 1, -1, 1]]
    assert (found.scale.tolist(), found.zeros, found.residue) == ([0.5, 2.0], 2, 0)


def test_a_dead_row_has_scale_zero() -> None:
    found = binary_rows(np.array([[2, -2, 2], [0, 0, 0], [-1, 1, 1]], np.float32))
    assert found is not None
    assert found.scale.tolist() == [2, 0, 1]
    assert (found.codes * found.scale[:, None]).tolist() == [[2, -2, 2], [0, 0, 0], [-1, 1, 1]]
    assert found.zeros == 0
