"""layout: any chain of views gives the same result as the source, or is refused; never something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimodel import CONV, Builder, Config, chain, evaluate, image

from bvtdeploy.errors import UserError
from bvtdeploy.ir import Graph, Value, bits
from bvtdeploy.ir.verify import verify
from bvtdeploy.passes import binarise, layout
from bvtdeploy.passes.base import Report

X = image(Config(channels=2, image=4))
SHAPE = (2, 6)
LAYOUT_OPS = {"permute", "reshape", "expand", "concat", "slice", "upsample"}
Body = Callable[[Builder, Value], Value]


def laid_out(body: Body, *passes: Any) -> tuple[Graph, np.ndarray, np.ndarray]:
    """(compiled graph, result before, result after)."""
    report = Report()
    source = chain(SHAPE, body)
    before = evaluate(source, X)[0]
    for p in passes:
        source = p(source, report)
    graph = layout.run(source, report)
    verify(graph)
    assert not LAYOUT_OPS & set(graph.count())
    return graph, before.reshape(-1), evaluate(graph, X)[0].reshape(-1)


def close(body: Body, *passes: Any) -> Graph:
    graph, before, after = laid_out(body, *passes)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    return graph


def refused(body: Body, *passes: Any) -> str:
    with pytest.raises(UserError) as caught:
        laid_out(body, *passes)
    return str(caught.value)


# -- accepted ---------------------------------------------------------------------------------------------------------


def test_everything_per_channel_in_any_axis_order() -> None:
    def body(b: Builder, t: Value) -> Value:
        grid = b.grid(t, 4)
        grid = b.op("mul", grid, b.shift(1, 6, 1, 1))
        grid = b.op("prelu", grid, b.shift(6), axis=1)
        grid = b.op("add", grid, b.shift(6, 1, 1))
        return b.op("prelu", b.op("add", b.tokens(grid), b.shift(1, 16, 6)), b.shift(1), axis=2)

    assert close(body).count() == {"dense": 1, "epilogue": 5, "patches": 1}


def test_sums_through_tiling_and_upsampling() -> None:
    def body(b: Builder, t: Value) -> Value:
        wide = b.op("linear", t, b.shift(12, 6), b.shift(12))
        pooled = b.op("avg_pool2d", b.grid(t, 4), kernel=(2, 2), stride=(2, 2), padding=(0, 0), count_include_pad=True)
        large = b.tokens(b.op("upsample", pooled, factor=2))
        both = b.op("add", b.op("concat", t, t, axis=2), wide)
        return b.op("add", both, b.op("concat", large, large, axis=2))

    graph = close(body)
    assert {(op.attrs["factors"], op.attrs["width"]) for op in graph.of_kind("epilogue")} == {((1,), 0), ((2,), 4)}


def test_upsampling_written_with_expand_and_reshape() -> None:
    """repeat_interleave, as a user would spell it: [c, h, w] -> [c, h, 1, w, 1] -> expand -> [c, 2h, 2w]."""

    def body(b: Builder, t: Value) -> Value:
        pooled = b.op("avg_pool2d", b.grid(t, 4), kernel=(2, 2), stride=(2, 2), padding=(0, 0), count_include_pad=True)
        z = b.op("expand", b.op("reshape", pooled, shape=(1, 6, 2, 1, 2, 1)), shape=(1, 6, 2, 2, 2, 2))
        return b.op("add", b.tokens(b.op("reshape", z, shape=(1, 6, 4, 4))), t)

    assert (2,) in {op.attrs["factors"] for op in close(body).of_kind("epilogue")}


def test_a_sum_that_is_a_permutation_of_channels_is_not_a_tiling() -> None:
    def body(b: Builder, t: Value) -> Value:
        parts = [b.op("slice", t, axis=2, start=i, stop=i + 3, step=1) for i in (3, 0)]
        return b.op("add", t, b.op("concat", *parts, axis=2))

    assert "layouts differ" in refused(body)


def test_slices_put_together_again_are_the_tensor() -> None:
    def body(b: Builder, t: Value) -> Value:
        parts = [b.op("slice", t, axis=2, start=i, stop=i + 3, step=1) for i in (0, 3)]
        return b.op("add", t, b.op("concat", *parts, axis=2))

    close(body)


@pytest.mark.parametrize("axes", [(2, 3), (3, 2)])
def test_mean_over_the_grid(axes: tuple[int, int]) -> None:
    close(lambda b, t: b.op("mean", b.grid(t, 4), axes=axes, keepdim=False))


def test_means_of_parts_of_the_tokens() -> None:
    graph = close(lambda b, t: b.op("mean", b.op("reshape", t, shape=(1, 4, 4, 6)), axes=(2,), keepdim=False))
    (op,) = graph.of_kind("mean_rows")
    assert op.attrs["groups"] == 4 and "gather" not in graph.count()
    columns = close(lambda b, t: b.op("mean", b.op("reshape", t, shape=(1, 4, 4, 6)), axes=(1,), keepdim=True))
    assert columns.of_kind("mean_rows")[0].attrs["groups"] == 4 and columns.count()["gather"] == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (lambda b, t: b.op("mul", t, t), "multiply"),
        (lambda b, t: b.op("mul", t, b.shift(1, 16, 6)), "multiply"),
        (lambda b, t: b.op("mul", t, b.shift(1, 16, 1)), "multiply"),
        (lambda b, t: b.op("sign", t), "activation"),
        (lambda b, t: b.op("gelu", t), "activation"),
        (lambda b, t: b.op("clamp", t, min=0.0, max=None), "activation"),
        (lambda b, t: b.op("add", b.op("concat", t, t, axis=2), b.shift(12)), "gather"),
        (lambda b, t: b.op("linear", b.op("slice", t, axis=1, start=0, stop=1, step=1), b.shift(4, 6)), "gather"),
        (lambda b, t: b.op("slice", t, axis=1, start=0, stop=4, step=1), "gather"),
        (lambda b, t: b.op("take", t, axis=1, indices=(3, 3, 0)), "gather"),
        (lambda b, t: b.op("linear", b.op("roll", t, shifts=(3,), axes=(1,)), b.shift(4, 6)), "gather"),
        (lambda b, t: b.tokens(pool(b, t, 3, 2)), "avg_pool"),
        (lambda b, t: b.tokens(pool(b, t, 5, 1)), "avg_pool"),
        (lambda b, t: b.tokens(b.op("max_pool2d", b.grid(t, 4), kernel=(3, 3), stride=(2, 2), padding=(1, 1))), "max_pool"),
        (lambda b, t: b.op("reshape", b.op("layer_norm", b.op("reshape", t, shape=(1, 16, 2, 3)), b.shift(3), b.shift(3), eps=1e-5),
                           shape=(1, 16, 6)), "layer_norm_rows"),
    ],
)  # fmt: skip
def test_one_op(body: Body, kind: str) -> None:
    """One compiled op does it (an order of rows that only the output needs is one more gather)."""
    counts = close(body).count()
    assert counts.get(kind) == 1, counts


@pytest.mark.parametrize("keep", [True, False])
def test_mean_over_tokens(keep: bool) -> None:
    close(lambda b, t: b.op("mean", t, axes=(1,), keepdim=keep))


def test_signs_of_both_packings_and_their_index() -> None:
    report = Report()
    source = chain(SHAPE, lambda b, t: b.op("linear", b.op("sign", t), b.binary_weight(3, 6)))
    name = source.of_kind("sign")[0].out.name
    graph = layout.run(binarise.run(source, report), report)
    verify(graph)
    index = report.sign_index[f"{name}.bits"]
    assert index.shape == (1, 16, 6) and np.array_equal(index.reshape(-1), np.arange(96))


def mean(b: Builder, t: Value) -> Value:
    return b.op("mean", t, axes=(1,), keepdim=False)


def pool(b: Builder, t: Value, k: int, stride: int) -> Value:
    padding = (k // 2, k // 2)
    return b.op("avg_pool2d", b.grid(t, 4), kernel=(k, k), stride=(stride, stride), padding=padding, count_include_pad=True)


def windows(b: Builder, t: Value) -> Value:
    """Tokens of the 4x4 grid in the order of its 2x2 windows."""
    n = t.type.shape[2]
    parts = b.op("permute", b.op("reshape", t, shape=(1, 2, 2, 2, 2, n)), perm=(0, 1, 3, 2, 4, 5))
    return b.op("reshape", parts, shape=(1, 16, n))


def test_a_class_token_in_front_of_the_patches() -> None:
    """One gather from two sources; what is read of it at the end is one row."""

    def body(b: Builder, t: Value) -> Value:
        both = b.op("concat", b.shift(1, 1, 6), t, axis=1)
        both = b.op("add", both, b.shift(1, 17, 6))
        return b.op("linear", b.op("slice", both, axis=1, start=0, stop=1, step=1), b.shift(4, 6))

    first, second = close(body).of_kind("gather")
    assert len(first.inputs) == 3 and first.out.type.shape == (17, 6) and second.out.type.shape == (1, 6)


def test_row_wise_ops_do_not_care_for_the_order_of_rows() -> None:
    """Windows and back: nothing moves. A sum of two orders reads one of them through a row table."""
    assert "gather" not in close(lambda b, t: windows(b, b.op("linear", windows(b, t), b.shift(4, 6)))).count()

    def body(b: Builder, t: Value) -> Value:
        return windows(b, b.op("add", t, b.op("linear", windows(b, t), b.shift(6, 6))))

    graph = close(body)
    (step,) = graph.of_kind("epilogue")
    assert step.attrs["factors"] == (0,) and "rows" in step.attrs["roles"]


def test_a_part_of_the_columns_is_made_by_a_part_of_the_weights() -> None:
    def body(b: Builder, t: Value) -> Value:
        wide = b.op("add", b.op("linear", t, b.shift(12, 6), b.shift(12)), b.shift(12))
        q, k = (b.op("slice", wide, axis=2, start=i, stop=i + 6, step=1) for i in (0, 6))
        return b.op("add", b.op("linear", q, b.shift(4, 6)), b.op("linear", k, b.shift(4, 6)))

    graph = close(body)
    assert sorted(op.out.type.shape[1] for op in graph.of_kind("dense")) == [4, 4, 6, 6, 6]
    assert "gather" not in graph.count()


def test_patch_merging_is_one_gather_of_four_rows() -> None:
    def body(b: Builder, t: Value) -> Value:
        grid = b.op("reshape", t, shape=(1, 4, 4, 6))
        rows = [b.op("slice", grid, axis=1, start=i, stop=4, step=2) for i in (0, 1)]
        parts = [b.op("slice", rows[i], axis=2, start=j, stop=4, step=2) for j in (0, 1) for i in (0, 1)]
        merged = b.op("reshape", b.op("concat", *parts, axis=3), shape=(1, 4, 24))
        return b.op("linear", merged, b.shift(5, 24))

    (op,) = close(body).of_kind("gather")
    assert op.inputs[1].data is not None
    assert op.inputs[1].data.tolist() == [[0, 4, 1, 5], [2, 6, 3, 7], [8, 12, 9, 13], [10, 14, 11, 15]]


@pytest.mark.parametrize(("padding", "dilation", "groups"), [(1, 1, 1), (0, 1, 2), (1, 1, 2), (2, 2, 3), (1, 2, 1)])
def test_binary_convolutions_with_padding_dilation_and_groups(padding: int, dilation: int, groups: int) -> None:
    def body(b: Builder, t: Value) -> Value:
        attrs = {"padding": (padding,) * 2, "dilation": (dilation,) * 2, "groups": groups, "stride": (1, 1)}
        return b.tokens(b.op("conv2d", b.op("sign", b.grid(t, 4)), b.binary_weight(6, 6 // groups, 3 - (dilation == 2),
                                                                                  3 - (dilation == 2)), **attrs))  # fmt: skip

    graph = close(body, binarise.run)
    (patches,), (product,) = graph.of_kind("row_patches"), graph.of_kind("bgemm")
    assert patches.out.type.alphabet == ("{-1,0,+1}" if padding else "{-1,+1}")
    assert product.attrs.get("groups", 1) == patches.attrs.get("groups", 1) == groups


@pytest.mark.parametrize(("padding", "dilation"), [(0, 1), (1, 1), (2, 2), (0, 3)])
def test_float_convolutions_of_tokens_with_padding_and_dilation(padding: int, dilation: int) -> None:
    def body(b: Builder, t: Value) -> Value:
        attrs = CONV | {"padding": (padding,) * 2, "dilation": (dilation,) * 2}
        return b.tokens(b.op("conv2d", b.grid(t, 4), b.shift(5, 6, 2, 2), **attrs, stride=(1, 1)))

    (rows,) = close(body).of_kind("row_patches")
    assert rows.out.type.shape == ((4 + 2 * padding - dilation) ** 2, 24)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_heads_that_are_put_side_by_side(count: int) -> None:
    """Different tensors of equally many channels, as when every head is computed by itself."""
    graph = close(lambda b, t: b.op("concat", *(b.op("gelu", b.op("add", t, b.shift(6))) for _ in range(count)), axis=2))
    assert graph.count()["gather"] == (1 if count <= 4 else 3)


def test_a_part_of_the_channels_that_is_replaced() -> None:
    def body(b: Builder, t: Value) -> Value:
        low, high = (b.op("slice", t, axis=2, start=i, stop=i + 3, step=1) for i in (0, 3))
        return b.op("concat", b.op("gelu", low), high, axis=2)

    close(body)


@pytest.mark.parametrize("zero", [-1, 1])
def test_a_sign_as_a_number_keeps_its_zero(zero: int) -> None:
    graph = close(lambda b, t: b.op("sign", b.op("clamp", t, min=0.0, max=None), zero=zero))
    assert graph.count()["activation"] == 3


# -- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda b, t: b.op("mul", t, b.op("reshape", b.swap(t), shape=(1, 16, 6))), "in different layouts"),
        (lambda b, t: b.op("mul", t, b.shift(2, 1, 1)), "and a larger"),
        (lambda b, t: b.op("add", t, b.shift(2, 1, 1)), "larger constant"),
        (lambda b, t: b.op("prelu", t, b.shift(16), axis=1), "slope differs between rows"),
        (lambda b, t: b.op("softmax", t, axis=-1), "no compiled form"),
        (lambda b, t: b.op("add", t, b.op("reshape", b.swap(t), shape=(1, 16, 6))), "layouts differ"),
        (lambda b, t: b.op("add", b.op("take", t, axis=2, indices=(0, 0, 2)), b.shift(3)), "repeated or partial view"),
        (lambda b, t: b.op("concat", t, b.op("avg_pool1d", t, kernel=2, stride=2), axis=2), "different numbers"),
        (lambda b, t: b.op("mean", t, axes=(2,), keepdim=False), "not over whole rows"),
        (lambda b, t: b.op("mean", b.op("reshape", t, shape=(1, 32, 3)), axes=(1,), keepdim=False), "not over whole rows"),
        (lambda b, t: b.op("linear", b.swap(t), b.shift(4, 16)), "not rows x channels"),
        (lambda b, t: b.op("linear", b.op("reshape", t, shape=(1, 32, 3)), b.shift(4, 3)), "not rows x channels"),
        (lambda b, t: b.op("linear", t, b.shift(6, 6), b.op("reshape", mean(b, t), shape=(6,))), "bias"),
        (lambda b, t: b.op("avg_pool1d", t, kernel=2, stride=1), "windows overlap"),
        (lambda b, t: b.op("avg_pool1d", b.op("reshape", t, shape=(1, 32, 3)), kernel=2, stride=2), "not rows x channels"),
        (lambda b, t: b.op("avg_pool1d", t, kernel=4, stride=4), "do not divide"),
        (lambda b, t: b.op("conv2d", b.grid(t, 4), b.shift(5, 6, 2, 2), **CONV | {"padding": (1, 0)}, stride=(2, 2)), "float conv"),
        (lambda b, t: b.op("conv2d", b.grid(t, 4), b.shift(5, 6, 2, 1), **CONV, stride=(2, 2)), "must be square"),
        (lambda b, t: b.op("conv2d", b.grid(t, 4), b.shift(6, 3, 2, 2), **CONV | {"groups": 2}, stride=(2, 2)), "no groups"),
        (lambda b, t: b.op("avg_pool2d", b.op("reshape", t, shape=(1, 6, 4, 4)), kernel=(2, 2), stride=(2, 2), padding=(0, 0),
                           count_include_pad=True), "not rows x channels"),
        (lambda b, t: b.op("avg_pool2d", b.grid(t, 4), kernel=(2, 1), stride=(2, 1), padding=(0, 0), count_include_pad=True),
         "average pool with"),
        (lambda b, t: b.op("max_pool2d", b.grid(t, 4), kernel=(2, 1), stride=(2, 1), padding=(0, 0)), "they must be square"),
        (lambda b, t: b.swap(t), "not in the order"),
    ],
)  # fmt: skip
def test_refused(body: Body, why: str) -> None:
    assert why in refused(body)


def test_every_refusal_is_listed_with_its_module() -> None:
    def body(b: Builder, t: Value) -> Value:
        b.module = "block.first"
        t = b.op("prelu", t, b.shift(16), axis=1)
        b.module = "block.second"
        return b.op("add", b.op("mul", t, t), b.op("softmax", t, axis=-1))

    with pytest.raises(UserError, match=r"4 operation\(s\)") as caught:
        laid_out(body)
    assert [(p.what, p.module) for p in caught.value.problems] == [("prelu", "block.first"), ("softmax", "block.second")]


# -- random views -----------------------------------------------------------------------------------------------------


def random_view(b: Builder, t: Value, draw: Callable[[Any], Any]) -> Value:
    """One random layout op that fits."""
    shape = t.type.shape
    if not shape:
        return t
    kind = draw(st.sampled_from(["permute", "permute", "reshape", "reshape", "slice", "concat", "expand"]))
    if kind == "permute":
        return b.op("permute", t, perm=tuple(draw(st.permutations(range(len(shape))))))
    if kind == "reshape":
        i = draw(st.integers(0, len(shape) - 1))
        divisors = [d for d in range(1, shape[i] + 1) if shape[i] % d == 0]
        if len(shape) > 2 and draw(st.booleans()):
            merged = (*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :]) if i + 1 < len(shape) else shape
            return b.op("reshape", t, shape=merged)
        d = draw(st.sampled_from(divisors))
        return b.op("reshape", t, shape=(*shape[:i], d, shape[i] // d, *shape[i + 1 :])) if len(shape) < 5 else t
    axis = draw(st.integers(0, len(shape) - 1))
    if kind == "slice":
        start = draw(st.integers(0, shape[axis] - 1))
        stop = draw(st.integers(start + 1, shape[axis]))
        return b.op("slice", t, axis=axis, start=start, stop=stop, step=draw(st.integers(1, 2)))
    if kind == "concat":
        return b.op("concat", t, t, axis=axis) if t.type.size < 2000 else t
    ones = [i for i, n in enumerate(shape) if n == 1]
    if not ones:
        return t
    i = draw(st.sampled_from(ones))
    return b.op("expand", t, shape=(*shape[:i], 2, *shape[i + 1 :])) if t.type.size < 2000 else t


@settings(max_examples=150)
@given(st.data())
def test_random_chains_of_views_are_right_or_refused(data: st.DataObject) -> None:
    """Views, then an op that needs a certain order, then views and a sum: the same numbers, or a refusal."""

    def body(b: Builder, t: Value) -> Value:
        base = t
        for _ in range(data.draw(st.integers(0, 5))):
            t = random_view(b, t, data.draw)
        user = data.draw(st.sampled_from(["none", "linear", "sign", "add", "self", "prelu", "mean", "pool1d", "affine"]))
        n = t.type.shape[-1]
        if user == "linear":
            t = b.op("linear", t, b.shift(4, n))
        elif user == "sign":
            t = b.op(
                "mul",
                b.op("binary_linear", b.op("binarise", t), b.g.constant(np.ones((3, n), np.int8), type=bits(3, n))),
                b.shift(3),
            )
        elif user == "add":
            t = b.op("add", t, b.shift(*t.type.shape))
        elif user == "self" and t.type.size == base.type.size:
            t = b.op("add", b.op("reshape", t, shape=base.type.shape), base)
        elif user == "prelu":
            axis = data.draw(st.integers(0, len(t.type.shape) - 1))
            t = b.op("prelu", t, b.shift(t.type.shape[axis]), axis=axis)
        elif user == "mean":
            axes = data.draw(st.sets(st.integers(0, len(t.type.shape) - 1), min_size=1))
            t = b.op("mean", t, axes=tuple(sorted(axes)), keepdim=data.draw(st.booleans()))
        elif user == "pool1d":
            t = b.op("avg_pool1d", t, kernel=min(2, n), stride=min(2, n))
        elif user == "affine":
            t = b.op("add", b.op("mul", t, b.shift(n)), b.shift(n))
        for _ in range(data.draw(st.integers(0, 2))):
            t = random_view(b, t, data.draw)
        return t

    try:
        _, before, after = laid_out(body)
    except UserError:
        return
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@settings(max_examples=60)
@given(st.permutations(range(4)), st.permutations(range(4)), st.integers(0, 3))
def test_there_and_back_is_never_refused(first: list[int], second: list[int], op: int) -> None:
    """A chain of permutes whose product is the identity costs nothing, whatever stands between."""

    def body(b: Builder, t: Value) -> Value:
        grid = b.op("permute", b.op("permute", b.grid(t, 4), perm=tuple(first)), perm=tuple(second))
        axis = [first[s] for s in second].index(1)
        shape = tuple(6 if i == axis else 1 for i in range(4))
        grid = (
            grid,
            b.op("mul", grid, b.shift(*shape)),
            b.op("add", grid, b.shift(*grid.type.shape)),
            b.op("prelu", grid, b.shift(6), axis=axis),
        )[op]
        perm = [first[s] for s in second]
        return b.tokens(b.op("permute", grid, perm=tuple(perm.index(i) for i in range(4))))

    close(body)
