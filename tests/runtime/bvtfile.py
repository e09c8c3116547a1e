"""Writes `.bvt` files of hand-made ops, straight from `artifact/spec.py` and independently of the real writer.

A `File` collects ops whose operands are constants; every op gets a group of its own unless `same_group` says otherwise. Because a
file needs an f32 input and output, the last op copies the one input float to the output (channel_pool by 1).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact import spec

Array = npt.NDArray[Any]


def align(n: int, to: int = spec.ALIGN) -> int:
    return -(-n // to) * to


def pack_rows(codes: Array, stride: int = 0) -> bytes:
    """Layout ROWS of a bits value: code > 0 is a one."""
    packed = np.packbits(codes > 0, axis=1, bitorder="little")
    out = np.zeros((codes.shape[0], stride or packed.shape[1]), np.uint8)
    out[:, : packed.shape[1]] = packed
    return out.tobytes()


def pack_cols(codes: Array) -> bytes:
    """Layout COLS, stride a multiple of 8 bytes."""
    return pack_rows(np.ascontiguousarray(codes.T), align(-(-codes.shape[0] // 8), 8))


def pack_lanes16(codes: Array) -> bytes:
    """Layout LANES16: [ceil(rows/16)][ceil(cols/8)][16]."""
    packed = np.packbits(codes > 0, axis=1, bitorder="little")
    rows = align(codes.shape[0], 16)
    padded = np.zeros((rows, packed.shape[1]), np.uint8)
    padded[: codes.shape[0]] = packed
    return np.ascontiguousarray(padded.reshape(rows // 16, 16, -1).transpose(0, 2, 1)).tobytes()


def pack_trits(codes: Array) -> bytes:
    """Layout ROWS of a trits value: the plane of the +1, then the plane of what is not 0, 8-byte aligned."""
    plane = align(-(-codes.shape[1] // 8), 8)
    rows = [pack_rows(part[None], plane) for row in codes for part in (row, np.abs(row))]
    return b"".join(rows)


def record(fields: spec.Fields, **values: Any) -> bytes:
    flat: list[Any] = []
    for name, _, n, _ in fields:
        v = values.pop(name, 0 if n == 1 else [0] * n)
        flat += list(v) if n > 1 else [v]
    assert not values, values
    return struct.pack(spec.struct_code(fields), *flat)


def logical_bytes(x: Array, layout: str) -> bytes:
    """What the runtime's op checksums run over: `codes` (int8) as bits, f32 and f16 with NaNs made one, i32 as is."""
    if layout == "bits ROWS":
        return pack_rows(x)
    if layout == "bits COLS":
        return np.packbits(x.T > 0, axis=1, bitorder="little").tobytes()
    if layout.startswith("trits"):
        lines = np.ascontiguousarray(x.T) if layout == "trits COLS" else x
        return b"".join(pack_rows(part[None]) for line in lines for part in (line, np.abs(line)))
    if x.dtype == np.float32:
        x = np.where(np.isnan(x), np.uint32(0x7FC00000), x.view(np.uint32))
    if x.dtype == np.float16:
        x = np.where(np.isnan(x), np.uint16(0x7E00), x.view(np.uint16))
    return np.ascontiguousarray(x).tobytes()


@dataclass
class File:
    values: list[dict[str, Any]] = field(default_factory=list)
    ops: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    constants: bytearray = field(default_factory=bytearray)
    names: bytearray = field(default_factory=lambda: bytearray(1))
    sections: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # further sections: bytes, count
    arena: int = 0
    tile: int = 0
    scratch: int = 0
    input: int = -1
    half: bool = False  # its ops compute in fp16, or read it

    def name(self, text: str) -> int:
        at = len(self.names)
        self.names += text.encode() + b"\0"
        return at

    def value(self, dtype: str, layout: str, rows: int, cols: int, storage: str, stride: int, **more: Any) -> int:
        self.values.append(
            {
                "name": self.name(f"v{len(self.values)}"),
                "dtype": spec.DTYPES[dtype],
                "layout": spec.LAYOUTS[layout],
                "rows": rows,
                "cols": cols,
                "storage": spec.STORAGES[storage],
                "stride": stride,
            }
            | more
        )
        return len(self.values) - 1

    def constant(self, x: Array, layout: str = "ROWS", pad: int = 0) -> int:
        """A constant; layout TRITS: of that dtype, in ROWS. `pad`: bytes by which the stride of a ROWS value exceeds its rows."""
        rows, cols = x.shape
        if x.dtype == np.int8:
            dtype = "BITS"
            if layout == "ROWS":
                stride = -(-cols // 8) + pad
                data = pack_rows(x, stride)
            elif layout == "COLS":
                stride = align(-(-rows // 8), 8)
                data = pack_cols(x)
            elif layout == "QUADS":
                dtype, stride = "I8", -(-cols // 8) * 128
                tiles = np.zeros((-(-rows // 16), stride), np.int8)
                for (o, k), code in np.ndenumerate(x):
                    tiles[o // 16, k // 4 * 64 + o % 16 * 4 + k % 4] = code
                data = tiles.tobytes()
            elif layout == "TRITS":
                dtype, layout, data = "TRITS", "ROWS", pack_trits(x)
                stride = len(data) // rows
            else:
                stride = -(-cols // 8) * 16
                data = pack_lanes16(x)
        else:
            dtype = {"f4": "F32", "f2": "F16", "i4": "I32", "u8": "U64", "f8": "F64"}[x.dtype.str[1:]]
            pad = align(pad, x.dtype.itemsize)
            stride = cols * x.dtype.itemsize + pad
            raw = np.zeros((rows, stride), np.uint8)
            raw[:, : stride - pad] = np.ascontiguousarray(x).view(np.uint8).reshape(rows, -1)
            data = raw.tobytes()
        self.constants += bytes(align(len(self.constants)) - len(self.constants))
        at = len(self.constants)
        self.constants += data
        return self.value(dtype, layout, rows, cols, "CONST", stride, offset=at, bytes=len(data))

    def result(self, dtype: str, layout: str, rows: int, cols: int, storage: str = "ARENA", block: int = 0, pad: int = 0) -> int:
        """A value that an op writes, in fresh memory (tile memory: one block)."""
        if dtype == "TRITS":
            stride = 2 * align(-(-(rows if layout == "COLS" else cols) // 8), 8)
            count = cols if layout == "COLS" else min(block or rows, rows)
        elif layout == "COLS":
            stride, count = align(-(-rows // 8), 8), cols
        else:
            row = -(-cols // 8) if dtype == "BITS" else 2 * cols if dtype in ("I16", "F16") else 4 * cols
            stride, count = row + pad, min(block or rows, rows)
        size = stride * count
        if storage == "TILE":
            at, self.tile = self.tile, align(self.tile + size)
        else:
            at, self.arena = self.arena, align(self.arena + size)
        return self.value(dtype, layout, rows, cols, storage, stride, offset=at, bytes=size)

    def op(
        self,
        kind: str,
        inputs: Mapping[int, int],
        outputs: Mapping[int, int],
        attr: Sequence[int] = (),
        *,
        block: int = 0,
        scratch: int = 0,
        same_group: bool = False,
        fattr: Sequence[float] = (),
    ) -> int:
        rows = self.values[next(iter(outputs.values()))]["rows"]
        if same_group:
            self.groups[-1]["n_ops"] += 1
        else:
            self.groups.append({"first_op": len(self.ops), "n_ops": 1, "rows": rows, "block": min(block or rows, rows)})
        self.scratch = max(self.scratch, scratch)
        self.ops.append(
            {
                "opcode": spec.OPCODES[kind],
                "name": self.name(f"op{len(self.ops)}"),
                "module": self.name("test"),
                "scratch": scratch,
                "inputs": [inputs.get(i, spec.NONE) for i in range(spec.N_IN)],
                "outputs": [outputs.get(i, spec.NONE) for i in range(spec.N_OUT)],
                "attr": [*attr, *[0] * (spec.N_ATTR - len(attr))],
                "fattr": [*fattr, *[0.0] * (spec.N_FATTR - len(fattr))],
            }
        )
        return len(self.ops) - 1

    def finish(self) -> bytes:
        """The file's bytes."""
        if self.input < 0:
            self.input = self.value("F32", "ROWS", 1, 1, "INPUT", 4, bytes=4)
            out = self.value("F32", "ROWS", 1, 1, "OUTPUT", 4, bytes=4)
            self.op("channel_pool", {0: self.input}, {0: out}, [1])
        sections = {
            "VALUES": (b"".join(record(spec.VALUE, **v) for v in self.values), len(self.values)),
            "OPS": (b"".join(record(spec.OP, **o) for o in self.ops), len(self.ops)),
            "GROUPS": (b"".join(record(spec.GROUP, **g) for g in self.groups), len(self.groups)),
            "CONSTANTS": (bytes(self.constants), 0),
            "NAMES": (bytes(self.names), 0),
        } | self.sections
        return assemble(sections, arena=align(self.arena), tile=align(self.tile) + align(self.scratch))


def assemble(sections: Mapping[str, tuple[bytes, int]], *, arena: int, tile: int) -> bytes:
    """Header, section table and sections."""
    at = align(64 + 32 * len(sections))
    table, body = b"", bytearray(at)
    for kind, (data, count) in sections.items():
        body += bytes(align(len(body)) - len(body))
        table += record(
            spec.SECTION, kind=spec.SECTIONS[kind], crc=zlib.crc32(data), offset=len(body), bytes=len(data), count=count
        )
        body += data
    body += bytes(align(len(body)) - len(body))
    header = record(
        spec.HEADER,
        magic=spec.MAGIC,
        version=spec.VERSION,
        header_bytes=64,
        file_bytes=len(body),
        n_sections=len(sections),
        table_crc=zlib.crc32(table),
        arena_bytes=arena,
        tile_bytes=tile,
    )
    header = header[:60] + struct.pack("<I", zlib.crc32(header[:60]))
    body[: 64 + len(table)] = header + table
    return bytes(body)
