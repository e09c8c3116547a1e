"""The generated loop for in-order cores: it is what its generator writes, and no slower than it was."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUNTIME = Path(__file__).resolve().parents[2] / "runtime_arm"


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, RUNTIME / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load("tools/csa_a53.py")


def test_the_file_is_fresh(generator: ModuleType) -> None:
    assert generator.text() == (RUNTIME / "src/kernels/bgemm_csa_a53.inc").read_text(), "write it anew: see tools/csa_a53.py"


def test_scheduling_pays(generator: ModuleType) -> None:
    """4 rows x 32 channels x 4 steps of 8 columns a pass; the order of the data flow issues much worse."""
    a53 = sys.modules["a53"]

    def rate(lines: list[str]) -> float:
        named = [line.replace("%[x]", "x1").replace("%[w]", "x2").replace("%w[doubles]", "x3") for line in [*lines, "b.ne 1b"]]
        return 4 * 32 * 32 / a53.in_order([a53.decode(*line.split(" ", 1)) for line in named])

    body = generator.body()
    scheduled = generator.schedule(body)
    assert sorted(scheduled) == sorted(body)
    assert rate(scheduled) > 38 > 1.3 * rate(body)
