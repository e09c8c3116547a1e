"""binarise: products of codes become integer products, with one scale afterwards.

    linear(sign(x), W) with W[o] = alpha_o * c_o, c_o in {+1,-1}^K    =    alpha_o * (sign(x) . c_o)
    linear(a * sign(x), W)                                            =    a * alpha_o * (sign(x) . c_o)        a one number

The dot is an exact integer; the scale is applied once, which is the canonical semantics. Where the weight is exactly
scale times +-1 and there is no bias, the interpreter gives the same bits before and after; a residue or a bias moves the result by
a rounding. The same for conv2d; a zero-padded tap is a third code, 0, and so is the sign of an operand that can be exactly 0 by
construction (passes/lattice.py), unless the policy is to make it +1.

    linear(x, W) with a real x and W as above                         =    alpha_o * (sum of +-x)               "mixed"

A zero among the weights counts as +1 in front of codes (reported); in front of real activations the product stays float.

Legality: the operand comes from a sign through layout ops only; every output row of the weight is one magnitude times +-1
(`binary_weights.binary_rows`, by value). A binary activation under real weights stays float and is reported.
"""

from __future__ import annotations

import numpy as np

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import bits
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, scalar
from bvtdeploy.passes.binary_weights import BinaryWeight, binary_rows
from bvtdeploy.passes.lattice import can_be_zero

LAYOUT = ("permute", "reshape", "expand", "slice", "take", "roll")


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


def scaled_codes(graph: Graph, value: Value, memo: dict[Value, Value | None], report: Report) -> tuple[Value | None, float]:
    """(codes, a) of a * codes; (None, 1) of anything else."""
    a = 1.0
    inner = value
    while inner.producer is not None and inner.producer.kind == "mul" and (c := scalar(inner.producer.inputs[1])) is not None:
        a, inner = a * c, inner.producer.inputs[0]
    codes = codes_of(graph, inner, memo, report)
    return (codes, a) if codes is not None else (None, 1.0)


def _finish(graph: Graph, op: Op, product: Value, found: BinaryWeight, gain: float) -> None:
    """Scale and bias behind a product with +-1 weights."""
    channels = (-1,) if op.kind == "linear" else (1, -1, 1, 1)
    scale = (found.scale.astype(np.float64) * gain).astype(np.float32).reshape(channels)
    result = graph.append("mul", [product, graph.constant(scale, before=op)], module=op.module, before=op)
    bias = op.inputs[2] if len(op.inputs) == 3 else None
    if bias is not None and op.kind == "conv2d" and bias.data is not None:
        bias = graph.constant(bias.data.reshape(channels), before=op)
    if bias is not None:
        result = graph.append("add", [result, bias], module=op.module, before=op)
    graph.supersede(op.out, result)


def _product(graph: Graph, op: Op, report: Report, memo: dict[Value, Value | None]) -> str:
    """Rewrites one product; says what it became: binary, mixed or float."""
    weight = op.inputs[1].data
    if weight is None:
        return "float"
    found = binary_rows(weight)
    codes, gain = scaled_codes(graph, op.inputs[0], memo, report)
    if found is None or (codes is None and op.kind == "conv2d"):
        if found is not None:
            report.decline(op, "the weights are binary but the activations are not: runs in float")
        elif codes is not None:
            report.decline(op, "the activations are binary but the weights are not one magnitude a row")
        return "float"
    if codes is None and found.zeros:
        report.decline(op, f"{found.zeros} of the weights are 0, which one bit cannot say: runs in float")
        return "float"
    report.residue_max = max(report.residue_max, found.residue)
    report.zeros_in_weights += found.zeros
    packed = graph.constant(found.codes, before=op, type=bits(*found.codes.shape))
    if codes is None:
        report.decline(op, "the weights are binary but the activations are not: real activations, one-bit weights")
        _finish(graph, op, graph.append("mixed_linear", [op.inputs[0], packed], module=op.module, before=op), found, 1.0)
        return "mixed"
    attrs = {} if op.kind == "linear" else {n: op.attrs[n] for n in ("stride", "padding", "dilation", "groups")}
    kind = "binary_linear" if op.kind == "linear" else "binary_conv2d"
    _finish(graph, op, graph.append(kind, [codes, packed], attrs, module=op.module, before=op), found, gain)
    return "binary"


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites every linear and conv2d whose weights are binary."""
    memo: dict[Value, Value | None] = {}
    for op in graph.of_kind("linear", "conv2d"):
        became = _product(graph, op, report, memo)
        report.binary_layers += became == "binary"
        report.mixed_layers += became == "mixed"
        report.float_layers += became == "float"
        if became != "float":
            report.fused[f"{became} product"] += 1
    graph.drop_dead()
    return graph


PASS = Pass("binarise", "products of codes become integer dots with one scale", REASSOCIATES, run)
