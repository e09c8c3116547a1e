"""A DeiT with one-bit weights and activations and a learned shift before every sign, after BinaryViT (Xiao et al., TCSVT 2024).

No code or checkpoint of that paper was published, so this is no reproduction of it. Assumed is what its abstracts leave open:

- the shift of an activation's distribution before its sign is one learned constant for each channel, not computed from the input;
- weights are mean|w| of each output row times sign(w), without centring; linears have a bias;
- queries, keys and values are signs with shifts of their own; probabilities become 0 (up to half of the clip) or the clip, which
  is one learned number a layer;
- everything else is the DeiT's: layer norms, GELU, the two residuals of a block, full-precision patch embedding and classifier.

The regulariser of the paper acts on training alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bvtdeploy.models.inference import configure
from bvtdeploy.models.layers import binary_sign, quantise_probabilities
from bvtdeploy.models.quantisers import OneBitLinear
from bvtdeploy.models.vit import DEIT_NANO, DEIT_SMALL, DEIT_TINY, Attention, DeiT, HostConfig, Mlp, deit_tokens, infer_deit


@dataclass(frozen=True)
class BinaryViTXiaoConfig(HostConfig):
    """The host's shape."""

    family: ClassVar[str] = "shifted-sign BinaryViT"
    layout: ClassVar[str] = "cls_token, pos_embed, patch_embed.*, blocks.N.*, norm.*, head.*"
    hosts: ClassVar[tuple[str, ...]] = ("deit",)


class ShiftedAttention(Attention):
    """Signs of shifted queries, keys and values; probabilities {0, clip}."""

    def __init__(self, dim: int, heads: int, keys: int, qkv_bias: bool) -> None:
        super().__init__(dim, heads)
        self.shift_q = nn.Parameter(torch.zeros(dim))
        self.shift_k = nn.Parameter(torch.zeros(dim))
        self.shift_v = nn.Parameter(torch.zeros(dim))
        self.clip = nn.Parameter(torch.tensor(2.0 / keys))
        self.qkv = OneBitLinear(dim, 3 * dim, centred=False, bias=qkv_bias, shifted=True)
        self.proj = OneBitLinear(dim, dim, centred=False, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        shifts = (self.shift_q, self.shift_k, self.shift_v)
        values = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (self.split(binary_sign(y + shift, self.training)) for y, shift in zip(values, shifts, strict=True))
        scores = (q @ k.transpose(-1, -2)) * float(self.head_dim) ** -0.5
        p = quantise_probabilities(torch.softmax(scores, dim=-1), self.clip, self.training)
        out: Tensor = self.proj(self.merge(p @ v))
        return out


class BinaryViTXiao(DeiT):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    config: BinaryViTXiaoConfig

    def __init__(self, config: BinaryViTXiaoConfig) -> None:
        dim, hidden = config.dims[0], config.dims[0] * config.mlp_ratio
        super().__init__(
            config,
            lambda stage: ShiftedAttention(dim, config.heads[0], deit_tokens(config, stage, 1), config.qkv_bias),
            lambda stage: Mlp(
                OneBitLinear(dim, hidden, centred=False, shifted=True), OneBitLinear(hidden, dim, centred=False, shifted=True)
            ),
        )


def build(config: BinaryViTXiaoConfig) -> BinaryViTXiao:
    """The model with random weights."""
    return BinaryViTXiao(config)


def matches(state: Mapping[str, Tensor]) -> bool:
    """The state dict is one of this family."""
    return any(key.endswith(".attn.qkv.shift") for key in state)


def infer_config(state: Mapping[str, Tensor], stated: Mapping[str, Any] | None = None, where: str = "") -> BinaryViTXiaoConfig:
    """The configuration that a state dict implies; ``stated`` entries win.

    Not in the keys: the heads (64 channels each are assumed).
    """
    return configure(BinaryViTXiaoConfig, lambda: infer_deit(state, 1), stated, where)


CONFIGS: dict[str, BinaryViTXiaoConfig] = {
    "binaryvit_xiao_deit_nano": BinaryViTXiaoConfig(**DEIT_NANO, dims=(128,)),
    "binaryvit_xiao_deit_tiny": BinaryViTXiaoConfig(**DEIT_TINY),
    "binaryvit_xiao_deit_small": BinaryViTXiaoConfig(**DEIT_SMALL),
}
