"""A plain Vision Transformer with random weights, to time other runtimes with (bench/): times do not depend on values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        parts = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        # Written out, and not as scaled_dot_product_attention: every converter takes this form.
        probabilities = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(-1)
        out: Tensor = self.proj((probabilities @ v).transpose(1, 2).reshape(batch, tokens, dim))
        return out


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


class PlainViT(nn.Module):
    """Image f32[B, C, H, W] to logits f32[B, classes].

    Args:
        channels, height, width: of the image.
        patch: side of a patch in pixels.
        tokens: rows of every block; those that are no patch are class tokens. The classifier reads the first one, or without them
            the mean.
        dim, heads, hidden: channels, attention heads, channels inside the MLP.
        depth: blocks.
        classes: outputs.
    """

    def __init__(
        self, *, channels: int, height: int, width: int, patch: int, tokens: int, dim: int, heads: int, hidden: int, depth: int,
        classes: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.extra = tokens - (height // patch) * (width // patch)
        self.stem = nn.Conv2d(channels, dim, patch, stride=patch)
        self.class_tokens = nn.Parameter(torch.randn(1, self.extra, dim) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, tokens, dim) * 0.02)
        self.blocks = nn.Sequential(*(_Block(dim, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.stem(pixels).flatten(2).transpose(1, 2)
        if self.extra:
            x = torch.cat([self.class_tokens.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.positions))
        out: Tensor = self.head(x[:, 0] if self.extra else x.mean(1))
        return out


def plain_vit(**shape: int) -> PlainViT:
    """The network of a shape (the arguments of `PlainViT`), in eval mode, with the same random weights in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PlainViT(**shape).eval()
