"""Small models in the styles in which people write binary vision transformers, and how to compare an import with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bvtdeploy.frontend import Imported, import_model
from bvtdeploy.ir import verify
from bvtdeploy.ir.interp import run

SHAPE = (1, 3, 8, 8)


Body = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """Functions of an image as one module: what they return stands side by side in the logits."""

    def __init__(self, bodies: Mapping[str, Body]) -> None:
        super().__init__()
        self.bodies = bodies

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([body(x).reshape(1, -1) for body in self.bodies.values()], 1)


class SignSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def centred(w: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha * code, clipped latent) of a weight [O, K]."""
    z = w - w.mean(-1, keepdim=True)
    return w.abs().mean(1, keepdim=True).detach() * torch.sign(z), torch.clamp(z, -1, 1)


class BinaryLinear(nn.Linear):
    """Row-scaled sign weight with the residue q.detach() - g.detach() + g."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, g = centred(self.weight)
        code: Tensor = SignSTE.apply(x)  # type: ignore[no-untyped-call]
        return F.linear(code, q.detach() - g.detach() + g)


class TokenNorm(nn.BatchNorm1d):
    """BN of [B, N, C] on the transposed tensor."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.transpose(1, 2))
        return y.transpose(1, 2)


class RPReLU(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.move1, self.move2 = nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(c))
        self.act = nn.PReLU(c)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act((x - self.move1).transpose(-1, -2))
        return y.transpose(-1, -2) + self.move2


class Attention(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (BinaryLinear(c, c) for _ in range(3))
        self.heads, self.clip = heads, nn.Parameter(torch.tensor([0.1]))
        self.norm = TokenNorm(c)
        self.move = nn.Parameter(torch.zeros(c))  # without it the codes of dots would be signs of exact zeros

    def split(self, x: Tensor) -> Tensor:
        return torch.sign(x + self.move).view(x.size(0), x.size(1), self.heads, -1).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        p = (torch.matmul(q, k.transpose(-1, -2)) / (q.shape[-1] ** 0.5)).softmax(-1)
        a = self.clip * torch.clamp(torch.round(p / self.clip), 0, 1)
        a = a.detach() - p.detach() + p
        context: Tensor = self.norm((a @ v).permute(0, 2, 1, 3).contiguous().flatten(2))
        return context


@dataclass
class Output:
    """An HF-style output."""

    logits: Tensor
    hidden: tuple[Tensor, ...]


class Vit(nn.Module):
    """One binary layer in the style of the published code, pooling branches, upsampled shortcut, and an HF-style output."""

    def __init__(self, c: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, c, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, 16, c))
        self.before, self.after = TokenNorm(c), TokenNorm(c)
        self.attention = Attention(c, 2)
        self.up, self.down = BinaryLinear(c, 2 * c), BinaryLinear(2 * c, c)
        self.act = RPReLU(2 * c)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(c, classes)

    def forward(self, pixels: Tensor) -> Output:
        x = self.stem(pixels).flatten(2).transpose(1, 2) + self.position
        h = self.before(x)
        x = x + self.attention(h)
        small = F.avg_pool2d(h.permute(0, 2, 1).view(1, -1, 4, 4), 2)
        x = x + F.interpolate(small, scale_factor=2, mode="nearest").flatten(2).permute(0, 2, 1)
        m = self.after(x)
        u = self.act(self.up(m) + torch.cat([m] * 2, dim=-1))
        x = x + self.drop(self.down(u) + F.avg_pool1d(u, 2))
        return Output(self.head(x.mean(1)), (x,))


def prepared(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that matter and statistics that are not trivial."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not name.endswith("clip"):
                p.copy_(torch.randn(p.shape, generator=g) * 0.5 + 0.1)
        for name, b in model.named_buffers():
            if name.endswith("running_var"):
                b.copy_(torch.rand(b.shape, generator=g) + 0.5)
            elif name.endswith("running_mean"):
                b.copy_(torch.randn(b.shape, generator=g) * 0.2)
    return model.eval()


def execute(imported: Imported, x: Tensor) -> Any:
    """The graph's output."""
    return run(imported.graph, {imported.graph.inputs[0].name: x.numpy()})[0]


def check(module: nn.Module, shape: tuple[int, ...] = SHAPE, exact: bool = False) -> Imported:
    """Imports a module and compares the graph with torch on two inputs."""
    imported = import_model(module, example_input=shape)
    verify.verify(imported.graph)
    compare(imported, module, shape, exact)
    return imported


def compare(imported: Imported, module: nn.Module, shape: tuple[int, ...] = SHAPE, exact: bool = False) -> None:
    """The graph, and the eager reference that came with it, against a module."""
    for seed in range(2):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            expected = getattr(out := module(x), "logits", out).numpy()
            np.testing.assert_allclose(imported.module(x).numpy(), expected, rtol=1e-6, atol=1e-6)
        got = execute(imported, x)
        tolerance = 0.0 if exact else 1e-5
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()))


def check_all(bodies: Mapping[str, Body], shape: tuple[int, ...] = SHAPE, exact: bool = False) -> Imported:
    """One import for many small functions; an assertion names the one that differs."""
    imported = import_model(Net(bodies), example_input=shape)
    verify.verify(imported.graph)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got, at = execute(imported, x), 0
    for name, body in bodies.items():
        expected = body(x).reshape(-1).detach().numpy()
        piece = got[0, at : at + expected.size]
        tolerance = 0.0 if exact else 1e-5
        np.testing.assert_allclose(piece, expected, rtol=tolerance, atol=tolerance * float(np.abs(expected).max()), err_msg=name)
        at += expected.size
    assert at == got.shape[1]
    return imported
