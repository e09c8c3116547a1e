"""The plain Vision Transformer of the same shape as an artifact: what a full-precision or int8 runtime would run in its place."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.reader import Artifact


class NoPlainViTError(Exception):
    """Why an artifact has no plain Vision Transformer of its shape."""


@dataclass(frozen=True)
class Shape:
    """A plain Vision Transformer: patches, class tokens, equal blocks of softmax attention and MLP, a linear classifier.

    Attributes:
        channels, height, width: of the image.
        patch: side of a patch in pixels.
        tokens: rows of every block, class tokens included.
        dim, heads, hidden: channels, attention heads, channels inside the MLP.
        depth: blocks.
        classes: outputs.
    """

    channels: int
    height: int
    width: int
    patch: int
    tokens: int
    dim: int
    heads: int
    hidden: int
    depth: int
    classes: int

    @property
    def patches(self) -> int:
        """How many patches the image has."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        block = self.tokens * self.dim * (4 * self.dim + 2 * self.hidden + 2 * self.tokens)
        return self.patches * self.dim * self.channels * self.patch**2 + self.depth * block + self.dim * self.classes

    @property
    def known_as(self) -> str:
        """The published model with these blocks ("deit_tiny"), up to class tokens, or ""."""
        blocks = {name: (s.height, s.width, s.patch, s.dim, s.heads, s.hidden, s.depth, s.classes) for name, s in KNOWN.items()}
        own = (self.height, self.width, self.patch, self.dim, self.heads, self.hidden, self.depth, self.classes)
        return next((name for name, its in blocks.items() if its == own), "")

    def as_dict(self) -> dict[str, Any]:
        """The shape as JSON."""
        return {**asdict(self), "known_as": self.known_as}


def _deit(dim: int) -> Shape:
    return Shape(3, 224, 224, 16, 197, dim, dim // 64, 4 * dim, 12, 1000)


KNOWN: Final = {"deit_tiny": _deit(192), "deit_small": _deit(384), "deit_base": _deit(768)}


def shape_of(artifact: Artifact) -> Shape:
    """The shape of an artifact's network.

    Raises NoPlainViTError where its blocks differ from each other, attend in windows, or see other than whole patches.
    """
    kinds = {number: kind for kind, number in spec.OPCODES.items()}
    ops = [(kinds[op["opcode"]], op, [artifact.values[i] for i in op["outputs"] if i != spec.NONE]) for op in artifact.ops]
    attentions = [(op, out[0]) for kind, op, out in ops if kind == "attention"]
    if not attentions:
        raise NoPlainViTError("it has no attention")
    blocks = {(out["rows"], out["cols"], op["attr"][0], op["attr"][1]) for op, out in attentions}
    if len(blocks) > 1:
        raise NoPlainViTError("its blocks have different shapes: it is a pyramid")
    tokens, dim, heads, windows = blocks.pop()
    if windows != 1:
        raise NoPlainViTError("its attention is within windows")
    channels, height, width = (int(artifact.meta[f"input.{n}"]) for n in ("channels", "height", "width"))
    cut = [out[0] for kind, _, out in ops if kind == "patches"]
    patch = math.isqrt(cut[0]["cols"] // channels) if len(cut) == 1 else 0
    if not patch or patch * patch * channels != cut[0]["cols"] or cut[0]["rows"] * patch * patch != height * width:
        raise NoPlainViTError("its stem does not cut the image into square patches")
    first = next(i for i, (kind, _, _) in enumerate(ops) if kind == "attention")
    # What comes back to the tokens' width from the MLP's has the widest operand of all products of that output.
    hidden = max(
        (
            (op["macs_binary"] + op["macs_float"]) // (out[0]["rows"] * out[0]["cols"])
            for kind, op, out in ops[first + 1 :]
            if kind in ("bgemm", "mixed_gemm", "dense") and (out[0]["rows"], out[0]["cols"]) == (tokens, dim)
        ),
        default=4 * dim,
    )
    classes = artifact.output["rows"] * artifact.output["cols"]
    return Shape(channels, height, width, patch, tokens, dim, heads, hidden, len(attentions), classes)
