"""BinaryViT pyramid (Le & Li, CVPRW 2023, arXiv 2306.16678): a vision transformer with one-bit linears and attention.

Parameter names follow the published checkpoints, so their state dicts load as they are. The classes compute the
published inference semantics. ``float_twin`` is the same network in full precision, to be used as a teacher: real weights
and activations, real attention probabilities, and queries, keys and values clipped to [-1, 1] instead of their signs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvtdeploy.models.blocks import AttentionOutput, Intermediate, Output
from bvtdeploy.models.inference import PYRAMID_NAMES, configure, count, norm_kind, renamed, tensor
from bvtdeploy.models.layers import (
    BinaryConv2x2,
    BinaryLinear,
    LayerScale,
    RPReLU,
    binary_sign,
    make_norm,
    quantise_probabilities,
    to_grid,
    to_tokens,
)


@dataclass(frozen=True)
class BinaryViTLeConfig:
    """Shape of the network; one tuple entry per stage. The defaults are the published small-patch4-224 model."""

    image_size: int = 224
    in_channels: int = 3
    patch_size: int = 4
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 8, 4)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    intermediate: tuple[int, ...] = (512, 1024, 1024, 2048)
    reduction: tuple[int, ...] = (8, 4, 1, 1)
    num_classes: int = 1000
    pool3: bool = True
    pool5: bool = True
    some_fp: bool = False
    norm: str = "batch"
    float_twin: bool = False

    def __post_init__(self) -> None:
        if self.norm not in ("batch", "layer"):
            raise ValueError(f"norm is 'batch' or 'layer', got {self.norm!r}")
        for name in ("dims", "depths", "heads", "intermediate", "reduction"):
            value = tuple(int(v) for v in getattr(self, name))
            if not value or any(v < 1 for v in value):
                raise ValueError(f"{name} must be positive integers, got {value}")
            if len(value) != len(self.dims):
                raise ValueError(f"{name} has {len(value)} stages, dims has {len(self.dims)}")
            object.__setattr__(self, name, value)
        if self.image_size % (self.patch_size * 2 ** (len(self.dims) - 1)):
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size} and the "
                f"{len(self.dims) - 1} halvings after it"
            )
        for stage, dim in enumerate(self.dims):
            if dim % self.heads[stage]:
                raise ValueError(f"stage {stage}: {dim} channels do not split into {self.heads[stage]} heads")
            if self.intermediate[stage] % dim:
                raise ValueError(f"stage {stage}: intermediate {self.intermediate[stage]} is no multiple of {dim}")
            if self.side(stage) % self.reduction[stage]:
                raise ValueError(
                    f"stage {stage}: reduction {self.reduction[stage]} does not divide the {self.side(stage)} tokens of a side"
                )
            if stage and dim % self.dims[stage - 1]:
                raise ValueError(f"stage {stage}: {dim} channels are no multiple of the {self.dims[stage - 1]} before")

    def side(self, stage: int) -> int:
        """Tokens along one side of the (square) token grid."""
        return self.image_size // self.patch_size // (1 << stage)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, so that a checkpoint with it loads with weights_only."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BinaryViTLeConfig:
        """The inverse of to_dict; entries that are no field are ignored."""
        known = {f.name for f in fields(cls)}
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**given)


class PatchEmbeddings(nn.Module):
    def __init__(self, config: BinaryViTLeConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(config.in_channels, config.dims[0], config.patch_size, stride=config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return to_tokens(self.projection(pixels))


class Embeddings(nn.Module):
    def __init__(self, config: BinaryViTLeConfig) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.side(0) ** 2, config.dims[0]))
        self.patch_embeddings = PatchEmbeddings(config)
        self.norm = make_norm(config.norm, config.dims[0])

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.norm(self.patch_embeddings(pixels)) + self.position_embeddings
        return out


class SelfAttention(nn.Module):
    """Binary attention; its input is the normalised token tensor, which also feeds the inner shortcuts."""

    def __init__(self, dim: int, heads: int, side: int, reduction: int, binary: bool, norm: str) -> None:
        super().__init__()
        self.heads, self.side, self.ratio, self.binary = heads, side, reduction, binary
        self.moveq = nn.Parameter(torch.zeros(dim))
        self.movek = nn.Parameter(torch.zeros(dim))
        self.movev = nn.Parameter(torch.zeros(dim))
        self.moveq2 = nn.Parameter(torch.zeros(dim))
        self.movek2 = nn.Parameter(torch.zeros(dim))
        self.movev2 = nn.Parameter(torch.zeros(dim))
        self.att_prob_clip = nn.Parameter(torch.tensor(2.0 / (side // reduction) ** 2))
        self.query = BinaryLinear(dim, dim, binary)
        self.key = BinaryLinear(dim, dim, binary)
        self.value = BinaryLinear(dim, dim, binary)
        if reduction > 1:
            self.mover = nn.Parameter(torch.zeros(dim))
            self.reduction = BinaryLinear(dim, dim, binary)
            self.norm_r = make_norm(norm, dim)
            self.rprelur = RPReLU(dim)
        self.normq = make_norm(norm, dim)
        self.normk = make_norm(norm, dim)
        self.normv = make_norm(norm, dim)
        self.rpreluq = RPReLU(dim)
        self.rpreluk = RPReLU(dim)
        self.rpreluv = RPReLU(dim)
        self.norm_context = make_norm(norm, dim)
        self.rprelu_context = RPReLU(dim)

    def _codes(self, x: Tensor, move: Tensor) -> Tensor:
        shifted = x + move
        codes = binary_sign(shifted, self.training) if self.binary else shifted.clamp(-1.0, 1.0)
        batch, tokens, channels = codes.shape
        return codes.reshape(batch, tokens, self.heads, channels // self.heads).transpose(1, 2)

    def _full_size(self, x: Tensor) -> Tensor:
        grid = to_grid(x, self.side // self.ratio)
        return to_tokens(F.interpolate(grid, scale_factor=float(self.ratio), mode="nearest"))

    def forward(self, h: Tensor) -> Tensor:
        q = self.rpreluq(self.normq(self.query(h, self.moveq)) + h)
        g = h
        if self.ratio > 1:
            g = to_tokens(F.avg_pool2d(to_grid(h, self.side), self.ratio))
            g = self.rprelur(self.norm_r(self.reduction(g, self.mover)) + g)
        k = self.rpreluk(self.normk(self.key(g, self.movek)) + g)
        v = self.rpreluv(self.normv(self.value(g, self.movev)) + g)

        query, key, value = self._codes(q, self.moveq2), self._codes(k, self.movek2), self._codes(v, self.movev2)
        scores = query @ key.transpose(-1, -2)
        prob = torch.softmax(scores / float(query.shape[-1]) ** 0.5, dim=-1)
        if self.binary:
            prob = quantise_probabilities(prob, self.att_prob_clip, self.training)
        context = (prob @ value).transpose(1, 2).flatten(2)

        shortcut = k + v if self.ratio == 1 else self._full_size(k) + self._full_size(v)
        out: Tensor = self.rprelu_context(self.norm_context(context) + q + shortcut)
        return out


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, reduction: int, binary: bool, norm: str) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, side, reduction, binary, norm)
        self.output = AttentionOutput(dim, binary, norm)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.output(self.attention(h))
        return out


class Layer(nn.Module):
    def __init__(self, config: BinaryViTLeConfig, stage: int) -> None:
        super().__init__()
        dim, hidden = config.dims[stage], config.intermediate[stage]
        binary = not config.float_twin
        self.side = config.side(stage)
        self.attention = Attention(dim, config.heads[stage], self.side, config.reduction[stage], binary, config.norm)
        self.intermediate = Intermediate(dim, hidden, binary, config.norm)
        self.output = Output(dim, hidden, binary, config.norm)
        self.layernorm_before = make_norm(config.norm, dim)
        self.layernorm_after = make_norm(config.norm, dim)
        self.widths = [w for w, on in ((3, config.pool3), (5, config.pool5)) if on]
        for width in self.widths:
            self.add_module(f"layerscale_h{width}", LayerScale(dim, 0.0))
            self.add_module(f"layerscale_w{width}", LayerScale(dim, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        m = self.layernorm_after(x)
        x = self.output(self.intermediate(m)) + x
        for width in self.widths:
            grid = to_grid(m, self.side)
            rows = F.avg_pool2d(grid, (width, 1), stride=1, padding=(width // 2, 0))
            columns = F.avg_pool2d(grid, (1, width), stride=1, padding=(0, width // 2))
            x = x + self.get_submodule(f"layerscale_h{width}")(to_tokens(rows))
            x = x + self.get_submodule(f"layerscale_w{width}")(to_tokens(columns))
        return x


class Downsample(nn.Module):
    """2x2 patch merging between two stages, binary or (``some_fp``) full precision."""

    def __init__(self, config: BinaryViTLeConfig, stage: int) -> None:
        super().__init__()
        dim, out = config.dims[stage - 1], config.dims[stage]
        self.side = config.side(stage - 1)
        self.copies = out // dim
        self.some_fp = config.some_fp
        self.norm0 = make_norm(config.norm, dim)
        if not config.some_fp:
            self.move = nn.Parameter(torch.zeros(1, dim, 1, 1))
            self.rprelu = RPReLU(out)
        self.proj = BinaryConv2x2(dim, out, binary=not (config.some_fp or config.float_twin))
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
    def __init__(self, config: BinaryViTLeConfig) -> None:
        super().__init__()
        self.depths = config.depths
        self.layer = nn.ModuleList(Layer(config, stage) for stage, n in enumerate(config.depths) for _ in range(n))
        for stage in range(1, len(config.dims)):
            self.add_module(f"patch_embed{stage}", Downsample(config, stage))

    def forward(self, x: Tensor) -> Tensor:
        first = 0
        for stage, depth in enumerate(self.depths):
            if stage:
                x = self.get_submodule(f"patch_embed{stage}")(x)
            for index in range(first, first + depth):
                x = self.layer[index](x)
            first += depth
        return x


class Backbone(nn.Module):
    def __init__(self, config: BinaryViTLeConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = make_norm(config.norm, config.dims[-1])

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.layernorm(self.encoder(self.embeddings(pixels)))
        return out


class BinaryViTLe(nn.Module):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    def __init__(self, config: BinaryViTLeConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = Backbone(config)
        self.classifier = nn.Linear(config.dims[-1], config.num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.vit(pixels).mean(dim=1))
        return logits


CONFIGS = {
    "binaryvit_le_nano": BinaryViTLeConfig(
        image_size=64,
        dims=(32, 64, 128, 256),
        depths=(1, 1, 1, 1),
        heads=(1, 1, 2, 4),
        intermediate=(128, 256, 256, 512),
        reduction=(8, 4, 1, 1),
        num_classes=10,
    ),
    "binaryvit_le_small": BinaryViTLeConfig(),
}


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has this family's keys, wherever they fit no configuration."""
    return any(k.startswith("vit.encoder.layer.") for k in state)


def infer_config(state: Mapping[str, Tensor], stated: Mapping[str, Any] | None = None, where: str = "") -> BinaryViTLeConfig:
    """The configuration that a state dict implies; ``stated`` entries take precedence. What keys do not tell is assumed as
    published: heads of 64 channels, keys and values reduced to the token grid of the last stage."""
    layers = count(state, "vit.encoder.layer.", ".attention.attention.moveq")
    stages = 1 + count(state, "vit.encoder.patch_embed", ".position_embeddings", first=1)
    names = ["vit.embeddings", *(f"vit.encoder.patch_embed{i}" for i in range(1, stages))]
    tables = [tensor(state, f"{name}.position_embeddings", 3, where) for name in names]
    stem = tensor(state, "vit.embeddings.patch_embeddings.projection.weight", 4, where)
    head = tensor(state, "classifier.weight", 2, where)
    dims = [p.shape[2] for p in tables]
    sides = [math.isqrt(p.shape[1]) for p in tables]
    prefixes = [f"vit.encoder.layer.{i}." for i in range(layers)]
    widths = [tensor(state, p + "attention.attention.moveq", 1, where).shape[0] for p in prefixes]
    first = {width: prefix for prefix, width in reversed(list(zip(prefixes, widths, strict=True)))}

    def in_stage(dim: int, key: str) -> Tensor | None:
        return state.get(first.get(dim, "") + key)

    hidden = [in_stage(d, "intermediate.dense.weight") for d in dims]
    values: dict[str, Any] = {
        "image_size": sides[0] * stem.shape[2],
        "in_channels": stem.shape[1],
        "patch_size": stem.shape[2],
        "dims": dims,
        "depths": [widths.count(d) for d in dims],
        "heads": [max(1, d // 64) for d in dims],
        "intermediate": [d if w is None else w.shape[0] for d, w in zip(dims, hidden, strict=True)],
        "reduction": [
            1 if in_stage(d, "attention.attention.mover") is None else side // max(1, sides[-1])
            for d, side in zip(dims, sides, strict=True)
        ],
        "num_classes": head.shape[0],
        "pool3": any(k.endswith(".layerscale_w3.alpha") for k in state),
        "pool5": any(k.endswith(".layerscale_w5.alpha") for k in state),
        "some_fp": stages > 1 and not any(k.startswith("vit.encoder.patch_embed") and k.endswith(".move") for k in state),
        "norm": norm_kind(state),
    }
    return configure(BinaryViTLeConfig, values, renamed(stated, PYRAMID_NAMES), where)
