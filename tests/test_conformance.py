"""Checkpoints in the official layouts with the logits of the original implementations (float64): compiled, class and logits hold.

The vectors are not part of this repository; they are looked for beside it. That the modules themselves give these logits to 1e-9 in
float64 is tested in tests/models/test_checkpoints.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bvtdeploy.compiler import compile_model
from bvtdeploy.host import Session, isas

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "conformance"
NAMES = sorted(path.stem for path in VECTORS.glob("*.npz"))


@pytest.mark.skipif(not NAMES, reason=f"no conformance vectors in {VECTORS}")
@pytest.mark.parametrize("name", NAMES or ["none"])
def test_original_logits(name: str, tmp_path: Path) -> None:
    with np.load(VECTORS / f"{name}.npz") as data:
        state = {k.removeprefix("state_dict/"): data[k] for k in data.files if k.startswith("state_dict/")}
        image, logits = data["input"].astype(np.float32), data["logits"].reshape(-1)
    weights = {k: torch.from_numpy(a.astype(np.float32) if a.dtype == np.float16 else a) for k, a in state.items()}
    torch.save(weights, tmp_path / "model.pt")
    compile_model(tmp_path / "model.pt", tmp_path / "model.bvt")
    for isa in isas():
        ours = Session(tmp_path / "model.bvt", isa=isa).run(image).reshape(-1)
        np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
        assert ours.argmax() == logits.argmax()
