"""The whole pipeline on models of the family: each pass keeps its promise, and the compiled graph has the shape it should have."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimodel import Config, codes, compiled, image, mini

from bvtdeploy.ir import Graph
from bvtdeploy.ir.verify import InvalidGraph
from bvtdeploy.passes import pipeline
from bvtdeploy.passes.base import BITWISE, REASSOCIATES, Pass, Report

# Relative to the largest logit, where no code flips: a few dozen fp32 roundings of 2^-24.
BOUND = 2e-6


def states(config: Config, seed: int = 7) -> list[tuple[str, np.ndarray, dict[str, np.ndarray]]]:
    """(pass, logits, codes) for the source and after every pass. Dyadic operands of signs are often 0: there the source says +1."""
    report, x = Report(), image(config, seed)
    source = mini(config)
    for op in source.of_kind("sign"):
        op.attrs["zero"] = 1
    found: list[tuple[str, np.ndarray, dict[str, np.ndarray]]] = []

    def observe(number: int, name: str, graph: Graph) -> None:
        found.append((name, *codes(graph, x, report)))

    pipeline.run(source, report, observe)
    return found


configs = st.builds(
    Config,
    seed=st.integers(0, 999),
    channels=st.sampled_from([1, 3]),
    image=st.sampled_from([8, 16]),
    dim=st.sampled_from([8, 12, 16]),
    heads=st.sampled_from([1, 2, 4]),
    reduction=st.sampled_from([1, 2]),
    ratio=st.sampled_from([2, 4]),
    layer_scale=st.booleans(),
    pools=st.just(()),
    exact=st.just(True),
)


@settings(max_examples=25)
@given(configs)
def test_without_rounding_every_pass_gives_the_same_bits(config: Config) -> None:
    """All parameters dyadic: whatever a pass reassociates must not show in a single bit (BITWISE and REASSOCIATES alike)."""
    (_, logits, signs), *after = states(config)
    for name, y, c in after:
        assert c.keys() <= signs.keys() and all(np.array_equal(c[k], signs[k]) for k in c), name
        assert y.tobytes() == logits.tobytes(), name


@settings(max_examples=12)
@given(
    configs,
    st.sets(st.sampled_from([3, 5])),
    st.booleans(),
    st.sampled_from([1, 2]),
    st.sampled_from([2, 4]),
)
def test_with_rounding_within_the_bound(config: Config, pools: set[int], downsample: bool, layers: int, patch: int) -> None:
    side = config.image // patch
    changed = {
        "exact": False,
        "pools": tuple(sorted(pools)),
        "layers": layers,
        "downsample": downsample and side % 4 == 0,
        "patch": patch,
    }
    (_, logits, signs), *after = states(Config(**{**vars(config), **changed}))
    scale = np.abs(logits).max()
    for name, y, c in after:
        assert c.keys() <= signs.keys()
        if all(np.array_equal(c[k], signs[k]) for k in c):
            assert np.abs(y - logits).max() <= BOUND * scale, name
        else:  # a code next to its threshold; from there on the networks differ. It must stay the exception (below).
            assert np.mean([np.mean(c[k] != signs[k]) for k in c]) < 0.1, name


def test_codes_hardly_ever_flip() -> None:
    flips = total = 0
    for seed in range(5):
        _, *_, (_, _, last) = found = states(Config(seed=seed, layers=2, downsample=seed % 3 == 0))
        flips += sum(int((last[k] != found[0][2][k]).sum()) for k in last)
        total += sum(v.size for v in last.values())
    assert flips <= 1e-3 * total


def test_what_is_promised() -> None:
    """Every pass that promises bits keeps it on random parameters too; the others say why not in their file."""
    bitwise = [p.name for p in pipeline.PIPELINE if p.promise == BITWISE]
    for config in (Config(), Config(seed=3, layers=2, reduction=1, downsample=True)):
        found = states(config)
        for (_, before, _), (name, after, _) in pairwise(found):
            # binarise: bitwise here, because the weights are exactly scale times +-1 and have no bias.
            # attention: bitwise unless a probability is within an ulp of clip/2.
            if name in (*bitwise, "binarise", "attention"):
                assert before.tobytes() == after.tobytes(), name
    assert all(p.promise in (BITWISE, REASSOCIATES) and p.why and "\n" not in p.why for p in pipeline.PIPELINE)


@pytest.mark.parametrize("pools", [(), (3,), (5,), (3, 5)])
@pytest.mark.parametrize("reduction", [1, 2])
def test_shape_of_the_compiled_graph(pools: tuple[int, ...], reduction: int) -> None:
    """Three layers (one after a binary downsampling): no layout op, one attention and at most one stencil a layer, six or seven
    binary products, and their elementwise work in one epilogue each; nothing that the runtime does not have."""
    config = Config(pools=pools, layers=2, downsample=True, reduction=reduction)
    graph, report = compiled(config)
    kinds = graph.count()
    assert kinds["attention"] == 3 and kinds.get("stencil", 0) == (3 if pools else 0)
    assert kinds["bgemm"] == 3 * (6 + (reduction > 1)) + 1 and kinds["row_patches"] == 1
    assert kinds["avg_pool"] == 3 * (reduction > 1) + 1
    assert sum("pool" in op.attrs for op in graph.of_kind("epilogue")) == 3
    assert kinds["dense"] == 2 and kinds["patches"] == kinds["mean_rows"] == 1
    assert set(kinds) <= {
        "attention",
        "stencil",
        "bgemm",
        "row_patches",
        "avg_pool",
        "dense",
        "patches",
        "mean_rows",
        "epilogue",
    }
    products = kinds["bgemm"] + kinds["attention"] + kinds["dense"] - 1
    # per layer: the norms that also feed a shortcut stand alone (before and after attention), and the pooled sign
    assert kinds["epilogue"] <= products + 2 * 3 + 2 + 3 * (reduction > 1) + 1
    assert not report.declined and report.binary_layers == kinds["bgemm"] and report.float_layers == 2
    assert report.fused["attention"] == 3 and report.fused["pooling branches -> stencil"] == 3 * 2 * len(pools)
    assert all(op.module for op in graph.ops if op.kind != "const"), "every op can be traced to the source"


def test_compiling_twice_gives_the_same_text() -> None:
    from bvtdeploy.ir.text import print_graph

    assert print_graph(compiled(Config(layers=2))[0]) == print_graph(compiled(Config(layers=2))[0])


def test_a_pass_that_breaks_the_graph_is_named() -> None:
    def run(graph: Graph, report: Report) -> Graph:
        graph.ops.reverse()
        return graph

    with pytest.raises(InvalidGraph, match="after pass wrecker"):
        pipeline.run(mini(), Report(), passes=(Pass("wrecker", "reverses", BITWISE, run),))


def test_timings_and_observations() -> None:
    seen: list[tuple[int, str]] = []
    graph, timings = pipeline.run(mini(), Report(), lambda n, name, g: seen.append((n, name)))
    assert seen == [(0, "source"), *((i, p.name) for i, p in enumerate(pipeline.PIPELINE, 1))]
    assert [t.name for t in timings] == [p.name for p in pipeline.PIPELINE]
    assert timings[-1].nodes == sum(op.kind != "const" for op in graph.ops) and all(t.seconds >= 0 for t in timings)
