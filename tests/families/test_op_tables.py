"""What every model of paper size compiles to: its op counts and layers, compared with op_tables/NAME.txt.

    BVTDEPLOY_REGENERATE=1 python -m pytest tests/families/test_op_tables.py     writes all tables anew
    BVTDEPLOY_ALL_SIZES=1 python -m pytest tests/families/test_op_tables.py      compares all sizes, not only the quick ones

Norm statistics are not taken from images here: they change numbers, not what ops there are, and cost most of the time.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.compiler import Compiled, compile_graph  # noqa: E402
from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.ir.graph import Op  # noqa: E402
from bvtdeploy.models import zoo  # noqa: E402
from bvtdeploy.ops import REGISTRY  # noqa: E402

TABLES = Path(__file__).parent / "op_tables"
REGENERATE = os.environ.get("BVTDEPLOY_REGENERATE") == "1"
ALL = REGENERATE or os.environ.get("BVTDEPLOY_ALL_SIZES") == "1"
PAPER = [name for name in zoo.names() if not name.endswith("_nano")]


def _quick(name: str) -> bool:
    return name.endswith("_tiny")


def _compiled(name: str) -> Compiled:
    model, config = zoo._fresh(name, 0)
    example = torch.zeros(1, config.in_channels, config.image_size, config.image_size)
    return compile_graph(import_model(model.eval(), example_input=example))


def _count(x: Any) -> int:
    return x if isinstance(x, int) else len(x)


def _table(compiled: Compiled) -> str:
    """One `key value` a line: layers first, then ops by name."""
    report = compiled.report
    lines = {
        "layers.binary": report.binary_layers,
        "layers.mixed": report.mixed_layers,
        "layers.float": report.float_layers,
        "ternary_signs": _count(report.ternary_signs),
    }
    lines |= dict(sorted(Counter(op.kind for op in compiled.graph.ops if op.kind != "const").items()))
    return "".join(f"{key} {value}\n" for key, value in lines.items())


def _unfused_affine(op: Op) -> bool:
    """Whether an epilogue only scales and shifts one f32 value that another epilogue makes for it alone."""
    if op.kind != "epilogue" or tuple(op.attrs["results"]) != ("f32",):
        return False
    roles = set(op.attrs["roles"])
    x = op.inputs[0]
    affine = roles - {"x"} <= {"scale", "shift", "post", "scale2", "shift2"}
    before = x.producer
    return affine and x.type.elem == "f32" and before is not None and before.kind == "epilogue" and len(x.uses) == 1


@pytest.mark.parametrize("name", PAPER)
def test_op_table(name: str) -> None:
    if not ALL and not _quick(name):
        pytest.skip("a large model: BVTDEPLOY_ALL_SIZES=1 compares it")
    compiled = _compiled(name)
    table, path = _table(compiled), TABLES / f"{name}.txt"
    if REGENERATE:
        path.write_text(table)
    ops = [op for op in compiled.graph.ops if op.kind != "const"]
    assert [op.kind for op in ops if not REGISTRY[op.kind].compiled] == []
    unfused = [(op.out.name, op.module) for op in ops if _unfused_affine(op)]
    assert unfused == []
    assert table == path.read_text()


def test_every_paper_size_has_a_table() -> None:
    assert {path.stem for path in TABLES.glob("*.txt")} == set(PAPER)
