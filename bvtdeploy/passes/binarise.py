"""binarise: products of codes become integer products, with one scale afterwards.

    linear(sign(x), W) with W[o] = alpha_o * c_o, c_o in {+1,-1}^K    =    alpha_o * (sign(x) . c_o)

The dot is an exact integer; the scale is applied once, which is the canonical semantics. Where the weight is exactly
scale times +-1 and there is no bias, the interpreter gives the same bits before and after; a residue or a bias moves the result by
a rounding. The same for conv2d without padding, groups or dilation (a padded tap is a third value, 0).

Legality: the operand comes from a sign through layout ops only; every output row of the weight is one magnitude times +-1
(`binary_weights.binary_rows`, by value). A binary weight under a float operand stays float and is reported, as is the reverse.
"""

from __future__ import annotations

import numpy as np

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ir.types import bits
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report
from bvtdeploy.passes.binary_weights import binary_rows

LAYOUT = ("permute", "reshape", "expand")


def codes_of(graph: Graph, value: Value, memo: dict[Value, Value | None]) -> Value | None:
    """The same tensor as codes: rebuilds the layout ops between it and a sign on a bits value; None if no sign feeds it."""
    if value in memo:
        return memo[value]
    op = value.producer
    result: Value | None = None
    if op is not None and op.kind == "sign":
        result = graph.create("binarise", [op.inputs[0]], module=op.module, names=[f"{op.out.name}.bits"], before=op).out
    elif op is not None and op.kind in LAYOUT:
        source = codes_of(graph, op.inputs[0], memo)
        if source is not None:
            result = graph.append(op.kind, [source], dict(op.attrs), module=op.module, before=op)
    memo[value] = result
    return result


def _scaled(graph: Graph, op: Op, dots: Value, scale: Value, bias: Value | None) -> None:
    result = graph.append("mul", [dots, scale], module=op.module, before=op)
    if bias is not None:
        result = graph.append("add", [result, bias], module=op.module, before=op)
    graph.supersede(op.out, result)


def _product(graph: Graph, op: Op, report: Report, memo: dict[Value, Value | None]) -> bool:
    weight = op.inputs[1].data
    if weight is None:
        return False
    found = binary_rows(weight)
    codes = codes_of(graph, op.inputs[0], memo)
    if found is None or codes is None:
        if found is not None:
            report.decline(op, "the weights are binary but the activations are not: runs in float")
        elif codes is not None:
            report.decline(op, "the activations are binary but the weights are not one magnitude a row")
        return False
    if op.kind == "conv2d" and (op.attrs["groups"] != 1 or any(op.attrs["padding"]) or set(op.attrs["dilation"]) != {1}):
        report.decline(op, "a binary convolution with padding, groups or dilation has no compiled form yet")
        return False
    report.residue_max = max(report.residue_max, found.residue)
    report.zeros_in_weights += found.zeros
    packed = graph.constant(found.codes, before=op, type=bits(*found.codes.shape))
    channels = (-1,) if op.kind == "linear" else (1, -1, 1, 1)
    scale = graph.constant(found.scale.astype(np.float32).reshape(channels), before=op)
    bias = op.inputs[2] if len(op.inputs) == 3 else None
    if bias is not None and op.kind == "conv2d" and bias.data is not None:
        bias = graph.constant(bias.data.reshape(channels), before=op)
    attrs = {} if op.kind == "linear" else {"stride": tuple(op.attrs["stride"])}
    kind = "binary_linear" if op.kind == "linear" else "binary_conv2d"
    _scaled(graph, op, graph.append(kind, [codes, packed], attrs, module=op.module, before=op), scale, bias)
    return True


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites every linear and conv2d whose operands are both codes."""
    memo: dict[Value, Value | None] = {}
    for op in graph.of_kind("linear", "conv2d"):
        if _product(graph, op, report, memo):
            report.binary_layers += 1
            report.fused["binary product"] += 1
        else:
            report.float_layers += 1
    graph.drop_dead()
    return graph


PASS = Pass("binarise", "products of codes become integer dots with one scale", REASSOCIATES, run)
