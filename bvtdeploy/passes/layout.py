"""layout: the source graph, of any rank and axis order, becomes a graph over rows x channels without a single layout op.

Every source value is described as a *view*: a two-dimensional base value [rows, channels] of the new graph and an index array of
the source value's shape that says which element of the base stands at each position. Then

    permute, reshape, expand, slice, concat of views of one base, nearest upsampling    only change the index array;
    elementwise ops act on the base and keep the index, constants are carried to the base through it;
    products, pools and attention check that the index is the order they need and create a new base.

So whatever chain of permutes and views the author wrote, nothing moves at run time; the tiled shortcut and the upsampled keys are
views that the consuming `epilogue` reads through its channel and row maps. A layout that would need a copy is refused with its
site. Elementwise ops are written as single-step `epilogue` ops; later passes merge them.

Promise: bitwise on integers and codes; float sums follow the compiled ops' defined order instead of the source references' fp64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bvtdeploy.errors import UserError
from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import bits
from bvtdeploy.ops.epilogue import row_map
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report

Index = npt.NDArray[np.int32]


@dataclass(frozen=True)
class View:
    """A source value: element p of it is element index.flat[p] of the base."""

    base: Value
    index: Index

    @property
    def whole(self) -> bool:
        """Every element of the base occurs exactly once."""
        n = self.base.type.size
        return self.index.size == n and bool((np.bincount(self.index.reshape(-1), minlength=n) == 1).all())


class _Refused(Exception):
    """This op cannot be expressed over rows x channels; the text says why."""


class _Follows(_Refused):
    """It could not be looked at, because an operand was refused."""


def _order(shape: tuple[int, ...]) -> Index:
    return np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)


def _is(index: Index, expected: Index) -> bool:
    return index.shape == expected.shape and bool(np.array_equal(index, expected))


class _Layout:
    """The translation of one graph."""

    def __init__(self, source: Graph, report: Report) -> None:
        self.source, self.report = source, report
        self.graph = Graph(source.name)
        self.views: dict[Value, View] = {}
        self.image: dict[Value, Value] = {}
        self.refused: list[tuple[Op, str]] = []
        self.followers = 0
        self.module, self.name = "", ""  # of the source op in hand

    # -- helpers --------------------------------------------------------------------------------------------------------

    def emit(self, kind: str, inputs: list[Value], **attrs: Any) -> Value:
        try:
            return self.graph.create(kind, inputs, attrs, module=self.module, names=[self.name]).out
        except ValueError as error:  # the shape rule of the compiled op says in a sentence what it cannot do
            raise _Refused(str(error)) from error

    def step(self, x: Value, role: str, value: Value, *, factor: int = 1, width: int = 0) -> Value:
        """An epilogue with one step."""
        factors = (factor,) if role.startswith("res") else ()
        return self.emit(
            "epilogue", [x, value], roles=("x", role), results=("f32",), factors=factors, width=width, packed=()
        )

    def view(self, value: Value) -> View:
        if value.data is not None:
            raise _Refused("a constant tensor stands where an activation is needed (a class token, say)")
        if value in self.image:
            raise _Refused("the image itself is read by something else than a convolution")
        if value not in self.views:
            raise _Follows("")
        return self.views[value]

    def rows_view(self, value: Value) -> View:
        """The view of a value whose last axis must be all channels and whose other axes must be the rows, in order."""
        view = self.view(value)
        if not _is(view.index.reshape(-1, value.type.shape[-1]), _order(view.base.type.shape)):
            raise _Refused(f"its operand {value.type} is not rows x channels in memory")
        return view

    def grid_view(self, value: Value) -> tuple[View, int, int]:
        """The view of a [1, C, H, W] value that must be the token grid; its H and W."""
        view = self.view(value)
        b, c, h, w = value.type.shape
        if b != 1 or view.base.type.shape != (h * w, c) or not _is(view.index[0].transpose(1, 2, 0), _order((h, w, c))):
            raise _Refused(f"its operand {value.type} is not the token grid")
        return view, h, w

    def define(self, value: Value, base: Value, index: Index | None = None) -> None:
        """Binds a source value: by default its elements in order are the base's elements in order."""
        self.views[value] = View(base, _order(value.type.shape) if index is None else index)

    def on_grid(self, value: Value, base: Value) -> None:
        """Binds a [1, C, H, W] result whose base is rows x channels."""
        _, c, h, w = value.type.shape
        self.define(value, base, np.ascontiguousarray(_order((h, w, c)).transpose(2, 0, 1))[None])

    def parameter(self, constant: npt.NDArray[Any], value: Value, view: View) -> Value:
        """A constant operand, carried to the base of `view`: one row [1, C] where all rows agree, else [rows, C]."""
        if not view.whole:
            raise _Refused("a constant meets a repeated view")
        full = np.empty(view.base.type.size, np.float32)
        full[view.index.reshape(-1)] = np.broadcast_to(constant, value.type.shape).reshape(-1)
        full = full.reshape(view.base.type.shape)
        return self.graph.constant(full[:1].copy() if bool((full == full[:1]).all()) else full)

    # -- op handlers ----------------------------------------------------------------------------------------------------

    def permute(self, op: Op) -> None:
        view = self.view(op.inputs[0])
        self.define(op.out, view.base, view.index.transpose(op.attrs["perm"]))

    def reshape(self, op: Op) -> None:
        view = self.view(op.inputs[0])
        self.define(op.out, view.base, view.index.reshape(op.attrs["shape"]))

    def expand(self, op: Op) -> None:
        view = self.view(op.inputs[0])
        self.define(op.out, view.base, np.broadcast_to(view.index, op.attrs["shape"]))

    def slice(self, op: Op) -> None:
        view = self.view(op.inputs[0])
        index = [slice(None)] * view.index.ndim
        index[op.attrs["axis"]] = slice(op.attrs["start"], op.attrs["stop"], op.attrs["step"])
        self.define(op.out, view.base, view.index[tuple(index)])

    def concat(self, op: Op) -> None:
        views = [self.view(v) for v in op.inputs]
        if any(v.base is not views[0].base for v in views):
            raise _Refused("concatenation of different tensors")
        self.define(op.out, views[0].base, np.concatenate([v.index for v in views], op.attrs["axis"]))

    def upsample(self, op: Op) -> None:
        view, f = self.view(op.inputs[0]), op.attrs["factor"]
        self.define(op.out, view.base, view.index.repeat(f, 2).repeat(f, 3))

    def mul(self, op: Op) -> None:
        x, c = op.inputs
        if c.data is None:
            raise _Refused("product of two activations outside of attention")
        view = self.view(x)
        scale = self.parameter(c.data, x, view) if np.broadcast_shapes(x.type.shape, c.type.shape) == x.type.shape else None
        if scale is None or scale.type.shape[0] != 1:
            raise _Refused("multiplication by a constant that is not one number a channel")
        self.define(op.out, self.step(view.base, "scale", scale), view.index)

    def add(self, op: Op) -> None:
        x, y = op.inputs
        if x.type.shape != y.type.shape and y.data is None:
            raise _Refused(f"sum of {x.type} and {y.type}")
        if y.data is not None:
            view = self.view(x)
            if op.out.type.shape != x.type.shape:
                raise _Refused(f"sum of {x.type} and a larger constant {y.type}")
            value = self.parameter(y.data, x, view)
            role = "shift" if value.type.shape[0] == 1 else "res0"
            self.define(op.out, self.step(view.base, role, value), view.index)
            return
        a, b = self.view(x), self.view(y)
        if a.base.type.shape == b.base.type.shape and np.array_equal(a.index, b.index):
            self.define(op.out, self.step(a.base, "res0", b.base), a.index)
            return
        for main, other in ((a, b), (b, a)):
            if main.whole:
                found = self._mapped(main, other)
                if found is not None:
                    self.define(op.out, self.step(main.base, "res0", other.base, factor=found[0], width=found[1]), main.index)
                    return
        raise _Refused("sum of two tensors whose layouts differ by more than channel tiling and nearest upsampling")

    def _mapped(self, main: View, other: View) -> tuple[int, int] | None:
        """(factor, width) such that `other` reaches the base of `main` through the epilogue's row and channel maps."""
        n, c = main.base.type.shape
        rows, cols = other.base.type.shape
        flat = np.empty(n * c, np.int32)
        flat[main.index.reshape(-1)] = other.index.reshape(-1)
        source = flat.reshape(n, c)
        if c % cols or not np.array_equal(source % cols, np.broadcast_to(np.arange(c) % cols, (n, c))):
            return None
        at = source[:, 0] // cols
        if not (source // cols == at[:, None]).all() or n % rows:
            return None
        factor = round((n // rows) ** 0.5)
        if factor * factor * rows != n:
            return None
        if factor == 1:
            return (1, 0) if np.array_equal(at, np.arange(n)) else None
        for width in range(factor, n // factor + 1, factor):
            if n % (width * factor) == 0 and np.array_equal(at, row_map(n, factor, width)):
                return factor, width
        return None

    def prelu(self, op: Op) -> None:
        x, slope = op.inputs
        if slope.data is None:
            raise _Refused("the slope is not a constant")
        view = self.view(x)
        shape = [1] * len(x.type.shape)
        if slope.type.size > 1:
            shape[op.attrs["axis"]] = -1
        value = self.parameter(slope.data.reshape(shape), x, view)
        if value.type.shape[0] != 1:
            raise _Refused("the slope differs between rows")
        self.define(op.out, self.step(view.base, "slope", value), view.index)

    def binarise(self, op: Op) -> None:
        view = self.view(op.inputs[0])
        self.define(op.out, self.signs(view.base, 1, op.out.name), view.index)
        self.report.sign_index[op.out.name] = view.index

    def signs(self, base: Value, packed: int, name: str) -> Value:
        """x >= 0 as bits, packed along the channels (1) or the rows (0)."""
        zero = self.graph.constant(np.zeros((1, base.type.shape[1]), np.float32))
        attrs = {"roles": ("x", "threshold0"), "results": ("bits",), "factors": (), "width": 0, "packed": (packed,)}
        return self.graph.create("epilogue", [base, zero], attrs, module=self.module, names=[name]).out

    def linear(self, op: Op) -> None:
        weight = op.inputs[1].data
        if weight is None:
            raise _Refused("the weight is not a constant")
        inputs = [self.rows_view(op.inputs[0]).base, self.graph.constant(np.ascontiguousarray(weight.T))]
        self.define(op.out, self.emit("dense", [*inputs, *self.bias(op)]))

    def bias(self, op: Op) -> list[Value]:
        """The third operand of a product as one row, if there is one."""
        if len(op.inputs) < 3:
            return []
        data = op.inputs[2].data
        if data is None:
            raise _Refused("the bias is not a constant")
        return [self.graph.constant(data.reshape(1, -1))]

    def conv2d(self, op: Op) -> None:
        weight, (_, c, h, w) = op.inputs[1].data, op.inputs[0].type.shape
        k, s = op.inputs[1].type.shape[2], op.attrs["stride"][0]
        square = op.inputs[1].type.shape[2:] == (k, k) and tuple(op.attrs["stride"]) == (s, s)
        if weight is None or not square or any(op.attrs["padding"]) or set(op.attrs["dilation"]) != {1} or op.attrs["groups"] != 1:
            raise _Refused("a float convolution must have a square kernel, no padding, dilation or groups")
        if op.inputs[0] in self.image:
            rows = self.emit("patches", [self.image[op.inputs[0]]], channels=c, height=h, width=w, kernel=k, stride=s)
            matrix = weight.reshape(weight.shape[0], -1)  # o, (c, ky, kx)
        else:
            view, h, w = self.grid_view(op.inputs[0])
            rows = self.emit("row_patches", [view.base], height=h, width=w, kernel=k, stride=s)
            matrix = weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)  # o, (ky, kx, c)
        self.on_grid(op.out, self.emit("dense", [rows, self.graph.constant(np.ascontiguousarray(matrix.T)), *self.bias(op)]))

    def binary_linear(self, op: Op) -> None:
        weight = op.inputs[1].data
        assert weight is not None
        packed = self.graph.constant(weight, type=bits(*weight.shape))
        self.define(op.out, self.emit("bgemm", [self.rows_view(op.inputs[0]).base, packed]))

    def binary_conv2d(self, op: Op) -> None:
        view, h, w = self.grid_view(op.inputs[0])
        weight, (_, _, k, kx), stride = op.inputs[1].data, op.inputs[1].type.shape, op.attrs["stride"]
        assert weight is not None
        if k != kx or stride[0] != stride[1]:
            raise _Refused("a binary convolution must have a square kernel and stride")
        matrix = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(weight.shape[0], -1)  # o, (ky, kx, c)
        rows = self.emit("row_patches", [view.base], height=h, width=w, kernel=k, stride=stride[0])
        self.on_grid(op.out, self.emit("bgemm", [rows, self.graph.constant(matrix, type=bits(*matrix.shape))]))

    def binary_attention(self, op: Op) -> None:
        _, heads, n, d = op.out.type.shape

        def heads_of(value: Value) -> View:
            view, rows = self.view(value), value.type.shape[2]
            expected = _order((rows, heads, d)).transpose(1, 0, 2)[None]
            if view.base.type.shape != (rows, heads * d) or not _is(view.index, expected):
                raise _Refused(f"its operand {value.type} is not tokens x (heads x channels) in memory")
            return view

        q, k, v = (heads_of(value).base for value in op.inputs[:3])
        assert v.producer is not None
        name = f"{v.name}.cols"  # the context product reads V along the tokens
        by_rows = self.signs(v.producer.inputs[0], 0, name)
        self.report.sign_index[name] = self.report.sign_index[v.name]
        table, limit = (self.graph.constant(value.data, type=value.type) for value in op.inputs[3:] if value.data is not None)
        out = self.emit("attention", [q, k, by_rows, table, limit], heads=heads)
        self.define(op.out, out, np.ascontiguousarray(_order((n, heads, d)).transpose(1, 0, 2))[None])

    def avg_pool2d(self, op: Op) -> None:
        view, h, w = self.grid_view(op.inputs[0])
        kernel, stride, padding = (tuple(op.attrs[n]) for n in ("kernel", "stride", "padding"))
        if padding == (0, 0) and kernel[0] == kernel[1] and stride[0] == stride[1]:
            pooled = self.emit("avg_pool", [view.base], height=h, width=w, kernel=kernel[0], stride=stride[0])
        elif stride == (1, 1) and all(k == 2 * p + 1 for k, p in zip(kernel, padding, strict=True)):
            # A tap that is outside of the grid everywhere adds nothing; the divisor counts it.
            reach = [range(-min(p, n - 1), min(p, n - 1) + 1) for p, n in zip(padding, (h, w), strict=True)]
            offsets = tuple((dy, dx) for dy in reach[0] for dx in reach[1])
            taps = np.full((len(offsets), view.base.type.shape[1]), 1.0 / (kernel[0] * kernel[1]), np.float32)
            inputs = [view.base, self.graph.constant(taps)]
            pooled = self.emit("stencil", inputs, height=h, width=w, offsets=offsets, boundary="zero")
        else:
            raise _Refused(f"average pool with kernel {kernel}, stride {stride}, padding {padding}")
        self.on_grid(op.out, pooled)

    def avg_pool1d(self, op: Op) -> None:
        view = self.rows_view(op.inputs[0])
        k = op.attrs["kernel"]
        if op.attrs["stride"] != k or view.base.type.shape[1] % k:
            raise _Refused("a one-dimensional average pool whose windows overlap or do not divide the channels")
        self.define(op.out, self.emit("channel_pool", [view.base], group=k))

    def mean(self, op: Op) -> None:
        view, axes = self.view(op.inputs[0]), op.attrs["axes"]
        rows, channels = view.base.type.shape
        kept = [i for i in range(view.index.ndim) if i not in axes]
        summed = int(np.prod([view.index.shape[i] for i in axes]))
        if summed != rows or not _is(view.index.transpose(*axes, *kept).reshape(rows, -1), _order((rows, channels))):
            raise _Refused("a mean that is not over all tokens")
        self.define(op.out, self.emit("mean_rows", [view.base]))

    # -- driver ---------------------------------------------------------------------------------------------------------

    def run(self) -> Graph:
        (image,) = self.source.inputs
        _, c, h, w = image.type.shape
        base = self.graph.add_input(image.name, type(image.type)("f32", (c * h, w)))
        self.image[image] = base
        for op in self.source.ops:
            if op.kind == "const":
                continue
            self.module, self.name = op.module, op.out.name
            handler: Callable[[Op], None] | None = getattr(self, op.kind, None) if op.kind in HANDLED else None
            try:
                if handler is None:
                    raise _Refused("no compiled form for this op at this place")
                handler(op)
            except _Follows:
                self.followers += 1
            except _Refused as reason:
                self.refused.append((op, str(reason)))
        if self.refused:
            raise UserError(
                f"{len(self.refused) + self.followers} operation(s) of the model cannot be compiled", why=self._table(), fix=ADVICE
            )
        outputs = []
        for value in self.source.outputs:
            view = self.view(value)
            if not _is(view.index.reshape(-1), _order((view.base.type.size,))):
                raise UserError("the model's output is not in the order of its last layer", where=str(value.type))
            outputs.append(view.base)
        self.graph.set_outputs(outputs)
        self.graph.drop_dead()
        return self.graph

    def _table(self) -> str:
        """What earlier passes recognised but declined, every op that was refused here, and how many only because an operand was."""
        lines = [f"{declined.site}: {declined.why}" for declined in self.report.declined]
        lines += [f"{op.module or 'top level'} ({op.kind}): {why}" for op, why in self.refused]
        lines += [f"and {self.followers} operation(s) that depend on them"] if self.followers else []
        return "\n    ".join(["nothing was written, because of", *dict.fromkeys(lines)])


ADVICE: Final = "binary layers need a sign in front and weights of one magnitude a row; the README lists what is compiled"
HANDLED: Final = frozenset(
    ("permute", "reshape", "expand", "slice", "concat", "upsample", "mul", "add", "prelu", "binarise", "linear", "conv2d")
    + ("binary_linear", "binary_conv2d", "binary_attention", "avg_pool2d", "avg_pool1d", "mean")
)


def run(graph: Graph, report: Report) -> Graph:
    """The graph over rows x channels. Raises UserError listing every op that has no compiled form."""
    report.fused["layout ops removed"] += len(graph.of_kind("permute", "reshape", "expand", "slice", "concat", "upsample"))
    return _Layout(graph, report).run()


PASS = Pass("layout", "rows x channels everywhere; permutes, views, tiles and upsampling become addressing", REASSOCIATES, run)
