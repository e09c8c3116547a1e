"""Sources: live modules, exported programs, checkpoints, in the styles in which binary vision transformers are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from styles import SHAPE, Net, Vit, check, compare, execute, prepared  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.ir import text, verify  # noqa: E402
from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig  # noqa: E402
from bvtdeploy.passes.binary_weights import binary_rows  # noqa: E402

SMALL = BinaryViTLeConfig(
    image_size=16,
    in_channels=1,
    patch_size=2,
    dims=(16, 32),
    depths=(1, 1),
    heads=(2, 2),
    intermediate=(32, 64),
    reduction=(2, 1),
    num_classes=5,
)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return prepared(Vit())


def test_a_whole_model(vit: nn.Module) -> None:
    imported = check(vit)
    graph = imported.graph
    assert [str(v.type) for v in (*graph.inputs, *graph.outputs)] == ["f32[1x3x8x8]", "f32[1x5]"]
    count = graph.count()
    assert (count["linear"], count["matmul"], count["sign"], count["upsample"], count["prelu"]) == (6, 2, 8, 1, 1)
    assert imported.kind == "module"
    assert imported.parameters == sum(p.numel() for p in vit.parameters())
    assert imported.extras["estimators"] == {"weights": 5, "activations": 1}
    assert 0 < imported.residue_max < 1e-5
    weights = [binary_rows(data) for op in graph.of_kind("linear") if (data := op.inputs[1].data) is not None]
    assert [w is not None and w.residue == 0 for w in weights] == [True] * 5 + [False]  # all but the classifier, exactly


def test_modules_are_named(vit: nn.Module) -> None:
    graph = import_model(vit, example_input=SHAPE).graph
    assert [op.module for op in graph.of_kind("linear", "conv2d")] == [
        "stem",
        "attention.query",
        "attention.key",
        "attention.value",
        "up",
        "down",
        "head",
    ]
    names = [v.name for v in graph.values()]
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= 20


def test_deterministic(vit: nn.Module) -> None:
    a, b = (import_model(vit, example_input=SHAPE) for _ in range(2))
    assert text.print_graph(a.graph) == text.print_graph(b.graph)
    assert a.source_sha256 == b.source_sha256
    left, right = text.constants(a.graph), text.constants(b.graph)
    assert left.keys() == right.keys()
    assert all(left[k].tobytes() == right[k].tobytes() for k in left)
    assert import_model(prepared(Vit(), seed=1), example_input=SHAPE).source_sha256 != a.source_sha256


def test_programs(vit: nn.Module, tmp_path: Path) -> None:
    """A saved program, whatever it is called, and one that was decomposed to core ATen, give what the module gives."""
    with torch.no_grad():
        program = torch.export.export(_Logits(vit), (torch.randn(SHAPE),), strict=False)
    path = tmp_path / "my model.pt"
    torch.export.save(program, path)
    imported = import_model(path)
    compare(imported, vit)
    assert imported.kind == "pt2"
    assert imported.bytes == path.stat().st_size
    assert imported.graph.count() == import_model(vit, example_input=SHAPE).graph.count()
    core = import_model(program.run_decompositions())
    verify.verify(core.graph)
    compare(core, vit)
    assert core.graph.count()["prelu"] == 1
    assert core.extras["estimators"] == {"weights": 5, "activations": 1}


class _Logits(nn.Module):
    """Outputs in a dict, of which only the logits count."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> dict[str, Any]:
        out = self.inner(x)
        return {"hidden": [out.hidden[0], None], "logits": out.logits}


def test_program_traced_with_gradients() -> None:
    """The blocks without gradients that torch.export wraps then are inlined."""

    class Quiet(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                y = torch.sign(x)
            z: Tensor = (y - x).detach() + x
            return z.flatten(1)

    program = torch.export.export(Quiet(), (torch.randn(1, 1, 2, 2),), strict=False)
    assert import_model(program).graph.count() == {"reshape": 1, "sign": 1}


@pytest.mark.parametrize("changes", [{}, {"some_fp": True, "pool5": False}])
def test_checkpoint(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = prepared(BinaryViTLe(BinaryViTLeConfig.from_dict({**SMALL.to_dict(), **changes})))
    path = tmp_path / "checkpoint.bin"
    config = model.config.to_dict() if isinstance(model, BinaryViTLe) else {}
    preprocess = {"mean": [0.5], "std": [0.25]}
    torch.save({"model": model.state_dict(), "config": config, "preprocess": preprocess, "labels": ["a", "b"], "epoch": 3}, path)
    imported = import_model(path)
    verify.verify(imported.graph)
    compare(imported, model, (1, 1, 16, 16))
    assert (imported.kind, imported.bytes) == ("checkpoint", path.stat().st_size)
    assert (imported.preprocess, imported.labels, imported.extras["checkpoint"]) == (preprocess, ["a", "b"], {"epoch": 3})
    modules = {op.module for op in imported.graph.of_kind("linear")}
    assert "vit.encoder.layer.0.attention.attention" in {m.removesuffix(".query") for m in modules}
    assert imported.graph.count()["prelu"] == 16 - bool(changes.get("some_fp"))


def test_overrides(tmp_path: Path) -> None:
    """What a bare state dict does not say: here the number of heads."""
    one = BinaryViTLeConfig(
        image_size=8,
        in_channels=1,
        patch_size=2,
        dims=(16,),
        depths=(1,),
        heads=(2,),
        intermediate=(32,),
        reduction=(1,),
        num_classes=5,
    )
    model = prepared(BinaryViTLe(one))
    path = tmp_path / "bare.pt"
    torch.save(model.state_dict(), path)
    compare(import_model(path, overrides={"heads": [2]}), model, (1, 1, 8, 8))


def test_the_shape_can_be_the_models_own() -> None:
    net = Net({"": lambda x: x})
    net.input_shape = (1, 2, 2)  # type: ignore[assignment]
    assert import_model(net).graph.inputs[0].type.shape == (1, 1, 2, 2)
    assert import_model(net, example_input=torch.zeros(1, 1, 3, 3)).graph.inputs[0].type.shape == (1, 1, 3, 3)


def test_batches_in_the_reference_module() -> None:
    stem = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    imported = import_model(stem, example_input=SHAPE)
    x = torch.randn(3, *SHAPE[1:])
    with torch.no_grad():
        np.testing.assert_allclose(imported.module(x)[1:2].numpy(), execute(imported, x[1:2]), rtol=1e-5, atol=1e-6)
