"""The BinaryViT model against the published semantics, and the checkpoint loader."""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig, load_model  # noqa: E402
from bvtdeploy.models.layers import RPReLU, binary_weight, quantise_probabilities  # noqa: E402

CONFORMANCE = Path(__file__).resolve().parents[2].parent / "shared" / "conformance"
SMALL = BinaryViTLeConfig(
    image_size=16, in_channels=1, patch_size=2, dims=(32, 64), depths=(1, 2), heads=(1, 1),
    intermediate=(64, 128), reduction=(2, 1), num_classes=5,
)  # fmt: skip


def small_model(**changes: Any) -> Any:
    torch.manual_seed(0)
    model = BinaryViTLe(BinaryViTLeConfig.from_dict({**SMALL.to_dict(), **changes}))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not name.endswith("att_prob_clip"):
                value.normal_(0.0, 0.3)
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize("name", ["binaryvit_le", "binaryvit_le_somefp"])
def test_published_vectors(name: str) -> None:
    file = CONFORMANCE / f"{name}.npz"
    if not file.exists():
        pytest.skip(f"{file} is not on this machine")
    with np.load(file) as data:
        state = {k.removeprefix("state_dict/"): torch.from_numpy(data[k]) for k in data.files if k.startswith("state_dict/")}
        pixels, want = torch.from_numpy(data["input"]).double(), data["logits"]
    stated = json.loads(file.with_suffix(".json").read_text())["config"]
    model = load_model(state).double()
    for published, ours in (("num_attention_heads", "heads"), ("reduction_ratio", "reduction"), ("depths", "depths")):
        assert list(getattr(model.config, ours)) == stated[published]
    assert model.config.some_fp is (name == "binaryvit_le_somefp")
    with torch.no_grad():
        got = model(pixels).numpy()
    assert np.abs(got - want).max() <= 1e-9 * np.abs(want).max()


def test_weight_code_and_scale() -> None:
    """The scale is the mean magnitude of the raw row; only a centred code subtracts the row mean."""
    weight = torch.tensor([[0.25, 0.5, 1.5], [-1.0, 1.0, 0.75]])
    centred = binary_weight(weight, centred=True, training=False)
    np.testing.assert_allclose(centred, [[-0.75, -0.75, 0.75], [-2.75 / 3, 2.75 / 3, 2.75 / 3]], rtol=1e-6)
    raw = binary_weight(weight, centred=False, training=False)
    np.testing.assert_allclose(raw[0], [0.75, 0.75, 0.75], rtol=1e-6)
    assert torch.equal(raw, binary_weight(weight, centred=False, training=True))


def test_probability_quantiser_rounds_half_to_even() -> None:
    p = torch.tensor([0.0, 0.25, 0.2500001, 0.5, 0.9])
    out = quantise_probabilities(p, torch.tensor(0.5), training=False)
    assert out.tolist() == [0.0, 0.0, 0.5, 0.5, 0.5]


def test_rprelu() -> None:
    layer = RPReLU(2)
    with torch.no_grad():
        layer.move1.copy_(torch.tensor([1.0, 0.0]))
        layer.move2.copy_(torch.tensor([0.0, 2.0]))
    assert layer(torch.tensor([[[3.0, -4.0], [0.0, 4.0]]])).tolist() == [[[2.0, 1.0], [-0.25, 6.0]]]


def test_linear_by_integers() -> None:
    """One binary linear: the float result is the row scale times an integer dot product of signs."""
    layer = small_model().vit.encoder.layer[0].intermediate
    x = torch.randn(1, 7, 32)
    codes, weight = torch.sign(x + layer.move).int(), layer.dense.weight.detach()
    dots = codes @ torch.sign(weight - weight.mean(1, keepdim=True)).int().T
    np.testing.assert_allclose(
        layer.dense(x, layer.move).detach(), dots * weight.abs().mean(1), rtol=1e-5, atol=1e-6
    )  # fmt: skip


def test_training_forward_has_the_same_values_and_gradients() -> None:
    model = small_model().double()
    pixels = torch.randn(2, 1, 16, 16, dtype=torch.float64)
    want = model(pixels).detach()
    for module in model.modules():
        module.training = not isinstance(module, torch.nn.BatchNorm1d)
    got = model(pixels)
    np.testing.assert_allclose(got.detach(), want, rtol=1e-12)
    got.square().sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


@pytest.mark.parametrize(
    "changes",
    [{}, {"some_fp": True}, {"pool5": False}, {"norm": "layer"}],
    ids=["binary", "some_fp", "pool3", "layer_norm"],
)
def test_file_round_trip_infers_the_configuration(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    pixels = torch.randn(1, 1, 16, 16)
    bare = OrderedDict((k, v) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked"))
    wrapped = {"model": model.state_dict(), "epoch": 3, "args": argparse.Namespace(some_fp=False), "optimizer": {"lr": 1.0}}
    for value in (bare, wrapped):
        torch.save(value, tmp_path / "m.pt")
        loaded = load_model(tmp_path / "m.pt")
        assert loaded.config == model.config
        assert torch.equal(loaded(pixels), model(pixels))


def test_config_entry_wins() -> None:
    state = small_model(heads=[1, 2]).state_dict()
    assert load_model(state).config.heads == (1, 1)
    assert load_model({"model": state, "config": {"num_attention_heads": [1, 2]}}).config.heads == (1, 2)


def test_wrong_keys_are_listed_together() -> None:
    state = small_model().state_dict()
    del state["vit.layernorm.running_mean"]
    state["vit.embeddings.cls_token"] = torch.zeros(1, 1, 32)
    state["classifier.bias"] = torch.zeros(6)
    state["vit.layernorm.bias"] = torch.full((64,), float("nan"))
    with pytest.raises(UserError) as caught:
        load_model(state)
    for key in ("vit.layernorm.running_mean", "vit.embeddings.cls_token", "classifier.bias", "vit.layernorm.bias"):
        assert key in str(caught.value)


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


def test_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": small_model().state_dict(), "x": _Code()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="running code"):
        load_model(tmp_path / "bad.pt")
    assert capsys.readouterr().out == ""


def test_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save({"model": {"epoch": 3}}, tmp_path / "empty.pt")
    torch.save({"blocks.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("absent.pt", "text.pt", "empty.pt", "other.pt"):
        with pytest.raises(UserError):
            load_model(tmp_path / name)


def test_export() -> None:
    model, pixels = small_model(), torch.randn(1, 1, 16, 16)
    program = torch.export.export(model, (pixels,), strict=False)
    assert torch.equal(program.module()(pixels), model(pixels))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.sign.default" in names and "aten.detach.default" not in names
