"""Each model that cannot be compiled gives one table of every problem, with module and line, exit 2, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from commands import call, call_json  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bvtdeploy import api  # noqa: E402
from bvtdeploy.errors import UserError  # noqa: E402

X = torch.zeros(1, 3, 8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.act(x), 1)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cond(x.sum() > 0, lambda t: t + 1, lambda t: t - 1, (x,))
        return y


class Decide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class Outputs(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        y = self.inner(x)
        return {"doubled": y * 2, "plain": y}


class Canary:
    def __reduce__(self) -> Any:
        return os.mkdir, ("canary",)


def line(of: type[nn.Module], after: int = 1) -> str:
    return f"{Path(__file__).name}:{of.forward.__code__.co_firstlineno + after}"


def save(module: nn.Module, path: Path, x: Tensor = X, **options: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), (x,), strict=False, **options), path)
    return path


def refused(source: Path) -> list[dict[str, Any]]:
    """The rows of the table, which text and JSON have alike."""
    before = sorted(source.parent.iterdir())
    output = source.parent / "out.bvt"
    rows: list[dict[str, Any]] = call_json("compile", source, "-o", output, code=2)["error"]["problems"]
    code, out, err = call("compile", source, "-o", output)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert err.count("error: ") == 1
    for row in rows:
        assert any(row["what"] in text and row["module"] in text and row["line"] in text for text in err.splitlines())
    assert sorted(source.parent.iterdir()) == before
    return rows


def test_unsupported_ops(tmp_path: Path) -> None:
    rows = refused(save(Net(Block(), Block()), tmp_path / "m.pt2"))
    assert [(r["what"], r["module"], r["line"]) for r in rows] == [
        ("aten.silu.default", "blocks.0.act", line(Block)),
        ("aten.silu.default", "blocks.1.act", line(Block)),
        ("aten.cumsum.default", "blocks.0", line(Block)),
        ("aten.cumsum.default", "blocks.1", line(Block)),
    ]


def test_dynamic_shapes(tmp_path: Path) -> None:
    shapes = {"x": {0: torch.export.Dim("batch")}}
    (row,) = refused(save(Net(), tmp_path / "m.pt2", torch.zeros(2, 3, 8, 8), dynamic_shapes=shapes))
    assert row["what"] == "input"
    assert "3, 8, 8]: no number for s" in row["why"]


def test_another_input_shape(tmp_path: Path) -> None:
    """A program tells its shape: one that contradicts it is no wish that could be met."""
    program, output = save(Net(nn.Conv2d(3, 3, 2, 2)), tmp_path / "m.pt2"), tmp_path / "out.bvt"
    error = call_json("compile", program, "-o", output, "--input-shape", "3,16,16", code=2)["error"]
    assert error["what"] == "the model takes an input of shape [1, 3, 8, 8], not [1, 3, 16, 16]"
    assert error["where"] == str(program)
    assert "--input-shape" in error["fix"]
    assert not output.exists()
    exported = torch.export.load(program)
    with pytest.raises(UserError, match="not \\[1, 3, 16, 16\\]"):
        api.compile(exported, output, example_input=torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="nothing in this model is binary"):
        api.compile(exported, output, example_input=(1, 3, 8, 8))


def test_control_flow(tmp_path: Path) -> None:
    (row,) = refused(save(Net(Branch()), tmp_path / "m.pt2"))
    assert (row["what"], row["module"], row["line"]) == ("cond", "blocks.0", line(Branch))
    with pytest.raises(UserError, match="cannot trace") as caught:
        api.compile(Net(Decide(), Decide()), tmp_path / "out.bvt", example_input=tuple(X.shape))
    assert [(p.what, p.module, p.line) for p in caught.value.problems] == [
        ("bool(tensor)", f"blocks.{i}", line(Decide)) for i in range(2)
    ]
    assert not (tmp_path / "out.bvt").exists()


def test_nothing_binary(tmp_path: Path) -> None:
    rows = refused(save(Net(nn.Conv2d(3, 3, 2, 2)), tmp_path / "m.pt2"))
    assert [(r["what"], r["module"], r["line"]) for r in rows] == [
        ("conv2d", "blocks.0", line(Net, 2)),
        ("linear", "head", line(Net, 3)),
    ]


def test_checkpoint_of_another_family(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"blocks.0.attn.qkv.weight": X, "blocks.1.attn.qkv.weight": X, "blocks.0.other.gate": X}, path)
    found = {(r["module"], r["what"], r["why"], r["count"]) for r in refused(path)}
    assert ("blocks.*.other", "gate", "unexpected", 1) in found
    assert any(why == "missing" for *_, why, _ in found)
    torch.save({"conv1.weight": X, "layer1.0.weight": X, "layer1.1.weight": X}, path)
    assert [(r["module"], r["count"]) for r in refused(path)] == [("conv1", 1), ("layer1.*", 2)]


def test_pickled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.pt"
    torch.save({"model": Canary(), "net": Net()}, path)
    names = [r["what"] for r in refused(path)]
    assert "torch.nn.modules.linear.Linear" in names
    assert any(name.endswith(".mkdir") for name in names)


def test_choice_of_output(checkpoint: Path, tmp_path: Path) -> None:
    from bvtdeploy.models.checkpoint import load_model

    program, output = save(Outputs(load_model(checkpoint)), tmp_path / "m.pt2", torch.zeros(1, 1, 32, 32)), tmp_path / "m.bvt"
    assert "doubled [1, 10], plain [1, 10]" in call_json("compile", program, "-o", output, code=2)["error"]["why"]
    for chosen in ("plain", "1"):
        call_json("compile", program, "-o", output, "--model-output", chosen)
        assert api.inspect(output)["meta"]["source.output"] == chosen  # what verify takes


def test_the_report_adds_up(checkpoint: Path, tmp_path: Path) -> None:
    told = call_json("compile", checkpoint, "-o", tmp_path / "m.bvt")
    storage = told["storage"]
    assert sum(row["after"] for row in storage.values()) == told["bytes"] == (tmp_path / "m.bvt").stat().st_size
    assert told["source"]["tensor_bytes"] == sum(row["before"] for row in storage.values())
    assert storage["unread"]["before"] == 8 * told["fused"]["batch norm -> scale and shift"]  # their counters of batches
    assert storage["binary_weights"]["before"] >= 30 * storage["binary_weights"]["after"]
    assert 0 <= storage["alignment"]["after"] < storage["records"]["after"]
    for name in ("patch_embedding", "classifier"):
        assert 0 < storage[name]["after"] == storage[name]["before"]
    inspected = call_json("inspect", tmp_path / "m.bvt")
    assert inspected["storage"] == {kind: row["after"] for kind, row in storage.items()}
    assert inspected["macs"] == told["macs"]
