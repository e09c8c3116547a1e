"""Unsupported operations, collected over the whole model and reported in one table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bvtdeploy.errors import Problem, UserError, gathered

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
# Files whose frames are not the model's own: torch's, and what this package puts around a model to trace it.
_FOREIGN = ("/torch/", "/bvtdeploy/frontend/")


def source_line(stack_trace: str | None) -> str:
    """`file.py:12` of the innermost frame of the model's own code; empty where the trace says nothing."""
    frames = _FRAME.findall(stack_trace or "")
    frames = [f for f in frames if not f[0].startswith("<")]  # what torch generates
    own = [f for f in frames if not any(part in f[0].replace("\\", "/") for part in _FOREIGN)] or frames
    return f"{own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]}" if own else ""


def unsupported(problems: Sequence[Problem], where: str) -> UserError:
    """One error for all places with an unsupported op: a row for each op, reason and place."""
    kinds = len({(p.what, p.why, p.fix) for p in problems})
    return UserError(
        f"the model cannot be compiled: {kinds} unsupported operation(s) in {sum(p.count for p in problems)} place(s)",
        where=where,
        fix="nothing was written; change the model as the last column says, and export it again",
        problems=gathered(problems),
    )
