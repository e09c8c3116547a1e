from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bvtdeploy.artifact.inspect import inspect
from bvtdeploy.artifact.reader import read
from bvtdeploy.errors import UserError
from bvtdeploy.host import Session, isas, read_image


@pytest.fixture(scope="module")
def inputs(artifact: Path) -> np.ndarray:
    session = Session(artifact)
    return np.random.default_rng(0).standard_normal((4, *session.input_shape), dtype=np.float32)


def test_golden_outputs_come_out_with_the_same_bits(artifact: Path) -> None:
    for isa in isas():
        for threads in (1, 3):
            session = Session(artifact, threads, isa)
            assert (session.isa, session.threads) == (isa, threads)
            assert session.golden
            for given, expected in session.golden:
                assert session.run(given).tobytes() == expected.tobytes()


def test_what_the_artifact_says_is_what_the_compilers_reader_reads(artifact: Path) -> None:
    session, facts, parsed = Session(artifact), inspect(artifact), read(artifact)
    assert [(op.name, op.kind, op.module, op.group) for op in session.ops] == [
        (op["name"], op["kind"], op["module"], op["group"]) for op in facts["ops"]
    ]
    assert [[session.values[o].rows for o in op.outputs] for op in session.ops] == [
        [s[0] for s in op["out_shape"]] for op in facts["ops"]
    ]
    assert session.labels == parsed.labels
    assert (session.macs_binary, session.macs_float) == (facts["macs"]["binary"], facts["macs"]["float"])
    assert parsed.preprocess is not None
    told = session.preprocessing
    assert told is not None
    assert (told.width, told.height, told.channels) == (
        parsed.preprocess.width,
        parsed.preprocess.height,
        parsed.preprocess.channels,
    )
    assert told.mean == pytest.approx(parsed.preprocess.mean)
    assert told.filter == parsed.preprocess.filter.lower()


def test_bytes_a_path_and_a_batch_give_the_same(artifact: Path, inputs: np.ndarray) -> None:
    by_path = Session(artifact).run(inputs)
    assert by_path.shape[0] == len(inputs)
    assert Session(artifact.read_bytes()).run(inputs).tobytes() == by_path.tobytes()
    assert Session(str(artifact)).run(inputs[0].reshape(-1)).tobytes() == by_path[0].tobytes()
    assert Session(artifact).run(inputs.astype(np.float64)[::-1]).tobytes() == by_path[::-1].tobytes()


def test_two_python_threads_may_share_a_session(artifact: Path, inputs: np.ndarray) -> None:
    session = Session(artifact, 2)
    expected = [session.run(one).tobytes() for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: session.run(inputs[i % 4]).tobytes(), range(64)))
    assert found == [expected[i % 4] for i in range(64)]


def test_captured_outputs_have_the_checksums_that_the_runtime_counts(artifact: Path, inputs: np.ndarray) -> None:
    watched, counted = Session(artifact, capture=True), Session(artifact, op_crc=True)
    assert watched.run(inputs[0]).tobytes() == counted.run(inputs[0]).tobytes()
    crcs = counted.crcs()
    seen = 0
    for op in watched.ops:
        outputs = watched.op_outputs[op.name]
        assert len(outputs) == len(op.outputs)
        for index, array in zip(op.outputs, outputs, strict=True):
            value = watched.values[index]
            assert array.shape == (value.rows, value.cols)
            lines = array.T if value.layout == "cols" else array
            logical = np.packbits(lines, axis=1, bitorder="little") if value.dtype == "bits" else np.ascontiguousarray(lines)
            assert zlib.crc32(logical.tobytes()) in crcs[value.name]
            seen += 1
    assert seen == sum(map(len, crcs.values()))


def test_times_of_ops_are_counted_and_reset(artifact: Path, inputs: np.ndarray) -> None:
    session = Session(artifact, profile=True)
    session.run(inputs)
    assert sum(session.op_times.values()) > 0
    session.reset_times()
    assert sum(session.op_times.values()) == 0


def test_wrong_inputs_are_refused(artifact: Path) -> None:
    session = Session(artifact)
    for wrong in (np.zeros(3), np.zeros((2, 3)), np.zeros((0, *session.input_shape)), np.float32(1)):
        with pytest.raises(UserError, match="the model takes"):
            session.run(wrong)
    with pytest.raises(UserError, match="uint8"):
        session.preprocess(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(UserError):
        session.preprocess(np.zeros((4, 4, 2), np.uint8))
    for threads, isa in ((0, "auto"), (65, "auto"), (1, "mmx")):
        with pytest.raises(UserError):
            Session(artifact, threads, isa)
    for options in ({"op_crc": True}, {"capture": True}):
        with pytest.raises(UserError):
            Session(artifact, 2, **options)


def test_a_damaged_artifact_is_refused(artifact: Path, tmp_path: Path) -> None:
    whole = artifact.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 4
    for content in (b"", whole[:63], whole[:-64], bytes(flipped), b"\x89BVT\n\x1a\n" + whole[8:]):
        with pytest.raises(UserError):
            Session(content)
        (tmp_path / "x.bvt").write_bytes(content)
        with pytest.raises(UserError):
            Session(tmp_path / "x.bvt")
    with pytest.raises(UserError):
        Session(tmp_path)


def test_png_pixels_are_pillows(images: list[Path], tmp_path: Path) -> None:
    for path in images:
        with Image.open(path) as image:
            assert np.array_equal(read_image(path)[:, :, 0], np.asarray(image))
    random = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 3), ("LA", 1)):
        planes = random[:, :, 0] if mode == "L" else random[:, :, :2] if mode == "LA" else random[:, :, : len(mode)]
        Image.fromarray(planes, mode).save(tmp_path / "x.png")
        assert np.array_equal(read_image(tmp_path / "x.png"), random[:, :, :channels])


def test_formats_that_only_pillow_reads(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.tiff")
    assert np.array_equal(read_image(tmp_path / "x.tiff"), pixels)


def test_files_that_are_no_images_are_refused(images: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(UserError, match="no such image"):
        read_image(path)
    for content in (b"", b"hello", images[0].read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not an image|damaged"):
            read_image(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_image(tmp_path)
