"""What several commands share: options and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import rich_click as click

from bvtdeploy.api import MOST_SECONDS
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


def timeout_option(function: Command) -> Command:
    """The option `--timeout`."""
    text = "How long one program of ours may run on a device; default: 600, or what the work is likely to take."
    return click.option("--timeout", type=click.IntRange(1, MOST_SECONDS), metavar="SECONDS", help=text)(function)


def whole_number(text: str, least: int, most: int) -> int | None:
    """A number from `least` to `most`, written in decimal; None where it is none, however long it is."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most))):
        return None
    return int(text) if least <= int(text) <= most else None


def new_file(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """A path that a file can be written to: what is wrong with it is said before minutes of work."""
    if value is None:
        return None
    if value.is_dir():
        raise click.BadParameter(f"{value} is a folder")
    if value.exists() and not value.is_file():
        raise click.BadParameter(f"{value} is no ordinary file, which is all that can be replaced")
    if not value.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.absolute().parent}")
    return value


def keep_apart(read: Iterable[Path | None], written: Mapping[str, Path | None]) -> None:
    """Refuse to write over a file that is read, or two results into one file.

    Args:
        read: the files that the command reads.
        written: the files that it writes, by option.
    """
    taken = [(path, "is what is read") for path in read if path is not None]
    for option, path in written.items():
        if path is None:
            continue
        for other, role in taken:
            if _same_file(path, other):
                raise click.UsageError(f"{option} {path} {role}: give another file, so that neither is lost")
        taken.append((path, f"is also the file of {option}"))


def _same_file(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)
    return one.resolve() == other.resolve()


def _shape(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    sizes = [size for part in value.split(",") if (size := whole_number(part.strip(), 1, 65536))]
    if len(sizes) != 3 or value.count(",") != 2:
        raise click.BadParameter("give channels, height and width, for example 3,224,224")
    channels, height, width = sizes
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
    """Reads `--threads 1,2,4`. What is there twice counts once."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise click.BadParameter("give numbers with commas between them, for example 1,2,4")
    numbers = [whole_number(part, 1, 64) for part in parts]
    if None in numbers:
        raise click.BadParameter("threads go from 1 to 64")
    return tuple(dict.fromkeys(number for number in numbers if number is not None))


def name_list(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Reads a list of names with commas between them."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())
