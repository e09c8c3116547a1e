"""Quantisers and one-bit linears of the DeiT- and Swin-hosted families.

Every product is computed on the integer codes first and scaled once afterwards. In exact arithmetic this is the published value;
in floats it keeps a sum that is 0 exactly 0, so that a sign after it does not depend on rounding noise. In eval mode everything is
plain tensor arithmetic; in training mode values are the same and gradients are straight-through estimates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvtdeploy.errors import UserError
from bvtdeploy.models.layers import binary_sign


def _pass_through(value: Tensor, latent: Tensor) -> Tensor:
    """``value``, with the gradient of ``latent``."""
    return value.detach() + (latent - latent.detach())


def weight_codes(weight: Tensor, centred: bool, training: bool) -> Tensor:
    """sign(w), or sign(w - row mean) when ``centred``; [out, in] to [out, in]."""
    latent = weight - weight.mean(-1, keepdim=True) if centred else weight
    codes = torch.sign(latent)
    return _pass_through(codes, latent.clamp(-1.0, 1.0)) if training else codes


def softmax_aware(p: Tensor, training: bool) -> Tensor:
    """Attention probabilities to {0, 1}: 1 where p is at least a quarter of its row's maximum (equality counts)."""
    codes = (p >= 0.25 * p.amax(dim=-1, keepdim=True)).to(p.dtype)
    return _pass_through(codes, p) if training else codes


class OneBitLinear(nn.Linear):
    """(x @ codes(w)^T) * scale + bias, where x is its sign unless ``binary_input`` is False.

    Args:
        centred: codes are sign(w - row mean) instead of sign(w).
        learned_scale: the scale is the parameter ``scaling_factor`` [out, 1]; otherwise mean|w| of each row, from the raw weight.
            In a state dict a ``scaling_factor`` of nothing but zeros was never initialised and stands for mean|w|.
        shifted: the parameter ``shift`` [in] is added in front of the sign.
        dead_bias: the bias is a parameter that is not added.
    """

    def __init__(
        self, in_features: int, out_features: int, *, centred: bool, bias: bool = True, dead_bias: bool = False,
        learned_scale: bool = False, shifted: bool = False, binary_input: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(in_features, out_features, bias=bias)
        self.centred, self.dead_bias, self.binary_input = centred, dead_bias, binary_input
        self.scaling_factor = nn.Parameter(self.mean_magnitude().detach().unsqueeze(1)) if learned_scale else None
        self.shift = nn.Parameter(torch.zeros(in_features)) if shifted else None

    def mean_magnitude(self) -> Tensor:
        """mean|w| of each row, [out]."""
        return self.weight.abs().mean(dim=1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        scale, weight = state_dict.get(prefix + "scaling_factor"), state_dict.get(prefix + "weight")
        if self.scaling_factor is not None and scale is not None and weight is not None and not bool(scale.any()):
            state_dict[prefix + "scaling_factor"] = weight.float().abs().mean(dim=1, keepdim=True)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor) -> Tensor:
        if self.shift is not None:
            x = x + self.shift
        if self.binary_input:
            x = binary_sign(x, self.training)
        scale = self.mean_magnitude() if self.scaling_factor is None else self.scaling_factor.flatten()
        y = F.linear(x, weight_codes(self.weight, self.centred, self.training)) * scale
        return y if self.bias is None or self.dead_bias else y + self.bias


class ElasticQuantiser(nn.Module):
    """One-bit quantiser with a learned step ``alpha`` and zero point z for each head or channel.

    The value is alpha * (sign(x / alpha + z) - z) with z rounded half to even; the module gives the integer sign(...) - z and
    leaves the factor ``alpha`` to its caller. z = -1 makes codes {0, 1 at equality, 2} with the threshold x = alpha.

    Args:
        shape: of ``alpha`` and the zero point when they broadcast against x; one entry is not 1.
        keys: of a quantiser of attention probabilities, how many keys a row has; else 0.
    """

    alpha: Tensor
    zero_point: Tensor

    def __init__(self, shape: tuple[int, ...], keys: int = 0) -> None:
        super().__init__()
        count = max(shape)
        self.shape, self.keys = shape, keys
        self.alpha = nn.Parameter(torch.full((count,), 1.0 / keys if keys else 1.0))
        self.zero_point = nn.Parameter(torch.full((count,), -1.0 if keys else 0.0))
        # Published checkpoints carry both; init_state is 0 as long as alpha holds no value. Inference reads neither.
        self.register_buffer("init_state", torch.ones(1))
        self.register_buffer("signed", torch.zeros(1))

    def scale(self) -> Tensor:
        """``alpha``, broadcastable against the codes."""
        return self.alpha.view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        zero = self.zero_point.round().view(self.shape)
        return binary_sign(x / self.scale() + zero, self.training) - zero


class ElasticLinear(nn.Linear):
    """|alpha| * sign(w) as weight, the input quantised channel by channel. No bias.

    The input's steps differ between the channels of one dot product, so the product is one of real values and one-bit weights.
    """

    alpha: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.alpha = nn.Parameter(self.weight.detach().abs().mean(dim=1))
        self.register_buffer("init_state", torch.ones(1))
        self.act = ElasticQuantiser((in_features,))

    def forward(self, x: Tensor) -> Tensor:
        codes = weight_codes(self.weight, centred=False, training=self.training)
        return F.linear(self.act(x) * self.act.scale(), codes) * self.alpha.abs()


def require_initialised(state: Mapping[str, Tensor], where: str = "") -> None:
    """Refuses a state dict with a quantiser that was never initialised, or whose step cannot be divided by."""
    flags = {k.removesuffix(".init_state"): v for k, v in state.items() if k.endswith(".init_state")}
    unset = sorted(owner for owner, flag in flags.items() if not bool((flag != 0).all()))
    if unset:
        raise UserError(
            f"{len(unset)} quantiser(s) of the checkpoint were never initialised",
            where=where,
            why=f"init_state is 0, so alpha holds no value, in {', '.join(unset[:3])}{', ...' if len(unset) > 3 else ''}",
            fix="run at least one training step before saving the model",
        )
    for owner in sorted(flags):
        alpha = state.get(owner + ".alpha")
        if alpha is not None and not bool((torch.isfinite(alpha) & (alpha != 0)).all()):
            raise UserError(
                "a quantiser's step is 0 or not finite", where=where, why=f"alpha of {owner}",
                fix="the checkpoint is damaged or its training diverged: use another",
            )  # fmt: skip


@torch.no_grad()
def calibrate_quantisers(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Makes a model with random weights usable: every quantiser gets values with which all of its codes occur.

    Steps vary by a quarter around 1, or around one over the number of keys for probabilities (zero point -1); scales become
    mean|w|; shifts are small; no weight is exactly 0.
    """

    def around(like: Tensor, centre: float) -> Tensor:
        draw = torch.rand(like.shape, generator=generator).to(like)
        return centre * (0.75 + 0.5 * draw)

    for module in model.modules():
        if isinstance(module, ElasticQuantiser):
            module.alpha.copy_(around(module.alpha, 1.0 / module.keys if module.keys else 1.0))
            module.zero_point.fill_(-1.0 if module.keys else 0.0)
            module.get_buffer("init_state").fill_(1.0)
        elif isinstance(module, (OneBitLinear, ElasticLinear)):
            module.weight.masked_fill_(module.weight == 0, torch.finfo(torch.float16).tiny)
            mean = module.weight.abs().mean(dim=1)
            if isinstance(module, ElasticLinear):
                module.alpha.copy_(mean)
                module.get_buffer("init_state").fill_(1.0)
            elif module.scaling_factor is not None:
                module.scaling_factor.copy_(mean.unsqueeze(1))
            if isinstance(module, OneBitLinear) and module.shift is not None:
                module.shift.copy_(around(module.shift, 0.2) - 0.2)
