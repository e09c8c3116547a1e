"""Questions to the user: for passwords, passphrases and whether a host key is the right one.

The library asks nothing by itself. The command line says how to ask, where there is a terminal and no `--json`; without that every
question is unanswered, and what needed the answer says so in its error.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

Asker = Callable[[str, bool], str | None]

_asker: Asker | None = None
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def asking(asker: Asker | None) -> Iterator[None]:
    """Within it, questions go to `asker(question, secret)`: what is typed for a secret one is not shown. None: no questions."""
    global _asker
    before, _asker = _asker, asker
    try:
        yield
    finally:
        _asker = before


def can_ask() -> bool:
    """Whether there is somebody to ask."""
    return _asker is not None


def ask(question: str, *, secret: bool) -> str | None:
    """The answer; None where nobody can be asked."""
    if _asker is None:
        return None
    with _one_at_a_time:
        return _asker(question, secret)
