from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from boardsim.fixtures import introduce
from boardsim.simulated import Board
from commands import call, call_json

from bvtdeploy.device import open_device, registry


@pytest.fixture
def named(pi4: Board, user_config: Path) -> str:
    name = introduce(pi4, user_config, "cli-board", host_key="")
    yield name
    for entry in list(registry.entries()):
        registry.forget(entry)
    registry.known_hosts_file().unlink(missing_ok=True)


def test_add_list_show_doctor_remove(named: str, pi4: Board) -> None:
    assert call_json("devices") == call_json("devices", "list")
    refused = call_json("devices", "add", "desk", named, code=2)
    shown = next(word for word in refused["error"]["fix"].replace(";", " ").split() if word.startswith("SHA256:"))
    call_json("devices", "add", "desk", named, "--fingerprint", "SHA256:other", code=2)
    assert call_json("devices")["devices"] == []
    added = call_json("devices", "add", "desk", named, "--fingerprint", shown)
    assert (added["board"], added["model"]) == ("rpi4", "Raspberry Pi 4 Model B Rev 1.4")
    code, out, _ = call("devices", "list")
    assert code == 0
    assert "desk" in out
    assert shown in out
    described = call_json("devices", "show", "desk")
    assert described["port"] == pi4.port
    assert described["host_keys"][0]["fingerprint"] == shown
    examined = call_json("devices", "doctor", "desk")
    states = {check["name"]: check["state"] for check in examined["checks"]}
    governor = states.pop("governor")
    assert governor == "failed"  # ondemand: advice, not a reason not to run
    assert set(states.values()) == {"ok"}
    assert list(states) == [
        "resolve", "connect", "host key", "authentication", "architecture", "CPU features", "libc", "free disk", "free memory",
        "exec permission", "clock",
    ]  # fmt: skip
    code, out, _ = call("devices", "doctor", "desk")
    assert code == 0
    assert "FAILED" in out
    assert "echo performance | sudo tee" in out
    removed = call_json("devices", "remove", "desk")
    assert (removed["key_forgotten"], removed["key_shared_with"]) == (True, [])
    call_json("devices", "remove", "desk", code=2)
    call_json("devices", "doctor", "desk", code=2)
    assert pi4.is_clean()


def test_doctor_says_what_fails(named: str, pi4: Board) -> None:
    def states(*options: str) -> dict[str, str]:
        call_json("devices", "add", "desk", named, "--yes", *options)
        told = call_json("devices", "doctor", "desk", code=1)
        assert all(check["fix"] for check in told["checks"] if check["state"] == "failed")
        return {check["name"]: check["state"] for check in told["checks"]}

    assert states("--folder", "/noexec")["exec permission"] == "failed"
    assert states("--board", "rpi5")["CPU features"] == "failed"
    told = call_json("devices", "doctor", "pi@127.0.0.1:1", code=1)
    assert [check["state"] for check in told["checks"]][:3] == ["ok", "failed", "unknown"]
    assert pi4.is_clean()


def test_doctor_of_this_machine_and_of_a_core(emulator: str) -> None:
    assert {check["name"] for check in call_json("devices", "doctor", "local")["checks"]} >= {
        "architecture",
        "free memory",
        "clock",
    }
    assert call_json("devices", "doctor", "qemu:cortex-a72")["board"] == "rpi4"


@pytest.mark.parametrize(("answer", "code"), [("yes", 0), ("no", 2)])
def test_a_terminal_is_asked(named: str, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bvtdeploy", "devices", "add", "desk", named]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        said = b""
        deadline = time.monotonic() + 60
        while b"(yes/no)" not in said:
            assert time.monotonic() < deadline
            said += os.read(ours, 4096)
        assert b"ED25519 host key of 127.0.0.1 is SHA256:" in said
        os.write(ours, answer.encode() + b"\n")
        try:
            while chunk := os.read(ours, 4096):
                said += chunk
        except OSError:
            pass  # its end
        assert process.wait(60) == code, said
    os.close(ours)
    assert ("desk" in registry.entries()) == (code == 0)


@pytest.mark.parametrize("fixture", ["pi4", "booted_pi4"])
def test_profile_verify_and_run_on_a_board(
    fixture: str, artifact: Path, checkpoint: Path, images: list[Path], request: pytest.FixtureRequest, emulator: str
) -> None:
    board: Board = request.getfixturevalue(fixture)
    told = call_json("profile", artifact, "--device", board.name, "--runs", "3", "--warmup", "0", "--verify", "--allow-unstable")
    assert board.name in str(told)
    told = call_json("run", artifact, *images[:2], "--device", board.name)
    here = call_json("run", artifact, *images[:2])
    assert [p["top"] for p in told["predictions"]] == [p["top"] for p in here["predictions"]]
    assert (told["device"], told["emulated"]) == (board.name, True)
    if fixture == "pi4":
        told = call_json("verify", checkpoint, artifact, "--random", "2", "--device", board.name)
        assert board.name in str(told)
    assert board.is_clean()


def test_what_was_kept_is_removed(pi4: Board) -> None:
    with open_device(pi4.name, keep=True) as device:
        device.push(b"x" * 100_000, "data")
    assert any("store/" in line for line in pi4.left())
    told = call_json("devices", "clean", pi4.name)
    assert [found["folder"] for found in told["removed"]] == ["/home/pi/.cache/bvtdeploy/store"]
    assert told["removed"][0]["bytes"] >= 100_000
    assert pi4.is_clean()
    assert call_json("devices", "clean", pi4.name)["removed"] == []
    call_json("devices", "clean", "local", code=2)
