"""The named models: random, but with statistics that fit, and costs that are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.artifact import spec  # noqa: E402
from bvtdeploy.artifact.inspect import inspect  # noqa: E402
from bvtdeploy.artifact.reader import read  # noqa: E402
from bvtdeploy.compiler import compile_model  # noqa: E402
from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.models import create, load_model, names  # noqa: E402
from bvtdeploy.models.families import FAMILIES  # noqa: E402
from bvtdeploy.models.zoo import checkpoint_bytes, facts, program_bytes  # noqa: E402

NANO = [name for name in names() if name.endswith("_nano")]


def pixels(model: Any, count: int = 1) -> Any:
    torch.manual_seed(5)
    config = model.config
    return torch.randn(count, config.in_channels, config.image_size, config.image_size)


def test_every_family_has_a_small_model() -> None:
    assert len(names()) == len(set(names()))
    assert all(any(name.endswith("_nano") for name in family.configs) for family in FAMILIES)


@pytest.mark.parametrize("name", NANO)
def test_a_seed_is_a_model(name: str) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    model: Any = create(name, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    again, other = create(name, 1).state_dict(), create(name, 2).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())
    assert any(not torch.equal(v, other[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        logits = model(pixels(model, 4))
    assert bool(torch.isfinite(logits).all())
    assert float(logits.std(0).min()) > 0  # the image matters
    statistics = [v for k, v in model.state_dict().items() if k.endswith("running_mean")]
    assert all(float(v.abs().max()) > 0 for v in statistics)


@pytest.mark.parametrize("name", NANO)
def test_nothing_is_left_at_a_value_where_it_does_nothing(name: str) -> None:
    """Or a compiler's mistake about it would not show."""
    for key, value in create(name).named_parameters():
        if key.rsplit(".", 1)[-1] in ("move", "move1", "move2", "moveq", "bias", "alpha", "weight") and value.numel() > 8:
            assert float(value.detach().std()) > 0, key


@pytest.mark.parametrize("name", ["binaryvit_xiao_deit_nano", "bivit_he_swin_nano"])
def test_both_files_hold_the_model(name: str, tmp_path: Path) -> None:
    """That every family exports is for the tests of the families; here it is that the files hold the model of the seed."""
    model: Any = create(name, 4)
    image = pixels(model)
    with torch.no_grad():
        want = model(image)
        (tmp_path / "m.pt").write_bytes(checkpoint_bytes(name, 4))
        assert torch.equal(load_model(tmp_path / "m.pt")(image), want)
        (tmp_path / "m.pt2").write_bytes(program_bytes(name, 4))
        torch.testing.assert_close(torch.export.load(tmp_path / "m.pt2").module()(image), want)


def test_work_by_hand() -> None:
    """The DeiT: 16 patches and a class token, 2 blocks of 128 channels, expansion 2, 10 classes."""
    told = facts("bivit_he_deit_nano")
    linears = 128 * (3 * 128 + 128 + 2 * 256)
    assert told.macs_binary == 2 * (17 * linears + 2 * 17 * 17 * 128)
    assert told.macs_float == 16 * 128 * 3 * 64 + 128 * 10
    rows = 2 * (3 * 128 + 128 + 256 + 128)
    assert told.packed_bytes == 2 * linears // 8 + 4 * (told.parameters - 2 * linears + rows)
    assert (told.input_shape, told.classes) == ((3, 32, 32), 10)


# Multiply-adds of binary layers and of attention, in full precision; parameters; packed size: as published or counted elsewhere.
KNOWN = {
    "binaryvit_le_small": (3556.7 + 265.5, 10.1, 22.49, 8.02),
    "bhvit_small": (4000.6 + 56.3, 10.1, 22.65, 8.10),
    "bhvit_tiny": (2499.5 + 39.6, 10.1, 13.78, 6.31),
    "bi_vit_li_deit_tiny": (1051.1 + 180.7, 29.3, 5.91, 3.17),
}


@pytest.mark.parametrize("name", KNOWN)
def test_costs_of_published_models(name: str) -> None:
    binary, real, parameters, packed = KNOWN[name]
    told = facts(name)
    assert abs(told.macs_binary / 1e6 - binary) < 0.15
    assert abs(told.macs_float / 1e6 - real) < 0.06
    assert abs(told.parameters / 1e6 - parameters) < 0.006
    assert abs(told.packed_bytes / 1e6 - packed) < 0.03


def real_constants(dump: Path, after: str) -> int:
    """How many fp32 numbers the constants have after a pass."""
    (file,) = dump.glob(f"*_{after}.npz")
    with np.load(file) as arrays:
        return sum(array.size for array in arrays.values() if array.dtype == np.float32)


@pytest.mark.parametrize("name", ["binaryvit_le_nano", "bi_vit_li_deit_nano", "bivit_he_swin_nano"])
def test_costs_are_those_of_the_artifact(name: str, tmp_path: Path) -> None:
    """Pooling branches are no products in the model; the compiler makes stencils of them, which count apart."""
    (tmp_path / "m.pt").write_bytes(checkpoint_bytes(name))
    compile_model(tmp_path / "m.pt", tmp_path / "m.bvt", dump_ir=tmp_path / "ir")
    made, told = inspect(tmp_path / "m.bvt"), facts(name)
    stencils = sum(op["macs"]["float"] for op in made["ops"] if op["kind"] == "stencil")
    assert made["macs"]["binary"] == told.macs_binary
    assert sum(op["macs"]["float"] for op in made["ops"]) - stencils == told.macs_float
    constants = [v for v in read(tmp_path / "m.bvt").values if v["storage"] == spec.STORAGES["CONST"]]
    weights = [(v["rows"], v["rows"] * v["cols"]) for v in constants if v["dtype"] == spec.DTYPES["BITS"]]
    rows, bits = (sum(counts) for counts in zip(*weights, strict=True))
    assert told.packed_bytes == bits // 8 + 4 * (told.parameters - bits + rows)
    # The file has records and tables as well; but additions of constants that became part of others are not in it.
    merged = real_constants(tmp_path / "ir", "epilogues") - real_constants(tmp_path / "ir", "offsets")
    assert (merged > 0) == (name == "binaryvit_le_nano")  # the others have no RPReLU
    assert told.packed_bytes < made["bytes"] + 4 * merged


def test_mixed_products_are_no_binary_work() -> None:
    """Full-precision activations times one-bit weights: the weights are bits, the products are not."""
    told = facts("bivit_he_deit_tiny")
    assert told.macs_float > told.macs_binary
    assert told.packed_bytes < told.parameters


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UserError) as caught:
        create("bhvit_smal")
    assert "did you mean bhvit_small" in caught.value.fix
    with pytest.raises(UserError) as caught:
        create("resnet")
    assert "bhvit_nano" in caught.value.fix
