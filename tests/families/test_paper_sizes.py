"""Every model of paper size: exported, compiled, and exact between host, interpreter and the emulated Cortex-A72.

    BVTDEPLOY_ALL_SIZES=1 python -m pytest -s tests/families/test_paper_sizes.py

Minutes a model. Each prints a line: name, bytes of the artifact and of the arena, whether all executions gave equal bits, how close
the logits and the first signs are to PyTorch's, and the seconds that it all took.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bvtdeploy import api  # noqa: E402
from bvtdeploy.models import zoo  # noqa: E402

PAPER = [name for name in zoo.names() if not name.endswith("_nano")]
DEVICE = "qemu:cortex-a72"


def test_there_are_eleven() -> None:
    assert len(PAPER) == 11


@pytest.mark.skipif(os.environ.get("BVTDEPLOY_ALL_SIZES") != "1", reason="minutes a model: BVTDEPLOY_ALL_SIZES=1 runs it")
@pytest.mark.parametrize("name", PAPER)
def test_exact(name: str, tmp_path: Path, emulator: str, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.perf_counter()
    source, artifact = tmp_path / f"{name}.pt", tmp_path / f"{name}.bvt"
    source.write_bytes(zoo.checkpoint_bytes(name))
    compiled = api.compile(source, artifact).as_dict()
    report = api.verify(source, artifact, random=1, device=DEVICE)
    seconds = time.perf_counter() - start
    first = max(f["rate"] for f in report.flips[:4])
    sizes = f"{artifact.stat().st_size:9d} bytes  arena {compiled['arena_bytes']:8d}"
    close = f"cosine {report.logit_cosine_min:.6f}  first signs {first:.5f}"
    with capsys.disabled():
        print(f"\n{name:26} {sizes}  exact: {str(report.exact).lower()}  {close}  {seconds:4.0f} s")
    assert report.exact, report.pairs
    # All of them ran: the interpreter, both kinds of host kernels, and both kinds of the core's.
    expected = {"interpreter/golden", "interpreter/reference", "reference/simd-1-thread", "reference/simd-4-threads"}
    expected |= {f"reference/{DEVICE}{suffix}" for suffix in ("", "-portable", "-4-threads")}
    assert expected <= set(report.pairs)
    # And it is the model: before rounding has made one sign differ and that sign others, the codes are PyTorch's.
    assert first < 1e-3, report.flips[:4]
