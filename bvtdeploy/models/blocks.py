"""What the pyramids (BinaryViT of Le & Li, BHViT) share: the frame and the blocks, all of tokens ``[batch, tokens, channels]``.

Names of parameters are those of the published checkpoints, which both families took from one code base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvtdeploy.models.inference import StagedConfig, count_keys, shape_of
from bvtdeploy.models.layers import BinaryConv2x2, BinaryLinear, LayerScale, RPReLU, binary_sign, make_norm, to_grid, to_tokens


@dataclass(frozen=True)
class PyramidConfig(StagedConfig):
    """Shape of a pyramid. The defaults are the published small models.

    Attributes:
        intermediate: channels of a stage's MLP.
        some_fp: the convolutions between stages are in full precision.
        norm: of every branch, "batch" or "layer".
    """

    intermediate: tuple[int, ...] = (512, 1024, 1024, 2048)
    some_fp: bool = False
    norm: str = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("batch", "layer"):
            raise ValueError(f"norm is 'batch' or 'layer', got {self.norm!r}")
        for stage, (dim, hidden) in enumerate(zip(self.dims, self.intermediate, strict=True)):
            if hidden % dim:
                raise ValueError(f"stage {stage}: intermediate {hidden} is no multiple of {dim}")
            if stage and dim % self.dims[stage - 1]:
                raise ValueError(f"stage {stage}: {dim} channels are no multiple of the {self.dims[stage - 1]} before")


class QKVAttention(nn.Module):
    """Binary attention: queries, keys and values each have a shortcut of their own, and their signs are multiplied.

    A family adds the quantiser of the probabilities, and what happens before `project` and after `attend`.
    """

    def __init__(self, dim: int, heads: int, norm: str, binary: bool = True) -> None:
        super().__init__()
        self.heads, self.binary = heads, binary
        self.moveq = nn.Parameter(torch.zeros(dim))
        self.movek = nn.Parameter(torch.zeros(dim))
        self.movev = nn.Parameter(torch.zeros(dim))
        self.moveq2 = nn.Parameter(torch.zeros(dim))
        self.movek2 = nn.Parameter(torch.zeros(dim))
        self.movev2 = nn.Parameter(torch.zeros(dim))
        self.query = BinaryLinear(dim, dim, binary)
        self.key = BinaryLinear(dim, dim, binary)
        self.value = BinaryLinear(dim, dim, binary)
        self.normq = make_norm(norm, dim)
        self.normk = make_norm(norm, dim)
        self.normv = make_norm(norm, dim)
        self.rpreluq = RPReLU(dim)
        self.rpreluk = RPReLU(dim)
        self.rpreluv = RPReLU(dim)
        self.norm_context = make_norm(norm, dim)
        self.rprelu_context = RPReLU(dim)

    def quantised(self, p: Tensor) -> Tensor:
        """The codes of probabilities [B, heads, queries, keys], times their scale."""
        raise NotImplementedError

    def project(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of x; keys and values of g."""
        q = self.rpreluq(self.normq(self.query(x, self.moveq)) + x)
        k = self.rpreluk(self.normk(self.key(g, self.movek)) + g)
        v = self.rpreluv(self.normv(self.value(g, self.movev)) + g)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The normalised context, [B, queries, C]."""
        query, key, value = self._codes(q, self.moveq2), self._codes(k, self.movek2), self._codes(v, self.movev2)
        scores = query @ key.transpose(-1, -2)
        p = self.quantised(torch.softmax(scores / float(query.shape[-1]) ** 0.5, dim=-1))
        context: Tensor = self.norm_context((p @ value).transpose(1, 2).flatten(2))
        return context

    def _codes(self, x: Tensor, move: Tensor) -> Tensor:
        """Signs, or values clipped to [-1, 1] in full precision; [B, tokens, C] to [B, heads, tokens, C / heads]."""
        shifted = x + move
        codes = binary_sign(shifted, self.training) if self.binary else shifted.clamp(-1.0, 1.0)
        batch, tokens, channels = codes.shape
        return codes.reshape(batch, tokens, self.heads, channels // self.heads).transpose(1, 2)


class AttentionOutput(nn.Module):
    """Binary linear with a shortcut around it, then layer scale."""

    def __init__(self, dim: int, binary: bool = True, norm: str = "batch", layer_scale: bool = True) -> None:
        super().__init__()
        self.move = nn.Parameter(torch.zeros(dim))
        self.dense = BinaryLinear(dim, dim, binary)
        self.norm = make_norm(norm, dim)
        self.rprelu = RPReLU(dim)
        self.layerscale = LayerScale(dim, 0.1) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layerscale(self.rprelu(self.norm(self.dense(x, self.move)) + x))
        return out


class Attention(nn.Module):
    """A family's attention, then its output linear."""

    def __init__(self, attention: nn.Module, output: AttentionOutput) -> None:
        super().__init__()
        self.attention = attention
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.attention(x))
        return out


class Intermediate(nn.Module):
    """Expansion; the shortcut repeats the input channels as whole blocks."""

    def __init__(self, dim: int, hidden: int, binary: bool = True, norm: str = "batch") -> None:
        super().__init__()
        self.ratio = hidden // dim
        self.move = nn.Parameter(torch.zeros(dim))
        self.dense = BinaryLinear(dim, hidden, binary)
        self.norm = make_norm(norm, hidden)
        self.rprelu = RPReLU(hidden)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = torch.cat([x] * self.ratio, dim=-1)
        out: Tensor = self.rprelu(self.norm(self.dense(x, self.move)) + shortcut)
        return out


class Output(nn.Module):
    """Contraction; the shortcut averages neighbouring channels."""

    def __init__(self, dim: int, hidden: int, binary: bool = True, norm: str = "batch", layer_scale: bool = True) -> None:
        super().__init__()
        self.ratio = hidden // dim
        self.move = nn.Parameter(torch.zeros(hidden))
        self.dense = BinaryLinear(hidden, dim, binary)
        self.norm = make_norm(norm, dim)
        self.rprelu = RPReLU(dim)
        self.layerscale = LayerScale(dim, 0.1) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.avg_pool1d(x, self.ratio)
        out: Tensor = self.layerscale(self.rprelu(self.norm(self.dense(x, self.move)) + shortcut))
        return out


class Downsample(nn.Module):
    """2x2 patch merging in front of a stage: binary with a shortcut around it, or (``some_fp``) in full precision.

    Args:
        centred: the mean of an output channel's weights is subtracted before their signs.
        binary: False makes the full-precision twin of the binary one.
    """

    def __init__(self, config: PyramidConfig, stage: int, centred: bool, binary: bool = True) -> None:
        super().__init__()
        dim, out = config.dims[stage - 1], config.dims[stage]
        self.side = config.side(stage - 1)
        self.copies = out // dim
        self.some_fp = config.some_fp
        self.norm0 = make_norm(config.norm, dim)
        if not config.some_fp:
            self.move = nn.Parameter(torch.zeros(1, dim, 1, 1))
            self.rprelu = RPReLU(out)
        self.proj = BinaryConv2x2(dim, out, binary and not config.some_fp, centred)
        self.norm = make_norm(config.norm, out)
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.side(stage) ** 2, out))

    def forward(self, x: Tensor) -> Tensor:
        h = to_grid(self.norm0(x), self.side)
        if self.some_fp:
            y = self.norm(to_tokens(self.proj(h)))
        else:
            shortcut = to_tokens(F.avg_pool2d(h, 2))
            y = self.norm(to_tokens(self.proj(h, self.move)))
            y = self.rprelu(y + torch.cat([shortcut] * self.copies, dim=-1))
        out: Tensor = y + self.position_embeddings
        return out


class Encoder(nn.Module):
    """The layers of all stages, and a `Downsample` in front of every stage but the first.

    Args:
        layers: in the order in which they run, in lists by the names that the checkpoint gives them.
        centred, binary: of the `Downsample`.
    """

    def __init__(self, config: PyramidConfig, layers: Mapping[str, list[nn.Module]], centred: bool, binary: bool = True) -> None:
        super().__init__()
        self.depths, self.lists = config.depths, tuple(layers)
        for name, modules in layers.items():
            self.add_module(name, nn.ModuleList(modules))
        for stage in range(1, len(config.dims)):
            self.add_module(f"patch_embed{stage}", Downsample(config, stage, centred, binary))

    def forward(self, x: Tensor) -> Tensor:
        layers = iter([layer for name in self.lists for layer in self.get_submodule(name).children()])
        for stage, depth in enumerate(self.depths):
            if stage:
                x = self.get_submodule(f"patch_embed{stage}")(x)
            for _ in range(depth):
                x = next(layers)(x)
        return x


class Backbone(nn.Module):
    """pixels [B, C, S, S] -> tokens of the last stage, normalised."""

    def __init__(self, config: PyramidConfig, embeddings: nn.Module, encoder: Encoder) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder
        self.layernorm = make_norm(config.norm, config.dims[-1])

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.layernorm(self.encoder(self.embeddings(pixels)))
        return out


class Pyramid(nn.Module):
    """pixels [B, C, S, S] -> logits [B, classes], from the mean of the tokens or (``cls_token``) from the first one."""

    def __init__(self, config: PyramidConfig, embeddings: nn.Module, encoder: Encoder, cls_token: bool = False) -> None:
        super().__init__()
        self.cls_token = cls_token
        self.vit = Backbone(config, embeddings, encoder)
        self.classifier = nn.Linear(config.dims[-1], config.num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.vit(pixels)
        logits: Tensor = self.classifier(tokens[:, 0] if self.cls_token else tokens.mean(dim=1))
        return logits


def infer_pyramid(
    state: Mapping[str, Tensor], stem: str, first: tuple[int, int], widths: Mapping[str, int], branches: tuple[str, str]
) -> dict[str, Any]:
    """What the keys of both families imply.

    Args:
        stem: key of the weight of the patch embedding.
        first: channels and side of the first stage.
        widths: channels of every layer, by the prefix of its keys, in the order in which they run.
        branches: names of the two options that add branches over 3 and over 5 neighbours.
    """
    downsample = "vit.encoder.patch_embed{}."
    stages = 1 + count_keys(state, downsample + "position_embeddings", 1)
    dims = [first[0]] + [shape_of(state, downsample.format(i) + "position_embeddings", 3)[2] for i in range(1, stages)]
    _, channels, patch, _ = shape_of(state, stem, 4)
    return {
        "image_size": first[1] * patch,
        "in_channels": channels,
        "patch_size": patch,
        "dims": dims,
        "depths": [list(widths.values()).count(dim) for dim in dims],
        "intermediate": [shape_of(state, of_stage(widths, dim) + "intermediate.dense.weight", 2)[0] for dim in dims],
        "num_classes": shape_of(state, "classifier.weight", 2)[0],
        **{name: any(k.endswith(f".layerscale_w{n}.alpha") for k in state) for name, n in zip(branches, (3, 5), strict=True)},
        "some_fp": stages > 1 and downsample.format(1) + "move" not in state,
        "norm": "batch" if any(k.endswith(".running_mean") for k in state) else "layer",
    }


def of_stage(widths: Mapping[str, int], dim: int) -> str:
    """The prefix of the first layer of this many channels."""
    found = next((prefix for prefix, width in widths.items() if width == dim), None)
    if found is None:
        raise ValueError(f"there is no layer of {dim} channels")
    return found


def square_side(tokens: int, key: str) -> int:
    """The side of a square grid of this many tokens, which the entry ``key`` has."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"{key} has {tokens} tokens, no square")
    return side
