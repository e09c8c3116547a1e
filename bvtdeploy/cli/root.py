"""The group that the commands hang themselves into."""

from __future__ import annotations

import rich_click as click

from bvtdeploy import __version__
from bvtdeploy.cli.options import Group

_EXIT_CODES = (
    "Exit codes: 0 done; 1 the answer is no (bits differ, something needed is missing); 2 wrong use or bad input; 3 a bug of ours; "
    "130 interrupted (Ctrl-C); 141 the reader of the output has gone; 143 terminated."
)

click.rich_click.MAX_WIDTH = 120


@click.group(cls=Group, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bvtdeploy")
def cli() -> None:
    """Compile trained binary Vision Transformers for ARM boards, and prove that the board computes the same bits."""
