from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bvtdeploy.device import Device, LocalDevice, RunOptions, open_device
from bvtdeploy.device.base import check_completed, signal_name
from bvtdeploy.device.local import qemu_cpus
from bvtdeploy.errors import UserError
from bvtdeploy.host import Session, read_image


@pytest.fixture
def temp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where private folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def script(device: Device, text: str) -> str:
    return device.push(f"#!/bin/sh\n{text}\n".encode(), "script", executable=True)


def test_push_run_pull_clean(temp: Path) -> None:
    with open_device("local") as device:
        program = script(device, "cat input >output; echo out; echo err >&2; exit 7")
        device.push(b"content", "input")
        done = device.run([program])
        assert (done.returncode, done.stdout, done.stderr, done.signal) == (7, b"out\n", b"err\n", "")
        assert device.pull("output") == b"content"
        assert isinstance(device, LocalDevice)
        assert device.folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(UserError, match="left no file 'nothing'"):
            device.pull("nothing")
    assert list(temp.iterdir()) == []
    device.clean()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_private_folder_goes_whatever_happens(temp: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), open_device("local") as device:
        device.push(b"x", "x")
        assert len(list(temp.iterdir())) == 1
        raise error
    assert list(temp.iterdir()) == []


def test_a_program_that_does_not_end_is_ended_with_its_children(temp: Path) -> None:
    with open_device("local") as device:
        program = script(device, "sleep 1000 & echo $! >child; wait")
        with pytest.raises(UserError, match=r"did not finish on local within 0.5 s"):
            device.run([program], timeout=0.5)
        child = int(device.pull("child"))
        for _ in range(50):
            state = Path(f"/proc/{child}/stat")
            if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return
            time.sleep(0.1)
    pytest.fail("the child still runs")


@pytest.mark.parametrize(
    ("name", "text"), [("ILL", "an illegal instruction"), ("KILL", "SIGKILL"), ("SEGV", "memory error"), ("BUS", "bus error")]
)
def test_signals_become_sentences(temp: Path, name: str, text: str) -> None:
    with open_device("local") as device:
        done = device.run([script(device, f"kill -{name} $$")])
        assert done.signal == f"SIG{name}"
        with pytest.raises(UserError, match=text):
            check_completed(done, device)


def test_signal_names() -> None:
    assert [signal_name(code) for code in (0, 1, -4, 132, 139, 255, -99)] == [
        "",
        "",
        "SIGILL",
        "SIGILL",
        "SIGSEGV",
        "",
        "signal 99",
    ]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("qemu", "qemu:cortex-a72"),
        ("qemu:", "qemu:cortex-a72"),
        ("locl", "did you mean local"),
        ("rpi4", "devices add NAME user@host"),
        ("nothing", "user@host:port"),
    ],
)
def test_a_mistyped_device_gets_a_suggestion(name: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        open_device(name)
    assert fix in caught.value.fix


def test_a_mistyped_core_gets_a_suggestion(emulator: str) -> None:
    assert "cortex-a72" in qemu_cpus(emulator)
    with pytest.raises(UserError, match="no core 'cortex-a27'") as caught:
        open_device("qemu:cortex-a27")
    assert "cortex-a72" in caught.value.fix


def test_no_emulator_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="QEMU is not installed") as caught:
        open_device("qemu:cortex-a72")
    assert caught.value.fix == "apt-get install qemu-user-static"


def test_an_instruction_that_the_core_lacks_is_named(emulator: str, cross_gcc: str, tmp_path: Path) -> None:
    code = "#include <arm_neon.h>\nint main(int n, char **v) { int8x16_t a = vdupq_n_s8((char)n); (void)v; "
    (tmp_path / "dot.c").write_text(code + "return vgetq_lane_s32(vdotq_s32(vdupq_n_s32(0), a, a), 0) != 4; }\n")
    subprocess.run([cross_gcc, "-static", "-mcpu=cortex-a76", "dot.c", "-o", "dot"], cwd=tmp_path, check=True)
    with open_device("qemu:cortex-a76") as device:
        assert device.run([device.push(tmp_path / "dot", "dot", executable=True)]).returncode == 0
    with open_device("qemu:cortex-a53") as device:
        done = device.run([device.push(tmp_path / "dot", "dot", executable=True)])
        with pytest.raises(UserError, match="an illegal instruction on qemu:cortex-a53") as caught:
            check_completed(done, device)
    assert "--board generic" in caught.value.fix


@pytest.mark.parametrize("name", ["local", "qemu:cortex-a53", "qemu:cortex-a72", "qemu:cortex-a76"])
def test_every_device_gives_the_same_bits(name: str, artifact: Path, images: list[Path], request: pytest.FixtureRequest) -> None:
    if name != "local":
        request.getfixturevalue("emulator")
    session = Session(artifact, op_crc=True)
    inputs = np.stack([session.preprocess(read_image(image)) for image in images])
    expected = session.run(inputs)
    session.run(inputs[0])
    with open_device(name) as device:
        assert device.emulated == (name != "local")
        run = device.run_model(artifact, inputs, RunOptions(threads=2, golden=True))
        assert run.outputs.tobytes() == expected.tobytes()
        assert run.golden_checked == run.golden_equal == run.n_golden == len(session.golden) > 0
        assert device.run_inputs(artifact, inputs[:1]).tobytes() == expected[:1].tobytes()
        assert device.op_crcs(artifact, inputs[0]) == session.crcs()
        reference = device.run_model(artifact, inputs, RunOptions(isa="ref"))
        assert reference.isa == "ref"
        assert reference.outputs.tobytes() == expected.tobytes()


def test_what_the_runtime_refuses_is_told(artifact: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.bvt"
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with open_device("local") as device:
        with pytest.raises(UserError, match=r"CRC|crc|checksum|damaged"):
            device.run_model(damaged, None, RunOptions(runs=1))
        with pytest.raises(UserError, match="isa"):
            device.run_model(artifact, None, RunOptions(runs=1, isa="sse9"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_command_leaves_nothing(number: signal.Signals, artifact: Path, tmp_path: Path) -> None:
    from bvtdeploy import api

    api.build("host")  # so that the command gets to its runs at once
    command = [sys.executable, "-m", "bvtdeploy", "profile", artifact, "--runs", "10000000", "--json"]
    process = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell starts what runs in the background with SIGINT ignored, and these tests hand that on.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("bvtdeploy-*/model.bvt")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert out == b""
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_a_program_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **how: Any) -> None:
            super().__init__(*args, **how)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    terminate = signal.getsignal(signal.SIGTERM)
    with open_device("local") as device:
        monkeypatch.setattr(subprocess, "Popen", Interrupted)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                device.run(["/bin/sleep", "60"])
        finally:
            signal.signal(signal.SIGINT, before)
        assert started[0].returncode == -signal.SIGKILL
        assert signal.getsignal(signal.SIGTERM) is terminate, "as it was"


def test_probe_tells_what_is_there() -> None:
    with open_device("local") as device:
        probe = device.probe()
    assert probe.machine == os.uname().machine
    assert probe.cores == os.cpu_count()
    assert (probe.cpu is None) == ("cpu" in probe.unavailable)
    if shutil.which("ldd") is None:
        pytest.skip("not a glibc system")
    assert probe.glibc
