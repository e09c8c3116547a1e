"""binarise: products of codes become integer products, with one scale afterwards.

    linear(sign(x), W) with W[o] = alpha_o * c_o, c_o in {+1,-1}^K    =    alpha_o * (sign(x) . c_o)
    linear(a * sign(x), W)                                            =    a * alpha_o * (sign(x) . c_o)        a one number

The dot is an exact integer; the scale is applied once, which is the canonical semantics. Where the weight is exactly
scale times +-1 and there is no bias, the interpreter gives the same bits before and after; a residue or a bias moves the result by
a rounding. The same for conv2d; a zero-padded tap is a third code, 0, and so is the sign of an operand that can be exactly 0 by
construction (passes/lattice.py), unless the policy is to make it +1.

    linear(sum a_t sign(x_t) + b, W)                                  =    alpha_o * sum a_t (sign(x_t) . c_o) + b * (sum of W[o])
    linear(x, W) with a real x and W as above                         =    alpha_o * (sum of +-x)               "mixed"

So codes of 0 and 1 are codes with a constant behind them, and round(clamp(x, 0, 3)) is three of them: the step from k to k + 1
is at k + 1/2, and half to even puts it behind that for even k. Of a padded convolution the constant differs at the border.

A lonely zero among the weights of a row (one of 256 or more) counts as +1 in front of codes (reported): an initial weight that
was drawn so. More than that are meant: W is half the sum of two binary weights, which differ where W is 0, and so is the product.
In front of real activations a product with such weights stays float.

Legality: the operand comes from signs through layout ops, sums and constants that are one number (at most three signs); every
output row of the weight is one magnitude times +-1 (`binary_weights.binary_rows`, by value). A binary activation under real
weights stays float and is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import bits
from bvtdeploy.ops import REGISTRY
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, scalar
from bvtdeploy.passes.binary_weights import BinaryWeight, binary_rows
from bvtdeploy.passes.lattice import LAYOUT, can_be_zero

MOST_TERMS: Final = 3
LONELY: Final = 256


def codes_of(graph: Graph, value: Value, memo: dict[Value, Value | None], report: Report) -> Value | None:
    """The same tensor as codes: rebuilds the layout ops between it and a sign on a bits value; None if no sign feeds it."""
    if value in memo:
        return memo[value]
    op = value.producer
    result: Value | None = None
    if op is not None and op.kind == "sign":
        ternary = report.zeros == "exact" and op.attrs.get("zero", 0) == 0 and can_be_zero(op.inputs[0])
        report.ternary_signs += ternary
        attrs = {"ternary": True} if ternary else {}
        result = graph.create("binarise", [op.inputs[0]], attrs, module=op.module, names=[f"{op.out.name}.bits"], before=op).out
    elif op is not None and op.kind in LAYOUT:
        source = codes_of(graph, op.inputs[0], memo, report)
        if source is not None:
            result = graph.append(op.kind, [source], dict(op.attrs), module=op.module, before=op)
    memo[value] = result
    return result


@dataclass
class Terms:
    """sum of gain * codes, + offset."""

    codes: list[tuple[Value, float]]
    offset: float = 0.0


def _step(graph: Graph, op: Op, x: Value, at: float) -> tuple[Value, float]:
    """(codes, gain) with (gain * codes + 1) / 2 = [x > at] for an even floor of `at`, else [x >= at]."""
    exclusive = int(np.floor(at)) % 2 == 0
    moved = graph.append("add", [x, graph.constant(np.array(-at, np.float32), before=op)], module=op.module, before=op)
    gain = 1.0
    if exclusive and can_be_zero(moved):
        moved = graph.append("mul", [moved, graph.constant(np.array(-1.0, np.float32), before=op)], module=op.module, before=op)
        gain = -1.0
    return graph.append("binarise", [moved], module=op.module, before=op), gain


def _ladder(graph: Graph, op: Op) -> Terms | None:
    """round and clamp, in either order, to two to four integers."""
    inner = op.inputs[0].producer
    if inner is None or {op.kind, inner.kind} != {"round", "clamp"}:
        return None
    clamp = op if op.kind == "clamp" else inner
    low, high = clamp.attrs["min"], clamp.attrs["max"]
    if low is None or high is None or low != round(low) or high != round(high) or not 1 <= high - low <= MOST_TERMS:
        return None
    steps = [_step(graph, op, inner.inputs[0], k + 0.5) for k in range(int(low), int(high))]
    return Terms([(codes, gain / 2) for codes, gain in steps], low + (high - low) / 2)


def terms_of(
    graph: Graph, value: Value, memo: dict[Value, Value | None], ladders: dict[Value, Terms | None], report: Report
) -> Terms | None:
    """A value as a sum of scaled codes and one number; None of anything else."""
    op = value.producer
    codes = codes_of(graph, value, memo, report)
    if codes is not None:
        return Terms([(codes, 1.0)])
    if op is None:
        return None
    if op.kind in ("round", "clamp"):
        if value not in ladders:
            ladders[value] = _ladder(graph, op)
        return ladders[value]
    if op.kind == "add" and op.inputs[1].data is None:
        left, right = (terms_of(graph, v, memo, ladders, report) for v in op.inputs)
        if left is None or right is None or op.inputs[0].type != op.inputs[1].type:
            return None
        total = Terms([*left.codes, *right.codes], left.offset + right.offset)
        return total if len(total.codes) <= MOST_TERMS else None
    if op.kind in LAYOUT and value not in ladders:
        source = terms_of(graph, op.inputs[0], memo, ladders, report)
        ladders[value] = source and Terms(
            [(graph.append(op.kind, [c], dict(op.attrs), module=op.module, before=op), a) for c, a in source.codes], source.offset
        )
    if op.kind in LAYOUT:
        return ladders[value]
    c = scalar(op.inputs[1]) if op.kind in ("mul", "add") else None
    source = terms_of(graph, op.inputs[0], memo, ladders, report) if c is not None else None
    if c is None or source is None or op.out.type != op.inputs[0].type:
        return None
    if op.kind == "add":
        return Terms(source.codes, source.offset + c)
    return Terms([(codes, gain * c) for codes, gain in source.codes], source.offset * c)


def _bias(op: Op, weight: npt.NDArray[Any], offset: float) -> npt.NDArray[np.float32] | None:
    """What is added behind the product: its bias, and what the offset of the operand gives."""
    bias = None if len(op.inputs) < 3 or op.inputs[2].data is None else op.inputs[2].data.astype(np.float64)
    if op.kind == "conv2d" and bias is not None:
        bias = bias.reshape(1, -1, 1, 1)
    if offset:
        if op.kind == "linear":
            constant = offset * weight.astype(np.float64).sum(axis=1)
        else:
            ones = np.ones(op.inputs[0].type.shape, np.float32)
            full = offset * REGISTRY["conv2d"].reference(op.attrs, [ones, weight])[0].astype(np.float64)
            inside = full[:, :, :1, :1]
            constant = inside if bool((full == inside).all()) else full
        bias = constant if bias is None else bias + constant
    return None if bias is None else bias.astype(np.float32)


def _finish(
    graph: Graph, op: Op, products: list[tuple[Value, float]], found: BinaryWeight, bias: npt.NDArray[np.float32] | None
) -> None:
    """Scales, sum and bias behind products with +-1 weights."""
    channels = (-1,) if op.kind == "linear" else (1, -1, 1, 1)
    result: Value | None = None
    for product, gain in products:
        scale = (found.scale.astype(np.float64) * gain).astype(np.float32).reshape(channels)
        scaled = graph.append("mul", [product, graph.constant(scale, before=op)], module=op.module, before=op)
        result = scaled if result is None else graph.append("add", [result, scaled], module=op.module, before=op)
    assert result is not None
    if bias is not None:
        result = graph.append("add", [result, graph.constant(bias, before=op)], module=op.module, before=op)
    graph.supersede(op.out, result)


def _planes(op: Op, weight: npt.NDArray[Any], found: BinaryWeight, report: Report) -> list[tuple[npt.NDArray[np.int8], float]]:
    """The weight codes as a sum of binary ones: [(codes, 1)], or two halves where zeros are no accident."""
    zero = (weight == 0) & (found.scale.reshape(-1, *[1] * (weight.ndim - 1)) != 0)
    most = int(zero.reshape(len(zero), -1).sum(axis=1).max())
    if most * LONELY <= found.codes[0].size:
        report.zeros_in_weights += found.zeros
        return [(found.codes, 1.0)]
    report.decline(op, f"{found.zeros} of the weights are 0: two one-bit products, whose sum is exact")
    return [(found.codes, 0.5), (np.where(zero, np.int8(-1), found.codes), 0.5)]


def _product(graph: Graph, op: Op, report: Report, memo: dict[Value, Value | None], ladders: dict[Value, Terms | None]) -> str:
    """Rewrites one product; says what it became: binary, mixed or float."""
    weight = op.inputs[1].data
    if weight is None or (len(op.inputs) == 3 and op.inputs[2].data is None):
        return "float"
    found = binary_rows(weight)
    terms = terms_of(graph, op.inputs[0], memo, ladders, report)
    if found is None or (terms is None and op.kind == "conv2d"):
        if found is not None:
            report.decline(op, "the weights are binary but the activations are not: runs in float")
        elif terms is not None:
            report.decline(op, "the activations are binary but the weights are not one magnitude a row")
        return "float"
    if terms is None and found.zeros:
        report.decline(op, f"{found.zeros} of the weights are 0, which one bit cannot say: runs in float")
        return "float"
    report.residue_max = max(report.residue_max, found.residue)
    if terms is None:
        packed = graph.constant(found.codes, before=op, type=bits(*found.codes.shape))
        report.decline(op, "the weights are binary but the activations are not: real activations, one-bit weights")
        product = graph.append("mixed_linear", [op.inputs[0], packed], module=op.module, before=op)
        _finish(graph, op, [(product, 1.0)], found, _bias(op, weight, 0.0))
        return "mixed"
    attrs = {} if op.kind == "linear" else {n: op.attrs[n] for n in ("stride", "padding", "dilation", "groups")}
    kind = "binary_linear" if op.kind == "linear" else "binary_conv2d"
    products = []
    for plane, part in _planes(op, weight, found, report):
        packed = graph.constant(plane, before=op, type=bits(*plane.shape))
        for codes, gain in terms.codes:
            products.append((graph.append(kind, [codes, packed], attrs, module=op.module, before=op), gain * part))
    values = found.codes * found.scale.reshape(-1, *[1] * (weight.ndim - 1)) if found.zeros == 0 else weight
    _finish(graph, op, products, found, _bias(op, values, terms.offset))
    return "binary"


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites every linear and conv2d whose weights are binary."""
    memo: dict[Value, Value | None] = {}
    ladders: dict[Value, Terms | None] = {}
    for op in graph.of_kind("linear", "conv2d"):
        became = _product(graph, op, report, memo, ladders)
        report.binary_layers += became == "binary"
        report.mixed_layers += became == "mixed"
        report.float_layers += became == "float"
        if became != "float":
            report.fused[f"{became} product"] += 1
    graph.drop_dead()
    return graph


PASS = Pass("binarise", "products of codes become integer dots with one scale", REASSOCIATES, run)
