"""The BinaryViT model against the published semantics, in all shapes in which it was published."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from networks import LE, check_export, check_inferred, check_training, pixels, pyramid, run  # noqa: E402

from bvtdeploy.compiler import compile_graph  # noqa: E402
from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.ir import interp  # noqa: E402
from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig, load_model  # noqa: E402
from bvtdeploy.models.binaryvit_le import DEIT_SMALL  # noqa: E402
from bvtdeploy.models.layers import RPReLU, binary_weight, quantise_probabilities  # noqa: E402

# The rows of the paper before the pyramid, in small.
DEIT = replace(
    DEIT_SMALL, image_size=16, in_channels=1, patch_size=4, dims=(64,), depths=(2,), heads=(1,), intermediate=(256,), num_classes=5
)
SHAPES: dict[str, BinaryViTLeConfig] = {
    "pyramid": LE,
    "pyramid, float convolutions": replace(LE, some_fp=True),
    "pyramid, one width": replace(LE, pool5=False),
    "pyramid, layer norm": replace(LE, norm="layer"),
    "DeiT": DEIT,
    "DeiT, mean": replace(DEIT, cls_token=False),
    "DeiT, mean, pools": replace(DEIT, cls_token=False, pool3=True, pool5=True),
    "DeiT, mean, pools, scales": replace(DEIT, cls_token=False, pool3=True, pool5=True, layer_scale=True),
    "DeiT, layer norm": replace(DEIT, norm="layer"),
}


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_the_configuration_is_told_by_the_keys(config: BinaryViTLeConfig) -> None:
    check_inferred(pyramid(config))


@pytest.mark.parametrize("config", [v for k, v in SHAPES.items() if k not in ("pyramid", "pyramid, one width")])
def test_every_shape_compiles(config: BinaryViTLeConfig) -> None:
    model = pyramid(config)
    x = pixels(model)
    compiled = compile_graph(import_model(model, example_input=x))
    (given,) = compiled.graph.inputs
    (got,) = interp.run(compiled.graph, {given.name: x.numpy().reshape(given.type.shape)})
    want = run(model, x).numpy()
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    report = compiled.report
    downsamplers = len(config.dims) - 1
    assert report.float_layers == 2 + downsamplers * config.some_fp  # stem and classifier
    linears = 6 * sum(config.depths) + sum(depth for depth, r in zip(config.depths, config.reduction, strict=True) if r > 1)
    assert (report.binary_layers, report.mixed_layers) == (linears + downsamplers * (not config.some_fp), 0)


def test_the_layout_of_the_rows_in_the_shape_of_a_deit() -> None:
    """As counted in the published code: 12 layers of 384 channels with 6 heads, no norm in the stem, 197 positions."""
    with torch.device("meta"):
        state = BinaryViTLe(DEIT_SMALL).state_dict()
        scaled = BinaryViTLe(replace(DEIT_SMALL, cls_token=False, pool3=True, layer_scale=True)).state_dict()
    assert list(state["vit.embeddings.position_embeddings"].shape) == [1, 197, 384]
    assert list(state["vit.embeddings.cls_token"].shape) == [1, 1, 384]
    assert not [k for k in state if "layerscale" in k or k.startswith("vit.embeddings.norm") or "patch_embed1" in k]
    layer = {k.removeprefix("vit.encoder.layer.11.") for k in scaled if k.startswith("vit.encoder.layer.11.")}
    added = {f"{owner}.{last}" for owner in ("attention.output.layerscale", "output.layerscale", "layerscale_h3", "layerscale_w3")
             for last in ("alpha", "move")}  # fmt: skip
    assert layer - {k.removeprefix("vit.encoder.layer.11.") for k in state} == added
    assert "vit.embeddings.cls_token" not in scaled


def test_the_class_token_comes_first_and_alone_decides() -> None:
    model = pyramid(DEIT)
    tokens = run(model.vit, pixels(model))
    np.testing.assert_allclose(run(model.classifier, tokens[:, 0]), run(model, pixels(model)), rtol=1e-6)
    first = run(model.vit.embeddings, pixels(model))[:, 0]
    np.testing.assert_allclose(
        first, (model.vit.embeddings.cls_token + model.vit.embeddings.position_embeddings[:, :1])[:, 0].detach()
    )


def test_layer_norms_have_the_published_epsilon() -> None:
    norms = [m for m in pyramid(replace(LE, norm="layer")).modules() if isinstance(m, torch.nn.LayerNorm)]
    assert norms and {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cls_token": True}, "there is one stage"), ({"reduction": (3, 1)}, "does not divide"),
        ({"norm": "none"}, "'batch' or 'layer'"), ({"intermediate": (65, 128)}, "no multiple"), ({"pool3": 1}, "true or false"),
    ],
)  # fmt: skip
def test_impossible_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LE, **changes)


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
    layer = pyramid(LE).vit.encoder.layer[0].intermediate
    x = torch.randn(1, 7, 32)
    codes, weight = torch.sign(x + layer.move).int(), layer.dense.weight.detach()
    dots = codes @ torch.sign(weight - weight.mean(1, keepdim=True)).int().T
    np.testing.assert_allclose(
        layer.dense(x, layer.move).detach(), dots * weight.abs().mean(1), rtol=1e-5, atol=1e-6
    )  # fmt: skip


@pytest.mark.parametrize("config", [LE, DEIT], ids=["pyramid", "DeiT"])
def test_training_forward_has_the_same_values_and_gradients(config: BinaryViTLeConfig) -> None:
    assert check_training(pyramid(config), 1e-12) == []


def test_stated_entries_win() -> None:
    state = pyramid(LE, heads=[1, 2]).state_dict()
    assert load_model(state).config.heads == (1, 1)
    assert load_model({"model": state, "config": {"num_attention_heads": [1, 2]}}).config.heads == (1, 2)
    deit = pyramid(DEIT, heads=[2]).state_dict()
    stated = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "layer_norm_eps": 1e-5}
    assert load_model({"model": deit, "config": stated}).config == replace(DEIT, heads=(2,))


def test_export() -> None:
    check_export(pyramid(LE))
