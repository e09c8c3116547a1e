"""Bi-ViT (Li et al., AAAI 2024, arXiv 2305.12354): elastic one-bit attention in a distilled DeiT or a Swin.

Parameter names follow the published checkpoints. Their linears have a bias that the published model never adds. Products are
computed on integer codes and scaled afterwards; the published code scales first, so that its signs of sums that are exactly 0 are
rounding noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bvtdeploy.models.inference import configure
from bvtdeploy.models.quantisers import ElasticLinear, ElasticQuantiser, OneBitLinear, require_initialised
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
    deit_tokens,
    infer_deit,
)

_CLIP = 10.0


@dataclass(frozen=True)
class BiViTLiConfig(HostConfig):
    """The host's shape."""

    family: ClassVar[str] = "Bi-ViT"


class ElasticAttention(Attention):
    """Queries, keys, values and probabilities quantised with a step and a zero point for each head.

    Args:
        normed: queries and keys pass a layer norm over the channels of a head first (the DeiT variant).
        keys: of one row.
    """

    def __init__(self, dim: int, heads: int, window: int, keys: int, normed: bool, config: BiViTLiConfig) -> None:
        super().__init__(dim, heads, window, config.persistent_buffers)
        self.norm_q = nn.LayerNorm(self.head_dim) if normed else None
        self.norm_k = nn.LayerNorm(self.head_dim) if normed else None
        self.qkv = OneBitLinear(dim, 3 * dim, centred=False, bias=config.qkv_bias, dead_bias=True)
        self.proj = OneBitLinear(dim, dim, centred=False, dead_bias=True)
        per_head = (1, heads, 1, 1)
        self.q_act, self.k_act, self.v_act = (ElasticQuantiser(per_head) for _ in range(3))
        self.attn_act = ElasticQuantiser(per_head, keys)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.split_qkv(self.qkv(x))
        if self.norm_q is not None and self.norm_k is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        dots = self.q_act(q) @ self.k_act(k).transpose(-1, -2)
        scores = dots * (self.q_act.scale() * self.k_act.scale() * float(self.head_dim) ** -0.5)
        p = torch.softmax(self.biased(scores, mask), dim=-1)
        context = (self.attn_act(p) @ self.v_act(v)) * (self.attn_act.scale() * self.v_act.scale())
        out: Tensor = self.proj(self.merge(context))
        return out


class _Parts:
    """What Bi-ViT puts into its host."""

    def __init__(self, config: BiViTLiConfig) -> None:
        self.config = config

    def attention(self, stage: int) -> nn.Module:
        deit = self.config.host == "deit"
        window, keys = 0 if deit else self.config.window_of(stage), deit_tokens(self.config, stage, 2)
        return ElasticAttention(self.config.dims[stage], self.config.heads[stage], window, keys, deit, self.config)

    def mlp(self, stage: int) -> nn.Module:
        dim = self.config.dims[stage]
        hidden = dim * self.config.mlp_ratio
        fc1 = OneBitLinear(dim, hidden, centred=False, dead_bias=True)
        return Mlp(fc1, OneBitLinear(hidden, dim, centred=False, dead_bias=True), _CLIP)


class BiViTLiDeiT(DeiT):
    """pixels [B, C, S, S] -> logits [B, classes], the mean of the class token's and the distillation token's."""

    config: BiViTLiConfig

    def __init__(self, config: BiViTLiConfig) -> None:
        parts = _Parts(config)
        super().__init__(config, parts.attention, parts.mlp, distilled=True)


class BiViTLiSwin(Swin):
    """pixels [B, C, S, S] -> logits [B, classes]."""

    config: BiViTLiConfig

    def __init__(self, config: BiViTLiConfig) -> None:
        parts = _Parts(config)
        super().__init__(config, parts.attention, parts.mlp, ElasticLinear)


def build(config: BiViTLiConfig) -> BiViTLiDeiT | BiViTLiSwin:
    """The model with random weights."""
    return BiViTLiDeiT(config) if config.host == "deit" else BiViTLiSwin(config)


def matches(state: Mapping[str, Tensor]) -> bool:
    """The state dict is one of this family."""
    return any(key.endswith(".attn.attn_act.alpha") for key in state)


def infer_config(state: Mapping[str, Tensor], stated: Mapping[str, Any] | None = None, where: str = "") -> BiViTLiConfig:
    """The configuration that a state dict implies; ``stated`` entries win. Refuses quantisers that were never initialised.

    Everything follows from keys and shapes, but for the image size of a Swin without shifted windows.
    """

    def infer() -> dict[str, Any]:
        if "layers.0.blocks.0.norm1.weight" in state:
            return infer_swin(state)
        return {**infer_deit(state, 2), "heads": tuple(state["blocks.0.attn.q_act.alpha"].shape)}

    config = configure(BiViTLiConfig, infer, stated, where)
    require_initialised(state, where)
    return config


CONFIGS: dict[str, BiViTLiConfig] = {
    "bi_vit_li_deit_nano": BiViTLiConfig(**DEIT_NANO, dims=(64,)),
    "bi_vit_li_deit_tiny": BiViTLiConfig(**DEIT_TINY),
    "bi_vit_li_deit_small": BiViTLiConfig(**DEIT_SMALL),
    "bi_vit_li_swin_nano": BiViTLiConfig(**SWIN_NANO),
    "bi_vit_li_swin_tiny": BiViTLiConfig(**SWIN_TINY),
}
