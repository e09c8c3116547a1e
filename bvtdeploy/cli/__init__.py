"""The command line: parse, call `bvtdeploy.api`, print. One function a command.

Exit codes: 0 done; 1 the answer is no (bits differ, something needed is missing); 2 wrong use, bad input, or output that cannot be
written; 3 a bug of ours; 130 and 143 interrupted; 141 the reader of our output has gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import rich_click as click
from click.exceptions import Exit

from bvtdeploy.cli import devices, measuring, models, targets  # noqa: F401  (they add the commands)
from bvtdeploy.cli.root import cli
from bvtdeploy.console import OutputFailed, print_error, terminal_asker
from bvtdeploy.device.prompts import asking
from bvtdeploy.errors import UserError


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # so that devices are cleaned up on the way out


def _explain_bug(error: Exception, as_json: bool) -> None:
    if os.environ.get("BVTDEPLOY_TRACEBACK") == "1":
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    told = UserError(
        f"this is a bug of ours: {type(error).__name__}: {error}",
        where=where,
        fix="please report it with the whole message of the same command under BVTDEPLOY_TRACEBACK=1",
    )
    print_error(told, as_json=as_json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Errors that a user can cure never show a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if sys.stdout is None or sys.stdout.closed:  # as after >&-; what we would print would be lost
        print_error(UserError("standard output is closed", fix="open it, for example with > result.txt"), as_json=False)
        return 2
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        with asking(None if "--json" in words else terminal_asker()):
            code = _run(words, as_json="--json" in words)
        _flush()
        return code
    except OutputFailed as failed:
        with contextlib.suppress(OSError, ValueError):  # or Python would complain once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if failed.reader_gone:
            return 141
        told = UserError(
            "the output cannot be written", where="standard output", why=str(failed), fix="free space, or write elsewhere"
        )
        print_error(told, as_json=False)
        return 2


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        raise OutputFailed(error) from error


def _run(words: list[str], *, as_json: bool) -> int:
    try:
        return int(cli.main(words, prog_name="bvtdeploy", standalone_mode=False) or 0)
    except OutputFailed:
        raise
    except UserError as error:
        print_error(error, as_json=as_json)
        return 2
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "bvtdeploy"
        print_error(UserError(error.format_message(), where=where, fix=f"{where} --help"), as_json=as_json)
        return 2
    except click.ClickException as error:
        print_error(UserError(error.format_message()), as_json=as_json)
        return 2
    except Exit as error:
        return int(error.exit_code)
    except SystemExit as error:
        if error.code == 1:  # click's own answer to a broken pipe, while it prints help
            raise OutputFailed(BrokenPipeError()) from error
        raise
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)  # noqa: T201
        return 130
    except OSError as error:
        _flush()  # raises where it is our output that cannot be written
        print_error(UserError(error.strerror or str(error), where=str(error.filename or "")), as_json=as_json)
        if os.environ.get("BVTDEPLOY_TRACEBACK") == "1":
            traceback.print_exception(error)
        return 2
    except Exception as error:  # noqa: BLE001
        _explain_bug(error, as_json)
        return 3
