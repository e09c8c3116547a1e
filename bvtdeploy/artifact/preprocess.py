"""Image preprocessing: how it is described, and its numpy/Pillow twin of `runtime_arm/src/image.c`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.writer import Preprocess
from bvtdeploy.errors import UserError

# torchvision's evaluation transform of the ImageNet models: the published binary ViTs use it.
IMAGENET: Final = {
    "resize": "short_crop",
    "short_ratio": 256 / 224,
    "filter": "bicubic",
    "colour": "RGB",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
KEYS: Final = ("width", "height", "channels", "colour", "resize", "resize_short", "filter", "mean", "std")
MAX_SHORT: Final = 32768
_RESAMPLE: Final = {
    "BILINEAR": Image.Resampling.BILINEAR,
    "BICUBIC": Image.Resampling.BICUBIC,
    "NEAREST": Image.Resampling.NEAREST,
}


def load(choice: str | Mapping[str, Any] | None, input_shape: tuple[int, int, int]) -> Preprocess | None:
    """The preprocessing that `--preprocess` names, for a network input of (channels, height, width).

    Args:
        choice: "imagenet", the path of a JSON or TOML file with `KEYS`, such a mapping, or None.

    Raises:
        UserError: unknown keys or values, or a size that is not the network's.
    """
    if choice is None:
        return None
    channels, height, width = input_shape
    if isinstance(choice, str):
        given, where = (_imagenet(input_shape), "imagenet") if choice == "imagenet" else (_file(Path(choice)), choice)
    else:
        given, where = dict(choice), "the checkpoint's preprocess entry"
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise UserError(f"unknown preprocessing keys: {', '.join(unknown)}", where=where, fix=f"known keys: {', '.join(KEYS)}")
    given = {"width": width, "height": height, "channels": channels, **given}
    if (given["channels"], given["height"], given["width"]) != input_shape:
        raise UserError(
            f"the preprocessing makes {given['channels']}x{given['height']}x{given['width']} images, "
            f"the network takes {channels}x{height}x{width}",
            where=where,
            fix="leave width, height and channels out: they are the network's",
        )
    if channels not in (1, 3):
        raise UserError(f"images of {channels} channels are not supported", where=where, fix="use 1 or 3 channels, or raw input")
    colour = str(given.get("colour", "GRAY" if channels == 1 else "RGB")).upper()
    resize, filter_name = str(given.get("resize", "stretch")).upper(), str(given.get("filter", "bilinear")).upper()
    if (colour == "GRAY") != (channels == 1):
        raise UserError(f"colour {colour.lower()} for {channels} channel(s)", where=where, fix="gray for 1, rgb or bgr for 3")
    choices = (("colour", colour, spec.COLOURS), ("resize", resize, spec.RESIZES), ("filter", filter_name, spec.FILTERS))
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"unknown {name} {value!r}", where=where, fix=f"one of: {', '.join(known).lower()}")
    mean, std = (_numbers(given.get(name, default), channels, name, where) for name, default in (("mean", 0.0), ("std", 1.0)))
    if any(np.float32(s) == 0 for s in std):
        raise UserError("a standard deviation of 0 in the preprocessing", where=where, fix="give the divisor of each channel")
    short = given.get("resize_short", 0) if resize == "SHORT_CROP" else 0
    if resize == "SHORT_CROP" and not (isinstance(short, int) and max(width, height) <= short <= MAX_SHORT):
        raise UserError(
            f"resize_short is {short}: it must be a whole number from the crop's {max(width, height)} to {MAX_SHORT}",
            where=where,
            fix="give resize_short",
        )
    return Preprocess(width, height, channels, colour, resize, short, filter_name, mean, std)


def _imagenet(input_shape: tuple[int, int, int]) -> dict[str, Any]:
    given = dict(IMAGENET)
    given["resize_short"] = round(max(input_shape[1:]) * float(str(given.pop("short_ratio"))))
    return given


def _file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        given = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise UserError(f"cannot read the preprocessing {path}", why=error.strerror or "", fix="give imagenet or a file") from error
    except (json.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = f"keys: {', '.join(KEYS)}"
        raise UserError(f"{path} is neither JSON nor TOML", where=str(path), why=str(error), fix=fix) from error
    if not isinstance(given, dict):
        raise UserError(f"{path} does not hold keys and values", where=str(path), fix=f"keys: {', '.join(KEYS)}")
    return given


def _narrow(v: float) -> np.float32:
    with np.errstate(over="ignore"):
        return np.float64(v).astype(np.float32)


def _numbers(value: Any, channels: int, name: str, where: str) -> tuple[float, ...]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * channels
    if len(values) != channels or not all(isinstance(v, (int, float)) and np.isfinite(_narrow(v)) for v in values):
        raise UserError(f"{name} must be {channels} number(s)", where=where, fix="one per channel, of pixel/255")
    return tuple(float(v) for v in values)


def apply(p: Preprocess, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 [H, W] or [H, W, 1|3] (RGB) -> f32 [channels, height, width], the same bits as `bvt_preprocess`."""
    array = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(array)
    image = image.convert("L" if p.channels == 1 else "RGB")
    w, h = image.size
    if p.resize == "SHORT_CROP":
        short, long = sorted((w, h))
        size = (p.resize_short, int(p.resize_short * long / short))
        target = size if w <= h else size[::-1]
    else:
        target = (p.width, p.height)
    image = _resample(image, target, p.filter)
    if p.resize == "SHORT_CROP":
        left, top = round((target[0] - p.width) / 2.0), round((target[1] - p.height) / 2.0)
        image = image.crop((left, top, left + p.width, top + p.height))
    x: npt.NDArray[np.float32] = np.asarray(image, np.float32).reshape(p.height, p.width, p.channels) / np.float32(255.0)
    if p.colour == "BGR":
        x = x[..., ::-1]
    x = np.divide(x - np.asarray(p.mean, np.float32), np.asarray(p.std, np.float32), dtype=np.float32)
    return np.ascontiguousarray(x.transpose(2, 0, 1))


def _resample(image: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
    """Pillow's resampling, along x, then along y: Pillow 13 chooses the order by itself, and the order shows in the rounding."""
    if name != "NEAREST":
        image = image.resize((size[0], image.height), _RESAMPLE[name])
    return image.resize(size, _RESAMPLE[name])
