"""Text in, expressions out: how the tests of the passes look at small graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bvtdeploy.ir import Graph, Value
from bvtdeploy.ir.interp import run as interpret
from bvtdeploy.ir.text import parse
from bvtdeploy.ir.verify import verify
from bvtdeploy.passes.base import Report

Run = Callable[[Graph, Report], Graph]


def show(value: Value) -> str:
    """A value as an expression of inputs and constants; attributes in braces."""
    op = value.producer
    if op is None:
        return value.name
    if op.kind == "const":
        data = op.attrs["data"]
        flat = data.reshape(-1)
        same = flat.size > 1 and (flat == flat[0]).all()
        return f"{flat[0]:g}" if same or flat.size == 1 else json.dumps([float(f"{x:.6g}") for x in flat])
    if op.kind == "epilogue":
        others = [f"{r}={show(v)}" for r, v in zip(op.attrs["roles"][1:], op.inputs[1:], strict=True)]
        which = op.attrs["results"][value.index] + (str(value.index) if len(op.outputs) > 1 else "")
        maps = f"{{{op.attrs['factors']}, {op.attrs['width']}}}" if op.attrs["width"] else ""
        return f"{which}({', '.join([show(op.inputs[0]), *others])}){maps}"
    attrs = {k: v for k, v in op.attrs.items() if k not in ("stride", "padding", "dilation", "groups")}
    inner = ", ".join(show(v) for v in op.inputs)
    return f"{op.kind}({inner})" + (json.dumps(attrs, sort_keys=True) if attrs else "")


def rewrite(run: Run, text: str, **constants: Any) -> tuple[Graph, Graph, Report]:
    """(graph before, graph after, report) of a pass on a text; a small text may leave out `graph @g` and the types of results."""
    report = Report()
    arrays = {k: np.asarray(v) for k, v in constants.items()}
    before, after = parse(text, arrays), parse(text, arrays)
    after = run(after, report)
    verify(after)
    return before, after, report


def outputs(graph: Graph, x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    (value,) = graph.inputs
    return interpret(graph, {value.name: np.ascontiguousarray(x.reshape(value.type.shape))})


def why(report: Report) -> list[str]:
    return [d.why for d in report.declined]
