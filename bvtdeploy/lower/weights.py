"""Layouts of the weights of `bgemm` (LAYOUTS in artifact/spec.py; runtime_arm/KERNELS.md says what each is for): their sizes, their
bytes, and which one a board takes for a product. A layout never changes a result.

Adding one: append it to spec.LAYOUTS, give its tile in `TILES` and its bytes in `pack_weight` and `unpack_weight`, the same in
runtime_arm/src/ops/bgemm.c, a kernel, and costs in the boards' files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from bvtdeploy.lower.pack import Codes, pack_rows, unpack_rows
from bvtdeploy.ops.dots import MOST_I16

Bytes = npt.NDArray[np.uint8]
DEFAULT: Final = "LANES16"
FOR_BITS: Final = ("CSA",)  # the others are for trits, too
MOST_COLUMNS: Final = MOST_I16  # of every layout but LANES16, which give dots in 16 bits
ROWS: Final[Mapping[str, int]] = {"LANES16": 1, "CSA": 4, "TBL2": 4, "LUT": 16}  # that a kernel makes at a time

CSA_STEPS: Final = 60
GROUP: Final = 5
LUT_MOST: Final = 52  # groups of a part of LUT
LUT_WORD: Final = 12  # groups of a word
LUT_FEW: Final = 6  # rows beside whole tiles that are not worth a tile


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def lut_parts(cols: int) -> list[int]:
    """Groups of each part of `cols` columns in layout LUT: equal multiples of 4, and a last part with the rest."""
    groups = _ceil(cols, GROUP)
    parts = _ceil(groups, LUT_MOST)
    size = _ceil(groups, 4 * parts) * 4
    return [size] * (parts - 1) + [groups - size * (parts - 1)]


def _lut_places(cols: int) -> npt.NDArray[np.intp]:
    """The bit of a channel's words in layout LUT where each group begins."""
    places, word = [], 0
    for n in lut_parts(cols):
        odd = n % LUT_WORD
        first = word + (odd > 0)
        places += [64 * (first + g // LUT_WORD) + GROUP * (g % LUT_WORD) for g in range(n - odd)]
        places += [64 * word + GROUP * g for g in range(odd % 3)]
        places += [64 * word + GROUP * (LUT_WORD - odd + g) for g in range(odd % 3, odd)]
        word += _ceil(n, LUT_WORD)
    return np.array(places, np.intp)


# layout -> (channels of a tile, bytes of a tile of `cols` columns)
TILES: Final[Mapping[str, tuple[int, Callable[[int], int]]]] = {
    "LANES16": (16, lambda cols: 16 * _ceil(cols, 8)),
    "CSA": (32, lambda cols: 32 * 2 * _ceil(cols, 16)),
    "TBL2": (64, lambda cols: 64 * _ceil(cols, GROUP)),
    "LUT": (8, lambda cols: 64 * sum(_ceil(n, LUT_WORD) for n in lut_parts(cols))),
}


class Product(NamedTuple):
    """The shape of a binary product: rows, columns of the weight (the products of one output), outputs; whether rows are trits."""

    rows: int
    cols: int
    outputs: int
    trits: bool = False


def takes(layout: str, cols: int, trits: bool) -> bool:
    """Whether products of one group, with `cols` columns and with rows of trits, can have their weight in a layout."""
    return layout == DEFAULT or (cols <= MOST_COLUMNS and not (trits and layout in FOR_BITS))


def scratch_bytes(layout: str, cols: int, trits: bool = False) -> int:
    """Scratch of the kernels for a weight of `cols` columns: bvt_bgemm_scratch of the runtime, a multiple of 64."""
    if layout == "CSA":
        return 16 * 8 * min(_ceil(2 * _ceil(cols, 16), 8) * 8, 64)
    if layout == "TBL2":
        return _ceil((16 if trits else 8) * 8 * _ceil(cols, 8 * GROUP), 64) * 64
    return 29184 if layout == "LUT" else 0


def pack_weight(codes: Codes, layout: str) -> Bytes:
    """+-1 weights [rows, cols] -> uint8 [tiles, bytes of a tile]. Channels and columns that are not there are zero bits."""
    channels, tile_bytes = TILES[layout]
    rows, cols = codes.shape
    tiles = _ceil(rows, channels)
    size = tile_bytes(cols)

    def bits(width: int) -> Bytes:
        padded = np.zeros((tiles * channels, width), np.uint8)
        padded[:rows, :cols] = codes > 0
        return padded

    if layout == "TBL2":
        groups = bits(_ceil(cols, GROUP) * GROUP).reshape(tiles, channels, -1, GROUP)
        packed = (groups << np.arange(GROUP, dtype=np.uint8)).sum(axis=3, dtype=np.uint8).transpose(0, 2, 1)
    elif layout == "LUT":
        groups = bits(_ceil(cols, GROUP) * GROUP).reshape(tiles, channels, -1, GROUP)
        words = np.zeros((tiles, channels, size), np.uint8)  # of 64 bits: a tile has a byte for each bit of a channel's words
        for bit in range(GROUP):
            words[:, :, _lut_places(cols) + bit] = groups[..., bit]
        packed = np.packbits(words, axis=2, bitorder="little").reshape(tiles, channels, -1, 8).transpose(0, 2, 1, 3)
    else:
        step = size // channels
        by_channel = np.zeros((tiles * channels, step), np.uint8)
        by_channel[:rows] = pack_rows(codes, step)
        if layout == "CSA":
            for at in range(0, step, CSA_STEPS):
                part = by_channel[:, at : at + CSA_STEPS]
                part[:] = np.bitwise_xor.accumulate(part, axis=1)
            by_channel[:, 1::4] ^= 255
        packed = by_channel.reshape(tiles, channels, step).transpose(0, 2, 1)
    return np.ascontiguousarray(packed).reshape(tiles, size)


def unpack_weight(packed: Bytes, layout: str, rows: int, cols: int) -> Codes:
    """The inverse of `pack_weight`; `packed` is [tiles, bytes of a tile]."""
    channels = TILES[layout][0]
    tiles = packed.shape[0]
    if layout == "TBL2":
        groups = packed.reshape(tiles, -1, channels).transpose(0, 2, 1)
        ones = (groups[..., None] >> np.arange(GROUP, dtype=np.uint8) & 1).reshape(tiles * channels, -1)
    elif layout == "LUT":
        spread = np.unpackbits(packed.reshape(tiles, -1, channels, 8).transpose(0, 2, 1, 3), axis=3, bitorder="little")
        places = (_lut_places(cols)[:, None] + np.arange(GROUP)).reshape(-1)
        ones = np.take(spread.reshape(tiles * channels, -1), places, axis=1).astype(np.uint8)
    else:
        by_channel = np.ascontiguousarray(packed.reshape(tiles, -1, channels).transpose(0, 2, 1)).reshape(tiles * channels, -1)
        if layout == "CSA":
            by_channel[:, 1::4] ^= 255
            running = by_channel.copy()
            by_channel[:, 1:] ^= running[:, :-1]
            by_channel[:, ::CSA_STEPS] = running[:, ::CSA_STEPS]
        return unpack_rows(by_channel[:rows], cols)
    return (ones[:rows, :cols].astype(np.int8) * 2 - 1).astype(np.int8)


@dataclass(frozen=True)
class Cost:
    """Modelled cycles of a layout's kernel on a core.

    Attributes:
        mac: of a multiply-accumulate.
        output: of an element of the output.
        table: of a bit of the rows, once for all outputs (of LUT: building its tables).
        trits: of a multiply-accumulate of rows of trits; 0: the same as `mac`.
        narrow: how many times as much where rows come by 16, not by 32 (of LUT, see `table_rows`); 0: the same.
    """

    mac: float
    output: float
    table: float = 0.0
    trits: float = 0.0
    narrow: float = 0.0


Costs = Mapping[str, Cost]  # by layout; a layout that is not there is not taken
Measured = Mapping[Product, str]  # the fastest layout on a device (bench/tune.py)


def table_rows(rows: int) -> int:
    """Rows of a call, so that the tables of LUT are of 32 rows if three threads still have work, and else of 16."""
    return 32 if rows >= 96 else 16


def cycles(cost: Cost, layout: str, product: Product) -> float:
    """Modelled cycles of a product."""
    rows, cols, outputs, trits = product
    channels, step = TILES[layout][0], ROWS[layout]
    made: float = _ceil(rows, step) * step
    mac = cost.trits if trits and cost.trits else cost.mac
    if layout == "LUT" and 0 < rows % step <= LUT_FEW:  # these have no tables, and take twice as long
        made = rows // step * step + 2 * (rows % step)
    if table_rows(rows) < 32 and cost.narrow:
        made *= cost.narrow
    return made * (_ceil(outputs, channels) * channels * (cols * mac + cost.output) + cols * cost.table)


def choose(costs: Costs, product: Product, measured: Measured | None = None) -> str:
    """The layout that was measured to be the fastest; of a shape that was not measured, the one with the fewest modelled cycles:
    DEFAULT where there are no costs, and where it costs the same."""
    if measured and product in measured:
        return measured[product]
    order = [DEFAULT, *(name for name in costs if name != DEFAULT)]
    able = [name for name in order if name in costs and takes(name, product.cols, product.trits)]
    return min(able, key=lambda name: cycles(costs[name], name, product), default=DEFAULT)


__all__ = [
    "Cost",
    "Costs",
    "Measured",
    "Product",
    "choose",
    "cycles",
    "pack_weight",
    "scratch_bytes",
    "table_rows",
    "takes",
    "unpack_weight",
]
