"""Checkpoints in the official layouts with the logits of the original implementations (float64): compiled, class and logits hold.

The vectors are not part of this repository; they are looked for beside it. That the modules themselves give these logits to 1e-9 in
float64 is tested in tests/models/test_checkpoints.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bvtdeploy import api
from bvtdeploy.device import Device, RunOptions, open_device
from bvtdeploy.host import Session, isas

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "conformance"
NAMES = sorted(path.stem for path in VECTORS.glob("*.npz"))


@pytest.fixture(scope="module", params=NAMES or ["none"])
def vector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """(artifact, image, logits)."""
    if not NAMES:
        pytest.skip(f"no conformance vectors in {VECTORS}")
    path = tmp_path_factory.mktemp(request.param)
    with np.load(VECTORS / f"{request.param}.npz") as data:
        state = {k.removeprefix("state_dict/"): data[k] for k in data.files if k.startswith("state_dict/")}
        image, logits = data["input"].astype(np.float32), data["logits"].reshape(-1)
    weights = {k: torch.from_numpy(a.astype(np.float32) if a.dtype == np.float16 else a) for k, a in state.items()}
    torch.save(weights, path / "model.pt")
    api.compile(path / "model.pt", path / "model.bvt")
    return path / "model.bvt", image, logits


@pytest.fixture(scope="module")
def board(emulator: str) -> Iterator[Device]:
    with open_device("qemu:cortex-a72") as device:
        yield device


def check(ours: Any, logits: Any) -> None:
    """The same class, and 1e-4 of the largest logit or of each."""
    ours = ours.reshape(-1)
    np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    assert ours.argmax() == logits.argmax()


def test_original_logits_here(vector: tuple[Path, Any, Any]) -> None:
    artifact, image, logits = vector
    for isa in isas():
        check(Session(artifact, isa=isa).run(image), logits)


def test_original_logits_on_an_emulated_board(vector: tuple[Path, Any, Any], board: Device) -> None:
    artifact, image, logits = vector
    for isa in ("auto", "ref"):
        run = board.run_model(artifact, image, RunOptions(isa=isa))
        assert run.isa == ("neon" if isa == "auto" else "ref")
        check(run.outputs, logits)
