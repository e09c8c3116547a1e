"""BHViT (Gao et al., CVPR 2025, arXiv 2503.02394): binary dilated convolutions, then binary attention in windows.

Parameter names follow the published checkpoints, so their state dicts load as they are. Between blocks the feature maps are
``[batch, channels, height, width]``. The first stages mix tokens with three grouped convolutions of different dilation over one
shared code; the others with attention among the tokens of a window and one pooled token of every window.
"""

from __future__ import annotations

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
    BinaryDilatedConv,
    BinaryLinear,
    LayerScale,
    RPReLU,
    binary_sign,
    make_norm,
    ste,
    to_grid,
    to_tokens,
)

WINDOW = 7  # side of an attention window, in tokens
GROUPS = 4  # of the dilated convolutions
_FLOOR = 1e-5  # of the scales of the four-level quantiser


@dataclass(frozen=True)
class BHViTConfig:
    """Shape of the network; one tuple entry per stage. The defaults are the published small model.

    ``conv_stages`` stages mix tokens with convolutions, the others with attention; only of those do ``heads`` count. ``shift3``
    and ``shift5`` are the shift branches over 3 and 5 neighbours, ``gsb`` the four-level signed quantiser of the probabilities.
    """

    image_size: int = 224
    in_channels: int = 3
    patch_size: int = 4
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 8, 4)
    heads: tuple[int, ...] = (1, 1, 4, 8)
    intermediate: tuple[int, ...] = (512, 1024, 1024, 2048)
    conv_stages: int = 2
    num_classes: int = 1000
    shift3: bool = True
    shift5: bool = True
    some_fp: bool = False
    gsb: bool = False
    norm: str = "batch"

    def __post_init__(self) -> None:
        if self.norm not in ("batch", "layer"):
            raise ValueError(f"norm is 'batch' or 'layer', got {self.norm!r}")
        for name in ("dims", "depths", "heads", "intermediate"):
            value = tuple(int(v) for v in getattr(self, name))
            if not value or any(v < 1 for v in value):
                raise ValueError(f"{name} must be positive integers, got {value}")
            if len(value) != len(self.dims):
                raise ValueError(f"{name} has {len(value)} stages, dims has {len(self.dims)}")
            object.__setattr__(self, name, value)
        if not 0 <= self.conv_stages <= len(self.dims):
            raise ValueError(f"conv_stages is {self.conv_stages}, there are {len(self.dims)} stages")
        if self.image_size % (self.patch_size * 2 ** (len(self.dims) - 1)):
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size} and the "
                f"{len(self.dims) - 1} halvings after it"
            )
        for stage, dim in enumerate(self.dims):
            if self.intermediate[stage] % dim:
                raise ValueError(f"stage {stage}: intermediate {self.intermediate[stage]} is no multiple of {dim}")
            if stage and dim % self.dims[stage - 1]:
                raise ValueError(f"stage {stage}: {dim} channels are no multiple of the {self.dims[stage - 1]} before")
            if dim % 4:
                raise ValueError(f"stage {stage}: {dim} channels do not split into quarters")
            if stage >= self.conv_stages and dim % self.heads[stage]:
                raise ValueError(f"stage {stage}: {dim} channels do not split into {self.heads[stage]} heads")
            if stage >= self.conv_stages and self.side(stage) % WINDOW:
                raise ValueError(f"stage {stage}: {self.side(stage)} tokens of a side do not split into windows of {WINDOW}")

    def side(self, stage: int) -> int:
        """Tokens along one side of the (square) token grid."""
        return self.image_size // self.patch_size // (1 << stage)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, so that a checkpoint with it loads with weights_only."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BHViTConfig:
        """The inverse of to_dict; entries that are no field are ignored."""
        known = {f.name for f in fields(cls)}
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
        return cls(**given)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm over the channels of a map."""
    out: Tensor = to_grid(norm(to_tokens(x)), x.shape[2])
    return out


class PatchEmbeddings(nn.Module):
    def __init__(self, config: BHViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.dims[0], config.patch_size, stride=config.patch_size)
        self.norm = make_norm(config.norm, config.dims[0])

    def forward(self, pixels: Tensor) -> Tensor:
        return F.gelu(_normed(self.norm, self.proj(pixels)))


class Embeddings(nn.Module):
    def __init__(self, config: BHViTConfig) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.dims[0], config.side(0), config.side(0)))
        self.patch_embeddings = PatchEmbeddings(config)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.patch_embeddings(pixels) + self.position_embeddings
        return out


class Move(nn.Module):
    """The shift before the shared code of the convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class DilatedConvs(nn.Module):
    """The token mixer of the first stages. The convolutions have no shortcut of their own."""

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
        return to_grid(out, h.shape[2])


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


class WindowAttention(nn.Module):
    """Binary attention among the tokens of each window and the pooled tokens; map in, tokens ``[batch, side * side, C]`` out."""

    def __init__(self, dim: int, heads: int, side: int, gsb: bool, norm: str) -> None:
        super().__init__()
        self.heads, self.per_side, self.gsb = heads, side // WINDOW, gsb
        tokens = WINDOW**2 + self.per_side**2
        self.moveq = nn.Parameter(torch.zeros(dim))
        self.movek = nn.Parameter(torch.zeros(dim))
        self.movev = nn.Parameter(torch.zeros(dim))
        self.moveq2 = nn.Parameter(torch.zeros(dim))
        self.movek2 = nn.Parameter(torch.zeros(dim))
        self.movev2 = nn.Parameter(torch.zeros(dim))
        self.parm = nn.Parameter(torch.full((1, dim, 1, 1), 0.5))
        self.token_FA = TokenMerge(dim)
        self.query = BinaryLinear(dim, dim)
        self.key = BinaryLinear(dim, dim)
        self.value = BinaryLinear(dim, dim)
        self.normq = make_norm(norm, dim)
        self.normk = make_norm(norm, dim)
        self.normv = make_norm(norm, dim)
        self.rpreluq = RPReLU(dim)
        self.rpreluk = RPReLU(dim)
        self.rpreluv = RPReLU(dim)
        if gsb:
            self.att_prob_clip = nn.Parameter(torch.tensor(1.0 / tokens))
            self.att_prob_clip2 = nn.Parameter(torch.tensor(1.0))
            self.att_prob_clip3 = nn.Parameter(torch.tensor(1.0))
        else:
            self.att_prob_quantizer = LevelQuantiser(heads, tokens)
        self.norm_context = make_norm(norm, dim)
        self.rprelu_context = RPReLU(dim)

    def _codes(self, x: Tensor, move: Tensor) -> Tensor:
        codes = binary_sign(x + move, self.training)
        batch, tokens, channels = codes.shape
        return codes.reshape(batch, tokens, self.heads, channels // self.heads).transpose(1, 2)

    def _quantised(self, p: Tensor) -> Tensor:
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
        q = self.rpreluq(self.normq(self.query(x, self.moveq)) + x)
        k = self.rpreluk(self.normk(self.key(x, self.movek)) + x)
        v = self.rpreluv(self.normv(self.value(x, self.movev)) + x)
        query, key, value = self._codes(q, self.moveq2), self._codes(k, self.movek2), self._codes(v, self.movev2)
        scores = query @ key.transpose(-1, -2)
        prob = self._quantised(torch.softmax(scores / float(query.shape[-1]) ** 0.5, dim=-1))
        context = (prob @ value).transpose(1, 2).flatten(2)
        context = self.rprelu_context(self.norm_context(context) + q + k + v)

        low = context[:, : WINDOW * WINDOW].reshape(batch, n, n, WINDOW, WINDOW, channels)
        low = low.permute(0, 5, 1, 3, 2, 4).reshape(h.shape)
        high = context[:, WINDOW * WINDOW :].reshape(batch, n * n, n * n, channels).mean(1)
        high = F.interpolate(to_grid(high, n), scale_factor=float(WINDOW), mode="nearest")
        return to_tokens(self.parm * low + (1.0 - self.parm) * high)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, gsb: bool, norm: str) -> None:
        super().__init__()
        self.attention = WindowAttention(dim, heads, side, gsb, norm)
        self.output = AttentionOutput(dim, norm=norm)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.output(self.attention(h))
        return to_grid(out, h.shape[2])


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
    """A token mixer and an MLP with shift branches; map in, map out."""

    def __init__(self, config: BHViTConfig, stage: int) -> None:
        super().__init__()
        dim, hidden = config.dims[stage], config.intermediate[stage]
        self.convolves = stage < config.conv_stages
        if self.convolves:
            self.GC = DilatedConvs(dim, config.norm)
        else:
            self.attention = Attention(dim, config.heads[stage], config.side(stage), config.gsb, config.norm)
        self.intermediate = Intermediate(dim, hidden, norm=config.norm)
        self.output = Output(dim, hidden, norm=config.norm)
        self.layernorm_before = make_norm(config.norm, dim)
        self.layernorm_after = make_norm(config.norm, dim)
        self.widths = [w for w, on in ((3, config.shift3), (5, config.shift5)) if on]
        for width in self.widths:
            for branch in ("h", "w", "ch"):
                self.add_module(f"layerscale_{branch}{width}", LayerScale(dim, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        side = x.shape[2]
        h = _normed(self.layernorm_before, x)
        x = x + (self.GC(h) if self.convolves else self.attention(h))
        tokens = self.layernorm_after(to_tokens(x))
        m = to_grid(tokens, side)
        y = self.output(self.intermediate(tokens)) + to_tokens(x)
        for width in self.widths:
            reach = width // 2
            shifted = {"h": _neighbours(m, reach, 2), "w": _neighbours(m, reach, 3), "ch": _four_ways(m, reach)}
            for branch, value in shifted.items():
                y = y + self.get_submodule(f"layerscale_{branch}{width}")(to_tokens(value))
        return to_grid(y, side)


class Downsample(nn.Module):
    """2x2 patch merging between two stages, binary or (``some_fp``) full precision; map in, map out."""

    def __init__(self, config: BHViTConfig, stage: int) -> None:
        super().__init__()
        dim, out = config.dims[stage - 1], config.dims[stage]
        self.copies = out // dim
        self.some_fp = config.some_fp
        self.norm0 = make_norm(config.norm, dim)
        if not config.some_fp:
            self.move = nn.Parameter(torch.zeros(1, dim, 1, 1))
            self.rprelu = RPReLU(out)
        self.proj = BinaryConv2x2(dim, out, binary=not config.some_fp, centred=True)
        self.norm = make_norm(config.norm, out)
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.side(stage) ** 2, out))

    def forward(self, x: Tensor) -> Tensor:
        h = _normed(self.norm0, x)
        if self.some_fp:
            y = self.norm(to_tokens(self.proj(h)))
        else:
            shortcut = to_tokens(F.avg_pool2d(h, 2))
            y = self.norm(to_tokens(self.proj(h, self.move)))
            y = self.rprelu(y + torch.cat([shortcut] * self.copies, dim=-1))
        return to_grid(y + self.position_embeddings, x.shape[2] // 2)


class Encoder(nn.Module):
    def __init__(self, config: BHViTConfig) -> None:
        super().__init__()
        self.depths, self.conv_stages = config.depths, config.conv_stages
        order = [stage for stage, depth in enumerate(config.depths) for _ in range(depth)]
        self.layerA = nn.ModuleList(Layer(config, stage) for stage in order if stage < config.conv_stages)
        self.layerB = nn.ModuleList(Layer(config, stage) for stage in order if stage >= config.conv_stages)
        for stage in range(1, len(config.dims)):
            self.add_module(f"patch_embed{stage}", Downsample(config, stage))

    def forward(self, x: Tensor) -> Tensor:
        layers = [*self.layerA, *self.layerB]
        for stage, depth in enumerate(self.depths):
            if stage:
                x = self.get_submodule(f"patch_embed{stage}")(x)
            for layer in layers[:depth]:
                x = layer(x)
            layers = layers[depth:]
        return x


class Backbone(nn.Module):
    def __init__(self, config: BHViTConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = make_norm(config.norm, config.dims[-1])

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.layernorm(to_tokens(self.encoder(self.embeddings(pixels))))
        return out


class BHViT(nn.Module):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    def __init__(self, config: BHViTConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = Backbone(config)
        self.classifier = nn.Linear(config.dims[-1], config.num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.vit(pixels).mean(dim=1))
        return logits


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
    attention = ".attention.attention."
    first = tensor(state, "vit.embeddings.position_embeddings", 4, where)
    stages = 1 + count(state, "vit.encoder.patch_embed", ".position_embeddings", first=1)
    dims = [first.shape[1]]
    dims += [tensor(state, f"vit.encoder.patch_embed{i}.position_embeddings", 3, where).shape[2] for i in range(1, stages)]
    stem = tensor(state, "vit.embeddings.patch_embeddings.proj.weight", 4, where)
    head = tensor(state, "classifier.weight", 2, where)
    convs = [f"vit.encoder.layerA.{i}" for i in range(count(state, "vit.encoder.layerA.", ".GC.move.bias"))]
    blocks = [f"vit.encoder.layerB.{i}" for i in range(count(state, "vit.encoder.layerB.", f"{attention}moveq"))]
    widths = {p: tensor(state, f"{p}.GC.move.bias", 4, where).shape[1] for p in convs}
    widths.update({p: tensor(state, f"{p}{attention}moveq", 1, where).shape[0] for p in blocks})
    of_stage = {width: p for p, width in reversed(widths.items())}

    def rows(dim: int, key: str, otherwise: int) -> int:
        found = state.get(of_stage.get(dim, "") + key)
        return otherwise if found is None or not found.dim() else found.shape[0]

    values: dict[str, Any] = {
        "image_size": first.shape[2] * stem.shape[2],
        "in_channels": stem.shape[1],
        "patch_size": stem.shape[2],
        "dims": dims,
        "depths": [list(widths.values()).count(d) for d in dims],
        "heads": [
            1 if of_stage.get(d) in convs else rows(d, f"{attention}att_prob_quantizer.alpha", max(1, d // 64)) for d in dims
        ],
        "intermediate": [rows(d, ".intermediate.dense.weight", d) for d in dims],
        "conv_stages": sum(of_stage.get(d) in convs for d in dims),
        "num_classes": head.shape[0],
        "shift3": any(k.endswith(".layerscale_w3.alpha") for k in state),
        "shift5": any(k.endswith(".layerscale_w5.alpha") for k in state),
        "some_fp": stages > 1 and not any(k.startswith("vit.encoder.patch_embed") and k.endswith(".move") for k in state),
        "gsb": any(k.endswith(f"{attention}att_prob_clip") for k in state),
        "norm": norm_kind(state),
    }
    return configure(BHViTConfig, values, renamed(stated, PYRAMID_NAMES), where)
