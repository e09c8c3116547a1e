"""Writing and reading back, and what the reader does with everything that is not quite a file of ours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimodel import Config, compiled, evaluate, image

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.golden import golden_input
from bvtdeploy.artifact.inspect import describe, inspect
from bvtdeploy.artifact.reader import Artifact, parse, read, to_graph
from bvtdeploy.artifact.writer import Content, Preprocess, to_bytes, write_aside
from bvtdeploy.errors import UserError
from bvtdeploy.host import Session
from bvtdeploy.ir.graph import Graph
from bvtdeploy.ir.types import Type, bits
from bvtdeploy.ir.verify import verify
from bvtdeploy.lower.lowered import Lowered, lower
from bvtdeploy.lower.schedule import schedule

CONFIG = Config(image=8, patch=2, dim=8, ratio=2)
GRAPH, _ = compiled(CONFIG)
IMAGE = image(CONFIG)
LOGITS = evaluate(GRAPH, IMAGE)[0]
META: dict[str, int | float | str | bytes] = {"n": 1 << 40, "x": 0.1, "s": "Ω", "b": b"\0\1", "board": "rpi4"}
LABELS = [f"class {i}" for i in range(9)] + [""]
PROCESS = Preprocess(8, 8, 1, "GRAY", "SHORT_CROP", 9, "BICUBIC", (0.25,), (0.5,))


def content(**changes: Any) -> Content:
    golden = [(IMAGE.reshape(8, 8), LOGITS), (2**64 - 1, LOGITS)]
    return Content(**{"lowered": lower(GRAPH), "meta": META, "golden": golden, "labels": LABELS, "preprocess": PROCESS, **changes})


DATA = to_bytes(content())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bvt")


def load(folder: Path, data: bytes) -> Artifact:
    (folder / "m.bvt").write_bytes(data)
    return read(folder / "m.bvt")


# -- round trip -------------------------------------------------------------------------------------------------------


def test_round_trip(folder: Path) -> None:
    a = load(folder, DATA)
    assert a.meta == META and a.labels == LABELS and a.preprocess == PROCESS
    (x, y), (made, z) = a.golden
    assert made.tobytes() == golden_input(2**64 - 1, 8, 8).tobytes() and z.tobytes() == LOGITS.tobytes()
    assert a.golden_records[1][0] == 2**64 - 1 and a.sections["GOLDEN"]["bytes"] == 2 * 16 + IMAGE.nbytes + 2 * LOGITS.nbytes
    assert x.tobytes() == IMAGE.tobytes() and y.tobytes() == LOGITS.tobytes()
    graph = to_graph(a)
    verify(graph)
    assert graph.count() == GRAPH.count()
    assert evaluate(graph, IMAGE)[0].tobytes() == LOGITS.tobytes()


@pytest.mark.parametrize("config", [Config(downsample=True, channels=3), Config(reduction=1, pools=(), dim=24, heads=4)])
def test_models_compute_the_same_from_the_file(folder: Path, config: Config) -> None:
    """Every intermediate too, by name: what verify compares with devices."""
    graph, _ = compiled(config)
    x = image(config)
    again = to_graph(load(folder, to_bytes(Content(lower(graph)))))

    def values(g: Any) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        evaluate(g, x, lambda op, results: found.update((v.name, a.tobytes()) for v, a in zip(op.outputs, results, strict=True)))
        return found

    assert values(again) == values(graph)
    modules = {op.outputs[0].name: op.module for op in graph.ops if op.kind != "const"}
    assert {op.outputs[0].name: op.module for op in again.ops if op.kind != "const"} == modules


def test_same_input_same_bytes() -> None:
    graph, _ = compiled(CONFIG)
    assert to_bytes(content(lowered=lower(graph))) == DATA


def test_optional_sections(folder: Path) -> None:
    a = load(folder, to_bytes(Content(lower(GRAPH))))
    assert (a.meta, a.labels, a.preprocess, a.golden) == ({}, [], None, [])
    assert "LABELS" not in a.sections and "PREPROCESS" not in a.sections


def test_layout_of_the_file(folder: Path) -> None:
    a = load(folder, DATA)
    assert DATA[:8] == spec.MAGIC and len(DATA) % 64 == 0
    assert all(s["offset"] % 64 == 0 for s in a.sections.values())
    assert struct.unpack_from("<I", DATA, 60)[0] == zlib.crc32(DATA[:60])


def test_the_c_header_is_fresh() -> None:
    header = Path(__file__).resolve().parents[2] / "runtime_arm" / "src" / "bvt_format.h"
    assert header.read_text() == spec.header(), "python -m bvtdeploy.artifact.spec > runtime_arm/src/bvt_format.h"


def test_writing_leaves_the_old_file_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.bvt"
    write_aside(target, b"old")
    assert target.stat().st_mode & 0o444 and [p.name for p in tmp_path.iterdir()] == ["m.bvt"]

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_aside(target, b"new")
    assert target.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["m.bvt"]


def test_inspect(folder: Path) -> None:
    load(folder, DATA)
    d = inspect(folder / "m.bvt")
    assert (d["format"], d["board"], d["golden"], d["labels"], d["bytes"]) == (spec.VERSION, "rpi4", 2, LABELS, len(DATA))
    assert [op["kind"] for op in d["ops"]] == [op.kind for op in lower(GRAPH).ops]
    assert d["macs"]["binary"] == sum(op["macs"]["binary"] for op in d["ops"]) > 0
    assert sum(g["ops"] for g in d["groups"]) == len(d["ops"]) and d["preprocess"]["mean"] == [0.25]
    constants = sum(op["bytes"] for op in d["ops"])
    assert 0 < constants <= d["sections"]["CONSTANTS"] < constants + 64 * len(GRAPH.ops)
    # Values that are needed at the same time fill the arena, but for their alignment; never more than there is is in use.
    live = [op["live_bytes"] for op in d["ops"]]
    assert 0.9 * d["arena_bytes"] <= max(live) <= d["arena_bytes"] + d["tile_bytes"] and min(live) < max(live)


def test_live_bytes(folder: Path) -> None:
    """Of every group those of the values that it writes or reads, or that are read later; places count once."""
    low = lower(GRAPH)
    group = {op.outputs[0].name: n for n, g in enumerate(schedule(GRAPH)) for op in g.ops}
    want = []
    for n in range(len(low.groups)):
        places: set[tuple[str, int]] = set()
        for value in (v for op in GRAPH.ops if op.kind != "const" for v in op.outputs):
            record = next(v for v in low.values if v.name == value.name)
            where = [group[op.outputs[0].name] for op in (value.producer, *value.users) if op is not None]
            if record.storage in ("ARENA", "TILE") and min(where) <= n <= max(where):
                places |= {(record.storage, i) for i in range(record.offset, record.offset + record.bytes)}
        want.append(len(places))
    load(folder, DATA)
    d = inspect(folder / "m.bvt")
    assert [want[op["group"]] for op in d["ops"]] == [op["live_bytes"] for op in d["ops"]]


# -- damage -----------------------------------------------------------------------------------------------------------


def refused(folder: Path, data: bytes) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, data)
    assert caught.value.fix
    return str(caught.value)


def test_every_truncation_is_refused(folder: Path) -> None:
    for n in [*range(600), *range(600, len(DATA), 501), len(DATA) - 1]:
        refused(folder, DATA[:n])
    refused(folder, DATA + bytes(64))


@settings(max_examples=250)
@given(st.integers(0, len(DATA) * 8 - 1))
def test_every_bit_is_covered(folder: Path, bit: int) -> None:
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8
    refused(folder, bytes(data))


def test_missing_and_foreign_files(folder: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read(folder / "absent.bvt")
    with pytest.raises(UserError, match="cannot read"):
        read(folder)
    assert "magic" in refused(folder, b"PK\3\4" + bytes(100)) and "magic" in refused(folder, b"")
    assert "in binary mode" in refused(folder, DATA.replace(b"\r\n", b"\n", 1)), "a text-mode transfer"


def sealed(data: bytes, change: Callable[[dict[str, bytearray], dict[str, Any], dict[str, dict[str, Any]]], None]) -> bytes:
    """The file after a change of its sections, header or table, with all CRCs, offsets and sizes made right again, except where the
    change set a field itself."""
    fields = {name: [f[0] for f in spec.STRUCTS[name][0]] for name in ("header", "section")}
    head: dict[str, Any] = {}
    values = struct.unpack_from(spec.struct_code(spec.HEADER), data)
    at = 0
    for name, _, n, _ in spec.HEADER:
        head[name], at = (values[at] if n == 1 else list(values[at : at + n])), at + n
    kinds = {n: k for k, n in spec.SECTIONS.items()}
    bodies: dict[str, bytearray] = {}
    table: dict[str, dict[str, Any]] = {}
    for i in range(head["n_sections"]):
        row = dict(zip(fields["section"], struct.unpack_from(spec.struct_code(spec.SECTION), data, 64 + 32 * i), strict=True))
        bodies[kinds[row["kind"]]] = bytearray(data[row["offset"] : row["offset"] + row["bytes"]])
        table[kinds[row["kind"]]] = {"kind": row["kind"], "count": row["count"]}
    changed_head: dict[str, Any] = {}
    change(bodies, changed_head, table)
    at, body = 64 + 32 * len(table), b""
    rows = b""
    for name, row in table.items():
        part = bytes(bodies[name])
        body += bytes(-at % 64)
        at += -at % 64
        row = {"crc": zlib.crc32(part), "offset": at, "bytes": len(part), "reserved": 0, **row}
        rows += struct.pack(spec.struct_code(spec.SECTION), *(row[f] for f in fields["section"]))
        body += part
        at += len(part)
    body += bytes(-at % 64)
    head |= {"n_sections": len(table), "table_crc": zlib.crc32(rows), "file_bytes": at + -at % 64, **changed_head}
    flat = [x for f in fields["header"][:-1] for x in (head[f] if isinstance(head[f], list) else [head[f]])]
    raw = struct.pack(spec.struct_code(spec.HEADER[:-1]), *flat)
    return raw + struct.pack("<I", zlib.crc32(raw)) + rows + body


def test_sealing_changes_nothing() -> None:
    assert sealed(DATA, lambda bodies, head, table: None) == DATA


def header_field(name: str, value: int) -> Any:
    return lambda bodies, head, table: head.update({name: value})


def table_field(section: str, name: str, value: int) -> Any:
    return lambda bodies, head, table: table[section].update({name: value})


def record_field(section: str, struct_name: str, field: str, value: int, number: int = 0, item: int = 0) -> Any:
    fields, size = spec.STRUCTS[struct_name]
    at = 0
    for name, code, n, _ in fields:
        if name == field:
            break
        at += struct.calcsize(code) * n
    offset = number * size + at + item * struct.calcsize(code)

    def change(bodies: dict[str, bytearray], head: Any, table: Any) -> None:
        struct.pack_into("<" + code, bodies[section], offset, value)

    return change


def drop(section: str) -> Any:
    return lambda bodies, head, table: (bodies.pop(section), table.pop(section))


def cut(section: str, n: int) -> Any:
    return lambda bodies, head, table: bodies[section].__delitem__(slice(len(bodies[section]) - n, None))


BIG = 0xFFFFFFFE


@pytest.mark.parametrize(
    "change",
    [
        header_field("version", spec.VERSION + 1),
        header_field("n_sections", BIG),
        header_field("n_sections", 0),
        header_field("file_bytes", 1 << 60),
        header_field("magic", [0] * 8),
        table_field("OPS", "kind", 99),
        *(table_field("OPS", f, v) for f in ("count", "offset", "bytes") for v in (0, BIG, 1 << 31)),
        table_field("OPS", "kind", spec.SECTIONS["VALUES"]),
        table_field("GOLDEN", "count", BIG),
        table_field("GOLDEN", "count", 1),
        table_field("GOLDEN", "count", 3),
        *(record_field("GOLDEN", "golden", f, v) for f, v in (("kind", 1), ("kind", 2), ("reserved", 1), ("seed", 1))),
        record_field("GOLDEN", "golden", "kind", 0, number=1),
        record_field("GOLDEN", "golden", "reserved", 1, number=1),
        header_field("widened_bytes", 64),
        *(record_field("VALUES", "value", f, 1) for f in ("stored", "widened")),
        table_field("LABELS", "count", 3),
        table_field("LABELS", "count", BIG),
        *(drop(s) for s in ("META", "VALUES", "OPS", "GROUPS", "NAMES", "CONSTANTS")),
        *(cut(s, 1) for s in ("META", "VALUES", "OPS", "GROUPS", "NAMES", "GOLDEN", "LABELS", "PREPROCESS")),
        cut("META", 9),
        lambda bodies, head, table: struct.pack_into("<I", bodies["META"], 0, BIG),
        lambda bodies, head, table: struct.pack_into("<I", bodies["META"], 4, BIG),
        lambda bodies, head, table: bodies["META"].extend(b"more"),
        lambda bodies, head, table: bodies.update(META=bodies["META"].replace("Ω".encode(), b"\xff\xff")),
        *(record_field("VALUES", "value", f, BIG) for f in ("name", "rows", "cols")),
        *(record_field("VALUES", "value", f, v) for f in ("dtype", "storage", "layout") for v in (0, 10)),
        record_field("VALUES", "value", "storage", spec.STORAGES["INPUT"], number=1),
        record_field("VALUES", "value", "storage", spec.STORAGES["ARENA"], number=1),
        *(record_field("OPS", "op", f, BIG) for f in ("opcode", "name", "module", "inputs", "outputs")),
        record_field("OPS", "op", "opcode", 0),
        *(record_field("GROUPS", "group", f, v) for f, v in (("first_op", 1), ("first_op", BIG), ("n_ops", 0), ("n_ops", BIG))),
        *(record_field("PREPROCESS", "preprocess", f, 9) for f in ("width", "height", "channels", "colour", "resize", "filter")),
    ],
)  # fmt: skip
def test_hostile_files_with_right_checksums(folder: Path, change: Any) -> None:
    refused(folder, sealed(DATA, change))


@settings(max_examples=200)
@given(st.sampled_from(["META", "VALUES", "OPS", "GROUPS", "NAMES", "GOLDEN", "LABELS", "PREPROCESS", "CONSTANTS"]), st.data())
def test_random_bytes_under_right_checksums(folder: Path, section: str, data: st.DataObject) -> None:
    """Whatever stands in a section: an artifact, which can be inspected and perhaps made a graph, or a UserError; nothing else."""

    def change(bodies: dict[str, bytearray], head: Any, table: Any) -> None:
        body = bodies[section]
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(body) - 4))
            value = data.draw(st.sampled_from([0, 1, 2, 3, 7, 8, 255, 1 << 16, (1 << 31) - 1, 1 << 31, 0xFFFFFFFF]))
            struct.pack_into("<I", body, at // 4 * 4 if data.draw(st.booleans()) else at, value)

    try:
        artifact = load(folder, sealed(DATA, change))
        describe(artifact)
        verify(to_graph(artifact))
    except UserError:
        pass


@pytest.mark.parametrize("number", range(len(lower(GRAPH).ops)))
def test_hostile_attributes_of_every_op(folder: Path, number: int) -> None:
    """Each attribute of each op set to something absurd: refused, or it is an attribute that the op does not have."""
    kind = lower(GRAPH).ops[number].kind
    for item in range(6):
        for value in (-1, 0, 3, 255, 2**31 - 1, -(2**31)):
            artifact = load(folder, sealed(DATA, record_field("OPS", "op", "attr", value, number, item)))
            try:
                graph = to_graph(artifact)
            except UserError:
                continue
            verify(graph)
            assert kind in {op.kind for op in graph.ops}


def epilogue_of_dots(cols: int) -> Lowered:
    """Dots of `cols` columns, scaled: 8 channels in fp16."""
    graph = Graph("g")
    x = graph.add_input("x", Type("f32", (3, cols)))
    attrs = {"roles": ("x", "threshold0"), "results": ("bits",), "factors": (), "width": 0, "packed": (1,)}
    signs = graph.create("epilogue", [x, graph.constant(np.zeros((1, cols), np.float32))], attrs)
    weight = graph.constant(np.where(np.arange(8 * cols) % 3, 1, -1).astype(np.int8).reshape(8, cols), type=bits(8, cols))
    dots = graph.append("bgemm", [*signs.outputs, weight])
    scale = graph.constant(np.ones((1, 8), np.float16), type=Type("f16", (1, 8)))
    attrs = {"roles": ("x", "scale"), "results": ("f32",), "factors": (), "width": 0, "packed": ()}
    graph.set_outputs([*graph.create("epilogue", [dots, scale], attrs).outputs])
    return lower(graph)


@pytest.mark.parametrize(
    ("cols", "attr", "value"),
    [
        *((64, 7, value) for value in (2, -1, 255)),
        (513, 7, 1),
        *((64, 8, value) for value in (1, 3, -1, 16)),
        (64, 8, 2),  # its result has the channels of x
    ],
)
def test_both_readers_refuse_wrong_claims_of_an_epilogue(cols: int, attr: int, value: int) -> None:
    low = epilogue_of_dots(cols)
    (number,) = (i for i, op in enumerate(low.ops) if op.kind == "epilogue" and low.values[op.inputs[0]].dtype == "I16")
    assert low.ops[number].attr[7:9] == [int(cols <= 512), 0]
    data = to_bytes(Content(low))
    Session(data)
    to_graph(parse(data, "m"))
    broken = sealed(data, record_field("OPS", "op", "attr", value, number, attr))
    with pytest.raises(UserError):
        Session(broken)
    with pytest.raises(UserError, match="do not make a network"):
        to_graph(parse(broken, "m"))


def test_constants_that_are_not_there(folder: Path) -> None:
    low = lower(GRAPH)
    for number, v in enumerate(low.values):
        if v.storage != "CONST":
            continue
        for field, value in (
            ("offset", 1 << 62),
            ("bytes", 1),
            ("bytes", 1 << 62),
            ("rows", 1 << 31),
            ("cols", 1 << 31),
            ("cols", 0),
        ):
            artifact = load(folder, sealed(DATA, record_field("VALUES", "value", field, value, number)))
            with pytest.raises(UserError, match="do not make a network"):
                to_graph(artifact)
