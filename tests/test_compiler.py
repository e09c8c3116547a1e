"""compile end to end, from a live torch module to a file, with everything that must not happen on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.artifact.reader import read, to_graph  # noqa: E402
from bvtdeploy.compiler import CompileReport, compile_model, golden_inputs  # noqa: E402
from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.host import Session  # noqa: E402
from bvtdeploy.ir.interp import run as interpret  # noqa: E402
from bvtdeploy.ir.text import parse, print_graph  # noqa: E402
from bvtdeploy.ir.verify import verify  # noqa: E402
from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig  # noqa: E402

EXAMPLE = torch.zeros(1, 1, 16, 16)


def model(**changes: Any) -> Any:
    torch.manual_seed(0)
    shape = {
        "image_size": 16, "in_channels": 1, "patch_size": 4, "dims": (16,), "depths": (1,), "heads": (2,), "intermediate": (32,),
        "reduction": (2,), "num_classes": 5,
    }  # fmt: skip
    net = BinaryViTLe(BinaryViTLeConfig(**{**shape, **changes}))
    with torch.no_grad():
        for name, value in net.named_parameters():
            if not name.endswith("att_prob_clip"):
                value.normal_(0.0, 0.3)
    return net.eval()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompileReport, Path]:
    folder = tmp_path_factory.mktemp("compiled")
    return compile_model(model(), folder / "m.bvt", example_input=EXAMPLE, dump_ir=folder / "ir", board="rpi4"), folder


def test_the_file_computes_what_torch_computes(built: tuple[CompileReport, Path]) -> None:
    """At least most images without a flipped code, and the same class; the golden outputs are those of the graph."""
    graph = to_graph(read(built[1] / "m.bvt"))
    net, errors = model(), []
    for x in golden_inputs((1, 16, 16), 8):
        with torch.no_grad():
            want = net(torch.from_numpy(x.reshape(1, 1, 16, 16))).numpy().reshape(-1)
        got = interpret(graph, {graph.inputs[0].name: x})[0].reshape(-1)
        errors.append(np.abs(got - want).max() / np.abs(want).max())
    assert np.median(errors) < 1e-5, errors
    for x, y in read(built[1] / "m.bvt").golden:
        assert interpret(graph, {graph.inputs[0].name: x})[0].tobytes() == y.tobytes()


def test_report(built: tuple[CompileReport, Path]) -> None:
    d = json.loads(json.dumps(built[0].as_dict()))
    assert d["layers"] == {"binary": 7, "mixed": 0, "float": 2} and d["ops"]["attention"] == 1 and d["ops"]["stencil"] == 1
    assert d["bytes"] == (built[1] / "m.bvt").stat().st_size and d["declined"] == [] and d["zeros_in_weights"] == 0
    assert [p["name"] for p in d["passes"]][-2:] == ["thresholds", "pools"]
    assert d["source"]["kind"] == "module" and d["board"] == "rpi4"
    assert len(d["warnings"]) == 2, "no preprocessing, no class names"


def test_compiling_again_gives_the_same_bytes(built: tuple[CompileReport, Path], tmp_path: Path) -> None:
    compile_model(model(), tmp_path / "again.bvt", example_input=EXAMPLE, board="rpi4")
    assert (tmp_path / "again.bvt").read_bytes() == (built[1] / "m.bvt").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again.bvt"]


def test_dumped_graphs_parse_back(built: tuple[CompileReport, Path]) -> None:
    files = [f for f in sorted((built[1] / "ir").glob("*.txt")) if not f.stem.endswith("_plan")]
    assert [f.stem for f in files] == [
        "00_source",
        "01_fold",
        "02_binarise",
        "03_attention",
        "04_layout",
        "05_stencils",
        "06_affines",
        "07_epilogues",
        "08_offsets",
        "09_thresholds",
        "10_pools",
    ]
    x, results = golden_inputs((1, 16, 16), 1)[0], []
    for file in files:
        with np.load(file.with_suffix(".npz"), allow_pickle=False) as data:
            graph = parse(file.read_text(), data)
        verify(graph)
        assert print_graph(graph) == file.read_text()
        (value,) = graph.inputs
        results.append(interpret(graph, {value.name: x.reshape(value.type.shape)})[0].reshape(-1))
    assert all(np.allclose(r, results[0], rtol=1e-4) for r in results)


def test_what_the_user_adds(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n\nc\nd\ne e\n")
    (tmp_path / "p.json").write_text('{"mean": 0.5, "std": 0.25}')
    report = compile_model(
        model(), tmp_path / "m.bvt", example_input=EXAMPLE, labels=tmp_path / "labels.txt", preprocess=str(tmp_path / "p.json")
    )
    artifact = read(tmp_path / "m.bvt")
    assert artifact.labels == ["a", "b", "c", "d", "e e"] and artifact.preprocess is not None and artifact.preprocess.std == (0.25,)
    assert report.warnings == []


class Float(torch.nn.Module):
    """A network without a sign: it compiles layer by layer, and nothing in it is binary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(1, 8, 4, 4), torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.conv(x).flatten(2).transpose(1, 2).mean(1))
        return out


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"source": Float()}, "nothing in this model is binary"),
        ({"source": torch.nn.Sequential(Float(), torch.nn.Softmax(1))}, "nothing in this model is binary"),
        ({"labels": "2"}, "2 class names for 5 classes"),
        ({"labels": "absent"}, "cannot read the labels"),
        ({"labels": "bad"}, "does not hold class names"),
        ({"preprocess": "imagenet"}, "colour rgb for 1 channel"),
        ({"preprocess": "absent.json"}, "cannot read the preprocessing"),
        ({"dump_ir": "file"}, "cannot write IR"),
    ],
)
def test_refusals_leave_no_file(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    (tmp_path / "2").write_text("a\nb\n")
    (tmp_path / "bad").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "file").write_text("")
    before = sorted(p.name for p in tmp_path.iterdir())
    changed = {k: tmp_path / v if k in ("labels", "dump_ir") else v for k, v in change.items()}
    with pytest.raises(UserError, match=what):
        compile_model(changed.pop("source", model()), tmp_path / "m.bvt", example_input=EXAMPLE, **changed)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("output", ["", "absent/m.bvt"])
def test_places_that_cannot_be_written(tmp_path: Path, output: str) -> None:
    with pytest.raises(UserError, match="cannot write"):
        compile_model(model(), tmp_path / output, example_input=EXAMPLE)


def test_a_float_twin_is_refused(tmp_path: Path) -> None:
    """The same network in full precision: every reason in one table, no file."""
    with pytest.raises(UserError) as caught:
        compile_model(model(float_twin=True), tmp_path / "m.bvt", example_input=EXAMPLE)
    assert "cannot be compiled" in str(caught.value) or "binary" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_source_and_devices_are_not_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "m.pt"
    torch.save({"model": model().state_dict(), "config": model().config.to_dict()}, source)
    before = source.read_bytes()
    (tmp_path / "link.bvt").symlink_to(source)
    for output in (source, tmp_path / "link.bvt", Path("/dev/null")):
        with pytest.raises(UserError, match="cannot write"):
            compile_model(source, output)
    assert source.read_bytes() == before
    assert Path("/dev/null").is_char_device()


def test_a_bad_label_leaves_the_old_artifact(built: tuple[CompileReport, Path], tmp_path: Path) -> None:
    output = tmp_path / "m.bvt"
    output.write_bytes(built[0].artifact.read_bytes())
    before = output.read_bytes()
    for labels in (["a\0b"] + ["c"] * 4, [""] * 5, ["\x1b[31m"] * 5):
        with pytest.raises(UserError, match="printable"):
            compile_model(model(), output, example_input=EXAMPLE, labels=labels)
    assert output.read_bytes() == before


def test_a_live_module_is_verified(tmp_path: Path) -> None:
    from bvtdeploy.verifier import verify_model

    live = model()
    compile_model(live, tmp_path / "m.bvt", example_input=EXAMPLE)
    assert verify_model(live, tmp_path / "m.bvt", random=4).exact
    with pytest.raises(UserError, match="different networks"):
        verify_model(model(num_classes=7), tmp_path / "m.bvt", random=4)


def test_a_dead_channel_and_relu(tmp_path: Path) -> None:
    """An all-zero weight row has scale 0; ReLU is a PReLU of slope 0."""

    class Relu(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = torch.relu(self.body(x))
            return out

    net = Relu().eval()
    with torch.no_grad():
        net.body.vit.encoder.layer[0].output.dense.weight[1] = 0
    report = compile_model(net, tmp_path / "m.bvt", example_input=EXAMPLE)
    assert report.compiled.report.zeros_in_weights == 0
    image = np.random.default_rng(0).standard_normal(tuple(EXAMPLE.shape)).astype(np.float32)
    with torch.no_grad():
        theirs = net(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(Session(tmp_path / "m.bvt").run(image), theirs, rtol=1e-4, atol=1e-5)


def test_a_refusal_says_what_was_declined(tmp_path: Path) -> None:
    """The cause stands in the error: here an attention whose probability step is negative."""
    net = model()
    with torch.no_grad():
        net.vit.encoder.layer[0].attention.attention.att_prob_clip.fill_(-0.1)
    with pytest.raises(UserError, match=r"the probability threshold is -0\.05: the step of the quantiser must be positive"):
        compile_model(net, tmp_path / "m.bvt", example_input=EXAMPLE)
