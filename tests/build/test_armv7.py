"""32-bit ARM: the same exactness as everywhere, on an emulated Cortex-A7."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bvtdeploy import api
from bvtdeploy.device.local import find_qemu


def test_a_32_bit_board_computes_the_same_bits(checkpoint: Path, artifact: Path) -> None:
    if shutil.which("arm-linux-gnueabihf-gcc") is None:
        pytest.skip("no arm-linux-gnueabihf-gcc: apt-get install gcc-arm-linux-gnueabihf libc6-dev-armhf-cross")
    if not find_qemu("arm"):
        pytest.skip("no 32-bit user-mode QEMU: apt-get install qemu-user-static")
    report = api.verify(checkpoint, artifact, random=3, device="qemu:cortex-a7")
    assert report.ok
    pairs = report.as_dict()["pairs"]
    for execution in ("qemu:cortex-a7", "qemu:cortex-a7-portable", "qemu:cortex-a7-4-threads"):
        assert pairs[f"reference/{execution}"]
