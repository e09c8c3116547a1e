"""BiViT (He et al., ICCV 2023, arXiv 2211.07091): softmax-aware binary attention in a DeiT or a Swin.

Published are the attention and the MLP, not a model; parameter names are theirs (``qkv``, ``proj``, ``fc1``, ``fc2`` with
``weight``, ``bias`` and ``scaling_factor``) inside the host's. In the published ImageNet models the MLP's activations stay in
full precision ("1w32a"); in "w1a1" they are signs too, and the scales of the MLP are mean|w|. Patch merging of a Swin stays in
full precision.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bvtdeploy.models.inference import configure
from bvtdeploy.models.layers import binary_sign
from bvtdeploy.models.quantisers import OneBitLinear, softmax_aware
from bvtdeploy.models.swin import Swin, infer_swin
from bvtdeploy.models.vit import (
    DEIT_NANO,
    DEIT_SMALL,
    DEIT_TINY,
    SWIN_NANO,
    SWIN_TINY,
    Attention,
    DeiT,
    HostConfig,
    Mlp,
    infer_deit,
)

_SCALE = re.compile(r"\.attn\.(m\.)?qkv\.scaling_factor$")


@dataclass(frozen=True)
class BiViTHeConfig(HostConfig):
    """The host's shape.

    Attributes:
        mlp: "1w32a" (binary weights, full-precision activations) or "w1a1".
        wrapped_attention: the keys of the attention are ``attn.m.*`` instead of ``attn.*``: the published module, wrapped.
    """

    family: ClassVar[str] = "BiViT"

    mlp: str = "1w32a"
    wrapped_attention: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mlp not in ("1w32a", "w1a1"):
            raise ValueError(f"mlp must be 1w32a or w1a1, got {self.mlp!r}")


class SoftmaxAwareAttention(Attention):
    """Signs of queries, keys and values; a key counts where its probability is at least a quarter of the row's largest."""

    def __init__(self, dim: int, heads: int, window: int, config: BiViTHeConfig) -> None:
        super().__init__(dim, heads, window, config.persistent_buffers)
        self.qkv = OneBitLinear(dim, 3 * dim, centred=True, bias=config.qkv_bias, learned_scale=True)
        self.proj = OneBitLinear(dim, dim, centred=True, learned_scale=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.split_qkv(binary_sign(self.qkv(x), self.training))
        scores = (q @ k.transpose(-1, -2)) * float(self.head_dim) ** -0.5
        codes = softmax_aware(torch.softmax(self.biased(scores, mask), dim=-1), self.training)
        out: Tensor = self.proj(self.merge(codes @ v))  # integers: an exact 0 stays 0 in proj's sign
        return out


class Wrapped(nn.Module):
    """The attention as ``m``."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.m(x, mask)
        return out


class _Parts:
    """What BiViT puts into its host."""

    def __init__(self, config: BiViTHeConfig) -> None:
        self.config = config

    def attention(self, stage: int) -> nn.Module:
        window = self.config.window_of(stage) if self.config.host == "swin" else 0
        attention = SoftmaxAwareAttention(self.config.dims[stage], self.config.heads[stage], window, self.config)
        return Wrapped(attention) if self.config.wrapped_attention else attention

    def mlp(self, stage: int) -> nn.Module:
        dim, wide = self.config.dims[stage], self.config.mlp == "1w32a"
        hidden = dim * self.config.mlp_ratio
        return Mlp(
            OneBitLinear(dim, hidden, centred=True, learned_scale=wide, binary_input=not wide),
            OneBitLinear(hidden, dim, centred=True, learned_scale=wide, binary_input=not wide),
        )


class BiViTHeDeiT(DeiT):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    config: BiViTHeConfig

    def __init__(self, config: BiViTHeConfig) -> None:
        parts = _Parts(config)
        super().__init__(config, parts.attention, parts.mlp)


class BiViTHeSwin(Swin):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    config: BiViTHeConfig

    def __init__(self, config: BiViTHeConfig) -> None:
        parts = _Parts(config)
        super().__init__(config, parts.attention, parts.mlp, lambda ins, outs: nn.Linear(ins, outs, bias=False))


def build(config: BiViTHeConfig) -> BiViTHeDeiT | BiViTHeSwin:
    """The model with random weights."""
    return BiViTHeDeiT(config) if config.host == "deit" else BiViTHeSwin(config)


def matches(state: Mapping[str, Tensor]) -> bool:
    """The state dict is one of this family."""
    return any(_SCALE.search(key) for key in state)


def infer_config(state: Mapping[str, Tensor], stated: Mapping[str, Any] | None = None, where: str = "") -> BiViTHeConfig:
    """The configuration that a state dict implies; ``stated`` entries win.

    A learned scale in the MLP means "1w32a". Not in the keys: the heads of a DeiT (64 channels each are assumed).
    """

    def infer() -> dict[str, Any]:
        wrapped = any(".attn.m.qkv." in key for key in state)
        prefix = "attn.m" if wrapped else "attn"
        swin = "layers.0.blocks.0.norm1.weight" in state
        values = infer_swin(state, prefix) if swin else infer_deit(state, 1, prefix)
        learned = ("layers.0." if swin else "") + "blocks.0.mlp.fc1.scaling_factor" in state
        return {**values, "mlp": "1w32a" if learned else "w1a1", "wrapped_attention": wrapped}

    return configure(BiViTHeConfig, infer, stated, where)


CONFIGS: dict[str, BiViTHeConfig] = {
    "bivit_he_deit_nano": BiViTHeConfig(**DEIT_NANO, dims=(128,), mlp="w1a1"),
    "bivit_he_deit_tiny": BiViTHeConfig(**DEIT_TINY),
    "bivit_he_deit_small": BiViTHeConfig(**DEIT_SMALL),
    "bivit_he_swin_nano": BiViTHeConfig(**SWIN_NANO),
    "bivit_he_swin_tiny": BiViTHeConfig(**SWIN_TINY),
}
