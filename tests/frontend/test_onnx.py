"""ONNX sources: what torch's exporter writes gives the graph of the torch route; other spellings; refusals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
import torch.nn.functional as F  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from styles import SHAPE, Net, Vit, execute, prepared  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bvtdeploy.compiler import compile_graph  # noqa: E402
from bvtdeploy.errors import UserError  # noqa: E402
from bvtdeploy.frontend import Imported, import_model  # noqa: E402
from bvtdeploy.ir import Graph, Value, verify  # noqa: E402
from bvtdeploy.models import BinaryViTLe, BinaryViTLeConfig  # noqa: E402

SMALL = BinaryViTLeConfig(
    image_size=16, in_channels=1, patch_size=2, dims=(16, 32), depths=(1, 1), heads=(2, 2), intermediate=(32, 64),
    reduction=(2, 1), num_classes=5,
)  # fmt: skip
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def export(source: Any, shape: Sequence[int], path: Path, **options: Any) -> Path:
    """What torch's exporter writes of a module or, which saves it most of the work, of a program."""
    pytest.importorskip("onnxscript")
    arguments: tuple[Any, ...] = (source.eval(), (torch.randn(tuple(shape)),)) if isinstance(source, nn.Module) else (source,)
    with torch.no_grad():
        program = torch.onnx.export(*arguments, dynamo=True, verbose=False, **options)
    assert program is not None
    program.save(str(path))
    return path


class Logits(nn.Module):
    """The exporter does not know output classes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x).logits
        return logits


def agree(imported: Imported, module: nn.Module, shape: Sequence[int]) -> None:
    """The graph and the eager reference against a module."""
    verify.verify(imported.graph)
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = getattr(out := module(x), "logits", out).numpy()
        np.testing.assert_allclose(imported.module(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(execute(imported, x), expected, rtol=1e-4, atol=1e-5 * float(np.abs(expected).max()))


def outline(graph: Graph) -> tuple[list[Any], list[Any]]:
    """(ops, constants) in the order in which the output needs them, without names."""
    numbers: dict[Value, int] = {}
    lines: list[Any] = []
    constants: list[Any] = []

    def visit(value: Value) -> None:
        if value in numbers:
            return
        op = value.producer
        if op is not None:
            for x in op.inputs:
                visit(x)
        for result in [value] if op is None else op.outputs:
            numbers.setdefault(result, len(numbers))
        if value.data is not None:
            constants.append(value.data)
            lines.append(("const", str(value.type)))
        elif op is not None:
            results = [(numbers[v], str(v.type)) for v in op.outputs]
            lines.append((op.kind, [numbers[v] for v in op.inputs], dict(op.attrs), results, op.module))

    for value in graph.outputs:
        visit(value)
    return lines, constants


# -- the same graph as from torch -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pyramid() -> tuple[nn.Module, Any]:
    """A model and its program."""
    model = prepared(BinaryViTLe(SMALL))
    return model, torch.export.export(model, (torch.zeros(1, 1, 16, 16),), strict=False)


@pytest.mark.parametrize("opset", [17, 18, 20])
def test_the_compiled_graph_is_that_of_the_torch_route(tmp_path: Path, opset: int, pyramid: tuple[nn.Module, Any]) -> None:
    """The exporter writes opset 18 where it cannot convert to 17 or 20."""
    model, program = pyramid
    path = export(program, (1, 1, 16, 16), tmp_path / "m.onnx", opset_version=opset)
    imported = import_model(path)
    agree(imported, model, (1, 1, 16, 16))
    assert imported.kind == "onnx"
    assert imported.bytes == path.stat().st_size
    assert imported.parameters == pytest.approx(sum(p.numel() for p in model.parameters()), abs=8)
    ours, theirs = (compile_graph(x) for x in (imported, import_model(program)))
    assert ours.graph.count() == theirs.graph.count()
    (lines, constants), (their_lines, their_constants) = outline(ours.graph), outline(theirs.graph)
    assert lines == their_lines  # modules too: the exporter writes them
    for a, b in zip(constants, their_constants, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_estimators_without_detach_marks(tmp_path: Path) -> None:
    """Training code of which the inference was exported: the residues of weights and probabilities are found and removed."""
    model = Logits(prepared(Vit(c=128)))
    imported = import_model(export(model, SHAPE, tmp_path / "m.onnx", opset_version=18))
    agree(imported, model, SHAPE)
    ours, theirs = imported.graph.count(), import_model(model, example_input=SHAPE).graph.count()
    assert ours["sign"] == theirs["sign"] - 2  # the exporter joins those of query, key and value
    kinds = ("linear", "matmul", "round", "softmax", "prelu", "upsample", "add")
    assert [ours[k] for k in kinds] == [theirs[k] for k in kinds]
    assert imported.extras["estimators"]["activations"] == 1
    assert imported.extras["estimators"]["weights"] > 0  # the exporter itself folds small weights


# -- graphs by hand -------------------------------------------------------------------------------------------------------------


class Maker:
    """A graph of one image and a few ops, whose results stand side by side in the logits."""

    def __init__(self, shape: Sequence[Any] = SHAPE, opset: int = 18) -> None:
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.shape, self.opset, self.count = shape, opset, 0
        self.kind = FLOAT

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        self.count += 1
        self.tensors.append(numpy_helper.from_array(np.asarray(value, dtype), f"c{self.count}"))
        return f"c{self.count}"

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        self.count += 1
        names = [f"t{self.count}" if outputs == 1 else f"t{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{self.count}", **attrs))
        return names[0] if outputs == 1 else names

    def save(self, path: Path, *results: str) -> Path:
        rows = [self.op("Flatten", r, axis=1) for r in results]
        out = self.op("Concat", *rows, axis=1)
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", self.kind, self.shape)],
            [helper.make_tensor_value_info(out, self.kind, [None, None])], self.tensors,
        )  # fmt: skip
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9), path)
        return path


def check(make: Maker, path: Path, pairs: Sequence[tuple[str, Any]], exact: bool = False) -> Imported:
    """Imports a graph by hand; each result is compared with a torch function of the image."""
    functions = {f"{i}": f for i, (_, f) in enumerate(pairs)}
    imported = import_model(make.save(path, *(r for r, _ in pairs)))
    agree(imported, Net(functions), SHAPE)
    return imported


W = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)


def test_elementwise(tmp_path: Path) -> None:
    m = Maker()
    c = torch.randn(3, 1, 1)
    k = m.const(c.numpy())
    positive, zero, two = m.op("Abs", "x"), m.const(0.0), m.const(2.0)
    code = m.op("Cast", m.op("GreaterOrEqual", "x", zero), to=FLOAT)
    flipped = m.op("Where", m.op("Not", m.op("Less", "x", zero)), m.const(3.0), m.const(-1.0))
    number = m.op("Where", m.op("LessOrEqual", "x", m.const([0.25])), m.const(0, np.int64), m.const(1, np.int64))
    pairs: list[tuple[str, Any]] = [
        (m.op("Add", "x", k), lambda x: x + c),
        (m.op("Sub", k, "x"), lambda x: c - x),
        (m.op("Mul", "x", k), lambda x: x * c),
        (m.op("Div", "x", k), lambda x: x / c),
        (m.op("Neg", "x"), lambda x: -x),
        (positive, lambda x: x.abs()),
        (m.op("Pow", "x", two), lambda x: x * x),
        (m.op("Sign", "x"), torch.sign),
        (m.op("Round", "x"), torch.round),
        (m.op("Clip", "x", m.const(-0.5), m.const(1.0)), lambda x: x.clamp(-0.5, 1)),
        (m.op("Clip", "x", "", m.const(1.0)), lambda x: x.clamp(max=1)),
        (m.op("Max", "x", zero), F.relu),
        (m.op("Min", m.op("Max", "x", m.const(-1.0)), m.const(1.0)), lambda x: x.clamp(-1, 1)),
        (m.op("Relu", "x"), F.relu),
        (m.op("PRelu", "x", m.const(c.numpy())), lambda x: torch.where(x > 0, x, c * x)),
        (m.op("LeakyRelu", "x", alpha=0.5), lambda x: F.leaky_relu(x, 0.5)),
        (m.op("Dropout", m.op("Identity", "x")), lambda x: x),
        (m.op("Softmax", "x", axis=1), lambda x: x.softmax(1)),
        (code, lambda x: (x >= 0).float()),
        (flipped, lambda x: torch.where(x >= 0, 3.0, -1.0)),
        (m.op("Cast", number, to=FLOAT), lambda x: (x > 0.25).float()),
    ]
    counts = check(m, tmp_path / "m.onnx", pairs).graph.count()
    assert (counts["softmax"], counts["round"]) == (1, 1)


def test_products_and_norms(tmp_path: Path) -> None:
    m = Maker()
    w, stats = torch.from_numpy(W), [torch.randn(3), torch.randn(3), torch.randn(3), torch.rand(3) + 0.5]
    b, kernel, gamma = torch.randn(6), torch.randn(4, 3, 3, 3), torch.randn(8)
    rows = m.op("Reshape", "x", m.ints(-1, 8))
    pairs: list[tuple[str, Any]] = [
        (m.op("MatMul", "x", m.const(W.T)), lambda x: x @ w.T),
        (m.op("MatMul", "x", m.op("Transpose", m.const(W))), lambda x: x @ w.T),
        (m.op("MatMul", m.op("Sign", "x"), m.op("Transpose", "x", perm=[0, 1, 3, 2])), lambda x: x.sign() @ x.mT),
        *(
            (m.op("Reshape", g, m.ints(1, -1)), f)
            for g, f in (
                (m.op("Gemm", rows, m.const(W), m.const(b), transB=1), lambda x: x.reshape(-1, 8) @ w.T + b),
                (
                    m.op("Gemm", rows, m.const(W.T), m.const(b[None]), alpha=2.0, beta=0.5),
                    lambda x: x.reshape(-1, 8) @ w.T * 2 + b / 2,
                ),
            )
        ),
        (m.op("BatchNormalization", "x", *map(m.const, stats)), lambda x: F.batch_norm(x, stats[2], stats[3], stats[0], stats[1])),
        (m.op("LayerNormalization", "x", m.const(gamma), epsilon=1e-3), lambda x: F.layer_norm(x, (8,), gamma, None, 1e-3)),
        (m.op("Conv", "x", m.const(kernel), pads=[1, 1, 1, 1], strides=[2, 2]), lambda x: F.conv2d(x, kernel, None, 2, 1)),
        (m.op("Conv", "x", m.const(kernel), pads=[0, 0, 1, 1]), lambda x: F.conv2d(F.pad(x, (0, 1, 0, 1)), kernel)),
        (m.op("Conv", "x", m.const(kernel), auto_pad="SAME_UPPER"), lambda x: F.conv2d(x, kernel, padding=1)),
    ]
    counts = check(m, tmp_path / "m.onnx", pairs).graph.count()
    assert (counts["linear"], counts["matmul"], counts["conv2d"], counts["batch_norm"], counts["layer_norm"]) == (4, 1, 3, 1, 1)


def test_layout_and_pools(tmp_path: Path) -> None:
    m = Maker()
    parts = m.op("Split", "x", m.ints(1, 2), outputs=2, axis=1)
    halves = m.op("Split", "x", outputs=2, axis=3, num_outputs=2)
    shape = m.op("Concat", m.op("Slice", m.op("Shape", "x"), m.ints(0), m.ints(2)), m.ints(-1), axis=0)
    turned = m.op("Concat", m.op("Slice", "x", m.ints(-2), m.ints(1 << 62), m.ints(2)),
                  m.op("Slice", "x", m.ints(0), m.ints(-2), m.ints(2)), axis=2)  # fmt: skip
    both = m.op("Concat", m.op("Slice", turned, m.ints(3), m.ints(8), m.ints(3)),
                m.op("Slice", turned, m.ints(0), m.ints(3), m.ints(3)), axis=3)  # fmt: skip
    scales = ("", m.const([1, 1, 2, 2]))
    asymmetric = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    pairs: list[tuple[str, Any]] = [
        (m.op("Reshape", "x", shape), lambda x: x.flatten(2)),
        (m.op("Transpose", "x", perm=[0, 2, 3, 1]), lambda x: x.permute(0, 2, 3, 1)),
        (m.op("Squeeze", m.op("Unsqueeze", "x", m.ints(2, -1)), m.ints(2)), lambda x: x[..., None]),
        (m.op("Expand", m.op("GlobalAveragePool", "x"), m.ints(1, 1, 2, 2)), lambda x: x.mean((2, 3), True).expand(1, 3, 2, 2)),
        (m.op("Tile", "x", m.ints(1, 1, 2, 1)), lambda x: x.repeat(1, 1, 2, 1)),
        (parts[1], lambda x: x[:, 1:]),
        (halves[0], lambda x: x[..., :4]),
        (m.op("Slice", "x", m.ints(1), m.ints(8), m.ints(-1), m.ints(3)), lambda x: x[..., 1::3]),
        (m.op("Slice", "x", m.ints(-1), m.ints(-(1 << 63)), m.ints(2), m.ints(-1)), lambda x: x.flip(2)),
        (m.op("Gather", "x", m.const(-1, np.int64), axis=2), lambda x: x[:, :, -1]),
        (m.op("Gather", "x", m.const([[0, 5], [-1, 2]], np.int64), axis=3), lambda x: x[..., [[0, 5], [-1, 2]]]),
        (m.op("Pad", "x", m.ints(0, 0, 1, 0, 0, 0, 0, 2)), lambda x: F.pad(x, (0, 2, 1, 0))),
        (both, lambda x: x.roll((2, -3), (2, 3))),
        (m.op("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2]), lambda x: F.avg_pool2d(x, 2)),
        (m.op("AveragePool", "x", kernel_shape=[1, 3], pads=[0, 1, 0, 1], count_include_pad=1),
         lambda x: F.avg_pool2d(x, (1, 3), 1, (0, 1))),
        (m.op("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), lambda x: F.max_pool2d(x, 3, 2, 1)),
        (m.op("ReduceMean", "x", m.ints(-1, 2), keepdims=0), lambda x: x.mean((2, 3))),
        (m.op("ReduceSum", "x", m.ints(1)), lambda x: x.sum(1)),
        (m.op("ReduceMax", "x", m.ints(3)), lambda x: x.amax(3)),
        (m.op("Resize", "x", *scales, mode="nearest", **asymmetric), lambda x: F.interpolate(x, scale_factor=2.0)),
        (m.op("Resize", "x", "", "", m.ints(1, 3, 16, 16), mode="nearest"), lambda x: F.interpolate(x, scale_factor=2.0)),
    ]  # fmt: skip
    counts = check(m, tmp_path / "m.onnx", pairs).graph.count()
    assert (counts["roll"], counts["upsample"], counts["max_pool2d"], counts["reduce_max"]) == (
        1,
        3,
        1,
        1,
    )  # the mean too: spread from 1x1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_gelu_in_pieces(tmp_path: Path, order: tuple[int, ...]) -> None:
    m = Maker()
    erf = m.op("Erf", m.op("Div", "x", m.const(2**0.5)) if order[0] else m.op("Mul", m.const(0.5**0.5), "x"))
    factors = ["x", m.op("Add", *((erf, m.const(1.0)) if order[1] else (m.const(1.0), erf))), m.const(0.5)]
    a, b, c = (factors[i] for i in order)
    imported = check(m, tmp_path / "m.onnx", [(m.op("Mul", m.op("Mul", a, b), c), F.gelu), (m.op("Gelu", "x"), F.gelu)][:1])
    assert imported.graph.count() == {"gelu": 1, "reshape": 1}


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("power", [True, False])
def test_layer_norm_in_pieces(tmp_path: Path, opset: int, power: bool) -> None:
    m, gamma, beta = Maker(opset=opset), torch.randn(8), torch.randn(8)

    def mean(x: str) -> str:
        result: str = m.op("ReduceMean", x, axes=[-1]) if opset == 17 else m.op("ReduceMean", x, m.ints(-1))
        return result

    d = m.op("Sub", "x", mean("x"))
    variance = mean(m.op("Pow", d, m.const(2.0)) if power else m.op("Mul", d, d))
    normal = m.op("Div", d, m.op("Sqrt", m.op("Add", variance, m.const(1e-5))))
    y = m.op("Add", m.op("Mul", normal, m.const(gamma)), m.const(beta))
    imported = check(m, tmp_path / "m.onnx", [(y, lambda x: F.layer_norm(x, (8,), gamma, beta))])
    assert imported.graph.count()["layer_norm"] == 1
    assert not {"mean", "sub", "div"} & set(imported.graph.count())


def test_a_symbolic_batch_and_external_data(tmp_path: Path) -> None:
    m = Maker(("batch", *SHAPE[1:]))
    w = np.random.default_rng(1).standard_normal((192, 64)).astype(np.float32)
    batch = m.op("Gather", m.op("Shape", "x"), m.const([0], np.int64))
    y = m.op("MatMul", m.op("Reshape", "x", m.op("Concat", batch, m.ints(-1), axis=0)), m.const(w))
    path = m.save(tmp_path / "m.onnx", y)
    inside = import_model(path)
    agree(inside, Net({"": lambda x: x.flatten(1) @ torch.from_numpy(w)}), SHAPE)
    assert inside.graph.inputs[0].type.shape == SHAPE
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    outside = import_model(path)
    agree(outside, inside.module, SHAPE)
    assert outside.bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    (tmp_path / "weights.bin").unlink()
    assert "weights" in refusal(path)


def test_modules_of_the_older_exporter(tmp_path: Path) -> None:
    m = Maker()
    y = m.op("MatMul", m.op("Sign", "x"), m.const(W.T))
    m.nodes[-1].name = "/encoder/layer.0/dense/MatMul"
    assert import_model(m.save(tmp_path / "m.onnx", y)).graph.of_kind("linear")[0].module == "encoder.layer.0.dense"


# -- refusals -------------------------------------------------------------------------------------------------------------------


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        import_model(path, **options)
    assert caught.value.where and caught.value.fix
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def test_everything_unsupported_at_once(tmp_path: Path) -> None:
    m = Maker()
    a, b = m.op("Det", m.op("Hardmax", "x")), m.op("Resize", "x", "", m.const([1, 1, 1.5, 1.5]), mode="nearest")
    c = m.op("Reshape", "x", m.op("Cast", m.op("Round", m.op("ReduceSum", "x", keepdims=0)), to=INT64))
    said = refusal(m.save(tmp_path / "m.onnx", m.op("MeanVarianceNormalization", "x"), b, a, c))
    for op in ("Hardmax", "Det", "MeanVarianceNormalization", "Resize", "Reshape"):
        assert f"    {op} " in said
    assert "computed from the input" in said and "n1 " in said
    known = Maker()  # torch has it, the compiler no rule
    said = refusal(known.save(tmp_path / "n.onnx", known.op("Cos", "x"), known.op("Sin", "x"), known.op("Cos", "x")))
    assert "aten.cos" in said and "aten.sin" in said and "in 3 place(s)" in said


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((1, 3, "h", "w"), "dynamic shapes"), ((4, 3, 8, 8), "batch 1"), ((1, 3, 64), "[1, 3, 64]"), ((1, 3, None, 8), "dynamic")],
)
def test_input_shapes(tmp_path: Path, shape: tuple[Any, ...], reason: str) -> None:
    m = Maker(shape)
    assert reason in refusal(m.save(tmp_path / "m.onnx", m.op("Sign", "x")))


def test_dtypes_opsets_and_outputs(tmp_path: Path) -> None:
    half = Maker()
    half.kind = TensorProto.FLOAT16
    assert "float16" in refusal(half.save(tmp_path / "m.onnx", half.op("Sign", "x")))
    old = Maker(opset=13)
    assert "opset 13" in refusal(old.save(tmp_path / "m.onnx", old.op("Sign", "x")))
    two = Maker()
    path = two.save(tmp_path / "m.onnx", two.op("Sign", "x"))
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info(two.op("Neg", "x"), FLOAT, SHAPE))
    model.graph.node.append(two.nodes[-1])
    onnx.save(model, path)
    assert "returns 2 tensors" in refusal(path)
    assert "no output 'none'" in refusal(path, output="none")
    assert import_model(path, output=0).graph.count()["sign"] == 1


@pytest.mark.parametrize("content", [b"\x08\x08\x12\x07pytorch", b"garbage", b"", b"\x08\x09\x3a\xff\xff"])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "damaged" in refusal(path) or not content


def test_a_cut_file(tmp_path: Path) -> None:
    m = Maker()
    path = m.save(tmp_path / "m.onnx", m.op("MatMul", "x", m.const(W.T)))
    path.write_bytes(path.read_bytes()[:-20])
    refusal(path)


def test_the_reference_is_a_module(tmp_path: Path) -> None:
    m = Maker()
    imported = import_model(m.save(tmp_path / "m.onnx", m.op("MatMul", "x", m.const(W.T))))
    assert isinstance(imported.module, nn.Module)
    assert isinstance(imported.module(torch.zeros(SHAPE)), Tensor)
    assert imported.parameters == W.size
