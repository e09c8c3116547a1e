"""`bvt_preprocess` against Pillow and torchvision's arithmetic: equal bits."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bvtdeploy.artifact import spec

from .bvtfile import File, record

FILTERS = {"BILINEAR": Image.Resampling.BILINEAR, "BICUBIC": Image.Resampling.BICUBIC, "NEAREST": Image.Resampling.NEAREST}


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("text", ctypes.c_char * 256)]


@pytest.fixture(scope="module")
def bvt(library: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(library))
    lib.bvt_preprocess.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_uint32] * 3, ctypes.c_void_p, ctypes.POINTER(Error)]
    lib.bvt_open_memory.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(Error)]
    lib.bvt_close.argtypes = [ctypes.c_void_p]
    return lib


def preprocess_file(
    width: int, height: int, colour: str, resize: str, short: int, filter: str, mean: list[float], std: list[float]
) -> bytes:
    """A model that copies its input, with a PREPROCESS record."""
    channels = 1 if colour == "GRAY" else 3
    f = File()
    f.input = f.value("F32", "ROWS", channels * height, width, "INPUT", 4 * width, bytes=4 * width * channels * height)
    output = f.value("F32", "ROWS", channels * height, width, "OUTPUT", 4 * width, bytes=4 * width * channels * height)
    f.op("channel_pool", {0: f.input}, {0: output}, [1])
    f.sections["PREPROCESS"] = (
        record(
            spec.PREPROCESS,
            width=width,
            height=height,
            channels=channels,
            colour=spec.COLOURS[colour],
            resize=spec.RESIZES[resize],
            resize_short=short,
            filter=spec.FILTERS[filter],
            mean=[*mean, *[0] * (4 - len(mean))],
            std=[*std, *[0] * (4 - len(std))],
        ),
        1,
    )
    return f.finish()


def resize_passes(image: Image.Image, size: tuple[int, int], filter: Image.Resampling) -> Image.Image:
    """`image.resize` with the horizontal pass first, as in every Pillow before 13; since then it picks the order by the sizes."""
    if filter == Image.Resampling.NEAREST:
        return image.resize(size, filter)
    return image.resize((size[0], image.height), filter).resize(size, filter)


def with_pillow(
    image: Image.Image,
    width: int,
    height: int,
    colour: str,
    resize: str,
    short: int,
    filter: str,
    mean: list[float],
    std: list[float],
) -> np.ndarray:
    """The same by Pillow, with torchvision's Resize(short) and CenterCrop where `resize` is SHORT_CROP."""
    image = image.convert("L" if colour == "GRAY" else "RGB")
    if resize == "STRETCH":
        image = resize_passes(image, (width, height), FILTERS[filter])
    else:
        w, h = image.size
        small, large = (w, h) if w <= h else (h, w)
        new_small, new_large = short, int(short * large / small)
        image = resize_passes(image, (new_small, new_large) if w <= h else (new_large, new_small), FILTERS[filter])
        top, left = int(round((image.height - height) / 2.0)), int(round((image.width - width) / 2.0))
        image = image.crop((left, top, left + width, top + height))
    x = np.asarray(image, np.uint8).reshape(height, width, -1)
    if colour == "BGR":
        x = x[..., ::-1]
    scaled = x.astype(np.float32) / np.float32(255)
    return ((scaled - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(2, 0, 1)


def ours(bvt: ctypes.CDLL, model: bytes, pixels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    handle, err = ctypes.c_void_p(), Error()
    assert bvt.bvt_open_memory(model, len(model), ctypes.byref(handle), ctypes.byref(err)) == 0, err.text
    x = np.empty(shape, np.float32)
    pixels = np.ascontiguousarray(pixels)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    code = bvt.bvt_preprocess(
        handle, pixels.ctypes.data, pixels.shape[1], pixels.shape[0], channels, x.ctypes.data, ctypes.byref(err)
    )
    bvt.bvt_close(handle)
    assert code == 0, err.text
    return x


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("resize", ["STRETCH", "SHORT_CROP"])
def test_equals_pillow(bvt: ctypes.CDLL, resize: str, filter: str) -> None:
    rng = np.random.default_rng([len(resize), len(filter)])
    for _ in range(150):
        width, height = (int(n) for n in rng.integers(1, 60, 2))
        colour = str(rng.choice(list(spec.COLOURS)))
        short = int(rng.integers(max(width, height), max(width, height) + 20)) if resize == "SHORT_CROP" else 0
        n = 1 if colour == "GRAY" else 3
        mean, std = [float(v) for v in rng.random(n)], [float(v) for v in rng.random(n) + 0.1]
        h, w = (int(v) for v in (rng.integers(1, 150, 2) if rng.random() < 0.8 else (height, width)))
        channels = int(rng.choice([1, 3, 4]))
        pixels = rng.integers(0, 256, (h, w, channels) if channels > 1 else (h, w), dtype=np.uint8)
        if rng.random() < 0.3:  # hard edges: over- and undershoot of bicubic
            pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
        options = (width, height, colour, resize, short, filter, mean, std)
        want = with_pillow(Image.fromarray(pixels[..., :3] if channels == 4 else pixels), *options)
        got = ours(bvt, preprocess_file(*options), pixels, want.shape)
        assert np.array_equal(got.view(np.uint32), want.astype(np.float32).view(np.uint32)), f"{w}x{h}x{channels} by {options}"


@pytest.mark.parametrize("size", [(28, 28), (640, 480), (481, 640), (1000, 3)])
def test_usual_sizes(bvt: ctypes.CDLL, size: tuple[int, int]) -> None:
    """28 -> 32 is how the example's digits are made; 224 by bicubic with a crop is how ImageNet is evaluated."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    usual: list[tuple[int, int, str, str, int, str, list[float], list[float]]] = [
        (32, 32, "GRAY", "STRETCH", 0, "BILINEAR", [0.1307], [0.3081]),
        (224, 224, "RGB", "SHORT_CROP", 256, "BICUBIC", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    for options in usual:
        want = with_pillow(Image.fromarray(pixels), *options)
        got = ours(bvt, preprocess_file(*options), pixels, want.shape)
        assert np.array_equal(got.view(np.uint32), want.astype(np.float32).view(np.uint32)), options
