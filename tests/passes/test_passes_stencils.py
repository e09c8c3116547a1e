"""stencils: branches of one tensor merge, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from minimodel import Builder, Config, chain, evaluate, image
from rewriting import why

from bvtdeploy.ir import Graph, Value
from bvtdeploy.ir.verify import verify
from bvtdeploy.passes import fold, layout, stencils
from bvtdeploy.passes.base import Report

SHAPE = (2, 6)


def pool(b: Builder, t: Value, kernel: tuple[int, int], side: int = 4) -> Value:
    grid = b.grid(t, side)
    padding = (kernel[0] // 2, kernel[1] // 2)
    return b.tokens(b.op("avg_pool2d", grid, kernel=kernel, stride=(1, 1), padding=padding, count_include_pad=True))


def affine(b: Builder, t: Value) -> Value:
    return b.op("add", b.op("mul", t, b.shift(t.type.shape[2])), b.shift(t.type.shape[2]))


def total(b: Builder, *values: Value) -> Value:
    out = values[0]
    for v in values[1:]:
        out = b.op("add", out, v)
    return out


def run(body: Callable[[Builder, Value], Value]) -> tuple[Graph, Report]:
    """The graph after the pass; the results before and after agree to rounding."""
    report = Report()
    x = image(Config(channels=2, image=4))
    source = chain(SHAPE, body)
    want = evaluate(source, x)[0].reshape(-1)
    graph = stencils.run(layout.run(fold.run(source, report), report), report)
    verify(graph)
    np.testing.assert_allclose(evaluate(graph, x)[0].reshape(-1), want, rtol=1e-5, atol=1e-5)
    return graph, report


CROSS = ((3, 1), (1, 3), (5, 1), (1, 5))


@pytest.mark.parametrize("kernels", [CROSS, CROSS[:2], CROSS[2:], CROSS[::3]])
def test_branches_become_one_stencil(kernels: tuple[tuple[int, int], ...]) -> None:
    graph, report = run(lambda b, t: total(b, t, *(affine(b, pool(b, t, k)) for k in kernels)))
    (op,) = graph.of_kind("stencil")
    offsets = {(d, 0) for k in kernels for d in range(-(k[0] // 2), k[0] // 2 + 1)} | {
        (0, d) for k in kernels for d in range(-(k[1] // 2), k[1] // 2 + 1)
    }
    assert op.attrs["offsets"] == tuple(sorted(offsets)) and report.fused["pooling branches -> stencil"] == len(kernels)


def test_branches_first_or_in_the_middle_and_a_tiled_summand() -> None:
    """The first summand gives the sum its shape; a tiled one behind it has fewer columns."""

    def body(b: Builder, t: Value) -> Value:
        wide = b.op("linear", t, b.shift(12, 6))
        tiled = b.op("concat", t, t, axis=2)
        return total(b, pool(b, wide, (3, 1)), tiled, pool(b, wide, (1, 3)), wide)

    graph, _ = run(body)
    assert len(graph.of_kind("stencil")) == 1


def rolled(b: Builder, t: Value, *moves: tuple[int, int]) -> Value:
    """Channel pairs of the 4x4 grid, each rolled by its own offset."""
    grid = b.op("reshape", t, shape=(1, 4, 4, 6))
    parts = [b.op("slice", grid, axis=3, start=2 * i, stop=2 * i + 2, step=1) for i in range(3)]
    parts = [b.op("roll", p, shifts=m, axes=(1, 2)) for p, m in zip(parts, moves, strict=True)]
    return b.op("reshape", b.op("concat", *parts, axis=3), shape=(1, 16, 6))


def test_circular_shifts_and_the_identity_become_one_stencil() -> None:
    """Rolled channels are a stencil around the torus; an affine, the unmoved part and the source itself join it."""
    graph, _ = run(lambda b, t: b.op("add", t, affine(b, rolled(b, t, (1, 0), (0, -1), (0, 0)))))
    (op,) = graph.of_kind("stencil")
    assert op.attrs["boundary"] == "circular" and op.attrs["offsets"] == ((-1, 0), (0, 0), (0, 1))
    taps = np.asarray(op.inputs[1].data)
    assert (taps[0, 2:] == 0).all() and (taps[2, [0, 1, 4, 5]] == 0).all() and (taps[1, :4] == 1).all()
    assert graph.count() == {"patches": 1, "dense": 1, "stencil": 1}


def test_two_shifts_of_one_tensor_are_one_stencil() -> None:
    graph, _ = run(lambda b, t: total(b, rolled(b, t, (1, 0), (0, 1), (2, 2)), rolled(b, t, (-1, 0), (0, -1), (0, 0)), t))
    assert len(graph.of_kind("stencil")) == 1 and "gather" not in graph.count()


def test_different_tensors_do_not_merge() -> None:
    def body(b: Builder, t: Value) -> Value:
        u = affine(b, t)
        return total(b, pool(b, t, (3, 1)), pool(b, u, (1, 3)), pool(b, t, (1, 3)), pool(b, u, (3, 1)))

    graph, _ = run(body)
    assert len(graph.of_kind("stencil")) == 2


def test_a_branch_with_another_reader_is_not_absorbed() -> None:
    """FINN's fork bug: the pooled value is read by the sum and by a product."""

    def body(b: Builder, t: Value) -> Value:
        shared = pool(b, t, (3, 1))
        product = b.op("linear", shared, b.shift(6, 6))
        return total(b, shared, pool(b, t, (1, 3)), affine(b, shared), product, pool(b, t, (5, 1)))

    graph, _ = run(body)
    assert len(graph.of_kind("stencil")) == 2  # the shared one, and the two others


def test_a_branch_whose_readers_are_all_stencils_steps_goes() -> None:
    """Read by the sum and by a second affine: each reader has the taps of its own, and all of them are one stencil."""

    def body(b: Builder, t: Value) -> Value:
        shared = pool(b, t, (3, 1))
        return total(b, shared, pool(b, t, (1, 3)), affine(b, shared), pool(b, t, (5, 1)))

    graph, _ = run(body)
    assert len(graph.of_kind("stencil")) == 1


def test_the_same_branch_twice() -> None:
    def body(b: Builder, t: Value) -> Value:
        p = pool(b, t, (3, 1))
        return total(b, p, p, pool(b, t, (1, 3)))

    run(body)


def test_a_window_larger_than_the_grid() -> None:
    """5 and 9 rows on a grid of 4: taps that never hit are left out, the divisor still counts them."""
    graph, _ = run(lambda b, t: total(b, t, affine(b, pool(b, t, (9, 1))), affine(b, pool(b, t, (1, 9)))))
    assert len(graph.of_kind("stencil")[0].attrs["offsets"]) == 13


def test_too_many_taps_are_declined() -> None:
    graph, report = run(lambda b, t: total(b, t, pool(b, t, (3, 5)), pool(b, t, (5, 3))))
    assert len(graph.of_kind("stencil")) == 2 and why(report) == ["its 2 branches need more than 16 taps"]


def test_the_constant_of_an_affine_is_added_at_the_border_too() -> None:
    graph, _ = run(lambda b, t: affine(b, pool(b, t, (3, 1))))
    assert graph.count() == {"dense": 1, "patches": 1, "stencil": 1} and len(graph.of_kind("stencil")[0].inputs) == 3
