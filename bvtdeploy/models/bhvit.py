"""BHViT (Gao et al., CVPR 2025, arXiv 2503.02394): binary dilated convolutions, then binary attention in windows.

Parameter names follow the published checkpoints, so their state dicts load as they are. The first stages mix tokens with three
grouped convolutions of different dilation over one shared code; the others with attention among the tokens of a window and one
pooled token of every window. A "map" is ``[batch, channels, height, width]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
)
from bvtdeploy.models.inference import HEAD_DIM, configure, count_keys, shape_of
from bvtdeploy.models.layers import BinaryDilatedConv, LayerScale, RPReLU, binary_sign, make_norm, ste, to_grid, to_tokens

WINDOW = 7  # side of an attention window, in tokens
GROUPS = 4  # of the dilated convolutions
_FLOOR = 1e-5  # of the scales of the four-level quantiser


@dataclass(frozen=True)
class BHViTConfig(PyramidConfig):
    """Shape of the network. The defaults are the published small model.

    ``heads`` count only in stages with attention.

    Attributes:
        conv_stages: so many stages mix tokens with convolutions, the others with attention.
        shift3, shift5: the shift branches over 3 and 5 neighbours.
        gsb: the probabilities have the four-level signed quantiser.
    """

    family: ClassVar[str] = "BHViT"
    layout: ClassVar[str] = "vit.embeddings.*, vit.encoder.layerA.N.*, vit.encoder.layerB.N.*, vit.layernorm.*, classifier.*"

    heads: tuple[int, ...] = (1, 1, 4, 8)
    conv_stages: int = field(default=2, metadata={"least": 0})
    shift3: bool = True
    shift5: bool = True
    gsb: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.conv_stages <= len(self.dims):
            raise ValueError(f"conv_stages is {self.conv_stages}, there are {len(self.dims)} stages")
        for stage, dim in enumerate(self.dims):
            if dim % 4:
                raise ValueError(f"stage {stage}: {dim} channels do not split into quarters")
            if self.has_heads(stage) and self.side(stage) % WINDOW:
                raise ValueError(f"stage {stage}: {self.side(stage)} tokens of a side do not split into windows of {WINDOW}")

    def has_heads(self, stage: int) -> bool:
        return stage >= self.conv_stages


class PatchEmbeddings(nn.Module):
    def __init__(self, config: BHViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.dims[0], config.patch_size, stride=config.patch_size)
        self.norm = make_norm(config.norm, config.dims[0])

    def forward(self, pixels: Tensor) -> Tensor:
        return F.gelu(self.norm(to_tokens(self.proj(pixels))))


class Embeddings(nn.Module):
    """pixels [B, C, S, S] -> tokens of the first stage."""

    def __init__(self, config: BHViTConfig) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.dims[0], config.side(), config.side()))
        self.patch_embeddings = PatchEmbeddings(config)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.patch_embeddings(pixels) + to_tokens(self.position_embeddings)
        return out


class Move(nn.Module):
    """The shift before the shared code of the convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class DilatedConvs(nn.Module):
    """The token mixer of the first stages, map in, tokens out. The convolutions have no shortcut of their own."""

    def __init__(self, dim: int, norm: str) -> None:
        super().__init__()
        self.move = Move(dim)
        self.cov1 = BinaryDilatedConv(dim, GROUPS, 1)
        self.cov2 = BinaryDilatedConv(dim, GROUPS, 3)
        self.cov3 = BinaryDilatedConv(dim, GROUPS, 5)
        self.norm = make_norm(norm, dim)
        self.act1 = RPReLU(dim)
        self.act2 = RPReLU(dim)
        self.act3 = RPReLU(dim)

    def forward(self, h: Tensor) -> Tensor:
        codes = binary_sign(self.move(h), self.training)
        near, middle, far = (to_tokens(conv(codes)) for conv in (self.cov1, self.cov2, self.cov3))
        out: Tensor = self.norm(self.act1(near) + self.act2(middle) + self.act3(far))
        return out


class LevelQuantiser(nn.Module):
    """Attention probabilities [B, heads, N, N] to the codes 0 to 3, each head with its scale and zero point."""

    init_state: Tensor

    def __init__(self, heads: int, tokens: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((heads,), 2.0 / tokens))
        self.zero_point = nn.Parameter(torch.zeros(heads))
        self.register_buffer("init_state", torch.ones(1))

    def forward(self, p: Tensor) -> Tensor:
        alpha, zero_point = self.alpha.view(1, -1, 1, 1), self.zero_point.view(1, -1, 1, 1)
        level = 3.0 * p / alpha + zero_point
        return ste(level, level.round(), self.training).clamp(0.0, 3.0) * alpha


class TokenMerge(nn.Module):
    """One pooled token of every window, a learned mixture of its maximum and its mean, then a norm over all tokens.

    The pooling is padded by 3, so that pooled token i covers the rows 7i-3 to 7i+3 of the map: it is not aligned with the
    windows, and of 14 rows the last three feed nothing. The mean divides by 49 at the border too.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.a1 = nn.Parameter(torch.full((1, 1, dim), 0.5))
        self.norm = nn.LayerNorm(dim)

    def forward(self, h: Tensor, windows: Tensor) -> Tensor:
        highest = to_tokens(F.max_pool2d(h, WINDOW, stride=WINDOW, padding=WINDOW // 2))
        mean = to_tokens(F.avg_pool2d(h, WINDOW, stride=WINDOW, padding=WINDOW // 2))
        merged = self.a1 * highest + (1.0 - self.a1) * mean
        count = windows.shape[0] // h.shape[0]
        repeated = merged.unsqueeze(1).expand(-1, count, -1, -1).flatten(0, 1)
        out: Tensor = self.norm(torch.cat([windows, repeated], dim=1))
        return out


class WindowAttention(QKVAttention):
    """Binary attention among the tokens of each window and the pooled tokens; map in, tokens ``[batch, side * side, C]`` out."""

    def __init__(self, dim: int, heads: int, side: int, gsb: bool, norm: str) -> None:
        super().__init__(dim, heads, norm)
        self.per_side, self.gsb = side // WINDOW, gsb
        tokens = WINDOW**2 + self.per_side**2
        self.parm = nn.Parameter(torch.full((1, dim, 1, 1), 0.5))
        self.token_FA = TokenMerge(dim)
        if gsb:
            self.att_prob_clip = nn.Parameter(torch.tensor(1.0 / tokens))
            self.att_prob_clip2 = nn.Parameter(torch.tensor(1.0))
            self.att_prob_clip3 = nn.Parameter(torch.tensor(1.0))
        else:
            self.att_prob_quantizer = LevelQuantiser(heads, tokens)

    def quantised(self, p: Tensor) -> Tensor:
        if not self.gsb:
            out: Tensor = self.att_prob_quantizer(p)
            return out
        clip = self.att_prob_clip
        first, second, third = (c.clamp_min(_FLOOR) for c in (clip, self.att_prob_clip2, self.att_prob_clip3))
        q = p / clip  # by the scale as it is: the floor is of the factors alone
        top = q.amax(-1, keepdim=True)
        above7, above9 = (q > 0.7 * top).to(q.dtype), (q > 0.9 * top).to(q.dtype)
        base = ste(q, q.round(), self.training).clamp(0.0, 1.0)
        return first * ((base - above7) + second * (above7 - above9) + third * above9)

    def forward(self, h: Tensor) -> Tensor:
        n, (batch, channels) = self.per_side, h.shape[:2]
        windows = h.reshape(batch, channels, n, WINDOW, n, WINDOW).permute(0, 2, 4, 3, 5, 1)
        x = self.token_FA(h, windows.reshape(batch * n * n, WINDOW * WINDOW, channels))
        q, k, v = self.project(x, x)
        context = self.rprelu_context(self.attend(q, k, v) + q + k + v)

        low = context[:, : WINDOW * WINDOW].reshape(batch, n, n, WINDOW, WINDOW, channels)
        low = low.permute(0, 5, 1, 3, 2, 4).reshape(h.shape)
        high = context[:, WINDOW * WINDOW :].reshape(batch, n * n, n * n, channels).mean(1)
        high = F.interpolate(to_grid(high, n), scale_factor=float(WINDOW), mode="nearest")
        return to_tokens(self.parm * low + (1.0 - self.parm) * high)


def _neighbours(m: Tensor, reach: int, axis: int) -> Tensor:
    """Mean of the 2 * reach + 1 neighbours along an axis that wraps around."""
    total = m
    for step in range(1, reach + 1):
        total = total + torch.roll(m, step, axis) + torch.roll(m, -step, axis)
    return total / float(2 * reach + 1)


def _four_ways(m: Tensor, step: int) -> Tensor:
    """The four quarters of the channels, each shifted in another direction; wraps around."""
    down, up, right, left = m.chunk(4, dim=1)
    parts = [torch.roll(down, step, 2), torch.roll(up, -step, 2), torch.roll(right, step, 3), torch.roll(left, -step, 3)]
    return torch.cat(parts, dim=1)


class Layer(nn.Module):
    """A token mixer and an MLP with shift branches."""

    def __init__(self, config: BHViTConfig, stage: int) -> None:
        super().__init__()
        dim, hidden, norm = config.dims[stage], config.intermediate[stage], config.norm
        self.side = config.side(stage)
        self.convolves = stage < config.conv_stages
        if self.convolves:
            self.GC = DilatedConvs(dim, norm)
        else:
            self.attention = Attention(
                WindowAttention(dim, config.heads[stage], self.side, config.gsb, norm), AttentionOutput(dim, norm=norm)
            )
        self.intermediate = Intermediate(dim, hidden, norm=norm)
        self.output = Output(dim, hidden, norm=norm)
        self.layernorm_before = make_norm(norm, dim)
        self.layernorm_after = make_norm(norm, dim)
        self.widths = [w for w, on in ((3, config.shift3), (5, config.shift5)) if on]
        for width in self.widths:
            for branch in ("h", "w", "ch"):
                self.add_module(f"layerscale_{branch}{width}", LayerScale(dim, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        h = to_grid(self.layernorm_before(x), self.side)
        x = x + (self.GC(h) if self.convolves else self.attention(h))
        m = self.layernorm_after(x)
        x = self.output(self.intermediate(m)) + x
        grid = to_grid(m, self.side)
        for width in self.widths:
            reach = width // 2
            shifted = {"h": _neighbours(grid, reach, 2), "w": _neighbours(grid, reach, 3), "ch": _four_ways(grid, reach)}
            for branch, value in shifted.items():
                x = x + self.get_submodule(f"layerscale_{branch}{width}")(to_tokens(value))
        return x


class BHViT(Pyramid):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    def __init__(self, config: BHViTConfig) -> None:
        embeddings = Embeddings(config)
        order = [stage for stage, depth in enumerate(config.depths) for _ in range(depth)]
        layers: dict[str, list[nn.Module]] = {
            "layerA": [Layer(config, stage) for stage in order if stage < config.conv_stages],
            "layerB": [Layer(config, stage) for stage in order if stage >= config.conv_stages],
        }
        super().__init__(config, embeddings, Encoder(config, layers, centred=True))
        self.config = config


CONFIGS = {
    "bhvit_nano": BHViTConfig(
        image_size=112,
        patch_size=2,
        dims=(32, 64, 128, 256),
        depths=(1, 1, 1, 1),
        heads=(1, 1, 2, 4),
        intermediate=(64, 128, 256, 512),
        num_classes=10,
    ),
    "bhvit_tiny": BHViTConfig(depths=(2, 2, 6, 2)),
    "bhvit_small": BHViTConfig(),
}


def matches(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has this family's keys."""
    return any(k.startswith(("vit.encoder.layerA.", "vit.encoder.layerB.")) for k in state)


def infer_config(state: Mapping[str, Tensor], stated: Mapping[str, Any] | None = None, where: str = "") -> BHViTConfig:
    """The configuration that a state dict implies; ``stated`` entries take precedence. What keys do not tell is assumed as
    published: heads of 64 channels where the quantiser does not count them."""

    def infer() -> dict[str, Any]:
        moves = {"layerA": ("GC.move.bias", 4, 1), "layerB": ("attention.attention.moveq", 1, 0)}  # rank, axis of the channels
        widths = {
            f"vit.encoder.{name}.{i}.": shape_of(state, f"vit.encoder.{name}.{i}.{key}", rank)[axis]
            for name, (key, rank, axis) in moves.items()
            for i in range(count_keys(state, f"vit.encoder.{name}.{{}}.{key}"))
        }
        _, dim, side, _ = shape_of(state, "vit.embeddings.position_embeddings", 4)
        stem = "vit.embeddings.patch_embeddings.proj.weight"
        values = infer_pyramid(state, stem, (dim, side), widths, ("shift3", "shift5"))
        prefixes = [of_stage(widths, d) for d in values["dims"]]
        convolves = [".layerA." in prefix for prefix in prefixes]
        scales = [state.get(prefix + "attention.attention.att_prob_quantizer.alpha") for prefix in prefixes]
        return {
            **values,
            "heads": [
                1 if conv else scale.numel() if scale is not None else max(1, d // HEAD_DIM)
                for conv, scale, d in zip(convolves, scales, values["dims"], strict=True)
            ],
            "conv_stages": sum(convolves),
            "gsb": any(k.endswith(".attention.attention.att_prob_clip") for k in state),
        }

    return configure(BHViTConfig, infer, stated, where)
