"""Side parameters in fewer bytes, golden inputs from seeds: the same numbers in numpy, in C and on an emulated board."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.golden import golden_input
from bvtdeploy.artifact.inspect import describe
from bvtdeploy.artifact.reader import parse, to_graph
from bvtdeploy.artifact.writer import Content, to_bytes
from bvtdeploy.errors import UserError
from bvtdeploy.host import Session, isas
from bvtdeploy.ir.graph import Graph
from bvtdeploy.ir.interp import run as interpret
from bvtdeploy.ir.types import f32, i32
from bvtdeploy.lower.lowered import lower
from bvtdeploy.lower.pack import pack_stored, unpack_stored
from bvtdeploy.passes import pipeline, side
from bvtdeploy.passes.base import Report

SIDES = ("fp32", "fp16", "int8")
F32 = npt.NDArray[np.float32]
SUBNORMAL = np.float32(2.0**-24)


def affine(weight: F32, bias: F32, form: str = "AS_IS") -> Graph:
    """x[1 x K] -> x @ weight + bias, whose bias has a stored form."""
    graph = Graph("affine")
    x = graph.add_input("x", f32(1, weight.shape[0]))
    w = graph.constant(weight, "w")
    b = graph.constant(bias, "b")
    if form != "AS_IS":
        graph.ops[-1].attrs["stored"] = form
    graph.set_outputs([graph.append("dense", [x, w, b])])
    return graph


# -- widening -----------------------------------------------------------------------------------------------------------


def test_all_65536_halves_in_c() -> None:
    """0 * 0 + bias is the bias, for every fp16 number; a NaN stays a NaN."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    bias = halves.astype(np.float32).reshape(1, -1)
    graph = affine(np.zeros((1, 1 << 16), np.float32), bias, "F16")
    data = to_bytes(Content(lower(graph)))
    got = Session(data, isa="ref").run(np.zeros((1, 1), np.float32)).reshape(1, -1)
    nan = np.isnan(bias)
    assert (np.isnan(got) == nan).all() and nan.sum() == 2046
    zero = bias == 0  # +0 + -0 is +0
    assert (got.view(np.uint32) == bias.view(np.uint32))[~nan & ~zero].all() and (got[zero] == 0).all()
    artifact = parse(data, "m")
    (again,) = (op.attrs["data"] for op in to_graph(artifact).of_kind("const") if op.attrs.get("stored") == "F16")
    assert (again.view(np.uint32) == bias.view(np.uint32))[~nan].all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([1e-42, 1e-30, 1.0, 1e30]))
def test_int8_bound_and_round_trip(rows: int, cols: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, cols)) * rng.integers(0, 3, cols) * size).astype(np.float32)
    found = side.to_i8(weight)
    assert found is not None
    data, codes, scales = found
    assert np.abs(codes.astype(int)).max() <= 127
    exact = np.abs(data.astype(np.float64) - weight)
    # Half a step, the rounding of the product, and what dividing by 127 can lose of a subnormal.
    assert (exact <= scales.astype(np.float64) / 2 * (1 + 1e-6) + 127 * 2.0**-149).all()
    raw = pack_stored(data, "I8", codes, scales)
    again, marks = unpack_stored(raw, "I8", rows, cols)
    assert again.tobytes() == data.tobytes() and len(raw) == 4 * cols + rows * cols
    assert (marks["codes"] == codes).all() and marks["scales"].tobytes() == scales.tobytes()


def test_what_is_not_of_a_form_is_not_written() -> None:
    with pytest.raises(ValueError, match="no F16 numbers"):
        pack_stored(np.full((1, 1), 0.1, np.float32), "F16")
    with pytest.raises(ValueError, match="no I8 numbers"):
        pack_stored(np.ones((1, 1), np.float32), "I8", np.ones((1, 1), np.int8), np.full(1, 2, np.float32))


# -- the pass -----------------------------------------------------------------------------------------------------------


def codes_of(elem: str, roles: tuple[str, ...], constants: list[F32]) -> Graph:
    graph = Graph("codes")
    x = graph.add_input("x", (f32 if elem == "f32" else i32)(1, 2))
    values = [x, *(graph.constant(c, r) for r, c in zip(roles, constants, strict=True))]
    attrs = {"roles": ("x", *roles), "results": ("bits",), "factors": (), "width": 0, "packed": (1,)}
    graph.set_outputs([graph.append("epilogue", values, attrs)])
    return graph


def stored(graph: Graph, how: Any = "fp16") -> dict[str, tuple[str, F32]]:
    report = Report(side=how)
    side.run(graph, report)
    marks = {op.out.name: (op.attrs.get("stored", "AS_IS"), op.attrs["data"]) for op in graph.of_kind("const")}
    assert len(report.declined) == sum(form == "AS_IS" for form, _ in marks.values())
    return marks


def row(*numbers: float) -> F32:
    return np.array([numbers], np.float32)


def test_thresholds_on_integers_stay_exact() -> None:
    odd = row(2049, 3)
    form, data = stored(codes_of("i32", ("threshold0",), [odd]))["threshold0"]
    assert form == "AS_IS" and data.tolist() == odd.tolist()
    assert stored(codes_of("i32", ("threshold0",), [row(2048, -3)]))["threshold0"][0] == "F16", "exact in fp16"
    scaled = stored(codes_of("i32", ("scale", "threshold0"), [row(1, 1), odd]))
    assert scaled["threshold0"][0] == "F16" and scaled["threshold0"][1].tolist() == [[2048, 3]], "ties to even"
    assert stored(codes_of("f32", ("threshold0",), [odd]))["threshold0"][0] == "F16"


def test_what_fp16_cannot_hold_stays() -> None:
    for numbers, form in (((65519, 0.1), "F16"), ((65520, 0.1), "AS_IS"), ((np.inf, -0.0), "F16"), ((np.nan, 0.1), "F16")):
        form_, data = stored(codes_of("f32", ("shift", "threshold0"), [row(*numbers), row(0, 0)]))["shift"]
        assert form_ == form and (data[0, 1] == np.float32(np.float16(numbers[1]))) == (form == "F16" or not numbers[1])
    assert stored(codes_of("f32", ("scale", "threshold0"), [row(1e-5, 1), row(0, 0)]))["scale"][0] == "AS_IS"
    assert stored(codes_of("f32", ("scale", "threshold0"), [row(0, 1), row(0, 0)]))["scale"][0] == "F16"
    assert stored(codes_of("f32", ("shift", "threshold0"), [row(1e-9, 1), row(0, 0)]))["shift"][1][0, 0] == 0


def test_matrices() -> None:
    weight = np.array([[1, 100], [-0.3, -3]], np.float32)
    marks = stored(affine(weight, row(0.1, 1)), "int8")
    assert marks["w"][0] == "I8" and marks["b"][0] == "F16"
    assert np.abs(marks["w"][1] - weight).max(axis=0).tolist() <= [1 / 254 + 1e-6, 100 / 254 + 1e-6]
    assert stored(affine(weight, row(0.1, 1)))["w"][0] == "F16"
    weight[0, 0] = np.inf
    assert stored(affine(weight, row(0.1, 1)), "int8")["w"][0] == "F16", "not finite: as in fp16"


# -- whole models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of two stages, smaller than a nano one, with every side."""
    torch = pytest.importorskip("torch")
    from bvtdeploy.compiler import compile_model
    from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig

    folder = tmp_path_factory.mktemp("sides")
    torch.manual_seed(0)
    config = BinaryViTLeConfig(
        image_size=16, in_channels=3, patch_size=4, dims=(16, 32), depths=(1, 1), heads=(1, 2), intermediate=(32, 64),
        reduction=(2, 1), num_classes=5,
    )  # fmt: skip
    model = BinaryViTLe(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.endswith("att_prob_clip"):
                value.normal_(0.0, 0.3)
    for how in SIDES:
        report = compile_model(model, folder / f"{how}.bvt", example_input=torch.zeros(1, 3, 16, 16), side=how)
        assert report.as_dict()["side"] == how
        *_, before, last = [t.name for t in report.compiled.timings]
        assert (before, last) == (pipeline.PIPELINE[-2].name if how == "fp32" else "side", "pools")
    return {how: folder / f"{how}.bvt" for how in SIDES}


def test_a_side_that_there_is_not() -> None:
    pytest.importorskip("torch")
    from bvtdeploy.compiler import compile_graph

    with pytest.raises(UserError, match="fp64"):
        compile_graph(None, side="fp64")  # type: ignore[arg-type]


def test_equal_bits_everywhere(models: dict[str, Path]) -> None:
    outputs = set()
    for how, path in models.items():
        artifact = parse(path.read_bytes(), how)
        graph = to_graph(artifact)
        for isa in isas():
            session = Session(path, isa=isa, threads=2)
            for (x, y), (x_c, y_c) in zip(artifact.golden, session.golden, strict=True):
                assert x.tobytes() == x_c.tobytes() and y.tobytes() == y_c.tobytes()
                assert session.run(x).tobytes() == y.tobytes() == interpret(graph, {graph.inputs[0].name: x})[0].tobytes()
        outputs.add(artifact.golden[0][1].tobytes())
    assert len(outputs) == 3, "the sides are different functions"


def test_sizes_and_reports(models: dict[str, Path]) -> None:
    facts = {how: describe(parse(path.read_bytes(), how)) for how, path in models.items()}
    assert [f["side"] for f in facts.values()] == list(SIDES)
    assert facts["fp32"]["bytes"] > facts["fp16"]["bytes"] > facts["int8"]["bytes"]
    plain, half, eighth = (facts[how]["constants"] for how in SIDES)
    assert plain["bits"] == half["bits"] == eighth["bits"] and plain["fp16"] == plain["int8"] == half["int8"] == 0 < eighth["int8"]
    assert plain["fp32"] == half["fp32"] + 2 * half["fp16"] and half["fp16"] > half["fp32"]
    assert facts["fp32"]["widened_bytes"] == 0 and 0 <= facts["fp16"]["widened_bytes"] - 2 * half["fp16"] < 64 * 1000
    for how, path in models.items():
        graph = to_graph(parse(path.read_bytes(), how))
        found = sum(v.bytes for v in lower(graph).values if v.stored != "AS_IS")
        assert found == facts[how]["constants"]["fp16"] + facts[how]["constants"]["int8"]


def test_emulated_board(models: dict[str, Path], emulator: str) -> None:
    from bvtdeploy.device import RunOptions, open_device

    with open_device("qemu:cortex-a53") as device:
        for how, path in models.items():
            run = device.run_model(path, None, RunOptions(isa="neon", golden=True))
            assert run.golden_equal == run.golden_checked == 2, how


def test_both_readers_refuse_wrong_forms(models: dict[str, Path]) -> None:
    """Each field of a widened value and the header's size, alone, under right checksums."""
    import zlib

    data = models["int8"].read_bytes()
    artifact = parse(data, "m")
    number = next(i for i, v in enumerate(artifact.values) if v["stored"] == spec.STORED["I8"])
    later = next(i for i, v in enumerate(artifact.values) if i > number and v["stored"])
    at = {name: sum(struct.calcsize("<" + c) * k for _, c, k, _ in fields[:i]) for fields in (spec.VALUE, spec.HEADER)
          for i, (name, *_) in enumerate(fields)}  # fmt: skip
    codes = {name: c for fields in (spec.VALUE, spec.HEADER) for name, c, *_ in fields}

    def sealed(field: str, value: int, index: int | None) -> bytes:
        out = bytearray(data)
        section = artifact.sections["VALUES"]
        base = 0 if index is None else section["offset"] + 64 * index
        struct.pack_into("<" + codes[field], out, base + at[field], value)
        body = out[section["offset"] : section["offset"] + section["bytes"]]
        for i in range(artifact.header["n_sections"]):
            if struct.unpack_from("<I", out, 64 + 32 * i)[0] == spec.SECTIONS["VALUES"]:
                struct.pack_into("<I", out, 64 + 32 * i + 4, zlib.crc32(body))
        table = out[64 : 64 + 32 * artifact.header["n_sections"]]
        struct.pack_into("<I", out, 28, zlib.crc32(table))
        struct.pack_into("<I", out, 60, zlib.crc32(out[:60]))
        return bytes(out)

    first, second = artifact.values[number], artifact.values[later]
    changes = [
        ("stored", 3, number), ("stored", 1, number), ("stored", 0, number), ("bytes", first["bytes"] + 1, number),
        ("stride", first["stride"] + 4, number), ("dtype", spec.DTYPES["I32"], number), ("storage", spec.STORAGES["ARENA"], number),
        ("widened", first["widened"] + 64, number), ("widened", second["widened"] - 64, later), ("widened", 4, later),
        ("offset", first["offset"], later), ("rows", 1 << 24, number),
        ("widened_bytes", 0, None), ("widened_bytes", artifact.header["widened_bytes"] - 64, None),
        ("widened_bytes", 1 << 40, None),
    ]  # fmt: skip
    for change in changes:
        broken = sealed(*change)
        with pytest.raises(UserError):
            to_graph(parse(broken, "m"))
        with pytest.raises(UserError):
            Session(broken)
    same = sealed("widened", first["widened"], number)
    assert same == data


# -- golden inputs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 7, 8, 2**63, 2**64 - 1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (672, 224)])
def test_golden_inputs_are_the_same_in_c(seed: int, shape: tuple[int, int]) -> None:
    graph = Graph("identity")
    x = graph.add_input("x", f32(*shape))
    graph.set_outputs([graph.append("channel_pool", [x], {"group": 1})])
    made = golden_input(seed, *shape)
    session = Session(to_bytes(Content(lower(graph), golden=[(seed, made)])), isa="ref")
    ((given, expected),) = session.golden
    assert given.tobytes() == made.tobytes() == expected.tobytes()
    assert made.dtype == np.float32 and made.shape == shape and float(np.abs(made).max()) <= 2


def test_golden_inputs_are_noise_over_a_ramp() -> None:
    a, b = golden_input(0, 96, 32), golden_input(1, 96, 32)
    assert abs(np.corrcoef((a - b).reshape(-1), np.arange(a.size))[0, 1]) < 0.5 and len(np.unique(a)) > 200
    # splitmix64(0) begins with 0xE220A8397B1DCDAF
    assert golden_input(0, 1, 1)[0, 0] == (np.float32(0xE220A8397B1DCDAF >> 57) / np.float32(255) - np.float32(0.5)) * np.float32(4)
    with pytest.raises(OverflowError):
        golden_input(-1, 1, 1)
