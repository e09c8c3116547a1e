"""Small BinaryViT-like source graphs, written by hand op by op in the way in which the front end imports them.

`mini(Config(...))` is BinaryViT (Le & Li) in miniature. With `exact=True` all parameters are small dyadic numbers, so that no
fp32 operation rounds (as long as there are no pools of 3 or 5): then every rewrite that is right gives the same bits, whatever
it reassociates, and one that is wrong by a sign, a channel or an order does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir import Graph, Op, Value, f32
from bvtdeploy.ir.interp import run as interpret
from bvtdeploy.passes import pipeline
from bvtdeploy.passes.base import Report

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Config:
    """One stage, or two with a binary 2x2 downsampling between them."""

    seed: int = 0
    channels: int = 1
    image: int = 16
    patch: int = 4
    dim: int = 16
    heads: int = 2
    layers: int = 1
    reduction: int = 2
    ratio: int = 4
    pools: tuple[int, ...] = (3, 5)
    layer_scale: bool = True
    downsample: bool = False
    exact: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, self.channels, self.image, self.image


class Builder:
    """Appends source ops with random parameters."""

    def __init__(self, config: Config) -> None:
        self.c = config
        self.rng = np.random.default_rng(config.seed)
        self.g = Graph("mini")
        self.module = ""

    def op(self, kind: str, *inputs: Value, **attrs: Any) -> Value:
        return self.g.append(kind, list(inputs), attrs, module=self.module)

    def const(self, array: Any) -> Value:
        return self.g.constant(np.asarray(array, np.float32))

    def shift(self, *shape: int) -> Value:
        if self.c.exact:
            return self.const(self.rng.integers(-3, 4, shape))
        return self.const(self.rng.standard_normal(shape))

    def scale(self, *shape: int) -> Value:
        """Negative ones too."""
        return self.const(self.rng.choice([1, -1, 0.5], shape) if self.c.exact else self.rng.standard_normal(shape))

    def slope(self, n: int) -> Value:
        """Zero and negative slopes too."""
        return self.const(self.rng.choice([0.5, 0, -1, 1], n) if self.c.exact else self.rng.standard_normal(n))

    def swap(self, t: Value) -> Value:
        return self.op("permute", t, perm=(0, 2, 1))

    def grid(self, t: Value, side: int) -> Value:
        return self.op("reshape", self.swap(t), shape=(1, t.type.shape[2], side, side))

    def tokens(self, t: Value) -> Value:
        _, c, h, w = t.type.shape
        return self.swap(self.op("reshape", t, shape=(1, c, h * w)))

    def norm(self, t: Value) -> Value:
        n = t.type.shape[2]
        gamma, beta, mean = self.scale(n), self.shift(n), self.shift(n)
        var = self.const(self.rng.choice([1, 4], n) if self.c.exact else np.abs(self.rng.standard_normal(n)) + 0.1)
        eps = 0.0 if self.c.exact else 1e-5
        return self.swap(self.op("batch_norm", self.swap(t), gamma, beta, mean, var, axis=1, eps=eps))

    def binary_weight(self, *shape: int) -> Value:
        codes = np.sign(self.rng.standard_normal(shape))
        rows = (shape[0], *[1] * (len(shape) - 1))
        magnitude = self.rng.choice([1, 0.5], rows) if self.c.exact else np.abs(self.rng.standard_normal(rows)) + 0.1
        return self.const((codes * magnitude).astype(np.float32))

    def sign(self, t: Value) -> Value:
        return self.op("sign", self.op("add", t, self.shift(t.type.shape[-1])))

    def blin(self, t: Value, n: int) -> Value:
        return self.norm(self.op("linear", self.sign(t), self.binary_weight(n, t.type.shape[2])))

    def rprelu(self, t: Value) -> Value:
        n = t.type.shape[2]
        return self.op("add", self.op("prelu", self.op("sub", t, self.shift(n)), self.slope(n), axis=2), self.shift(n))

    def affine(self, t: Value) -> Value:
        n = t.type.shape[2]
        return self.op("add", self.op("mul", t, self.scale(n)), self.shift(n)) if self.c.layer_scale else t

    def attention(self, q: Value, k: Value, v: Value, clip: float = 0.25) -> Value:
        heads, d = self.c.heads, q.type.shape[2] // self.c.heads

        def codes(t: Value) -> Value:
            return self.op("permute", self.op("reshape", self.sign(t), shape=(1, t.type.shape[1], heads, d)), perm=(0, 2, 1, 3))

        scores = self.op("matmul", codes(q), self.op("permute", codes(k), perm=(0, 1, 3, 2)))
        p = self.op("softmax", self.op("div", scores, self.const(np.sqrt(d))), axis=-1)
        step = self.const(clip)
        a = self.op("mul", self.op("clamp", self.op("round", self.op("div", p, step)), min=0.0, max=1.0), step)
        o = self.op("permute", self.op("matmul", a, codes(v)), perm=(0, 2, 1, 3))
        return self.op("reshape", o, shape=q.type.shape)

    def layer(self, t: Value, side: int) -> Value:
        c, add = self.c, lambda a, b: self.op("add", a, b)
        h = self.norm(t)
        q = self.rprelu(add(self.blin(h, c_out := h.type.shape[2]), h))
        g, r = h, c.reduction
        if r > 1:
            pooled = self.op("avg_pool2d", self.grid(h, side), kernel=(r, r), stride=(r, r), padding=(0, 0), count_include_pad=True)
            g = self.tokens(pooled)
            g = self.rprelu(add(self.blin(g, c_out), g))
        k = self.rprelu(add(self.blin(g, c_out), g))
        v = self.rprelu(add(self.blin(g, c_out), g))

        def full(z: Value) -> Value:
            return self.tokens(self.op("upsample", self.grid(z, side // r), factor=r)) if r > 1 else z

        context = add(add(add(self.norm(self.attention(q, k, v)), q), full(k)), full(v))
        context = self.rprelu(context)
        t = add(t, self.affine(self.rprelu(add(self.blin(context, c_out), context))))
        m = self.norm(t)
        u = self.rprelu(add(self.blin(m, c_out * c.ratio), self.op("concat", *[m] * c.ratio, axis=2)))
        shortcut = self.op("avg_pool1d", u, kernel=c.ratio, stride=c.ratio)
        t = add(self.affine(self.rprelu(add(self.blin(u, c_out), shortcut))), t)
        for width in c.pools:
            for kernel in ((width, 1), (1, width)):
                padding = (kernel[0] // 2, kernel[1] // 2)
                grid = self.grid(m, side)
                pool = self.op("avg_pool2d", grid, kernel=kernel, stride=(1, 1), padding=padding, count_include_pad=True)
                t = add(t, self.affine(self.tokens(pool)))
        return t

    def downsample(self, t: Value, side: int) -> Value:
        h = self.grid(self.norm(t), side)
        n = t.type.shape[2]
        pooled = self.tokens(self.op("avg_pool2d", h, kernel=(2, 2), stride=(2, 2), padding=(0, 0), count_include_pad=True))
        codes = self.op("sign", self.op("add", h, self.shift(1, n, 1, 1)))
        dots = self.op("conv2d", codes, self.binary_weight(2 * n, n, 2, 2), **CONV, stride=(2, 2))
        y = self.rprelu(self.op("add", self.norm(self.tokens(dots)), self.op("concat", pooled, pooled, axis=2)))
        return self.op("add", y, self.shift(1, y.type.shape[1], y.type.shape[2]))


CONV = {"padding": (0, 0), "dilation": (1, 1), "groups": 1}


def mini(config: Config = Config()) -> Graph:
    """The source graph: image -> 10 logits."""
    b, c = Builder(config), config
    x = b.g.add_input("x", f32(*c.shape))
    b.module = "embed"
    weight = b.shift(c.dim, c.channels, c.patch, c.patch)
    t = b.tokens(b.op("conv2d", x, weight, b.shift(c.dim), **CONV, stride=(c.patch, c.patch)))
    side = c.image // c.patch
    t = b.op("add", b.norm(t), b.shift(1, side * side, c.dim))
    for i in range(c.layers):
        b.module = f"layer{i}"
        t = b.layer(t, side)
    if c.downsample:
        b.module = "merge"
        t, side = b.downsample(t, side), side // 2
        b.module = "last"
        t = b.layer(t, side)
    b.module = "head"
    n = t.type.shape[2]
    weight = b.const(np.eye(10, n) - np.eye(10, n, 1)) if c.exact else b.shift(10, n)  # a long sum would round
    logits = b.op("linear", b.op("mean", b.norm(t), axes=(1,), keepdim=False), weight, b.shift(10))
    b.g.set_outputs([logits])
    return b.g


def image(config: Config, seed: int = 7) -> Array:
    """An input of the model; dyadic where the model is."""
    rng = np.random.default_rng(seed)
    if config.exact:
        return rng.integers(-2, 3, config.shape).astype(np.float32)
    return rng.standard_normal(config.shape, np.float32)


def evaluate(graph: Graph, x: Array, observe: Callable[[Op, list[Array]], None] | None = None) -> list[Array]:
    """The interpreter on an image, in whatever shape the graph takes it."""
    (value,) = graph.inputs
    return interpret(graph, {value.name: x.reshape(value.type.shape)}, observe)


def codes(graph: Graph, x: Array, report: Report | None = None) -> tuple[Array, dict[str, Array]]:
    """(output, every sign of the source by its name), whatever form the signs have in this graph."""
    found: dict[str, Array] = {}

    def observe(op: Op, results: list[Array]) -> None:
        for value, array in zip(op.outputs, results, strict=True):
            if op.kind in ("sign", "binarise") or (op.kind == "epilogue" and value.type.elem == "bits"):
                name = value.name.removesuffix(".cols")
                index = None if report is None else report.sign_index.get(value.name)
                found[name.removesuffix(".bits")] = array.reshape(-1) if index is None else array.reshape(-1)[index.reshape(-1)]

    return evaluate(graph, x, observe)[0].reshape(-1), found


def compiled(config: Config = Config()) -> tuple[Graph, Report]:
    """The graph after all passes."""
    report = Report()
    graph, _ = pipeline.run(mini(config), report)
    return graph, report


def chain(shape: Sequence[int], body: Callable[[Builder, Value], Value], tokens: tuple[int, int] = (4, 4)) -> Graph:
    """A graph around a few ops: image -> 1x1 convolution -> tokens [1, h*w, C] -> body; `shape` is (image channels, C)."""
    b = Builder(Config(seed=3))
    x = b.g.add_input("x", f32(1, shape[0], *tokens))
    y = b.tokens(b.op("conv2d", x, b.shift(shape[1], shape[0], 1, 1), **CONV, stride=(1, 1)))
    b.g.set_outputs([body(b, y)])
    return b.g
