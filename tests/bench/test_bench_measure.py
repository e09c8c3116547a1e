"""Timing against peers: the same network on ONNX Runtime, the plain ViT of its shape, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import call, call_json

from bvtdeploy import api
from bvtdeploy.bench import peers
from bvtdeploy.errors import UserError

pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("onnxscript", reason="pip install onnxscript")


def test_bench_against_onnx_runtime(nano: Path, nano_source: Path, runtime_cache: Path) -> None:
    arguments = (nano, "--model", nano_source, "--rounds", "2", "--threads", "1,2")
    told = call_json("bench", *arguments)
    measured = told["measured"]
    assert told["modelled"] is None
    rows = {(row["same_network"], row["precision"]): row for row in measured["peers"]}
    assert set(rows) == {(True, "fp32"), (False, "fp32"), (False, "int8 dynamic")}
    check = rows[True, "fp32"]["check"]
    assert check["images"] == check["same_class"] == 4
    assert check["max_error"] < 1e-3 < check["largest"]
    assert rows[False, "fp32"]["check"] is None  # random weights: there is nothing to compare
    assert rows[False, "int8 dynamic"]["model_bytes"] < 0.5 * rows[False, "fp32"]["model_bytes"]
    for row in rows.values():
        one, two = row["timings"]
        assert (one["threads"], two["threads"], one["rounds"], two["rounds"]) == (1, 2, 2, 2)
        assert len(one["ours"]["wall_samples_ms"]) == len(one["peer"]["cpu_samples_ms"]) == 2
        assert two["ratio"]["cpu"] is None  # it would count waiting
        first = one["peer"]["wall_samples_ms"][0] / one["ours"]["wall_samples_ms"][0]
        assert one["ratio"]["wall"]["min"] <= first <= one["ratio"]["wall"]["max"]
    assert measured["shape"]["dim"] == 64
    assert measured["environment"]["versions"]["onnxruntime"]
    # The converted models are kept, and what is shown names the peers and what was checked.
    kept = {path: path.stat().st_mtime_ns for path in (runtime_cache / "bench").glob("*.onnx")}
    assert len(kept) == 3
    code, out, err = call("bench", *arguments)
    assert code == 0, err
    assert "computes the same function: the same class on 4 of 4 images" in out
    assert "ONNX Runtime int8 dynamic" in out
    assert {path: path.stat().st_mtime_ns for path in (runtime_cache / "bench").glob("*.onnx")} == kept


def linear(path: Path, classes: int) -> Path:
    """An ONNX network of the nano model's input: one random linear layer."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.Generator(np.random.PCG64(0)).standard_normal((3 * 32 * 32, classes)).astype(np.float32)
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["logits"])]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])
    graph = helper.make_graph(nodes, "linear", [image], [logits], [numpy_helper.from_array(weight, "weight")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize(("classes", "what"), [(10, "compute different functions"), (11, "are different networks")])
def test_another_network_is_not_timed(classes: int, what: str, nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.OnnxRuntime, "jobs", {})
    with pytest.raises(UserError, match=what) as failure:
        api.bench(nano, model=linear(tmp_path / "other.onnx", classes), rounds=2, threads=[1])
    assert "compiled from" in failure.value.fix


def test_a_peer_that_is_not_installed_is_said_to_be(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.LiteRt, "modules", ("a_module_that_is_not_there",))
    measured = api.bench(nano, against=["litert"], rounds=2, threads=[1]).measured
    assert measured is not None
    assert measured.rows == ()
    (row,) = measured.unavailable
    assert row.why == "not installed: a_module_that_is_not_there"
    assert row.fix == 'pip install "bvtdeploy[bench-litert]"'


def test_a_converter_that_fails_is_told_with_its_reason(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.OnnxRuntime, "jobs", {peers.FP32: "no_such_job"})
    measured = api.bench(nano, rounds=2, threads=[1]).measured
    assert measured is not None
    assert measured.rows == ()
    assert "its converter failed: KeyError: 'no_such_job'" in [row.why for row in measured.unavailable]
    assert "the model that was compiled is not given" in [row.why for row in measured.unavailable]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--against", "tensorrt"), "there is no peer 'tensorrt'"),
        (("--like", "deit"), "there is no plain ViT 'deit'"),
        (("--model", "nowhere.pt"), "there is no such model"),
        (("--rounds", "1"), "give a number from 2 to 100000, or auto"),
        (("--against", ""), "there is nothing to do"),
        (("--modelled", "--board", "generic"), "there is no model of the core 'generic'"),
        (("--modelled", "--board", "rpi3-32"), "board rpi3-32 cannot be modelled"),
    ],
)
def test_refusals(nano: Path, arguments: tuple[str, ...], what: str) -> None:
    code, out, err = call("bench", nano, *arguments)
    assert (code, out) == (2, "")
    assert what in err
    assert "Traceback" not in err


def test_one_of_several_outputs() -> None:
    assert peers._output(["states", "logits"], None, "") == "logits"
    assert peers._output(["a", "b"], "1", "") == "b"
    with pytest.raises(UserError, match="which output the logits are"):
        peers._output(["a", "b"], None, "")
