"""side: real parameters become the numbers that a smaller file can hold, before anything is computed from them.

The side parameters are the f32 constants beside the +-1 weights: scales, shifts, slopes, knees, thresholds, positions, float
matrices. This pass rounds them and marks how they are stored (`attrs["stored"]` of the constant, see ops/const.py); the runtime
widens them back to fp32 once, when it opens the file. As the rounding comes first, the interpreter, the golden outputs and every
executor read the very same fp32 numbers, and results stay equal bit for bit; only against the source model do they move.

    fp16   w -> float32(float16(w)), to nearest, ties to even: relative error at most 2^-11, absolute at most 2^-25 below 2^-14
    int8   matrices (the weights of `dense`: patch embedding, classifier, float MLPs) [K x O] -> q * scale[o] with
           scale[o] = max_k |w_ko| / 127 and q = round(w / scale), -127 .. 127, one fp32 product: absolute error at most scale/2;
           everything else as in fp16

What stays fp32, because rounding it would be another kind of change than a small relative error, unless fp16 holds all of it:
  - a constant with a finite value beyond the largest fp16 (it would become infinite);
  - scales (`scale`, `scale2` of an epilogue, those of a dense_i8) with a nonzero value below 2^-14, where fp16 keeps fewer than 11
    bits, at last none: a factor that becomes 0 cuts its channel off;
  - thresholds on integers (`threshold0` .. of an epilogue whose x is i32 without a scale before them): they are exact bounds of
    integer dots, and an fp16 step above 2048 is more than one dot.
Integers, u64 tables, f64 limits and biases of attention are no f32 constants, so that exact things stay exact. A matrix with a
value that is not finite, or whose quantised value would not be, is treated as in fp16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir.graph import Graph, Value
from bvtdeploy.ops.epilogue import THRESHOLDS
from bvtdeploy.passes.base import ROUNDS, Pass, Report

F32 = npt.NDArray[np.float32]
_LEAST_NORMAL = 2.0**-14  # of fp16
_SCALES = ("scale", "scale2")
_POSITIONS = {("dense", 1): "matrix", ("dense_i8", 2): "scale"}


def _roles(value: Value) -> set[str]:
    """How the ops read a constant: the roles of an epilogue's inputs, "matrix" of a dense weight, "integer threshold"."""
    found = set()
    for op, i in value.uses:
        role = op.attrs["roles"][i] if op.kind == "epilogue" else _POSITIONS.get((op.kind, i), op.kind)
        if role in THRESHOLDS and op.inputs[0].type.elem == "i32" and "scale" not in op.attrs["roles"]:
            role = "integer threshold"
        found.add(role)
    return found


def to_f16(data: F32, roles: set[str]) -> F32 | str:
    """The f32 values rounded to fp16, or why they have to stay as they are (the head of this file says more)."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = data.astype(np.float16).astype(np.float32)
    if bool(((rounded == data) | np.isnan(data)).all()):
        return rounded
    if "integer threshold" in roles:
        return "it stays fp32: thresholds on integers are exact"
    if bool((np.isfinite(data) & ~np.isfinite(rounded)).any()):
        return "it stays fp32: a value is beyond the largest fp16"
    if roles & set(_SCALES) and bool(((data != 0) & (np.abs(data) < _LEAST_NORMAL)).any()):
        return "it stays fp32: a scale is below 2^-14, where fp16 loses its bits"
    return rounded


def to_i8(data: F32) -> tuple[F32, npt.NDArray[np.int8], F32] | None:
    """A matrix [K x O] as (its quantised f32 values, codes i8[K x O], scales f32[O]), or None where that is not finite."""
    if not bool(np.isfinite(data).all()):
        return None
    scales = np.abs(data).max(axis=0) / np.float32(127)
    steps = data.astype(np.float64) / np.where(scales > 0, scales, 1).astype(np.float64)
    codes = np.clip(np.rint(steps), -127, 127).astype(np.int8)
    codes[:, scales == 0] = 0
    with np.errstate(over="ignore"):
        widened = codes.astype(np.float32) * scales
    return (widened, codes, scales) if bool(np.isfinite(widened).all()) else None


def run(graph: Graph, report: Report) -> Graph:
    """Rounds and marks every f32 constant of the compiled graph as `report.side` says."""
    for op in graph.of_kind("const"):
        if op.out.type.elem != "f32" or len(op.out.type.shape) != 2:
            continue
        roles, marks = _roles(op.out), dict[str, Any]()
        matrix = to_i8(op.attrs["data"]) if report.side == "int8" and roles == {"matrix"} else None
        if matrix is not None:
            data, codes, scales = matrix
            marks = {"stored": "I8", "codes": codes, "scales": scales}
        else:
            half = to_f16(op.attrs["data"], roles)
            if isinstance(half, str):
                report.decline(op, half)
                continue
            data, marks = half, {"stored": "F16"}
        for array in (data, *(a for a in marks.values() if isinstance(a, np.ndarray))):
            array.setflags(write=False)
        op.attrs = {**op.attrs, "data": data, **marks}
    return graph


PASS = Pass("side", "real parameters take fewer bytes of the file", ROUNDS, run)
