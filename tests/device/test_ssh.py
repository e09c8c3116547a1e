"""Boards over SSH, on a simulated Raspberry Pi and Orin and on a whole machine that booted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from boardsim.fixtures import introduce
from boardsim.proxy import Proxy
from boardsim.simulated import Board

from bvtdeploy.device import RunOptions, SshDevice, open_device, registry
from bvtdeploy.device.registry import Entry
from bvtdeploy.errors import UserError
from bvtdeploy.host import Session, read_image

SCRIPT = b"#!/bin/sh\ncat input >output; echo out; echo err >&2; exit 7\n"


def opened(name: str, **how: object) -> SshDevice:
    device = open_device(name, **how)  # type: ignore[arg-type]
    assert isinstance(device, SshDevice)
    return device


@pytest.mark.parametrize("fixture", ["pi4", "booted_pi4"])
def test_a_board_computes_the_same_bits(
    fixture: str, artifact: Path, images: list[Path], request: pytest.FixtureRequest, emulator: str
) -> None:
    board: Board = request.getfixturevalue(fixture)
    session = Session(artifact)
    inputs = np.stack([session.preprocess(read_image(image)) for image in images])
    with open_device(board.name) as device:
        assert device.board == "rpi4"
        run = device.run_model(artifact, inputs, RunOptions(threads=2, golden=True))
        assert run.outputs.tobytes() == session.run(inputs).tobytes()
        assert run.golden_checked == run.golden_equal == run.n_golden > 0
        assert device.emulated
        assert any("run-" in line for line in board.left())
    assert board.is_clean()


def test_push_run_pull(pi4: Board) -> None:
    with opened(pi4.name) as device:
        program = device.push(SCRIPT, "script", executable=True)
        content = bytes(range(256)) * 40
        device.push(content, "input")
        done = device.run([program])
        assert (done.returncode, done.stdout, done.stderr, done.signal) == (7, b"out\n", b"err\n", "")
        assert device.pull("output") == content
        with pytest.raises(UserError, match="left no file 'nothing'"):
            device.pull("nothing")
        done = device.run([device.push(b"#!/bin/sh\nkill -SEGV $$\n", "crash", executable=True)])
        assert done.signal == "SIGSEGV"
        big = device.push(b"#!/bin/sh\nhead -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero\n", "big", executable=True)
        done = device.run([big])  # both streams are read at the same time
        assert (len(done.stdout), len(done.stderr)) == (3000000, 3000000)
        mode = pi4.shell(f"stat -c '%a %U' {device.folder} {device.folder}/script {device.folder}/input").split("\n")
        assert mode[:3] == ["700 pi", "700 pi", "600 pi"]
    assert pi4.is_clean()


def test_what_a_device_says_of_itself(pi4: Board, orin: Board) -> None:
    with opened(pi4.name) as device:
        probe = device.probe()
        assert (probe.machine, probe.cpu, probe.glibc) == ("aarch64", "Cortex-A72", "2.36")
        assert "crc32" in probe.features
        binary = bytes(range(256)) * 3 + b"no newline"
        (pi4.facts / "sys/binary").write_bytes(binary)
        (pi4.facts / "sys/secret").write_text("x")
        (pi4.facts / "sys/secret").chmod(0o600)  # root's
        files = device.read_files(
            ["/sys/class/thermal/thermal_zone*/temp", "/sys/binary", "/sys/secret", "/sys/none", "/proc/cpuinfo"]
        )
        assert set(files) == {"/sys/class/thermal/thermal_zone0/temp", "/sys/binary", "/proc/cpuinfo"}
        assert files["/sys/binary"] == binary
        told = device.system(["vcgencmd", "measure_temp"])
        assert told is not None
        assert (told.returncode, told.stdout) == (0, b"temp=48.3'C\n")
        failed = device.system(["vcgencmd", "nonsense", "with 'quotes' $HOME and\nlines"])
        assert failed is not None
        assert failed.returncode == 255
        assert device.system(["nvpmodel", "-q"]) is None
        assert device.system(["sleep", "60"], timeout=0.3) is None
    with opened(orin.name) as device:
        assert device.board == "jetson-orin"
        assert device.probe().cpu == "Cortex-A78AE"
        assert "asimddp" in device.probe().features
        told = device.system(["nvpmodel", "-q"])
        assert told is not None
        assert told.stdout.startswith(b"NV Power Mode: 15W")
    assert pi4.is_clean()
    assert orin.is_clean()


def test_the_booted_machine_has_a_kernel_of_its_own(booted_pi4: Board) -> None:
    with opened(booted_pi4.name) as device:
        probe = device.probe()
        assert probe.cores == 4
        assert probe.kernel is not None
        assert "arm64" in probe.kernel
        governor = "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
        assert governor in device.read_files(["/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"])
        assert device.emulated
    assert booted_pi4.is_clean()


def test_a_file_is_pushed_once(pi4: Board, user_config: Path) -> None:
    proxy = Proxy(pi4.port)
    name = introduce(pi4, user_config, "counted", port=proxy.port)
    content = np.random.default_rng(0).bytes(500_000)
    try:
        for keep, pushed in ((False, True), (True, True), (False, False)):
            with opened(name, keep=keep) as device:
                device.push(b"first", "data")
                before = proxy.sent
                device.push(content, "data")
                assert (proxy.sent - before > len(content)) == pushed
                before = proxy.sent
                device.push(content, "again")
                assert proxy.sent - before < 20_000
                assert device.pull("data") == device.pull("again") == content
        assert [Path(line).name for line in pi4.left() if "store/" in line]
        # A file that was changed since is not taken for what it was.
        pi4.shell("for f in /home/pi/.cache/bvtdeploy/store/*; do echo changed >$f; done")
        with opened(name) as device:
            device.push(content, "data")
            assert device.pull("data") == content
        pi4.shell("rm -r /home/pi/.cache/bvtdeploy")
    finally:
        pi4.shell("rm -rf /home/pi/.cache")
        proxy.close()
    assert pi4.is_clean()


@pytest.mark.parametrize("sums", ["busybox", "openssl", ""])
def test_a_device_without_sha256sum(pi4: Board, sums: str) -> None:
    """Where nothing there can sum a file, it is read back."""
    with opened(pi4.name, keep=True) as device:
        device.sums = sums
        device.push(SCRIPT, "script", executable=True)
        device.push(b"x", "input")
        assert device.run(["./script"]).returncode == 7
    pi4.shell("rm -rf /home/pi/.cache")
    assert pi4.is_clean()


def test_a_login_shell_that_prints_disturbs_nothing(pi4: Board, user_config: Path) -> None:
    with opened(introduce(pi4, user_config, "noisy", User="noisy")) as device:
        device.push(SCRIPT, "script", executable=True)
        device.push(b"x", "input")
        done = device.run(["./script"])
        assert (done.returncode, done.stdout) == (7, b"out\n")
        assert device.pull("output") == b"x"
        assert device.probe().cpu == "Cortex-A72"
        assert list(device.read_files(["/sys/devices/system/cpu/online"]).values()) == [b"0-3\n"]
    assert pi4.is_clean()


def test_a_home_that_cannot_be_written(pi4: Board, user_config: Path) -> None:
    with opened(introduce(pi4, user_config, "readonly", User="readonly")) as device:
        assert device.folder.startswith("/var/tmp/bvtdeploy-1002/run-")
    assert pi4.is_clean()


def test_two_runs_do_not_disturb_each_other(pi4: Board) -> None:
    said: list[str] = []
    order: list[str] = []
    first = opened(pi4.name)
    second = opened(pi4.name, progress=said.append)

    def wait() -> None:
        with second:
            order.append("second")

    with first:
        other = threading.Thread(target=wait)
        other.start()
        deadline = time.monotonic() + 20
        while not any("in use by" in text for text in said):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        impatient = opened(pi4.name)
        impatient.timeouts = replace(impatient.timeouts, lock=0.0)
        with pytest.raises(UserError, match=r"127.0.0.1 is in use") as caught, impatient:
            pass
        assert "process" in caught.value.why
        order.append("first")
    other.join(20)
    assert order == ["first", "second"]
    assert pi4.is_clean()


def test_what_the_dead_left_is_removed_and_their_lock_is_broken(pi4: Board) -> None:
    first = opened(pi4.name).__enter__()
    first.push(b"x", "left")
    keeper = first.folder.rpartition("-")[2].split(".")[0]
    pi4.shell(f"kill -9 {keeper}")  # as the system does when memory is short, or a reboot
    assert pi4.shell(f"ls {first.folder}").split() == ["left"]
    with opened(pi4.name) as second:
        assert pi4.shell(f"ls {first.folder} 2>&1") != "left\n"
        assert second.folder != first.folder
    first._drop()
    assert pi4.is_clean()


def test_a_chosen_board_and_folder(pi4: Board) -> None:
    registry.save(Entry("chosen", pi4.name, board="generic", folder="/var/tmp"))
    try:
        with opened("chosen") as device:
            assert device.board == "generic"
            assert device.folder.startswith("/var/tmp/bvtdeploy-1000/")
            assert str(device) == "chosen"
    finally:
        registry.forget("chosen")
    assert pi4.is_clean()


def test_a_wait_is_ended_by_an_interrupt(pi4: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    device = opened(pi4.name)
    monkeypatch.setattr("bvtdeploy.device.ssh.session.Keeper._try", interrupted)
    with pytest.raises(KeyboardInterrupt):
        device.open()
    assert device._connection is None
    assert pi4.is_clean()
