"""32-bit ARM: the C tests and whole models under emulated cores, bit for bit as on this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from .conftest import FLAGS, ROOT, sources

torch = pytest.importorskip("torch")

from bvtdeploy import api  # noqa: E402
from bvtdeploy.artifact.inspect import inspect  # noqa: E402
from bvtdeploy.host import Session  # noqa: E402
from bvtdeploy.models import zoo  # noqa: E402

GCC, QEMU = "arm-linux-gnueabihf-gcc", "qemu-arm-static"
TESTS = ("test_kernels", "test_bgemm", "test_load", "test_threads", "test_image")
# "neon": what boards get. "bare": what a distribution's compiler makes by itself, without NEON and fused multiply-add; kernels
# that need them are compiled all the same, and taken where the core has them.
TARGETS = {"neon": ["-march=armv7-a", "-mfpu=neon-vfpv4"], "bare": ["-march=armv7-a", "-mfpu=vfpv3-d16"]}
NANO = [name for name in zoo.names() if name.endswith("_nano")]


@dataclass(frozen=True)
class Programs:
    """What was built for one target: `bvt_run` and the C tests."""

    folder: Path

    def run(self, cpu: str, name: str, *args: str | Path) -> str:
        """What a program prints on a core."""
        command = [QEMU, "-cpu", cpu, str(self.folder / name), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def crcs(self, cpu: str, model: Path, raw: Path, isa: str = "auto") -> dict[str, list[int]]:
        """The checksums of all that an inference computes; its golden outputs must come out, too."""
        told = json.loads(self.run(cpu, "bvt_run", model, "--raw", raw, "--golden", "--op-crc", "--json", "--isa", isa))
        assert told["golden"]["checked"] == told["golden"]["equal"] == told["model"]["n_golden"] > 0
        found: dict[str, list[int]] = {}
        for crc in told["crcs"]:
            found.setdefault(crc["value"], []).append(crc["crc"])
        return found


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Programs]:
    """Builds a target when it is first asked for."""
    for tool, package in ((GCC, "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"), (QEMU, "qemu-user-static")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install {package}")
    made: dict[str, Programs] = {}

    def build(target: str) -> Programs:
        folder = tmp_path_factory.mktemp(f"arm-{target}")

        def compile_one(item: tuple[str, list[str]]) -> str:
            file, extra = item
            result = folder / (file.replace("/", "_") + ".o")
            subprocess.run([GCC, *FLAGS, "-Isrc", *TARGETS[target], *extra, "-c", file, "-o", result], cwd=ROOT, check=True)
            return str(result)

        with ThreadPoolExecutor(2) as pool:
            library = list(pool.map(compile_one, sources("arm", "bvt")))
            programs = {"bvt_run": list(pool.map(compile_one, sources("arm", "bvt_run")))}
            programs |= {name: [compile_one((f"tests/{name}.c", []))] for name in TESTS}
        for name, objects in programs.items():
            subprocess.run([GCC, "-static", *objects, *library, "-pthread", "-lm", "-o", folder / name], check=True)
        return Programs(folder)

    def get(target: str) -> Programs:
        if target not in made:
            made[target] = build(target)
        return made[target]

    return get


def random_input(model: Path, file: Path) -> np.ndarray:
    """Numbers for a model's input, written to a raw file."""
    array = np.random.default_rng(5).normal(size=Session(model).input_shape).astype("<f4")
    file.write_bytes(array.tobytes())
    return array


def on_host(model: Path, array: np.ndarray) -> dict[str, list[int]]:
    """The checksums of this machine."""
    session = Session(model, op_crc=True)
    session.run(array)
    return session.crcs()


@pytest.mark.parametrize("cpu", ["cortex-a7", "cortex-a15"])
def test_every_kernel_equals_its_reference(programs: Callable[[str], Programs], cpu: str) -> None:
    built = programs("neon")
    assert "neon vfpv4" in built.run(cpu, "bvt_run", "--version")
    for name in TESTS if cpu == "cortex-a7" else TESTS[:2]:
        assert ", 0 failures" in built.run(cpu, name, *(["20"] if name == "test_kernels" else []))


def test_neon_never_sees_a_float(programs: Callable[[str], Programs]) -> None:
    """It would round subnormals to zero. Vectors of floats are moved, not computed with."""
    built = programs("neon")
    objects = sorted(built.folder.glob("src_*.o"))
    told = subprocess.run([GCC.replace("gcc", "objdump"), "-d", *objects], capture_output=True, text=True, check=True).stdout
    scalar, vector = (re.findall(rf"\s(v[a-z]+\.f32)\s+{kind}\d", told) for kind in ("s", "[dq]"))
    assert len(scalar) > 500 and not vector, set(vector)


def test_a_core_without_fused_multiply_add(programs: Callable[[str], Programs], artifact: Path, tmp_path: Path) -> None:
    """An A9 has NEON but no VFPv4: products take NEON, floats are portable, fma is the C library's."""
    built = programs("bare")
    assert built.run("cortex-a9", "bvt_run", "--version").split(", ")[-1].split() == ["neon"]
    assert ", 0 failures" in built.run("cortex-a9", "test_kernels", "20")
    array = random_input(artifact, tmp_path / "x")
    want = on_host(artifact, array)
    for cpu in ("cortex-a9", "cortex-a7"):
        assert built.crcs(cpu, artifact, tmp_path / "x") == want


def test_the_shipped_model(programs: Callable[[str], Programs], artifact: Path, tmp_path: Path) -> None:
    array = random_input(artifact, tmp_path / "x")
    want = on_host(artifact, array)
    for isa in ("ref", "neon"):
        assert programs("neon").crcs("cortex-a7", artifact, tmp_path / "x", isa) == want and len(want) > 20


@pytest.mark.parametrize("name", NANO)
def test_every_family(programs: Callable[[str], Programs], tmp_path: Path, name: str) -> None:
    """Compiled for a Raspberry Pi 5, whose layouts of weights no kernel here reads: they are laid out anew."""
    checkpoint, model = tmp_path / "model.pt", tmp_path / "model.bvt"
    checkpoint.write_bytes(zoo.checkpoint_bytes(name))
    api.compile(checkpoint, model, board="rpi5")
    array = random_input(model, tmp_path / "x")
    assert programs("neon").crcs("cortex-a7", model, tmp_path / "x") == on_host(model, array)


def test_layouts_of_other_boards(programs: Callable[[str], Programs], artifact: Path, checkpoint: Path, tmp_path: Path) -> None:
    """No kernel here reads them; what comes out is the same, value by value."""
    other = tmp_path / "rpi5.bvt"
    api.compile(checkpoint, other, board="rpi5")
    array = random_input(artifact, tmp_path / "x")
    layouts = [{op["layout"] for op in inspect(model)["ops"] if op["kind"] == "bgemm"} for model in (artifact, other)]
    assert layouts[0] != layouts[1] and "tbl2" in layouts[1]
    got = [programs("neon").crcs("cortex-a7", model, tmp_path / "x") for model in (artifact, other)]
    assert got[0] == got[1] == on_host(artifact, array)
