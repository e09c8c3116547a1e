"""Reads a `.bvt` file back: its records, and the compiled graph that they say, for the interpreter and for inspection.

This is the second, independent reader of the format beside `runtime_arm/src/load.c`; like that one it trusts nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.golden import golden_input
from bvtdeploy.artifact.writer import Preprocess
from bvtdeploy.errors import UserError
from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import Type, bits
from bvtdeploy.lower.lowered import record_dtype
from bvtdeploy.lower.pack import unpack_quads, unpack_stored
from bvtdeploy.lower.weights import TILES, unpack_weight
from bvtdeploy.ops.activation import KINDS as ACTIVATIONS
from bvtdeploy.ops.attention import MOST_PLANES
from bvtdeploy.ops.attention import ROLES as ATTENTION_ROLES
from bvtdeploy.ops.dots import are_small
from bvtdeploy.ops.epilogue import RESIDUALS, ROLES

Record = dict[str, Any]
_TABLES = {"VALUES": "value", "OPS": "op", "GROUPS": "group", "PREPROCESS": "preprocess"}
_CODES = (spec.DTYPES["BITS"], spec.DTYPES["TRITS"])
F32 = npt.NDArray[np.float32]


@dataclass
class Artifact:
    """A parsed file. Records are dictionaries with the field names of `spec`.

    `golden_records` are pairs of (input or its seed, output) as they stand in the file.
    """

    path: str
    header: Record
    sections: dict[str, Record]
    meta: dict[str, int | float | str | bytes]
    values: list[Record]
    ops: list[Record]
    groups: list[Record]
    constants: bytes
    names: bytes
    golden_records: list[tuple[F32 | int, F32]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    preprocess: Preprocess | None = None

    def name(self, offset: int) -> str:
        """The string at an offset of NAMES."""
        return self.names[offset : self.names.index(b"\0", offset)].decode()

    @property
    def golden(self) -> list[tuple[F32, F32]]:
        """The golden pairs (input, output); inputs that the file has as seeds are made here."""
        rows, cols = self.input["rows"], self.input["cols"]
        return [(golden_input(x, rows, cols) if isinstance(x, int) else x, y) for x, y in self.golden_records]

    @property
    def input(self) -> Record:
        """The value record of the network input."""
        return next(v for v in self.values if v["storage"] == spec.STORAGES["INPUT"])

    @property
    def output(self) -> Record:
        """The value record of the network output."""
        return next(v for v in self.values if v["storage"] == spec.STORAGES["OUTPUT"])


def _broken(path: str, why: str) -> UserError:
    return UserError(
        f"{path} is not a usable .bvt artifact", where=path, why=why, fix="compile the model again, or copy the file again"
    )


def _unpack(name: str, data: bytes) -> list[Record]:
    fields, size = spec.STRUCTS[name]
    records = []
    for raw in struct.iter_unpack(spec.struct_code(fields), data[: len(data) // size * size]):
        record, at = {}, 0
        for field_name, _, n, _ in fields:
            record[field_name] = raw[at] if n == 1 else list(raw[at : at + n])
            at += n
        records.append(record)
    return records


def _strings(data: bytes) -> list[str]:
    return [s.decode() for s in data.split(b"\0")[:-1]]


def parse(data: bytes, path: str) -> Artifact:
    """Parses the content of a file; `path` is its name in errors. Raises as `read` does."""
    try:
        return _parse(path, data)
    except (struct.error, ValueError, LookupError, ArithmeticError, StopIteration) as error:
        raise _broken(path, f"its records do not fit together ({error})") from error


def read(path: Path | str) -> Artifact:
    """Parses a file. Raises UserError when it is missing, truncated, damaged or of another version."""
    path = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}", where=path, why=error.strerror or str(error), fix="check the path") from error
    return parse(data, path)


def _parse(path: str, data: bytes) -> Artifact:
    size = spec.STRUCTS["header"][1]
    if data[:8] != spec.MAGIC:
        fix = "give a file that `bvtdeploy compile` wrote; if it was copied, copy it in binary mode"
        raise UserError("this is no .bvt artifact", where=path, why="it does not begin with the .bvt magic", fix=fix)
    if len(data) < size:
        raise _broken(path, f"it ends within the header, after {len(data)} bytes")
    (header,) = _unpack("header", data[:size])
    if header["version"] != spec.VERSION:
        raise _broken(path, f"its format version is {header['version']}; this bvtdeploy reads version {spec.VERSION}")
    if zlib.crc32(data[: size - 4]) != header["header_crc"]:
        raise _broken(path, "the header's CRC does not match")
    if header["file_bytes"] != len(data):
        raise _broken(path, f"it has {len(data)} bytes, the header says {header['file_bytes']}")
    end = size + header["n_sections"] * spec.STRUCTS["section"][1]
    table = data[size:end]
    if end > len(data) or zlib.crc32(table) != header["table_crc"]:
        raise _broken(path, "the section table's CRC does not match")
    sections: dict[str, Record] = {}
    bodies: dict[str, bytes] = {}
    for record in _unpack("section", table):
        name, start = _key(spec.SECTIONS, record["kind"]), record["offset"]
        if name in sections or start % spec.ALIGN or start < end or any(data[end:start]):
            raise _broken(path, f"section {name} is not where it can be")
        end = start + record["bytes"]
        body = data[start:end]
        if end > len(data) or zlib.crc32(body) != record["crc"]:
            raise _broken(path, f"section {name} is damaged (its CRC does not match)")
        if name in _TABLES and record["bytes"] != record["count"] * spec.STRUCTS[_TABLES[name]][1]:
            raise _broken(path, f"section {name} does not hold {record['count']} records")
        sections[name], bodies[name] = record, body
    if any(data[end:]):
        raise _broken(path, "there is something behind its last section")
    artifact = Artifact(
        path,
        header,
        sections,
        _meta(bodies["META"]),
        _unpack("value", bodies["VALUES"]),
        _unpack("op", bodies["OPS"]),
        _unpack("group", bodies["GROUPS"]),
        bodies["CONSTANTS"],
        bodies["NAMES"],
        labels=_strings(bodies.get("LABELS", b"")),
    )
    artifact.golden_records = _golden(artifact, bodies.get("GOLDEN", b""))
    if len(artifact.labels) != sections.get("LABELS", {"count": 0})["count"]:
        raise _broken(path, "section LABELS does not hold as many names as it says")
    if "PREPROCESS" in bodies:
        (record,) = _unpack("preprocess", bodies["PREPROCESS"])
        artifact.preprocess = _preprocess(record, artifact.input)
    _check_records(artifact)
    return artifact


def _check_records(a: Artifact) -> None:
    """Raises ValueError or LookupError unless all codes are known, names and indices exist, and the groups partition the ops."""
    for v in a.values:
        a.name(v["name"])
        for members, number in ((spec.DTYPES, v["dtype"]), (spec.STORAGES, v["storage"]), (spec.LAYOUTS, v["layout"])):
            _key(members, number)
    _check_stored(a)
    for storage in ("INPUT", "OUTPUT"):
        if sum(v["storage"] == spec.STORAGES[storage] for v in a.values) != 1:
            raise ValueError(f"there must be one {storage} value")
    for op in a.ops:
        _key(spec.OPCODES, op["opcode"])
        a.name(op["name"])
        a.name(op["module"])
        if any(i != spec.NONE and i >= len(a.values) for i in (*op["inputs"], *op["outputs"])):
            raise ValueError("an op refers to a value that is not there")
    at = 0
    for g in a.groups:
        if g["first_op"] != at or not g["n_ops"]:
            raise ValueError("the groups do not partition the ops")
        at += g["n_ops"]
    if at != len(a.ops):
        raise ValueError("the groups do not partition the ops")


def _check_stored(a: Artifact) -> None:
    """Raises ValueError unless what is widened follows one upon the other: a small file must not ask for much memory."""
    end = memory = 0
    for v in a.values:
        stored, size = _key(spec.STORED, v["stored"]), v["rows"] * v["cols"]
        if stored == "AS_IS":
            if v["widened"]:
                raise ValueError("a reserved field of a value is set")
            continue
        need = 2 * size if stored == "F16" else 4 * v["cols"] + size
        where = (_key(spec.STORAGES, v["storage"]), _key(spec.DTYPES, v["dtype"]), _key(spec.LAYOUTS, v["layout"]))
        if where != ("CONST", "F32", "ROWS") or v["stride"] != 4 * v["cols"] or v["bytes"] != need:
            raise ValueError(f"a value cannot be stored as {stored}")
        if v["offset"] < end or v["widened"] != memory:
            raise ValueError("stored and widened values do not follow each other")
        end, memory = v["offset"] + need, memory + -(-4 * size // spec.ALIGN) * spec.ALIGN
    if a.header["widened_bytes"] != memory:
        raise ValueError(f"widened_bytes is {a.header['widened_bytes']}, the values need {memory}")


def _meta(data: bytes) -> dict[str, int | float | str | bytes]:
    (count,), at = struct.unpack_from("<I", data), 4
    meta: dict[str, int | float | str | bytes] = {}
    for _ in range(count):
        (n,) = struct.unpack_from("<I", data, at)
        key = data[at + 4 : at + 4 + n].decode()
        kind, size = struct.unpack_from("<II", data, at + 4 + n)
        at += 12 + n + size
        if at > len(data):
            raise ValueError("META ends within an entry")
        raw = data[at - size : at]
        if kind == spec.META_TYPES["U64"]:
            meta[key] = struct.unpack("<Q", raw)[0]
        elif kind == spec.META_TYPES["F64"]:
            meta[key] = struct.unpack("<d", raw)[0]
        else:
            meta[key] = raw.decode() if _key(spec.META_TYPES, kind) == "STR" else raw
    if at != len(data):
        raise ValueError("META goes on after its last entry")
    return meta


def _golden(artifact: Artifact, data: bytes) -> list[tuple[F32 | int, F32]]:
    at = artifact.sections.get("GOLDEN", {"count": 0})["count"] * spec.STRUCTS["golden"][1]
    if at > len(data):
        raise ValueError("section GOLDEN ends within its records")
    image, output = ((v["rows"], v["cols"]) for v in (artifact.input, artifact.output))

    def take(shape: tuple[int, int]) -> F32:
        nonlocal at
        at += 4 * shape[0] * shape[1]
        if at > len(data):
            raise ValueError("section GOLDEN ends within a pair")
        return np.frombuffer(data[at - 4 * shape[0] * shape[1] : at], "<f4").reshape(shape)

    pairs: list[tuple[F32 | int, F32]] = []
    for record in _unpack("golden", data[:at]):
        made = _key(spec.GOLDENS, record["kind"]) == "GENERATED"
        if record["reserved"] or (record["seed"] and not made):
            raise ValueError("section GOLDEN: a reserved field is set")
        given = int(record["seed"]) if made else take(image)
        pairs.append((given, take(output)))
    if at != len(data):
        raise ValueError("section GOLDEN goes on after its last pair")
    return pairs


def _key(members: dict[str, int], number: int) -> str:
    for name, n in members.items():
        if n == number:
            return name
    raise ValueError(f"{number} is none of {', '.join(members)}")


def _preprocess(r: Record, image: Record) -> Preprocess:
    n = r["channels"]
    if n not in (1, 3) or (r["height"] * n, r["width"]) != (image["rows"], image["cols"]):
        raise ValueError("the preprocessing does not make the network's input")
    return Preprocess(
        width=r["width"],
        height=r["height"],
        channels=n,
        colour=_key(spec.COLOURS, r["colour"]),
        resize=_key(spec.RESIZES, r["resize"]),
        resize_short=r["resize_short"],
        filter=_key(spec.FILTERS, r["filter"]),
        mean=tuple(r["mean"][:n]),
        std=tuple(r["std"][:n]),
    )


# -- back to a graph --------------------------------------------------------------------------------------------------


def _constant(artifact: Artifact, record: Record) -> tuple[npt.NDArray[Any], Type, dict[str, Any]]:
    """The array, its type, and the marks of its const op."""
    raw = artifact.constants[record["offset"] : record["offset"] + record["bytes"]]
    if len(raw) != record["bytes"]:
        raise ValueError("a constant goes beyond its section")
    rows, cols = record["rows"], record["cols"]
    dtype = _key(spec.DTYPES, record["dtype"])
    if dtype == "TRITS":
        raise ValueError("a constant of codes -1, 0, +1")
    if dtype == "BITS":
        layout = _key(spec.LAYOUTS, record["layout"])
        if layout not in TILES:
            raise ValueError(f"a constant of bits in layout {layout}")
        packed = np.frombuffer(raw, np.uint8).reshape(-(-rows // TILES[layout][0]), TILES[layout][1](cols))
        return unpack_weight(packed, layout, rows, cols), bits(rows, cols), {}
    if (dtype == "I8") != (record["layout"] == spec.LAYOUTS["QUADS"]):
        raise ValueError(f"a constant of {dtype} in layout {_key(spec.LAYOUTS, record['layout'])}")
    if dtype == "I8":
        return unpack_quads(raw, rows, cols), Type("i8", (rows, cols)), {}
    if record["stored"]:
        data, marks = unpack_stored(raw, _key(spec.STORED, record["stored"]), rows, cols)
        return data, Type("f32", (rows, cols)), marks
    array = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2", "I32": "<i4", "U64": "<u8", "F64": "<f8"}[dtype]).reshape(rows, cols)
    return array, Type(dtype.lower(), (rows, cols)), {}


def _attrs(kind: str, op: Record, outputs: Sequence[Record], inputs: Sequence[Record]) -> Record:
    """The attributes of an op of the graph; `outputs` and `inputs` are the records of its operands."""
    a = op["attr"]
    packed = tuple(int(v["layout"] != spec.LAYOUTS["COLS"]) for v in outputs if v["dtype"] in _CODES)

    def window(at: int) -> Record:
        return dict(zip(("height", "width", "kernel", "stride"), a[at : at + 4], strict=True))

    if kind == "patches":
        return {"channels": a[0], **window(1)}
    if kind == "row_patches":
        return {**window(0), "padding": a[4], "dilation": a[5] or 1, "groups": a[6] or 1}
    if kind in ("avg_pool", "max_pool"):
        return {**window(0), "padding": a[4]}
    if kind in ("bgemm", "mean_rows"):
        return {"groups": a[0] or 1}
    if kind == "layer_norm_rows":
        return {"groups": a[0], "eps": op["fattr"][0]}
    if kind == "norm_sign":
        return {"groups": a[0], "eps": op["fattr"][0], "packed": packed[0]}
    if kind == "gather":
        return {"ternary": outputs[0]["dtype"] == spec.DTYPES["TRITS"] and inputs[1]["dtype"] == spec.DTYPES["BITS"]}
    if kind == "activation":
        name = ACTIVATIONS[a[0]]
        return {"kind": name, "low": op["fattr"][0], "high": op["fattr"][1]} if name == "clamp" else {"kind": name}
    if kind == "stencil":
        taps = [((t & 255 ^ 128) - 128, (t >> 8 & 255 ^ 128) - 128) for t in a[4 : 4 + a[2]]]
        return {"height": a[0], "width": a[1], "offsets": tuple(taps), "boundary": ("zero", "circular")[a[3]]}
    if kind == "attention":
        bipolar = all(v["dtype"] == spec.DTYPES["BITS"] for v in inputs[:2])
        return _attention(op, 2 if bipolar else 1)
    if kind == "channel_pool":
        return {"group": a[0]}
    if kind == "epilogue":
        roles = tuple(role for role, i in zip(ROLES, op["inputs"], strict=False) if i != spec.NONE)
        factors = tuple(f for role, f in zip(RESIDUALS, a[1:7], strict=True) if role in roles)
        results = tuple(_key(spec.DTYPES, v["dtype"]).lower() for v in outputs)
        pool = {"pool": a[8]} if a[8] else {}
        return {"roles": roles, "factors": factors, "width": a[0], "results": results, "packed": packed, **pool}
    return {}


def _attention(op: Record, unit: int) -> Record:
    heads, windows, planes, of_max, inclusive = op["attr"][:5]
    if not 0 <= planes <= MOST_PLANES:  # before anything of that length is made
        raise ValueError(f"attention: {planes} planes")
    roles = tuple(role for role, i in zip(ATTENTION_ROLES, op["inputs"], strict=False) if i != spec.NONE)
    references = tuple("max" if of_max >> t & 1 else "sum" for t in range(planes or 1))
    return {
        "heads": heads,
        "roles": roles,
        "windows": windows or 1,
        "planes": planes or 1,
        "unit": unit,
        "references": references,
        "inclusive": tuple(bool(inclusive >> t & 1) for t in range(planes or 1)),
    }


def _check_small(claim: int, epilogue: Op) -> None:
    """Raises ValueError unless the attribute `small` is 0, or 1 where no dot is larger: kernels of fp16 trust it."""
    if claim not in (0, 1) or (claim and not are_small(epilogue.inputs[0].producer)):
        raise ValueError("epilogue: its dots are not as small as it says")


def to_graph(artifact: Artifact) -> Graph:
    """The compiled graph that the records say. Raises UserError where they do not make sense."""
    graph = Graph("artifact")
    at: dict[int, Value] = {}
    kinds = {number: kind for kind, number in spec.OPCODES.items()}
    try:
        for i, v in enumerate(artifact.values):
            if v["storage"] == spec.STORAGES["INPUT"]:
                at[i] = graph.add_input(artifact.name(v["name"]), Type("f32", (v["rows"], v["cols"])))
        for i, v in enumerate(artifact.values):
            if v["storage"] == spec.STORAGES["CONST"]:
                data, type, marks = _constant(artifact, v)
                at[i] = graph.constant(data, artifact.name(v["name"]), type=type)
                graph.ops[-1].attrs.update(marks)
        for op in artifact.ops:
            kind = kinds[op["opcode"]]
            out_ids = [i for i in op["outputs"] if i != spec.NONE]
            in_ids = [i for i in op["inputs"] if i != spec.NONE]
            attrs = _attrs(kind, op, [artifact.values[i] for i in out_ids], [artifact.values[i] for i in in_ids])
            if kind == "gather":  # the record has the index first
                in_ids = [*in_ids[1:], in_ids[0]]
            names = [artifact.name(artifact.values[i]["name"]) for i in out_ids]
            created = graph.create(kind, [at[i] for i in in_ids], attrs, module=artifact.name(op["module"]), names=names)
            if kind == "epilogue":
                _check_small(op["attr"][1 + len(RESIDUALS)], created)
            for i, value in zip(out_ids, created.outputs, strict=True):
                record = artifact.values[i]
                said = (_key(spec.DTYPES, record["dtype"]).lower(), (record["rows"], record["cols"]))
                if (record_dtype(value).lower(), value.type.shape) != said:
                    raise ValueError(f"%{value.name} is {value.type}, its record says {said[0]}[{said[1][0]}x{said[1][1]}]")
                at[i] = value
        graph.set_outputs([at[i] for i, v in enumerate(artifact.values) if v["storage"] == spec.STORAGES["OUTPUT"]])
    except (ValueError, LookupError, ArithmeticError) as error:
        raise _broken(artifact.path, f"its records do not make a network ({error})") from error
    return graph
