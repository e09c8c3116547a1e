"""Importers of layout ops: everything becomes permute, reshape, expand, slice, concat, roll, take or upsample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bvtdeploy.frontend.aten import Lowering, Result, UnsupportedError, broadcast, imports, number, select
from bvtdeploy.ir import Value


def reshape(low: Lowering, tensor: Any, shape: Sequence[int]) -> Value:
    """The tensor in another shape; nothing where it has it."""
    x = low.value(tensor)
    return x if x.type.shape == tuple(shape) else low.emit("reshape", x, shape=tuple(shape))


def permute(low: Lowering, tensor: Any, perm: Sequence[int]) -> Value:
    """The tensor with its axes in another order; nothing where it is the same."""
    x = low.value(tensor)
    perm = tuple(p % len(perm) for p in perm)
    return x if perm == tuple(range(len(perm))) else low.emit("permute", x, perm=perm)


def expand(low: Lowering, tensor: Any, shape: Sequence[int]) -> Value:
    """The tensor repeated along axes of size 1."""
    x = low.value(tensor)
    return x if x.type.shape == tuple(shape) else low.emit("expand", x, shape=tuple(shape))


def piece(low: Lowering, tensor: Any, axis: int, start: int, stop: int, step: int = 1) -> Value:
    """tensor[start:stop:step] along an axis; nothing where that is all of it. Bounds count from the front."""
    x = low.value(tensor)
    if (start, step) == (0, 1) and stop >= x.type.shape[axis]:
        return x
    return low.emit("slice", x, axis=axis, start=start, stop=max(start, stop), step=step)


def concat(low: Lowering, parts: Sequence[Any], axis: int) -> Value:
    """The parts side by side; empty ones are left out."""
    values = [low.value(p) for p in parts]
    parts = [v for v in values if v.type.size] or values[:1]
    return low.value(parts[0]) if len(parts) == 1 else low.emit("concat", *parts, axis=axis)


def interleave(low: Lowering, tensor: Any, factor: int, axis: int) -> Value:
    """Every entry along an axis `factor` times in a row."""
    x = low.value(tensor)
    s = x.type.shape
    if factor == 1:
        return x
    y = expand(low, reshape(low, x, (*s[: axis + 1], 1, *s[axis + 1 :])), (*s[: axis + 1], factor, *s[axis + 1 :]))
    return reshape(low, y, (*s[:axis], s[axis] * factor, *s[axis + 1 :]))


def take(low: Lowering, tensor: Any, axis: int, index: Sequence[int]) -> Value:
    """tensor[index] along an axis, for constant indices. Repetitions, rotations and ranges are what they are called."""
    x = low.value(tensor)
    n = x.type.shape[axis]
    index = [i % n for i in index]
    factor = len(index) // n
    if factor > 1 and index == [i for i in range(n) for _ in range(factor)]:
        return interleave(low, x, factor, axis)
    step = index[1] - index[0] if len(index) > 1 else 1
    if index and step > 0 and index == list(range(index[0], index[-1] + 1, step)):
        return piece(low, x, axis, index[0], index[-1] + 1, step)
    if len(index) == n and index == [(i + index[0]) % n for i in range(n)]:
        return roll(low, x, [-index[0]], [axis])
    return low.emit("take", x, axis=axis, indices=tuple(index))


def roll(low: Lowering, tensor: Any, shifts: Sequence[int], axes: Sequence[int]) -> Value:
    """The tensor rotated along axes, which may be repeated; nothing where every rotation is by 0."""
    x = low.value(tensor)
    total = dict.fromkeys((a % len(x.type.shape) for a in axes), 0)
    for shift, axis in zip(shifts, axes, strict=True):
        total[axis % len(x.type.shape)] += shift
    # the representative nearest to 0: -1 stays -1, and a rotation that was spelled with indices reads like one that was not
    kept = {a: (s + n // 2) % n - n // 2 for a, s in total.items() if (n := x.type.shape[a]) and s % n}
    return low.emit("roll", x, shifts=tuple(kept.values()), axes=tuple(kept)) if kept else x


def rank(low: Lowering, x: Any) -> int:
    """Number of axes."""
    return len(low.value(x).type.shape)


# -- shapes -------------------------------------------------------------------------------------------------------------------


@imports(
    "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int", "squeeze.default",
    "squeeze.dim", "squeeze.dims", "unsqueeze.default", "view_as.default", "reshape_as.default", "view_copy.default",
)  # fmt: skip
def _view(low: Lowering, x: Any, *_: Any, **__: Any) -> Result:
    return reshape(low, x, low.shape())


@imports("transpose.int", "swapaxes.default", "swapdims.default")
def _transpose(low: Lowering, x: Any, dim0: int, dim1: int) -> Result:
    perm = list(range(rank(low, x)))
    if perm:
        perm[dim0], perm[dim1] = perm[dim1], perm[dim0]
    return permute(low, x, perm)


@imports("t.default", "numpy_T.default", "mT.default", "adjoint.default", "matrix_H.default")
def _reverse(low: Lowering, x: Any) -> Result:
    assert low.node is not None
    n = rank(low, x)
    whole = "numpy_T" in str(low.node.target) or n < 2
    return permute(low, x, list(range(n))[::-1] if whole else [*range(n - 2), n - 1, n - 2])


@imports("permute.default")
def _permute(low: Lowering, x: Any, dims: Sequence[int]) -> Result:
    return permute(low, x, dims)


@imports("movedim.int", "movedim.intlist", "moveaxis.int", "moveaxis.intlist")
def _movedim(low: Lowering, x: Any, source: Any, destination: Any) -> Result:
    n = rank(low, x)
    pairs = zip(*((v,) if isinstance(v, int) else v for v in (source, destination)), strict=True)
    at = {d % n: s % n for s, d in pairs}
    rest = iter(i for i in range(n) if i not in at.values())
    return permute(low, x, [at[i] if i in at else next(rest) for i in range(n)])


@imports("expand.default", "expand_as.default", "broadcast_to.default")
def _expand(low: Lowering, x: Any, *_: Any, **__: Any) -> Result:
    return expand(low, x, low.shape())


@imports("repeat.default", "tile.default")
def _repeat(low: Lowering, x: Any, repeats: Sequence[int]) -> Result:
    x = low.value(x)
    n = max(len(repeats), len(x.type.shape))
    repeats = (1,) * (n - len(repeats)) + tuple(repeats)
    x = reshape(low, x, (1,) * (n - len(x.type.shape)) + x.type.shape)
    for axis, count in enumerate(repeats):
        x = concat(low, [x] * count, axis)
    return x


@imports("repeat_interleave.self_int")
def _repeat_interleave(low: Lowering, x: Any, repeats: int, dim: int | None = None, output_size: Any = None) -> Result:
    if dim is None:
        x, dim = reshape(low, x, (low.value(x).type.size,)), 0
    return interleave(low, x, repeats, dim % rank(low, x))


# -- pieces -------------------------------------------------------------------------------------------------------------------


@imports("slice.Tensor", "narrow.default")
def _slice(low: Lowering, x: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Result:
    assert low.node is not None
    x = low.value(x)
    axis = dim % len(x.type.shape)
    if "narrow" in str(low.node.target):
        assert start is not None and end is not None
        start = start % x.type.shape[axis]
        end = start + end
    first, last, _ = slice(start, end).indices(x.type.shape[axis])
    return piece(low, x, axis, first, last, step)


@imports("select.int")
def _select(low: Lowering, x: Any, dim: int, index: int) -> Result:
    x = low.value(x)
    axis = dim % len(x.type.shape)
    index %= x.type.shape[axis]
    return reshape(low, piece(low, x, axis, index, index + 1), low.shape())


@imports("split.Tensor", "split.sizes", "split_with_sizes.default", "chunk.default", "tensor_split.sections", "unbind.int",
         "unsafe_chunk.default", "unsafe_split.Tensor")  # fmt: skip
def _split(low: Lowering, x: Any, size: Any = 0, dim: int = 0) -> Result:
    assert low.node is not None
    x = low.value(x)
    unbind = "unbind" in str(low.node.target)
    axis = (size if unbind else dim) % len(x.type.shape)
    parts, start = [], 0
    for i in range(len(low.node.meta["val"])):
        shape = low.shape(i)
        stop = start + (1 if unbind else shape[axis])
        parts.append(reshape(low, piece(low, x, axis, start, stop), shape))
        start = stop
    return parts


@imports("cat.default", "concat.default", "concatenate.default")
def _cat(low: Lowering, tensors: Sequence[Any], dim: int = 0) -> Result:
    return concat(low, tensors, dim % len(low.shape()))


@imports("stack.default")
def _stack(low: Lowering, tensors: Sequence[Any], dim: int = 0) -> Result:
    shape = low.shape()
    axis = dim % len(shape)
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    return concat(low, [reshape(low, t, one) for t in tensors], axis)


def scatter(low: Lowering, tensor: Any, part: Any, axis: int, index: range) -> Value:
    """The tensor with `part` at these places of an axis, with a step of at least 1."""
    x_shape = low.shape()
    part_shape = (*x_shape[:axis], len(index), *x_shape[axis + 1 :])
    if isinstance(part, (Tensor, bool, int, float)):  # constants need no copy: a product with 0 and 1, and a sum
        whole, inside = torch.zeros(x_shape), torch.zeros(x_shape, dtype=torch.bool)
        where = (slice(None),) * axis + (slice(index.start, index.stop, index.step),)
        whole[where], inside[where] = torch.as_tensor(part, dtype=torch.float32).expand(part_shape), True
        return select(low, inside, whole, tensor)
    value = expand(low, part, part_shape)
    if len(index) == x_shape[axis]:
        return value
    if isinstance(tensor, Tensor):
        tensor = tensor.expand(x_shape).contiguous()

    def kept(first: int, last: int) -> Any:
        if isinstance(tensor, Tensor):
            return tensor.narrow(axis, first, last - first)
        return piece(low, tensor, axis, first, last)

    parts, end = [], 0
    runs = [(index.start, 0, len(index))] if index.step == 1 else [(at, i, i + 1) for i, at in enumerate(index)]
    for at, first, last in runs:
        parts += [kept(end, at)] if at > end else []
        parts.append(piece(low, value, axis, first, last))
        end = at + last - first
    return concat(low, [*parts, *([kept(end, x_shape[axis])] if end < x_shape[axis] else [])], axis)


@imports("slice_scatter.default")
def _slice_scatter(low: Lowering, x: Any, src: Any, dim: int = 0, start: int | None = None, end: int | None = None,
                   step: int = 1) -> Result:  # fmt: skip
    axis = dim % len(low.shape())
    index = range(*slice(start, end, step).indices(low.shape()[axis]))
    return scatter(low, x, src, axis, index) if index else x


@imports("select_scatter.default")
def _select_scatter(low: Lowering, x: Any, src: Any, dim: int, index: int) -> Result:
    shape = low.shape()
    axis = dim % len(shape)
    index %= shape[axis]
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    src = src.reshape(one) if isinstance(src, Tensor) else reshape(low, src, one)
    return scatter(low, x, src, axis, range(index, index + 1))


@imports("copy.default")
def _copy(low: Lowering, x: Any, src: Any, non_blocking: bool = False) -> Result:
    return src.expand(low.shape()) if isinstance(src, Tensor) else expand(low, src, low.shape())


@imports("fill.Scalar", "fill.Tensor")
def _fill(low: Lowering, x: Any, value: Any) -> Result:
    level = number(value)
    if level is None:
        raise UnsupportedError("a tensor filled with a computed number", "use constants")
    return torch.full(low.shape(), level)


@imports("roll.default")
def _roll(low: Lowering, x: Any, shifts: Any, dims: Any = ()) -> Result:
    x = low.value(x)
    shape = x.type.shape
    shifts, dims = ((v,) if isinstance(v, int) else tuple(v) for v in (shifts, dims))
    if not dims:
        x, dims = reshape(low, x, (x.type.size,)), (0,)
    return reshape(low, roll(low, x, shifts, dims), shape)


@imports("constant_pad_nd.default", "pad.default")
def _pad(low: Lowering, x: Any, pad: Sequence[int], mode: Any = 0.0, value: Any = None) -> Result:
    if isinstance(mode, str) and mode != "constant":
        raise UnsupportedError(f"padding of mode {mode}", "pad with zeros")
    fill = (0.0 if value is None else value) if isinstance(mode, str) else mode
    x = low.value(x)
    if min(pad) < 0:
        raise UnsupportedError("negative padding", "use a slice")
    for i in range(len(pad) // 2):
        shape, axis = x.type.shape, len(x.type.shape) - 1 - i
        parts: list[Any] = [x]
        for side, n in enumerate(pad[2 * i : 2 * i + 2]):
            if n:
                border = torch.full((*shape[:axis], n, *shape[axis + 1 :]), float(fill))
                parts.insert(0 if side == 0 else len(parts), border)
        x = concat(low, parts, axis)
    return x


# -- indices ------------------------------------------------------------------------------------------------------------------


@imports("index_select.default")
def _index_select(low: Lowering, x: Any, dim: int, index: Any) -> Result:
    if not isinstance(index, Tensor):
        raise UnsupportedError("an index that is computed from the input", "use constant indices")
    return take(low, x, dim % rank(low, x), index.reshape(-1).tolist())


@imports("index.Tensor", "_unsafe_index.Tensor")
def _index(low: Lowering, x: Any, indices: Sequence[Any]) -> Result:
    if any(i is not None and (not isinstance(i, Tensor) or i.dtype == torch.bool) for i in indices):
        raise UnsupportedError("an index that is computed from the input, or a mask", "use constant integer indices")
    x = low.value(x)
    used = [(axis, i) for axis, i in enumerate(indices) if i is not None]
    first, count = used[0][0], len(used)
    if [axis for axis, _ in used] != list(range(first, first + count)):
        raise UnsupportedError("indices of axes that are not side by side", "index one axis after the other")
    whole = broadcast(*(i.shape for _, i in used))
    # the grid form of a nearest upsample: index k varies along the k-th axis of the broadcast shape alone
    grid = len(whole) == len(used) and all(
        all(n == 1 or len(whole) - i.ndim + d == k for d, n in enumerate(i.shape)) for k, (_, i) in enumerate(used)
    )
    if grid:
        for axis, i in used:
            x = take(low, x, axis, i.reshape(-1).tolist())
        return reshape(low, x, low.shape())
    shape = x.type.shape  # one index of the axes as one
    sizes = shape[first : first + count]
    flat = np.ravel_multi_index([(i % n).expand(whole).numpy() for (_, i), n in zip(used, sizes, strict=True)], sizes)
    x = reshape(low, x, (*shape[:first], int(np.prod(sizes)), *shape[first + count :]))
    return reshape(low, take(low, x, first, flat.reshape(-1).tolist()), low.shape())


@imports("upsample_nearest2d.vec", "upsample_nearest2d.default", "_upsample_nearest_exact2d.vec", "upsample_nearest1d.vec",
         "_upsample_nearest_exact2d.default", "upsample_nearest1d.default")  # fmt: skip
def _upsample(low: Lowering, x: Any, *_: Any, **__: Any) -> Result:
    x = low.value(x)
    old, new = x.type.shape[2:], low.shape()[2:]
    if any(b % a for a, b in zip(old, new, strict=True)):
        raise UnsupportedError(f"nearest upsampling from {old} to {new}", "use an integer factor")
    factors = [b // a for a, b in zip(old, new, strict=True)]
    if len(factors) == 2 and factors[0] == factors[1]:
        return low.emit("upsample", x, factor=factors[0])
    for i, factor in enumerate(factors):
        x = interleave(low, x, factor, 2 + i)
    return x
