"""The small model of every family: all ways in give one graph, and all executors of its artifact give equal bits."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy import api, cli  # noqa: E402
from bvtdeploy.compiler import compile_graph  # noqa: E402
from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.ir.graph import Graph  # noqa: E402
from bvtdeploy.ir.text import print_graph  # noqa: E402
from bvtdeploy.models import zoo  # noqa: E402

NANO = [name for name in zoo.names() if name.endswith("_nano")]


def _text(graph: Graph) -> str:
    """The text of a graph without the names of values, modules and the graph."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    text = re.sub(r"  # .*", "", print_graph(graph)).split("(", 1)[1]
    return re.sub(r"([%@])([\w.]+)", number, text)


def _constants(graph: Graph) -> list[Any]:
    return [np.ascontiguousarray(op.attrs["data"]) for op in graph.of_kind("const")]


def _canonical(graph: Graph) -> str:
    """Its text, and the values of its constants as a digest."""
    digest = hashlib.sha256()
    for data in _constants(graph):
        digest.update(data.tobytes())
    return _text(graph) + digest.hexdigest()


def _compiled(source: Any, **options: Any) -> Graph:
    return compile_graph(import_model(source, **options)).graph


@cache
def _live(name: str) -> Graph:
    """The compiled graph of the module itself."""
    return _compiled(zoo.create(name))


@pytest.fixture(scope="module", params=NANO)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model's name and the file of its checkpoint."""
    name: str = request.param
    path = tmp_path_factory.mktemp(name) / f"{name}.pt"
    path.write_bytes(zoo.checkpoint_bytes(name))
    return name, path


def test_every_way_in_gives_one_graph(saved: tuple[str, Path], exported: Callable[[str], Any]) -> None:
    """The module, a checkpoint and an exported program."""
    name, checkpoint = saved
    program = checkpoint.with_suffix(".pt2")
    torch.export.save(exported(name), program)
    expected = _canonical(_live(name))
    assert _canonical(_compiled(checkpoint)) == expected
    assert _canonical(_compiled(program)) == expected


def test_onnx_gives_the_same_graph(
    saved: tuple[str, Path], exported: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """As the exporter writes it, bit by bit; as its optimiser leaves it, which then compiles and verifies from the command line."""
    pytest.importorskip("onnxscript")
    name, checkpoint = saved
    live = _live(name)
    with torch.no_grad():
        program = torch.onnx.export(exported(name), dynamo=True, optimize=False, verbose=False)
    assert program is not None
    plain, optimised, artifact = (checkpoint.with_name(f"onnx{end}") for end in ("_plain.onnx", ".onnx", ".bvt"))
    program.save(str(plain))
    assert _canonical(_compiled(plain)) == _canonical(live)

    program.optimize()
    program.save(str(optimised))
    graph = _compiled(optimised)
    assert _text(graph) == _text(live)
    # The optimiser computes the mean magnitudes of small weights, and adds them up in another order than torch.
    for ours, theirs in zip(_constants(graph), _constants(live), strict=True):
        if ours.dtype == np.float32:
            np.testing.assert_allclose(ours, theirs, rtol=5e-7)
        else:
            np.testing.assert_array_equal(ours, theirs)

    capsys.readouterr()
    assert cli.main(["compile", str(optimised), "-o", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"]["kind"] == "onnx"
    assert cli.main(["verify", str(optimised), str(artifact), "--random", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["exact"] and report["images"] == 1
    assert report["warnings"] == []
    assert report["logit_cosine_min"] > 0.9999


def test_all_executors_agree(saved: tuple[str, Path]) -> None:
    """Interpreter, host kernels and, where it can be built and emulated, the runtime for a board."""
    from bvtdeploy.device.local import find_qemu

    artifact = saved[1].with_suffix(".bvt")
    api.compile(saved[1], artifact)
    emulated = shutil.which("aarch64-linux-gnu-gcc") is not None and bool(find_qemu())
    report = api.verify(saved[1], artifact, random=1, device="qemu:cortex-a72" if emulated else None)
    expected = {"interpreter/golden", "interpreter/reference", "reference/simd-1-thread", "reference/simd-4-threads"}
    if emulated:
        expected |= {f"reference/qemu:cortex-a72{suffix}" for suffix in ("", "-portable", "-4-threads")}
    assert expected <= set(report.pairs)
    assert report.exact, report.pairs
