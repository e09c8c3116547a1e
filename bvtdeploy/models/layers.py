"""Layers that binary vision transformers share.

Token tensors are ``[batch, tokens, channels]``. In eval mode every layer is plain tensor arithmetic (``torch.sign``,
no straight-through terms, no control flow on values), so that ``torch.export`` gives a short graph. In training mode
the forward values are the same and the gradients are the usual straight-through estimates. ``binary=False`` switches
a layer to its full-precision twin: same parameters, no signs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _SignSTE(torch.autograd.Function):
    """sign(x) forward; triangular gradient 2 - 2|x| on [-1, 1] backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (2.0 - 2.0 * x.abs()).clamp_min(0.0)


class _ClipQuantiserSTE(torch.autograd.Function):
    """clip * clamp(round(p / clip), 0, 1) forward; learned-step-size gradients backward."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, clip: Tensor) -> Tensor:
        ctx.save_for_backward(p, clip)
        return (p / clip).round().clamp(0.0, 1.0) * clip

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        p, clip = ctx.saved_tensors
        grad = grads[0]
        ratio = p / clip
        inside = ratio < 1.0
        grad_p = torch.where(inside, grad, torch.zeros_like(grad))
        slope = torch.where(inside, ratio.round() - ratio, torch.ones_like(ratio))
        grad_clip = (grad * slope).sum() / float(p.numel()) ** 0.5
        return grad_p, grad_clip.reshape(clip.shape)


def binary_sign(x: Tensor, training: bool) -> Tensor:
    """sign(x), with the straight-through gradient where the model trains."""
    if training:
        out: Tensor = _SignSTE.apply(x)  # type: ignore[no-untyped-call]
        return out
    return torch.sign(x)


def ste(x: Tensor, value: Tensor, training: bool) -> Tensor:
    """``value``; where the model trains, with the gradient of ``x``."""
    return x + (value - x).detach() if training else value


def binary_weight(weight: Tensor, centred: bool, training: bool) -> Tensor:
    """The one-bit weight: mean|w| of each output row times sign(w), or times sign(w - row mean) when ``centred``."""
    dims = list(range(1, weight.dim()))
    alpha = weight.abs().mean(dims, keepdim=True)
    latent = weight - weight.mean(dims, keepdim=True) if centred else weight
    binary = alpha * torch.sign(latent)
    if training:
        passed = latent.clamp(-1.0, 1.0)
        return binary.detach() + (passed - passed.detach())
    return binary


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the last axis of ``[batch, tokens, channels]``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


def make_norm(kind: str, channels: int) -> nn.Module:
    """The normalisation of every branch: "batch", or "layer" (of each token alone); published with an epsilon of 1e-5 both."""
    return BatchNorm(channels) if kind == "batch" else nn.LayerNorm(channels)


class RPReLU(nn.Module):
    """PReLU with a learned shift before and after it, all per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.move1 = nn.Parameter(torch.zeros(channels))
        self.move2 = nn.Parameter(torch.zeros(channels))
        self.prelu = nn.PReLU(channels, init=0.25)

    def forward(self, x: Tensor) -> Tensor:
        shifted = x - self.move1
        return torch.where(shifted > 0, shifted, self.prelu.weight * shifted) + self.move2


class LayerScale(nn.Module):
    """x * alpha + move, per channel."""

    def __init__(self, channels: int, init: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((channels,), init))
        self.move = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.alpha + self.move


class BinaryLinear(nn.Linear):
    """Linear layer without bias: signs of the shifted input times the row-scaled one-bit weight."""

    def __init__(self, in_features: int, out_features: int, binary: bool = True) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.binary = binary

    def forward(self, x: Tensor, move: Tensor | None = None) -> Tensor:
        shifted = x if move is None else x + move
        if not self.binary:
            return F.linear(shifted, self.weight)
        weight = binary_weight(self.weight, centred=True, training=self.training)
        return F.linear(binary_sign(shifted, self.training), weight)


class BinaryConv2x2(nn.Conv2d):
    """2x2 convolution of stride 2 without bias: signs of the shifted input times the scaled one-bit weight of each output
    channel. ``centred`` subtracts the channel's mean before the weight's sign."""

    def __init__(self, in_channels: int, out_channels: int, binary: bool = True, centred: bool = False) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2, bias=False)
        self.binary, self.centred = binary, centred

    def forward(self, x: Tensor, move: Tensor | None = None) -> Tensor:
        shifted = x if move is None else x + move
        if not self.binary:
            return F.conv2d(shifted, self.weight, stride=2)
        weight = binary_weight(self.weight, centred=self.centred, training=self.training)
        return F.conv2d(binary_sign(shifted, self.training), weight, stride=2)


class BinaryDilatedConv(nn.Conv2d):
    """3x3 grouped convolution over codes that are signs already, with a bias and a centred one-bit weight. The padding keeps the
    size and is of zeros, not of codes: a tap outside adds nothing."""

    def __init__(self, channels: int, groups: int, dilation: int) -> None:
        super().__init__(channels, channels, kernel_size=3, padding=dilation, dilation=dilation, groups=groups)

    def forward(self, codes: Tensor) -> Tensor:
        weight = binary_weight(self.weight, centred=True, training=self.training)
        return F.conv2d(codes, weight, self.bias, padding=self.padding, dilation=self.dilation, groups=self.groups)


def quantise_probabilities(p: Tensor, clip: Tensor, training: bool) -> Tensor:
    """Attention probabilities to the two levels {0, clip}: clip where p / clip rounds (half to even) to 1 or more."""
    if training:
        out: Tensor = _ClipQuantiserSTE.apply(p, clip)  # type: ignore[no-untyped-call]
        return out
    return (p / clip).round().clamp(0.0, 1.0) * clip


def to_grid(tokens: Tensor, side: int) -> Tensor:
    """[B, side*side, C] to [B, C, side, side] (a view)."""
    return tokens.reshape(tokens.shape[0], side, side, tokens.shape[2]).permute(0, 3, 1, 2)


def to_tokens(grid: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H*W, C]."""
    return grid.permute(0, 2, 3, 1).flatten(1, 2)
