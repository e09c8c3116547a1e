"""attention: matmul, softmax, probability quantiser, matmul -> one integer op.

    s = (Q K^T) * scale,  p = softmax(s),  a = clip * clamp(round(p / clip), 0, 1),  o = a V        with Q, K, V codes
      = clip * (A V),  A_ij = 1 where p_ij > clip/2

    round is half to even, so p/clip = 0.5 gives 0 and the compare is strict; p/clip > 1.5 is clamped to 1,
    before or after the rounding.
    Q K^T of +-1 codes is d - 2*popcount, so exp takes d+1 values: table[m] = round(2^40 * exp(-2*scale*m)), m = popcount minus the
    row's smallest (the row maximum of the softmax). Then p_ij = table[m_ij] / Z with Z = sum_j table[m_ij], an exact integer, and
    p > clip/2 becomes a compare of integers against one number a row (ops/attention.py). Rounding the table to 2^-40 moves p by
    less than 2^-40 * keys / Z: below fp32 softmax's own error.

Legality: Q, K, V are codes; scale > 0 and clip > 0 are scalar constants (a clip <= 0 is refused: it has no meaning); the softmax is
over the keys; the intermediate values have no other reader. The factor clip goes into a multiplication behind the product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Op, Value, single_use
from bvtdeploy.ir.types import Type
from bvtdeploy.passes.base import REASSOCIATES, Pass, Report, scalar
from bvtdeploy.passes.binarise import codes_of

TABLE_BITS = 40


def softmax_table(d: int, scale: float, keys: int) -> npt.NDArray[np.uint64]:
    """u64[1, d+1]: round(2^b * exp(-2*scale*m)), b as large as keys * 2^b < 2^53 allows, at most 40."""
    b = min(TABLE_BITS, 52 - max(keys, 1).bit_length())
    exponentials = np.exp(-2.0 * scale * np.arange(d + 1, dtype=np.float64)).reshape(1, -1)
    return np.asarray(np.rint(np.ldexp(exponentials, b)), np.uint64)


def _through_mul(value: Value) -> tuple[Value, float]:
    """(x, c) of a value that is x times a chain of scalar constants; c is infinite where one of them is a division by 0."""
    factor = 1.0
    while value.producer is not None and value.producer.kind in ("mul", "div"):
        c = scalar(value.producer.inputs[1])
        if c is None:
            break
        if value.producer.kind == "div":
            c = 1.0 / c if c else math.inf
        factor *= c
        value = value.producer.inputs[0]
    return value, factor


class _NoMatch(Exception):
    """Not this pattern; the text is empty where nothing was recognised at all."""


def _need(value: Value, kind: str, factor: str = "") -> Op:
    """The producer of a value; `factor` is what a multiplication that stands in between would be called."""
    op = value.producer
    if op is None or op.kind != kind:
        raise _NoMatch(f"the {factor} is not one number" if factor and op is not None and op.kind in ("mul", "div") else "")
    return op


def _match(graph: Graph, context: Op, report: Report, memo: dict[Value, Value | None]) -> None:
    code, gain = _through_mul(context.inputs[0])
    first, second = ("clamp", "round") if code.producer is not None and code.producer.kind == "clamp" else ("round", "clamp")
    outer = _need(code, first)
    inner = _need(outer.inputs[0], second)
    quantiser = outer if first == "clamp" else inner
    probability, inverse = _through_mul(inner.inputs[0])
    softmax = _need(probability, "softmax", "probability step")
    # From here on it is an attention; what does not fit is reported.
    if (quantiser.attrs["min"], quantiser.attrs["max"]) != (0.0, 1.0):
        raise _NoMatch(f"the probabilities are clamped to {quantiser.attrs['min']}..{quantiser.attrs['max']}, not to 0..1")
    if softmax.attrs["axis"] % len(softmax.out.type.shape) != len(softmax.out.type.shape) - 1:
        raise _NoMatch("the softmax is not over the keys")
    if not 0 < inverse < math.inf:
        raise _NoMatch(f"the probability step is {1 / inverse if inverse else math.inf:g}: it must be positive")
    scores, scale = _through_mul(softmax.inputs[0])
    product = _need(scores, "matmul", "score scale")
    if not 0 < scale < math.inf:
        raise _NoMatch(f"the score scale is {scale:g}: it must be positive")
    q = codes_of(graph, product.inputs[0], memo)
    kt = codes_of(graph, product.inputs[1], memo)
    v = codes_of(graph, context.inputs[1], memo)
    if q is None or kt is None or v is None:
        names = [name for name, value in (("query", q), ("key", kt), ("value", v)) if value is None]
        raise _NoMatch(f"{' and '.join(names)} codes are not binary")
    if len(q.type.shape) not in (3, 4):
        raise _NoMatch(f"scores of rank {len(q.type.shape)}; expected batch, head, query, key")
    if not all(single_use(x, graph) for x in (scores, outer.out, inner.out)):
        raise _NoMatch("an intermediate of the attention is also read elsewhere")

    def emit(kind: str, inputs: list[Value], **attrs: Any) -> Value:
        return graph.append(kind, inputs, attrs, module=context.module, before=context)

    if len(q.type.shape) == 3:  # batch and heads as one axis, or a single head without an axis of its own
        q, kt, v = (emit("reshape", [value], shape=(1, *value.type.shape)) for value in (q, kt, v))
    heads, keys, d = q.type.shape[1], kt.type.shape[3], q.type.shape[3]
    k = emit("permute", [kt], perm=(0, 1, 3, 2))
    table = graph.constant(softmax_table(d, scale, keys), before=context, type=Type("u64", (1, d + 1)))
    # round(p * inverse) >= 1 iff p * inverse > 1/2 iff p > clip/2
    limit = graph.constant(np.full((1, heads), 0.5 / inverse, np.float64), before=context)
    step = graph.constant(np.array(gain, np.float32), before=context)
    result = emit("mul", [emit("binary_attention", [q, k, v, table, limit]), step])
    if result.type.shape != context.out.type.shape:
        result = emit("reshape", [result], shape=context.out.type.shape)
    graph.supersede(context.out, result)


def run(graph: Graph, report: Report) -> Graph:
    """Rewrites every attention whose operands are codes."""
    memo: dict[Value, Value | None] = {}
    for op in graph.of_kind("matmul"):
        try:
            _match(graph, op, report, memo)
            report.fused["attention"] += 1
        except _NoMatch as reason:
            if str(reason):
                report.decline(op, str(reason))
    graph.drop_dead()
    return graph


PASS = Pass("attention", "softmax attention of codes becomes one op with a table and an integer threshold a row", REASSOCIATES, run)
