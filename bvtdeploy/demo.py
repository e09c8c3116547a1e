"""The main job on a shipped example, from a trained checkpoint to a Raspberry Pi's program and what it answers.

The checkpoint is a binary ViT that was trained on Fashion-MNIST (examples/models/fashion_binaryvit.md). What is not installed here
is left out, with the reason and how to get it; the rest still happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bvtdeploy
from bvtdeploy import api
from bvtdeploy.device import Device, open_device
from bvtdeploy.errors import UserError

if TYPE_CHECKING:
    from bvtdeploy.build import Build
    from bvtdeploy.compiler import CompileReport
    from bvtdeploy.profile import Profile
    from bvtdeploy.verifier import VerifyReport

BOARD, EMULATED = "rpi4", "qemu:cortex-a72"
VERIFIED_IMAGES = 64


@dataclass(frozen=True)
class Skipped:
    """A part that could not be done here, why, and how to get what it needs."""

    what: str
    why: str
    fix: str


@dataclass(frozen=True)
class Answer:
    """What the model says about one image on each device. `equal`: all outputs have the same bits."""

    image: str
    truth: str
    answers: dict[str, tuple[str, float]]
    equal: bool

    def as_dict(self) -> dict[str, Any]:
        """The answer as JSON."""
        told = {device: {"label": label, "share": share} for device, (label, share) in self.answers.items()}
        return {"image": self.image, "truth": self.truth, "answers": told, "equal": self.equal}


@dataclass
class Demo:
    """What was done; parts that were skipped are None."""

    artifact: Path
    source: Path
    compiled: CompileReport | None = None
    verified: VerifyReport | None = None
    built: Build | None = None
    answers: list[Answer] = field(default_factory=list)
    profiled: Profile | None = None
    emulated: Profile | None = None
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was done came out right, to the bit."""
        profiles = [p for p in (self.profiled, self.emulated) if p is not None]
        return bool(self.verified and self.verified.ok and all(a.equal for a in self.answers) and all(p.ok for p in profiles))

    def as_dict(self) -> dict[str, Any]:
        """All results as JSON."""
        parts = {
            "compile": self.compiled,
            "verify": self.verified,
            "build": self.built,
            "profile": self.profiled,
            "profile_emulated": self.emulated,
        }
        out: dict[str, Any] = {"artifact": str(self.artifact), "source": str(self.source)}
        out |= {name: part.as_dict() if part is not None else None for name, part in parts.items()}
        out["answers"] = [answer.as_dict() for answer in self.answers]
        out["skipped"] = [vars(skipped) for skipped in self.skipped]
        return out


def examples_folder() -> Path:
    """The examples: in a checkout beside the package, in an installed package inside it."""
    package = Path(bvtdeploy.__file__).resolve().parent
    for folder in (package.parent / "examples", package / "_examples"):
        if (folder / "models" / "fashion_binaryvit.pt").is_file():
            return folder
    raise UserError("the example model is not there", where=str(package), fix="run the demo from a checkout of the repository")


def run_demo(output: Path, *, done: Callable[[str, Demo], None], progress: Callable[[str], None] | None = None) -> Demo:
    """Compile, verify, build, run and profile the example.

    Args:
        output: folder for the artifact.
        done: called after each part ("compile", "build", "verify", "run", "profile") with what there is so far.
        progress: told what is being done.
    """
    examples = examples_folder()
    source = examples / "models" / "fashion_binaryvit.pt"
    images = sorted((examples / "data").glob("*.png"))
    output.mkdir(parents=True, exist_ok=True)
    demo = Demo(output / "fashion.bvt", source)
    demo.compiled = api.compile(source, demo.artifact, board=BOARD, progress=progress)
    done("compile", demo)

    devices: list[Device] = []
    try:
        demo.built = api.build(BOARD, progress=progress)
        devices.append(open_device(EMULATED, progress=progress))
    except UserError as error:
        what = "the run on an emulated Cortex-A72" if demo.built else f"the runtime for {BOARD}, and its emulated run"
        demo.skipped.append(Skipped(what, error.what, error.fix))
    done("build", demo)

    local = open_device("local", progress=progress)
    try:
        _ = local.build
        devices.insert(0, local)
    except UserError as error:
        demo.skipped.append(Skipped("the run of the native program, and its profile", error.what, error.fix))

    opened: list[Device] = []
    try:
        for device in devices:
            device.open()
            opened.append(device)
        emulated = next((d for d in devices if d.emulated), None)
        demo.verified = api.verify(
            source,
            demo.artifact,
            images=examples / "data" / "fashion_test.npz",
            limit=VERIFIED_IMAGES,
            device=emulated,
            progress=progress,
        )
        done("verify", demo)
        demo.answers = _answers(demo.artifact, images, devices, progress)
        done("run", demo)
        for device in devices:
            profiled = api.profile(demo.artifact, device=device, progress=progress)
            if device.emulated:
                demo.emulated = profiled
            else:
                demo.profiled = profiled
        done("profile", demo)
    finally:
        for device in opened:
            device.clean()
    return demo


def _answers(artifact: Path, images: list[Path], devices: list[Device], progress: Callable[[str], None] | None) -> list[Answer]:
    """The likeliest class of each image on each device; file names end with the true class."""
    everywhere: list[str | Device] = [api.HOST, *devices]
    results = [api.run(artifact, images, device=device, top=1, progress=progress) for device in everywhere]
    answers: list[Answer] = []
    for i, image in enumerate(images):
        told = {r.device: (r.predictions[i].top[0].label, r.predictions[i].top[0].share) for r in results}
        bits = {r.predictions[i].logits.tobytes() for r in results}
        truth = image.stem.split("_", 2)[-1].replace("_", " ")
        answers.append(Answer(image.name, truth, told, len(bits) == 1))
    return answers
