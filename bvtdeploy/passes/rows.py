"""Views: which elements of a rows x channels value a value of the source graph consists of.

A view is a base value [rows, channels] of the new graph and an index array. What reads it needs whole rows of a base; this module
finds them, and makes them where they are not: a part of the columns is made by the part of the weights that makes it (`narrow`),
rows that are repeated, left out or in another order are copied by a table (`gathered`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Value
from bvtdeploy.ir.types import bits
from bvtdeploy.ops.gather import MOST_SOURCES

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


class Refused(Exception):
    """This op cannot be expressed over rows x channels; the text says why."""


class Follows(Refused):
    """It could not be looked at, because an operand was refused."""


def order_of(shape: tuple[int, ...]) -> Index:
    return np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)


def of_rows(rows: Index, width: int) -> Index:
    """The elements of whole rows of a base of so many columns: [N] or [N, P] row numbers -> [N, width] or [N, P * width]."""
    elements = rows[..., None] * width + np.arange(width, dtype=np.int32)
    return np.ascontiguousarray(elements, np.int32).reshape(len(rows), -1)


def rows_in(index: Index, width: int) -> Index | None:
    """The inverse of of_rows: which whole rows [N, P] stand side by side in index[N, P * width]; None where they are no rows."""
    rows = index[:, ::width] // width
    return rows if index.shape[1] % width == 0 and np.array_equal(index, of_rows(rows, width)) else None


class Views:
    """The graph that is being made, and the views of the source values so far."""

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self.views: dict[Value, View] = {}
        self.image: dict[Value, Value] = {}
        self.narrowed: dict[tuple[Value, int, int], Value | None] = {}
        self.gathers: dict[tuple[Any, ...], Value] = {}
        self.module, self.name = "", ""  # of the source op in hand

    def emit(self, kind: str, inputs: list[Value], /, **attrs: Any) -> Value:
        try:
            return self.graph.create(kind, inputs, attrs, module=self.module, names=[self.name]).out
        except ValueError as error:  # the shape rule of the compiled op says in a sentence what it cannot do
            raise Refused(str(error)) from error

    def view(self, value: Value) -> View:
        if value.data is not None:
            rows = value.data.astype(np.float32).reshape(-1, value.type.shape[-1] if value.type.shape else 1)
            return View(self.graph.constant(rows), order_of(value.type.shape))
        if value in self.image:
            raise Refused("the image itself is read by something else than a convolution")
        if value not in self.views:
            raise Follows("")
        return self.views[value]

    def rows(self, value: Value) -> tuple[Value, Index]:
        """(base, order) of a value whose last axis are the channels: row n of it is row order[n] of the base, every row of the base
        occurs once. Copies whole rows together where they are repeated, left out or put side by side."""
        view = self.view(value)
        return self.rows_of(view.base, view.index.reshape(-1, value.type.shape[-1]))

    def rows_of(self, base: Value, index: Index) -> tuple[Value, Index]:
        """The same of an index array [N, K] into a base."""
        n, k = base.type.shape
        if index.shape[1] < k and (cut := self.columns(base, index)) is not None:
            return self.rows_of(*cut)
        at = rows_in(index, k)
        if at is None:
            raise Refused("its operand is not rows x channels in memory")
        if at.shape == (n, 1) and np.array_equal(np.sort(at[:, 0]), np.arange(n)):
            return base, at[:, 0].astype(np.int32)
        return self.gathered([base], at), order_of((len(at),))

    def gathered(self, sources: list[Value], at: Index) -> Value:
        """Rows of the sources, stacked, by a table [N, P]."""
        table = self.graph.constant(np.ascontiguousarray(at, np.int32))
        key = (*sources, np.asarray(table.data).tobytes(), at.shape)
        if key not in self.gathers:
            self.gathers[key] = self.emit("gather", [*sources, table])
        return self.gathers[key]

    def side_by_side(self, sources: list[Value], at: Index) -> Value:
        """The same of any number of sources. Where there are more than a gather takes, each column of the table must be of one
        source, and they are joined in halves."""
        if len(sources) <= MOST_SOURCES:
            return self.gathered(sources, at)
        half = at.shape[1] // 2
        first = np.cumsum([0, *(s.type.shape[0] for s in sources)])
        parts = []
        for part in (at[:, :half], at[:, half:]):
            used = [i for i in range(len(sources)) if bool(((part >= first[i]) & (part < first[i + 1])).any())]
            if len(used) == len(sources) or at.shape[1] % 2:
                raise Refused(f"rows of more than {MOST_SOURCES} tensors stand side by side in a way that no table gives")
            moved = np.concatenate([np.arange(s.type.shape[0]) for s in sources])  # row of the stack -> row of its source
            within = np.cumsum([0, *(sources[i].type.shape[0] for i in used)])
            source = np.searchsorted(first, part, side="right") - 1
            place = np.array([used.index(i) if i in used else 0 for i in range(len(sources))])
            parts.append(self.side_by_side([sources[i] for i in used], (moved[part] + within[place[source]]).astype(np.int32)))
        rows = np.arange(len(at), dtype=np.int32)
        return self.gathered(parts, np.stack([rows, rows + len(at)], axis=1))

    def columns(self, base: Value, index: Index) -> tuple[Value, Index] | None:
        """An index that stays within some columns of a base, as an index into a base of the columns from the first to the last of
        them (heads may leave gaps). None where that is all columns, or they cannot be cut."""
        k = base.type.shape[1]
        low, high = int((index % k).min()), int((index % k).max()) + 1
        part = self.narrow(base, low, high - low) if (low, high) != (0, k) else None
        return None if part is None else (part, (index // k * (high - low) + index % k - low).astype(np.int32))

    def narrow(self, base: Value, first: int, width: int) -> Value | None:
        """Columns first .. first + width of a base: the chain that makes it, cut at the product's weights. None where it
        cannot be."""
        key = (base, first, width)
        if key not in self.narrowed:
            self.narrowed[key] = self._narrowed(base, first, width)
        return self.narrowed[key]

    def _narrowed(self, base: Value, first: int, width: int) -> Value | None:
        op, stop = base.producer, first + width
        if op is None or op.kind not in ("bgemm", "dense", "mixed_gemm", "epilogue", "const"):
            return None
        attrs, name = dict(op.attrs), [f"{base.name}.{first}"]
        inputs = list(op.inputs)
        if op.kind == "const":
            assert base.data is not None
            return self.graph.constant(base.data[:, first:stop])
        if op.kind in ("bgemm", "mixed_gemm"):
            weight = inputs[1].data
            if weight is None or attrs.get("groups", 1) != 1:
                return None
            inputs[1] = self.graph.constant(weight[first:stop], type=bits(width, weight.shape[1]))
        elif op.kind == "dense":
            weight = inputs[1].data
            assert weight is not None
            parts = [weight[:, first:stop], *(v.data[:, first:stop] for v in inputs[2:] if v.data is not None)]
            inputs[1:] = [self.graph.constant(np.ascontiguousarray(part)) for part in parts]
        else:
            if "rows" in attrs["roles"] or len(op.outputs) > 1:
                return None
            for i, value in enumerate(inputs):
                if value.type.shape[1] != base.type.shape[1]:
                    return None
                part = self.narrow(value, first, width)
                if part is None:
                    return None
                inputs[i] = part
        return self.graph.create(op.kind, inputs, attrs, module=op.module, names=name).out

    def whole(self, value: Value) -> View:
        """The view of a value, every element of whose base it holds once; cuts columns and copies rows together where it must."""
        view = self.view(value)
        if not view.whole and (cut := self.columns(view.base, view.index)) is not None:
            view = View(*cut)
        return view if view.whole else self._copied(view)

    def _copied(self, view: View) -> View:
        k = view.base.type.shape[1]
        for axis in [*range(view.index.ndim)[::-1]]:  # channels last, as a rule
            if view.index.shape[axis] % k == 0:
                moved = np.moveaxis(view.index, axis, -1)
                flat = moved.reshape(-1, view.index.shape[axis])
                try:
                    base, order = self.rows_of(view.base, flat)
                except Refused:
                    continue
                index = of_rows(order, base.type.shape[1]).reshape(moved.shape)
                return View(base, np.ascontiguousarray(np.moveaxis(index, -1, axis)))
        raise Refused("a repeated or partial view that is no choice of rows")

    def grid_view(self, value: Value) -> tuple[View, int, int]:
        """The view of a [1, C, H, W] value that must be the token grid; its H and W."""
        view = self.view(value)
        b, c, h, w = value.type.shape
        if b != 1:
            raise Refused(f"its operand {value.type} is no single grid")
        base, order = self.rows_of(view.base, np.ascontiguousarray(view.index[0].transpose(1, 2, 0)).reshape(h * w, c))
        if not np.array_equal(order, np.arange(h * w)):
            base = self.gathered([base], order[:, None])
        return View(base, order_of((h, w, c)).transpose(2, 0, 1)[None]), h, w

    def define_rows(self, value: Value, base: Value, order: Index) -> None:
        """Binds a value of channels last whose row n is row order[n] of the base."""
        self.views[value] = View(base, of_rows(order, base.type.shape[1]).reshape(value.type.shape))

    def define(self, value: Value, base: Value, index: Index | None = None) -> None:
        """Binds a source value: by default its elements in order are the base's elements in order."""
        self.views[value] = View(base, order_of(value.type.shape) if index is None else index)

    def on_grid(self, value: Value, base: Value) -> None:
        """Binds a [1, C, H, W] result whose base is rows x channels."""
        _, c, h, w = value.type.shape
        self.define(value, base, np.ascontiguousarray(order_of((h, w, c)).transpose(2, 0, 1))[None])

    def parameter(self, constant: npt.NDArray[Any], value: Value, view: View) -> Value:
        """A constant operand, carried to the base of `view`: one row [1, C] where all rows agree, else [rows, C]."""
        full = np.empty(view.base.type.size, np.float32)
        full[view.index.reshape(-1)] = np.broadcast_to(constant, value.type.shape).reshape(-1)
        full = full.reshape(view.base.type.shape)
        return self.graph.constant(full[:1].copy() if bool((full == full[:1]).all()) else full)
