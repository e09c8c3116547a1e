"""The model families that are known: how each is told by its keys, configured and built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bvtdeploy.models import bhvit, bi_vit_li, binaryvit_le, binaryvit_xiao, bivit_he


@dataclass(frozen=True)
class Family:
    """A family: one module of this package.

    Attributes:
        title: what people call it.
        keys: by which keys it is told, for messages.
        build: makes a model with fresh parameters from a configuration.
        matches: whether a state dict is of this family.
        infer_config: the configuration that a state dict, what is stated beside it, and its file's name (for messages) imply.
        configs: named configurations.
    """

    title: str
    keys: str
    build: Callable[[Any], nn.Module]
    matches: Callable[[Mapping[str, Tensor]], bool]
    infer_config: Callable[[Mapping[str, Tensor], Mapping[str, Any], str], Any]
    configs: Mapping[str, Any]


# In the order in which they are asked.
FAMILIES = (
    Family(
        "BinaryViT (Le & Li)",
        "vit.encoder.layer.*",
        binaryvit_le.BinaryViTLe,
        binaryvit_le.matches,
        binaryvit_le.infer_config,
        binaryvit_le.CONFIGS,
    ),
    Family("BHViT", "vit.encoder.layerA.*, layerB.*", bhvit.BHViT, bhvit.matches, bhvit.infer_config, bhvit.CONFIGS),
    Family(
        "Bi-ViT (Li et al.)",
        "*.attn.attn_act.alpha",
        bi_vit_li.build,
        bi_vit_li.matches,
        bi_vit_li.infer_config,
        bi_vit_li.CONFIGS,
    ),
    Family(
        "BiViT (He et al.)",
        "*.attn.qkv.scaling_factor",
        bivit_he.build,
        bivit_he.matches,
        bivit_he.infer_config,
        bivit_he.CONFIGS,
    ),
    Family(
        "shifted-sign DeiT (after Xiao et al.)",
        "*.attn.qkv.shift",
        binaryvit_xiao.build,
        binaryvit_xiao.matches,
        binaryvit_xiao.infer_config,
        binaryvit_xiao.CONFIGS,
    ),
)
