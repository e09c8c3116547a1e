"""The images that verify runs: from files, or random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bvtdeploy.artifact import preprocess as preprocessing
from bvtdeploy.artifact.reader import Artifact
from bvtdeploy.errors import UserError

F32 = npt.NDArray[np.float32]
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm")


@dataclass
class ImageSet:
    """Network inputs f32[n, C, H, W], labels where known, and where they came from."""

    inputs: F32
    labels: npt.NDArray[np.int64] | None
    origin: str


def load_images(artifact: Artifact, source: Path | None, random: int | None, limit: int | None) -> ImageSet:
    """Images from an `.npz` (`images` uint8 [N,H,W] or [N,H,W,C], `labels`), a folder or a file, or random inputs.

    Raises UserError when there are none, or when the artifact says nothing about preprocessing.
    """
    c, h, w = (int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width"))
    if source is None:
        n = random or 16
        x = np.random.Generator(np.random.PCG64(0)).standard_normal((n, c, h, w), np.float32)
        return ImageSet(x, None, f"{n} random inputs")
    pixels, labels = _read_npz(source) if source.suffix == ".npz" else (_read_files(source), None)
    if limit is not None:
        pixels, labels = pixels[:limit], None if labels is None else labels[:limit]
    classes = artifact.output["rows"] * artifact.output["cols"]
    if labels is not None and (wrong := (labels < 0) | (labels >= classes)).any():
        first = int(wrong.argmax())
        raise UserError(
            f"labels from {labels.min()} to {labels.max()} for {classes} classes",
            where=str(source),
            why=f"the label of image {first} is {labels[first]}",
            fix=f"give numbers of classes, 0 to {classes - 1}",
        )
    if not pixels:
        raise UserError("there are no images", where=str(source), fix=f"give an .npz, or files ending in {', '.join(SUFFIXES)}")
    if artifact.preprocess is None:
        raise UserError(
            "the artifact does not say how an image becomes its input",
            where=artifact.path,
            fix="compile with --preprocess imagenet|FILE, or verify with --random N",
        )
    process = artifact.preprocess
    return ImageSet(np.stack([preprocessing.apply(process, p) for p in pixels]), labels, str(source))


def _read_npz(path: Path) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int64] | None]:
    try:
        with np.load(path, allow_pickle=False) as data:
            images = data["images"]
            labels = data["labels"].astype(np.int64) if "labels" in data else None
    except FileNotFoundError as error:
        raise _no_file(path, "no such file") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            "the file is not a set of images",
            where=str(path),
            why=str(error.args[0]) if isinstance(error, KeyError) else str(error),
            fix="an .npz needs `images` (uint8 N,H,W[,C]) and may have `labels`",
        ) from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise UserError(
            f"images are {images.dtype} {list(images.shape)}", where=str(path), fix="give uint8 [N,H,W], [N,H,W,1] or [N,H,W,3]"
        )
    if labels is not None and labels.shape != images.shape[:1]:
        raise UserError(
            f"labels of shape {list(labels.shape)} for {images.shape[0]} images", where=str(path), fix="give one label an image"
        )
    return list(images), labels


def _no_file(path: Path, why: str) -> UserError:
    return UserError("the images cannot be read", where=str(path), why=why, fix="check the path of --images")


def _read_files(path: Path) -> list[npt.NDArray[np.uint8]]:
    from bvtdeploy.host import read_image

    if not path.exists():
        raise _no_file(path, "no such file or folder")
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    return [read_image(file) for file in files]
