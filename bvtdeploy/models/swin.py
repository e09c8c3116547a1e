"""The Swin host: windowed attention, every second block on a shifted grid, patch merging between stages.

The keys of the state dict are those of the published Swin. Families put their attention, their MLP and their patch-merging linear
into it. An attention is called with windows ``[batch * windows, tokens of a window, channels]`` and the shift mask or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bvtdeploy.models.inference import count_keys, shape_of
from bvtdeploy.models.vit import HostConfig, PatchEmbed, infer_ratio

_MASKED = -100.0


def to_windows(x: Tensor, side: int, window: int) -> Tensor:
    """[B, side*side, C] to [B*windows, window**2, C], windows row by row; a grid [B, side, side, C] will do as well."""
    count, channels = side // window, x.shape[-1]
    grid = x.reshape(-1, count, window, count, window, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def from_windows(x: Tensor, side: int, window: int) -> Tensor:
    """[B*windows, window**2, C] to [B, side, side, C]."""
    count, channels = side // window, x.shape[-1]
    grid = x.reshape(-1, count, count, window, window, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, side, side, channels)


def shift_mask(side: int, window: int, shift: int) -> Tensor:
    """[windows, window**2, window**2]: 0 for two tokens that are neighbours before the shift too, else -100."""
    place = torch.arange(side)
    region = (place >= side - window).long() + (place >= side - shift).long()
    windows = to_windows((3 * region[:, None] + region[None]).reshape(1, side * side, 1), side, window).squeeze(-1)
    return torch.where(windows[:, :, None] == windows[:, None, :], 0.0, _MASKED)


class SwinBlock(nn.Module):
    """A pre-norm block whose attention sees windows, of the grid rolled by ``shift`` tokens."""

    attn_mask: Tensor | None

    def __init__(self, config: HostConfig, stage: int, index: int, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        dim, side, window = config.dims[stage], config.side(stage), config.window_of(stage)
        self.side, self.window = side, window
        self.shift = window // 2 if index % 2 and side > config.window else 0
        mask = shift_mask(side, window, self.shift) if self.shift else None
        self.register_buffer("attn_mask", mask, persistent=config.persistent_buffers)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x).reshape(-1, self.side, self.side, x.shape[2])
        if self.shift:
            h = torch.roll(h, shifts=(-self.shift, -self.shift), dims=(1, 2))
        h = from_windows(self.attn(to_windows(h, self.side, self.window), self.attn_mask), self.side, self.window)
        if self.shift:
            h = torch.roll(h, shifts=(self.shift, self.shift), dims=(1, 2))
        x = x + h.flatten(1, 2)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchMerging(nn.Module):
    """2x2 neighbours become one token: [B, side*side, C] to [B, side*side/4, 2C].

    The channels of (row, column) = (0,0), (1,0), (0,1), (1,1) follow one another.
    """

    def __init__(self, dim: int, side: int, reduction: nn.Module) -> None:
        super().__init__()
        self.side = side
        self.reduction = reduction
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        half, channels = self.side // 2, x.shape[2]
        grid = x.reshape(-1, half, 2, half, 2, channels).permute(0, 1, 3, 4, 2, 5)
        out: Tensor = self.reduction(self.norm(grid.reshape(-1, half * half, 4 * channels)))
        return out


class Stage(nn.Module):
    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    """pixels [B, C, S, S] -> logits [B, classes].

    Args:
        config: the shape.
        attention: makes the attention of a stage.
        mlp: makes the MLP of a stage.
        reduction: makes the linear of patch merging, of this many inputs and outputs.
    """

    def __init__(
        self, config: HostConfig, attention: Callable[[int], nn.Module], mlp: Callable[[int], nn.Module],
        reduction: Callable[[int, int], nn.Module],
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config, norm=True)
        self.layers = nn.ModuleList()
        for stage, (dim, depth) in enumerate(zip(config.dims, config.depths, strict=True)):
            blocks: list[nn.Module] = [SwinBlock(config, stage, i, attention(stage), mlp(stage)) for i in range(depth)]
            last = stage == len(config.dims) - 1
            self.layers.append(Stage(blocks, None if last else PatchMerging(dim, config.side(stage), reduction(4 * dim, 2 * dim))))
        self.norm = nn.LayerNorm(config.dims[-1])
        self.head = nn.Linear(config.dims[-1], config.num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(pixels)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits


def infer_swin(state: Mapping[str, Tensor], attention: str = "attn") -> dict[str, Any]:
    """What the state dict of a Swin implies. The image size follows from the shift masks; without any it is 224."""
    stages = count_keys(state, "layers.{}.blocks.0.norm1.weight")
    stem = shape_of(state, "patch_embed.proj.weight", 4)
    tables = [shape_of(state, f"layers.{s}.blocks.0.{attention}.relative_position_bias_table", 2) for s in range(stages)]
    windows = [(math.isqrt(rows) + 1) // 2 for rows, _ in tables]
    image = 0
    for key, value in state.items():
        index = key.removeprefix("layers.").split(".")[0]
        if key.endswith(".relative_position_index") and not bool(((value >= 0) & (value < tables[int(index)][0])).all()):
            raise ValueError(f"{key} points outside of its table")
        if key.endswith(".attn_mask") and not image:
            count, tokens, _ = shape_of(state, key, 3)
            image = math.isqrt(count) * math.isqrt(tokens) * stem[2] << int(index)
    return {
        "host": "swin",
        "image_size": image or 224,
        "in_channels": stem[1],
        "patch_size": stem[2],
        "dims": tuple(shape_of(state, f"layers.{s}.blocks.0.norm1.weight", 1)[0] for s in range(stages)),
        "depths": tuple(count_keys(state, f"layers.{s}.blocks.{{}}.norm1.weight") for s in range(stages)),
        "heads": tuple(heads for _, heads in tables),
        "mlp_ratio": infer_ratio(state, "layers.0.blocks.0."),
        "num_classes": shape_of(state, "head.weight", 2)[0],
        "window": windows[0],
        "qkv_bias": f"layers.0.blocks.0.{attention}.qkv.bias" in state,
        "persistent_buffers": f"layers.0.blocks.0.{attention}.relative_position_index" in state,
    }
