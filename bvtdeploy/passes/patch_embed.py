"""patch_embed: the patch embedding becomes a product of int8 numbers with int32 sums (`dense_i8`).

The first float product of the image is the largest float layer of most binary transformers, and cores make several times as many
products of 8 bits. So, where the user asks for it,

    dense(x, weight[K x O], bias)  ->  dense_i8(x, codes[O x K], scale[1 x O], bias)

with codes and scales as in passes/side.py: scale[o] = max_k |w_ko| / 127, code = round(w / scale). The rows of x are quantised
while the model runs, each by its own largest magnitude (ops/dense_i8.py). Both round: a row's elements move by at most 1/254 of
that magnitude, a channel's weights by at most 1/254 of theirs. `verify` measures what this does to a model; results stay equal bit
for bit everywhere.

The patch embedding is every `dense` between which and the image no other product stands, whatever cuts the image into rows.
"""

from __future__ import annotations

import numpy as np

from bvtdeploy.ir.graph import Graph
from bvtdeploy.ir.types import Type
from bvtdeploy.ops.dense_i8 import MOST_COLUMNS
from bvtdeploy.ops.kinds import first_products
from bvtdeploy.passes.base import ROUNDS, Declined, Pass, Report
from bvtdeploy.passes.side import to_i8


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites the products of the image in a compiled graph; declines where there is none, or one that int8 cannot hold."""
    first = first_products(graph)
    layers = [op for op in graph.of_kind("dense") if op in first]
    if not layers:
        report.declined.append(Declined("patch embedding", "it stays as it is: no float product reads the image"))
    for op in layers:
        x, weight, *bias = op.inputs
        assert weight.data is not None
        found = to_i8(weight.data)
        if found is None or weight.type.shape[0] > MOST_COLUMNS:
            report.decline(op, "it stays fp32: " + (f"more than {MOST_COLUMNS} columns" if found else "a weight is not finite"))
            continue
        codes, scales = np.ascontiguousarray(found[1].T), found[2].reshape(1, -1)
        operands = [graph.constant(codes, before=op, type=Type("i8", codes.shape)), graph.constant(scales, before=op)]
        graph.supersede(op.out, graph.append("dense_i8", [x, *operands, *bias], module=op.module, before=op))
        report.fused["patch embedding -> int8"] += 1
    graph.drop_dead()
    return graph


PASS = Pass("patch_embed", "8-bit products are several times as fast as fp32", ROUNDS, run)
