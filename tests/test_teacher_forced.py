"""Teacher forcing: no op of any family's graph has a wrong integer, and an op that is wrong is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.compiler import compile_model  # noqa: E402
from bvtdeploy.frontend import import_model  # noqa: E402
from bvtdeploy.ir.graph import Graph, Op  # noqa: E402
from bvtdeploy.models import zoo  # noqa: E402
from bvtdeploy.verifier import forced, verify_model  # noqa: E402

NANO = [name for name in zoo.names() if name.endswith("_nano")]
SMALL = "binaryvit_xiao_deit_nano"


@pytest.mark.parametrize("name", NANO)
def test_no_family_has_a_wrong_integer(name: str, exported: Callable[[str], Any]) -> None:
    """What `models check` does, on one image; it is run as a command among the tests of the command line."""
    compiled = forced.Source(import_model(exported(name)))
    images = np.random.Generator(np.random.PCG64(0)).standard_normal((1, *compiled.input_shape), np.float32)
    result = forced.teacher_force(compiled, images)
    total = result.total
    assert result.ok, result.failures
    assert (total.mismatches, total.float_mismatches) == (0, 0)
    assert total.worst <= forced.TOLERANCE
    products, attention = result.rows["bgemm"], result.rows["attention"]
    assert products.unnamed == attention.unnamed == 0, "every product has its counterpart in the source"
    assert products.integers > 0 and attention.integers > 0
    assert result.rows["epilogue"].unnamed == 0
    assert total.codes > 0.3 * total.integers
    assert total.ties <= 1e-4 * total.codes


@pytest.fixture(scope="module")
def source() -> forced.Source:
    model: Any = zoo.create(SMALL)
    return forced.Source(import_model(model, example_input=(1, 3, model.config.image_size, model.config.image_size)))


@pytest.fixture(scope="module")
def image(source: forced.Source) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(5)).standard_normal((1, *source.input_shape), np.float32)


@pytest.fixture
def graph(source: forced.Source) -> Iterator[Graph]:
    """The compiled graph; what a test does to its constants is undone."""
    before = {op: list(op.inputs) for op in source.graph.ops}
    yield source.graph
    for op, inputs in before.items():
        for i, value in enumerate(inputs):
            if op.inputs[i] is not value:
                source.graph.set_input(op, i, value)


def _change(graph: Graph, op: Op, at: int, row: int, column: int, to: float) -> None:
    """One element of a constant operand becomes `to`, for this op alone."""
    data = np.array(op.inputs[at].data)
    assert data[row, column] != to
    data[row, column] = to
    graph.set_input(op, at, graph.constant(data, before=op, type=op.inputs[at].type))


def _wrong_kinds(result: forced.Forced) -> set[str]:
    return {kind for kind, row in result.rows.items() if row.mismatches or row.float_mismatches}


def test_a_weight_bit_shows_in_its_product_alone(source: forced.Source, image: np.ndarray, graph: Graph) -> None:
    op = graph.of_kind("bgemm")[3]
    _change(graph, op, 1, 2, 5, -float(op.inputs[1].data[2, 5]))  # type: ignore[index]
    result = forced.teacher_force(source, image)
    assert not result.ok
    assert _wrong_kinds(result) == {"bgemm"}
    (failure,) = result.failures
    assert (failure["op"], failure["channel"]) == (op.out.name, 2)
    assert failure["wrong"] == op.out.type.shape[0], "the channel is wrong in every row, and only the channel"
    assert abs(failure["ours"] - failure["source"]) == 2


def test_a_threshold_shows_in_its_epilogue_alone(source: forced.Source, image: np.ndarray, graph: Graph) -> None:
    op = next(op for op in graph.of_kind("epilogue") if "threshold0" in op.attrs["roles"])
    at = op.attrs["roles"].index("threshold0")
    _change(graph, op, at, 0, 1, 1e9)
    result = forced.teacher_force(source, image)
    assert _wrong_kinds(result) == {"epilogue"}
    assert [f["channel"] for f in result.failures] == [1]
    assert result.total.ties == 0


def test_an_attention_limit_shows_in_its_integers(source: forced.Source, image: np.ndarray, graph: Graph) -> None:
    op = graph.of_kind("attention")[1]
    limit = op.inputs[4]
    _change(graph, op, 4, 0, 0, 3 * float(limit.data[0, 0]))  # type: ignore[index]
    result = forced.teacher_force(source, image)
    assert _wrong_kinds(result) == {"attention"}
    assert result.failures[0]["op"] == op.out.name


def test_a_real_parameter_shows_beyond_1e_5(source: forced.Source, image: np.ndarray, graph: Graph) -> None:
    op = graph.of_kind("dense")[0]
    _change(graph, op, 1, 4, 7, float(op.inputs[1].data[4, 7]) + 0.01)  # type: ignore[index]
    result = forced.teacher_force(source, image)
    assert result.rows["dense"].float_mismatches > 0
    assert result.rows["dense"].worst > forced.TOLERANCE
    assert result.total.mismatches == 0


def test_only_next_to_a_threshold_is_a_difference_a_tie(
    source: forced.Source, image: np.ndarray, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same moved threshold, seen with a tolerance under which every operand is next to it."""
    op = next(op for op in graph.of_kind("epilogue") if "threshold0" in op.attrs["roles"])
    _change(graph, op, op.attrs["roles"].index("threshold0"), 0, 1, 1e9)
    wrong = forced.teacher_force(source, image).total.mismatches
    monkeypatch.setattr(forced, "TOLERANCE", 1.0)
    result = forced.teacher_force(source, image)
    assert wrong > 0
    assert (result.total.mismatches, result.total.ties) == (0, wrong)


class _Compares(torch.nn.Module):  # type: ignore[misc,name-defined]
    """Binary layers without torch.sign: comparisons, x > 0 among them, and a product cut into its halves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = torch.nn.Conv2d(3, 16, 4, 4)
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.randn(n, 16)) for n in (32, 16)])
        self.head = torch.nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).flatten(2).transpose(1, 2)
        codes = torch.where(x >= 0, 1.0, -1.0)
        both = torch.nn.functional.linear(codes, 0.1 * torch.sign(self.weights[0]))
        left, right = both[..., :16] - 0.23, both[..., 16:] + 0.07
        y = torch.nn.functional.linear((left > 0).float() * 2 - 1, 0.3 * torch.sign(self.weights[1]))
        z = torch.nn.functional.linear(2 * (right >= 0).float() - 1, 0.2 * torch.sign(self.weights[1]))
        return self.head((x + y + z).mean(1))


def test_other_spellings_of_a_sign_are_compared(tmp_path: Path) -> None:
    model = _Compares().eval()
    compile_model(model, tmp_path / "m.bvt", example_input=(1, 3, 16, 16))
    report = verify_model(model, tmp_path / "m.bvt", random=3, teacher_forced=True)
    assert report.warnings == []
    assert len(report.flips) == 3
    assert all(flip["rate"] < 0.01 for flip in report.flips)
    assert report.signs_seen == 3 * 3 * 16 * 16
    assert report.teacher_forced is not None
    assert report.teacher_forced["ok"], report.teacher_forced["failures"]
    assert report.teacher_forced["images"] == 3


def test_verify_says_no_where_an_op_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _Compares().eval()
    compile_model(model, tmp_path / "m.bvt", example_input=(1, 3, 16, 16))
    product = forced.Known._product
    monkeypatch.setattr(forced.Known, "_product", lambda self, value: (1 + product(self, value)[0], ""))
    report = verify_model(model, tmp_path / "m.bvt", random=2, teacher_forced=True)
    assert report.exact
    assert not report.ok
