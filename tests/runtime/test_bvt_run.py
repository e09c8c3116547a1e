"""The program `bvt_run`: inputs, outputs, exit codes, JSON."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bvtdeploy.artifact import spec

from .bvtfile import File, record
from .conftest import ROOT, Runner

PREPROCESS = {
    "width": 4,
    "height": 3,
    "channels": 1,
    "colour": 0,
    "resize": 0,
    "filter": 0,
    "mean": [0.0] * 4,
    "std": [1.0, 0, 0, 0],
}


def model(golden_output: list[float] | None = None) -> bytes:
    """Means of the three rows of a 3 x 4 input, then of nothing more: output 3 x 1."""
    f = File()
    f.input = f.value("F32", "ROWS", 3, 4, "INPUT", 16, bytes=48)
    output = f.value("F32", "ROWS", 3, 1, "OUTPUT", 4, bytes=12)
    f.op("channel_pool", {0: f.input}, {0: output}, [4])
    key = b"title"
    text = b'quote " and \\ and \n'
    f.sections["META"] = (
        struct.pack("<I", 1) + struct.pack("<I", len(key)) + key + struct.pack("<II", spec.META_TYPES["STR"], len(text)) + text,
        1,
    )
    golden = (
        record(spec.GOLDEN, kind=spec.GOLDENS["STORED"])
        + np.arange(12, dtype="<f4").tobytes()
        + np.array([1.5, 5.5, 9.5] if golden_output is None else golden_output, "<f4").tobytes()
    )
    f.sections["GOLDEN"] = (golden, 1)
    f.sections["LABELS"] = ("top\0mîddle\0bottom\0".encode(), 3)
    f.sections["PREPROCESS"] = (record(spec.PREPROCESS, **PREPROCESS), 1)
    return f.finish()


@pytest.fixture
def run(native: Path) -> Runner:
    return Runner((str(native),), "auto")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "m.bvt").write_bytes(model())
    return tmp_path / "m.bvt"


def test_raw_npy_and_out(run: Runner, path: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32)
    x.tofile(tmp_path / "x.f32")
    np.save(tmp_path / "x.npy", x[:2])
    run(path, "--raw", tmp_path / "x.f32", "--npy", tmp_path / "x.npy", "--out", tmp_path / "y.f32")
    got = np.fromfile(tmp_path / "y.f32", np.float32).reshape(-1, 3)
    both = np.concatenate([x[:2], x])
    want = ((both[..., 0] + both[..., 1]) + (both[..., 2] + both[..., 3])) * np.float32(0.25)
    assert np.array_equal(got, want)


def test_json(run: Runner, path: Path, tmp_path: Path) -> None:
    Image.fromarray(np.array([[0] * 4, [200] * 4, [100] * 4], np.uint8)).save(tmp_path / "a.png")
    done = run(
        path,
        tmp_path / "a.png",
        "--json",
        "--runs",
        "3",
        "--warmup",
        "1",
        "--profile",
        "--threads",
        "2",
        "--top",
        "2",
        "--golden",
        "--op-crc",
    )
    out = json.loads(done.stdout)
    assert out["model"]["meta"] == {"title": 'quote " and \\ and \n'}
    assert out["model"]["input"] == [3, 4] and out["model"]["output"] == [3, 1]
    assert out["threads"] == 2 and out["isa"] in ("ref", "neon", "avx2", "avx512")
    assert [(t["label"], t["index"]) for t in out["predictions"][0]["top"]] == [("mîddle", 1), ("bottom", 2)]
    assert np.float32(out["predictions"][0]["top"][0]["logit"]) == np.float32(200) / np.float32(255)
    assert len(out["samples_ns"]) == 3 and all(n > 0 for n in out["samples_ns"])
    assert [op["kind"] for op in out["ops"]] == ["channel_pool"] and out["ops"][0]["ns"] > 0 and len(out["groups_ns"]) == 1
    assert out["golden"] == {"checked": 1, "equal": 1}
    want = (np.array([0, 200, 100], np.float32) / np.float32(255) * 4 * np.float32(0.25)).astype(np.float32)
    assert out["crcs"] == [{"op": 0, "output": 0, "value": "v1", "crc": zlib.crc32(want.tobytes())}]


def test_golden_mismatch_is_1(run: Runner, path: Path) -> None:
    run(path, "--golden", code=0)
    path.write_bytes(model([1.5, 5.5, 9.500001]))
    assert "0 of 1" in run(path, "--golden", code=1).stdout
    path.write_bytes(model([float("nan"), 5.5, 9.5]))
    run(path, "--golden", code=1)


def test_info(run: Runner, path: Path) -> None:
    assert "channel_pool" in run(path, "--info").stdout
    info = json.loads(run(path, "--info", "--json").stdout)
    assert info["model"]["ops"][0]["name"] == "op0" and info["model"]["groups"] == [
        {"first_op": 0, "n_ops": 1, "rows": 3, "block": 3}
    ]
    assert {s["name"] for s in info["model"]["sections"]} >= {
        "VALUES",
        "OPS",
        "GROUPS",
        "NAMES",
        "META",
        "GOLDEN",
        "LABELS",
        "PREPROCESS",
    }
    assert info["isas"][0] == "ref"


@pytest.mark.parametrize(
    "args,text",
    [
        (["nowhere.bvt"], "No such file"),
        ([], "no model"),
        (["{m}", "--frobnicate"], "unknown option"),
        (["{m}", "--threads", "0"], "--threads needs a number"),
        (["{m}", "--threads"], "--threads needs a number"),
        (["{m}", "--runs", "2x"], "--runs needs a number"),
        (["{m}", "--isa", "sse"], "unknown isa"),
        (["{m}", "--raw", "{odd}"], "are not a number of inputs"),
        (["{m}", "--npy", "{m}"], "not a .npy file"),
        (["{m}", "{m}"], "not a PNG"),
        (["{m}", "--out"], "needs a value"),
    ],
)
def test_bad_usage_is_2_and_one_line(run: Runner, path: Path, args: list[str], text: str) -> None:
    odd = path.with_name("odd.f32")
    odd.write_bytes(bytes(49))
    done = run(*(a.format(m=path, odd=odd) for a in args), code=2)
    assert text in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_npy_of_another_type(run: Runner, path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.zeros((3, 4)))
    assert "float32" in run(path, "--npy", tmp_path / "d.npy", code=2).stderr
    np.save(tmp_path / "f.npy", np.asfortranarray(np.zeros((3, 4), np.float32)))
    assert "C order" in run(path, "--npy", tmp_path / "f.npy", code=2).stderr


@pytest.mark.parametrize("suffix", ["png", "bmp", "pgm"])
def test_image_formats(run: Runner, path: Path, tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    run(path, tmp_path / f"a.{suffix}", "--out", tmp_path / "y.f32")
    x = pixels.astype(np.float32) / np.float32(255)
    want = (((x[:, 0] + x[:, 1]) + x[:, 2]) + x[:, 3]) * np.float32(0.25)
    assert np.array_equal(np.fromfile(tmp_path / "y.f32", np.float32), want)


def test_damaged_image(run: Runner, path: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (30, 40), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    done = run(path, tmp_path / "cut.png", code=2)
    assert "the image file is damaged or cut short (" in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_fifos_are_refused(run: Runner, path: Path, tmp_path: Path) -> None:
    """Nobody writes to this one: opening it must not wait."""
    os.mkfifo(tmp_path / "fifo")
    for args in ([tmp_path / "fifo"], [path, tmp_path / "fifo"]):
        assert "not a regular file" in run(*args, code=2).stderr


def test_top_0_and_nan_outputs(run: Runner, path: Path, tmp_path: Path) -> None:
    image, raw = tmp_path / "a.png", tmp_path / "nan.f32"
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(image)
    assert run(path, image, "--top", "0").stdout == f"{image}\n"
    assert json.loads(run(path, image, "--top", "0", "--json").stdout)["predictions"] == [{"image": str(image), "top": []}]
    np.full(12, np.nan, np.float32).tofile(raw)
    assert run(path, "--raw", raw).stdout == f"{raw}: every output is NaN\n"


def test_jpeg(run: Runner, path: Path, tmp_path: Path) -> None:
    """Decoders of JPEG differ by rounding, so only nearly equal."""
    Image.fromarray(np.full((3, 4), 128, np.uint8)).save(tmp_path / "a.jpg")
    run(path, tmp_path / "a.jpg", "--out", tmp_path / "y.f32")
    assert np.allclose(np.fromfile(tmp_path / "y.f32", np.float32), 128 / 255, atol=2 / 255)


def test_header_is_fresh() -> None:
    assert (ROOT / "src" / "bvt_format.h").read_text() == spec.header()


def test_sources_are_complete() -> None:
    """Every C file is in sources.txt, once for a machine, and the other way round."""
    listed = [line.split()[:2] for line in (ROOT / "sources.txt").read_text().splitlines() if line and line[0] not in "#@"]
    files = {str(f.relative_to(ROOT)) for folder in ("src", "tools") for f in (ROOT / folder).rglob("*.c")}
    assert {line[0] for line in listed} == files
    assert len({tuple(line) for line in listed}) == len(listed)
