"""`compile --patch-embed int8`: what it reports, equal bits on the host and on boards, what it costs a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import call, call_json

from bvtdeploy import api
from bvtdeploy.artifact import spec
from bvtdeploy.artifact.reader import parse, read, to_graph
from bvtdeploy.artifact.writer import Content, to_bytes
from bvtdeploy.compiler import compile_graph
from bvtdeploy.errors import UserError
from bvtdeploy.frontend import import_model
from bvtdeploy.host import Session
from bvtdeploy.ir import Graph, Type
from bvtdeploy.lower.lowered import lower
from bvtdeploy.models import zoo

EXAMPLE = Path(__file__).parents[2] / "examples"
NANO = [name for name in zoo.names() if name.endswith("_nano")]


@pytest.mark.parametrize("name", NANO)
def test_every_family_has_a_patch_embedding(name: str) -> None:
    compiled = compile_graph(import_model(zoo.create(name)), patch_embed="int8", side="int8")
    counts = compiled.graph.count()
    assert counts["dense_i8"] == 1 and compiled.report.fused["patch embedding -> int8"] == 1
    assert [t.name for t in compiled.timings][-3:] == ["patch_embed", "side", "pools"]


@pytest.mark.parametrize(("name", "side"), [("binaryvit_le_nano", "fp32"), ("bi_vit_li_swin_nano", "int8")])
def test_equal_bits_on_the_host_and_on_boards(name: str, side: str, tmp_path: Path, emulator: str) -> None:
    model, artifact = tmp_path / "m.pt", tmp_path / "m.bvt"
    model.write_bytes(zoo.checkpoint_bytes(name))
    told = call_json("compile", model, "-o", artifact, "--patch-embed", "int8", "--side", side)
    assert told["patch_embed"] == "int8" and told["ops"]["dense_i8"] == 1 and told["macs"]["int8"] > 0
    facts = call_json("inspect", artifact)
    assert facts["patch_embed"] == facts["meta"]["patch_embed"] == "int8" and facts["macs"] == told["macs"]
    (op,) = (op for op in facts["ops"] if op["kind"] == "dense_i8")
    assert op["layout"] == "quads" and facts["storage"]["patch_embedding"] > 0 and facts["constants"]["int8"] > 0
    graph = to_graph(read(artifact))
    again = lower(graph)
    assert again.constants == read(artifact).constants, "what is read is what is written"
    for device in ("qemu:cortex-a76", "qemu:cortex-a53"):  # with SDOT and without
        report = api.verify(model, artifact, random=2, device=device, teacher_forced=device.endswith("a76"))
        assert report.exact and len(report.pairs) == 8, report.pairs
        assert report.side is not None and report.side["kind"] == side and report.side["patch_embed"] == "int8"
        assert report.side["logit_error_mean"] > 0 and 0 < report.side["codes_changed"] < 0.5
        assert report.teacher_forced is None or report.teacher_forced["ok"]


def test_the_loss_of_a_trained_model(tmp_path: Path) -> None:
    model, artifact = EXAMPLE / "models" / "fashion_binaryvit.pt", tmp_path / "m.bvt"
    code, out, _ = call("compile", model, "-o", artifact, "--patch-embed", "int8")
    assert code == 0 and "computed in int8" in out and "65.5 k int8, " in out
    images = EXAMPLE / "data" / "fashion_test.npz"
    report = api.verify(model, artifact, images=images, limit=8, teacher_forced=True)
    assert report.exact and report.top1_agreement >= 0.75 and report.accuracy is not None
    assert report.side is not None and report.side["kind"] == "fp32" and report.side["patch_embed"] == "int8"
    assert 0 < report.side["logit_error_mean"] < 1 and 0 < report.side["codes_changed"] < 0.1
    assert report.teacher_forced is not None and report.teacher_forced["ok"], "of what the source compiles to in fp32"
    assert any("a patch embedding in int8" in text for text in report.warnings)
    code, out, _ = call("verify", model, artifact, "--images", images, "--limit", "1")
    assert code in (0, 1) and "patch embedding in int8 instead of fp32, on 1 inputs" in out


def test_what_stays_is_told(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = zoo.create("binaryvit_xiao_deit_nano")
    (stem,) = (module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    stem.weight.data.view(-1)[0] = torch.inf
    report = api.compile(model, tmp_path / "m.bvt", example_input=(1, 3, 32, 32), patch_embed="int8")
    assert "the patch embedding is not computed in int8: it stays fp32: a weight is not finite" in report.warnings
    assert report.as_dict()["patch_embed"] == "int8" and "dense_i8" not in report.as_dict()["ops"]


def test_wrong_uses(tmp_path: Path) -> None:
    model = EXAMPLE / "models" / "fashion_binaryvit.pt"
    code, _, err = call("compile", model, "-o", tmp_path / "m.bvt", "--patch-embed", "int4")
    assert code == 2 and "int4" in err and not (tmp_path / "m.bvt").exists()
    with pytest.raises(UserError, match="int4"):
        api.compile(model, tmp_path / "m.bvt", patch_embed="int4")  # type: ignore[arg-type]


def test_both_readers_refuse_other_layouts_of_i8() -> None:
    graph = Graph("g")
    x = graph.add_input("x", Type("f32", (3, 5)))
    rng = np.random.default_rng(0)
    weight = graph.constant(rng.integers(-127, 128, (17, 5)).astype(np.int8), "w", type=Type("i8", (17, 5)))
    graph.set_outputs([graph.append("dense_i8", [x, weight, graph.constant(np.ones((1, 17), np.float32))])])
    low = lower(graph)
    session = Session(to_bytes(Content(low)))
    image = rng.standard_normal((3, 5)).astype(np.float32)
    from bvtdeploy.ir.interp import run as interpret

    assert session.run(image).tobytes() == interpret(graph, {"x": image})[0].tobytes()
    (record,) = (v for v in low.values if v.dtype == "I8")
    assert (record.layout, record.rows, record.cols, record.stride, record.bytes) == ("QUADS", 17, 5, 128, 256)
    for field, wrong in (
        ("layout", "ROWS"), ("layout", "LANES16"), ("dtype", "F32"), ("dtype", "BITS"), ("storage", "ARENA"), ("cols", 9),
        ("rows", 33), ("bytes", 255), ("stride", 64), ("stored", "F16"),
    ):  # fmt: skip
        before = getattr(record, field)
        setattr(record, field, wrong)
        data = to_bytes(Content(low))
        setattr(record, field, before)
        with pytest.raises(UserError):
            Session(data)
        if field != "stride":  # which only says where the tiles are, and has one value for the compiler
            with pytest.raises(UserError):
                to_graph(parse(data, "m"))
    assert spec.VERSION == 7
