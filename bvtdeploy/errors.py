"""Errors that a user caused or can cure: what happened, where in the model, why, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """A failure that the user can act on. The CLI prints it in one piece and exits with code 2, never a traceback.

    Attributes:
        what: the failure in one sentence.
        where: file, module or op that it concerns; empty where there is none.
        why: the reason, as far as it is known.
        fix: what the user can do.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.fix = what, where, why, fix

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("where", self.where), ("why", self.why), ("fix", self.fix)):
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, str]:
        """The error as the `error` object of `--json` output."""
        return {"what": self.what, "where": self.where, "why": self.why, "fix": self.fix}
