"""The families in a DeiT or a Swin: published logits, configurations from keys, and the parts against their definitions."""

from __future__ import annotations

import json
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from networks import CONFORMANCE, VECTORS, pixels, published, run  # noqa: E402

from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.models import bi_vit_li, binaryvit_xiao, bivit_he  # noqa: E402
from bvtdeploy.models.checkpoint import load_into  # noqa: E402
from bvtdeploy.models.quantisers import (  # noqa: E402
    ElasticLinear,
    ElasticQuantiser,
    OneBitLinear,
    calibrate_quantisers,
    require_initialised,
    softmax_aware,
)
from bvtdeploy.models.swin import PatchMerging, from_windows, shift_mask, to_windows  # noqa: E402
from bvtdeploy.models.vit import relative_positions  # noqa: E402

FAMILIES = (bivit_he, bi_vit_li, binaryvit_xiao)
CONFIGS = {name: (family, config) for family in FAMILIES for name, config in family.CONFIGS.items()}
NANO = [name for name in CONFIGS if name.endswith("nano")]


def make(name: str, **changes: Any) -> Any:
    family, config = CONFIGS[name]
    torch.manual_seed(0)
    model = family.build(type(config).from_dict({**config.to_dict(), **changes}))
    calibrate_quantisers(model, torch.Generator().manual_seed(1))
    return model.eval()


# -- published models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bivit_he_deit_w1a1", "bivit_he_deit_1w32a", "bi_vit_li_deit", "bi_vit_li_swin"])
def test_published_vectors(name: str) -> None:
    if name not in VECTORS:
        pytest.skip(f"{name} is not in {CONFORMANCE}")
    state, image, want = published(name)
    (family,) = (f for f in FAMILIES if f.matches(state))
    config = family.infer_config(state)
    stated = json.loads((CONFORMANCE / f"{name}.json").read_text())["config"]
    assert config == type(config).from_dict({**config.to_dict(), **stated})
    model = family.build(config).eval()
    load_into(model, state)
    in_float = run(model, image.float()).numpy()
    in_double = run(model.double(), image.double()).numpy()
    assert np.abs(in_double - want).max() <= 1e-9 * np.abs(want).max()
    assert np.abs(in_float - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bi_vit_li_deit_tiny", 5.91), ("bi_vit_li_deit_small", 22.44), ("bi_vit_li_swin_tiny", 28.30), ("bivit_he_deit_tiny", 5.74)],
)
def test_published_sizes(name: str, parameters: float) -> None:
    family, config = CONFIGS[name]
    with torch.device("meta"):
        model = family.build(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(parameters, abs=0.006)


# -- every family -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NANO)
def test_state_dict_tells_family_and_configuration(name: str) -> None:
    family, config = CONFIGS[name]
    model = make(name)
    state = model.state_dict()
    assert [f for f in FAMILIES if f.matches(state)] == [family]
    assert family.infer_config(state) == config
    other = family.build(family.infer_config(state)).eval()
    load_into(other, state)
    assert torch.equal(run(other, pixels(model)), run(model, pixels(model)))


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_as_plain_types(name: str) -> None:
    _, config = CONFIGS[name]
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", NANO)
def test_export(name: str) -> None:
    model = make(name)
    x = pixels(model)
    program = torch.export.export(model, (x,), strict=False)
    want = run(model, x)
    assert torch.equal(run(program.module(), x), want)
    assert want.shape == (1, 10) and float(want.std()) > 1e-3
    assert not any("detach" in str(node.target) for node in program.graph.nodes)
    signs = [n for n in program.graph.nodes if n.target == torch.ops.aten.sign.default]
    modules = " ".join(str(list(n.meta["nn_module_stack"].values())[-1][0]) for n in signs)
    assert "0.attn.qkv" in modules and "0.attn.proj" in modules


@pytest.mark.parametrize("name", NANO)
def test_images_of_a_batch_are_independent(name: str) -> None:
    model = make(name).double()
    x = pixels(model, 2).double()
    both, each = run(model, x), torch.cat([run(model, x[:1]), run(model, x[1:])])
    torch.testing.assert_close(both, each, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("name", NANO)
def test_floats_and_doubles_agree(name: str) -> None:
    """Codes come from exact integers, so no sign hangs on rounding noise."""
    model = make(name)
    x = pixels(model)
    in_float, in_double = run(model, x).double(), run(model.double(), x.double())
    assert float((in_float - in_double).abs().max()) <= 1e-5 * float(in_double.abs().max())


@pytest.mark.parametrize("name", NANO)
def test_training_computes_the_same_and_has_gradients(name: str) -> None:
    model = make(name).double()
    x = pixels(model).double()
    want = run(model, x)
    got = model.train()(x)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    got.square().sum().backward()
    dead = {n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())}
    if name.startswith("bi_vit_li"):
        assert all(n.endswith(("bias", "zero_point")) or "attn_act" in n for n in dead), dead
        assert {n for n in dead if "fc1" in n} == {n for n, _ in model.named_parameters() if n.endswith("fc1.bias")}
    else:
        assert not {n for n in dead if "weight" in n or n.endswith(("shift", "scaling_factor"))}, dead


@pytest.mark.parametrize("name", NANO)
def test_attention_probabilities_use_both_codes(name: str) -> None:
    model = make(name)
    seen: list[float] = []

    def look(module: Any, inputs: Any, output: Any) -> None:
        seen.append(float((output != 0).double().mean()))

    for module in model.modules():
        if isinstance(module, ElasticQuantiser) and module.keys:
            module.register_forward_hook(look)
        elif isinstance(module, OneBitLinear):
            module.register_forward_hook(lambda m, i, o: seen.append(float((i[0] > 0).double().mean())))
    run(model, pixels(model))
    assert seen and all(0.02 < share < 0.98 for share in seen)


def test_heads_of_a_deit_are_stated_by_any_published_name() -> None:
    state = make("bivit_he_deit_nano", heads=[4]).state_dict()
    assert bivit_he.infer_config(state).heads == (2,)
    published = {"num_heads": 4, "embed_dim": 128, "img_size": 32, "epochs": 9}
    for stated in ({"heads": [4]}, {"num_heads": 4}, {"heads": (4,)}, published):
        assert bivit_he.infer_config(state, stated).heads == (4,)


def test_swin_states_the_width_of_its_first_stage() -> None:
    state = make("bi_vit_li_swin_nano").state_dict()
    stated = {"embed_dim": 32, "depths": [2, 1], "num_heads": [2, 2], "window_size": 7, "mlp_ratio": 2.0}
    assert bi_vit_li.infer_config(state, stated) == bi_vit_li.CONFIGS["bi_vit_li_swin_nano"]


def test_swin_without_stored_buffers() -> None:
    model = make("bivit_he_swin_nano", persistent_buffers=False)
    state = model.state_dict()
    assert not any(k.endswith(("attn_mask", "relative_position_index")) for k in state)
    config = bivit_he.infer_config(state, {"image_size": 56})  # no mask tells it
    assert not config.persistent_buffers
    other = bivit_he.build(config).eval()
    load_into(other, state)
    assert torch.equal(run(other, pixels(model)), run(make("bivit_he_swin_nano"), pixels(model)))


@pytest.mark.parametrize("name", ["bivit_he_deit_nano", "bivit_he_swin_nano"])
@pytest.mark.parametrize("mlp", ["w1a1", "1w32a"])
def test_bivit_layouts(name: str, mlp: str) -> None:
    """The attention's keys stand directly in the block or in the wrapper `m`; a learned scale tells the two MLPs apart."""
    plain, wrapped = make(name, mlp=mlp), make(name, mlp=mlp, wrapped_attention=True)
    renamed = {k.replace(".attn.", ".attn.m."): v for k, v in plain.state_dict().items()}
    assert set(renamed) == set(wrapped.state_dict())
    for model in (plain, wrapped):
        assert bivit_he.infer_config(model.state_dict()) == model.config
    load_into(wrapped, renamed)
    assert torch.equal(run(wrapped, pixels(plain)), run(plain, pixels(plain)))
    assert ("mlp.fc1.scaling_factor" in " ".join(renamed)) is (mlp == "1w32a")


# -- refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "value", "why"),
    [
        ("bivit_he_deit_nano", "pos_embed", None, "there is no key pos_embed"),
        ("bivit_he_deit_nano", "pos_embed", torch.zeros(1, 16, 128), "not a square and 1 more"),
        ("bivit_he_deit_nano", "patch_embed.proj.weight", torch.zeros(3), "should have 4 axes"),
        ("binaryvit_xiao_deit_nano", "blocks.0.norm1.weight", None, "there is no key blocks.0.norm1.weight"),
        ("bi_vit_li_deit_nano", "blocks.0.mlp.fc1.weight", torch.zeros(100, 64), "no multiple of 64"),
        ("bi_vit_li_swin_nano", "layers.1.blocks.0.attn.relative_position_bias_table", None, "relative_position_bias_table"),
        ("bi_vit_li_swin_nano", "layers.1.blocks.0.attn.relative_position_index", torch.tensor([169]), "outside of its table"),
        ("bi_vit_li_swin_nano", "layers.1.blocks.0.norm1.weight", torch.zeros(48), "patch merging gives 64"),
        ("bi_vit_li_swin_nano", "layers.0.blocks.0.attn.relative_position_bias_table", torch.zeros(225, 2), "do not tile"),
    ],
)
def test_foreign_layouts(name: str, key: str, value: Any, why: str) -> None:
    family: ModuleType = CONFIGS[name][0]
    state = dict(make(name).state_dict())
    del state[key]
    if value is not None:
        state[key] = value
    with pytest.raises(UserError) as caught:
        family.infer_config(state, where="model.pt")
    assert why in caught.value.why and caught.value.where == "model.pt" and caught.value.fix


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": [3]}, "do not split"),
        ({"mlp": "float"}, "1w32a or w1a1"),
        ({"image_size": 36}, "not divisible by patch_size 8"),
        ({"host": "nest"}, "deit or swin"),
        ({"depths": [1, 1]}, "2 stages"),
        ({"dims": [128, 256], "depths": [1, 1], "heads": [2, 2]}, "one stage"),
        ({"depths": [0]}, "positive"),
        ({"mlp_ratio": 2.5}, "positive integer"),
        ({"qkv_bias": 1}, "true or false"),
    ],
)
def test_impossible_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bivit_he.BiViTHeConfig.from_dict({**bivit_he.CONFIGS["bivit_he_deit_nano"].to_dict(), **changes})
    with pytest.raises(UserError, match="make no BiViT configuration"):
        bivit_he.infer_config(make("bivit_he_deit_nano").state_dict(), changes)


@pytest.mark.parametrize("name", ["bi_vit_li_deit_nano", "bi_vit_li_swin_nano"])
def test_uninitialised_quantisers_are_refused(name: str) -> None:
    state = dict(make(name).state_dict())
    key = next(k for k in state if k.endswith("k_act.init_state"))
    with pytest.raises(UserError, match="never initialised") as caught:
        bi_vit_li.infer_config({**state, key: torch.zeros(1)})
    assert key.removesuffix(".init_state") in caught.value.why
    for bad in (0.0, math.nan):
        alpha = state[key.replace("init_state", "alpha")].clone()
        alpha[0] = bad
        with pytest.raises(UserError, match="0 or not finite"):
            require_initialised({**state, key.replace("init_state", "alpha"): alpha})


# -- parts --------------------------------------------------------------------------------------------------------------------


def test_unset_scaling_factor_is_the_mean_magnitude() -> None:
    model = make("bivit_he_deit_nano")
    state = dict(model.state_dict())
    key = "blocks.1.attn.proj.scaling_factor"
    load_into(model, {**state, key: torch.zeros_like(state[key])})
    torch.testing.assert_close(model.state_dict()[key], state["blocks.1.attn.proj.weight"].abs().mean(1, keepdim=True))


def test_one_bit_linear() -> None:
    x = torch.tensor([[0.5, -2.0, 0.0]])
    weight = torch.tensor([[1.0, 2.0, 6.0], [-1.0, 0.5, -3.0]])

    def layer(**options: Any) -> Any:
        linear = OneBitLinear(3, 2, **options)
        with torch.no_grad():
            linear.weight.copy_(weight)
            if linear.bias is not None:
                linear.bias.copy_(torch.tensor([10.0, 20.0]))
            if linear.scaling_factor is not None:
                linear.scaling_factor.copy_(torch.tensor([[2.0], [-1.0]]))
            if linear.shift is not None:
                linear.shift.copy_(torch.tensor([-1.0, 0.0, 1.0]))
        return linear(x).tolist()

    # codes: raw [[+, +, +], [-, +, -]], centred [[-, -, +], [+, +, -]] (means 3 and -7/6); signs of x: +, -, 0
    assert layer(centred=False, bias=False) == [[0.0, -3.0]]
    assert layer(centred=False, dead_bias=True) == [[0.0, -3.0]]
    assert layer(centred=False) == [[10.0, 17.0]]
    assert layer(centred=True, bias=False, learned_scale=True, binary_input=False) == [[3.0, 1.5]]
    assert layer(centred=False, bias=False, shifted=True) == [[-1.0 * 3.0, -1.5]]


def test_elastic_quantiser() -> None:
    """alpha * (sign(clamp(x / alpha + z, -1, 1)) - z), z rounded half to even, for any sign of alpha and any z."""
    quantiser = ElasticQuantiser((1, 4, 1, 1))
    with torch.no_grad():
        quantiser.alpha.copy_(torch.tensor([0.5, 0.25, -0.5, 1.0]))
        quantiser.zero_point.copy_(torch.tensor([-0.5, -1.4, 0.6, 2.5]))  # rounds to 0, -1, 1, 2
    x = torch.tensor([-3.0, -0.25, 0.0, 0.25, 0.5, 1.0]).repeat(1, 4, 1, 1)
    values = (quantiser(x) * quantiser.scale())[0, :, 0].tolist()
    assert values[0] == [-0.5, -0.5, 0.0, 0.5, 0.5, 0.5]
    assert values[1] == [0.0, 0.0, 0.0, 0.25, 0.5, 0.5]
    assert values[2] == [0.0, 0.0, 0.0, 0.0, 0.5, 1.0]
    assert values[3] == [-3.0, -1.0, -1.0, -1.0, -1.0, -1.0]


def test_elastic_linear_has_positive_weight_scales() -> None:
    linear = ElasticLinear(3, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.1, -0.2, 0.3]]))
        linear.alpha.fill_(-2.0)
        linear.act.alpha.copy_(torch.tensor([1.0, 0.5, 0.25]))
    # sign(w / alpha) * alpha is |alpha| * sign(w); the inputs become 1, 0.5 and -0.25
    assert linear(torch.tensor([[4.0, 3.0, -2.0]])).tolist() == [[2.0 * (1.0 - 0.5 - 0.25)]]


def test_softmax_aware_counts_ties() -> None:
    p = torch.tensor([[0.125, 0.5, 0.1249, 0.2501], [1.0, 0.0, 0.0, 0.0]])
    assert softmax_aware(p, training=False).tolist() == [[1, 1, 0, 1], [1, 0, 0, 0]]


def test_relative_positions_and_windows() -> None:
    index = relative_positions(7)
    assert index[0, :4].tolist() == [84, 83, 82, 81] and index[48, 0] == 168 and index[0, 48] == 0
    grid = torch.arange(2 * 36).reshape(2, 36, 1)
    windows = to_windows(grid, 6, 3)
    assert windows[1, :, 0].tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]
    assert torch.equal(from_windows(windows, 6, 3).flatten(1, 2), grid)


@pytest.mark.parametrize(("side", "window"), [(14, 7), (28, 7), (8, 4), (6, 3)])
def test_shift_mask(side: int, window: int) -> None:
    """After the roll, two tokens of a window may see each other where no edge of the image lies between them."""
    shift = window // 2
    source = (torch.arange(side) + shift) % side
    rows = to_windows(source[:, None].expand(side, side).reshape(1, -1, 1), side, window)[..., 0]
    columns = to_windows(source[None].expand(side, side).reshape(1, -1, 1), side, window)[..., 0]
    near = [(t[:, :, None] - t[:, None]).abs() < window for t in (rows, columns)]
    assert torch.equal(shift_mask(side, window, shift) == 0, near[0] & near[1])


def test_patch_merging_order() -> None:
    merging = PatchMerging(1, 4, torch.nn.Identity())
    merging.norm = torch.nn.Identity()
    out = merging(torch.arange(16.0).reshape(1, 16, 1))
    assert out[0].tolist() == [[0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]]


def test_calibration_is_reproducible() -> None:
    first, second = make("bi_vit_li_swin_nano"), make("bi_vit_li_swin_nano")
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
