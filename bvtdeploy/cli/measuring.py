"""The commands that take times: profile, bench, tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from bvtdeploy import api, views
from bvtdeploy.cli.options import counts, input_shape, json_option, model_output, name_list, path_type
from bvtdeploy.cli.root import cli
from bvtdeploy.console import Console


def _number_or_auto(_: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    least = 1 if parameter.name == "runs" else 0
    if not value.isdecimal() or int(value) < least:
        raise click.BadParameter(f"give a number from {least} on, or auto")
    return int(value)


@cli.command("profile")
@click.argument("artifact", type=path_type())
@click.option(
    "--device", default="local", show_default=True, help="local or qemu:CPU (emulated: says nothing about a board's speed)."
)
@click.option("--threads", default="1", show_default=True, callback=counts, metavar="N[,N...]", help="Thread counts to time.")
@click.option("--runs", default="auto", show_default=True, callback=_number_or_auto, metavar="auto|N", help="Timed runs.")
@click.option("--warmup", default="auto", show_default=True, callback=_number_or_auto, metavar="auto|N", help="Runs before them.")
@click.option("--input", "image", type=path_type(), metavar="IMAGE", help="The image to run; default: a golden input.")
@click.option("--ops", type=click.IntRange(0), default=20, show_default=True, metavar="N", help="Rows of the per-op table; 0: all.")
@json_option
def profile_command(artifact: Path, ops: int, as_json: bool, **options: Any) -> int:
    """Time an artifact on a device, op by op."""
    console = Console(as_json)
    with console.progress() as progress:
        result = api.profile(artifact, progress=progress, **options)
    views.show_profile(console, result, ops=ops or None)
    console.result(result.as_dict(), ok=result.ok)
    return 0 if result.ok else 1


def _rounds(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdecimal() or not 2 <= int(value[:9]) <= 100_000:
        raise click.BadParameter("give a number from 2 on, or auto")
    return int(value)


@cli.command("bench")
@click.argument("artifact", type=path_type())
@click.option(
    "--against", callback=name_list, metavar="PEER[,PEER...]",
    help="onnxruntime, litert, executorch. Default: onnxruntime, or none with --modelled.",
)  # fmt: skip
@click.option("--model", type=path_type(), metavar="MODEL", help="What was compiled: ONNX Runtime then also runs the same network.")
@click.option("--threads", default="1,2", show_default=True, callback=counts, metavar="N[,N...]", help="Thread counts to time.")
@click.option("--rounds", default="auto", show_default=True, callback=_rounds, metavar="auto|N", help="Rounds of each comparison.")
@click.option("--modelled", is_flag=True, help="Count executed instructions on emulated boards and model their times.")
@click.option(
    "--board", "boards", default="rpi4,rpi5", show_default=True, callback=name_list, metavar="BOARD[,BOARD...]",
    help="Boards for --modelled.",
)  # fmt: skip
@click.option("--like", metavar="NAME", help="The plain ViT to compare with: deit_tiny, deit_small, deit_base. Default: by shape.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@model_output
@json_option
def bench_command(
    artifact: Path, against: tuple[str, ...] | None, modelled: bool, boards: tuple[str, ...], as_json: bool, **options: Any
) -> int:
    """Time an artifact against other runtimes in this process; with --modelled, model its times on boards."""
    console = Console(as_json)
    if against is None:
        against = () if modelled else ("onnxruntime",)
    if not against and not modelled:
        raise click.UsageError("there is nothing to do: give a peer to --against, or --modelled")
    with console.progress() as progress:
        result = api.bench(artifact, against=against, boards=boards if modelled else (), progress=progress, **options)
    views.show_bench(console, result)
    console.result(result.as_dict(), warnings=result.warnings)
    return 0


@cli.command("tune")
@click.argument("source", type=path_type())
@click.option("-o", "--output", required=True, type=path_type(), metavar="FILE", help="The tuning file to write (TOML).")
@click.option("--device", default="local", show_default=True, help="local: this machine.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="How often every layout is timed; default 5.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@input_shape
@model_output
@json_option
def tune_command(source: Path, output: Path, as_json: bool, **options: Any) -> int:
    """Time the layouts of binary weights on a device; `compile --tuning` takes the fastest of every shape."""
    console = Console(as_json)
    with console.progress() as progress:
        tuning = api.tune(source, output, progress=progress, **options)
    views.show_tuning(console, tuning)
    console.result(tuning.as_dict())
    return 0
