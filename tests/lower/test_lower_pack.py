"""Bit layouts: packing and unpacking are inverse, pad bits are zero, and a few bytes written out by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bvtdeploy.ir.types import TERNARY
from bvtdeploy.lower.pack import (
    logical_bytes,
    pack_lanes16,
    pack_quads,
    pack_rows,
    pack_trits,
    quads_stride,
    trit_stride,
    unpack_lanes16,
    unpack_quads,
    unpack_rows,
    unpack_trits,
)

shapes = st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(0, 9))


def codes(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(shape[2]).choice(np.array([-1, 1], np.int8), shape[:2])


@given(shapes)
def test_rows(shape: tuple[int, int, int]) -> None:
    x = codes(shape)
    packed = pack_rows(x)
    assert packed.shape == (x.shape[0], -(-x.shape[1] // 8)) and np.array_equal(unpack_rows(packed, x.shape[1]), x)
    assert np.unpackbits(packed).sum() == (x > 0).sum(), "pad bits are zero"
    wide = pack_rows(x, packed.shape[1] + 5)
    assert np.array_equal(wide[:, :-5], packed) and not wide[:, -5:].any()


@given(shapes)
def test_lanes16(shape: tuple[int, int, int]) -> None:
    x = codes(shape)
    packed = pack_lanes16(x)
    assert packed.shape == (-(-x.shape[0] // 16), -(-x.shape[1] // 8), 16) and packed.flags.c_contiguous
    assert np.array_equal(unpack_lanes16(packed, *x.shape), x) and np.unpackbits(packed).sum() == (x > 0).sum()
    o, k = x.shape[0] - 1, x.shape[1] - 1
    assert bool(packed[o // 16, k // 8, o % 16] >> (k % 8) & 1) == (x[o, k] > 0)


@given(shapes)
def test_quads(shape: tuple[int, int, int]) -> None:
    rows, cols, seed = shape
    x = np.random.default_rng(seed).integers(-128, 128, (rows, cols)).astype(np.int8)
    packed = pack_quads(x)
    assert packed.flags.c_contiguous and packed.nbytes == -(-rows // 16) * quads_stride(cols)
    assert np.array_equal(unpack_quads(packed.tobytes(), rows, cols), x)
    data, want = packed.tobytes(), bytearray(packed.nbytes)  # what spec.py says, byte by byte; everything else is zero
    for (o, k), code in np.ndenumerate(x):
        want[o // 16 * quads_stride(cols) + k // 4 * 64 + o % 16 * 4 + k % 4] = int(code) & 255
    assert data == bytes(want)


def test_by_hand() -> None:
    row = np.array([[1, -1, -1, 1, -1, -1, -1, -1, 1]], np.int8)
    assert pack_rows(row).tolist() == [[0b1001, 1]]
    assert pack_lanes16(row)[0, :, 0].tolist() == [0b1001, 1] and not pack_lanes16(row)[0, :, 1:].any()


@given(shapes)
def test_logical_bytes_have_no_stride(shape: tuple[int, int, int]) -> None:
    x = codes(shape)
    assert logical_bytes(x, 1) == pack_rows(x).tobytes()
    assert logical_bytes(x, 0) == pack_rows(np.ascontiguousarray(x.T)).tobytes()
    assert logical_bytes(x.astype(np.float32).T, None) == np.ascontiguousarray(x.astype("<f4").T).tobytes()


@given(shapes)
def test_trits(shape: tuple[int, int, int]) -> None:
    x = np.random.default_rng(shape[2]).integers(-1, 2, shape[:2]).astype(np.int8)
    packed = pack_trits(x)
    assert packed.shape == (x.shape[0], trit_stride(x.shape[1])) and np.array_equal(unpack_trits(packed, x.shape[1]), x)
    assert np.unpackbits(packed).sum() == (x > 0).sum() + (x != 0).sum(), "pad bits are zero"
    used, plane = -(-x.shape[1] // 8), packed.shape[1] // 2
    assert logical_bytes(x, 1, TERNARY) == packed[:, [*range(used), *range(plane, plane + used)]].tobytes()
    assert logical_bytes(np.ascontiguousarray(x.T), 0, TERNARY) == logical_bytes(x, 1, TERNARY)
