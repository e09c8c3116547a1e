"""The plain Vision Transformer of an artifact's shape."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bvtdeploy import api
from bvtdeploy.artifact.reader import read
from bvtdeploy.bench.shape import KNOWN, NoPlainViTError, Shape, shape_of
from bvtdeploy.models.plain_vit import plain_vit

NANO = Shape(channels=3, height=32, width=32, patch=8, tokens=18, dim=64, heads=2, hidden=128, depth=2, classes=10)


def test_the_shape_is_read_from_the_artifact(nano: Path) -> None:
    assert shape_of(read(nano)) == NANO
    assert NANO.known_as == ""


@pytest.mark.parametrize(("model", "why"), [("bi_vit_li_swin_nano", "pyramid"), ("binaryvit_le_nano", "pyramid")])
def test_what_is_no_plain_vit(model: str, why: str, tmp_path: Path) -> None:
    api.export_model(model, tmp_path / "m.pt")
    api.compile(tmp_path / "m.pt", tmp_path / "m.bvt")
    with pytest.raises(NoPlainViTError, match=why):
        shape_of(read(tmp_path / "m.bvt"))


def test_a_published_model_is_known_by_its_blocks() -> None:
    distilled = Shape(3, 224, 224, 16, 198, 192, 3, 768, 12, 1000)  # one class token more than DeiT-Tiny
    assert distilled.known_as == "deit_tiny"
    assert KNOWN["deit_tiny"].macs == pytest.approx(1.26e9, rel=0.01)  # as its paper says, and the attention's products


@pytest.mark.parametrize("tokens", [16, 17, 18])
def test_the_twin_has_the_shape(tokens: int) -> None:
    shape = Shape(3, 32, 32, 8, tokens, 64, 2, 128, 2, 10)
    model = plain_vit(**asdict(shape))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    products = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - 640
    assert shape.macs == 16 * 64 * 192 + tokens * products + 2 * 2 * tokens * tokens * 64 + 640
