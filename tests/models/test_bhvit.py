"""BHViT against the published semantics, piece by piece; the whole model against published vectors is in test_checkpoints.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from networks import BHVIT, check_export, check_inferred, check_training, pixels, pyramid, run  # noqa: E402

from bvtdeploy.models import BHViTConfig, create  # noqa: E402
from bvtdeploy.models.bhvit import LevelQuantiser, TokenMerge, WindowAttention, _four_ways, _neighbours  # noqa: E402
from bvtdeploy.models.layers import BinaryDilatedConv  # noqa: E402


@pytest.mark.parametrize("dilation", [1, 3, 5])
def test_dilated_convolution_by_integers(dilation: int) -> None:
    """Padded taps are zeros, not codes; four groups; the weight's sign is centred, its scale is not; there is a bias."""
    torch.manual_seed(dilation)
    conv = BinaryDilatedConv(8, 4, dilation)
    codes = torch.sign(torch.randn(1, 8, 6, 7))
    weight = conv.weight.detach()
    signs = torch.sign(weight - weight.mean((1, 2, 3), keepdim=True)).numpy()
    scale, bias = weight.abs().mean((1, 2, 3)).numpy(), conv.bias.detach().numpy()
    padded = np.zeros((8, 6 + 2 * dilation, 7 + 2 * dilation))
    padded[:, dilation:-dilation, dilation:-dilation] = codes[0].numpy()
    want = np.zeros((8, 6, 7))
    for o in range(8):
        first = 2 * (o // 2)
        for i in range(2):
            for ky in range(3):
                for kx in range(3):
                    want[o] += signs[o, i, ky, kx] * padded[first + i, ky * dilation :, kx * dilation :][:6, :7]
        want[o] = want[o] * scale[o] + bias[o]
    np.testing.assert_allclose(conv(codes).detach()[0], want, rtol=1e-5, atol=1e-6)


def test_shifts_wrap_around() -> None:
    m = torch.arange(8 * 4 * 5, dtype=torch.float64).reshape(1, 8, 4, 5)
    a = m.numpy()[0]
    rows = sum(np.roll(a, s, 1) for s in (-2, -1, 0, 1, 2)) / 5
    columns = sum(np.roll(a, s, 2) for s in (-1, 0, 1)) / 3
    np.testing.assert_allclose(_neighbours(m, 2, 2)[0], rows)
    np.testing.assert_allclose(_neighbours(m, 1, 3)[0], columns)
    mixed = _four_ways(m, 1)[0].numpy()
    assert (mixed[0, 0] == a[0, -1]).all() and (mixed[0, 1] == a[0, 0]).all()  # a row receives the one above it
    assert (mixed[2, -1] == a[2, 0]).all()
    assert (mixed[4, :, 0] == a[4, :, -1]).all()
    assert (mixed[6, :, -1] == a[6, :, 0]).all()


def test_pooled_tokens_are_not_aligned_with_the_windows() -> None:
    """Rows 0 to 3 feed the first token, 4 to 10 the second, 11 to 13 none; the mean divides by 49 at the border too."""
    merge = TokenMerge(4)
    merge.norm = torch.nn.Identity()
    windows = torch.zeros(4, 49, 4)
    with torch.no_grad():
        merge.a1.zero_()
        mean = merge(torch.ones(1, 4, 14, 14), windows)[:, 49:, 0]
        np.testing.assert_allclose(mean, np.tile([[16 / 49, 28 / 49, 28 / 49, 1.0]], (4, 1)), rtol=1e-6)
        merge.a1.fill_(1.0)
        h = torch.full((1, 4, 14, 14), -1.0)
        h[:, :, 11:] = 5.0
        h[:, :, 4] = 2.0
        highest = merge(h, windows)[:, 49:, 0]
    assert highest.tolist() == [[-1.0, -1.0, 2.0, 2.0]] * 4  # padding never wins


def test_level_quantiser() -> None:
    quantiser = LevelQuantiser(2, 10)
    with torch.no_grad():
        quantiser.alpha.copy_(torch.tensor([1.0, 0.5]))
        quantiser.zero_point.copy_(torch.tensor([0.0, 0.25]))
    p = torch.tensor([0.0, 0.5, 0.75, 1.0]).reshape(1, 1, 1, 4).expand(1, 2, 1, 4)
    out = quantiser(p)
    assert out[0, 0, 0].tolist() == [0.0, 2.0, 2.0, 3.0]  # 1.5 rounds to 2, 2.25 to 2
    assert out[0, 1, 0].tolist() == [0.0, 1.5, 1.5, 1.5]  # clamped to 3, times alpha


def test_four_level_quantiser_can_be_negative() -> None:
    attention = WindowAttention(8, 1, 7, True, "batch")
    with torch.no_grad():
        attention.att_prob_clip.fill_(1.0)
        attention.att_prob_clip2.fill_(0.25)
        attention.att_prob_clip3.fill_(-4.0)  # floored
        out = attention.quantised(torch.tensor([[[[0.4, 0.3, 0.37, 0.1]]]]))
    # a row maximum of .4: thresholds .28 and .36, nothing rounds to 1
    np.testing.assert_allclose(out.reshape(-1), [-1 + 1e-5, -1 + 0.25, -1 + 1e-5, 0.0], rtol=1e-6)


@pytest.mark.parametrize("gsb", [False, True])
def test_training_forward_has_the_same_values_and_gradients(gsb: bool) -> None:
    assert check_training(pyramid(BHVIT, gsb=gsb), 1e-9) == []


def test_a_batch_is_its_images() -> None:
    model = pyramid(BHVIT).double()
    x = pixels(model, 3).double()
    alone = torch.cat([run(model, image[None]) for image in x])
    np.testing.assert_allclose(run(model, x), alone, rtol=1e-9)


TWO_STAGES = {
    "conv_stages": 0, "patch_size": 2, "dims": [16, 64], "depths": [1, 1], "intermediate": [16, 64], "heads": [1, 1],
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {}, "float convolutions": {"some_fp": True}, "one width": {"shift5": False}, "layer norm": {"norm": "layer"},
    "four levels": {"gsb": True, "heads": [1, 1, 1]},  # this quantiser does not count heads
    "attention alone": TWO_STAGES,
}  # fmt: skip


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_the_configuration_is_told_by_the_keys(changes: dict[str, Any]) -> None:
    check_inferred(pyramid(BHVIT, **changes))


def test_wrong_shapes_are_refused() -> None:
    for changes, text in (
        ({"dims": (18, 36, 72), "intermediate": (18, 36, 72)}, "quarters"),
        ({"image_size": 64}, "windows of 7"), ({"heads": (1, 1, 3)}, "heads"),
        ({"depths": (1, 1)}, "stages"), ({"norm": "none"}, "norm"), ({"conv_stages": 4}, "conv_stages"),
        ({"image_size": 57}, "divisible"), ({"intermediate": (33, 64, 128)}, "multiple"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            BHViTConfig.from_dict({**BHVIT.to_dict(), **changes})


@pytest.mark.parametrize("gsb", [False, True])
def test_export(gsb: bool) -> None:
    assert {"aten.roll.default", "aten.max_pool2d.default"} <= check_export(pyramid(BHVIT, gsb=gsb))


def test_the_named_model_uses_every_part() -> None:
    model: Any = create("bhvit_nano")
    assert len(model.vit.encoder.layerA) and len(model.vit.encoder.layerB) == 2
    assert {block.attention.attention.per_side for block in model.vit.encoder.layerB} == {1, 2}
