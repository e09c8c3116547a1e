"""How `run` and `demo` look."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bvtdeploy.console import Console, visible
from bvtdeploy.views.compiled import show_compile
from bvtdeploy.views.profiles import _show_golden, show_profile
from bvtdeploy.views.targets import show_build
from bvtdeploy.views.verified import show_verify

if TYPE_CHECKING:
    from bvtdeploy.api import RunResult
    from bvtdeploy.demo import Demo


def show_run(console: Console, result: RunResult) -> None:
    """What the model said."""
    for prediction in result.predictions:
        console.say(prediction.image, style="bold")
        rows = [(share_text(g.share), visible(g.label) or f"class {g.index}", f"{g.logit:.4f}") for g in prediction.top]
        console.table(["share", "class", "logit"], rows, align="rlr")
    where = f"{result.device}, emulated" if result.emulated else result.device
    console.say(f"{where}; {result.isa} kernels, {result.threads} thread{'s' if result.threads > 1 else ''}", style="dim")


def share_text(share: float) -> str:
    return f"{100 * share:5.1f} %" if math.isfinite(share) else "-"


def show_demo(console: Console, part: str, demo: Demo) -> None:
    """One part of the demo, when it is done."""
    if part == "compile" and demo.compiled:
        console.heading(f"1. compile {demo.source.name} for a Raspberry Pi 4")
        show_compile(console, demo.compiled.as_dict(), explain=False)
    elif part == "build":
        console.heading("2. build the program that goes to the board")
        if demo.built:
            show_build(console, demo.built)
        else:
            console.note("left out: see the end")
    elif part == "verify" and demo.verified:
        console.heading("3. verify against PyTorch, and bit by bit")
        show_verify(console, demo.verified.as_dict(), ok=demo.verified.ok)
    elif part == "run":
        console.heading("4. classify real images")
        devices = list(demo.answers[0].answers) if demo.answers else []
        rows = []
        for answer in demo.answers:
            told = [f"{visible(label)} {share_text(share).strip()}" for label, share in answer.answers.values()]
            rows.append((answer.image, answer.truth, *told, "equal" if answer.equal else "DIFFERENT"))
        console.table(["image", "it is", *devices, "bits"], rows)
    elif part == "profile":
        console.heading("5. profile, op by op")
        if demo.profiled:
            show_profile(console, demo.profiled, ops=10)
        else:
            console.note("left out: see the end")
        if demo.emulated:  # its times would only mislead
            _show_golden(console, demo.emulated)


def show_demo_end(console: Console, demo: Demo) -> None:
    """What was left out, and the verdict."""
    for skipped in demo.skipped:
        console.note(f"left out: {skipped.what}: {skipped.why}. Get it: {skipped.fix}")
    if demo.ok:
        devices = " and ".join(demo.answers[0].answers) if demo.answers else "host"
        console.good(f"all outputs have equal bits on {devices}; the artifact is {demo.artifact}")
    else:
        console.bad("something does not hold: see above")
