"""Published styles of the model families, written as their training code is, and the families of this package."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from styles import BinaryLinear, SignSTE, check, execute, prepared  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bvtdeploy.frontend import Imported, import_model  # noqa: E402
from bvtdeploy.models import zoo  # noqa: E402


def step(v: Tensor, g: float) -> Tensor:
    """The gradient scale of learned step sizes."""
    scaled = v * g
    return v.detach() - scaled.detach() + scaled


def bireal(x: Tensor) -> Tensor:
    """Sign with the piecewise quadratic of Bi-Real net as its gradient."""
    code = torch.sign(x)
    mask1, mask2, mask3 = (x < -1).type(torch.float32), (x < 0).type(torch.float32), (x < 1).type(torch.float32)
    y = (-1) * mask1 + (x * x + 2 * x) * (1 - mask1)
    y = y * mask2 + (-x * x + 2 * x) * (1 - mask2)
    y = y * mask3 + 1 * (1 - mask3)
    return code.detach() - y.detach() + y


class BirealLinear(nn.Linear):
    """The bias is a parameter that is not added."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        q, g = torch.mean(abs(w), dim=1, keepdim=True).detach() * torch.sign(w), torch.clamp(w, -1.0, 1.0)
        return F.linear(bireal(x), q.detach() - g.detach() + g)


class Elastic(nn.Module):
    """One-bit codes with a step and a zero point for each head."""

    def __init__(self, heads: int, zero: float) -> None:
        super().__init__()
        self.step, self.zero_clip = nn.Parameter(torch.ones(heads)), zero
        self.zero_point = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor) -> Tensor:
        g = 1.0 / math.sqrt(x.numel())
        latent = self.zero_point + self.zero_clip
        zero = (latent.round() - latent).detach() + latent
        alpha, zero = (step(v, g).unsqueeze(0).unsqueeze(2).unsqueeze(3) for v in (self.step.abs() + 0.05, zero))
        y = (x / alpha + zero).clamp(-1, 1)
        y = (y.sign() - y).detach() + y
        return (y - zero) * alpha


class Elastics(nn.Module):
    """Distilled DeiT with class tokens, head-wise norms, elastic codes and GELU that is clipped."""

    def __init__(self, c: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.patch = heads, nn.Conv2d(3, c, 2, 2)
        self.cls, self.dist = nn.Parameter(torch.zeros(1, 1, c)), nn.Parameter(torch.zeros(1, 1, c))
        self.position = nn.Parameter(torch.zeros(1, 18, c))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(c, eps=1e-6) for _ in range(3))
        self.norm_q, self.norm_k = nn.LayerNorm(c // heads), nn.LayerNorm(c // heads)
        self.qkv, self.proj, self.fc1, self.fc2 = (BirealLinear(a * c, b * c) for a, b in ((1, 3), (1, 1), (1, 2), (2, 1)))
        self.codes = nn.ModuleList([Elastic(heads, zero) for zero in (0.0, 0.0, 1.0, -1.2)])
        self.drop, self.head, self.head_dist = nn.Dropout(0.1), nn.Linear(c, 5), nn.Linear(c, 5)
        self.shift = nn.Parameter(torch.zeros(c))  # keeps the signs behind integers away from 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), self.dist.expand(x.shape[0], -1, -1), x), dim=1) + self.position
        b, n, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = self.codes[0](q), self.codes[1](k), self.codes[2](v + self.shift[: c // self.heads])
        p = self.codes[3](((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(dim=-1))
        x = x + self.proj((self.drop(p) @ v).transpose(1, 2).reshape(b, n, c) + self.shift)
        x = x + self.fc2(torch.clip(F.gelu(self.fc1(self.norm2(x)) + self.shift[0]), -10.0, 10.0))
        x = self.norm(x)
        y: Tensor = (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2
        return y


class SoftmaxAware(nn.Module):
    """Attention codes by a quarter of the row's maximum, with softmax written three times and an in-place product."""

    def __init__(self, c: int = 16, heads: int = 2, aware: bool = True) -> None:
        super().__init__()
        self.heads, self.aware, self.patch, self.norm = heads, aware, nn.Conv2d(3, c, 2, 2), nn.LayerNorm(c)
        self.qkv, self.bias, self.proj = BinaryLinear(c, 3 * c), nn.Parameter(torch.zeros(3 * c)), BinaryLinear(c, c)
        self.head = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        b, n, c = x.shape
        code: Tensor = SignSTE.apply(self.qkv(self.norm(x)) + self.bias)  # type: ignore[no-untyped-call]
        qkv = code.reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        s = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5
        if self.aware:
            threshold = F.softmax(s, -1).detach().max(dim=-1)[0]
            threshold.mul_(0.25)
            a = torch.where(F.softmax(s, -1) < threshold.unsqueeze(-1), 0, 1).type(torch.float32)
            p = F.softmax(s, -1)
        else:
            a, p = torch.where(s > 0, torch.ones_like(s), torch.zeros_like(s)), s
        a = a.detach() - p.detach() + p
        x = x + self.proj((a @ v).transpose(1, 2).reshape(b, n, c))
        y: Tensor = self.head(x.mean(1))
        return y


class Windows(nn.Module):
    """Dilated grouped convolutions, shifts, window attention with merged tokens, and probabilities of several levels."""

    def __init__(self, c: int = 16, heads: int = 2, levels: bool = True) -> None:
        super().__init__()
        self.heads, self.levels = heads, levels
        self.stem = nn.Sequential(nn.Conv2d(3, c, 4, 4), nn.BatchNorm2d(c), nn.GELU())
        self.move, self.values = nn.Parameter(torch.zeros(1, c, 1, 1)), nn.Parameter(torch.zeros(c))
        self.kernels = nn.ParameterList([nn.Parameter(torch.zeros(c, c // 4, 3, 3)) for _ in range(3)])
        self.bias, self.acts = nn.Parameter(torch.zeros(c)), nn.ModuleList([nn.PReLU(c) for _ in range(3)])
        self.bn, self.norm, self.mix = nn.BatchNorm2d(c), nn.LayerNorm(c), nn.Parameter(torch.zeros(1, c, 1, 1))
        self.query, self.key, self.value = (BinaryLinear(c, c) for _ in range(3))
        self.alpha, self.zero_point = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.zeros(heads))
        self.head = nn.Linear(c, 5)

    def quantised(self, p: Tensor) -> Tensor:
        if self.levels:
            g = 1.0 / math.sqrt(p.numel() * 3)
            alpha, zero = step(self.alpha.abs() * 0.1 + 0.05, g)[None, :, None, None], step(self.zero_point, g)[None, :, None, None]
            y = 3 * p / alpha + zero
            return (y.round().detach() - y.detach() + y).clamp(0, 3) * alpha
        q = p / 0.02
        top = torch.max(q, dim=-1, keepdim=True)[0]
        t2, t1 = (q > 0.9 * top).float(), (q > 0.7 * top).float()
        r = ((q.round() - q).detach() + q).clamp(0, 1)
        return 0.02 * ((r - t1) + 0.7 * (t1 - t2) + 0.4 * t2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        code = torch.sign(x + self.move)
        branches = []
        for act, w, d in zip(self.acts, self.kernels, (1, 3, 5), strict=True):
            z = w - w.mean([1, 2, 3], keepdim=True)
            q, g = w.abs().mean(3, True).mean(2, True).mean(1, True).detach() * torch.sign(z), z.clamp(-1, 1)
            branches.append(act(F.conv2d(code, q.detach() - g.detach() + g, self.bias, 1, d, d, 4)))
        x = x + self.bn(sum(branches))
        h3, w5 = (x + torch.roll(x, 1, 2) + torch.roll(x, -1, 2)) / 3, (x + x.roll(2, 3) + x.roll(-2, 3)) / 5
        a, b, c, d = x.chunk(4, dim=1)
        x = x + h3 + w5 + torch.cat([torch.roll(a, 1, 2), torch.roll(b, -1, 2), torch.roll(c, 1, 3), torch.roll(d, -1, 3)], 1)
        batch, n, height, width = x.shape
        rows, columns = height // 7, width // 7
        tokens = x.view(batch, n, rows, 7, columns, 7).permute(0, 2, 4, 3, 5, 1).contiguous().view(-1, 49, n)
        merged = self.mix * F.max_pool2d(x, 7, 7, 3) + (1 - self.mix) * F.avg_pool2d(x, 7, 7, 3)
        t = self.norm(torch.cat([tokens, merged.flatten(2).transpose(1, 2).repeat(rows * columns, 1, 1)], 1))

        def split(y: Tensor) -> Tensor:
            return torch.sign(y + self.values).view(rows * columns, -1, self.heads, n // self.heads).permute(0, 2, 1, 3)

        queries, keys, values = split(self.query(t)), split(self.key(t)), split(self.value(t))
        p = (queries @ keys.transpose(-1, -2) / math.sqrt(n // self.heads)).softmax(-1)
        context = (self.quantised(p) @ values).permute(0, 2, 1, 3).flatten(2)
        low = context[:, :49].view(batch, rows, columns, 7, 7, n).permute(0, 5, 1, 3, 2, 4).reshape(batch, n, height, width)
        high = context[:, 49:].mean(0, keepdim=True).transpose(1, 2).reshape(batch, n, rows, columns)
        x = x + low + high.repeat_interleave(7, 2).repeat_interleave(7, 3)
        y: Tensor = self.head(x.flatten(2).mean(-1))
        return y


def agree(imported: Imported, module: nn.Module, shape: tuple[int, ...], seeds: int = 2) -> None:
    """The graph is as near to torch as torch in double is: a sign of something that is nearly 0 may fall either way."""
    exact = copy.deepcopy(module).double()
    for seed in range(seeds):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        got = execute(imported, x)
        with torch.no_grad():
            expected = [getattr(y := m(x.to(d)), "logits", y).numpy() for m, d in ((module, torch.float32), (exact, torch.float64))]
        error = min(float(np.abs(got - y).max() / np.abs(y).max()) for y in expected)
        assert error < 1e-5, (seed, error)


def test_elastic_codes() -> None:
    model = prepared(Elastics())
    imported = import_model(model, example_input=(1, 3, 8, 8))
    agree(imported, model, (1, 3, 8, 8))
    # activations: a code before each of four linears and in each of four quantisers; nothing of their polynomials is left
    assert imported.extras["estimators"]["activations"] == 8
    count = imported.graph.count()
    assert (count["sign"], count["layer_norm"], count["gelu"], count["softmax"]) == (8, 5, 1, 1)
    assert count["mul"] <= 6
    (tokens,) = [op for op in imported.graph.of_kind("concat") if op.out.type.shape == (1, 18, 16)]
    assert [v.data is not None for v in tokens.inputs][-1] is False
    assert all(v.data is not None for v in tokens.inputs[:-1])


@pytest.mark.parametrize("aware", [True, False])
def test_softmax_aware_codes(aware: bool) -> None:
    imported = check(prepared(SoftmaxAware(aware=aware)), (1, 3, 8, 8))
    assert imported.extras["estimators"] == {"weights": 2, "activations": 1}
    count = imported.graph.count()
    assert (count.get("softmax", 0), count.get("reduce_max", 0)) == (aware, aware)
    assert [op.attrs.get("zero", 0) for op in imported.graph.of_kind("sign") if "zero" in op.attrs] == [1 if aware else -1]


@pytest.mark.parametrize("levels", [True, False])
@pytest.mark.parametrize("decomposed", [True, False])
def test_windows(levels: bool, decomposed: bool) -> None:
    """Also from a program of core ops, where rolls are index arithmetic and norms are native."""
    model, shape = prepared(Windows(levels=levels)), (1, 3, 56, 56)
    source: Any = model
    if decomposed:
        source = torch.export.export(model, (torch.zeros(shape),), strict=False).run_decompositions()
    imported = import_model(source) if decomposed else import_model(source, example_input=shape)
    agree(imported, model, shape)
    assert imported.extras["estimators"]["activations"] == 1
    count = imported.graph.count()
    assert (count["roll"], count["max_pool2d"], count["upsample"], count["layer_norm"]) == (8, 1, 1, 1)
    assert count.get("reduce_max", 0) == (0 if levels else 1)


@pytest.mark.parametrize("name", [name for name in zoo.names() if name.endswith("_nano")])
def test_family_models(name: str, exported: Callable[[str], Any]) -> None:
    model = zoo.create(name)
    imported = import_model(exported(name))
    agree(imported, model, imported.graph.inputs[0].type.shape)
