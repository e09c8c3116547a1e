"""Layouts of weights: what spec.py says of each, bit by bit; unpacking; which one a board takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bvtdeploy.artifact.spec import LAYOUTS
from bvtdeploy.lower.pack import pack_lanes16
from bvtdeploy.lower.weights import (
    MOST_COLUMNS,
    TILES,
    Cost,
    Product,
    choose,
    lut_parts,
    pack_weight,
    scratch_bytes,
    table_rows,
    unpack_weight,
)


def codes(rows: int, cols: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (rows, cols))


def test_every_layout_of_weights_is_known() -> None:
    assert set(TILES) == set(LAYOUTS) - {"ROWS", "COLS", "QUADS"}


@pytest.mark.parametrize("layout", TILES)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 150), st.integers(1, 1100), st.integers(0, 9))
def test_round_trip(layout: str, rows: int, cols: int, seed: int) -> None:
    x = codes(rows, cols, seed)
    packed = pack_weight(x, layout)
    channels, tile_bytes = TILES[layout]
    assert packed.shape == (-(-rows // channels), tile_bytes(cols)) and packed.flags.c_contiguous
    assert np.array_equal(unpack_weight(packed, layout, rows, cols), x)
    everywhere = unpack_weight(packed, layout, packed.shape[0] * channels, cols)
    assert (everywhere[rows:] == -1).all(), "channels that are not there are zero bits"


def test_lanes16_is_pack_lanes16() -> None:
    x = codes(37, 83, 0)
    assert pack_weight(x, "LANES16").tobytes() == pack_lanes16(x).tobytes()


def lut_bit(cols: int, col: int) -> int:
    """The bit of a channel's words where LUT has a column of 600 columns: parts of 40 groups, of which 4 are in a first word."""
    assert cols == 600 and lut_parts(cols) == [40, 40, 40]
    part, group = divmod(col // 5, 40)
    place = 12 + group if group < 36 else 0 if group == 36 else 12 - (40 - group)
    return (part * 4 + place // 12) * 64 + place % 12 * 5 + col % 5


def test_the_parts_of_lut_are_equal_but_for_the_last_one() -> None:
    assert [lut_parts(k) for k in (1, 64, 192, 256, 260)] == [[1], [13], [39], [52], [52]]
    assert [lut_parts(k) for k in (261, 384, 512, 1024)] == [[28, 25], [40, 37], [52, 51], [52, 52, 52, 49]]
    for k in range(1, 4000, 7):
        parts = lut_parts(k)
        assert sum(parts) == -(-k // 5) and max(parts) <= 52 and parts[-1] > 0


def test_bits_are_where_the_format_says() -> None:
    x = codes(70, 600, 1)
    bit = (x > 0).astype(int)
    tbl2 = pack_weight(x, "TBL2")
    lut = pack_weight(x, "LUT")
    csa = pack_weight(x, "CSA").reshape(3, -1, 32)
    for o, k in ((0, 0), (17, 599), (45, 123), (69, 301)):
        assert tbl2[o // 64, k // 5 * 64 + o % 64] >> k % 5 & 1 == bit[o, k]
        place = lut_bit(600, k)
        assert lut[o // 8, place // 64 * 64 + o % 8 * 8 + place % 64 // 8] >> place % 8 & 1 == bit[o, k]
        s, begin = k // 8, k // 480 * 480
        running = bit[o, begin + k % 8 : k + 1 : 8].sum() % 2
        assert csa[o // 32, s, o % 32] >> k % 8 & 1 == running ^ (s % 4 == 1)


def test_scratch_grows_with_the_columns_only_as_far_as_the_kernels_prepare_rows() -> None:
    assert [scratch_bytes("CSA", k) for k in (1, 64, 480, 3072)] == [1024, 1024, 8192, 8192]
    assert [scratch_bytes("TBL2", k) for k in (1, 40, 41, 3072)] == [64, 64, 128, 4928]
    assert [scratch_bytes("TBL2", k, True) for k in (1, 40, 41, 3072)] == [128, 128, 256, 9856]
    assert scratch_bytes("LUT", 64) == scratch_bytes("LUT", 3072, True), "tables of a part"
    assert all(scratch_bytes(layout, k) % 64 == 0 for layout in TILES for k in (1, 100, 1000))


def test_choice() -> None:
    costs = {"LANES16": Cost(0.017, 0.6), "CSA": Cost(0.015, 0.8), "LUT": Cost(0.010, 0.8, 0.8)}
    assert choose({}, Product(197, 192, 192)) == "LANES16"
    assert choose(costs, Product(1, 192, 192)) == "LANES16", "one row: the others make more"
    assert choose(costs, Product(200, 192, 64)) == "CSA" and choose(costs, Product(200, 192, 768)) == "LUT", (
        "many outputs share a table"
    )
    assert choose(costs, Product(4, 768, 768)) == "CSA", "LUT makes 16 rows, CSA four"
    assert choose(costs, Product(3136, MOST_COLUMNS + 1, 192)) == "LANES16"
    three = {"LANES16": Cost(0.014, 0.3, 0, 0.020), "CSA": Cost(0.001, 0.3), "TBL2": Cost(0.017, 0.3, 0, 0.015)}
    assert choose(three, Product(200, 192, 192)) == "CSA" and choose(three, Product(200, 192, 192, True)) == "TBL2"
    assert choose(three, Product(200, MOST_COLUMNS + 1, 192, True)) == "LANES16"
    assert choose({"LANES16": Cost(0.01, 1), "CSA": Cost(0.01, 1)}, Product(64, 64, 64)) == "LANES16", "a tie"
    slow = costs | {"LUT": Cost(0.010, 0.8, 0.8, 0, 3.0)}
    assert choose(slow, Product(200, 192, 768)) == "LUT" and choose(slow, Product(64, 192, 768)) == "CSA", "16 rows at a time"
    assert [table_rows(n) for n in (1, 49, 96, 3136)] == [16, 16, 32, 32]
    assert choose(costs, Product(200, 192, 768, True)) == "LUT" and choose(costs, Product(200, 192, 64, True)) == "LANES16"
