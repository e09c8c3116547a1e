"""Bit layouts of constants: the bytes that the kernels read (LAYOUTS in artifact/spec.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.types import TERNARY

Codes = npt.NDArray[np.int8]


def pack_rows(codes: Codes, stride: int | None = None) -> npt.NDArray[np.uint8]:
    """+-1 codes [rows, cols] -> uint8 [rows, stride]: column c is bit c%8 of byte c/8, +1 is a set bit, the rest is zero."""
    packed = np.packbits(codes > 0, axis=1, bitorder="little")
    width = packed.shape[1] if stride is None else stride
    out = np.zeros((codes.shape[0], width), np.uint8)
    out[:, : packed.shape[1]] = packed
    return out


def unpack_rows(packed: npt.NDArray[np.uint8], cols: int) -> Codes:
    """The inverse of `pack_rows`."""
    ones = np.unpackbits(packed, axis=1, count=cols, bitorder="little")
    return (ones.astype(np.int8) * 2 - 1).astype(np.int8)


def pack_lanes16(codes: Codes) -> npt.NDArray[np.uint8]:
    """+-1 weights [O, K] -> uint8 [ceil(O/16), ceil(K/8), 16]: byte lane = output channel of the tile, bit b of step s = K 8s+b."""
    rows = pack_rows(codes)
    tiles = -(-codes.shape[0] // 16)
    padded = np.zeros((tiles * 16, rows.shape[1]), np.uint8)
    padded[: rows.shape[0]] = rows
    return np.ascontiguousarray(padded.reshape(tiles, 16, -1).transpose(0, 2, 1))


def unpack_lanes16(packed: npt.NDArray[np.uint8], rows: int, cols: int) -> Codes:
    """The inverse of `pack_lanes16`."""
    flat = np.ascontiguousarray(packed.transpose(0, 2, 1)).reshape(packed.shape[0] * 16, -1)
    return unpack_rows(flat[:rows], cols)


def quads_stride(cols: int) -> int:
    """Bytes of a tile of 16 channels of `cols` columns in layout QUADS."""
    return 128 * -(-cols // 8)


def pack_quads(codes: Codes) -> npt.NDArray[np.int8]:
    """i8 weights [O, K] -> i8 [ceil(O/16), ceil(K/8)*2, 16, 4]: step s of a tile has columns 4s .. 4s+3 of its 16 channels."""
    rows, cols = codes.shape
    tiles, steps = -(-rows // 16), -(-cols // 8) * 2
    padded = np.zeros((tiles * 16, steps * 4), np.int8)
    padded[:rows, :cols] = codes
    return np.ascontiguousarray(padded.reshape(tiles, 16, steps, 4).transpose(0, 2, 1, 3))


def unpack_quads(raw: bytes, rows: int, cols: int) -> Codes:
    """The inverse of `pack_quads`. Raises ValueError where the bytes are not as many as they have to be."""
    steps = np.frombuffer(raw, np.int8).reshape(-(-rows // 16), -(-cols // 8) * 2, 16, 4)
    return np.ascontiguousarray(steps.transpose(0, 2, 1, 3).reshape(16 * len(steps), -1)[:rows, :cols])


def trit_stride(length: int) -> int:
    """Bytes of a line of `length` codes -1, 0, +1: two planes, each rounded up to 8 bytes."""
    return 2 * (-(-length // 64) * 8)


def pack_trits(codes: Codes) -> npt.NDArray[np.uint8]:
    """-1, 0, +1 codes [rows, cols] -> uint8 [rows, trit_stride(cols)]: the plane of the +1, then the plane of what is not 0."""
    plane = trit_stride(codes.shape[1]) // 2
    return np.concatenate([pack_rows(codes, plane), pack_rows(np.abs(codes), plane)], axis=1)


def unpack_trits(packed: npt.NDArray[np.uint8], cols: int) -> Codes:
    """The inverse of `pack_trits`."""
    plane = packed.shape[1] // 2
    ones, some = (np.unpackbits(p, axis=1, count=cols, bitorder="little") for p in (packed[:, :plane], packed[:, plane:]))
    return (2 * ones.astype(np.int8) - some.astype(np.int8)).astype(np.int8)


def pack_stored(
    data: npt.NDArray[np.float32], stored: str, codes: Codes | None = None, scales: npt.NDArray[np.float32] | None = None
) -> bytes:
    """An f32 matrix [rows, cols] in the form F16 or I8 of spec.STORED. `codes`, `scales`: of I8, data = codes * scales.

    Raises ValueError unless `unpack_stored` gives `data` again bit for bit (NaN for NaN).
    """
    if stored == "I8":
        if codes is None or scales is None:
            raise ValueError("I8 needs codes and scales")
        raw = np.asarray(scales, "<f4").tobytes() + np.asarray(codes, np.int8).tobytes()
    else:
        with np.errstate(over="ignore", under="ignore"):
            raw = np.asarray(data).astype("<f2").tobytes()
    again = unpack_stored(raw, stored, *data.shape)[0]
    same = (again.view(np.uint32) == np.ascontiguousarray(data).view(np.uint32)) | (np.isnan(again) & np.isnan(data))
    if not bool(same.all()):
        raise ValueError(f"the values are no {stored} numbers")
    return raw


def unpack_stored(raw: bytes, stored: str, rows: int, cols: int) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """The inverse of `pack_stored`: the f32 matrix [rows, cols], and the marks of its constant (ops/const.py).

    Raises ValueError where the bytes are not as many as they have to be.
    """
    if stored == "F16":
        return np.frombuffer(raw, "<f2").reshape(rows, cols).astype(np.float32), {"stored": stored}
    scales = np.frombuffer(raw[: 4 * cols], "<f4").reshape(cols)
    codes = np.frombuffer(raw[4 * cols :], np.int8).reshape(rows, cols)
    with np.errstate(all="ignore"):
        return codes.astype(np.float32) * scales, {"stored": stored, "codes": codes, "scales": scales}


def logical_bytes(array: npt.NDArray[Any], packed: int | None, alphabet: str = "") -> bytes:
    """A result as the runtime's per-op CRC sees it: rows of f32 or i32, or codes packed along `packed` without padding.

    Of codes of TERNARY: each row's (or column's) plane of the +1, then its plane of what is not 0.
    """
    if packed is None:
        return np.ascontiguousarray(array).tobytes()
    lines = np.ascontiguousarray(array if packed == 1 else array.T)
    if alphabet == TERNARY:
        return np.concatenate([pack_rows(lines), pack_rows(np.abs(lines))], axis=1).tobytes()
    return pack_rows(lines).tobytes()
