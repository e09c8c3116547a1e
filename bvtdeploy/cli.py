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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import rich_click as click
from click.exceptions import Exit

from bvtdeploy import __version__, api, views
from bvtdeploy.boards import suggest
from bvtdeploy.console import Console, OutputFailed, print_error
from bvtdeploy.errors import UserError

Command = Callable[..., int]

click.rich_click.MAX_WIDTH = 120


def _path(**how: Any) -> click.Path:
    return click.Path(path_type=Path, **how)


class _Group(click.RichGroup):
    """Suggests the nearest command for a mistyped one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            name = args[0] if args else ""
            if self.get_command(ctx, name) is None and not name.startswith("-"):
                raise click.UsageError(f"there is no command '{name}'; {suggest(name, self.list_commands(ctx))}", ctx) from error
            raise


_EXIT_CODES = (
    "Exit codes: 0 done; 1 the answer is no (bits differ, something needed is missing); 2 wrong use or bad input; 3 a bug of ours; "
    "130 interrupted (Ctrl-C); 141 the reader of the output has gone; 143 terminated."
)


@click.group(cls=_Group, epilog=_EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bvtdeploy")
def cli() -> None:
    """Compile trained binary Vision Transformers for ARM boards, and prove that the board computes the same bits."""


def _json(function: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")(function)


def _shape(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int, int, int] | None:
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and 1 <= int(part[:9]) <= 65536 for part in parts):
        raise click.BadParameter("give channels, height and width, for example 3,224,224")
    channels, height, width = (int(part) for part in parts)
    return 1, channels, height, width


def _input_shape(function: Command) -> Command:
    text = "Shape of one input image, for a model that does not tell it."
    return click.option("--input-shape", "example_input", metavar="C,H,W", callback=_shape, help=text)(function)


def _model_output(function: Command) -> Command:
    text = "Which of a model's several outputs the logits are; default: the one called logits, or the only one."
    return click.option("--model-output", metavar="NAME|N", help=text)(function)


@cli.command("compile")
@click.argument("source", type=_path())
@click.option("-o", "--output", required=True, type=_path(), metavar="OUT.bvt", help="The artifact to write.")
@click.option("--board", default="generic", show_default=True, help="Name or TOML file of the board; never changes results.")
@click.option(
    "--preprocess", metavar="imagenet|FILE", help="How images become input (JSON or TOML); default: what the checkpoint says."
)
@click.option("--labels", type=_path(), metavar="FILE", help="Class names, one a line; default: what the checkpoint says.")
@click.option("--dump-ir", type=_path(), metavar="DIR", help="Write the graph after every pass.")
@click.option(
    "--zeros", type=click.Choice(["exact", "positive"]), default="exact", show_default=True,
    help="Signs of integers that can be 0: a third code as in the source, or +1.",
)  # fmt: skip
@click.option(
    "--side", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True,
    help="How real parameters are stored; int8: matrices in int8, the rest in fp16.",
)  # fmt: skip
@click.option("--tuning", type=_path(), metavar="FILE", help="Layouts that `bvtdeploy tune` found; never changes results.")
@click.option("--explain", is_flag=True, help="List every place where a pass declined, and why.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@_input_shape
@_model_output
@_json
def compile_command(source: Path, output: Path, explain: bool, as_json: bool, **options: Any) -> int:
    """Compile a trained model to a .bvt file."""
    console = Console(as_json)
    with console.progress() as progress:
        report = api.compile(source, output, progress=progress, **options)
    views.show_compile(console, report.as_dict(), explain=explain)
    console.result(report.as_dict(), warnings=report.warnings)
    return 0


@cli.command("inspect")
@click.argument("artifact", type=_path())
@_json
def inspect_command(artifact: Path, as_json: bool) -> int:
    """Show what is in an artifact: ops, shapes, work, bytes."""
    console = Console(as_json)
    facts = api.inspect(artifact)
    views.show_inspect(console, facts)
    console.result({"artifact": str(artifact), **facts})
    return 0


@cli.command("verify")
@click.argument("source", type=_path())
@click.argument("artifact", type=_path())
@click.option("--images", type=_path(), metavar="NPZ|FOLDER|FILE", help="Images to run; an .npz may have labels.")
@click.option("--random", type=click.IntRange(1), metavar="N", help="Run N random inputs instead (16 without --images).")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Take no more images than this.")
@click.option("--device", metavar="DEVICE", help="Also run there: local or qemu:CPU.")
@click.option("--bisect", is_flag=True, help="Where bits differ, name the first op.")
@click.option("--teacher-forced", is_flag=True, help="Also compare every op alone with the source, on the source's operands.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@_input_shape
@_model_output
@_json
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
@click.argument("artifact", type=_path())
@click.argument("images", nargs=-1, required=True, type=_path())
@click.option("--device", default=api.HOST, show_default=True, help="host (in this process), local or qemu:CPU.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="How many classes to show.")
@_json
def run_command(artifact: Path, images: Sequence[Path], as_json: bool, **options: Any) -> int:
    """Classify images."""
    console = Console(as_json)
    with console.progress() as progress:
        result = api.run(artifact, images, progress=progress, **options)
    views.show_run(console, result)
    console.result(result.as_dict())
    return 0


@cli.command("build")
@click.option("--board", default="generic", show_default=True, help="Name or TOML file of the board.")
@click.option("--toolchain", default="auto", show_default=True, metavar="auto|gcc|zig|PATH", help="The compiler to take.")
@click.option("--output", type=_path(), metavar="DIR", help="Folder for bvt_run, libbvt.a and bvt.h; default: only the cache.")
@_json
def build_command(as_json: bool, **options: Any) -> int:
    """Compile the runtime for a board: a static program and a library."""
    console = Console(as_json)
    with console.progress() as progress:
        result = api.build(progress=progress, **options)
    views.show_build(console, result)
    console.result(result.as_dict())
    return 0


def _counts(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("give numbers with commas between them, for example 1,2,4") from None
    if not all(1 <= count <= 64 for count in counts):
        raise click.BadParameter("threads go from 1 to 64")
    return counts


def _number_or_auto(_: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    least = 1 if parameter.name == "runs" else 0
    if not value.isdecimal() or int(value) < least:
        raise click.BadParameter(f"give a number from {least} on, or auto")
    return int(value)


@cli.command("profile")
@click.argument("artifact", type=_path())
@click.option(
    "--device", default="local", show_default=True, help="local or qemu:CPU (emulated: says nothing about a board's speed)."
)
@click.option("--threads", default="1", show_default=True, callback=_counts, metavar="N[,N...]", help="Thread counts to time.")
@click.option("--runs", default="auto", show_default=True, callback=_number_or_auto, metavar="auto|N", help="Timed runs.")
@click.option("--warmup", default="auto", show_default=True, callback=_number_or_auto, metavar="auto|N", help="Runs before them.")
@click.option("--input", "image", type=_path(), metavar="IMAGE", help="The image to run; default: a golden input.")
@click.option("--ops", type=click.IntRange(0), default=20, show_default=True, metavar="N", help="Rows of the per-op table; 0: all.")
@_json
def profile_command(artifact: Path, ops: int, as_json: bool, **options: Any) -> int:
    """Time an artifact on a device, op by op."""
    console = Console(as_json)
    with console.progress() as progress:
        result = api.profile(artifact, progress=progress, **options)
    views.show_profile(console, result, ops=ops or None)
    console.result(result.as_dict(), ok=result.ok)
    return 0 if result.ok else 1


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def _rounds(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdecimal() or not 2 <= int(value[:9]) <= 100_000:
        raise click.BadParameter("give a number from 2 on, or auto")
    return int(value)


@cli.command("bench")
@click.argument("artifact", type=_path())
@click.option(
    "--against", callback=_names, metavar="PEER[,PEER...]",
    help="onnxruntime, litert, executorch. Default: onnxruntime, or none with --modelled.",
)  # fmt: skip
@click.option("--model", type=_path(), metavar="MODEL", help="What was compiled: ONNX Runtime then also runs the same network.")
@click.option("--threads", default="1,2", show_default=True, callback=_counts, metavar="N[,N...]", help="Thread counts to time.")
@click.option("--rounds", default="auto", show_default=True, callback=_rounds, metavar="auto|N", help="Rounds of each comparison.")
@click.option("--modelled", is_flag=True, help="Count executed instructions on emulated boards and model their times.")
@click.option(
    "--board", "boards", default="rpi4,rpi5", show_default=True, callback=_names, metavar="BOARD[,BOARD...]",
    help="Boards for --modelled.",
)  # fmt: skip
@click.option("--like", metavar="NAME", help="The plain ViT to compare with: deit_tiny, deit_small, deit_base. Default: by shape.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@_model_output
@_json
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
@click.argument("source", type=_path())
@click.option("-o", "--output", required=True, type=_path(), metavar="FILE", help="The tuning file to write (TOML).")
@click.option("--device", default="local", show_default=True, help="local: this machine.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="How often every layout is timed; default 5.")
@click.option("--trust-pickle", is_flag=True, help="Run the code that a pickled module brings. Only for files you trust.")
@_input_shape
@_model_output
@_json
def tune_command(source: Path, output: Path, as_json: bool, **options: Any) -> int:
    """Time the layouts of binary weights on a device; `compile --tuning` takes the fastest of every shape."""
    console = Console(as_json)
    with console.progress() as progress:
        tuning = api.tune(source, output, progress=progress, **options)
    views.show_tuning(console, tuning)
    console.result(tuning.as_dict())
    return 0


@cli.command("boards")
@_json
def boards_command(as_json: bool) -> int:
    """List the boards that --board knows."""
    console = Console(as_json)
    known = api.boards()
    views.show_boards(console, known)
    console.result({"boards": [board.as_dict() for board in known]})
    return 0


@cli.group("models", cls=_Group, invoke_without_command=True)
@_json
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
@click.option("-o", "--output", required=True, type=_path(), metavar="FILE", help=".pt2: an exported program; .pt: a checkpoint.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of the random weights.")
@_json
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
@_json
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


@cli.command("doctor")
@_json
def doctor_command(as_json: bool) -> int:
    """Show what is installed, what is missing, and how to get it."""
    console = Console(as_json)
    diagnosis = api.doctor()
    views.show_doctor(console, diagnosis)
    console.result(diagnosis.as_dict(), ok=diagnosis.ok)
    return 0 if diagnosis.ok else 1


@cli.command("demo")
@click.option(
    "--output", type=_path(), default=Path("bvtdeploy-demo"), show_default=True, metavar="DIR", help="Folder for the artifact."
)
@_json
def demo_command(output: Path, as_json: bool) -> int:
    """Do the main job on a shipped example: compile, verify, cross-build, run on an emulated Raspberry Pi 4, profile."""
    from bvtdeploy.demo import run_demo

    console = Console(as_json)
    with console.progress() as progress:
        demo = run_demo(output, done=lambda part, so_far: views.show_demo(console, part, so_far), progress=progress)
    views.show_demo_end(console, demo)
    console.result(demo.as_dict(), ok=demo.ok)
    return 0 if demo.ok else 1


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


if __name__ == "__main__":
    sys.exit(main())
