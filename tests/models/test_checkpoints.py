"""Loading checkpoints of every family: told by their keys, complete or refused with everything that is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.models import create, load_model, names, read_checkpoint  # noqa: E402
from bvtdeploy.models.checkpoint import family_of  # noqa: E402
from bvtdeploy.models.families import FAMILIES  # noqa: E402

CONFORMANCE = Path(__file__).resolve().parents[2].parent / "shared" / "conformance"
VECTORS = sorted(path.stem for path in CONFORMANCE.glob("*.npz"))
NANO = [name for name in names() if name.endswith("_nano")]


@pytest.mark.skipif(not VECTORS, reason=f"no conformance vectors in {CONFORMANCE}")
@pytest.mark.parametrize("name", VECTORS or ["none"])
def test_published_vectors(name: str) -> None:
    """Logits of the original implementations, float64, the configuration inferred from the keys alone."""
    with np.load(CONFORMANCE / f"{name}.npz") as data:
        state = {k.removeprefix("state_dict/"): torch.from_numpy(data[k]) for k in data.files if k.startswith("state_dict/")}
        pixels, want = torch.from_numpy(data["input"]).double(), data["logits"]
    with torch.no_grad():
        got = load_model(state).double()(pixels).numpy()
    assert np.abs(got - want).max() <= 1e-9 * np.abs(want).max()


@pytest.mark.parametrize("name", NANO)
def test_files_of_every_family_are_told_apart(name: str, tmp_path: Path) -> None:
    model: Any = create(name, 3)
    assert [family.matches(model.state_dict()) for family in FAMILIES].count(True) == 1
    config = model.config
    pixels = torch.randn(1, config.in_channels, config.image_size, config.image_size)
    wrapped = {"model": model.state_dict(), "config": config.to_dict(), "epoch": 3, "args": argparse.Namespace(lr=1.0)}
    parallel = {"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "config": config.to_dict()}
    for value in (wrapped, parallel):
        torch.save(value, tmp_path / "m.pt")
        loaded: Any = load_model(tmp_path / "m.pt")
        assert loaded.config == config
        assert not loaded.training
        assert torch.equal(loaded(pixels), model(pixels))
    assert read_checkpoint(tmp_path / "m.pt").config == config.to_dict()


@pytest.mark.parametrize("name", NANO)
def test_everything_that_does_not_fit_is_listed(name: str) -> None:
    model: Any = create(name)
    state = dict(model.state_dict())
    weights = [k for k, v in state.items() if k.endswith("weight") and v.dim() == 1 and "prelu" not in k]
    gone, bad = weights[2], weights[3]
    del state[gone]
    state[bad] = torch.full_like(state[bad], float("nan"))
    state["stranger"] = torch.zeros(2)
    head = next(k for k in state if k in ("classifier.bias", "head.bias"))
    state[head] = torch.zeros(state[head].shape[0] + 1)
    with pytest.raises(UserError) as caught:
        load_model({"model": state, "config": model.config.to_dict()})
    for text in (f"missing {gone}", "unexpected stranger", f"shape of {head}", f"values of {bad}"):
        assert text in str(caught.value)


@pytest.mark.parametrize("name", [n for n in NANO if n.startswith(("bhvit", "bi_vit_li"))])
def test_quantisers_without_values_are_refused(name: str) -> None:
    model: Any = create(name)
    state = {k: torch.zeros_like(v) if k.endswith("init_state") else v for k, v in model.state_dict().items()}
    with pytest.raises(UserError, match=r"never (set|initialised)|does not fit") as caught:
        load_model({"model": state, "config": model.config.to_dict()})
    assert "init_state" in str(caught.value)


def test_published_names_of_configuration_entries() -> None:
    model: Any = create("bhvit_nano")
    stated = {
        "hidden_size": [32, 64, 128, 256], "num_attention_heads": [1, 1, 2, 4], "intermediate_size": [64, 128, 256, 512],
        "num_channels": 3, "num_labels": 10, "token_num": [3136, 784, 196, 49], "model_type": "vit", "num_hidden_layersA": 2,
    }  # fmt: skip
    loaded: Any = load_model({"model": model.state_dict(), "config": stated})
    assert loaded.config == model.config
    with pytest.raises(UserError, match="do not split into 3 heads"):
        load_model({"model": model.state_dict(), "config": {"num_attention_heads": [1, 1, 3, 4]}})
    deit: Any = create("bivit_he_deit_nano")
    other: Any = load_model({"model": deit.state_dict(), "config": {"hidden_size": 128, "num_attention_heads": 4}})
    assert other.config.heads == (4,)


def test_a_model_of_another_family_is_refused_with_what_is_known() -> None:
    state = {"conv1.weight": torch.zeros(8, 3, 3, 3), "layer1.0.conv1.weight": torch.zeros(8, 8, 3, 3), "fc.bias": torch.zeros(10)}
    with pytest.raises(UserError) as caught:
        load_model(state)
    text = str(caught.value)
    assert "conv1.weight, fc.bias, layer1.0.conv1.weight" in text
    assert all(family.title in text for family in FAMILIES)
    float_deit = {"blocks.0.attn.qkv.weight": torch.zeros(6, 2), "pos_embed": torch.zeros(1, 5, 2)}
    with pytest.raises(UserError, match="no model family"):
        family_of(float_deit)


@pytest.mark.parametrize("name", NANO)
def test_a_part_of_a_checkpoint_is_a_clear_error(name: str) -> None:
    """Whatever single entries a file of the family is left with, the loader says what is missing and never crashes."""
    state = create(name).state_dict()
    keys = [k for k in state if any(f.matches({k: state[k]}) for f in FAMILIES)]
    for kept in ([keys[0]], keys[:5], keys):
        with pytest.raises(UserError):
            load_model({k: state[k] for k in kept if k in keys} | {"x": torch.zeros(1)})
    broken = {k: v.reshape(-1)[:1] if v.dim() else v for k, v in state.items()}
    with pytest.raises(UserError):
        load_model(broken)
