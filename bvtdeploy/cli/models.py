"""The commands about model files: compile, inspect, verify, run, and the named models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from bvtdeploy import api, views
from bvtdeploy.cli.options import Group, input_shape, json_option, keep_option, model_output, path_type, timeout_option
from bvtdeploy.cli.root import cli
from bvtdeploy.console import Console


@cli.command("compile")
@click.argument("source", type=path_type())
@click.option("-o", "--output", required=True, type=path_type(), metavar="OUT.bvt", help="The artifact to write.")
@click.option("--board", default="generic", show_default=True, help="Name or TOML file of the board; never changes results.")
@click.option(
    "--preprocess", metavar="imagenet|FILE", help="How images become input (JSON or TOML); default: what the checkpoint says."
)
@click.option("--labels", type=path_type(), metavar="FILE", help="Class names, one a line; default: what the checkpoint says.")
@click.option("--dump-ir", type=path_type(), metavar="DIR", help="Write the graph after every pass.")
@click.option(
    "--zeros", type=click.Choice(["exact", "positive"]), default="exact", show_default=True,
    help="Signs of integers that can be 0: a third code as in the source, or +1.",
)  # fmt: skip
@click.option(
    "--side", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True,
    help="How real parameters are stored; int8: matrices in int8, the rest in fp16.",
)  # fmt: skip
@click.option(
    "--patch-embed", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True,
    help="How the patch embedding is computed; int8: faster, its loss is measured by `verify`.",
)  # fmt: skip
@click.option(
    "--elementwise", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True,
    help="What element-wise ops compute in; fp16: faster on boards that have FP16 arithmetic, slightly other logits.",
)  # fmt: skip
@click.option("--tuning", type=path_type(), metavar="FILE", help="Layouts that `bvtdeploy tune` found; never changes results.")
@click.option("--explain", is_flag=True, help="List every place where a pass declined, and why.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@input_shape
@model_output
@json_option
def compile_command(source: Path, output: Path, explain: bool, as_json: bool, **options: Any) -> int:
    """Compile a trained model to a .bvt file."""
    console = Console(as_json)
    with console.progress() as progress:
        report = api.compile(source, output, progress=progress, **options)
    views.show_compile(console, report.as_dict(), explain=explain)
    console.result(report.as_dict(), warnings=report.warnings)
    return 0


@cli.command("inspect")
@click.argument("artifact", type=path_type())
@json_option
def inspect_command(artifact: Path, as_json: bool) -> int:
    """Show what is in an artifact: ops, shapes, work, bytes."""
    console = Console(as_json)
    facts = api.inspect(artifact)
    views.show_inspect(console, facts)
    console.result({"artifact": str(artifact), **facts})
    return 0


@cli.command("verify")
@click.argument("source", type=path_type())
@click.argument("artifact", type=path_type())
@click.option("--images", type=path_type(), metavar="NPZ|FOLDER|FILE", help="Images to run; an .npz may have labels.")
@click.option("--random", type=click.IntRange(1), metavar="N", help="Run N random inputs instead (16 without --images).")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Take no more images than this.")
@click.option("--device", metavar="DEVICE", help="Also run there: local, qemu:CPU, user@host or the name of a device.")
@keep_option
@timeout_option
@click.option("--bisect", is_flag=True, help="Where bits differ, name the first op.")
@click.option("--teacher-forced", is_flag=True, help="Also compare every op alone with the source, on the source's operands.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@input_shape
@model_output
@json_option
def verify_command(source: Path, artifact: Path, as_json: bool, **options: Any) -> int:
    """Prove that an artifact computes the same bits everywhere and agrees with its source."""
    if options["images"] is not None and options["random"] is not None:
        raise click.UsageError("give --images or --random, not both")
    console = Console(as_json)
    with console.progress() as progress:
        report = api.verify(source, artifact, progress=progress, **options)
    views.show_verify(console, report.as_dict(), ok=report.ok)
    console.result(report.as_dict(), ok=report.ok, warnings=report.warnings)
    return 0 if report.ok else 1


@cli.command("run")
@click.argument("artifact", type=path_type())
@click.argument("images", nargs=-1, required=True, type=path_type())
@click.option(
    "--device", default=api.HOST, show_default=True, help="host (this process), local, qemu:CPU, user@host or the name of a device."
)
@keep_option
@timeout_option
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to show.")
@json_option
def run_command(artifact: Path, images: Sequence[Path], as_json: bool, **options: Any) -> int:
    """Classify images."""
    console = Console(as_json)
    with console.progress() as progress:
        result = api.run(artifact, images, progress=progress, **options)
    views.show_run(console, result)
    console.result(result.as_dict())
    return 0


@cli.group("models", cls=Group, invoke_without_command=True)
@json_option
def models_command(as_json: bool) -> int:
    """List the named models of every family and their costs; `export` writes one to a file, `check` compares with PyTorch."""
    context = click.get_current_context()
    if context is not None and context.invoked_subcommand is not None:
        return 0
    console = Console(as_json)
    with console.progress() as progress:
        known = api.models(progress=progress)
    views.show_models(console, known)
    console.result({"models": [model.as_dict() for model in known]})
    return 0


@models_command.command("export")
@click.argument("name")
@click.option(
    "-o", "--output", required=True, type=path_type(), metavar="FILE", help=".pt2: an exported program; .pt: a checkpoint."
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the random weights.")
@json_option
def models_export_command(as_json: bool, **options: Any) -> int:
    """Write a named model with random weights to a file, to try the compiler on."""
    context = click.get_current_context()
    above = context.parent.params if context is not None and context.parent is not None else {}
    console = Console(as_json or bool(above.get("as_json")))
    with console.progress() as progress:
        exported = api.export_model(progress=progress, **options)
    views.show_exported(console, exported)
    console.result(exported.as_dict())
    return 0


@models_command.command("check")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "all_sizes", is_flag=True, help="Every model; the large ones take minutes each. Default: the small ones.")
@json_option
def models_check_command(names: Sequence[str], all_sizes: bool, as_json: bool) -> int:
    """Compile named models and compare every op with PyTorch, on PyTorch's operands: integers exactly, floats to 1e-5."""
    if names and all_sizes:
        raise click.UsageError("give names or --all, not both")
    context = click.get_current_context()
    above = context.parent.params if context is not None and context.parent is not None else {}
    console = Console(as_json or bool(above.get("as_json")))
    with console.progress() as progress:
        checked = api.check_models(names, all_sizes=all_sizes, progress=progress)
    views.show_checked(console, checked)
    console.result(checked.as_dict(), ok=checked.ok)
    return 0 if checked.ok else 1


@cli.command("demo")
@click.option(
    "--output", type=path_type(), default=Path("bvtdeploy-demo"), show_default=True, metavar="DIR", help="Folder for the artifact."
)
@json_option
def demo_command(output: Path, as_json: bool) -> int:
    """Do the main job on a shipped example: compile, verify, cross-build, run on an emulated Raspberry Pi 4, profile."""
    from bvtdeploy.demo import run_demo

    console = Console(as_json)
    with console.progress() as progress:
        demo = run_demo(output, done=lambda part, so_far: views.show_demo(console, part, so_far), progress=progress)
    views.show_demo_end(console, demo)
    console.result(demo.as_dict(), ok=demo.ok)
    return 0 if demo.ok else 1
