"""Every importer against torch, a theme at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from styles import SHAPE, Net, SignSTE, check_all, execute, prepared  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.frontend.aten import IMPORTERS  # noqa: E402

G = torch.Generator().manual_seed(3)


def const(*shape: int) -> Tensor:
    constant: Tensor = torch.randn(shape, generator=G)
    return constant


def test_arithmetic() -> None:
    c, row, one = const(3, 8, 8), const(8), const(1)
    imported = check_all(
        {
            "add": lambda x: x + c,
            "add alpha": lambda x: torch.add(x, c, alpha=2),
            "sub": lambda x: x - row,
            "rsub": lambda x: 1 - x,
            "rsub tensor": lambda x: c - x,
            "mul": lambda x: 2 * x * one,
            "div": lambda x: x / 3,
            "div by x": lambda x: 1 / (x * x + 1),
            "neg": lambda x: -x,
            "square": lambda x: x.square() + x**2,
            "addcmul": lambda x: torch.addcmul(x, x, row, value=0.5),
            "in place": lambda x: (x + 1).mul_(2).add_(x).clamp_(-1, 2),
            "clamp": lambda x: x.clamp(-0.3, 0.4),
            "clamp min": lambda x: x.clamp_min(0.1),
            "clamp max": lambda x: x.clamp(max=0.1),
            "hardtanh": lambda x: F.hardtanh(x, -2, 1),
            "relu": lambda x: F.relu(x) + F.relu6(x),
            "abs": lambda x: x.abs(),
            "maximum": lambda x: torch.maximum(x, torch.tensor(0.2)),
            "minimum": lambda x: torch.minimum(torch.tensor(0.2), x),
            "round": lambda x: torch.round(4 * x) / 4,
            "gelu": lambda x: F.gelu(x) + nn.GELU()(-x),
            "aliases": lambda x: torch.clip(torch.multiply(x, 2).subtract(c), -1, 1).divide(3) + torch.absolute(x).negative(),
            "leaky": lambda x: F.leaky_relu(x, 0.2),
            "softmax": lambda x: x.softmax(1) + F.softmax(x, -1),
            "identities": lambda x: F.dropout(x.detach().clone().contiguous().to(torch.float32).float(), 0.5, False),
        }
    )
    assert imported.graph.count()["prelu"] == 3


def test_prelu() -> None:
    slope, channel = const(8), const(3)
    bodies = {
        "aten": lambda x: F.prelu(x, channel),
        "one slope": lambda x: F.prelu(x, channel[:1]),
        "where": lambda x: torch.where(x > 0, x, slope * x),
        "where ge": lambda x: torch.where(x >= 0, x, x * slope),
        "where le": lambda x: torch.where(x <= 0, 0.1 * x, x),
        "where relu": lambda x: torch.where(x > 0, x, 0.0),
        "computed twice": lambda x: torch.where(x - slope > 0, x - slope, channel[:, None, None] * (x - slope)),
    }
    graph = check_all(bodies).graph
    assert graph.count()["prelu"] == 6
    assert [op.attrs["axis"] for op in graph.of_kind("prelu")] == [1, 3, 3, 3, 3, 1]
    assert not graph.of_kind("sign")


def test_binarisers() -> None:
    """Every spelling of a two-level code is one sign and, where the levels are not -1 and +1, one affine."""
    scale = torch.tensor([0.5, 2.0, 1.5])[:, None, None]
    bodies = {
        "sign": torch.sign,
        "function": lambda x: SignSTE.apply(x),  # type: ignore[no-untyped-call]
        "where": lambda x: torch.where(x >= 0, 1.0, -1.0),
        "where int": lambda x: torch.where(x < 0, -1, 1).float(),
        "where tensors": lambda x: torch.where(x >= 0, scale, -scale),
        "arithmetic": lambda x: 2 * (x >= 0).float() - 1,
        "type as": lambda x: (x >= 0).type_as(x) * 2 - 1,
        "lt": lambda x: 1 - 2 * (x < 0).to(torch.float32),
        "unipolar": lambda x: (x > 0).float(),
        "threshold": lambda x: torch.where(x >= 0.25, 1.0, 0.0),
        "swapped": lambda x: (x <= 0.5).float() * 3,
        "negation": lambda x: (~(x >= 0)).float(),
        "bool arithmetic": lambda x: (x >= 0) * 2.0 - 1.0,
        "as mask": lambda x: x * (x > 0.5),
        "per channel": lambda x: (x > scale).float() - 0.5,
    }
    imported = check_all(bodies, exact=True)
    count = imported.graph.count()
    assert count["sign"] == len(bodies)
    assert imported.extras["notes"] == {"x > 0 is compiled as x >= 0: they differ where x is exactly 0": 4}


def test_zero() -> None:
    """What 0 gives is torch's: 0 for a sign, and for a comparison what it says of equality."""
    bodies: dict[str, Any] = {
        "sign": torch.sign,
        "ge": lambda x: (x >= 0).float(),
        "gt": lambda x: (x > 0).float(),
        "le": lambda x: (x <= 0).float(),
        "lt": lambda x: (x < 0).float(),
        "two": lambda x: torch.where(x >= -x, 2.0, -1.0),
    }
    imported = import_model(Net(bodies), example_input=(1, 1, 1, 1))
    zero = torch.zeros(1, 1, 1, 1)
    assert execute(imported, zero).tolist() == [[float(body(zero)) for body in bodies.values()]]
    assert [op.attrs.get("zero", 0) for op in imported.graph.of_kind("sign")] == [0, 1, -1, -1, 1, 1]


def test_structural_zeros() -> None:
    """Where 0 is frequent, x > 0 is compiled exactly, and sign gives a third code."""
    bodies = {
        "gt": lambda x: (F.relu(x) > 0).float(),
        "le": lambda x: torch.where(F.relu(x).view(1, -1) <= 0, 2.0, 1.0),
        "round": lambda x: (torch.round(x) > 0) * 2.0 - 1.0,
        "sign of relu": lambda x: torch.sign(F.relu(x)),
        "sign of round": lambda x: x.round().sign(),
    }
    assert check_all(bodies, exact=True).extras["notes"] == {}


def test_choices() -> None:
    """where, masks and assignments: pieces on both sides of 0, and at it; masks of constants."""
    odd = torch.arange(8) % 2 == 1

    def assigned(x: Tensor) -> Tensor:
        y = x.clone()
        y[x > 0] = 1.0
        y[x < 0] = -2.0
        return y

    def written(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 1:] = x[:, :2]
        y[..., 2:6:3] = 0.25
        y[:, :, -1] = x[:, :, 0]
        y[odd.expand_as(x)] = 3.0
        return y

    bodies: dict[str, Any] = {
        "nested": lambda x: torch.where(x > 0, 1.0, torch.where(x < 0, -1.0, 0.0)),
        "assigned": assigned,
        "two masks": lambda x: (x >= 0).type_as(x) - (x < 0).type_as(x),
        "and": lambda x: torch.where((x >= 0) & ~(x < 0), 2.0, 3.0),
        "heaviside": lambda x: torch.heaviside(x, torch.tensor(0.5)),
        "negative part": lambda x: torch.where(x < 0, x, 0.0),
        "leaky": lambda x: torch.where(x >= 0, x, 0.5 * x),
        "of two": lambda x: torch.where(x >= 0.25, x * x, 3 - x),
        "one constant": lambda x: torch.where(x >= 0.25, 1.5, 3 - x),
        "constant mask": lambda x: torch.where(odd, x, 2 * x),
        "masked fill": lambda x: x.masked_fill(odd, -7.0).masked_fill(x < 0, 1.0),
        "infinite": lambda x: x.masked_fill(odd, float("-inf")),
        "written": written,
        "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    }
    imported = check_all(bodies)
    zero = torch.zeros(SHAPE)
    np.testing.assert_array_equal(execute(imported, zero), Net(bodies)(zero).numpy())


def test_scalars_keep_their_rank() -> None:
    graph = check_all({"scalar": lambda x: x * torch.tensor(0.5), "vector": lambda x: x * torch.tensor([0.5])}).graph
    assert [op.inputs[1].type.shape for op in graph.of_kind("mul")] == [(), (1,)]


def test_importers_are_of_ops_that_exist() -> None:
    for name in IMPORTERS:
        op, overload = name.split(".")
        assert hasattr(getattr(torch.ops.aten, op), overload), name


def test_layout() -> None:
    token = const(1, 1, 8)
    bodies = {
        "view": lambda x: x.view(1, -1, 4).flatten(1).unflatten(1, (2, -1)),
        "squeeze": lambda x: x[0].unsqueeze(1).squeeze(),
        "transpose": lambda x: x.transpose(1, -1) + x.permute(0, 3, 2, 1),
        "mT": lambda x: x.mT,
        "T": lambda x: x[0, 0].t() + x[0, 0].T,
        "movedim": lambda x: x.movedim(1, -1),
        "expand": lambda x: x[:, 1:2].expand(-1, 3, -1, -1),
        "expand as": lambda x: x[:, :1].expand_as(x),
        "repeat": lambda x: x.repeat(1, 2, 1, 3),
        "repeat rank": lambda x: x.repeat(2, 1, 1, 1, 1),
        "tile": lambda x: x.tile((2,)),
        "cat": lambda x: torch.cat([x] * 3 + [torch.ones(1, 1, 8, 8)], dim=1),
        "chunk": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
        "split": lambda x: x.split([1, 2], 1)[1],
        "uneven": lambda x: x.split(3, 2)[2],
        "unbind": lambda x: torch.stack(x.unbind(1), -1),
        "select": lambda x: x.select(1, -1) + x[:, 0],
        "slice": lambda x: x[:, 1:, ::2, -3:-1],
        "narrow": lambda x: x.narrow(2, 1, 3),
        "roll": lambda x: x.roll((1, -2), (2, 3)) + torch.roll(x, 5),
        "pad": lambda x: F.pad(x, (1, 0, 2, 1)),
        "take": lambda x: x[:, [2, 0, 1]],
        "irregular": lambda x: x[:, :, torch.tensor([3, 3, 0, 7, 5])] + x.index_select(2, torch.tensor([-1, 2, 2, 0, 1]) % 8),
        "pairs": lambda x: x[:, :, [0, 3, 1, 2], [1, 0, -2, 2]],
        "table": lambda x: x[0, 0][torch.arange(6).view(2, 3) % 4],
        "column stack": lambda x: torch.hstack([x, x]) + torch.cat([x, -x], 1),
        "class token": lambda x: torch.cat([token.expand(x.shape[0], -1, -1), x.flatten(2)[:, :, :8]], 1),
        "index": lambda x: x.index_select(1, torch.tensor([2, 1])),
        "zeros": lambda x: torch.zeros_like(x) + x,
        "qkv": lambda x: (lambda q: q[0] + q[2])(x.reshape(1, 3, 4, 4, 4).permute(1, 0, 2, 3, 4)),
    }
    check_all(bodies, exact=True)
    graph = check_all({"class token": bodies["class token"]}, exact=True).graph
    (join,) = graph.of_kind("concat")
    assert join.inputs[0].data is not None and join.inputs[0].type.shape == (1, 1, 8)


def test_takes_and_rolls() -> None:
    """Constant indices are one op: a rotation where they are one, whichever way it was written."""
    rotated = {
        "roll": lambda x: x.roll((1, -2), (2, 3)),
        "same axis": lambda x: x.roll((1, 2), (2, 2)),
        "index": lambda x: x[:, :, (torch.arange(8) + 7) % 8],
        "fmod": lambda x: x.index_select(3, torch.fmod(torch.arange(8) + 2, 8)),
    }
    graph = check_all(rotated, exact=True).graph
    assert [(op.attrs["shifts"], op.attrs["axes"]) for op in graph.of_kind("roll")] == [
        ((1, -2), (2, 3)), ((3,), (2,)), ((1,), (2,)), ((-2,), (3,)),
    ]  # fmt: skip
    graph = check_all({"take": lambda x: x[:, :, [5, 0, 0]], "run": lambda x: x[:, :, [1, 3, 5]]}, exact=True).graph
    assert [op.attrs for op in graph.of_kind("take")] == [{"axis": 2, "indices": (5, 0, 0)}]
    program = torch.export.export(Net({"": lambda x: x.roll(1, 2)}), (torch.zeros(SHAPE),), strict=False).run_decompositions()
    assert import_model(program).graph.count() == {"roll": 1, "reshape": 1}


@pytest.mark.parametrize("last", [False, True])
def test_upsampling(last: bool) -> None:
    """However it is spelled, nearest upsampling is one op."""

    def grid(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1) if last else x

    h, w = (1, 2) if last else (2, 3)
    bodies = {
        "repeat_interleave": lambda x: grid(x).repeat_interleave(2, h).repeat_interleave(2, dim=w),
        "swapped": lambda x: grid(x).repeat_interleave(4, w).repeat_interleave(4, h),
        "expand": lambda x: (
            grid(x)
            .unsqueeze(w)
            .unsqueeze(w + 2)
            .expand(*((1, 8, 2, 8, 2, 3) if last else (1, 3, 8, 2, 8, 2)))
            .reshape(*((1, 16, 16, 3) if last else (1, 3, 16, 16)))
        ),
        "indices": lambda x: grid(x)[(slice(None),) * h + (torch.arange(16)[:, None] // 2, torch.arange(16) // 2)],
    }
    if not last:
        bodies["interpolate"] = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
        bodies["size"] = lambda x: F.interpolate(x, size=(24, 24))
    graph = check_all(bodies, exact=True).graph
    assert graph.count()["upsample"] == len(bodies)
    assert "expand" not in graph.count()


def test_interleaving_that_is_no_upsampling() -> None:
    bodies = {
        "one axis": lambda x: x.repeat_interleave(2, 2),
        "channels": lambda x: x.repeat_interleave(3, 1),
        "unequal": lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
        "unequal nearest": lambda x: F.interpolate(x, scale_factor=(2, 3)),
        "tokens": lambda x: x.flatten(2).transpose(1, 2).repeat_interleave(4, 1),
        "tiled": lambda x: x.repeat(1, 1, 2, 2),
    }
    assert "upsample" not in check_all(bodies, exact=True).graph.count()


def test_products() -> None:
    w, b, wide = const(5, 8), const(5), const(3, 8, 8)
    bodies = {
        "linear": lambda x: F.linear(x, w, b),
        "no bias": lambda x: F.linear(x, w),
        "matmul": lambda x: x @ w.T,
        "left": lambda x: w @ x,
        "addmm": lambda x: torch.addmm(b, x[0, 0], w.T),
        "mm": lambda x: torch.mm(x[0, 0], w.T),
        "vector": lambda x: x @ w[0],
        "bmm": lambda x: torch.bmm(x[0], x[0].transpose(1, 2)),
        "scores": lambda x: x @ x.transpose(-1, -2),
        "constant": lambda x: x @ wide,
        "broadcast": lambda x: torch.matmul(x[:, :1], x),
        "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
        "linear of input": lambda x: F.linear(x[0, 0], x[0, 1]),
        "attention": lambda x: F.scaled_dot_product_attention(x, x + 1, x - 1),
        "conv": lambda x: F.conv2d(x, wide[:, :3, :3].reshape(3, 3, 3, 1), b[:3], 2, 1, 1, 1),
        "groups": lambda x: F.conv2d(x, wide[:, :1, :3].reshape(3, 1, 1, 3).repeat(1, 1, 3, 1), None, 1, "same", 2, 3),
        "conv1d": lambda x: F.conv1d(x[:, :, 0], wide[:, :3, :3], b[:3], stride=2, padding=1),
        "unbatched": lambda x: F.conv2d(x[0], w.reshape(5, 1, 2, 4)[:, [0, 0, 0]]),
        "code product": lambda x: torch.sign(x) @ torch.sign(w.T),
    }
    count = check_all(bodies).graph.count()
    assert count["linear"] == 7
    assert count["conv2d"] == 4


def test_code_products_are_exact() -> None:
    w = torch.sign(const(5, 8)) * 0.3
    check_all(
        {"linear": lambda x: F.linear(torch.sign(x), torch.sign(w)), "scores": lambda x: torch.sign(x) @ torch.sign(x).mT},
        exact=True,
    )


def test_norms_and_pools() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn1, self.bn2, self.bare = nn.BatchNorm1d(3), nn.BatchNorm2d(3, eps=1e-3), nn.BatchNorm1d(3, affine=False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.bn1(x.flatten(2)).view(x.shape) + self.bn2(x)
            z: Tensor = self.bare(x.flatten(2).mean(-1))
            return y + z[:, :, None, None]

    block: Any = prepared(Block())
    const_a, const_b = const(8), const(8)
    check_all(
        {
            "norms": block,
            "pool": lambda x: F.avg_pool2d(x, 2),
            "row": lambda x: F.avg_pool2d(x, (1, 5), 1, (0, 2)),
            "column": lambda x: F.avg_pool2d(x.permute(0, 2, 1, 3).contiguous(), (3, 1), stride=1, padding=(1, 0)),
            "view": lambda x: F.avg_pool2d(x.flatten(2).permute(0, 2, 1).permute(0, 2, 1).reshape(-1, 3, 8, 8), 4),
            "unbatched": lambda x: F.avg_pool2d(x[0], 2),
            "divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
            "pool1d": lambda x: F.avg_pool1d(x.flatten(2), 4),
            "pool1d padded": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
            "adaptive1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 1).squeeze(-1),
            "adaptive1d 4": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 4),
            "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
            "adaptive 4": lambda x: F.adaptive_avg_pool2d(x, (4, 2)),
            "layer norm": lambda x: F.layer_norm(x, (8,), const_a, const_b, 1e-3) + F.layer_norm(x, (8, 8)),
            "token norm": lambda x: F.batch_norm(x[0], const_a, const_b.abs(), const_b, const_a),
            "max pool": lambda x: F.max_pool2d(x, 2) + nn.MaxPool2d((3, 2), 2, (1, 0))(x)[..., :4, :4],
            "max pool 7": lambda x: F.max_pool2d(x - 5, 7, 7, 3),
            "unbatched max": lambda x: F.max_pool2d(x[0], 3, 1),
            "max": lambda x: x.amax((1, 2)) - x.max(dim=-1, keepdim=True)[0] + torch.max(x) + x.min(1)[0] + x.amin(),
            "mean": lambda x: x.mean((2, 3)) + x.mean(),
            "sum": lambda x: x.sum(1, keepdim=True),
        }
    )


STEPS: dict[str, Any] = {
    "view": lambda x, k: x.reshape([(-1, 6), (4, -1), (2, -1, 3), (8, 3, -1)][k % 4]),
    "permute": lambda x, k: x.permute([(i + k) % x.ndim for i in range(x.ndim)]),
    "transpose": lambda x, k: x.transpose(k % x.ndim, -1),
    "flatten": lambda x, k: x.flatten(k % x.ndim),
    "chunk": lambda x, k: torch.cat(x.chunk(2, k % x.ndim)[::-1], k % x.ndim),
    "roll": lambda x, k: x.roll(k + 1, k % x.ndim),
    "repeat": lambda x, k: x.repeat_interleave(2, k % x.ndim) if x.numel() < 1000 else x,
    "stack": lambda x, k: torch.stack([x, -x], k % (x.ndim + 1)) if x.numel() < 1000 else x,
    "unsqueeze": lambda x, k: x.unsqueeze(k % (x.ndim + 1)),
    "slice": lambda x, k: torch.cat([x[..., k % x.shape[-1] :], x[..., : k % x.shape[-1]]], -1),
}


# an example takes a fifth of a second, so it holds six chains, and nothing is shrunk
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 5)), min_size=2, max_size=6), min_size=6, max_size=6)
)
def test_chains_of_layout_ops(chains: list[list[tuple[str, int]]]) -> None:
    def body(chain: list[tuple[str, int]]) -> Any:
        def run(x: Tensor) -> Tensor:
            for name, k in chain:
                x = STEPS[name](x, k)
            return x

        return run

    imported = check_all({str(chain): body(chain) for chain in chains}, shape=(1, 3, 4, 4), exact=True)
    assert set(imported.graph.count()) <= {"permute", "reshape", "concat", "slice", "expand", "upsample", "neg", "roll"}


def test_constants_are_folded_by_torch() -> None:
    """A chain on parameters becomes one constant with exactly torch's bits."""
    w = const(8, 8)

    def effective() -> Tensor:
        return (w - w.mean(-1, keepdim=True)).sign() * w.abs().mean(1, keepdim=True).sqrt().exp()

    graph = check_all({"linear": lambda x: F.linear(x, effective()), "table": lambda x: x + torch.arange(8) / 8}).graph
    assert set(graph.count()) == {"linear", "add", "reshape", "concat"}
    (linear,) = graph.of_kind("linear")
    np.testing.assert_array_equal(linear.inputs[1].data, effective().numpy())
