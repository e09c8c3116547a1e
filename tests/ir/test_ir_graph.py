"""Graph surgery keeps use-lists true, and the verifier sees when something else does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from minimodel import mini

from bvtdeploy.ir import Graph, Value, f32, producers, single_use
from bvtdeploy.ir.interp import run
from bvtdeploy.ir.verify import InvalidGraph, verify


def diamond() -> tuple[Graph, Value, Value, Value, Value]:
    """x -> a = sign(x); b = a + a; y = b * c, and something dead."""
    g = Graph("d")
    x = g.add_input("x", f32(2, 3))
    a = g.append("sign", [x])
    b = g.append("add", [a, a])
    c = g.constant(np.full((1, 3), 2, np.float32), "c")
    y = g.append("mul", [b, c])
    g.append("neg", [y])
    g.set_outputs([y])
    verify(g)
    return g, x, a, b, y


def test_uses_and_users() -> None:
    g, _x, a, b, y = diamond()
    assert [i for _, i in a.uses] == [0, 1] and a.users == [b.producer]
    assert single_use(b, g) and not single_use(a, g)
    assert not single_use(y, g), "an output of the graph is read from outside"
    assert producers(y, ("mul",)) is y.producer and producers(y, ("add",)) is None


def test_replace_moves_every_use_and_the_outputs() -> None:
    g, x, a, _b, y = diamond()
    g.replace(a, x)
    assert a.uses == []
    g.replace(y, x)
    verify(g)
    assert g.outputs == [x]
    assert g.drop_dead() == 5 and g.ops == [] and x.uses == []
    verify(g)


def test_replace_by_itself_changes_nothing() -> None:
    g, _x, a, _b, _y = diamond()
    g.replace(a, a)
    verify(g)
    assert len(a.uses) == 2


def test_supersede_keeps_the_name() -> None:
    g, x, a, _b, _y = diamond()
    name = a.name
    new = g.append("neg", [x], before=a.producer)
    g.supersede(a, new)
    assert new.name == name and a.name != name
    verify(g)
    assert g.drop_dead() == 2  # the sign and the dead negation
    verify(g)


def test_set_input() -> None:
    g, x, a, b, _y = diamond()
    assert b.producer is not None
    g.set_input(b.producer, 1, x)
    verify(g)
    assert len(a.uses) == 1 and (b.producer, 1) in x.uses


def test_remove_in_use_is_a_bug() -> None:
    g, _x, _a, b, y = diamond()
    assert b.producer is not None and y.producer is not None
    with pytest.raises(AssertionError, match="still in use"):
        g.remove(b.producer)
    g.remove(g.ops[-1])
    with pytest.raises(AssertionError, match="still in use"):
        g.remove(y.producer)  # an output
    verify(g)


def test_drop_dead_keeps_what_outputs_need() -> None:
    g, *_ = diamond()
    assert g.drop_dead() == 1 and g.drop_dead() == 0
    assert g.count() == {"add": 1, "mul": 1, "sign": 1}


def test_names_are_unique_and_readable() -> None:
    g = Graph("n")
    names = [g.fresh_name(h) for h in ("a.b", "a.b", "a b/c", "", "", "v")]
    assert names[0] == "a.b" and names[2] == "a_b_c" and len(set(names)) == len(names)


def test_refusals_of_the_builder() -> None:
    g = Graph("r")
    x = g.add_input("x", f32(2, 3))
    with pytest.raises(ValueError, match="unknown op kind"):
        g.append("sine", [x])
    with pytest.raises(ValueError, match="broadcast"):
        g.append("add", [x, g.constant(np.zeros(2, np.float32))])
    with pytest.raises(ValueError, match="no IR type"):
        g.constant(np.zeros(2, np.int8))
    assert x.uses == [], "nothing is left of an op that was refused"
    verify(g)


def break_order(g: Graph) -> None:
    g.ops.insert(0, g.ops.pop(1))


def break_use_list(g: Graph) -> None:
    g.ops[0].out.uses.pop()


def break_operand(g: Graph) -> None:
    g.ops[1].inputs[0] = g.inputs[0]


def break_type(g: Graph) -> None:
    g.ops[0].out.type = f32(3, 2)


def break_name(g: Graph) -> None:
    g.ops[1].out.name = g.ops[0].out.name


def break_removal(g: Graph) -> None:
    del g.ops[-1]


def break_repetition(g: Graph) -> None:
    g.ops.append(g.ops[0])


def break_producer(g: Graph) -> None:
    g.ops[0].out.producer = g.ops[1]


def break_attribute(g: Graph) -> None:
    op = next(op for op in g.ops if op.kind == "permute")
    op.attrs = {}


def break_output(g: Graph) -> None:
    other = Graph("other")
    g.set_outputs([other.add_input("z", f32(1))])


def break_rule(g: Graph) -> None:
    op = next(op for op in g.ops if op.kind == "linear")
    w = g.constant(np.zeros((3, 3), np.float32), before=op)
    g.set_input(op, 1, w)


@pytest.mark.parametrize(
    ("damage", "graph"),
    [
        (break_order, diamond()[0]),
        (break_use_list, diamond()[0]),
        (break_operand, diamond()[0]),
        (break_type, diamond()[0]),
        (break_name, diamond()[0]),
        (break_removal, diamond()[0]),
        (break_repetition, diamond()[0]),
        (break_producer, diamond()[0]),
        (break_output, diamond()[0]),
        (break_attribute, mini()),
        (break_rule, mini()),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_verifier_sees(damage: Callable[[Graph], None], graph: Graph) -> None:
    verify(graph)
    damage(graph)
    with pytest.raises(InvalidGraph):
        verify(graph)


def test_interpreter_refuses_other_inputs() -> None:
    g, *_ = diamond()
    for wrong in ({}, {"x": np.zeros((3, 2), np.float32)}, {"x": np.zeros((2, 3))}):
        with pytest.raises(ValueError, match=r"input x: expected f32\[2x3\], got"):
            run(g, wrong)


def test_interpreter_observes_every_op_once() -> None:
    g, *_ = diamond()
    seen: list[str] = []
    (y,) = run(g, {"x": np.array([[1, -1, 0]] * 2, np.float32)}, lambda op, results: seen.append(op.kind))
    assert seen == ["sign", "add", "mul", "neg"] and y.tolist() == [[4, -4, 0]] * 2
