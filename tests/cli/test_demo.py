from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from commands import call, call_json

from bvtdeploy.build import toolchains


def test_the_demo_does_the_main_job(emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bvtdeploy.demo.VERIFIED_IMAGES", 16)
    told = call_json("demo", "--output", tmp_path / "out")
    assert told["skipped"] == []
    assert Path(told["artifact"]).stat().st_size == told["compile"]["bytes"]
    assert told["verify"]["exact"]
    assert told["verify"]["accuracy"]["artifact"] > 0.7
    assert told["build"]["board"] == "rpi4"
    assert told["build"]["elf"]["static"]
    assert told["answers"]
    for answer in told["answers"]:
        assert set(answer["answers"]) == {"host", "local", "qemu:cortex-a72"}
        assert answer["equal"]
    assert told["profile"]["golden"]["equal"] > 0
    assert not told["profile"]["emulated"]
    assert told["profile_emulated"]["emulated"]


def test_what_is_not_installed_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a C compiler only: the host's part happens, and two lines say how to get the rest."""
    monkeypatch.setattr("bvtdeploy.demo.VERIFIED_IMAGES", 2)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("cc", "gcc", "as", "ld", "ar"):
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"no {name}")
        (tools / name).symlink_to(Path(found).resolve() if name != "cc" else found)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(toolchains, "has_zig", lambda: False)
    code, out, _ = call("demo", "--output", tmp_path / "out")
    assert code == 0, out
    assert "equal bits" in out
    assert "left out: the runtime for rpi4" in out
    assert "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross" in out
    assert os.environ["PATH"] == str(tools)
