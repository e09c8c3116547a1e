"""BinaryViT (Le & Li, CVPRW 2023, arXiv 2306.16678): vision transformers with one-bit linears and attention.

The published model is a pyramid. The rows before it in the paper are the same blocks in one stage of the shape of DeiT-Small
(`DEIT_SMALL`): without norm after the patch embedding, with or without pooling branches and layer scales, with a class token or the
mean of the tokens.

Parameter names follow the published checkpoints, so their state dicts load as they are. The classes compute the
published inference semantics. ``float_twin`` is the same network in full precision, to be used as a teacher: real weights
and activations, real attention probabilities, and queries, keys and values clipped to [-1, 1] instead of their signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvtdeploy.models.blocks import (
    Attention,
    AttentionOutput,
    Encoder,
    Intermediate,
    Output,
    Pyramid,
    PyramidConfig,
    QKVAttention,
    infer_pyramid,
    of_stage,
    square_side,
)
from bvtdeploy.models.inference import HEAD_DIM, configure, count_keys, shape_of
from bvtdeploy.models.layers import BinaryLinear, LayerScale, RPReLU, make_norm, quantise_probabilities, to_grid, to_tokens


@dataclass(frozen=True)
class BinaryViTLeConfig(PyramidConfig):
    """Shape of the network. The defaults are the published small-patch4-224 model.

    Attributes:
        reduction: keys and values of a stage are pooled over squares of this side.
        pool3, pool5: the pooling branches over 3 and 5 neighbours.
        stem_norm: there is a norm after the patch embedding.
        layer_scale: attention and MLP end with a scale and a shift for each channel.
        cls_token: the logits come from a class token; it has no place on a grid, so there is one stage, without pooling.
        float_twin: everything in full precision.
    """

    family: ClassVar[str] = "BinaryViT (Le & Li)"
    layout: ClassVar[str] = "vit.embeddings.*, vit.encoder.layer.N.*, vit.layernorm.*, classifier.*"

    reduction: tuple[int, ...] = (8, 4, 1, 1)
    pool3: bool = True
    pool5: bool = True
    stem_norm: bool = True
    layer_scale: bool = True
    cls_token: bool = False
    float_twin: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for stage, reduction in enumerate(self.reduction):
            if self.side(stage) % reduction:
                raise ValueError(f"stage {stage}: reduction {reduction} does not divide the {self.side(stage)} tokens of a side")
        if self.cls_token and (len(self.dims) > 1 or self.pool3 or self.pool5 or self.reduction != (1,)):
            raise ValueError("with cls_token there is one stage, of reduction 1, and neither pool3 nor pool5")


class PatchEmbeddings(nn.Module):
    def __init__(self, config: BinaryViTLeConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(config.in_channels, config.dims[0], config.patch_size, stride=config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        return to_tokens(self.projection(pixels))


class Embeddings(nn.Module):
    """pixels [B, C, S, S] -> tokens of the first stage, after the class token if there is one."""

    def __init__(self, config: BinaryViTLeConfig) -> None:
        super().__init__()
        dim = config.dims[0]
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.side() ** 2 + config.cls_token, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.cls_token else None
        self.patch_embeddings = PatchEmbeddings(config)
        self.norm = make_norm(config.norm, dim) if config.stem_norm else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        x: Tensor = self.norm(self.patch_embeddings(pixels))
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.position_embeddings


class SelfAttention(QKVAttention):
    """Binary attention; its input is the normalised token tensor, which also feeds the inner shortcuts."""

    def __init__(self, dim: int, heads: int, side: int, reduction: int, binary: bool, norm: str) -> None:
        super().__init__(dim, heads, norm, binary)
        self.side, self.ratio = side, reduction
        self.att_prob_clip = nn.Parameter(torch.tensor(2.0 / (side // reduction) ** 2))
        if reduction > 1:
            self.mover = nn.Parameter(torch.zeros(dim))
            self.reduction = BinaryLinear(dim, dim, binary)
            self.norm_r = make_norm(norm, dim)
            self.rprelur = RPReLU(dim)

    def quantised(self, p: Tensor) -> Tensor:
        return quantise_probabilities(p, self.att_prob_clip, self.training) if self.binary else p

    def _full_size(self, x: Tensor) -> Tensor:
        grid = to_grid(x, self.side // self.ratio)
        return to_tokens(F.interpolate(grid, scale_factor=float(self.ratio), mode="nearest"))

    def forward(self, h: Tensor) -> Tensor:
        g = h
        if self.ratio > 1:
            g = to_tokens(F.avg_pool2d(to_grid(h, self.side), self.ratio))
            g = self.rprelur(self.norm_r(self.reduction(g, self.mover)) + g)
        q, k, v = self.project(h, g)
        shortcut = k + v if self.ratio == 1 else self._full_size(k) + self._full_size(v)
        out: Tensor = self.rprelu_context(self.attend(q, k, v) + q + shortcut)
        return out


class Layer(nn.Module):
    """Attention and an MLP with pooling branches."""

    def __init__(self, config: BinaryViTLeConfig, stage: int) -> None:
        super().__init__()
        dim, hidden, scaled, norm = config.dims[stage], config.intermediate[stage], config.layer_scale, config.norm
        binary = not config.float_twin
        self.side = config.side(stage)
        self.attention = Attention(
            SelfAttention(dim, config.heads[stage], self.side, config.reduction[stage], binary, norm),
            AttentionOutput(dim, binary, norm, scaled),
        )
        self.intermediate = Intermediate(dim, hidden, binary, norm)
        self.output = Output(dim, hidden, binary, norm, scaled)
        self.layernorm_before = make_norm(norm, dim)
        self.layernorm_after = make_norm(norm, dim)
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


class BinaryViTLe(Pyramid):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    def __init__(self, config: BinaryViTLeConfig) -> None:
        embeddings = Embeddings(config)
        layers: list[nn.Module] = [Layer(config, stage) for stage, depth in enumerate(config.depths) for _ in range(depth)]
        encoder = Encoder(config, {"layer": layers}, centred=False, binary=not config.float_twin)
        super().__init__(config, embeddings, encoder, config.cls_token)
        self.config = config


# The row of the paper that all others are compared with; `dataclasses.replace` makes the others.
DEIT_SMALL = BinaryViTLeConfig(
    patch_size=16, dims=(384,), depths=(12,), heads=(6,), intermediate=(1536,), reduction=(1,),
    pool3=False, pool5=False, stem_norm=False, layer_scale=False, cls_token=True,
)  # fmt: skip

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

    def infer() -> dict[str, Any]:
        table, cls_token = "vit.embeddings.position_embeddings", "vit.embeddings.cls_token" in state
        _, tokens, dim = shape_of(state, table, 3)
        side = square_side(tokens - cls_token, table)
        moves = "vit.encoder.layer.{}.attention.attention.moveq"
        prefixes = [f"vit.encoder.layer.{i}." for i in range(count_keys(state, moves))]
        widths = {prefix: shape_of(state, moves.format(i), 1)[0] for i, prefix in enumerate(prefixes)}
        stem = "vit.embeddings.patch_embeddings.projection.weight"
        values = infer_pyramid(state, stem, (dim, side), widths, ("pool3", "pool5"))
        dims = values["dims"]
        reduced = [of_stage(widths, d) + "attention.attention.mover" in state for d in dims]
        return {
            **values,
            "heads": [max(1, d // HEAD_DIM) for d in dims],
            "reduction": [1 << (len(dims) - 1 - stage) if on else 1 for stage, on in enumerate(reduced)],
            "stem_norm": "vit.embeddings.norm.weight" in state,
            "layer_scale": "vit.encoder.layer.0.output.layerscale.alpha" in state,
            "cls_token": cls_token,
        }

    return configure(BinaryViTLeConfig, infer, stated, where)
