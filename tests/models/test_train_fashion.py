"""The training script, end to end on a handful of random images and a very small network."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bvtdeploy.models import load_model, read_checkpoint  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("train_fashion", ROOT / "examples" / "train_fashion.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HELD_OUT", 16)
    small = replace(module.CONFIG, dims=(8, 16), depths=(1, 1), heads=(1, 1), intermediate=(16, 32))
    monkeypatch.setattr(module, "CONFIG", small)
    random = np.random.default_rng(0)
    for name, count in (("train", 80), ("t10k", 24)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", random.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", random.integers(0, 10, count, dtype=np.uint8))

    threads = torch.get_num_threads()

    def run(*words: str) -> int:
        common = ["--data", str(tmp_path), "--batch", "16", "--teacher-epochs", "1"]
        monkeypatch.setattr(sys, "argv", ["train_fashion.py", *common, *words])
        return int(module.main())

    yield run
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def test_train_write_and_evaluate(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    assert script("--out", str(first), "--epochs", "2") == 0
    assert script("--out", str(second), "--epochs", "2") == 0
    a, b = read_checkpoint(first), read_checkpoint(second)
    assert all(torch.equal(a.state[k], b.state[k]) for k in a.state)
    assert a.extra["preprocess"]["width"] == 32 and len(a.extra["labels"]) == 10
    accuracy = a.extra["facts"]["test_accuracy"]
    assert f"**{accuracy:.2f} %** of all 24 test images" in first.with_suffix(".md").read_text()
    capsys.readouterr()
    assert script("--evaluate", str(first)) == 0
    assert f"{accuracy:.2f} % of 24" in capsys.readouterr().out
    assert all(float(v) > 0 for k, v in load_model(first).state_dict().items() if k.endswith("att_prob_clip"))


def test_go_on_from_a_stopped_run(script: Any, tmp_path: Path) -> None:
    out, partial = tmp_path / "c.pt", tmp_path / "c.partial.pt"
    assert script("--out", str(out), "--epochs", "3", "--stop-after", "1") == 0
    assert partial.exists() and not out.exists()
    assert script("--out", str(out), "--epochs", "1", "--start", str(partial)) == 0
    assert [(p["epochs"], p["of"]) for p in read_checkpoint(out).extra["facts"]["phases"]] == [(1, 3), (1, 1)]
    assert "1 of 3 epochs from learning rate 0.003, then 1 of 1" in out.with_suffix(".md").read_text()
