"""The small model of every family: all ways in give one graph, and all executors of its artifact give equal bits."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.compiler import compile_graph, compile_model  # noqa: E402
from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.ir.graph import Graph  # noqa: E402
from bvtdeploy.ir.text import print_graph  # noqa: E402
from bvtdeploy.models import zoo  # noqa: E402
from bvtdeploy.verifier import verify_model  # noqa: E402

NANO = [name for name in zoo.names() if name.endswith("_nano")]


def _canonical(graph: Graph) -> str:
    """The text of a graph without the names of values, modules and the graph; the values of constants as a digest."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    text = re.sub(r"  # .*", "", print_graph(graph)).split("(", 1)[1]
    text = re.sub(r"([%@])([\w.]+)", number, text)
    digest = hashlib.sha256()
    for op in graph.of_kind("const"):
        digest.update(np.ascontiguousarray(op.attrs["data"]).tobytes())
    return text + digest.hexdigest()


@pytest.fixture(scope="module", params=NANO)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A model's name and the file of its checkpoint."""
    name: str = request.param
    path = tmp_path_factory.mktemp(name) / f"{name}.pt"
    path.write_bytes(zoo.checkpoint_bytes(name))
    return name, path


def test_every_way_in_gives_one_graph(saved: tuple[str, Path]) -> None:
    name, checkpoint = saved
    program = checkpoint.with_suffix(".pt2")
    program.write_bytes(zoo.program_bytes(name))
    model: Any = zoo.create(name)
    size = model.config.image_size
    live = import_model(model, example_input=torch.zeros(1, model.config.in_channels, size, size))
    graphs = [_canonical(compile_graph(x).graph) for x in (live, import_model(checkpoint), import_model(program))]
    assert graphs[0] == graphs[1]
    assert graphs[0] == graphs[2]


def test_all_executors_agree(saved: tuple[str, Path]) -> None:
    """Interpreter, host kernels and, where it can be built and emulated, the runtime for a board."""
    from bvtdeploy.device import open_device
    from bvtdeploy.device.local import find_qemu

    artifact = saved[1].with_suffix(".bvt")
    compile_model(saved[1], artifact)
    if shutil.which("aarch64-linux-gnu-gcc") is None or not find_qemu():
        report = verify_model(saved[1], artifact, random=1)
    else:
        with open_device("qemu:cortex-a72") as device:
            report = verify_model(saved[1], artifact, random=1, device=device)
        assert report.pairs["reference/qemu:cortex-a72"]
    assert report.pairs["interpreter/reference"]
    assert report.exact, report.pairs
