"""Unsupported operations, collected over the whole model and reported in one table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bvtdeploy.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One place in the model that cannot be compiled: the op, its source module and line, why, and what to do."""

    op: str
    module: str
    line: str
    why: str
    fix: str


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def source_line(stack_trace: str | None) -> str:
    """`file.py:12` of the innermost frame that is not torch's own; empty where the trace says nothing."""
    frames = _FRAME.findall(stack_trace or "")
    own = [f for f in frames if "/torch/" not in f[0].replace("\\", "/")] or frames
    return f"{own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]}" if own else ""


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("    " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def unsupported(findings: Sequence[Finding], where: str) -> UserError:
    """One error for all findings: a row per (op, reason), in order of first appearance, with the count and the first place."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for f in findings:
        groups.setdefault((f.op, f.why, f.fix), []).append(f)
    rows = [("op", "count", "first module", "line", "why", "what to do")]
    for (op, why, fix), places in groups.items():
        rows.append((op, str(len(places)), places[0].module or "(top)", places[0].line or "-", why, fix))
    return UserError(
        f"the model cannot be compiled: {len(groups)} unsupported operation(s) in {len(findings)} place(s)",
        where=where,
        why="nothing was written, because of\n" + _table(rows),
        fix="change the model as the last column says, and export it again",
    )
