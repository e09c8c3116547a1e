"""What the tests of the families share: random models of any shape, images, and the logits of the original implementations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bvtdeploy.models import BHViTConfig, load_model
from bvtdeploy.models.bhvit import BHViT
from bvtdeploy.models.binaryvit_le import BinaryViTLe, BinaryViTLeConfig

CONFORMANCE = Path(__file__).resolve().parents[2].parent / "shared" / "conformance"
VECTORS = sorted(path.stem for path in CONFORMANCE.glob("*.npz"))

BHVIT = BHViTConfig(
    image_size=56, in_channels=1, patch_size=2, dims=(16, 32, 64), depths=(1, 1, 2), heads=(1, 1, 2),
    intermediate=(32, 64, 128), conv_stages=1, num_classes=5,
)  # fmt: skip
LE = BinaryViTLeConfig(
    image_size=16, in_channels=1, patch_size=2, dims=(32, 64), depths=(1, 2), heads=(1, 1),
    intermediate=(64, 128), reduction=(2, 1), num_classes=5,
)  # fmt: skip


def pyramid(config: Any, **changes: Any) -> Any:
    """A BinaryViT or BHViT in eval mode with random parameters and statistics, the same in every call."""
    config = type(config).from_dict({**config.to_dict(), **changes})
    torch.manual_seed(0)
    model = BHViT(config) if isinstance(config, BHViTConfig) else BinaryViTLe(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "att_prob" not in name:
                value.normal_(0.0, 0.3)
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return model.eval()


def pixels(model: Any, batch: int = 1) -> Any:
    """Random images that the model takes, the same in every call."""
    config = model.config
    return torch.randn(batch, config.in_channels, config.image_size, config.image_size, generator=torch.Generator().manual_seed(2))


def run(model: Any, x: Any) -> Any:
    """Logits without gradients."""
    with torch.no_grad():
        return model(x)


def published(name: str) -> tuple[dict[str, Any], Any, Any]:
    """State dict, images and float64 logits of an original implementation."""
    with np.load(CONFORMANCE / f"{name}.npz") as data:
        state = {k.removeprefix("state_dict/"): torch.from_numpy(data[k]) for k in data.files if k.startswith("state_dict/")}
        return state, torch.from_numpy(data["input"]), data["logits"]


def check_training(model: Any, rtol: float) -> list[str]:
    """In training mode, norms aside, the values are the same; returns the parameters that get no gradient."""
    model = model.double()
    x = pixels(model, 2).double()
    want = run(model, x)
    for module in model.modules():
        module.training = not isinstance(module, nn.BatchNorm1d)
    got = model(x)
    np.testing.assert_allclose(got.detach(), want, rtol=rtol, atol=rtol)
    got.square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


def check_inferred(model: Any) -> None:
    """The state dict alone gives the same model."""
    loaded: Any = load_model(model.state_dict())
    assert loaded.config == model.config
    assert torch.equal(run(loaded, pixels(model)), run(model, pixels(model)))


def check_export(model: Any) -> set[str]:
    """The exported program computes the same, without what only training needs; returns the names of its calls."""
    x = pixels(model)
    program = torch.export.export(model, (x,), strict=False)
    assert torch.equal(run(program.module(), x), run(model, x))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.sign.default" in names and "aten.detach.default" not in names
    return names
