"""The source model as PyTorch computes it, call by call, in float64 or float32: what a compiled graph is compared with.

Straight-through estimators are left out and constants are those that PyTorch folds in float32, both as in the imported graph: it is
the same network. Everything that depends on the image is computed by PyTorch's own kernels in the dtype of the image. In float64 a
sum has no rounding that could decide a sign, so that the answer does not depend on the order of anybody's sums.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

Array = npt.NDArray[Any]


class Reference:
    """The live calls of an exported program.

    Args:
        calls: the calls that the output needs, in order.
        image: the placeholder of the input.
        origins: for each value of the imported graph that is a call's result, that call.
        varies: the nodes that depend on the image.
        resolve: the node that stands for a node once estimators are removed.
        constant: the float32 value of a node that does not depend on the image.
    """

    def __init__(
        self, calls: list[fx.Node], image: fx.Node | None, origins: Mapping[str, fx.Node], varies: set[fx.Node],
        resolve: Callable[[fx.Node], fx.Node], constant: Callable[[fx.Node], Any],
    ) -> None:  # fmt: skip
        self._calls, self._image, self._varies = calls, image, varies
        self._resolve, self._constant = resolve, constant
        self._names: dict[fx.Node, list[str]] = {}
        for name, node in origins.items():
            self._names.setdefault(node, []).append(name)

    def run(self, image: Array, signs: Mapping[str, str] | None = None) -> dict[str, Array]:
        """Values of the imported graph by name, as PyTorch computes them.

        Args:
            image: [1, C, H, W], float64 or float32.
            signs: for names of signs, the value x of which x >= 0 ? +1 : -1 takes their place (two codes have none for 0).
        """
        tensor = torch.from_numpy(np.ascontiguousarray(image))
        dtype = tensor.dtype
        results: dict[fx.Node, Any] = {} if self._image is None else {self._image: tensor}
        named: dict[str, Array] = {}
        last: dict[fx.Node, fx.Node] = {}
        for node in self._calls:
            for read in node.all_input_nodes:
                last[self._resolve(read)] = node

        def widened(x: Any) -> Any:
            if x is torch.float32:
                return dtype
            return x.to(dtype) if isinstance(x, Tensor) and x.dtype == torch.float32 else x

        def value(node: fx.Node) -> Any:
            return results[self._resolve(node)] if node in self._varies else tree_map(widened, self._constant(node))

        with torch.no_grad():
            for node in self._calls:
                args = tree_map(widened, fx.map_arg(node.args, value))
                kwargs = tree_map(widened, fx.map_arg(node.kwargs, value))
                names = self._names.get(node, [])
                instead = next((signs[name] for name in names if name in signs), None) if signs else None
                if instead is not None and instead in named:
                    out: Any = torch.from_numpy(np.where(named[instead] >= 0, 1.0, -1.0)).to(dtype)
                elif node.target is operator.getitem:
                    out = args[0][args[1]]
                else:
                    out = tree_map(widened, node.target(*args, **kwargs))  # type: ignore[operator]
                results[node] = out
                for name in names:
                    named[name] = out.numpy()
                for read in map(self._resolve, node.all_input_nodes):
                    if last.get(read) is node:
                        results.pop(read, None)
        return named
