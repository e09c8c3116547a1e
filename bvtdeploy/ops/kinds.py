"""Kinds of stored data, for reports: what a constant is to the op that reads it, in source graphs and in compiled ones.

The same words for both sides make bytes before and after comparable: a batch norm's four rows of the source are `scales` of the
artifact, the shift in front of a sign is a `thresholds` row, one real number a weight becomes one bit in `binary_weights`.
"""

from __future__ import annotations

from typing import Final

from bvtdeploy.ir.graph import Graph, Op, Value
from bvtdeploy.ops import attention, epilogue

# Kinds of constants, and what people call them. What a file has besides is listed in OTHER.
CONSTANTS: Final = {
    "binary_weights": "binary weights",
    "patch_embedding": "float weights: patch embedding",
    "classifier": "float weights: classifier",
    "other_weights": "float weights: other",
    "scales": "scales, shifts, norms",
    "thresholds": "thresholds of signs",
    "tables": "position and bias tables",
    "attention_tables": "attention tables",
    "row_tables": "row tables",
}
OTHER: Final = {
    "golden": "golden inputs and outputs",
    "records": "records and names",
    "alignment": "alignment",
    "unread": "not read by the inference",
}
KINDS: Final = {**CONSTANTS, **OTHER}
WEIGHTS: Final = ("binary_weights", "patch_embedding", "classifier", "other_weights")

_PRODUCTS: Final = ("linear", "conv2d", "matmul", "dense", "dense_i8", "bgemm", "mixed_gemm")
_MOVES: Final = ("permute", "reshape", "expand", "slice", "take", "roll", "upsample", "neg")
_ORDER: Final = tuple(CONSTANTS)


def operand_kind(kind: str, role: str) -> str:
    """The kind of a constant that a compiled op reads as `role`: one of epilogue.ROLES or attention.ROLES, else its position."""
    if kind in ("bgemm", "mixed_gemm") and role == "1":
        return "binary_weights"
    if kind in ("dense", "dense_i8") and role == "1":
        return "other_weights"
    if kind == "epilogue":
        if role in epilogue.RESIDUALS:
            return "tables"
        return "thresholds" if role in epilogue.THRESHOLDS else "row_tables" if role == "rows" else "scales"
    if kind == "attention":
        return "tables" if role in attention.BIAS else "attention_tables"
    if kind == "norm_sign":
        return "thresholds"
    if kind == "gather":
        return "row_tables" if role == "0" else "tables"
    return "scales"


def source_kinds(graph: Graph, binary: set[str]) -> dict[str, str]:
    """The kind of every constant of a source graph, by name. `binary`: names of the weights that are one magnitude times +-1."""
    from_image, to_logits = first_products(graph), _behind(graph)
    found: dict[str, str] = {}
    for constant in graph.of_kind("const"):
        kinds = {_read_as(op, i, constant.out, from_image, to_logits) for op, i in _readers(constant.out)}
        if constant.out.name in binary and kinds & set(WEIGHTS):
            kinds.add("binary_weights")
        found[constant.out.name] = next((k for k in _ORDER if k in kinds), "scales")
    return found


def _readers(value: Value) -> list[tuple[Op, int]]:
    """Who reads a value, through ops that only move elements."""
    result = []
    for op, i in value.uses:
        result += _readers(op.out) if op.kind in _MOVES else [(op, i)]
    return result


def _read_as(op: Op, i: int, constant: Value, from_image: set[Op], to_logits: set[Op]) -> str:
    if op.kind in ("linear", "conv2d", "matmul") and i < 2:
        return "patch_embedding" if op in from_image else "classifier" if op in to_logits else "other_weights"
    if op.kind in ("add", "sub"):
        readers = _readers(op.out)
        if readers and all(reader.kind == "sign" for reader, _ in readers):
            return "thresholds"
        return "tables" if sum(n > 1 for n in constant.type.shape) > 1 else "scales"
    return "tables" if op.kind == "concat" else "scales"


def first_products(graph: Graph) -> set[Op]:
    """The products whose operand is the image, with no other product in between."""
    found, seen, stack = set[Op](), set[Value](), list(graph.inputs)
    while stack:
        value = stack.pop()
        for op in value.users:
            if op.kind in _PRODUCTS:
                found.add(op)
            else:
                stack += [v for v in op.outputs if v not in seen]
                seen.update(op.outputs)
    return found


def _behind(graph: Graph) -> set[Op]:
    """The products that the output depends on with no other product in between."""
    found, seen, stack = set[Op](), set[Value](), list(graph.outputs)
    while stack:
        op = stack.pop().producer
        if op is None or op.kind == "const":
            continue
        if op.kind in _PRODUCTS:
            found.add(op)
        else:
            stack += [v for v in op.inputs if v not in seen]
            seen.update(op.inputs)
    return found
