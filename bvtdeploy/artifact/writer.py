"""Writes a `.bvt` file: the same model gives the same bytes."""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact import spec
from bvtdeploy.lower.lowered import Lowered

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preprocess:
    """From an image file to the network's input; see spec.PREPROCESS. mean and std are of pixel/255, one per channel."""

    width: int
    height: int
    channels: int
    colour: str = "RGB"
    resize: str = "STRETCH"
    resize_short: int = 0
    filter: str = "BILINEAR"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass
class Content:
    """What goes into the file around the lowered network.

    Attributes:
        meta: typed key-values; int -> U64, float -> F64, str -> STR, bytes -> BYTES.
        golden: pairs of (input, output), f32; an input is an array, which is stored, or a seed (artifact/golden.py).
        labels: class names, or empty.
        preprocess: how an image becomes the input, or None.
    """

    lowered: Lowered
    meta: Mapping[str, int | float | str | bytes] = field(default_factory=dict)
    golden: Sequence[tuple[F32 | int, F32]] = ()
    labels: Sequence[str] = ()
    preprocess: Preprocess | None = None


class _Names:
    def __init__(self) -> None:
        self.data = bytearray(b"\0")
        self.at = {"": 0}

    def __call__(self, text: str) -> int:
        if text not in self.at:
            self.at[text] = len(self.data)
            self.data += text.encode() + b"\0"
        return self.at[text]


def _record(struct_name: str, /, **fields: Any) -> bytes:
    """One record of spec.STRUCTS; fields that are not given are zero."""
    values: list[Any] = []
    for field_name, _, n, _ in spec.STRUCTS[struct_name][0]:
        value = fields.pop(field_name, 0)
        items = list(value) if isinstance(value, (list, tuple, bytes)) else [value]
        values += items + [0] * (n - len(items))
    assert not fields, f"{struct_name} has no {', '.join(fields)}"
    return struct.pack(spec.struct_code(spec.STRUCTS[struct_name][0]), *values)


def _meta(meta: Mapping[str, int | float | str | bytes]) -> bytes:
    out = [struct.pack("<I", len(meta))]
    for key, value in meta.items():
        if isinstance(value, int):
            kind, raw = "U64", struct.pack("<Q", value)
        elif isinstance(value, float):
            kind, raw = "F64", struct.pack("<d", value)
        elif isinstance(value, str):
            kind, raw = "STR", value.encode()
        else:
            kind, raw = "BYTES", value
        name = key.encode()
        out.append(struct.pack("<I", len(name)) + name + struct.pack("<II", spec.META_TYPES[kind], len(raw)) + raw)
    return b"".join(out)


def _filled(items: Sequence[int], n: int) -> list[int]:
    return [*items, *[spec.NONE] * (n - len(items))]


def _golden(pairs: Sequence[tuple[F32 | int, F32]]) -> bytes:
    records, payloads = b"", b""
    for given, output in pairs:
        if isinstance(given, int):
            records += _record("golden", kind=spec.GOLDENS["GENERATED"], seed=given)
        else:
            records += _record("golden", kind=spec.GOLDENS["STORED"])
            payloads += np.ascontiguousarray(given, "<f4").tobytes()
        payloads += np.ascontiguousarray(output, "<f4").tobytes()
    return records + payloads


def to_bytes(content: Content) -> bytes:
    """The whole file."""
    low, names = content.lowered, _Names()
    values = b"".join(
        _record(
            "value",
            name=names(v.name),
            dtype=spec.DTYPES[v.dtype],
            storage=spec.STORAGES[v.storage],
            layout=spec.LAYOUTS[v.layout],
            rows=v.rows,
            cols=v.cols,
            stride=v.stride,
            offset=v.offset,
            bytes=v.bytes,
            stored=spec.STORED[v.stored],
            widened=v.widened,
        )
        for v in low.values
    )
    ops = b"".join(
        _record(
            "op",
            opcode=spec.OPCODES[op.kind],
            name=names(op.name),
            module=names(op.module),
            scratch=op.scratch,
            macs_binary=op.macs_binary,
            macs_float=op.macs_float,
            inputs=_filled(op.inputs, spec.N_IN),
            outputs=_filled(op.outputs, spec.N_OUT),
            attr=op.attr,
            fattr=op.fattr,
        )
        for op in low.ops
    )
    groups = b"".join(_record("group", first_op=g.first_op, n_ops=g.n_ops, rows=g.rows, block=g.block) for g in low.groups)
    golden = _golden(content.golden)
    sections: list[tuple[str, bytes, int]] = [
        ("META", _meta(content.meta), len(content.meta)),
        ("VALUES", values, len(low.values)),
        ("OPS", ops, len(low.ops)),
        ("GROUPS", groups, len(low.groups)),
        ("CONSTANTS", low.constants, 0),
        ("NAMES", bytes(names.data), 0),
        ("GOLDEN", golden, len(content.golden)),
    ]
    if content.labels:
        sections.append(("LABELS", b"".join(label.encode() + b"\0" for label in content.labels), len(content.labels)))
    if content.preprocess is not None:
        p = content.preprocess
        record = _record(
            "preprocess",
            width=p.width,
            height=p.height,
            channels=p.channels,
            colour=spec.COLOURS[p.colour],
            resize=spec.RESIZES[p.resize],
            resize_short=p.resize_short,
            filter=spec.FILTERS[p.filter],
            mean=list(p.mean),
            std=list(p.std),
        )
        sections.append(("PREPROCESS", record, 1))
    return _assemble(sections, low)


def _pad(n: int) -> int:
    return -n % spec.ALIGN


def _assemble(sections: Sequence[tuple[str, bytes, int]], low: Lowered) -> bytes:
    at = spec.STRUCTS["header"][1] + spec.STRUCTS["section"][1] * len(sections)
    table, body = b"", b""
    for name, data, count in sections:
        gap = _pad(at)
        body += bytes(gap) + data
        at += gap
        table += _record("section", kind=spec.SECTIONS[name], crc=zlib.crc32(data), offset=at, bytes=len(data), count=count)
        at += len(data)
    body += bytes(_pad(at))
    head = _record(
        "header",
        magic=spec.MAGIC,
        version=spec.VERSION,
        header_bytes=spec.STRUCTS["header"][1],
        file_bytes=at + _pad(at),
        n_sections=len(sections),
        table_crc=zlib.crc32(table),
        arena_bytes=low.arena_bytes,
        tile_bytes=low.tile_bytes,
        widened_bytes=low.widened_bytes,
    )
    head = head[:-4] + struct.pack("<I", zlib.crc32(head[:-4]))
    return head + table + body


def write_aside(path: Path, data: bytes) -> None:
    """Writes beside the target and renames, so that no half-written file is ever seen under its name; follows links."""
    path = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
