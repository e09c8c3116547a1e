"""Builds `bvt_run` from `runtime_arm/sources.txt`: for this machine, and static for aarch64 where the tools are there."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2] / "runtime_arm"
FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Werror", "-Iinclude"]


def sources(arch: str, *targets: str) -> list[tuple[str, list[str]]]:
    """(file, extra flags) of the lines of sources.txt that belong to the targets and the architecture."""
    found, target = [], "bvt"
    for line in (ROOT / "sources.txt").read_text().splitlines():
        words = line.split("#", 1)[0].split()
        if words and words[0].startswith("@"):
            target = words[0][1:]
        elif words and target in targets and (len(words) == 1 or words[1] == arch):
            found.append((words[0], words[2:]))
    return found


def build(folder: Path, compiler: str, arch: str, output: str, *link: str) -> Path:
    """Compiles and links bvt_run (or, for a name that ends in .so, the library alone)."""
    shared = output.endswith(".so")

    def compile_one(item: tuple[str, list[str]]) -> str:
        file, extra = item
        result = folder / f"{arch}_{'so' if shared else ''}_{file.replace('/', '_')}.o"
        pic = ["-fPIC"] if shared else []
        subprocess.run([compiler, *FLAGS, *pic, *extra, "-c", file, "-o", result], cwd=ROOT, check=True)
        return str(result)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources(arch, *(["bvt"] if shared else ["bvt", "bvt_run"]))))
    subprocess.run([compiler, *link, *objects, "-pthread", "-lm", "-o", folder / output], check=True)
    return folder / output


@dataclass(frozen=True)
class Runner:
    """bvt_run on a (possibly emulated) CPU with one of its ISAs."""

    command: tuple[str, ...]
    isa: str

    def __call__(self, *args: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([*self.command, *map(str, args)], capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr
        return done

    def crcs(self, model: Path, raw: Path) -> list[dict[str, Any]]:
        """The checksums of all op outputs."""
        done = self(model, "--raw", raw, "--op-crc", "--json", "--isa", self.isa)
        result: list[dict[str, Any]] = json.loads(done.stdout)["crcs"]
        return result


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(scope="session")
def native(folder: Path) -> Path:
    return build(folder, "gcc", platform.machine(), "bvt_run")


@pytest.fixture(scope="session")
def library(folder: Path) -> Path:
    return build(folder, "gcc", platform.machine(), "libbvt.so", "-shared")


@pytest.fixture(scope="session")
def emulated(folder: Path) -> Path:
    if not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64-static")):
        pytest.skip("no aarch64 cross compiler or no qemu")
    return build(folder, "aarch64-linux-gnu-gcc", "aarch64", "bvt_run_a64", "-static")


CPUS = ["native-ref", "native-auto", "cortex-a53-ref", "cortex-a53-neon", "cortex-a76-neon"]


@pytest.fixture(scope="session", params=CPUS)
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    cpu, _, isa = request.param.rpartition("-")
    if cpu == "native":
        yield Runner((str(request.getfixturevalue("native")),), isa)
    else:
        yield Runner(("qemu-aarch64-static", "-cpu", cpu, str(request.getfixturevalue("emulated"))), isa)
