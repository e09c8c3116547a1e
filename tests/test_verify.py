"""verify: says yes where the answer is yes, and no, with the place, where an artifact or a runtime computes something else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bvtdeploy import verifier
from bvtdeploy.artifact import reader
from bvtdeploy.artifact.writer import Content, to_bytes
from bvtdeploy.compiler import compile_graph, compile_model
from bvtdeploy.errors import UserError
from bvtdeploy.frontend import import_model

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
IMAGES = EXAMPLES / "data" / "fashion_test.npz"


def test_the_shipped_model_holds(checkpoint: Path, artifact: Path) -> None:
    report = verifier.verify_model(checkpoint, artifact, images=IMAGES, limit=16)
    assert report.ok
    assert report.exact
    assert report.top1_agreement == 1.0
    assert report.accuracy is not None
    assert report.accuracy["source"] == report.accuracy["artifact"] >= 0.75
    assert report.residue_max < 1e-6
    assert len(report.flips) == len(import_model(checkpoint).graph.of_kind("sign"))
    assert max(f["rate"] for f in report.flips) < 0.01
    assert all(f["module"] for f in report.flips)
    json.dumps(report.as_dict())


def test_the_emulated_board_is_compared(checkpoint: Path, artifact: Path, emulator: str) -> None:
    from bvtdeploy.device import open_device

    with open_device("qemu:cortex-a72") as device:
        report = verifier.verify_model(checkpoint, artifact, images=IMAGES, limit=8, device=device)
    assert report.exact
    assert report.pairs["reference/qemu:cortex-a72"]
    assert report.pairs["reference/qemu:cortex-a72-portable"]


def _changed(checkpoint: Path, path: Path, kind: str) -> str:
    """An artifact in which one weight bit of the first op of a kind is not the compiled one, but whose golden outputs are the
    original's; returns that op's name."""
    compiled = compile_graph(import_model(checkpoint))
    low = compiled.lowered
    number = next(i for i, op in enumerate(low.ops) if op.kind == kind)
    weight = low.values[low.ops[number].inputs[1]]
    data = bytearray(low.constants)
    data[weight.offset] ^= 0x55
    original = to_bytes(Content(low, {}, []))
    low.constants = bytes(data)
    assert to_bytes(Content(low, {}, [])) != original
    first = reader.read(path)
    content = Content(low, first.meta, first.golden, first.labels, first.preprocess)
    path.write_bytes(to_bytes(content))
    return low.ops[number].name


def test_an_artifact_of_other_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "changed.bvt"
    compile_model(checkpoint, path)
    _changed(checkpoint, path, "bgemm")
    report = verifier.verify_model(checkpoint, path, images=IMAGES, limit=8)
    assert not report.ok
    assert not report.pairs["interpreter/golden"]
    assert report.pairs["interpreter/reference"]


def test_bisect_names_the_first_op(checkpoint: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that computes one op wrongly: the answer is no, and the op is named with its source module."""

    class Wrong:
        def __init__(self) -> None:
            self.name = reader.to_graph(reader.read(artifact)).of_kind("stencil")[1].outputs[0].name

        def __str__(self) -> str:
            return "wrong"

        def run_model(self, path, inputs, options):  # type: ignore[no-untyped-def]
            from types import SimpleNamespace

            from bvtdeploy.host import Session

            outputs = Session(path).run(inputs)
            outputs[0, 0, 0] = np.nextafter(outputs[0, 0, 0], np.float32(np.inf))
            return SimpleNamespace(outputs=outputs)

        def op_crcs(self, path, inputs):  # type: ignore[no-untyped-def]
            from bvtdeploy.host import Session

            session = Session(path, op_crc=True)
            session.run(inputs)
            crcs = session.crcs()
            later = list(crcs)[list(crcs).index(self.name) :]
            return {name: [c ^ 1 for c in crc] if name in later else crc for name, crc in crcs.items()}

    device = Wrong()
    report = verifier.verify_model(checkpoint, artifact, images=IMAGES, limit=4, device=device, bisect=True)  # type: ignore[arg-type]
    assert not report.ok
    assert not report.pairs["reference/wrong"]
    assert report.pairs["interpreter/reference"]
    assert report.first_difference is not None
    assert report.first_difference["name"] == device.name
    assert report.first_difference["module"].startswith("vit.encoder")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ({"pixels": np.zeros((1, 28, 28), np.uint8)}, "why: images is not a file in the archive"),
        ({"images": np.zeros((1, 28, 28), np.float32)}, "float32"),
        ({"images": np.zeros((2, 28, 28), np.uint8), "labels": np.zeros(3)}, "labels of shape [3] for 2 images"),
        ({"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([3, 10])}, "labels from 3 to 10 for 10 classes"),
        ({"images": np.zeros((2, 28, 28), np.uint8), "labels": np.array([-1, 9])}, "labels from -1 to 9 for 10 classes"),
        ({"images": np.zeros((0, 28, 28), np.uint8)}, "no images"),
    ],
)
def test_image_sets_that_are_none(artifact: Path, tmp_path: Path, content: dict[str, np.ndarray] | None, words: str) -> None:
    path = tmp_path / "images.npz"
    if content is not None:
        np.savez(path, allow_pickle=False, **content)
    with pytest.raises(UserError) as caught:
        verifier.load_images(reader.read(artifact), path, None, None)
    assert words in str(caught.value)
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("label", [-1, 10])
def test_only_labels_of_images_that_are_used_count(artifact: Path, tmp_path: Path, label: int) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((3, 28, 28), np.uint8), labels=np.array([3, 9, label]))
    data = verifier.load_images(reader.read(artifact), tmp_path / "images.npz", None, 2)
    assert data.labels is not None and data.labels.tolist() == [3, 9]
    with pytest.raises(UserError) as caught:
        verifier.load_images(reader.read(artifact), tmp_path / "images.npz", None, 3)
    assert caught.value.where == str(tmp_path / "images.npz")
    assert f"the label of image 2 is {label}" in str(caught.value) and "0 to 9" in caught.value.fix


def test_a_folder_of_images(artifact: Path) -> None:
    data = verifier.load_images(reader.read(artifact), EXAMPLES / "data", None, None)
    assert data.inputs.shape[1:] == (1, 32, 32)
    assert len(data.inputs) == len(list((EXAMPLES / "data").glob("*.png")))


def test_a_folder_beside_another_source(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    """The same weights in another file are another source by hash: said, not refused."""
    import torch

    other = tmp_path / "other.pt"
    torch.save(torch.load(checkpoint, weights_only=True), other)
    if other.read_bytes() != checkpoint.read_bytes():
        report = verifier.verify_model(other, artifact, images=EXAMPLES / "data")
        assert report.exact
        assert any("another file" in w for w in report.warnings)
