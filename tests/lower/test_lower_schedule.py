"""Groups, storages and blocks on random models of the family: what the runtime takes for granted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minimodel import Config, compiled, mini

from bvtdeploy.artifact.spec import NONE
from bvtdeploy.ir import Graph, Op, Value
from bvtdeploy.lower.lowered import Lowered, lower
from bvtdeploy.lower.memory import align
from bvtdeploy.lower.pack import unpack_lanes16
from bvtdeploy.lower.schedule import schedule, whole_inputs
from bvtdeploy.ops.epilogue import ROLES

configs = st.builds(
    Config,
    image=st.sampled_from([8, 16, 32]),
    dim=st.sampled_from([8, 20, 32]),
    heads=st.sampled_from([1, 2, 4]),
    reduction=st.sampled_from([1, 2]),
    ratio=st.sampled_from([2, 4]),
    layers=st.sampled_from([1, 2]),
    pools=st.sampled_from([(), (3,), (3, 5)]),
    layer_scale=st.booleans(),
)
CASES = [
    Config(),
    Config(image=32, dim=24, downsample=True),
    Config(image=8, reduction=1, ratio=2, pools=()),
    Config(image=96, dim=8),
]


def values_of(graph: Graph, low: Lowered) -> dict[Value, int]:
    """Record index of every value that an op produces, by the order of ops and outputs."""
    index: dict[Value, int] = {}
    for op, record in zip(low.sources, low.ops, strict=True):
        real = [i for i in record.outputs if i != NONE]
        index |= dict(zip(op.outputs, real, strict=True))
    return index


def check(config: Config) -> None:
    graph, _ = compiled(config)
    groups = schedule(graph)
    order = [op for g in groups for op in g.ops]
    assert sorted(map(id, order)) == sorted(id(op) for op in graph.ops if op.kind != "const"), "every op once"
    at = {op: i for i, op in enumerate(order)}
    group_of = {op: i for i, g in enumerate(groups) for op in g.ops}
    for op in order:
        for value in op.inputs:
            if value.producer is not None and value.producer in at:
                assert at[value.producer] < at[op], "defined before use"
        for value in whole_inputs(op):
            assert value.producer is None or group_of[value.producer] < group_of[op], "read at other rows: from an earlier group"
    assert all(v.type.shape[0] == g.rows for g in groups for op in g.ops for v in op.outputs)

    low = lower(graph)
    assert low.sources == order
    assert [g.first_op for g in low.groups] == list(np.cumsum([0, *(g.n_ops for g in low.groups)]))[:-1]
    assert sum(g.n_ops for g in low.groups) == len(low.ops)
    index = values_of(graph, low)
    for value, i in index.items():
        record = low.values[i]
        assert value.producer is not None
        users = {group_of[u] for u in value.users}
        if record.storage == "TILE":
            assert users == {group_of[value.producer]} and not any(value in whole_inputs(u) for u in value.users)
        if value.type.packed == 0:
            assert (record.storage, record.layout) == ("ARENA", "COLS")
        if value in graph.outputs:
            assert record.storage == "OUTPUT"
    for group, record in zip(groups, low.groups, strict=True):
        assert 0 < record.block <= record.rows and (record.block % 8 == 0 or record.block == record.rows)
        check_tiles(group.ops, index, low, record.block)
    check_arena(index, low, group_of)


def check_tiles(ops: tuple[Op, ...], index: dict[Value, int], low: Lowered, block: int) -> None:
    """Values of a block that live at the same time do not overlap, and lie in front of the scratch."""
    step = {op: i for i, op in enumerate(ops)}
    scratch = max(align(op.scratch) for op in low.ops)
    live = []
    for op in ops:
        for v in op.outputs:
            record = low.values[index[v]]
            if record.storage == "TILE":
                assert record.bytes == record.stride * block and record.offset % 64 == 0
                assert record.offset + record.bytes <= low.tile_bytes - scratch
                live.append((step[op], max((step[u] for u in v.users), default=step[op]), record))
    disjoint(live)


def check_arena(index: dict[Value, int], low: Lowered, group_of: dict[Op, int]) -> None:
    """What lives together does not overlap, but for a result in the very place of an operand whose row is done with."""
    at = {op: i for i, op in enumerate(low.sources)}
    live = []
    for v, i in index.items():
        record = low.values[i]
        if record.storage == "ARENA" and v.producer is not None:
            assert record.offset + record.bytes <= low.arena_bytes
            first, last = group_of[v.producer], max((group_of[u] for u in v.users), default=group_of[v.producer])
            live.append((first, last, record, v))
    for first, last, a, v in live:
        for f, t, b, w in live:
            if v is w or last < f or t < first or a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset:
                continue
            old, new = (v, w) if first < f else (w, v)
            group = group_of[new.producer]  # type: ignore[index]
            readers = [u for u in old.users if group_of[u] == group]
            assert a.offset == b.offset and old.type == new.type and max(group_of[u] for u in old.users) == group
            assert all(old not in whole_inputs(u) for u in readers)
            assert all(at[u] < at[new.producer] or (u is new.producer and u.kind == "epilogue") for u in readers)  # type: ignore[index]


def disjoint(live: list[tuple[int, int, object]]) -> None:
    for i, (first, last, a) in enumerate(live):
        for f, t, b in live[:i]:
            if first <= t and f <= last:
                assert a.offset + a.bytes <= b.offset or b.offset + b.bytes <= a.offset  # type: ignore[attr-defined]


@settings(max_examples=15)
@given(configs)
def test_random_models(config: Config) -> None:
    check(config)


@pytest.mark.parametrize("config", CASES, ids=["plain", "two stages", "few tokens", "many tokens"])
def test_models(config: Config) -> None:
    check(config)


def test_a_sum_is_written_where_its_residual_was() -> None:
    graph, _ = compiled(Config(layers=2))
    low = lower(graph)
    index, group_of = values_of(graph, low), {op: i for i, g in enumerate(schedule(graph)) for op in g.ops}
    places = [
        (low.values[index[old]].offset, low.values[index[new]].offset)
        for new in index
        for old in (new.producer.inputs if new.producer is not None and new.producer.kind == "epilogue" else [])
        if old in index and old.type == new.type and {low.values[index[v]].storage for v in (old, new)} == {"ARENA"}
        and max(group_of[u] for u in old.users) == group_of[new.producer]  # type: ignore[index]
    ]  # fmt: skip
    assert any(a == b for a, b in places), places


def test_attention_runs_with_its_queries_and_projection() -> None:
    """The reason for scheduling backwards: the query product and the output projection are in the attention's group."""
    graph, _ = compiled(Config())
    (group,) = [g for g in schedule(graph) if any(op.kind == "attention" for op in g.ops)]
    kinds = [op.kind for op in group.ops]
    assert kinds.count("bgemm") == 2 and kinds.index("bgemm") < kinds.index("attention")


def test_constants_are_stored_once_and_aligned() -> None:
    graph, _ = compiled(Config(layers=2))
    low = lower(graph)
    constants = [v for v in low.values if v.storage == "CONST"]
    assert all(v.offset % 64 == 0 and v.offset + v.bytes <= len(low.constants) for v in constants)
    seen = {(v.dtype, v.rows, v.cols, low.constants[v.offset : v.offset + v.bytes]) for v in constants}
    assert len(seen) == len(constants), "equal constants share one record"
    op, record = next((o, r) for o, r in zip(low.sources, low.ops, strict=True) if o.kind == "bgemm")
    weight = low.values[record.inputs[1]]
    raw = np.frombuffer(low.constants[weight.offset : weight.offset + weight.bytes], np.uint8)
    assert weight.layout == "LANES16" and op.inputs[1].data is not None
    assert np.array_equal(unpack_lanes16(raw.reshape(-1, -(-weight.cols // 8), 16), weight.rows, weight.cols), op.inputs[1].data)


def test_records_say_what_the_ops_are() -> None:
    graph, _ = compiled(Config())
    low = lower(graph)
    stencil = next(r for r in low.ops if r.kind == "stencil")
    assert stencil.attr[:4] == [4, 4, len(stencil.attr) - 4, 0] and {254, 1, 255 << 8} < set(
        stencil.attr[4:]
    )  # dy = -2, dy = 1, dx = -1
    attention = next(r for r in low.ops if r.kind == "attention")
    assert attention.attr == [2, 1, 1, 0, 0] and attention.scratch == 64 + 64  # 4 keys: 8 bytes of counts, 8 bytes of mask
    assert [r.attr for r in low.ops if r.kind == "patches"] == [[1, 16, 16, 4, 4]]
    epilogue = next(r for r in low.ops if r.kind == "epilogue" and any(f == 2 for f in r.attr[1:]))
    assert epilogue.attr[0] == 4 and epilogue.attr[7:] == [0, 0] and len(epilogue.inputs) == len(ROLES)
    assert {v.storage for v in low.values} == {"CONST", "ARENA", "TILE", "INPUT", "OUTPUT"}
    assert [r.kind for r in low.ops] == [op.kind for op in low.sources]


def test_source_ops_cannot_be_lowered() -> None:
    with pytest.raises(ValueError, match="no compiled form: add, avg_pool1d"):
        lower(mini())
