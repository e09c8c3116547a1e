"""Binary vision transformers in the handwriting of many people: other class names, other moves of axes, other ways to say a sign.

Nothing here is taken from anywhere. Every model takes an image [1, 3, 16, 16] and gives five logits; `STRANGERS` names them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (1, 3, 16, 16)
C, HEADS, CLASSES = 16, 2, 5


# -- ways to say a sign -------------------------------------------------------------------------------------------------------


class Binarize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: float = 1.0) -> Tensor:
        ctx.save_for_backward(x)
        out = x.clone()
        out[x >= 0] = 1.0
        out[x < 0] = -1.0
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() <= 1).to(grads[0].dtype), None


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def by_function(x: Tensor) -> Tensor:
    return Binarize.apply(x)  # type: ignore[no-untyped-call, no-any-return]


def by_arithmetic(x: Tensor) -> Tensor:
    return (x >= 0).float() * 2 - 1


def by_where(x: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, -1.0)


def by_clamp_estimator(x: Tensor) -> Tensor:
    g = torch.clamp(x, -1, 1)
    return (torch.sign(x) - g).detach() + g


def by_hardtanh(x: Tensor) -> Tensor:
    return torch.sign(F.hardtanh(x))


def by_tanh(x: Tensor) -> Tensor:
    soft = torch.tanh(3 * x)
    return soft + (torch.sign(soft) - soft).detach()


def by_ones_like(x: Tensor) -> Tensor:
    return torch.where(x < 0, -torch.ones_like(x), torch.ones_like(x))


def by_masks(x: Tensor) -> Tensor:
    return (x >= 0).type_as(x) - (x < 0).type_as(x)


def by_heaviside(x: Tensor) -> Tensor:
    return torch.heaviside(x, torch.ones(())) * 2 - 1


def by_masked_fill(x: Tensor) -> Tensor:
    return torch.ones_like(x).masked_fill(x < 0, -1.0)


SIGNS: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f
    for f in (by_function, by_arithmetic, by_where, by_clamp_estimator, by_hardtanh, by_tanh, by_ones_like, by_masks,
              by_heaviside, by_masked_fill)
}  # fmt: skip


# -- ways to binarise weights -------------------------------------------------------------------------------------------------


def row_mean(w: Tensor) -> Tensor:
    return w.sign() * w.abs().flatten(1).mean(1).view(-1, *[1] * (w.dim() - 1))


def per_tensor(w: Tensor) -> Tensor:
    return torch.where(w >= 0, w.abs().mean(), -w.abs().mean())


def standardised(w: Tensor) -> Tensor:
    flat = w.reshape(w.size(0), -1)
    flat = (flat - flat.mean(dim=1, keepdim=True)) / (flat.std(dim=1, keepdim=True) + 1e-5)
    scale = torch.pow(2.0, torch.log2(flat.abs().mean(1)).round()).unsqueeze(1)
    return (by_function(flat) * scale).view_as(w)


def clamped(w: Tensor) -> Tensor:
    centre = w - w.mean()
    return by_clamp_estimator(centre) * w.abs().mean([*range(1, w.dim())], keepdim=True).detach()


class Lin(nn.Module):
    """A binary layer: how the input and the weight become binary is given."""

    def __init__(self, n_in: int, n_out: int, sign: Callable[[Tensor], Tensor] = torch.sign,
                 weight: Callable[[Tensor], Tensor] = row_mean, bias: bool = False) -> None:  # fmt: skip
        super().__init__()
        self.latent = nn.Parameter(torch.randn(n_out, n_in))
        self.bias = nn.Parameter(torch.randn(n_out)) if bias else None
        self.sign, self.binary = sign, weight

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(self.sign(x), self.binary(self.latent).t())
        return y if self.bias is None else y + self.bias


# -- norms and activations by hand --------------------------------------------------------------------------------------------


class HandNorm(nn.Module):
    """Layer norm in the given spelling."""

    def __init__(self, c: int, how: str = "sqrt") -> None:
        super().__init__()
        self.how, self.g, self.b = how, nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(c))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        if self.how == "rsqrt":
            y = (x - mean) * torch.rsqrt((x - mean).pow(2).mean(-1, keepdim=True) + 1e-5)
        elif self.how == "var":
            y = (x - mean) / torch.sqrt(x.var(dim=-1, unbiased=False, keepdim=True) + 1e-5)
        elif self.how == "unsqueeze":
            centred = x - x.mean(-1)[..., None]
            y = centred / ((centred * centred).mean(2) + 1e-5).unsqueeze(-1).sqrt()
        elif self.how == "std":
            y = (x - mean) / x.std(-1, keepdim=True)
        elif self.how == "pow":
            y = (x - mean) / (((x - mean) ** 2).mean(-1, keepdim=True) + 1e-6) ** 0.5
        elif self.how == "var_mean":
            var, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
            y = (x - mean) * (var + 1e-6).rsqrt()
        elif self.how == "rms":
            return self.g * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        else:
            y = (x - mean) / (x.sub(mean).square().sum(-1, keepdim=True) / x.shape[-1]).add(1e-5).sqrt()
        return self.g * y + self.b


class ChannelNorm(nn.Module):
    """Layer norm of the channels of an image [B, C, H, W]."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(c))

    def forward(self, x: Tensor) -> Tensor:
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class HandRPReLU(nn.Module):
    def __init__(self, c: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.gamma, self.zeta, self.slope = (nn.Parameter(torch.randn(1, 1, c)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x - self.gamma.expand_as(x)
        if self.how == "relu":
            y = F.relu(y) - self.slope * F.relu(-y)
        elif self.how == "where":
            y = torch.where(y > 0, y, self.slope * y)
        elif self.how == "clamp":
            y = y.clamp(min=0) + self.slope * y.clamp(max=0)
        else:
            y = torch.max(y, torch.zeros_like(y)) + self.slope * torch.min(torch.zeros_like(y), y)
        return y + self.zeta


# -- the frame ----------------------------------------------------------------------------------------------------------------


class Frame(nn.Module):
    """Patches, a body on tokens [1, 16, C], a head."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Conv2d(3, C, 4, 4), nn.ModuleList(body), nn.Linear(C, CLASSES)

    def forward(self, images: Tensor) -> Any:
        x = self.embed(images).flatten(2).transpose(1, 2)
        for block in self.body:
            x = x + block(x)
        return self.head(x.mean(dim=1))


class Feed(nn.Module):
    """norm, binary up, activation, binary down."""

    def __init__(self, sign: Callable[[Tensor], Tensor] = torch.sign, weight: Callable[[Tensor], Tensor] = row_mean,
                 norm: nn.Module | None = None, act: nn.Module | None = None) -> None:  # fmt: skip
        super().__init__()
        self.norm, self.act = norm or nn.LayerNorm(C), act or nn.PReLU()
        self.up, self.down = Lin(C, 2 * C, sign, weight, bias=True), Lin(2 * C, C, sign, weight, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.act(self.up(self.norm(x))))
        return y


class Probabilities(nn.Module):
    """One-bit attention weights."""

    def __init__(self, how: str = "round") -> None:
        super().__init__()
        self.how, self.step = how, nn.Parameter(torch.tensor(0.08))

    def forward(self, p: Tensor) -> Tensor:
        if self.how == "where":
            return torch.where(p > self.step, self.step, torch.zeros_like(p))
        if self.how == "compare":
            return (p >= 0.06).to(p.dtype)
        if self.how == "round":
            code: Tensor = Round.apply((p / self.step).clamp(0.0, 1.0))  # type: ignore[no-untyped-call]
            return code * self.step
        two = p / self.step
        two = (torch.round(torch.clamp(two, 0, 3)) - two).detach() + two
        return two * self.step


class Attention(nn.Module):
    """Attention on tokens; `style` is how the heads are split and the products are written."""

    def __init__(self, style: str, probabilities: str = "round", norm: nn.Module | None = None) -> None:
        super().__init__()
        self.style, self.norm = style, norm or nn.LayerNorm(C)
        self.qkv, self.out = Lin(C, 3 * C, by_arithmetic, bias=True), Lin(C, C, bias=True)
        self.quantise, self.shift = Probabilities(probabilities), nn.Parameter(torch.randn(1, 1, C))
        self.scale = (C // HEADS) ** -0.5
        self.register_buffer("causal", torch.ones(16, 16).tril().bool())
        self.table = nn.Parameter(torch.randn(49, HEADS))
        grid = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        gap = (grid[:, :, None] - grid[:, None, :]).permute(1, 2, 0) + 3
        self.register_buffer("relative", gap[..., 0] * 7 + gap[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        h, d = HEADS, c // HEADS
        t = self.qkv(self.norm(x))
        style = self.style
        if style == "chunk einsum":
            q, k, v = (s.reshape(b, n, h, d) for s in torch.sign(t).chunk(3, dim=-1))
            p = torch.einsum("bnhd,bmhd->bhnm", q, k).mul(self.scale).softmax(dim=-1)
            y = torch.einsum("bhnm,bmhd->bnhd", self.quantise(p), v).reshape(b, n, c)
        elif style == "split matmul":
            q, k, v = torch.split(t, c, 2)
            q, k, v = (by_where(s).view(b, n, h, d).transpose(1, 2) for s in (q, k, v))
            p = F.softmax(torch.matmul(q * self.scale, k.permute(0, 1, 3, 2)), dim=3)
            y = torch.matmul(self.quantise(p), v).transpose(1, 2).reshape(b, n, -1)
        elif style == "merged heads bmm":
            q, k, v = torch.sign(t).view(b, n, 3, h, d).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
            p = torch.softmax(torch.bmm(q, k.mT) * self.scale, dim=2)
            y = torch.bmm(self.quantise(p), v).view(b, h, n, d).permute(0, 2, 1, 3).flatten(2)
        elif style == "left transposed":  # columns are tokens
            q, k, v = torch.sign(t).transpose(1, 2).reshape(b, 3, h, d, n).unbind(1)
            p = self.quantise((q.transpose(-1, -2) @ k * self.scale).softmax(-1))
            y = (v @ p.transpose(-1, -2)).reshape(b, c, n).permute(0, 2, 1)
        elif style == "masked fill":
            q, k, v = torch.sign(t).reshape(b, n, 3, h, d).permute(2, 0, 3, 1, 4)
            s = (q @ k.transpose(-1, -2)) * self.scale
            y = (self.quantise(s.masked_fill(~self.causal, float("-inf")).softmax(-1)) @ v).transpose(1, 2).flatten(2)
        elif style == "mask by where":
            q, k, v = torch.sign(t).reshape(b, n, 3, h, d).permute(2, 0, 3, 1, 4)
            s = (q @ k.transpose(-1, -2)) * self.scale
            s = torch.where(self.causal, s, torch.tensor(-1e9))
            y = (self.quantise(s.softmax(-1)) @ v).transpose(1, 2).flatten(2)
        elif style == "relative bias":
            q, k, v = torch.sign(t).reshape(b, n, 3, h, d).permute(2, 0, 3, 1, 4)
            bias = self.table[self.relative.view(-1)].view(n, n, h).permute(2, 0, 1).contiguous()
            s = (q @ k.transpose(-1, -2)) * self.scale + bias.unsqueeze(0)
            s = s + (1.0 - self.causal.float()) * -100.0
            y = (self.quantise(s.softmax(-1)) @ v).transpose(1, 2).flatten(2)
        elif style == "negative scale":
            q, k, v = torch.sign(t).reshape(b, n, 3, h, d).permute(2, 0, 3, 1, 4)
            per_head = torch.tensor([-0.3, 0.25]).view(1, -1, 1, 1)
            y = (self.quantise(((q * per_head) @ k.transpose(-1, -2)).softmax(-1)) @ v).transpose(1, 2).flatten(2)
        else:  # keys first: columns of the scores are queries
            q, k, v = (torch.sign(s).unflatten(-1, (h, d)).movedim(2, 1) for s in t.tensor_split(3, -1))
            p = self.quantise(((k * self.scale) @ q.mT).softmax(-2))
            y = (p.mT @ v).movedim(1, 2).reshape_as(x)
        result: Tensor = self.out(y + self.shift)
        return result


class Classy(nn.Module):
    """A class token, a position table, two heads, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cls, self.pos = nn.Conv2d(3, C, 4, 4), nn.Parameter(torch.randn(1, 1, C)), nn.Parameter(torch.randn(17, C))
        self.move = nn.Parameter(torch.randn(1, 17, 1))
        self.block, self.norm = Attention("split matmul"), nn.LayerNorm(C)
        self.feed, self.heads = Feed(by_function), nn.ModuleList([nn.Linear(C, CLASSES) for _ in range(2)])

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x)
        x = x.view(x.size(0), C, -1).permute(0, 2, 1).contiguous()
        x = torch.cat([self.cls.repeat(x.shape[0], 1, 1), x], 1)
        x = x + self.pos.unsqueeze(0)
        x = x + self.block(x)
        x = x + self.feed(x + self.move)
        x = self.norm(x)
        logits = torch.stack([head(x[:, 0]) for head in self.heads]).mean(0)
        return OrderedDict(logits=logits, hidden_states=(x,))


class Windows(nn.Module):
    """Attention in rolled windows of an image that stays [B, H, W, C], slices assigned."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.out = nn.Conv2d(3, C, 4, 4), Lin(C, 3 * C, by_masks, bias=True), Lin(C, C, bias=True)
        self.norm, self.head, self.quantise = nn.LayerNorm(C), nn.Linear(C, CLASSES), Probabilities()
        region = torch.zeros(1, 4, 4, 1)
        for i, rows in enumerate((slice(0, 2), slice(2, 3), slice(3, 4))):
            for j, columns in enumerate((slice(0, 2), slice(2, 3), slice(3, 4))):
                region[:, rows, columns, :] = 3 * i + j
        flat = region.view(1, 2, 2, 2, 2, 1).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4)
        gap = flat[:, None, :] - flat[:, :, None]
        self.register_buffer("mask", gap.masked_fill(gap != 0, -100.0).masked_fill(gap == 0, 0.0))
        self.shift = nn.Parameter(torch.randn(C))

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x).permute(0, 2, 3, 1)
        y = torch.roll(self.norm(x), shifts=(-1, -1), dims=(1, 2))
        b, hh, ww, c = y.shape
        y = y.view(b, hh // 2, 2, ww // 2, 2, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, c)
        q, k, v = torch.sign(self.qkv(y)).reshape(-1, 4, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        s = (q @ k.transpose(-2, -1)) * (c // HEADS) ** -0.5
        s = s.view(-1, 4, HEADS, 4, 4) + self.mask.unsqueeze(1).unsqueeze(0)
        p = self.quantise(s.view(-1, HEADS, 4, 4).softmax(-1))
        y = self.out((p @ v).transpose(1, 2).reshape(-1, 4, c) + self.shift)
        y = y.view(b, 2, 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, hh, ww, c)
        x = x + torch.roll(y, (1, 1), (1, 2))
        return {"loss": None, "logits": self.head(x.mean((1, 2)))}


class Conv(nn.Module):
    """A binary convolution in Bi-Real style."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1,
                 sign: Callable[[Tensor], Tensor] = torch.sign, weight: Callable[[Tensor], Tensor] = row_mean) -> None:  # fmt: skip
        super().__init__()
        self.weights = nn.Parameter(torch.randn(n_out * n_in // groups * kernel * kernel, 1) * 0.1)
        self.shape, self.stride, self.groups = (n_out, n_in // groups, kernel, kernel), stride, groups
        self.sign, self.binary = sign, weight

    def forward(self, x: Tensor) -> Tensor:
        w = self.binary(self.weights.view(self.shape))
        return F.conv2d(self.sign(x), w, stride=self.stride, padding=self.shape[-1] // 2, groups=self.groups)


class Backbone(nn.Module):
    """Several stages, several outputs; images all the way, channel norms, binary convolutions, pooling, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm1, self.norm2 = nn.Conv2d(3, C, 4, 4), ChannelNorm(C), nn.BatchNorm2d(C)
        self.move = nn.Parameter(torch.randn(1, C, 1, 1))
        self.conv1, self.conv2, self.down = Conv(C, C, 3), Conv(C, C, 1, sign=by_arithmetic), Conv(C, 2 * C, 3, 2)
        self.norm3, self.act, self.head = nn.BatchNorm2d(2 * C), nn.Hardtanh(-2.0, 2.0), nn.Linear(2 * C, CLASSES)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = x + self.norm2(self.conv1(self.norm1(x) + self.move))
        pooled = F.avg_pool2d(x, 2)
        x = x + F.interpolate(pooled, scale_factor=2.0, mode="nearest")
        first = x = x + self.conv2(self.act(x))
        x = self.norm3(self.down(x)) + pooled.repeat(1, 2, 1, 1)
        logits = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits, [first, x]


class Unipolar(nn.Module):
    """Codes 0 and 1: signs behind a ReLU, comparisons, rounded clamps."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.up, self.down = how, Lin(C, 2 * C, bias=True), Lin(2 * C, C, torch.nn.Identity(), bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.how == "sign of relu":
            y = torch.sign(F.relu(y))
        elif self.how == "sign of clamp":
            y = torch.sign(y.clamp(0, 1))
        elif self.how == "sign of negative clamp":
            y = torch.sign(torch.clamp(y, -1.0, 0.0))
        elif self.how == "sign of round":
            y = torch.sign(torch.round(0.4 * y))
        elif self.how == "compare":
            y = (y > 0).float()
        elif self.how == "compare relu":
            y = (F.relu(y) > 0).float() * 0.7
        elif self.how == "ge relu":
            y = (F.relu(y) >= 0.5).float()
        else:
            y = torch.round(torch.clamp(y, 0, 1)) * 0.3
        result: Tensor = self.down(y)
        return result


class UnipolarConv(nn.Module):
    """Codes 0 and 1 in front of a padded convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = Conv(C, C, 3, sign=lambda x: (x > 0).float()), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, (4, 4))
        y: Tensor = self.norm(self.conv(image)).flatten(2).mT
        return y


class Pruned(nn.Module):
    """A binary layer of which a third of the weights is exactly 0."""

    def __init__(self, kernel: int = 0) -> None:
        super().__init__()
        shape = (C, C, kernel, kernel) if kernel else (C, C)
        self.kernel = kernel
        self.weight = nn.Parameter(torch.randn(shape))
        self.register_buffer("keep", (torch.arange(math.prod(shape)) % 3 > 0).float().view(shape))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.sign() * self.keep * 0.1
        if not self.kernel:
            return F.linear(torch.sign(x), w)
        y = F.conv2d(torch.sign(x).transpose(1, 2).reshape(1, C, 4, 4), w, padding=self.kernel // 2)
        return y.flatten(2).transpose(1, 2)


class Slices(nn.Module):
    """In-place slices, shifts by padding, selections, stacks, repeats."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Lin(C, C, by_clamp_estimator, clamped, bias=True), Lin(2 * C, C, by_ones_like, per_tensor, bias=True)
        self.register_buffer("order", torch.randperm(C, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clone()
        y[:, :5] = y[:, :5] * 0.5
        y[:, 3:12:4] = x[:, :3]
        y[:, -1, :] = x[:, 2]
        y[..., 0] = 0.25
        y[:, :, 1:3] = 0.5
        z = torch.zeros_like(y)
        z[:, 1:] = y[:, :-1]
        both = (y.unsqueeze(0) + torch.stack((z, z))[1:]).squeeze(0).repeat((1, 1, 2))
        wide = both + F.pad(y, (0, 0, 1, 0))[:, :-1].repeat(1, 1, 2) + torch.cat((x, x), -1).to(torch.float32)
        wide = torch.index_select(wide, 1, self.order)
        result: Tensor = self.b(wide)
        return result


class Choices(nn.Module):
    """where between computed tensors, with computed and with constant conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Lin(C, C, bias=True), Lin(C, C, by_heaviside, standardised, bias=True)
        self.register_buffer("pick", torch.arange(C) % 2 == 0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = torch.where(x > 0.1, y, 0.5 * x)
        y = torch.where(self.pick, y, x)
        y = y.masked_fill(x < -0.5, 0.125).masked_fill(~self.pick, 0.0)
        result: Tensor = self.b(y + 0.01)
        return result


class Transposed(nn.Module):
    """Tokens last: [B, C, N], Conv1d of one tap, batch norm on it; a drop path that is off, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.norm2, self.drop = nn.BatchNorm1d(C), nn.BatchNorm1d(C), nn.Dropout(0.3)
        self.weight, self.gamma = nn.Parameter(torch.randn(C, C, 1)), nn.Parameter(torch.randn(C, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.mT)
        w = self.weight
        y = F.conv1d(by_hardtanh(y), w.sign() * w.abs().mean((1, 2), keepdim=True))
        y = self.drop(self.norm2(y) * self.gamma)
        if self.training:
            y = y * torch.bernoulli(torch.full((y.shape[0], 1, 1), 0.9))
        return y.mT


@dataclass
class ModelOutput:
    loss: Tensor | None = None
    logits: Tensor | None = None
    attentions: tuple[Tensor, ...] = ()


class HuggingFace(nn.Module):
    """A backbone inside a classifier with a dataclass as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = Frame(Attention("chunk einsum", "two bits"), Feed(by_tanh, clamped, act=nn.GELU()))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool = True) -> Any:
        logits = self.vit(pixel_values)
        return ModelOutput(logits=logits) if return_dict else (logits,)


STRANGERS: dict[str, Callable[[], nn.Module]] = {
    **{f"sign {n}": (lambda s: lambda: Frame(Feed(s, act=HandRPReLU(2 * C, "relu"))))(f) for n, f in SIGNS.items()},
    **{f"weight {f.__name__}": (lambda w: lambda: Frame(Feed(by_function, w)))(f) for f in (per_tensor, standardised, clamped)},
    **{
        f"norm {how}": (lambda n: lambda: Frame(Feed(norm=HandNorm(C, n))))(how)
        for how in ("rsqrt", "var", "unsqueeze", "std", "pow", "var_mean", "rms", "sum")
    },
    **{f"rprelu {how}": (lambda n: lambda: Frame(Feed(act=HandRPReLU(2 * C, n))))(how) for how in ("where", "clamp", "max")},
    **{
        f"act {type(a).__name__}": (lambda x: lambda: Frame(Feed(act=x)))(a)
        for a in (nn.GELU(), nn.ReLU(), nn.LeakyReLU(0.2), nn.ReLU6())
    },
    **{
        f"attention {style}": (lambda s: lambda: Frame(Attention(s)))(style)
        for style in (
            "chunk einsum", "split matmul", "merged heads bmm", "left transposed", "masked fill",
            "mask by where", "relative bias", "negative scale", "keys first",
        )
    },
    **{f"probabilities {how}": (lambda p: lambda: Frame(Attention("split matmul", p)))(how) for how in ("where", "compare", "two")},
    "class token": Classy,
    "windows": Windows,
    "backbone": Backbone,
    **{
        f"unipolar {how}": (lambda u: lambda: Frame(Unipolar(u)))(how)
        for how in (
            "sign of relu", "sign of clamp", "sign of negative clamp", "sign of round", "compare", "compare relu", "ge relu",
            "round of clamp",
        )
    },
    "unipolar convolution": lambda: Frame(UnipolarConv()),
    "pruned": lambda: Frame(Pruned()),
    "pruned convolution": lambda: Frame(Pruned(3)),
    "slices": lambda: Frame(Slices()),
    "choices": lambda: Frame(Choices()),
    "tokens last": lambda: Frame(Transposed()),
    "hugging face": HuggingFace,
}  # fmt: skip
