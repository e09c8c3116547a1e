"""The same model with its binary weights in every layout: every op's result is the same, on every executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.artifact.inspect import inspect  # noqa: E402
from bvtdeploy.artifact.reader import read, to_graph  # noqa: E402
from bvtdeploy.bench.tune import products  # noqa: E402
from bvtdeploy.compiler import compile_model  # noqa: E402
from bvtdeploy.ir.interp import run as interpret  # noqa: E402
from bvtdeploy.lower.weights import FOR_BITS, TILES, Cost  # noqa: E402
from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig  # noqa: E402

from .conftest import Runner  # noqa: E402


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of two stages, compiled with each layout the cheapest; columns that no word divides."""
    torch.manual_seed(3)
    config: dict[str, Any] = {
        "image_size": 16, "in_channels": 1, "patch_size": 2, "dims": (24, 72), "depths": (1, 1), "heads": (1, 3),
        "intermediate": (96, 144), "reduction": (2, 1), "num_classes": 5,
    }  # fmt: skip
    net = BinaryViTLe(BinaryViTLeConfig(**config))
    with torch.no_grad():
        for name, value in net.named_parameters():
            if not name.endswith("att_prob_clip"):
                value.normal_(0.0, 0.3)
    folder = tmp_path_factory.mktemp("layouts")
    for layout in TILES:
        costs = {name: Cost(0.0, 1.0 if name == layout else 1e6) for name in {"LANES16", layout}}
        compile_model(net.eval(), folder / f"{layout}.bvt", example_input=torch.zeros(1, 1, 16, 16), costs=costs)
    return {layout: folder / f"{layout}.bvt" for layout in TILES}


def test_the_costs_choose(files: dict[str, Path]) -> None:
    for layout, file in files.items():
        layouts = [op["layout"] for op in inspect(file)["ops"] if op["kind"] == "bgemm"]
        assert len(layouts) > 8 and set(layouts) == {layout.lower()}


def test_the_reader_reads_every_layout(files: dict[str, Path]) -> None:
    x, want = read(files["LANES16"]).golden[0]
    for file in files.values():
        graph = to_graph(read(file))
        assert interpret(graph, {graph.inputs[0].name: x})[0].tobytes() == want.tobytes()


def test_every_executor_computes_the_same(files: dict[str, Path], runner: Runner, tmp_path: Path) -> None:
    raw = tmp_path / "x.f32"
    raw.write_bytes(np.ascontiguousarray(read(files["LANES16"]).golden[1][0], "<f4").tobytes())
    want = runner.crcs(files["LANES16"], raw)
    for layout, file in files.items():
        got = runner.crcs(file, raw)
        assert got == want and len(got) > 20, layout


def test_products_of_trits(runner: Runner, tmp_path: Path) -> None:
    """A model whose activations have zeros: its products take the layouts that are for trits, and compute the same."""
    from bvtdeploy.models import create

    files = {}
    for layout in TILES:
        costs = {name: Cost(0.0, 1.0 if name == layout else 1e6) for name in {"LANES16", layout}}
        files[layout] = tmp_path / f"{layout}.bvt"
        compile_model(create("bi_vit_li_deit_nano"), files[layout], costs=costs)
    raw = tmp_path / "x.f32"
    raw.write_bytes(np.ascontiguousarray(read(files["LANES16"]).golden[1][0], "<f4").tobytes())
    want = runner.crcs(files["LANES16"], raw)
    for layout, file in files.items():
        found = products(read(file)).values()
        assert {got for product, got in found if product.trits} == {"LANES16" if layout in FOR_BITS else layout}
        assert {got for product, got in found if not product.trits} == {layout}
        assert runner.crcs(file, raw) == want, layout
