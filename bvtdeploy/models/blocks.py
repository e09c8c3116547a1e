"""Blocks that the pyramids share: attention output, expansion, contraction; all of tokens ``[batch, tokens, channels]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvtdeploy.models.layers import BinaryLinear, LayerScale, RPReLU, make_norm


class AttentionOutput(nn.Module):
    """Binary linear with a shortcut around it, then layer scale."""

    def __init__(self, dim: int, binary: bool = True, norm: str = "batch") -> None:
        super().__init__()
        self.move = nn.Parameter(torch.zeros(dim))
        self.dense = BinaryLinear(dim, dim, binary)
        self.norm = make_norm(norm, dim)
        self.rprelu = RPReLU(dim)
        self.layerscale = LayerScale(dim, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layerscale(self.rprelu(self.norm(self.dense(x, self.move)) + x))
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

    def __init__(self, dim: int, hidden: int, binary: bool = True, norm: str = "batch") -> None:
        super().__init__()
        self.ratio = hidden // dim
        self.move = nn.Parameter(torch.zeros(hidden))
        self.dense = BinaryLinear(hidden, dim, binary)
        self.norm = make_norm(norm, dim)
        self.rprelu = RPReLU(dim)
        self.layerscale = LayerScale(dim, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.avg_pool1d(x, self.ratio)
        out: Tensor = self.layerscale(self.rprelu(self.norm(self.dense(x, self.move)) + shortcut))
        return out
