"""Errors that a user caused or can cure: what happened, where in the model, why, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One row of an error's table.

    Attributes:
        what: the op, key, layer or callable that it is about.
        module: the path of the source module (of a checkpoint: of the tensor); empty for the top module and where there is none.
        line: `file.py:12` in the model's source; empty where the source does not say.
        why: what is wrong with it.
        fix: what to do about it.
        count: how often it is there, at this place.
    """

    what: str
    module: str = ""
    line: str = ""
    why: str = ""
    fix: str = ""
    count: int = 1

    def as_dict(self) -> dict[str, str | int]:
        """The row as an entry of `problems` in `--json` output."""
        return dict(vars(self))


_COLUMNS = (("what", "what"), ("count", "count"), ("module", "module"), ("line", "line"), ("why", "why"), ("fix", "what to do"))


def table(problems: Sequence[Problem]) -> str:
    """Problems as aligned text. Columns that say nothing are left out; a reason is written once for rows that share it."""
    many = {"count": any(p.count > 1 for p in problems), "module": any(p.module for p in problems)}
    shown = [
        (field, title) for field, title in _COLUMNS if many.get(field, field == "what" or any(getattr(p, field) for p in problems))
    ]
    rows = [tuple(title for _, title in shown)]
    last: Problem | None = None
    for p in problems:
        same = last is not None and (p.what, p.why, p.fix) == (last.what, last.why, last.fix)
        cells = {"why": "", "fix": ""} if same else {}
        empty = {"module": "(top)" if p.line else "-", "line": "-"}
        rows.append(tuple(cells.get(f, str(getattr(p, f)) or empty.get(f, "")) for f, _ in shown))
        last = p
    widths = [max(len(row[i]) for row in rows) for i in range(len(shown))]
    return "\n".join("    " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def gathered(problems: Sequence[Problem]) -> list[Problem]:
    """Rows that differ only in their count as one; rows with the same subject and reason together, in order of appearance."""
    rows: dict[tuple[str, str, str], dict[tuple[str, str], int]] = {}
    for p in problems:
        places = rows.setdefault((p.what, p.why, p.fix), {})
        places[p.module, p.line] = places.get((p.module, p.line), 0) + p.count
    return [Problem(what, *place, why, fix, n) for (what, why, fix), places in rows.items() for place, n in places.items()]


class UserError(Exception):
    """A failure that the user can act on. The CLI prints it in one piece and exits with code 2, never a traceback.

    Attributes:
        what: the failure in one sentence.
        where: file, module or op that it concerns; empty where there is none.
        why: the reason, as far as it is known.
        fix: what the user can do.
        problems: where there are several reasons, or places: all of them, printed as one table.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "", problems: Sequence[Problem] = ()) -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.fix = what, where, why, fix
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines + ([table(self.problems)] if self.problems else []))

    def as_dict(self) -> dict[str, object]:
        """The error as the `error` object of `--json` output; `problems` only where there is a table."""
        told: dict[str, object] = {"what": self.what, "where": self.where, "why": self.why, "fix": self.fix}
        return {**told, "problems": [p.as_dict() for p in self.problems]} if self.problems else told
