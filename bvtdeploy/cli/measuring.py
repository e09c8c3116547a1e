"""The commands that take times and tell of them: profile, compare, bench, tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from bvtdeploy import __version__, api, views
from bvtdeploy.build.files import write_whole
from bvtdeploy.cli.options import (
    counts,
    input_shape,
    json_option,
    keep_apart,
    model_output,
    name_list,
    new_file,
    path_type,
    timeout_option,
    whole_number,
)
from bvtdeploy.cli.root import cli
from bvtdeploy.console import Console, as_text
from bvtdeploy.profile.compare import pair_up, read_profiles
from bvtdeploy.profile.html import report
from bvtdeploy.profile.parsers import core_list
from bvtdeploy.profile.result import Profiles
from bvtdeploy.profile.trace import trace as trace_of

MOST_RUNS = 10_000_000  # every sample is kept and written


def _number_or_auto(_: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    least = 1 if parameter.name == "runs" else 0
    number = whole_number(value, least, MOST_RUNS)
    if number is None:
        raise click.BadParameter(f"give a number from {least} to {MOST_RUNS}, or auto")
    return number


def _cpus(_: click.Context, __: click.Parameter, value: str | None) -> str:
    if value is None or value in ("big", "little", "all"):
        return value or ""
    if not core_list(value):
        raise click.BadParameter("give big, little, all, or a list of cores such as 0-3,6")
    return value


@cli.command("profile")
@click.argument("artifact", type=path_type())
@click.option(
    "--device", "devices", multiple=True, default=("local",), show_default=True,
    help="local, qemu:CPU (emulated: says nothing about a board's speed), user@host, or a name. More than once: all of them.",
)  # fmt: skip
@click.option("--threads", default="1", show_default=True, callback=counts, metavar="N[,N...]", help="Thread counts to time.")
@click.option("--runs", default="auto", show_default=True, callback=_number_or_auto, metavar="auto|N", help="Timed runs.")
@click.option("--warmup", default="auto", show_default=True, callback=_number_or_auto, metavar="auto|N", help="Runs before them.")
@click.option(
    "--cpu", "cpus", callback=_cpus, metavar="big|little|all|LIST",
    help="Cores to run on: the fast ones or the slow ones of a processor that has both, or a list such as 0-3,6.",
)  # fmt: skip
@click.option("--input", "image", type=path_type(), metavar="IMAGE", help="The image to run; default: a golden input.")
@click.option("--verify", is_flag=True, help="There must be golden outputs to compare; where there are, they always are.")
@click.option("--allow-unstable", is_flag=True, help="Exit with 0 also where the board was throttled, loaded or drifting.")
@click.option("--keep", is_flag=True, help="Leave what was pushed on the device.")
@click.option("--ops", type=click.IntRange(0), default=20, show_default=True, metavar="N", help="Rows of the per-op table; 0: all.")
@click.option("--output", type=path_type(), callback=new_file, metavar="FILE", help="Write the profile as JSON, for `compare`.")
@click.option("--trace", type=path_type(), callback=new_file, metavar="FILE", help="Write a trace that ui.perfetto.dev opens.")
@click.option("--html", type=path_type(), callback=new_file, metavar="FILE", help="Write a report, one page that needs no network.")
@timeout_option
@json_option
def profile_command(
    artifact: Path,
    devices: tuple[str, ...],
    ops: int,
    allow_unstable: bool,
    output: Path | None,
    trace: Path | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Time an artifact on devices, op by op.

    Exits with 1 where golden outputs differ, where a device was throttled, loaded or drifting (unless --allow-unstable), or where
    one of several devices failed; with 2 where all did.
    """
    console = Console(as_json)
    devices = tuple(dict.fromkeys(devices))
    keep_apart((artifact, options["image"]), {"--output": output, "--trace": trace, "--html": html})
    if trace is not None and len(devices) > 1:
        raise click.UsageError("--trace is of one device: profile them one by one")
    with console.progress() as progress:
        if len(devices) == 1:
            result = Profiles((api.profile(artifact, device=devices[0], progress=progress, **options),), ())
        else:
            result = api.profile_all(artifact, devices, progress=progress, **options)
    for profile in result.profiles:
        views.show_profile(console, profile, ops=ops or None)
    ok = result.ok and (allow_unstable or all(p.trusted for p in result.profiles))
    if len(devices) > 1:
        views.show_profiles(console, result)
    for profile in result.profiles:
        if not profile.trusted and not allow_unstable:
            console.bad(
                f"the times on {profile.device} are unstable: repeat the run on a quiet, cool board, or give --allow-unstable"
            )
    payload = result.as_dict() if len(devices) > 1 else result.profiles[0].as_dict()
    if output is not None:
        write_whole(output, as_text({"bvtdeploy": __version__, "ok": ok, "warnings": [], **payload}))
    if trace is not None:
        write_whole(trace, as_text(trace_of(result.profiles[0])))
    if html is not None and result.profiles:
        write_whole(html, report([p.as_dict() for p in result.profiles]))
    for what, path in (("profile", output), ("trace", trace), ("report", html if result.profiles else None)):
        if path is not None:
            console.say(f"{what}: {path}")
    console.result(payload, ok=ok)
    return 0 if ok else 1 if result.profiles else 2


@cli.command("compare")
@click.argument("before", type=path_type())
@click.argument("after", type=path_type())
@click.option("--ops", type=click.IntRange(0), default=20, show_default=True, metavar="N", help="Rows of the per-op table; 0: all.")
@click.option("--html", type=path_type(), callback=new_file, metavar="FILE", help="Write a report, one page that needs no network.")
@json_option
def compare_command(before: Path, after: Path, ops: int, html: Path | None, as_json: bool) -> int:
    """Compare two profiles that `profile --output` wrote: what got faster or slower, and where one cannot tell."""
    console = Console(as_json)
    keep_apart((before, after), {"--html": html})
    result = api.compare(before, after)
    for pair in result.pairs:
        views.show_comparison(console, pair, ops=ops or None)
    if html is not None:
        pairs = pair_up(read_profiles(before), read_profiles(after))
        profiles = [side for pair in pairs for side in pair]
        write_whole(html, report(profiles, [pair.as_dict() for pair in result.pairs]))
        console.say(f"report: {html}")
    console.result(result.as_dict(), warnings=result.warnings)
    return 0


def _rounds(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    number = whole_number(value, 2, 100_000)
    if number is None:
        raise click.BadParameter("give a number from 2 to 100000, or auto")
    return number


@cli.command("bench")
@click.argument("artifact", type=path_type(), required=False)
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
    help="Boards for --modelled and --kernels.",
)  # fmt: skip
@click.option("--kernels", is_flag=True, help="Without an artifact: model single kernels, beside their bounds.")
@click.option(
    "--cases", callback=name_list, metavar="NAME[,NAME...]", help="Of --kernels: only what begins so; bgemm: the binary products.",
)  # fmt: skip
@click.option("--like", metavar="NAME", help="The plain ViT to compare with: deit_tiny, deit_small, deit_base. Default: by shape.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@model_output
@json_option
def bench_command(
    artifact: Path | None,
    against: tuple[str, ...] | None,
    modelled: bool,
    boards: tuple[str, ...],
    kernels: bool,
    cases: tuple[str, ...] | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Time an artifact against other runtimes in this process; with --modelled, model its times on boards.

    With --kernels, and without an artifact: model single kernels on boards.
    """
    console = Console(as_json)
    if kernels:
        if artifact is not None or against or modelled:
            raise click.UsageError("--kernels takes no artifact, no --against and no --modelled")
        with console.progress() as progress:
            found = api.bench_kernels(boards, cases=cases or (), progress=progress)
        views.show_kernels(console, found)
        console.result(found.as_dict())
        return 0
    if artifact is None or cases:
        raise click.UsageError("give an artifact, or --kernels" if artifact is None else "--cases is for --kernels")
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
@click.option(
    "--device",
    default="local",
    show_default=True,
    help="local (this machine), user@host or the name of a device; none that is emulated.",
)
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="How often every layout is timed; default 5.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@input_shape
@model_output
@json_option
def tune_command(source: Path, output: Path, as_json: bool, **options: Any) -> int:
    """Time the layouts of binary weights on a device; `compile --tuning` takes the fastest of every shape.

    Only 64-bit ARM has kernels for more than one layout: elsewhere nothing else is timed, and all shapes get it.
    """
    keep_apart((source,), {"--output": output})
    console = Console(as_json)
    with console.progress() as progress:
        tuning = api.tune(source, output, progress=progress, **options)
    views.show_tuning(console, tuning)
    console.result(tuning.as_dict())
    return 0
