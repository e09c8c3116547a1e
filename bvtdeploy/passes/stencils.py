"""stencils: parallel pooling branches over one tensor become one stencil.

    alpha * stencil(x; taps, shift) + move  =  stencil(x; alpha * taps, alpha * shift + move)
    stencil(x; S) + stencil(x; T)           =  stencil(x; S u T), taps of the same offset added, shifts added
    stencil(x; S) + x                       =  stencil(x; S u {centre: 1})
    stencil(a*x + b; taps, shift)           =  stencil(x; a*taps, shift + b * sum(taps))          b = 0 unless the grid is a torus

    So the four branches AFF(pool_h3), AFF(pool_w3), AFF(pool_h5), AFF(pool_w5) of a BinaryViT layer are one cross of nine taps.
    With zero padding the affine constant is added everywhere, also where a tap falls outside, which is what the sum of branches
    does: padding only affects taps. Parameters are combined in fp64 and narrowed to fp32 after each merge.

Legality: the branches are read only by sums and affine steps; same source, grid and boundary; at most 16 different offsets.
"""

from __future__ import annotations

import numpy as np

from bvtdeploy.ir.graph import Graph, Op, Value, single_use
from bvtdeploy.ops.stencil import MAX_TAPS
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, row


def _is_step(op: Op | None, *roles: str) -> bool:
    return op is not None and op.kind == "epilogue" and op.attrs["roles"] == ("x", *roles) and op.attrs["results"] == ("f32",)


def _data(value: Value) -> np.ndarray:
    assert value.data is not None
    return np.asarray(value.data, np.float64)


def _taps(op: Op) -> tuple[np.ndarray, np.ndarray]:
    taps = _data(op.inputs[1])
    return taps, _data(op.inputs[2]) if len(op.inputs) == 3 else np.zeros((1, taps.shape[1]))


def _replace(
    graph: Graph, op: Op, source: Op, x: Value, offsets: tuple[tuple[int, int], ...], taps: np.ndarray, shift: np.ndarray
) -> None:
    """`op` becomes a stencil of x that is like `source` but for its taps and shift."""
    inputs = [x, graph.constant(taps.astype(np.float32), before=op), graph.constant(row(shift), before=op)]
    attrs = {**source.attrs, "offsets": offsets}
    graph.supersede(op.out, graph.append("stencil", inputs, attrs, module=source.module, before=op))
    graph.remove(op)


def _absorb_affine(graph: Graph, op: Op) -> bool:
    """A scale or shift step whose operand is a stencil that nobody else reads."""
    source = op.inputs[0].producer
    if source is None or source.kind != "stencil" or not _yields(op.inputs[0], graph):
        return False
    taps, shift = _taps(source)
    if _is_step(op, "scale"):
        taps, shift = taps * _data(op.inputs[1]), shift * _data(op.inputs[1])
    elif _is_step(op, "shift"):
        shift = shift + _data(op.inputs[1])
    else:
        return False
    _replace(graph, op, source, source.inputs[0], source.attrs["offsets"], taps, shift)
    return True


def _yields(value: Value, graph: Graph) -> bool:
    """Every reader of a stencil is a step that a stencil absorbs: then each may have a stencil of its own, and this one goes."""
    steps = all(_is_step(op, "scale") or _is_step(op, "shift") or _is_step(op, "res0") for op in value.users)
    return steps and not any(v is value for v in graph.outputs)


def _absorb_input(graph: Graph, op: Op) -> bool:
    """A stencil of a scale or shift step."""
    step = op.inputs[0].producer
    if step is None or not (_is_step(step, "scale") or (_is_step(step, "shift") and op.attrs["boundary"] == "circular")):
        return False
    if step.inputs[0].type.elem != "f32" or any(user.kind != "stencil" for user in step.out.users) or step.out in graph.outputs:
        return False  # a value that others read too, such as the sum that this stencil is a part of
    taps, shift = _taps(op)
    c = _data(step.inputs[1])
    if _is_step(step, "scale"):
        taps = taps * c
    else:
        shift = shift + c * taps.sum(axis=0, keepdims=True)
    _replace(graph, op, op, step.inputs[0], op.attrs["offsets"], taps, shift)
    return True


def _absorb_sum(graph: Graph, op: Op) -> bool:
    """A plain sum of a stencil with its own source, or with another stencil of it."""
    if not _is_step(op, "res0") or op.attrs["factors"] != (1,) or op.inputs[0].type != op.inputs[1].type:
        return False
    for a, b in (op.inputs, op.inputs[::-1]):
        first, second = a.producer, b.producer
        if first is None or first.kind != "stencil" or not _yields(a, graph):
            continue
        taps, shift = _taps(first)
        table = dict(zip(first.attrs["offsets"], taps, strict=True))
        if b is first.inputs[0]:
            others, extra = {(0, 0): np.ones(taps.shape[1])}, np.zeros_like(shift)
        elif second is not None and _key(a) == _key(b) and _yields(b, graph):
            more, extra = _taps(second)
            others = dict(zip(second.attrs["offsets"], more, strict=True))
        else:
            continue
        for offset, weights in others.items():
            table[offset] = table.get(offset, np.zeros(taps.shape[1])) + weights
        if len(table) > MAX_TAPS:
            continue
        offsets = tuple(sorted(table))
        _replace(graph, op, first, first.inputs[0], offsets, np.stack([table[o] for o in offsets]), shift + extra)
        return True
    return False


def _leaves(graph: Graph, op: Op) -> list[Value]:
    """The summands of a chain of plain sums, first to last."""
    main, other = op.inputs
    above = main.producer
    nested = _is_step(above, "res0") and above is not None and above.attrs["factors"] == (1,) and single_use(main, graph)
    return [*(_leaves(graph, above) if nested and above is not None else [main]), other]


def _key(value: Value) -> tuple[object, ...] | None:
    op = value.producer
    if op is None or op.kind != "stencil":
        return None
    return op.inputs[0], op.attrs["height"], op.attrs["width"], op.attrs["boundary"]


def _merge(graph: Graph, stencils: list[Op], before: Op) -> Value | None:
    taps: dict[tuple[int, int], np.ndarray] = {}
    first = stencils[0]
    shift = np.zeros((1, first.out.type.shape[1]))
    for op in stencils:
        own, more = _taps(op)
        for offset, weights in zip(op.attrs["offsets"], own, strict=True):
            taps[offset] = taps.get(offset, np.zeros(weights.shape)) + weights
        shift = shift + more
    if len(taps) > MAX_TAPS:
        return None
    offsets = tuple(sorted(taps))
    weights = graph.constant(np.stack([taps[o] for o in offsets]).astype(np.float32), before=before)
    inputs = [first.inputs[0], weights, graph.constant(row(shift), before=before)]
    return graph.append("stencil", inputs, {**first.attrs, "offsets": offsets}, module=first.module, before=before)


def _merge_branches(graph: Graph, root: Op, report: Report) -> None:
    leaves = _leaves(graph, root)
    groups: dict[tuple[object, ...], list[Value]] = {}
    for leaf in leaves:
        key = _key(leaf)
        if key is not None and single_use(leaf, graph):
            groups.setdefault(key, []).append(leaf)
    changed = False
    for branches in groups.values():
        if len(branches) < 2:
            continue
        ops = [b.producer for b in branches if b.producer is not None]
        merged = _merge(graph, ops, root)
        if merged is None:
            report.decline(ops[0], f"its {len(ops)} branches need more than {MAX_TAPS} taps")
            continue
        # In the place of the first branch: the first summand gives the sum its shape, a later one may be tiled.
        leaves = [merged if leaf is branches[0] else leaf for leaf in leaves if leaf not in branches[1:]]
        report.fused["pooling branches -> stencil"] += len(branches)
        changed = True
    if not changed:
        return
    total = leaves[0]
    for leaf in leaves[1:]:
        attrs = {"roles": ("x", "res0"), "results": ("f32",), "factors": (1,), "width": 0, "packed": ()}
        total = graph.append("epilogue", [total, leaf], attrs, module=root.module, before=root)
    graph.supersede(root.out, total)


def run(graph: Graph, report: Report) -> Graph:
    """Absorbs affines into stencils, then merges the stencils of every sum."""
    changed = True
    while changed:
        changed = sum(op in graph.ops and _absorb_affine(graph, op) for op in graph.of_kind("epilogue")) > 0
        changed |= sum(_absorb_input(graph, op) for op in graph.of_kind("stencil")) > 0
        graph.drop_dead()
        sums = [op in graph.ops and _absorb_sum(graph, op) for op in graph.of_kind("epilogue")]
        report.fused["pooling branches -> stencil"] += sum(sums)
        changed |= any(sums)
        graph.drop_dead()
    for op in reversed(graph.of_kind("epilogue")):
        plain = _is_step(op, "res0") and op.attrs["factors"] == (1,)
        inner = len(op.out.uses) == 1 and _is_step(op.out.users[0], "res0") and op.out.uses[0][1] == 0
        if plain and op in graph.ops and (not inner or op.out.users[0].attrs["factors"] != (1,)):
            _merge_branches(graph, op, report)
    graph.drop_dead()
    return graph


PASS = Pass("stencils", "parallel pooling branches become one depthwise stencil", REASSOCIATES, run)
