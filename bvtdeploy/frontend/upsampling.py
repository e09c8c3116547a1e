"""Nearest upsampling, however it was spelled, becomes the `upsample` op.

`repeat_interleave` twice, or unsqueeze, expand and reshape, arrive as chains of reshape, permute and expand. We run such a chain
on the indices of its source and compare with what an upsampling of the source, channels first or channels last, would do.
"""

from __future__ import annotations

import numpy as np

from bvtdeploy.ir import Graph, Op, Value, single_use
from bvtdeploy.ops import REGISTRY

_LAYOUT = ("reshape", "permute", "expand")
_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def recognise_upsampling(graph: Graph) -> int:
    """Rewrites every chain of layout ops that is a nearest upsampling of [B, C, H, W] or [B, H, W, C]; returns how many."""
    count = 0
    for op in graph.of_kind("expand"):
        if op in graph.ops and not any(v.data is not None for v in op.inputs):
            count += _rewrite(graph, op)
    graph.drop_dead()
    return count


def _rewrite(graph: Graph, expand: Op) -> bool:
    chain = [expand]
    while (before := chain[0].inputs[0].producer) is not None and before.kind in _LAYOUT:
        chain.insert(0, before)
    while single_use(chain[-1].out, graph) and chain[-1].out.users[0].kind in _LAYOUT:
        chain.append(chain[-1].out.users[0])
    at = chain.index(expand)
    for first in range(at, -1, -1):
        source = chain[first].inputs[0]
        if len(source.type.shape) != 4:
            continue
        index = np.arange(source.type.size).reshape(source.type.shape)
        moved = index
        for i, op in enumerate(chain[first:], first):
            (moved,) = REGISTRY[op.kind].reference(op.attrs, [moved])
            if i < at or moved.size == index.size or moved.ndim != 4:
                continue
            for last in (False, True):
                factor = _factor(index, moved, last)
                if factor:
                    graph.replace(op.out, _upsample(graph, source, factor, last, op))
                    return True
    return False


def _factor(index: np.ndarray[tuple[int, ...], np.dtype[np.int64]], moved: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
            last: bool) -> int:  # fmt: skip
    h, w = (1, 2) if last else (2, 3)
    factor = moved.shape[h] // index.shape[h]
    if factor < 2 or moved.shape[w] != factor * index.shape[w]:
        return 0
    return factor if np.array_equal(index.repeat(factor, h).repeat(factor, w), moved) else 0


def _upsample(graph: Graph, source: Value, factor: int, last: bool, at: Op) -> Value:
    if last:
        source = graph.append("permute", [source], {"perm": _TO_FIRST}, module=at.module, before=at)
    y = graph.append("upsample", [source], {"factor": factor}, module=at.module, before=at)
    return graph.append("permute", [y], {"perm": _TO_LAST}, module=at.module, before=at) if last else y
