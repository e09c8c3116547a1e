"""What goes wrong on the way to a board and on it: each fault has its message, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from boardsim.fixtures import introduce
from boardsim.proxy import Proxy
from boardsim.rootfs import new_key
from boardsim.simulated import Board, free_port

from bvtdeploy.boards import load_board
from bvtdeploy.boards.machines import this_machine
from bvtdeploy.device import RunOptions, SshDevice, open_device, registry
from bvtdeploy.device.base import check_completed
from bvtdeploy.device.examine import examine
from bvtdeploy.device.registry import Entry
from bvtdeploy.device.ssh import scripts
from bvtdeploy.errors import UserError

SLEEPS = b"#!/bin/sh\necho begun >begun\nsleep 1000 & sleep 1000\n"
BIG = bytes(range(256)) * 8000  # 2 MB


def opened(name: str, **limits: float) -> SshDevice:
    device = open_device(name)
    assert isinstance(device, SshDevice)
    quick = {"connect": 3.0, "banner": 3.0, "stall": 3.0, "beat": 0.5, "lost": 5.0, **limits}
    device.timeouts = replace(device.timeouts, **quick)
    return device


def refused(name: str) -> UserError:
    """The error of a device that cannot be opened."""
    with pytest.raises(UserError) as caught, opened(name):
        pass
    return caught.value


@pytest.fixture
def proxied(pi4: Board, user_config: Path) -> Iterator[Callable[..., tuple[Proxy, str]]]:
    """Makes a failing network in front of the board."""
    made: list[Proxy] = []

    def make(**how: object) -> tuple[Proxy, str]:
        proxy = Proxy(pi4.port, **how)  # type: ignore[arg-type]
        made.append(proxy)
        return proxy, introduce(pi4, user_config, f"proxied-{proxy.port}", port=proxy.port)

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture
def named(pi4: Board) -> Iterator[Callable[..., str]]:
    """Names the board with a folder or a board of its own."""

    def make(**how: str) -> str:
        registry.save(Entry("faulty", pi4.name, **how))
        return "faulty"

    yield make
    registry.forget("faulty")


# -- before the connection stands -------------------------------------------------------------------------------------------


def test_unreachable(user_config: Path) -> None:
    """An address that is for documentation only: depending on this machine's network there is no route, or no answer."""
    with (user_config / "ssh_config").open("a") as file:
        file.write("Host 192.0.2.7\n  ConnectTimeout 1\n")
    error = refused("pi@192.0.2.7")
    assert error.what in ("192.0.2.7:22 cannot be reached", "no answer from 192.0.2.7:22")
    assert "board is on" in error.fix


def test_no_such_name() -> None:
    error = refused("pi@no-such-board.invalid")
    assert error.what == "the name no-such-board.invalid cannot be resolved"


def test_refused() -> None:
    port = free_port()
    error = refused(f"pi@127.0.0.1:{port}")
    assert error.what == f"127.0.0.1 refuses connections to port {port}"
    assert "systemctl enable --now ssh" in error.fix


def test_something_else_listens(proxied: Callable[..., tuple[Proxy, str]]) -> None:
    proxy, name = proxied(silent=True)
    error = refused(name)
    assert error.what == f"no SSH session with 127.0.0.1:{proxy.port} came about"
    assert error.why == "no greeting of an SSH server within 3 s"


def test_unknown_host_key(pi4: Board, user_config: Path) -> None:
    name = introduce(pi4, user_config, "unknown", host_key="")
    error = refused(name)
    assert error.what == "the host key of 127.0.0.1 is not known"
    assert error.why.startswith("ED25519 key fingerprint is SHA256:")
    if shutil.which("ssh-keygen"):
        shown = subprocess.run(["ssh-keygen", "-lf", "-"], input=pi4.host_key, capture_output=True, text=True, check=True)
        assert error.why.split()[-1] == shown.stdout.split()[1]
    assert error.fix.endswith("then: bvtdeploy devices add board unknown")
    assert pi4.is_clean()


def test_changed_host_key(pi4: Board, user_config: Path, tmp_path: Path) -> None:
    other = " ".join(new_key(tmp_path / "other").split()[:2])
    name = introduce(pi4, user_config, "changed", host_key=other)
    error = refused(name)
    assert error.what.startswith("THE HOST KEY OF 127.0.0.1 HAS CHANGED")
    assert error.why.count("SHA256:") == 2
    assert f"known_{name}:1" in error.why
    assert f"ssh-keygen -f {user_config}/known_{name} -R 'changed'" in error.fix
    assert pi4.is_clean()


def test_wrong_key(pi4: Board, user_config: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "wrong")
    error = refused(introduce(pi4, user_config, "wrong-key", IdentityFile=tmp_path / "wrong"))
    assert error.what == "127.0.0.1 does not let pi log in"
    assert str(tmp_path / "wrong") in error.why
    assert "the server takes publickey, password" in error.why
    assert f"ssh-copy-id -p {pi4.port} pi@127.0.0.1" in error.fix
    assert "only in a terminal and without --json" in error.fix
    assert pi4.is_clean()


def test_no_such_user(pi4: Board, user_config: Path) -> None:
    error = refused(introduce(pi4, user_config, "stranger", User="stranger"))
    assert error.what == "127.0.0.1 does not let stranger log in"
    assert pi4.is_clean()


def test_a_key_that_others_can_read_is_not_used(pi4: Board, user_config: Path, tmp_path: Path) -> None:
    key = tmp_path / "open"
    key.write_bytes(pi4.key.read_bytes())
    key.chmod(0o644)
    assert "others may read it" in refused(introduce(pi4, user_config, "open-key", IdentityFile=key)).why


# -- what the board is not, and does not have -------------------------------------------------------------------------------


def test_wrong_architecture(named: Callable[..., str], artifact: Path, pi4: Board) -> None:
    if this_machine() in ("aarch64", "arm"):
        pytest.skip("this machine is of the board's architecture")
    with opened(named(board="host")) as device, pytest.raises(UserError) as caught:
        device.run_model(artifact, None, RunOptions(runs=1))
    assert caught.value.what == f"programs for host are for {this_machine()}, the device is aarch64"
    with opened(pi4.name) as device:
        program = device.push(Path("/bin/true"), "program", executable=True)  # its loader is not there
        with pytest.raises(UserError, match="cannot be started"):
            device.run([program])
    assert pi4.is_clean()


def test_missing_cpu_feature(named: Callable[..., str], artifact: Path, pi4: Board) -> None:
    assert "dotprod" in load_board("rpi5").features
    with opened(named(board="rpi5")) as device, pytest.raises(UserError) as caught:
        device.run_model(artifact, None, RunOptions(runs=1))
    assert "asimddp (dotprod)" in caught.value.what
    assert "which this CPU lacks" in caught.value.what
    assert "Cortex-A72 has: fp asimd" in caught.value.why
    assert pi4.is_clean()


def test_no_space(named: Callable[..., str], pi4: Board) -> None:
    with opened(named(folder="/full")) as device:
        with pytest.raises(UserError, match=r"no space for model\.bvt") as caught:
            device.push(BIG, "model.bvt")
        assert "it has 2.0 MB, there are 1." in caught.value.why
        # And where the space ends meanwhile:
        connection = device._connection
        assert connection is not None
        done = connection.execute(
            scripts.PUT, "mark", device.folder, "model.bvt", "0" * 64, "600", str(len(BIG)), "0", scripts.SUMS, data=BIG
        )
        assert done.returncode == 73
        assert b"No space" in done.stderr
        assert ".part" not in pi4.shell(f"ls -a {device.folder}")
        assert device.push(b"small", "small") == "./small"
    assert pi4.is_clean()


def test_no_exec_permission(named: Callable[..., str], pi4: Board) -> None:
    error = refused(named(folder="/noexec"))
    assert "programs may not run there (mounted noexec)" in error.why
    assert "remount it with exec" in error.fix
    error = refused(named(folder="/proc/none"))
    assert error.what.startswith("there is no folder on 127.0.0.1")
    assert pi4.is_clean()


def shell(board: Board, config: Path, name: str, script: str) -> str:
    """A user pi with another login shell."""
    board.shell(f"printf '%s\\n' '#!/bin/sh' '{script}' >/bin/{name}; chmod 755 /bin/{name}; echo /bin/{name} >>/etc/shells")
    board.shell(f"echo {name}:x:1000:1000::/home/pi:/bin/{name} >>/etc/passwd; echo '{name}:*:19000::::::' >>/etc/shadow")
    return introduce(board, config, name, User=name)


def test_a_login_shell_that_prints_for_ever(pi4: Board, user_config: Path) -> None:
    endless = shell(pi4, user_config, "endless", "exec yes")
    slow = shell(pi4, user_config, "slow", "while echo wait; do sleep 0.2; done")
    with pytest.raises(UserError, match=r"private folder on 127\.0\.0\.1 could not be made") as caught, opened(endless):
        pass
    assert "did not come to our script within 1 MiB" in caught.value.why
    started = time.monotonic()
    with pytest.raises(UserError, match=r"private folder on 127\.0\.0\.1 could not be made") as caught, opened(slow, command=2.0):
        pass
    assert "did not come to our script within 2 s" in caught.value.why
    assert time.monotonic() - started < 10
    assert pi4.is_clean()


def test_doctor_of_a_login_shell_that_is_none(pi4: Board, user_config: Path) -> None:
    examined = examine(open_device(shell(pi4, user_config, "shell-less", "echo no; exit 5")))
    assert not examined.ok
    failed = [check for check in examined.checks if check.state == "failed"]
    assert [check.name for check in failed] == ["POSIX shell"]
    assert "ended with code 5" in failed[0].found
    assert pi4.is_clean()


# -- while something is done ------------------------------------------------------------------------------------------------


def test_cut_while_pushing_goes_on_over_a_new_connection(proxied: Callable[..., tuple[Proxy, str]], pi4: Board) -> None:
    proxy, name = proxied(cut_after=1_000_000, only_first=True)
    with opened(name) as device:
        device.push(b"before", "before")
        device.push(BIG, "big")
        assert 2 <= proxy.connections <= 3  # a third where this machine is slow
        assert device.pull("big") == BIG
        assert device.pull("before") == b"before"
    assert pi4.is_clean()


def test_stalled_while_pushing_goes_on_over_a_new_connection(proxied: Callable[..., tuple[Proxy, str]], pi4: Board) -> None:
    proxy, name = proxied(stall_after=1_000_000, only_first=True)
    with opened(name) as device:
        device.push(BIG, "big")
        assert 2 <= proxy.connections <= 3  # a third where this machine is slow
        assert device.pull("big") == BIG
        proxy.cut()
        assert device.probe().cpu == "Cortex-A72"  # asked again over a third
    assert pi4.is_clean()


def test_always_cut_while_pushing_says_what_was_known(proxied: Callable[..., tuple[Proxy, str]], pi4: Board) -> None:
    proxy, name = proxied(cut_after=1_000_000)
    with pytest.raises(UserError, match=r"broke while big was pushed") as caught, opened(name) as device:
        device.push(b"small", "small")
        threading.Timer(3.0, proxy.close).start()
        device.push(BIG, "big")
    assert "small was pushed" in caught.value.why
    assert "removed by the board itself" in caught.value.fix
    assert pi4.is_clean()


def test_closing_while_connecting_again_leaves_no_connection(proxied: Callable[..., tuple[Proxy, str]], pi4: Board) -> None:
    """As an interrupt does while another thread connects again."""
    proxy, name = proxied()
    with opened(name) as device:
        device.push(b"small", "small")
        device.progress = lambda text: device.clean() if "connecting again" in text else None
        proxy.cut()
        with pytest.raises(UserError, match="broke while big was pushed"):
            device.push(BIG, "big")
        assert device._connection is None
        assert device._keeper is None
    assert pi4.is_clean()


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_the_connection_goes_while_a_program_runs(how: str, proxied: Callable[..., tuple[Proxy, str]], pi4: Board) -> None:
    proxy, name = proxied(only_first=True)

    def fail() -> None:
        if how == "cut":
            proxy.cut()
        else:
            proxy.stalled = True

    with pytest.raises(UserError, match=r"broke while sleeps ran") as caught, opened(name) as device:
        program = device.push(SLEEPS, "sleeps", executable=True)
        done = device.run([device.push(b"#!/bin/sh\nexit 3\n", "quick", executable=True)])
        assert done.returncode == 3
        threading.Timer(1.0, fail).start()
        device.run([program])
    assert "quick had ended with exit code 3" in caught.value.why
    assert pi4.is_clean()


def test_timeout(pi4: Board) -> None:
    with opened(pi4.name) as device:
        program = device.push(SLEEPS, "sleeps", executable=True)
        started = time.monotonic()
        with pytest.raises(UserError, match=r"did not finish on sim-pi4 within 1 s"):
            device.run([program], timeout=1)
        assert time.monotonic() - started < 10
        assert device.pull("begun") == b"begun\n"
        deadline = time.monotonic() + 10
        while any("sleep 1000" in line for line in pi4.left()):  # with its children
            assert time.monotonic() < deadline
    assert pi4.is_clean()


def test_killed_on_the_board(pi4: Board) -> None:
    with opened(pi4.name) as device:
        program = device.push(SLEEPS, "sleeps", executable=True)
        find = "for f in /home/pi/.cache/bvtdeploy/run-*/.program.*"
        kill = f"while sleep 0.3; do {find}; do p=${{f##*.program.}}; kill -9 ${{p%%.*}} && exit; done; done"
        killer = threading.Thread(target=pi4.shell, args=(kill,))
        killer.start()
        done = device.run([program], timeout=30)
        killer.join()
        assert done.signal == "SIGKILL"
        with pytest.raises(UserError, match="stopped by SIGKILL") as caught:
            check_completed(done, device)
        assert "out of memory" in caught.value.why
    assert pi4.is_clean()


def test_garbage_on_stdout(pi4: Board, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board on which something answers in the runtime's place."""
    with opened(pi4.name) as device:
        push = device.push
        monkeypatch.setattr(
            device, "push", lambda source, name, executable=False: push(
                b"#!/bin/sh\nprintf '\\377\\0nonsense {'\n" if executable else b"x", name, executable=executable
            ),
        )  # fmt: skip
        with pytest.raises(UserError, match="gave an answer that cannot be read") as caught:
            device.run_model(artifact, None, RunOptions(runs=1))
        assert "nonsense" in caught.value.why
        monkeypatch.undo()
        endless = device.push(b"#!/bin/sh\nyes\n", "endless", executable=True)
        monkeypatch.setattr("bvtdeploy.device.ssh.connection.MOST_OUTPUT", 100_000)
        with pytest.raises(UserError, match="prints without end"):
            device.run([endless])
    assert pi4.is_clean()


# -- the whole command ------------------------------------------------------------------------------------------------------


def command(name: str, artifact: Path, *more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "bvtdeploy", "profile", artifact, "--device", name, "--json", *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell starts what runs in the background with SIGINT ignored, and these tests hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_ends_while_the_program_runs(number: signal.Signals, pi4: Board, artifact: Path, emulator: str) -> None:
    process = command(pi4.name, artifact, "--runs", "10000000", "--warmup", "0")
    try:
        until(lambda: any("bvt_run" in line and "run-" not in line for line in pi4.left()), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert out == b""
    assert b"Traceback" not in err
    assert pi4.is_clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_command_ends_while_it_pushes(
    number: signal.Signals, proxied: Callable[..., tuple[Proxy, str]], pi4: Board, artifact: Path, emulator: str
) -> None:
    proxy, name = proxied(stall_after=200_000, only_first=True)
    process = command(name, artifact)
    try:
        until(lambda: proxy.stalled, process)
        assert any(".part." in line for line in pi4.left())
        process.send_signal(number)
        time.sleep(0.5)
        proxy.stalled = False
        out, _ = process.communicate(timeout=40)
    finally:
        process.kill()
    assert out == b""
    assert pi4.is_clean()


def test_a_failure_is_one_json_object(pi4: Board, user_config: Path, artifact: Path) -> None:
    process = command(introduce(pi4, user_config, "json-unknown", host_key=""), artifact)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    told = json.loads(out)
    assert told["ok"] is False
    assert "SHA256:" in told["error"]["why"]
    assert b"Traceback" not in err
    assert pi4.is_clean()
