"""How results look: the only module that knows rich.

Results go to stdout, progress and errors to stderr. With `--json` stdout carries exactly one object.
"""

from __future__ import annotations

import errno
import getpass
import json
import math
import os
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console as RichConsole
from rich.markup import escape as _no_markup
from rich.status import Status
from rich.table import Table

from bvtdeploy import __version__
from bvtdeploy.errors import UserError

_NO_TERMINAL_WIDTH = 200  # of a pipe or a file: tables stay whole
_NARROW = 100  # columns; below, tables leave out what their caller calls optional


class OutputFailed(Exception):
    """Standard output cannot be written. No OSError, so that click does not take it for its own and exit with 1."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.error = error

    @property
    def reader_gone(self) -> bool:
        """Whether it is a pipe that nobody reads any more, as with `| head`."""
        return isinstance(self.error, BrokenPipeError)


class _Rich(RichConsole):
    """Of stdout, raises OutputFailed where rich would exit with 1; what stderr does not take is lost."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def print(self, *objects: Any, **how: Any) -> None:
        try:
            super().print(*objects, **how)
        except OSError as error:
            if not self.stderr:
                raise OutputFailed(error) from error


def visible(text: str) -> str:
    """A text in which control characters, line ends too, are spelled out: they must not reach the terminal."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in hidden else c for c in text)


def escape(text: str) -> str:
    """A text as rich is to print it: no markup, and of the control characters only line ends."""
    return _no_markup("\n".join(visible(line) for line in text.split("\n")))


class Console:
    """Prints one command's result, as text or as JSON."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._out = _rich(stderr=False)
        self._err = _rich(stderr=True)

    def result(self, payload: Mapping[str, Any], *, ok: bool = True, warnings: Sequence[str] = ()) -> None:
        """With `--json`: print the object. Else: the warnings alone, on stderr; the text was printed by the command."""
        if self.as_json:
            print_json({"bvtdeploy": __version__, "ok": ok, "warnings": list(warnings), **payload})
        else:
            for warning in warnings:
                self._err.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """A line of the text result."""
        if not self.as_json:
            self._out.print(escape(text), style=style, soft_wrap=True)

    def heading(self, text: str) -> None:
        """A line that begins a part of the text result."""
        self.say()
        self.say(text, style="bold")

    def good(self, text: str) -> None:
        """A line that says that a check holds."""
        if not self.as_json:
            self._out.print(f"[green]ok[/]    {escape(text)}", soft_wrap=True)

    def bad(self, text: str) -> None:
        """A line that says that a check does not hold."""
        if not self.as_json:
            self._out.print(f"[red]NO[/]    {escape(text)}", soft_wrap=True)

    def note(self, text: str) -> None:
        """A line that says what is missing or was left out."""
        if not self.as_json:
            self._out.print(f"[yellow]-[/]     {escape(text)}", soft_wrap=True)

    def facts(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """Names and values, one pair a line."""
        shown = [(name, str(value)) for name, value in pairs if value not in (None, "", ())]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            if not self.as_json:
                self._out.print(f"[dim]{escape(name.ljust(width))}[/]  {escape(value)}", soft_wrap=True)

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        title: str = "",
        align: str = "",
        optional: Sequence[str] = (),
    ) -> None:
        """A table.

        Args:
            columns, rows, title: what is in it.
            align: a letter for each column: r right (numbers), n left and never broken (names), l left.
            optional: the columns that a narrow terminal does without.
        """
        if self.as_json:
            return
        left_out = {i for i, column in enumerate(columns) if column in optional} if self._out.width < _NARROW else set()
        table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for i, column in enumerate(columns):
            if i in left_out:
                continue
            how = align[i] if i < len(align) else "l"
            table.add_column(
                column, justify="right" if how == "r" else "left", no_wrap=how != "l", overflow="fold", header_style="dim"
            )
        for row in rows:
            table.add_row(*(escape("" if cell is None else str(cell)) for i, cell in enumerate(row) if i not in left_out))
        self._out.print(table)

    def progress(self) -> Progress:
        """Tells on stderr what is being done, once it has taken a second."""
        return Progress(self._err)


class Progress:
    """A context manager that is called with what is being done now. What is over within a second is never shown."""

    shown: Progress | None = None  # the one on the terminal

    def __init__(self, console: RichConsole) -> None:
        self._console = console
        self._status: Status | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        self._cancel()
        with self._lock:
            if self._status is not None:
                self._status.update(escape(text))
                return
        self._timer = threading.Timer(1.0, self._show, (text,))
        self._timer.daemon = True
        self._timer.start()

    def _show(self, text: str) -> None:
        with self._lock:
            if not self._console.is_terminal:
                self._console.print(escape(text) + " ...", soft_wrap=True)
            elif self._status is None:
                self._status = self._console.status(escape(text))
                self._status.start()
                Progress.shown = self

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pause()

    def pause(self) -> None:
        """Leave the terminal to somebody else, until the next thing is done."""
        self._cancel()
        with self._lock:
            if self._status is not None:
                self._status.stop()
                self._status = None


def terminal_asker() -> Callable[[str, bool], str | None] | None:
    """How to ask the user something (`question, secret`), where there is a terminal; else None."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: str, secret: bool) -> str | None:
        if Progress.shown is not None:
            Progress.shown.pause()
        shown = "\n".join(visible(line) for line in question.split("\n"))
        try:
            if secret:
                return getpass.getpass(shown, sys.stderr)
            sys.stderr.write(shown)
            sys.stderr.flush()
            return sys.stdin.readline().rstrip("\n")
        except EOFError:
            return None

    return ask


def _rich(*, stderr: bool) -> RichConsole:
    console = _Rich(stderr=stderr, highlight=False)
    if not console.is_terminal and console.width < _NO_TERMINAL_WIDTH:
        console.width = _NO_TERMINAL_WIDTH
    return console


def as_text(payload: Mapping[str, Any]) -> str:
    """One object as a line of JSON. What JSON cannot say (NaN, infinities) becomes null."""
    return json.dumps(_plain(payload), ensure_ascii=False, allow_nan=False) + "\n"


def print_json(payload: Mapping[str, Any]) -> None:
    """One object on stdout."""
    try:
        sys.stdout.write(as_text(payload))
        sys.stdout.flush()
    except OSError as error:
        raise OutputFailed(error) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def print_error(error: UserError, *, as_json: bool) -> None:
    """A failure that the user can act on."""
    if as_json:
        print_json({"bvtdeploy": __version__, "ok": False, "warnings": [], "error": error.as_dict()})
        return
    console = _rich(stderr=True)
    first, *rest = str(error).split("\n")
    console.print(f"[bold red]error:[/] {escape(first)}", soft_wrap=True)
    for line in rest:
        console.print(escape(line), soft_wrap=True)


def size(count: float) -> str:
    """Bytes for people: 1.5 MB."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def amount(count: float) -> str:
    """A large number for people: 12.3 M."""
    for unit in ("", " k", " M"):
        if abs(count) < 1000:
            return f"{count:.0f}" if unit == "" else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.2f} G"


def percent(part: float) -> str:
    """0.123 as 12.3 %."""
    return f"{100 * part:.1f} %"
