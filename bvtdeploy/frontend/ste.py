"""Straight-through estimators in an exported graph: `(q - g) + g` in all its spellings is q.

Training code writes the value of a quantiser as q.detach() - g.detach() + g, so that gradients flow through g. In the exported
graph this is arithmetic, which rounds: a binary weight comes back as alpha * {+1, -1} up to some ulp. We look for
sums in which every term but one cancels exactly (+g against -g, the same value) and the remaining term is a quantiser's result.
Detach marks are not required: the inference of a model that was exported without them has the same redundancy.

Learned step sizes (LSQ) carry the same form for their gradient, `(v - v*g) + v*g`, on a parameter v that is no code: there the
term that cancels is a multiple of v, and the value is v itself.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection
from typing import Any, Final

from torch import Tensor, fx

from bvtdeploy.frontend.aten import op_name

_IDENTITIES = {"detach", "detach_", "alias", "clone", "contiguous", "lift_fresh", "lift_fresh_copy"}
_CASTS = {"to", "_to_copy", "type_as"}
_QUANTISERS = {"sign", "sgn", "round", "floor", "ceil", "heaviside", "ge", "gt", "le", "lt", "eq", "ne"}
_CARRIERS = {
    "logical_not", "bitwise_not", "neg", "clamp", "clamp_min", "clamp_max", "hardtanh", "view", "reshape", "_unsafe_view",
    "permute", "transpose", "t", "expand",
    "unsqueeze", "squeeze", "flatten", "slice", "select", "rsub", "div",
}  # fmt: skip
FROM_SHAPE: Final = {"zeros_like": 0.0, "ones_like": 1.0, "full_like": None, "new_zeros": 0.0, "new_ones": 1.0, "new_full": None}
_RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal")
_DEPTH = 3


def base_name(node: fx.Node) -> str:
    """`add` of a node that calls aten.add.Tensor; "" of anything that is not an ATen call."""
    name = op_name(node.target) if node.op == "call_function" else ""
    return name.split(".")[1] if name.startswith("aten.") else ""


class StraightThrough:
    """Finds the estimators of one graph: `found[node]` is q where the node's value is `(q - g) + g`. `parameters`: the constant
    inputs of the graph."""

    def __init__(self, graph: fx.Graph, parameters: Collection[fx.Node] = ()) -> None:
        self._number: dict[fx.Node, int] = {}
        self._known: dict[Any, int] = {}
        self._codes: set[fx.Node] = set()
        self._constant: set[fx.Node] = set()
        for node in graph.nodes:
            self._number[node] = self._numbered(node)
            if (
                node in parameters
                or base_name(node) in FROM_SHAPE
                or (node.op != "placeholder" and all(n in self._constant for n in node.all_input_nodes))
            ):
                self._constant.add(node)
            if self._is_code(node):
                self._codes.add(node)
        self.found: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            if base_name(node) in ("add", "sub") and (q := self._search(node)) is not None:
                self.found[node] = q

    def resolve(self, node: fx.Node) -> fx.Node:
        """The node whose value stands for this node's once the estimators are gone."""
        while node in self.found:
            node = self.found[node]
        return node

    def _strip(self, node: fx.Node) -> fx.Node:
        """Looks through ops that do not change the value."""
        while True:
            name = base_name(node)
            source = node.args[0] if node.args else None
            if not isinstance(source, fx.Node):
                return node
            same = name in _IDENTITIES or (name in _CASTS and _dtype(node) == _dtype(source) is not None)
            same = same or (name == "dropout" and node.args[2:] == (False,))
            if not same:
                return node
            node = source

    def _numbered(self, node: fx.Node) -> int:
        """Value numbering: nodes that compute the same value have the same number."""
        stripped = self._strip(node)
        if stripped is not node:
            return self._number[stripped]
        key: Any = node
        pure = not any(word in base_name(node) for word in _RANDOM)
        if pure and node.op == "call_function" and (base_name(node) or node.target is operator.getitem):
            key = (str(node.target), self._key(node.args), self._key(node.kwargs))
        return self._known.setdefault(key, len(self._known))

    def _key(self, arg: Any) -> Any:
        if isinstance(arg, fx.Node):
            return ("node", self._number[arg])
        if isinstance(arg, (list, tuple)):
            return tuple(map(self._key, arg))
        if isinstance(arg, dict):
            return tuple((k, self._key(v)) for k, v in sorted(arg.items()))
        return repr(arg)

    def _terms(self, sign: int, node: fx.Node) -> list[tuple[int, fx.Node]] | None:
        """The summands of an add, sub or neg of tensors; None of anything else."""
        node = self._strip(node)
        name, args = base_name(node), [a for a in node.args if isinstance(a, fx.Node)]
        if name == "neg":
            return [(-sign, args[0])]
        if name in ("add", "sub") and len(args) == len(node.args) == 2 and node.kwargs.get("alpha", 1) == 1:
            return [(sign, args[0]), (sign if name == "add" else -sign, args[1])]
        return None

    def _search(self, node: fx.Node) -> fx.Node | None:
        start = self._terms(1, node)
        return None if start is None else self._explore(node, start, _DEPTH)

    def _explore(self, root: fx.Node, terms: list[tuple[int, fx.Node]], depth: int) -> fx.Node | None:
        q = self._remainder(root, terms)
        if q is not None or depth == 0:
            return q
        for i, (sign, node) in enumerate(terms):
            inner = self._terms(sign, node)
            if inner is not None:
                q = self._explore(root, [*terms[:i], *inner, *terms[i + 1 :]], depth - 1)
                if q is not None:
                    return q
        return None

    def _remainder(self, root: fx.Node, terms: list[tuple[int, fx.Node]]) -> fx.Node | None:
        """The one term that is left after equal terms of opposite sign cancel, where it is a quantiser's result."""
        balance: Counter[int] = Counter()
        for sign, node in terms:
            balance[self._number[node]] += sign
        left = [number for number, n in balance.items() if n]
        if len(terms) < 3 or len(left) != 1 or balance[left[0]] != 1:
            return None
        q = next(node for sign, node in terms if self._number[node] == left[0])
        if _shape(q) != _shape(root) or _dtype(q) != _dtype(root):
            return None
        return q if q in self._codes or (root in self._constant and self._multiples(terms, left[0])) else None

    def _multiples(self, terms: list[tuple[int, fx.Node]], number: int) -> bool:
        """Every term but the given one is a multiple of it: the gradient scale of a learned step size."""
        others = [self._strip(node) for _, node in terms if self._number[node] != number]
        return all(
            base_name(node) in ("mul", "div")
            and isinstance(node.args[0], fx.Node)
            and number in [self._number[a] for a in node.args if isinstance(a, fx.Node)]
            for node in others
        )

    def _is_code(self, node: fx.Node) -> bool:
        """A quantiser's result, through scales, zero points, casts and layout ops; its arguments have been classified."""
        name, args = base_name(node), [a for a in node.args if isinstance(a, fx.Node)]
        if name in _QUANTISERS:
            return True
        if name == "where":
            return all(a in self._codes or a in self._constant for a in args[1:])
        if name in ("mul", "add", "sub"):
            return any(a in self._codes for a in args)
        return name in _IDENTITIES | _CASTS | _CARRIERS and bool(args) and args[0] in self._codes


def _dtype(node: fx.Node) -> Any:
    return getattr(node.meta.get("val"), "dtype", None)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else None
