"""Straight-through residue: removed wherever it is one, left alone elsewhere, measured on weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from styles import Net, check_all, execute  # noqa: E402
from torch import Tensor  # noqa: E402

from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.passes.binary_weights import binary_rows  # noqa: E402

W = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) * 1.5
Pair = Callable[[Tensor, Tensor], Tensor]


def bireal(x: Tensor) -> Tensor:
    """The piecewise quadratic of Bi-Real net."""
    low, middle, high = (x < -1).float(), (x < 0).float(), (x < 1).float()
    y = -1 * low + (x * x + 2 * x) * (1 - low)
    y = y * middle + (-x * x + 2 * x) * (1 - middle)
    return y * high + 1 * (1 - high)


SPELLINGS: dict[str, Pair] = {
    "q - g + g": lambda q, g: q.detach() - g.detach() + g,
    "g + (q - g)": lambda q, g: g + (q - g).detach(),
    "(q - g) + g": lambda q, g: (q - g).detach() + g,
    "q + (g - g)": lambda q, g: q.detach() + (g - g.detach()),
    "g - g + q": lambda q, g: g - g.detach() + q.detach(),
    "no marks": lambda q, g: q - g + g,
    "-(g - q) + g": lambda q, g: -(g - q).detach() + g,
    "(q - g).data": lambda q, g: (q - g).data + g,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str) -> None:
    """On weights and activations alike, whatever g is, also where g is computed twice."""
    ste = SPELLINGS[name]
    alpha = W.abs().mean(1, keepdim=True)
    clip = torch.tensor(0.1)
    quantised: Callable[[Tensor], Tensor] = lambda p: torch.round(p / clip).clamp(0, 1) * clip  # noqa: E731
    imported = check_all(
        {
            "weight": lambda x: F.linear(x, ste(alpha * torch.sign(W), W.clamp(-1, 1))),
            "sign": lambda x: ste(torch.sign(x), x.clamp(-1, 1)),
            "bireal": lambda x: ste(torch.sign(x), bireal(x)),
            "round": lambda x: ste(torch.round(x), x),
            "twice": lambda x: ste(torch.sign(x), x.clamp(-1, 1)) * x.clamp(-1, 1),
            "probability": lambda x: ste(quantised(x.softmax(-1)), x.softmax(-1)),
            "compare": lambda x: ste((x >= 0.25).float(), x.sigmoid()),
            "levels": lambda x: ste((torch.sign(x) - 1) * alpha[0], x * alpha[1]),
        }
    )
    assert imported.extras["estimators"] == {"weights": 1, "activations": 7}
    assert imported.residue_max < 1e-5
    assert (imported.residue_max > 0) == ("g - g" not in name and "(g - g)" not in name)
    (linear,) = imported.graph.of_kind("linear")
    assert linear.inputs[1].data is not None
    np.testing.assert_array_equal(linear.inputs[1].data, (alpha * torch.sign(W)).numpy())
    weight = binary_rows(linear.inputs[1].data)
    assert weight is not None and weight.residue == 0
    np.testing.assert_array_equal(weight.scale, alpha[:, 0].numpy())
    assert set(imported.graph.count()) <= {
        "linear",
        "sign",
        "round",
        "mul",
        "div",
        "clamp",
        "softmax",
        "add",
        "sub",
        "reshape",
        "concat",
    }


def test_dead_gradient_terms_are_never_reported() -> None:
    """What only carries gradients need not be supported: here a sigmoid, which alone is refused."""
    imported = import_model(
        Net({"": lambda x: torch.sign(x).detach() - x.sigmoid().detach() + x.sigmoid()}), example_input=(1, 1, 2, 2)
    )
    assert imported.graph.count() == {"reshape": 1, "sign": 1}


def test_what_is_no_estimator_stays() -> None:
    """No quantiser, no exact cancellation, or a broadcast: the arithmetic is the model's own."""
    imported = check_all(
        {
            "no quantiser": lambda x: (x * 2 - x.abs()) + x.abs(),
            "other term": lambda x: torch.sign(x) - x.clamp(-1, 1) + x.clamp(-2, 2),
            "same sign": lambda x: torch.sign(x) + x + x,
            "scaled": lambda x: torch.add(torch.sign(x) - x, x, alpha=2),
            "broadcast": lambda x: (torch.sign(x[:, :1]) - x) + x,
            "shortcut": lambda x: torch.sign(x) + x,
        }
    )
    assert imported.extras["estimators"] == {"weights": 0, "activations": 0}
    assert imported.residue_max == 0


def test_gradient_scales_of_step_sizes() -> None:
    """(v - v*g) + v*g of a parameter is v, rounded zero points and divided steps included; other constants stay what they are."""
    v, g = torch.rand(4, generator=torch.Generator().manual_seed(2)) + 0.5, 0.0123

    def scaled(t: Tensor) -> Tensor:
        return (t - t * g).detach() + t * g

    zero = (v * 3 - 4).round()
    imported = check_all(
        {
            "step": lambda x: x * scaled(v),
            "data": lambda x: x * (v.data - (v / 81).data + v / 81),
            "zero point": lambda x: x + scaled(((v * 3 - 4).round() - (v * 3 - 4)).detach() + (v * 3 - 4)),
            "no multiple": lambda x: x * ((v - v.exp()) + v.exp()),
        },
        shape=(1, 1, 1, 4),
    )
    constants = [op.inputs[1].data for op in imported.graph.of_kind("mul", "add")]
    for got, expected in zip(constants, (v, v, zero), strict=False):
        np.testing.assert_array_equal(got, expected.numpy())
    assert imported.extras["estimators"]["weights"] == 4


def test_codes_between_constant_tensors() -> None:
    """where between tensors of ones and zeros is a code, in whatever way they are made; dropout of an evaluation is nothing."""
    imported = check_all(
        {
            "like": lambda x: (torch.where(x > 0.1, torch.ones_like(x), torch.zeros_like(x)) - x).detach() + x,
            "softmax": lambda x: (lambda s: (torch.where(s < 0.25 * s.max(-1, True)[0], 0, 1).float() - s) + s)(x.softmax(-1)),
            "dropout": lambda x: (x.sign() - F.dropout(x, 0.3, False)).detach() + x,
        },
        exact=True,
    )
    assert imported.extras["estimators"] == {"weights": 0, "activations": 3}


def test_zero_codes_survive_folding() -> None:
    """sign(0) = 0 of torch is in the folded weight: binary_rows, not the front end, decides what becomes of it."""
    w = W.clone()
    w[2, 3] = 0
    imported = import_model(Net({"": lambda x: F.linear(x, torch.sign(w) - w + w)}), example_input=(1, 1, 1, 8))
    (linear,) = imported.graph.of_kind("linear")
    assert linear.inputs[1].data is not None and linear.inputs[1].data[2, 3] == 0
    weight = binary_rows(linear.inputs[1].data)
    assert weight is not None and (weight.zeros, weight.codes[2, 3]) == (1, 1)
    assert execute(imported, torch.ones(1, 1, 1, 8)).shape == (1, 6)
