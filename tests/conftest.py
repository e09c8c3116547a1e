"""What tests of several folders share: the example model, compiled once, the small models of the families, exported once, and a
cache of built runtimes that is theirs alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from boardsim.fixtures import board_system, booted_pi4, orin, pi4, user_config  # noqa: F401 (fixtures of many tests)

# Before anything imports torch: on these small models, and on a shared machine, a second thread of torch only waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: the machine is shared. The same examples in every run.
hypothesis.settings.register_profile("bvtdeploy", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.load_profile("bvtdeploy")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="session", autouse=True)
def runtime_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of the user's cache is read or changed."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("BVTDEPLOY_CACHE")
    os.environ["BVTDEPLOY_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["BVTDEPLOY_CACHE"]
    else:
        os.environ["BVTDEPLOY_CACHE"] = before


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The shipped trained model."""
    return EXAMPLES / "models" / "fashion_binaryvit.pt"


@pytest.fixture(scope="session")
def images() -> list[Path]:
    """Real images; their names end with what they show."""
    return sorted((EXAMPLES / "data").glob("*.png"))


@pytest.fixture(scope="session")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, compiled for a Raspberry Pi 4."""
    from bvtdeploy import api

    output = tmp_path_factory.mktemp("artifact") / "fashion.bvt"
    api.compile(checkpoint, output, board="rpi4")
    return output


@cache
def _exported(name: str) -> Any:
    import torch

    from bvtdeploy.models import zoo

    model: Any = zoo.create(name)
    shape = (1, model.config.in_channels, model.config.image_size, model.config.image_size)
    return torch.export.export(model, (torch.zeros(shape),), strict=False)


@pytest.fixture(scope="session")
def exported() -> Callable[[str], Any]:
    """The program of a named model, exported once in a session: that is most of what an import costs. Nobody may change it."""
    return _exported


@pytest.fixture(scope="session")
def cross_gcc() -> str:
    """The distribution's compiler for 64-bit ARM."""
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("no aarch64-linux-gnu-gcc: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    return "aarch64-linux-gnu-gcc"


@pytest.fixture(scope="session")
def emulator(cross_gcc: str) -> str:
    """An emulator to run what the cross compiler makes."""
    from bvtdeploy.device.local import find_qemu

    if not find_qemu():
        pytest.skip("no user-mode QEMU: apt-get install qemu-user-static")
    return find_qemu()
