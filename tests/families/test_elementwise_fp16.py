"""compile --elementwise fp16: whole models, equal bits in every executor, and what the reports say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
from commands import call, call_json  # noqa: E402

from bvtdeploy import api  # noqa: E402
from bvtdeploy.artifact import spec  # noqa: E402
from bvtdeploy.artifact.reader import parse, to_graph  # noqa: E402
from bvtdeploy.compiler import compile_graph  # noqa: E402
from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.host import Session, isas  # noqa: E402
from bvtdeploy.models import create, zoo  # noqa: E402
from bvtdeploy.schemas import schema  # noqa: E402

NAMES = ("binaryvit_le_nano", "bhvit_nano", "bi_vit_li_deit_nano")


@pytest.fixture(scope="module", params=NAMES)
def halved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """A checkpoint, its artifact in fp16, and the report."""
    folder = tmp_path_factory.mktemp(request.param)
    source, artifact = folder / "m.pt", folder / "m.bvt"
    source.write_bytes(zoo.checkpoint_bytes(request.param))
    return source, artifact, api.compile(source, artifact, board="rpi5", elementwise="fp16")


def test_most_of_it_is_fp16(halved: tuple[Path, Path, Any]) -> None:
    _, path, report = halved
    told = report.as_dict()["elementwise"]
    assert told["arithmetic"] == "fp16" and told["fp16_ops"] >= 10
    assert not any("FP16" in w for w in report.warnings), "a Raspberry Pi 5 has it"
    artifact = parse(path.read_bytes(), "m")
    halves = sum(v["dtype"] == spec.DTYPES["F16"] and v["storage"] != spec.STORAGES["CONST"] for v in artifact.values)
    assert halves >= 8 and artifact.meta["elementwise"] == "fp16"
    assert api.inspect(path)["elementwise"] == "fp16" and "f16" in [t for op in api.inspect(path)["ops"] for t in op["out_type"]]
    assert [op.kind for op in to_graph(artifact).ops if op.kind != "const"] == [op.kind for op in report.compiled.lowered.sources]


def test_equal_bits_on_the_host(halved: tuple[Path, Path, Any]) -> None:
    for isa in isas():
        session = Session(halved[1], isa=isa, threads=3)
        for x, y in session.golden:
            assert session.run(x).tobytes() == y.tobytes(), isa


@pytest.mark.parametrize("core", ["cortex-a53", "cortex-a76"])
def test_equal_bits_on_boards(halved: tuple[Path, Path, Any], core: str, emulator: str) -> None:
    """With FP16 instructions (A76), without them (A53), and by the portable kernels."""
    from bvtdeploy.device import RunOptions, open_device

    with open_device(f"qemu:{core}") as device:
        for isa, threads in (("neon", 1), ("neon", 4), ("ref", 1)):
            run = device.run_model(halved[1], None, RunOptions(isa=isa, threads=threads, golden=True))
            assert run.golden_equal == run.golden_checked == 2, (core, isa)


def test_equal_bits_on_32_bit_arm(halved: tuple[Path, Path, Any]) -> None:
    from bvtdeploy.device import RunOptions, open_device

    try:
        device = open_device("qemu:cortex-a7")
    except UserError as error:
        pytest.skip(str(error))
    with device:
        run = device.run_model(halved[1], None, RunOptions(golden=True))
    assert run.golden_equal == run.golden_checked == 2


def test_verify_states_the_loss(checkpoint: Path, tmp_path: Path) -> None:
    """Of the shipped model, which is trained: with random weights any rounding decides."""
    artifact = tmp_path / "m.bvt"
    api.compile(checkpoint, artifact, elementwise="fp16")
    _, out, _ = call("verify", checkpoint, artifact, "--images", "examples/data/fashion_test.npz", "--limit", "100", "--json")
    told = json.loads(out)
    jsonschema.validate(told, schema("verify"))
    assert told["exact"] and told["top1_agreement"] >= 0.95
    assert told["side"]["kind"] == "fp32" and told["side"]["elementwise"] == "fp16"
    assert 0 < told["side"]["logit_error_max"] < 10 and 0 < told["side"]["codes_changed"] < 0.1
    _, out, _ = call("verify", checkpoint, artifact, "--images", "examples/data/fashion_test.npz", "--limit", "4")
    assert "arithmetic in fp16 instead of fp32" in out


def test_command_line(tmp_path: Path) -> None:
    source, artifact = tmp_path / "m.pt", tmp_path / "m.bvt"
    source.write_bytes(zoo.checkpoint_bytes("binaryvit_le_nano"))
    told = call_json("compile", source, "-o", artifact, "--board", "rpi4", "--elementwise", "fp16", "--side", "fp16")
    assert told["elementwise"]["arithmetic"] == "fp16" and told["side"] == "fp16"
    assert any("rpi4 (cortex-a72) need not have FP16 arithmetic" in w for w in told["warnings"])
    session = Session(artifact, threads=2)
    assert all(session.run(x).tobytes() == y.tobytes() for x, y in session.golden)
    _, out, _ = call("compile", source, "-o", artifact, "--elementwise", "fp16")
    assert "compute in fp16, the others in fp32" in out
    code, _, err = call("compile", source, "-o", artifact, "--elementwise", "bf16")
    assert code == 2 and "bf16" in err
    with pytest.raises(UserError, match="bf16"):
        compile_graph(None, elementwise="bf16")  # type: ignore[arg-type]


def test_a_model_that_has_nothing_for_it(tmp_path: Path) -> None:
    """Binary layers between float norms and GELUs without a shortcut: the warning says that nothing changed."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.one, self.two = nn.Conv2d(1, 64, 4, 4), nn.Linear(64, 32), nn.Linear(32, 5)
            with torch.no_grad():
                self.one.weight.copy_(torch.sign(self.one.weight) * 0.1)

        def forward(self, x: Any) -> Any:
            tokens = torch.sign(self.patches(x).flatten(2).transpose(1, 2))
            return self.two(nn.functional.gelu(self.one(tokens)).mean(1))

    torch.manual_seed(0)
    report = api.compile(Net().eval(), tmp_path / "m.bvt", example_input=(1, 1, 8, 8), elementwise="fp16")
    assert report.as_dict()["elementwise"] == {"arithmetic": "fp16", "fp16_ops": 0}
    assert any("fp16 changed nothing" in w for w in report.warnings)


def test_the_default_is_fp32(tmp_path: Path) -> None:
    report = api.compile(create("binaryvit_le_nano"), tmp_path / "m.bvt")
    assert report.as_dict()["elementwise"] == {"arithmetic": "fp32", "fp16_ops": 0}
    assert all(v["dtype"] != spec.DTYPES["F16"] for v in parse((tmp_path / "m.bvt").read_bytes(), "m").values)
