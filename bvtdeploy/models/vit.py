"""The DeiT host: patch embedding, class token(s), pre-norm blocks. Families put their attention and their MLP into it.

The keys of the state dict are those of timm's DeiT. Tokens are ``[batch, tokens, channels]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvtdeploy.models.inference import HEAD_DIM, StagedConfig, count_keys, renamed, shape_of
from bvtdeploy.models.layers import to_tokens

C = TypeVar("C", bound="HostConfig")


@dataclass(frozen=True)
class HostConfig(StagedConfig):
    """Shape of a DeiT (one stage) or Swin. The defaults are DeiT-Tiny.

    Attributes:
        host: "deit" or "swin".
        window: side of an attention window in tokens (Swin only; a smaller token grid is one window).
        qkv_bias: the qkv linears have a bias.
        persistent_buffers: position indices and shift masks are in the state dict (Swin only).
    """

    family: ClassVar[str] = "vision transformer"
    layout: ClassVar[str] = (
        "cls_token, pos_embed, patch_embed.*, blocks.N.*, norm.*, head.* or patch_embed.*, layers.N.*, norm.*, head.*"
    )
    hosts: ClassVar[tuple[str, ...]] = ("deit", "swin")

    patch_size: int = 16
    dims: tuple[int, ...] = (192,)
    depths: tuple[int, ...] = (12,)
    heads: tuple[int, ...] = (3,)
    host: str = "deit"
    mlp_ratio: int = 4
    window: int = 7
    qkv_bias: bool = True
    persistent_buffers: bool = True

    def __post_init__(self) -> None:
        if self.host not in self.hosts:
            raise ValueError(f"host must be {' or '.join(self.hosts)}, got {self.host!r}")
        super().__post_init__()
        if self.host == "deit" and len(self.dims) != 1:
            raise ValueError(f"a DeiT has one stage, dims has {len(self.dims)}")
        for stage, dim in enumerate(self.dims):
            if stage and dim != 2 * self.dims[stage - 1]:
                raise ValueError(f"stage {stage}: {dim} channels, patch merging gives {2 * self.dims[stage - 1]}")
            if self.host == "swin" and self.side(stage) % self.window_of(stage):
                raise ValueError(f"stage {stage}: windows of {self.window} do not tile the {self.side(stage)} tokens of a side")

    def window_of(self, stage: int) -> int:
        """Side of this stage's windows."""
        return min(self.window, self.side(stage))

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """As the base class; of a Swin's channels, those of the first stage are enough."""
        given = renamed(values)
        dims, depths = given.get("dims"), given.get("depths")
        if given.get("host") == "swin" and isinstance(depths, (list, tuple)):
            first = dims[0] if isinstance(dims, (list, tuple)) and len(dims) == 1 else dims
            if isinstance(first, int):
                given["dims"] = [first << stage for stage in range(len(depths))]
        return super().from_dict(given)


# The sizes in which the hosts were published, and of each host one that runs in no time.
DEIT_NANO: dict[str, Any] = {"image_size": 32, "patch_size": 8, "depths": (2,), "heads": (2,), "mlp_ratio": 2, "num_classes": 10}
DEIT_TINY: dict[str, Any] = {}
DEIT_SMALL: dict[str, Any] = {"dims": (384,), "heads": (6,)}
SWIN_NANO: dict[str, Any] = {
    "host": "swin", "image_size": 56, "patch_size": 4, "dims": (32, 64), "depths": (2, 1), "heads": (2, 2), "mlp_ratio": 2,
    "num_classes": 10,
}  # fmt: skip
SWIN_TINY: dict[str, Any] = {
    "host": "swin", "patch_size": 4, "dims": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24),
}  # fmt: skip


def infer_ratio(state: Mapping[str, Tensor], block: str) -> int:
    """The MLP's expansion in the block with this prefix."""
    hidden, dim = shape_of(state, block + "mlp.fc1.weight", 2)
    if hidden % dim:
        raise ValueError(f"{block}mlp.fc1 has {hidden} outputs, no multiple of {dim}")
    return hidden // dim


def infer_deit(state: Mapping[str, Tensor], extra_tokens: int, attention: str = "attn") -> dict[str, Any]:
    """What the state dict of a DeiT implies. The heads are in no key: 64 channels each, as in every published DeiT."""
    _, tokens, dim = shape_of(state, "pos_embed", 3)
    stem = shape_of(state, "patch_embed.proj.weight", 4)
    shape_of(state, "blocks.0.norm1.weight", 1)
    side = math.isqrt(max(0, tokens - extra_tokens))
    if not side or side * side + extra_tokens != tokens:
        raise ValueError(f"pos_embed has {tokens} tokens, not a square and {extra_tokens} more")
    return {
        "host": "deit",
        "image_size": side * stem[2],
        "in_channels": stem[1],
        "patch_size": stem[2],
        "dims": (dim,),
        "depths": (count_keys(state, "blocks.{}.norm1.weight"),),
        "heads": (dim // HEAD_DIM if dim % HEAD_DIM == 0 else 1,),
        "mlp_ratio": infer_ratio(state, "blocks.0."),
        "num_classes": shape_of(state, "head.weight", 2)[0],
        "qkv_bias": f"blocks.0.{attention}.qkv.bias" in state,
    }


class PatchEmbed(nn.Module):
    """Full-precision convolution over non-overlapping patches, then (Swin) a layer norm; [B, C, S, S] to [B, tokens, dim]."""

    def __init__(self, config: HostConfig, norm: bool = False) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.dims[0], config.patch_size, stride=config.patch_size)
        self.norm = nn.LayerNorm(config.dims[0]) if norm else None

    def forward(self, pixels: Tensor) -> Tensor:
        x = to_tokens(self.proj(pixels))
        return x if self.norm is None else self.norm(x)


class Attention(nn.Module):
    """What the attentions of all families share: heads, and the relative position bias of a window.

    Args:
        window: side of the window in tokens; 0 where there is no relative position bias.
        persistent: the index buffer is in the state dict.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int = 0, persistent: bool = True) -> None:
        super().__init__()
        self.heads, self.head_dim, self.window = heads, dim // heads, window
        if window:
            self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.02)
            self.register_buffer("relative_position_index", relative_positions(window), persistent=persistent)

    def split(self, x: Tensor) -> Tensor:
        """[B, tokens, channels] to [B, heads, tokens, head_dim]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_dim).transpose(1, 2)

    def split_qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, tokens, 3 * channels] to queries, keys and values, each [B, heads, tokens, head_dim]."""
        batch, tokens, _ = x.shape
        return x.reshape(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    def merge(self, x: Tensor) -> Tensor:
        """[B, heads, tokens, head_dim] to [B, tokens, channels]."""
        return x.transpose(1, 2).flatten(2)

    def biased(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """Scores plus the relative position bias and the shift mask [windows, tokens, tokens], where there are any."""
        if not self.window:
            return scores
        tokens = self.window * self.window
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(1, tokens, tokens, self.heads).permute(0, 3, 1, 2)
        if mask is not None:  # one constant of both; the windows of one image are consecutive in the batch
            bias = (bias + mask.unsqueeze(1)).repeat(scores.shape[0] // mask.shape[0], 1, 1, 1)
        return scores + bias


def relative_positions(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window, int64 [window**2, window**2]."""
    place = torch.arange(window)
    y, x = place.repeat_interleave(window), place.repeat(window)
    rows, columns = y[:, None] - y[None] + window - 1, x[:, None] - x[None] + window - 1
    return rows * (2 * window - 1) + columns


class Mlp(nn.Module):
    """fc1, GELU, clipping to [-clip, clip] if asked for, fc2."""

    def __init__(self, fc1: nn.Module, fc2: nn.Module, clip: float | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2, self.clip = fc1, fc2, clip

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.fc1(x))
        if self.clip is not None:
            h = h.clamp(-self.clip, self.clip)
        out: Tensor = self.fc2(h)
        return out


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x))."""

    def __init__(self, dim: int, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class DeiT(nn.Module):
    """pixels [B, C, S, S] -> logits [B, classes].

    Args:
        config: the shape.
        attention: makes the attention of a stage.
        mlp: makes the MLP of a stage.
        distilled: a second token and a second head; the logits are the mean of both heads'.
    """

    def __init__(
        self, config: HostConfig, attention: Callable[[int], nn.Module], mlp: Callable[[int], nn.Module], distilled: bool = False
    ) -> None:
        super().__init__()
        dim = config.dims[0]
        self.config, self.distilled = config, distilled
        self.extra_tokens = 2 if distilled else 1
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        if distilled:
            self.dist_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, config.side() ** 2 + self.extra_tokens, dim) * 0.02)
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(Block(dim, attention(0), mlp(0)) for _ in range(config.depths[0]))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, config.num_classes)
        if distilled:
            self.head_dist = nn.Linear(dim, config.num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        batch = pixels.shape[0]
        first = [self.cls_token, self.dist_token] if self.distilled else [self.cls_token]
        x = torch.cat([*(token.expand(batch, -1, -1) for token in first), self.patch_embed(pixels)], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x[:, : self.extra_tokens])  # the norm of a token does not depend on the others
        logits: Tensor = self.head(x[:, 0])
        return (logits + self.head_dist(x[:, 1])) / 2.0 if self.distilled else logits


def deit_tokens(config: HostConfig, stage: int, extra_tokens: int) -> int:
    """Keys of an attention row: all tokens of a DeiT, those of one window of a Swin."""
    return config.side() ** 2 + extra_tokens if config.host == "deit" else config.window_of(stage) ** 2
