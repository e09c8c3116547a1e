"""Preprocessing: how it is described, and what it does, against torchvision's transforms written out with Pillow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bvtdeploy.artifact.preprocess import apply, load
from bvtdeploy.artifact.writer import Preprocess
from bvtdeploy.errors import UserError

RGB = (3, 24, 32)


def test_nothing_is_known() -> None:
    assert load(None, RGB) is None


def test_defaults() -> None:
    assert load({}, RGB) == Preprocess(32, 24, 3, "RGB", "STRETCH", 0, "BILINEAR", (0.0,) * 3, (1.0,) * 3)
    assert load({}, (1, 8, 8)) == Preprocess(8, 8, 1, "GRAY", "STRETCH", 0, "BILINEAR", (0.0,), (1.0,))


def test_imagenet() -> None:
    p = load("imagenet", (3, 224, 224))
    assert p is not None and (p.resize, p.resize_short, p.filter, p.colour) == ("SHORT_CROP", 256, "BICUBIC", "RGB")
    assert p.mean == (0.485, 0.456, 0.406) and p.std == (0.229, 0.224, 0.225)
    small = load("imagenet", RGB)
    assert small is not None and small.resize_short == 37


FULL = {"colour": "bgr", "resize": "short_crop", "resize_short": 40, "filter": "nearest", "mean": [0.1, 0.2, 0.3], "std": 0.5}


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_files(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"p{suffix}"
    toml = "\n".join(f"{k} = {json.dumps(v)}" for k, v in FULL.items())
    file.write_text(json.dumps(FULL) if suffix == ".json" else toml)
    assert load(str(file), RGB) == Preprocess(32, 24, 3, "BGR", "SHORT_CROP", 40, "NEAREST", (0.1, 0.2, 0.3), (0.5,) * 3)


@pytest.mark.parametrize(
    ("given_", "shape", "why"),
    [
        ({"means": 0}, RGB, "unknown preprocessing keys: means"),
        ({"width": 24, "height": 32}, RGB, "makes 3x32x24 images, the network takes 3x24x32"),
        ({"width": "32"}, RGB, None),
        ({"channels": 1}, RGB, "makes 1x24x32"),
        ({}, (4, 8, 8), "4 channels"),
        ({"colour": "gray"}, RGB, "colour gray for 3"),
        ({"colour": "rgb"}, (1, 8, 8), "colour rgb for 1"),
        ({"colour": "cmyk"}, RGB, "unknown colour"),
        ({"resize": "pad"}, RGB, "unknown resize"),
        ({"filter": "lanczos"}, RGB, "unknown filter"),
        ({"resize": "short_crop"}, RGB, "resize_short is 0"),
        ({"resize": "short_crop", "resize_short": 31}, RGB, "from the crop's 32"),
        ({"resize": "short_crop", "resize_short": 1 << 20}, RGB, "to 32768"),
        ({"resize": "short_crop", "resize_short": "40"}, RGB, "whole number"),
        ({"resize": "short_crop", "resize_short": None}, RGB, "whole number"),
        ({"mean": [0, 0]}, RGB, "mean must be 3"),
        ({"mean": "half"}, RGB, "mean must be 3"),
        ({"mean": None}, RGB, "mean must be 3"),
        ({"std": [1, 1, "x"]}, RGB, "std must be 3"),
        ({"std": [1, 0, 1]}, RGB, "standard deviation of 0"),
        ({"std": float("nan")}, RGB, "std must be 3"),
        ({"mean": float("inf")}, RGB, "mean must be 3"),
        ({"std": 1e-60}, RGB, "standard deviation of 0"),
    ],
)
def test_refused(given_: dict[str, Any], shape: tuple[int, int, int], why: str | None) -> None:
    with pytest.raises(UserError, match=why) as caught:
        load(given_, shape)
    assert caught.value.where == "the checkpoint's preprocess entry" and caught.value.fix


@pytest.mark.parametrize(
    ("name", "text"), [("p.json", "{"), ("p.toml", "= 1"), ("p.json", "[1]"), ("p.toml", "\0"), ("p.json", b"\xff\xfe")]
)
def test_files_that_are_not_descriptions(tmp_path: Path, name: str, text: str | bytes) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError):
        load(str(tmp_path / name), RGB)
    with pytest.raises(UserError, match="cannot read"):
        load(str(tmp_path / "absent"), RGB)


def test_a_stretched_image_has_no_short_side() -> None:
    p = load({"resize": "stretch", "resize_short": 50}, RGB)
    assert p is not None and p.resize_short == 0, "the runtime refuses the file otherwise"


# -- applied ----------------------------------------------------------------------------------------------------------


def torchvision_like(
    pixels: np.ndarray, size: int | tuple[int, int], crop: tuple[int, int] | None, resample: Any, mean: Any, std: Any
) -> np.ndarray:
    """Resize(size) [CenterCrop(crop)] ToTensor Normalize(mean, std), as torchvision does them on PIL images."""
    image = Image.fromarray(pixels)
    w, h = image.size
    if isinstance(size, int):
        new = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
    else:
        new = (size[1], size[0])
    image = image.resize(new, resample)
    if crop is not None:
        top, left = int(round((image.size[1] - crop[0]) / 2.0)), int(round((image.size[0] - crop[1]) / 2.0))
        image = image.crop((left, top, left + crop[1], top + crop[0]))
    x = np.asarray(image, np.float32)
    x = (x[None] if x.ndim == 2 else x.transpose(2, 0, 1)) / np.float32(255)
    shape = (-1, 1, 1)
    return np.asarray((x - np.float32(mean).reshape(shape)) / np.float32(std).reshape(shape))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 9))
def test_imagenet_like_torchvision(h: int, w: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)
    p = load("imagenet", RGB)
    assert p is not None
    want = torchvision_like(pixels, 37, (24, 32), Image.Resampling.BICUBIC, MEAN, STD)
    got = apply(p, pixels)
    assert got.shape == RGB and got.dtype == np.float32 and got.tobytes() == want.astype(np.float32).tobytes()


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "nearest"])
def test_stretch(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 50, 3), np.uint8)
    p = load({"filter": name, "mean": MEAN, "std": STD}, RGB)
    assert p is not None
    want = torchvision_like(pixels, (24, 32), None, Image.Resampling[name.upper()], MEAN, STD)
    assert apply(p, pixels).tobytes() == want.astype(np.float32).tobytes()


def test_gray_and_colour() -> None:
    rng = np.random.default_rng(0)
    gray, colour = rng.integers(0, 256, (8, 8), np.uint8), rng.integers(0, 256, (8, 8, 3), np.uint8)
    one, three = load({}, (1, 8, 8)), load({}, (3, 8, 8))
    assert one is not None and three is not None
    assert np.array_equal(apply(one, gray), gray[None] / np.float32(255))
    assert np.array_equal(apply(one, gray[..., None]), apply(one, gray))
    assert np.array_equal(apply(three, gray), np.repeat(gray[None] / np.float32(255), 3, 0))
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    assert np.array_equal(apply(one, colour), luma[None] / np.float32(255))
    bgr = load({"colour": "bgr", "mean": [0.1, 0.2, 0.3]}, (3, 8, 8))
    assert bgr is not None
    want = colour.transpose(2, 0, 1)[::-1] / np.float32(255) - np.float32([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    assert np.array_equal(apply(bgr, colour), want)
