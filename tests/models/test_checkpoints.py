"""Loading checkpoints of every family: told by their keys, complete or refused with everything that is wrong."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from networks import CONFORMANCE, LE, VECTORS, published, pyramid, run  # noqa: E402

from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.models import create, load_model, names, read_checkpoint  # noqa: E402
from bvtdeploy.models.checkpoint import family_of  # noqa: E402
from bvtdeploy.models.families import FAMILIES  # noqa: E402

NANO = [name for name in names() if name.endswith("_nano")]


@pytest.mark.skipif(not VECTORS, reason=f"no conformance vectors in {CONFORMANCE}")
@pytest.mark.parametrize("name", VECTORS or ["none"])
def test_published_vectors(name: str) -> None:
    """Logits of the original implementations, float64, the configuration inferred from the keys alone."""
    state, pixels, want = published(name)
    got = run(load_model(state).double(), pixels.double()).numpy()
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
    found = {f"{p.module}.{p.what}".lstrip("."): p.why for p in caught.value.problems}
    for key, why in {gone: "missing", "stranger": "unexpected", head: "of shape", bad: "not all finite"}.items():
        assert why in found[key]
    assert len(found) == 4


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
    assert [p.module for p in caught.value.problems] == ["conv1", "layer1.*.conv1", "fc"]
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


# -- files as people have them ------------------------------------------------------------------------------------------------

STATE = pyramid(LE).state_dict()
OTHER = {k: torch.zeros_like(v) for k, v in STATE.items()}
TRAINING = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 3, "best": 71.5, "args": argparse.Namespace(lr=1e-3)}


@pytest.mark.parametrize(
    "held",
    [
        STATE,
        OrderedDict((k, v) for k, v in STATE.items() if not k.endswith("num_batches_tracked")),
        {"model": STATE, **TRAINING},
        {"state_dict": STATE, **TRAINING},
        {"net": STATE, "acc": 71.5},
        {"model_state_dict": {f"module.{k}": v for k, v in STATE.items()}, "loss": None},
        {"state_dict": {f"model._orig_mod.{k}": v for k, v in STATE.items()}, "pytorch-lightning_version": "2.4"},
        {"model": STATE, "model_ema": OTHER},
        {"model_ema": STATE, **TRAINING},
    ],
    ids=["bare", "no counters", "model", "state_dict", "net", "parallel", "lightning", "beside an average", "average alone"],
)  # fmt: skip
def test_wrappers(held: Any, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "m.pt")
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    assert all(torch.equal(v, STATE[k]) for k, v in checkpoint.state.items())
    assert load_model(tmp_path / "m.pt").config == LE
    if "epoch" in held:
        assert checkpoint.extra["epoch"] == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: Any) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in STATE.items()}
    loaded = load_model(state).state_dict()
    assert all(loaded[k].dtype == STATE[k].dtype and torch.equal(loaded[k], v.to(loaded[k].dtype)) for k, v in state.items())


@pytest.mark.parametrize(
    ("held", "texts"),
    [
        ({**STATE, "epoch": 3, "note": "x"}, ["no plain tensors", "epoch", "a int, not a tensor", "a str, not", "not in it"]),
        ({"model": STATE, "state_dict": OTHER}, ["several models", "model and state_dict"]),
        ({"model": {"epoch": 3}}, ["no state dict"]),
        ({"model": STATE, "config": [1]}, ["'config' is not a dict"]),
        ({**STATE, "classifier.bias": torch.zeros(5).to_sparse()}, ["no plain tensors", "torch.sparse_coo"]),
        ({**STATE, "classifier.bias": torch.zeros(5, device="meta")}, ["no values"]),
        ({**STATE, "teacher.head.weight": torch.zeros(2)}, ["1 problem", "teacher.head", "startswith(('teacher.',))"]),
        ({**STATE, "vit.embeddings.mask": torch.zeros(2)}, ["1 problem", "vit.embeddings", "without them"]),
        ({f"student.{k}": v for k, v in STATE.items()} | {"teacher.x": torch.zeros(1)}, ["under student. are those of BinaryViT"]),
        ({"head_dist.bias": torch.zeros(2)}, ["no model family"]),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(held: Any, texts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_model(held)
    for text in texts:
        assert text in str(caught.value)


def test_a_distillation_head_is_no_part_of_a_model_without_one() -> None:
    state = dict(create("bivit_he_deit_nano").state_dict())
    with pytest.raises(UserError) as caught:
        load_model({**state, "head_dist.weight": torch.zeros(10, 128), "head_dist.bias": torch.zeros(10)})
    assert "2 problem" in caught.value.what and "head_dist." in caught.value.fix


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("this must never run",))


def test_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": STATE, "x": _Code()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="running code") as caught:
        load_model(tmp_path / "bad.pt")
    assert "print" in caught.value.why and 'torch.load(path, weights_only=False)["model"]' in caught.value.fix
    assert capsys.readouterr().out == ""


def test_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "half.pt").write_bytes(b"PK\x03\x04 and no more")
    for name, what in (("absent.pt", "no such checkpoint"), ("text.pt", "not a readable"), ("half.pt", "not a readable")):
        with pytest.raises(UserError, match=what):
            load_model(tmp_path / name)
