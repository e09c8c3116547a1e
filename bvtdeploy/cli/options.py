"""What several commands share: options and how their values are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

from bvtdeploy.boards import suggest

Command = Callable[..., int]


def path_type(**how: Any) -> click.Path:
    """A path, whether something is there or not."""
    return click.Path(path_type=Path, **how)


class Group(click.RichGroup):
    """Suggests the nearest command for a mistyped one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            name = args[0] if args else ""
            if self.get_command(ctx, name) is None and not name.startswith("-"):
                raise click.UsageError(f"there is no command '{name}'; {suggest(name, self.list_commands(ctx))}", ctx) from error
            raise


def json_option(function: Command) -> Command:
    """The option `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")(function)


def keep_option(function: Command) -> Command:
    """The option `--keep`."""
    text = "Leave what was pushed on the device, so that the next run need not push it again."
    return click.option("--keep", is_flag=True, help=text)(function)


def _shape(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and 1 <= int(part[:9]) <= 65536 for part in parts):
        raise click.BadParameter("give channels, height and width, for example 3,224,224")
    channels, height, width = (int(part) for part in parts)
    return 1, channels, height, width


def input_shape(function: Command) -> Command:
    """The option `--input-shape`."""
    text = "Shape of one input image, for a model that does not tell it."
    return click.option("--input-shape", "example_input", metavar="C,H,W", callback=_shape, help=text)(function)


def model_output(function: Command) -> Command:
    """The option `--model-output`."""
    text = "Which of a model's several outputs the logits are; default: the one called logits, or the only one."
    return click.option("--model-output", metavar="NAME|N", help=text)(function)


def counts(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    """Reads `--threads 1,2,4`."""
    try:
        counts = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("give numbers with commas between them, for example 1,2,4") from None
    if not all(1 <= count <= 64 for count in counts):
        raise click.BadParameter("threads go from 1 to 64")
    return counts


def name_list(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Reads a list of names with commas between them."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())
