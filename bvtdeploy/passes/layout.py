"""layout: the source graph, of any rank and axis order, becomes a graph over rows x channels without a single layout op.

Every source value is described as a *view*: a two-dimensional base value [rows, channels] of the new graph and an index array of
the source value's shape that says which element of the base stands at each position. Then

    permute, reshape, expand, slice, concat of views of one base, nearest upsampling    only change the index array;
    elementwise ops act on the base and keep the index, constants are carried to the base through it;
    products, pools and attention check that the index is the order they need and create a new base.

So whatever chain of permutes and views the author wrote, nothing moves at run time; the tiled shortcut and the upsampled keys are
views that the consuming `epilogue` reads through its channel and row maps. Rows in another order are no reason to move anything
either: row-wise ops work on the base as it lies, and a sum of tensors in different row orders reads one of them through a
row table.
Where whole rows must stand in one order (attention in windows, class tokens in front of patches, patch merging), a `gather` picks
them, of the packed codes where there is a choice. A part of the columns is made by the part of the weights that makes it. Any other
layout that would need a copy is refused with its site. Elementwise ops are written as single-step `epilogue` ops; later passes
merge them.

Promise: bitwise on integers and codes; float sums follow the compiled ops' defined order instead of the source references' fp64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from bvtdeploy.errors import Problem, UserError, gathered
from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import TERNARY, bits
from bvtdeploy.ops.epilogue import row_map
from bvtdeploy.ops.stencil import MAX_TAPS
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report
from bvtdeploy.passes.rows import Follows, Refused, View, Views, of_rows, order_of, rows_in
from bvtdeploy.passes.trace import trace


def _square(what: str, attrs: Mapping[str, Any], *names: str) -> list[int]:
    """The side of each of these (y, x) attributes of a window."""
    if any(attrs[name][0] != attrs[name][1] for name in names):
        said = ", ".join(f"{name} {tuple(attrs[name])}" for name in names)
        raise Refused(f"{what} with {said}: they must be square")
    return [int(attrs[name][0]) for name in names]


class _Layout(Views):
    """The translation of one graph."""

    def __init__(self, source: Graph, report: Report) -> None:
        super().__init__(source.name)
        self.source, self.report = source, report
        self.refused: list[tuple[Op, str]] = []
        self.followers = 0

    def step(self, x: Value, role: str, value: Value, *, factor: int = 1, width: int = 0, rows: Value | None = None) -> Value:
        """An epilogue with one step."""
        factors = (factor,) if role.startswith("res") else ()
        table, roles = ([rows], ("x", role, "rows")) if rows is not None else ([], ("x", role))
        return self.emit("epilogue", [x, value, *table], roles=roles, results=("f32",), factors=factors, width=width, packed=())

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
        axis = op.attrs["axis"]
        if all(v.base is views[0].base for v in views):
            self.define(op.out, views[0].base, np.concatenate([v.index for v in views], axis))
            return
        # Rows of different tensors, one after the other or side by side: stacked sources, of which a table picks the rows.
        for parts in (views, [self.whole(v) for v in op.inputs]):
            sources = list(dict.fromkeys(v.base for v in parts))
            width = sources[0].type.shape[1]
            if any(s.type.shape[1] != width or s.type.elem != "f32" for s in sources):
                continue
            start = dict(zip(sources, np.cumsum([0, *(s.type.size for s in sources)]), strict=False))
            index = np.concatenate([v.index + start[v.base] for v in parts], axis)
            for channels in (index.ndim - 1, 1):
                moved = np.moveaxis(index, channels, -1)
                at = rows_in(moved.reshape(-1, moved.shape[-1]), width)
                if at is not None:
                    base = self.side_by_side(sources, at)
                    self.define(op.out, base, np.ascontiguousarray(np.moveaxis(order_of(moved.shape), -1, channels)))
                    return
        raise Refused("concatenation along the channels of tensors that have different numbers of them")

    def roll(self, op: Op) -> None:
        view = self.view(op.inputs[0])
        self.define(op.out, view.base, np.roll(view.index, op.attrs["shifts"], op.attrs["axes"]))

    def take(self, op: Op) -> None:
        view = self.view(op.inputs[0])
        self.define(op.out, view.base, np.take(view.index, np.asarray(op.attrs["indices"], np.int64), op.attrs["axis"]))

    def upsample(self, op: Op) -> None:
        view, f = self.view(op.inputs[0]), op.attrs["factor"]
        self.define(op.out, view.base, view.index.repeat(f, 2).repeat(f, 3))

    def mul(self, op: Op) -> None:
        x, c = op.inputs
        if op.out.type.shape != x.type.shape:
            raise Refused(f"product of {x.type} and a larger {c.type}")
        view = self.whole(x)
        if c.data is None:
            other = self.whole(c) if c.type.shape == x.type.shape else None
            if other is None or other.base.type != view.base.type or not np.array_equal(view.index, other.index):
                raise Refused("product of two activations in different layouts")
            self.define(op.out, self.emit("multiply", [view.base, other.base]), view.index)
            return
        scale = self.parameter(c.data, x, view)
        if scale.type.shape[0] == 1:
            self.define(op.out, self.step(view.base, "scale", scale), view.index)
            return
        rows = np.asarray(scale.data)
        if bool((rows == rows[:, :1]).all()):
            scale = self.graph.constant(rows[:, :1].copy())
        self.define(op.out, self.emit("multiply", [view.base, scale]), view.index)

    def add(self, op: Op) -> None:
        x, y = op.inputs
        if x.type.shape != y.type.shape and y.data is None:
            raise Refused(f"sum of {x.type} and {y.type}")
        if y.data is not None:
            if op.out.type.shape != x.type.shape:
                raise Refused(f"sum of {x.type} and a larger constant {y.type}")
            view = self.whole(x)
            value = self.parameter(y.data, x, view)
            role = "shift" if value.type.shape[0] == 1 else "res0"
            self.define(op.out, self.step(view.base, role, value), view.index)
            return
        a, b = self._unrolled(x), self._unrolled(y)
        if a.base.type.shape == b.base.type.shape and np.array_equal(a.index, b.index):
            self.define(op.out, self.step(a.base, "res0", b.base), a.index)
            return
        if not a.whole and not b.whole:
            a = self.whole(x)
        # Of two that differ in their rows, the later one leads: its product is at hand while the earlier one lies in memory.
        born = [-1 if v.base.producer is None else self.graph.ops.index(v.base.producer) for v in (a, b)]
        later_first = ((a, b), (b, a)) if born[0] >= born[1] else ((b, a), (a, b))
        for main, other, tables in [(a, b, False), (b, a, False), *((m, o, True) for m, o in later_first)]:
            if main.whole:
                found = self._mapped(main, other, tables)
                if found is not None:
                    factor, width, rows = found
                    self.define(op.out, self.step(main.base, "res0", other.base, factor=factor, width=width, rows=rows), main.index)
                    return
        raise Refused("sum of two tensors whose layouts differ by more than their rows and channel tiling")

    def _unrolled(self, value: Value) -> View:
        """The view of an operand of a sum. A grid shifted around its edges, by an offset a channel, is shifted by a stencil."""
        view, shape = self.view(value), value.type.shape
        n, k = view.base.type.shape
        if view.base.type.elem != "f32" or view.index.size != n * k or not 3 <= len(shape) <= 4 or shape[0] != 1:
            return view
        side = round(n**0.5)
        grids: list[tuple[int, int, tuple[int, ...]]] = []  # height, width, where the result's axes are in [1, h, w, k]
        if len(shape) == 4 and shape[1] == k:
            grids.append((shape[2], shape[3], (0, 3, 1, 2)))
        if len(shape) == 4 and shape[3] == k:
            grids.append((shape[1], shape[2], (0, 1, 2, 3)))
        if len(shape) == 3 and shape[2] == k and side * side == n:
            grids.append((side, side, (0, 1, 2, 3)))
        for h, w, axes in grids:
            index = view.index.reshape([(1, h, w, k)[i] for i in axes]).transpose(np.argsort(axes))[0]
            y, x = index // k // w, index // k % w
            if not np.array_equal(index % k, np.broadcast_to(np.arange(k), index.shape)):
                continue
            dy = (y - np.arange(h)[:, None, None]) % h
            dx = (x - np.arange(w)[None, :, None]) % w
            if not (dy == dy[:1, :1]).all() or not (dx == dx[:1, :1]).all() or not (dy.any() or dx.any()):
                continue
            dy, dx = (np.where(2 * d > n, d - n, d)[0, 0] for d, n in ((dy, h), (dx, w)))
            moves = [(int(a), int(b)) for a, b in zip(dy, dx, strict=True)]
            offsets = tuple(sorted(set(moves)))
            if len(offsets) > MAX_TAPS:
                continue
            taps = np.array([[o == mine for mine in moves] for o in offsets], np.float32)
            inputs = [view.base, self.graph.constant(taps)]
            base = self.emit("stencil", inputs, height=h, width=w, offsets=offsets, boundary="circular")
            return View(base, np.ascontiguousarray(order_of((1, h, w, k)).transpose(axes)).reshape(shape))
        return view

    def _mapped(self, main: View, other: View, tables: bool) -> tuple[int, int, Value | None] | None:
        """(factor, width, row table) such that `other` reaches the base of `main` through the epilogue's row and channel maps."""
        n, c = main.base.type.shape
        rows, cols = other.base.type.shape
        flat = np.empty(n * c, np.int32)
        flat[main.index.reshape(-1)] = other.index.reshape(-1)
        source = flat.reshape(n, c)
        if c % cols or not np.array_equal(source % cols, np.broadcast_to(np.arange(c) % cols, (n, c))):
            return None
        at = source[:, 0] // cols
        if not (source // cols == at[:, None]).all():
            return None
        factor = round((n / rows) ** 0.5)
        if factor * factor * rows == n:
            if factor == 1 and np.array_equal(at, np.arange(n)):
                return 1, 0, None
            for width in range(factor, n // factor + 1, factor):
                if factor > 1 and n % (width * factor) == 0 and np.array_equal(at, row_map(n, factor, width)):
                    return factor, width, None
        return (0, 0, self.graph.constant(at.reshape(1, -1).astype(np.int32))) if tables else None

    def prelu(self, op: Op) -> None:
        x, slope = op.inputs
        if slope.data is None:
            raise Refused("the slope is not a constant")
        view = self.whole(x)
        shape = [1] * len(x.type.shape)
        if slope.type.size > 1:
            shape[op.attrs["axis"]] = -1
        value = self.parameter(slope.data.reshape(shape), x, view)
        if value.type.shape[0] != 1:
            raise Refused("the slope differs between rows")
        self.define(op.out, self.step(view.base, "slope", value), view.index)

    def layer_norm(self, op: Op) -> None:
        x, gamma, beta = op.inputs
        if gamma.data is None or beta.data is None:
            raise Refused("its parameters are not constants")
        n = x.type.shape[-1]
        view = self.whole(x)
        k = view.base.type.shape[1]
        flat = view.index.reshape(-1, n)
        if k % n or not np.array_equal(flat, flat[:, :1] + np.arange(n)) or (flat[:, 0] % n).any():
            base, order = self.rows(x)  # several rows side by side, say
            view = View(base, of_rows(order, n).reshape(x.type.shape))
            k = n
        parameters = [self.graph.constant(np.tile(p.data, k // n).reshape(1, -1)) for p in (gamma, beta) if p.data is not None]
        self.define(op.out, self.emit("layer_norm_rows", [view.base, *parameters], groups=k // n, eps=op.attrs["eps"]), view.index)

    def gelu(self, op: Op) -> None:
        view = self.whole(op.inputs[0])
        self.define(op.out, self.emit("activation", [view.base], kind="gelu"), view.index)

    def clamp(self, op: Op) -> None:
        view, (low, high) = self.whole(op.inputs[0]), (op.attrs["min"], op.attrs["max"])
        bounds = {"low": -np.inf if low is None else float(low), "high": np.inf if high is None else float(high)}
        self.define(op.out, self.emit("activation", [view.base], kind="clamp", **bounds), view.index)

    def sign(self, op: Op) -> None:
        """sign(x), as a number; where 0 becomes z = +-1 that is sign(sign(x) + z/2)."""
        view = self.whole(op.inputs[0])
        result = self.emit("activation", [view.base], kind="sign")
        if zero := op.attrs.get("zero"):
            shift = np.full((1, view.base.type.shape[1]), 0.5 * zero, np.float32)
            result = self.emit("activation", [self.step(result, "shift", self.graph.constant(shift))], kind="sign")
        self.define(op.out, result, view.index)

    def binarise(self, op: Op) -> None:
        view = self.whole(op.inputs[0])
        ternary = bool(op.attrs.get("ternary"))
        self.define(op.out, self.signs(view.base, 1, op.out.name, ternary), view.index)
        self.report.sign_index[op.out.name] = view.index

    def signs(self, base: Value, packed: int, name: str, ternary: bool = False) -> Value:
        """The sign of a base as codes, packed along the channels (1) or the rows (0)."""
        zero = np.zeros((1, base.type.shape[1]), np.float32)
        if ternary:
            zero = np.concatenate([zero, np.nextafter(zero, np.float32(1))])
        results = ("trits" if ternary else "bits",)
        attrs = {"roles": ("x", "threshold0"), "results": results, "factors": (), "width": 0, "packed": (packed,)}
        return self.graph.create("epilogue", [base, self.graph.constant(zero)], attrs, module=self.module, names=[name]).out

    def linear(self, op: Op) -> None:
        weight = op.inputs[1].data
        if weight is None:
            raise Refused("the weight is not a constant")
        base, order = self.rows(op.inputs[0])
        inputs = [base, self.graph.constant(np.ascontiguousarray(weight.T))]
        self.define_rows(op.out, self.emit("dense", [*inputs, *self.bias(op)]), order)

    def bias(self, op: Op) -> list[Value]:
        """The third operand of a product as one row, if there is one."""
        if len(op.inputs) < 3:
            return []
        data = op.inputs[2].data
        if data is None:
            raise Refused("the bias is not a constant")
        return [self.graph.constant(data.reshape(1, -1))]

    def conv2d(self, op: Op) -> None:
        weight, (_, c, h, w) = op.inputs[1].data, op.inputs[0].type.shape
        k, s = op.inputs[1].type.shape[2], op.attrs["stride"][0]
        square = op.inputs[1].type.shape[2:] == (k, k) and tuple(op.attrs["stride"]) == (s, s)
        around = {name: op.attrs[name][0] for name, plain in (("padding", 0), ("dilation", 1)) if set(op.attrs[name]) != {plain}}
        square &= all(set(op.attrs[name]) == {value} for name, value in around.items())
        if weight is None or not square or op.attrs["groups"] != 1:
            raise Refused("a float convolution must be square (kernel, stride, padding, dilation) and have no groups")
        if op.inputs[0] in self.image and not around:
            rows = self.emit("patches", [self.image[op.inputs[0]]], channels=c, height=h, width=w, kernel=k, stride=s)
            matrix = weight.reshape(weight.shape[0], -1)  # o, (c, ky, kx)
        else:
            if op.inputs[0] in self.image:  # pixels as rows, which may have zeros around them
                grid = self.emit("patches", [self.image[op.inputs[0]]], channels=c, height=h, width=w, kernel=1, stride=1)
            else:
                view, h, w = self.grid_view(op.inputs[0])
                grid = view.base
            rows = self.emit("row_patches", [grid], height=h, width=w, kernel=k, stride=s, **around)
            matrix = weight.transpose(0, 2, 3, 1).reshape(weight.shape[0], -1)  # o, (ky, kx, c)
        self.on_grid(op.out, self.emit("dense", [rows, self.graph.constant(np.ascontiguousarray(matrix.T)), *self.bias(op)]))

    def binary_linear(self, op: Op) -> None:
        self._one_bit(op, "bgemm")

    def mixed_linear(self, op: Op) -> None:
        self._one_bit(op, "mixed_gemm")

    def _one_bit(self, op: Op, kind: str) -> None:
        weight = op.inputs[1].data
        assert weight is not None
        base, order = self.rows(op.inputs[0])
        self.define_rows(op.out, self.emit(kind, [base, self.graph.constant(weight, type=bits(*weight.shape))]), order)

    def binary_conv2d(self, op: Op) -> None:
        view, h, w = self.grid_view(op.inputs[0])
        weight, groups = op.inputs[1].data, op.attrs.get("groups", 1)
        assert weight is not None
        window = {"kernel": weight.shape[2:], "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), **op.attrs}
        k, stride, padding, dilation = _square("binary convolution", window, "kernel", "stride", "padding", "dilation")
        matrix = np.ascontiguousarray(weight.transpose(0, 2, 3, 1)).reshape(weight.shape[0], -1)  # o, (ky, kx, c)
        attrs = {"height": h, "width": w, "kernel": k, "stride": stride}
        attrs |= {n: v for n, v, d in (("padding", padding, 0), ("dilation", dilation, 1), ("groups", groups, 1)) if v != d}
        rows = self.emit("row_patches", [view.base], **attrs)
        attrs = {"groups": groups} if groups > 1 else {}
        self.on_grid(op.out, self.emit("bgemm", [rows, self.graph.constant(matrix, type=bits(*matrix.shape))], **attrs))

    def binary_attention(self, op: Op) -> None:
        windows, heads, n, d = op.out.type.shape

        def heads_of(value: Value) -> tuple[Value, bool]:
            """(base in window-major order, is it the very base of the view) of [windows, heads, rows, d]."""
            view, rows = self.view(value), value.type.shape[2]
            index = np.ascontiguousarray(view.index.transpose(0, 2, 1, 3)).reshape(windows * rows, heads * d)
            base, order = self.rows_of(view.base, index)
            if np.array_equal(order, np.arange(len(order))):
                return base, base is view.base
            return self.gathered([base], order[:, None]), False

        (q, _), (k, _), (v, same) = (heads_of(value) for value in op.inputs[:3])
        if windows == 1:  # the context product reads V along the tokens
            name, ternary = f"{v.name}.cols", v.type.alphabet == TERNARY
            producer = v.producer
            assert producer is not None
            if producer.kind == "epilogue":
                real = producer.inputs[0]
            else:  # gathered codes: the rows of what they are the sign of
                sign = producer.inputs[0].producer
                if producer.kind != "gather" or sign is None or sign.kind != "epilogue" or len(producer.inputs) != 2:
                    raise Refused("its values come in an order that no table gives")
                real = self.gathered([sign.inputs[0]], np.asarray(producer.inputs[1].data))
            if same:
                self.report.sign_index[name] = self.report.sign_index[v.name]
            v = self.signs(real, 0, name, ternary)
        rest = [self.graph.constant(value.data, type=value.type) for value in op.inputs[3:] if value.data is not None]
        attrs = {**op.attrs, "heads": heads, **({"windows": windows} if windows > 1 else {})}
        if windows > 1 and "window_class" in attrs.get("roles", ()):
            at = attrs["roles"].index("window_class")
            classes = np.asarray(rest[at - 3].data)
            rest[at - 3] = self.graph.constant(np.tile(classes, windows // classes.size).astype(np.int32))
        out = self.emit("attention", [q, k, v, *rest], **attrs)
        self.define(op.out, out, np.ascontiguousarray(order_of((windows, n, heads, d)).transpose(0, 2, 1, 3)))

    def max_pool2d(self, op: Op) -> None:
        view, h, w = self.grid_view(op.inputs[0])
        kernel, stride, padding = _square("maximum pool", op.attrs, "kernel", "stride", "padding")
        attrs = {"height": h, "width": w, "kernel": kernel, "stride": stride, "padding": padding}
        self.on_grid(op.out, self.emit("max_pool", [view.base], **attrs))

    def avg_pool2d(self, op: Op) -> None:
        view, h, w = self.grid_view(op.inputs[0])
        kernel, stride, padding = (tuple(op.attrs[n]) for n in ("kernel", "stride", "padding"))
        if stride == (1, 1) and all(k == 2 * p + 1 for k, p in zip(kernel, padding, strict=True)) and kernel != (1, 1):
            # A tap that is outside of the grid everywhere adds nothing; the divisor counts it.
            reach = [range(-min(p, n - 1), min(p, n - 1) + 1) for p, n in zip(padding, (h, w), strict=True)]
            offsets = tuple((dy, dx) for dy in reach[0] for dx in reach[1])
            if len(offsets) <= MAX_TAPS:
                taps = np.full((len(offsets), view.base.type.shape[1]), 1.0 / (kernel[0] * kernel[1]), np.float32)
                inputs = [view.base, self.graph.constant(taps)]
                self.on_grid(op.out, self.emit("stencil", inputs, height=h, width=w, offsets=offsets, boundary="zero"))
                return
        k, s, p = _square("average pool", op.attrs, "kernel", "stride", "padding")
        attrs = {"height": h, "width": w, "kernel": k, "stride": s, **({"padding": p} if p else {})}
        self.on_grid(op.out, self.emit("avg_pool", [view.base], **attrs))

    def avg_pool1d(self, op: Op) -> None:
        base, order = self.rows(op.inputs[0])
        k = op.attrs["kernel"]
        if op.attrs["stride"] != k or base.type.shape[1] % k:
            raise Refused("a one-dimensional average pool whose windows overlap or do not divide the channels")
        self.define_rows(op.out, self.emit("channel_pool", [base], group=k), order)

    def mean(self, op: Op) -> None:
        view, axes = self.view(op.inputs[0]), op.attrs["axes"]
        kept = [i for i in range(view.index.ndim) if i not in axes]
        n = int(np.prod([view.index.shape[i] for i in axes]))
        for last in kept[::-1]:  # the axis of the channels
            order = [*(i for i in kept if i != last), *axes, last]
            flat = np.ascontiguousarray(view.index.transpose(order)).reshape(-1, view.index.shape[last])
            try:
                base, rows = self.rows_of(view.base, flat)
            except Refused:
                continue
            groups = len(flat) // n
            if groups > 1 and not np.array_equal(rows, np.arange(len(rows))):
                base = self.gathered([base], rows[:, None])
            pooled = self.emit("mean_rows", [base], **({"groups": groups} if groups > 1 else {}))
            shape = [view.index.shape[i] for i in kept if i != last]
            index = np.moveaxis(order_of((*shape, view.index.shape[last])), -1, kept.index(last))
            self.define(op.out, pooled, np.ascontiguousarray(index).reshape(op.out.type.shape))
            return
        raise Refused("a mean that is not over whole rows")

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
                    raise Refused("no compiled form for this op at this place")
                handler(op)
            except Follows:
                self.followers += 1
            except Refused as reason:
                self.refused.append((op, str(reason)))
        if self.refused:
            raise UserError(
                f"{len(self.refused) + self.followers} operation(s) of the model cannot be compiled",
                why=f"{self.followers} of them only because they depend on others" if self.followers else "",
                fix=f"nothing was written; {ADVICE}",
                problems=self._table(),
            )
        outputs = []
        for value in self.source.outputs:
            try:
                base, order = self.rows(value)
            except Refused as reason:
                raise UserError("the model's output is not in the order of its last layer", where=str(value.type)) from reason
            outputs.append(base if np.array_equal(order, np.arange(len(order))) else self.gathered([base], order[:, None]))
        self.graph.set_outputs(outputs)
        self.graph.drop_dead()
        if self.report.traced:
            self.report.trace = trace(self.source, self)
        return self.graph

    def _table(self) -> list[Problem]:
        """What earlier passes recognised but declined, which often is the cause, and every op that was refused here."""
        rows = [Problem(d.kind or d.site, d.module, d.line, d.why) for d in self.report.declined]
        return gathered(rows + [Problem(op.kind, op.module, self.report.line(op), why) for op, why in self.refused])


ADVICE: Final = "binary layers need a sign in front and weights of one magnitude a row; the README lists what is compiled"
HANDLED: Final = frozenset(
    ("permute", "reshape", "expand", "slice", "concat", "upsample", "mul", "add", "prelu", "binarise", "linear", "conv2d")
    + ("binary_linear", "mixed_linear", "binary_conv2d", "binary_attention", "avg_pool2d", "avg_pool1d", "max_pool2d", "mean")
    + ("layer_norm", "gelu", "clamp", "sign", "roll", "take")
)


def run(graph: Graph, report: Report) -> Graph:
    """The graph over rows x channels. Raises UserError listing every op that has no compiled form."""
    report.fused["layout ops removed"] += len(graph.of_kind("permute", "reshape", "expand", "slice", "concat", "upsample"))
    return _Layout(graph, report).run()


PASS = Pass("layout", "rows x channels everywhere; permutes, views, tiles and upsampling become addressing", REASSOCIATES, run)
