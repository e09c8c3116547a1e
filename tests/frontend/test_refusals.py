"""What is refused, and how: one error that says what, where, why and what to do, never a traceback of torch."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from styles import SHAPE, Net, execute  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.frontend import import_model  # noqa: E402

Body = Callable[[Tensor], Tensor]


def refusal(source: Any, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        import_model(source, **arguments)
    error = caught.value
    assert error.what and error.where and error.fix, error
    assert "Traceback" not in str(error)
    return str(error)


# -- ops ----------------------------------------------------------------------------------------------------------------------


class Bad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.pool = nn.SiLU(), nn.SiLU(), nn.MaxPool2d(2, dilation=2)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm2(self.norm1(x)), approximate="tanh")
        y = self.pool(torch.where(y > x, y, x))
        logits: Tensor = self.head(torch.logcumsumexp(y, 1).mean((1, 2)))
        return logits


def test_everything_unsupported_is_in_one_table() -> None:
    message = refusal(Bad(), example_input=SHAPE)
    assert "4 unsupported operation(s) in 5 place(s)" in message
    rows: dict[str, str] = {}
    for line in message.splitlines():
        if line.startswith("    aten."):
            rows.setdefault(line.split()[0], line)
    assert list(rows) == [
        "aten.silu.default",
        "aten.gelu.default",
        "aten.max_pool2d.default",
        "aten.logcumsumexp.default",
    ]
    first = Bad.forward.__code__.co_firstlineno
    assert rows["aten.silu.default"].split()[1:3] == ["norm1", f"test_refusals.py:{first + 1}"]
    assert "PReLU" in rows["aten.silu.default"]
    assert "tanh" in rows["aten.gelu.default"]
    assert rows["aten.max_pool2d.default"].split()[1:3] == ["pool", f"test_refusals.py:{first + 2}"]
    assert rows["aten.logcumsumexp.default"].split()[1:3] == ["(top)", f"test_refusals.py:{first + 3}"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), "padding out of the mean"),
        (lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True), "ceil_mode"),
        (lambda x: F.interpolate(x, size=(12, 12)), "nearest upsampling from (8, 8) to (12, 12)"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), "no rule"),
        (lambda x: F.batch_norm(x, None, None, training=True), "training mode"),
        (lambda x: F.dropout(x, 0.5, True), "no rule|training mode"),
        (lambda x: x + torch.rand(8), "no rule"),
        (lambda x: x.half().float(), "conversion to float16"),
        (lambda x: x.double() * 2, "conversion to float64"),
        (lambda x: x + x.argmax(), "integer results"),
        (lambda x: F.conv_transpose2d(x, torch.ones(3, 1, 2, 2)), "no rule|transposed"),
        (lambda x: x[:, [0, 2], :, [1, 0]], "not side by side"),
        (lambda x: F.gelu(x, approximate="tanh"), "tanh approximation"),
        (lambda x: F.max_pool2d(x, 2, dilation=2), "dilated"),
        (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), "ceil_mode"),
        (lambda x: x + x.max(-1, keepdim=True)[1], "position of a maximum"),
        (lambda x: F.group_norm(x, 3), "GroupNorm|no rule"),
        (lambda x: F.layer_norm(x, (8,), x[0, 0, 0]), "computed parameters"),
        (lambda x: x.index_select(2, x[0, 0, 0].argmax()[None]), "integer results"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), "mask"),
        (lambda x: F.prelu(x, x[0, :, 0, 0]), "slope"),
        (lambda x: F.conv2d(x, x[:, :, :2, :2]), "computed weights"),
        (lambda x: x**3, "power of 3"),
        (lambda x: x * torch.tensor([1.0, float("nan")])[:1] * torch.tensor(float("nan")), "contains NaN"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "no rule"),
        (lambda x: x[:, torch.tensor([0, 2, 1]).sort(stable=True).indices] ** -3, "power of -3"),
    ],
)
def test_reasons(body: Body, reason: str) -> None:
    message = refusal(Net({"": body}), example_input=SHAPE)
    assert "unsupported operation" in message
    assert any(r in message for r in reason.split("|")), message


# -- models -------------------------------------------------------------------------------------------------------------------


def test_control_flow_on_values() -> None:
    def branch(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    message = refusal(Net({"": branch}), example_input=SHAPE)
    assert "cannot trace" in message
    assert "data-dependent" in message
    assert f"test_refusals.py:{branch.__code__.co_firstlineno + 1}" in message
    assert "python control flow" in message.lower()


def test_sizes_that_depend_on_values() -> None:
    message = refusal(Net({"": lambda x: x[x > 0]}), example_input=SHAPE)
    assert "dynamic shapes" in message
    assert "aten.index.Tensor" in message


def test_cond() -> None:
    def branch(x: Tensor) -> Tensor:
        result: Tensor = torch.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, (x,))
        return result

    assert "control flow on data" in refusal(Net({"": branch}), example_input=SHAPE)


def test_forward_fails() -> None:
    message = refusal(nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), example_input=SHAPE)
    assert "fails on an input of shape [1, 3, 8, 8]" in message
    assert "RuntimeError" in message


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "input shape of the model is not known"),
        ({"example_input": (2, 3, 8, 8)}, "shape [2, 3, 8, 8]"),
        ({"example_input": (3, 8, 8)}, "shape [3, 8, 8]"),
        ({"example_input": torch.zeros(SHAPE, dtype=torch.int64)}, "int64"),
    ],
)
def test_example_inputs(arguments: dict[str, Any], reason: str) -> None:
    assert reason in refusal(Net({"": lambda x: x}), **arguments)


def test_outputs() -> None:
    class Outputs(nn.Module):
        def __init__(self, body: Callable[[Tensor], Any]) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Any:
            return self.body(x)

    assert "none is called logits" in refusal(Outputs(lambda x: (x, x)), example_input=SHAPE)
    assert "returns 0 tensors" in refusal(Outputs(lambda x: "x"), example_input=SHAPE)
    assert "the output has shape [1, 3, 8, 8]" in refusal(Outputs(lambda x: x), example_input=SHAPE)
    assert import_model(Outputs(lambda x: (x.flatten(1),)), example_input=SHAPE).graph.count() == {"reshape": 1}
    assert import_model(Outputs(lambda x: (x.flatten(1), [x], x.argmax())), example_input=SHAPE).graph.count() == {"reshape": 1}


@pytest.mark.parametrize("exported", [False, True])
def test_choice_of_output(exported: bool) -> None:
    """By name or by position among the float tensors; everything that there is stands in the error."""

    class Backbone(nn.Module):
        def forward(self, x: Tensor) -> Any:
            flat = x.flatten(1)
            return {"features": x, "first": flat + 1, "ids": flat.argmax(), "states": [flat * 2, x]}

    source: Any = Backbone()
    arguments: dict[str, Any] = {"example_input": SHAPE}
    if exported:
        source, arguments = torch.export.export(source, (torch.zeros(SHAPE),), strict=False), {}
    message = refusal(source, **arguments)
    assert "returns 4 tensors, and none is called logits" in message
    assert "features [1, 3, 8, 8], first [1, 192], states.0 [1, 192], states.1 [1, 3, 8, 8]" in message
    assert "output=" in message
    x = torch.randn(SHAPE)
    for output, expected in {"first": x + 1, 1: x + 1, "states.0": x * 2, 2: x * 2}.items():
        imported = import_model(source, output=output, **arguments)
        assert torch.equal(torch.from_numpy(execute(imported, x)), expected.flatten(1))
        assert torch.equal(imported.module(x), expected.flatten(1))
    assert "no output 'second'" in refusal(source, output="second", **arguments)
    assert "no output 4" in refusal(source, output=4, **arguments)
    assert "the output has shape [1, 3, 8, 8]" in refusal(source, output="features", **arguments)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y.flatten(1)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.flatten(1)


def test_programs() -> None:
    flat = Net({"": lambda x: x})
    x = torch.randn(2, 3, 8, 8)

    def program(module: nn.Module, *inputs: Tensor, **options: Any) -> Any:
        return torch.export.export(module, inputs, strict=False, **options)

    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x + y).flatten(1)

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    assert "shape [2, 3, 8, 8]" in refusal(program(Flat(), x))
    assert "dynamic shapes" in refusal(program(Flat(), x, dynamic_shapes={"x": {0: torch.export.Dim("batch")}}))
    assert "takes 2 input tensors" in refusal(program(Two(), x[:1], x[:1]))
    assert "float16" in refusal(program(Flat(), x[:1].half()))
    assert "it writes norm.running_mean" in refusal(program(Stateful().train(), x[:1]))
    assert "changes the model's state" in refusal(program(Counter(), x[:1]))
    assert "changes the model's state" in refusal(program(Counter(), x[:1]).run_decompositions({}))
    assert import_model(program(flat, x[:1])).kind == "pt2"


# -- files --------------------------------------------------------------------------------------------------------------------


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello world, this is not a model", "it is a text file that starts with 'hello world"),
        (bytes(range(1, 200)), "not a torch file"),
        (b"PK\x03\x04 cut off", "is damaged"),
        (zipped(readme=b"hello"), "without a torch model"),
        (zipped(a__data=b"", a__archive_format=b"pt2"), "cannot be loaded"),
        (zipped(a__constants__pkl=b"").replace(b"constants/pkl", b"constants.pkl"), "without a torch model"),
        (b"\x80\x02garbage", "checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_broken_files(tmp_path: Path, suffix: str, content: bytes, reason: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        import_model(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_files_folders_and_formats(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.pt")
    assert "is a folder" in refusal(str(tmp_path))
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    assert "ONNX file is damaged" in refusal(tmp_path / "m.onnx")
    scripted = tmp_path / "scripted.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), scripted)
    assert "TorchScript" in refusal(scripted)


def test_a_cut_checkpoint_and_program(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Stateful().eval(), (torch.randn(SHAPE),), strict=False), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in refusal(path)
    at = whole.index(b'"schema_version"') if b'"schema_version"' in whole else len(whole) // 3
    path.write_bytes(whole[:at] + b"\0\0" + whole[at + 2 :])
    assert "damaged" in refusal(path) or "cannot be loaded" in refusal(path)


class Canary:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickled_modules_need_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(Stateful(), path)
    message = refusal(path)
    assert "running code" in message
    assert "Stateful" in message
    assert "--trust-pickle" in message
    imported = import_model(path, trust_pickle=True, example_input=SHAPE)
    assert imported.kind == "checkpoint"
    assert execute(imported, torch.zeros(SHAPE)).shape == (1, 192)


def test_no_code_runs(tmp_path: Path) -> None:
    """Neither from checkpoints, new or old, nor from what a program carries beside its tensors."""
    canary, path = tmp_path / "canary", tmp_path / "m.pt"
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save({"model": Canary(canary)}, path, **options)
        with pytest.raises(UserError, match="running code"):
            import_model(path)
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps(Canary(canary), protocol))
        with pytest.raises(UserError, match=f"running code(.|\n)*{os.mkdir.__module__}.mkdir"):
            import_model(path)
    torch.save({"model": Canary(canary)}, path, pickle_protocol=4)
    with pytest.raises(UserError, match=f"running code(.|\n)*{os.mkdir.__module__}.mkdir"):
        import_model(path)
    path.write_bytes(pickle.dumps({"model": [1.0]}, 4))
    with pytest.raises(UserError, match="protocol 4"):
        import_model(path)
    torch.export.save(torch.export.export(Stateful().eval(), (torch.randn(SHAPE),), strict=False), path)
    evil = io.BytesIO()
    torch.save((Canary(canary),), evil)
    for payload, where in ((evil.getvalue(), "sample_inputs"), (pickle.dumps(Canary(canary)), "sample_inputs")):
        changed = tmp_path / "changed.pt2"
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
            for name in old.namelist():
                new.writestr(name, payload if where in name else old.read(name))
        assert "running code" in refusal(changed)
    assert not canary.exists()


def test_symbolic_sizes_are_refused_before_torch_reads_them(tmp_path: Path) -> None:
    """torch.export.load evaluates their text."""

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    path = tmp_path / "m.pt2"
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(Flat(), (torch.randn(2, 3, 8, 8),), strict=False, dynamic_shapes={"x": {0: batch}}), path)
    assert "3, 8, 8]: no number for s" in refusal(path)
