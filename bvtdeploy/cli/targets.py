"""The commands about boards: build, boards, doctor."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bvtdeploy import api, views
from bvtdeploy.cli.options import json_option, path_type
from bvtdeploy.cli.root import cli
from bvtdeploy.console import Console


@cli.command("build")
@click.option("--board", default="generic", show_default=True, help="Name or TOML file of the board.")
@click.option("--toolchain", default="auto", show_default=True, metavar="auto|gcc|zig|PATH", help="The compiler to take.")
@click.option("--output", type=path_type(), metavar="DIR", help="Folder for bvt_run, libbvt.a and bvt.h; default: only the cache.")
@json_option
def build_command(as_json: bool, **options: Any) -> int:
    """Compile the runtime for a board: a static program and a library."""
    console = Console(as_json)
    with console.progress() as progress:
        result = api.build(progress=progress, **options)
    views.show_build(console, result)
    console.result(result.as_dict())
    return 0


@cli.command("boards")
@json_option
def boards_command(as_json: bool) -> int:
    """List the boards that --board knows."""
    console = Console(as_json)
    known = api.boards()
    views.show_boards(console, known)
    console.result({"boards": [board.as_dict() for board in known]})
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
