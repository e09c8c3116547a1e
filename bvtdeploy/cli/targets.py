"""The commands about boards: build, boards, doctor."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bvtdeploy import api, views
from bvtdeploy.cli.options import Group, json_option, path_type
from bvtdeploy.cli.root import cli
from bvtdeploy.console import Console


@cli.command("build")
@click.option("--board", default="generic", show_default=True, help="Name or TOML file of the board.")
@click.option("--toolchain", default="auto", show_default=True, metavar="auto|gcc|zig|docker|PATH", help="The compiler to take.")
@click.option("--dynamic", is_flag=True, help="Link bvt_run dynamically; default: static, so that it runs on any system.")
@click.option(
    "--glibc",
    default="",
    metavar="2.31",
    help="With --dynamic: the glibc it must do with; default: that of the board's usual system.",
)
@click.option(
    "--output", type=path_type(), metavar="DIR", help="Folder for program, library, header and packages; default: only the cache."
)
@json_option
def build_command(as_json: bool, **options: Any) -> int:
    """Compile the runtime for a board: a program that needs nothing there, and a library with its CMake package."""
    console = Console(as_json)
    with console.progress() as progress:
        result = api.build(progress=progress, **options)
    views.show_build(console, result)
    console.result(result.as_dict())
    return 0


@cli.group("boards", cls=Group, invoke_without_command=True)
@json_option
def boards_command(as_json: bool) -> int:
    """List the boards that --board knows; `show` explains one."""
    context = click.get_current_context()
    if context is not None and context.invoked_subcommand is not None:
        return 0
    console = Console(as_json)
    known = api.boards()
    views.show_boards(console, known)
    console.result({"boards": [board.as_dict() for board in known]})
    return 0


@boards_command.command("show")
@click.argument("name")
@json_option
def boards_show_command(name: str, as_json: bool) -> int:
    """Explain a board: cores, features, flags, layouts and why, emulation. NAME may be a TOML file of your own."""
    context = click.get_current_context()
    above = context.parent.params if context is not None and context.parent is not None else {}
    console = Console(as_json or bool(above.get("as_json")))
    facts = api.board(name)
    views.show_board(console, facts)
    console.result(facts.as_dict())
    return 0


@cli.command("doctor")
@json_option
def doctor_command(as_json: bool) -> int:
    """Show what is installed, what is missing, and how to get it."""
    console = Console(as_json)
    diagnosis = api.doctor()
    views.show_doctor(console, diagnosis)
    console.result(diagnosis.as_dict(), ok=diagnosis.ok)
    return 0 if diagnosis.ok else 1
