"""Named models with random weights, to try the compiler on every family without a trained checkpoint, and what they cost.

Their weights say nothing, but their statistics are those of a trained model: the norms' are taken from random images, the
quantisers' scales fit what they quantise, and shifts, slopes and branch scales are not at the values where they do nothing.
"""

from __future__ import annotations

import difflib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from bvtdeploy.errors import UserError
from bvtdeploy.models.families import FAMILIES, Family
from bvtdeploy.models.quantisers import calibrate_quantisers

_IMAGES = 4  # random images from which norm statistics are taken
_LEVELS = 8  # an attention operand of no more values than these is made of codes
_SAMPLE = 4096  # elements of it that are looked at
_SPREAD = 1e-3  # of the magnitudes in a row that is one scale times signs


@dataclass(frozen=True)
class ModelFacts:
    """A named model and what it costs for one image.

    Attributes:
        macs_binary: multiply-adds of which both factors are codes of a few values.
        macs_float: all others.
        packed_bytes: one bit a binary weight, four bytes for every other parameter and for the scale of every binary row.
    """

    name: str
    family: str
    input_shape: tuple[int, int, int]
    classes: int
    parameters: int
    macs_binary: int
    macs_float: int
    packed_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON."""
        return {
            "name": self.name,
            "family": self.family,
            "input_shape": list(self.input_shape),
            "classes": self.classes,
            "parameters": self.parameters,
            "macs": {"binary": self.macs_binary, "float": self.macs_float},
            "packed_bytes": self.packed_bytes,
        }


def names() -> list[str]:
    """The names that `create` takes."""
    return [name for family in FAMILIES for name in family.configs]


def create(name: str, seed: int = 0) -> nn.Module:
    """A model in eval mode with random weights and fitting statistics; on one machine, the same for the same seed."""
    model, config = _fresh(name, seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed + 1)
        images = torch.randn(_IMAGES, *_input_shape(config))
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:  # the norms alone: everything else computes as in inference
            norm.train()
            norm.momentum = None
            norm.reset_running_stats()
        if norms:
            model(images)
        for norm in norms:
            norm.momentum = 0.1
    return model.eval()


def checkpoint_bytes(name: str, seed: int = 0) -> bytes:
    """The file of a checkpoint: state dict and configuration."""
    model = create(name, seed)
    config: Any = model.config
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "config": config.to_dict()}, file)
    return file.getvalue()


def program_bytes(name: str, seed: int = 0) -> bytes:
    """The file of an exported program of one image."""
    model = create(name, seed)
    image = torch.zeros(1, *_input_shape(model.config))
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (image,), strict=False), file)
    return file.getvalue()


def facts(name: str) -> ModelFacts:
    """What a model costs, counted while it runs on a random image."""
    model, config = _fresh(name, 0)
    model.eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        image = torch.randn(1, *_input_shape(config))
        with _Products() as products:
            logits = model(image)
    parameters = sum(p.numel() for p in model.parameters())
    packed = math.ceil(products.weights / 8) + 4 * (parameters - products.weights + products.rows)
    return ModelFacts(
        name,
        find(name).title,
        _input_shape(config),
        int(logits.shape[-1]),
        parameters,
        products.binary,
        products.real,
        packed,
    )


def find(name: str) -> Family:
    """The family of a named model. Raises UserError for a name that is none."""
    for family in FAMILIES:
        if name in family.configs:
            return family
    near = difflib.get_close_matches(name.lower(), names(), n=2)
    fix = f"did you mean {' or '.join(near)}?" if near else "known: " + ", ".join(names())
    raise UserError(f"no model named '{name}'", fix=fix)


def _input_shape(config: Any) -> tuple[int, int, int]:
    return config.in_channels, config.image_size, config.image_size


def _fresh(name: str, seed: int) -> tuple[nn.Module, Any]:
    family = find(name)
    config = family.configs[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = family.build(config)
        _scatter(model)
        calibrate_quantisers(model)
    return model, config


# Parameters of quantisers: they have to fit what they quantise.
_KEPT = ("att_prob_clip", "att_prob_clip2", "att_prob_clip3", "clip", "zero_point", "scaling_factor")


def _scatter(model: nn.Module) -> None:
    """Moves what starts at a neutral value (shifts at 0, scales at 1, closed branches) away from it."""
    for key, value in model.named_parameters():
        owner, _, last = key.rpartition(".")
        quantises = last in _KEPT or (last == "alpha" and not owner.rsplit(".", 1)[-1].startswith("layerscale"))
        if not quantises and (value.dim() < 2 or value.shape[0] == 1):
            value.add_(0.1 * torch.randn_like(value))


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiply-adds of what runs inside, told apart by the values that are multiplied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.binary = self.real = self.weights = self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = func.overloadpacket.__name__
        if kind in ("mm", "addmm"):
            x, weight = args[-2:]
            self._layer(x, weight.T, out.numel() * x.shape[1])
        elif kind == "convolution":
            x, weight = args[:2]
            self._layer(x, weight.flatten(1), out.numel() * weight[0].numel())
        elif kind in ("bmm", "baddbmm"):
            x, y = args[-2:]
            self._add(out.numel() * x.shape[2], _few_levels(x) and _few_levels(y.transpose(1, 2)))
        return out

    def _layer(self, x: Tensor, weight: Tensor, macs: int) -> None:
        one_bit = _one_bit(weight)
        self._add(macs, one_bit and bool(((x.abs() == 1.0) | (x == 0.0)).all()))
        if one_bit:
            self.weights += weight.numel()
            self.rows += weight.shape[0]

    def _add(self, macs: int, binary: bool) -> None:
        if binary:
            self.binary += macs
        else:
            self.real += macs


def _one_bit(weight: Tensor) -> bool:
    """Whether every row is one scale times signs; zeros, which a sign gives of an exact 0, count as either."""
    sizes = weight.abs()
    largest = sizes.amax(1, keepdim=True)
    return weight.shape[1] > 1 and bool(((sizes == 0.0) | (sizes >= largest * (1.0 - _SPREAD))).all())


def _few_levels(matrices: Tensor) -> bool:
    """Whether each matrix [n, rows, columns] is of few values; of real values a sample would show more."""
    return all(len(set(matrix.flatten()[:_SAMPLE].tolist())) <= _LEVELS for matrix in (matrices[0], matrices[-1]))
