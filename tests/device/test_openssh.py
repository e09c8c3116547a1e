"""OpenSSH's own server on loopback, on this machine: passwords, keys with passphrases, jump hosts, ProxyCommand, a changed key."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from boardsim.fixtures import introduce
from boardsim.rootfs import PASSWORD, new_key
from boardsim.simulated import Board, free_port
from cryptography.hazmat.primitives import serialization

from bvtdeploy.device import LocalDevice, RunOptions, SshDevice, open_device, registry
from bvtdeploy.device.adding import add, describe, remove
from bvtdeploy.device.prompts import asking
from bvtdeploy.errors import UserError

ME = pwd.getpwuid(os.getuid()).pw_name


@dataclass
class Server:
    """A running server and how it is reached."""

    port: int
    folder: Path
    user_key: Path
    host_key: str
    config: Path

    def host(self, name: str, *, known: str | None = None, **options: object) -> str:
        """A Host of the SSH configuration for it. `known`: what is known as its host key; None: the right one; "": nothing."""
        key = self.host_key if known is None else known
        (self.folder / f"known_{name}").write_text(f"{name} {key}\n" if key else "")
        ours: dict[str, object] = {"HostName": "127.0.0.1", "Port": self.port, "User": ME, "IdentityFile": self.user_key}
        ours |= {"IdentitiesOnly": "yes", "IdentityAgent": "none", "HostKeyAlias": name, "GlobalKnownHostsFile": "none"}
        ours |= {"UserKnownHostsFile": self.folder / f"known_{name}", **options}
        with self.config.open("a") as file:
            file.write(f"Host {name}\n" + "".join(f"  {key} {value}\n" for key, value in ours.items()))
        return name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, user_config: Path) -> Iterator[Server]:
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists():
        pytest.skip("no sshd: apt-get install openssh-server")
    if os.getuid() != 0:
        pytest.skip("only root can start a server that logs in")
    folder = tmp_path_factory.mktemp("sshd")
    host_key = " ".join(new_key(folder / "host_key").split()[:2])
    (folder / "authorized").write_text(new_key(folder / "user_key") + "\n")
    port = free_port()
    lines = [
        f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host_key", f"AuthorizedKeysFile {folder}/authorized",
        "StrictModes no", "UsePAM no", f"PidFile {folder}/pid", "PermitRootLogin yes", "PasswordAuthentication no",
        "AllowTcpForwarding yes",
        "KbdInteractiveAuthentication no", "UseDNS no",
    ]  # fmt: skip
    (folder / "config").write_text("\n".join(lines) + "\n")
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stdin=subprocess.DEVNULL, stderr=log)
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.skip(f"sshd does not start: {(folder / 'log').read_text()[-300:]}")
            time.sleep(0.05)
    yield Server(port, folder, folder / "user_key", host_key, user_config / "ssh_config")
    process.terminate()
    process.wait(10)


def left() -> list[str]:
    folder = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache" / "bvtdeploy"
    return [str(path) for path in folder.glob("run-*")]


def test_a_neighbour_of_this_kind_computes_the_same_bits(server: Server, artifact: Path) -> None:
    with open_device(server.host("neighbour", known=None), keep=False) as device, LocalDevice() as local:
        assert device.board == "host"
        assert not device.emulated
        options = RunOptions(golden=True, op_crc=True)
        there, here = device.run_model(artifact, None, options), local.run_model(artifact, None, options)
        assert there.crcs == here.crcs
        assert there.golden_checked == there.golden_equal > 0
    assert left() == []


def test_a_program_ends_with_its_children(server: Server) -> None:
    """The shell here is dash, and setsid util-linux's; on the simulated boards both are busybox."""
    with open_device(server.host("dash")) as device:
        program = device.push(b"#!/bin/sh\nsleep 4321 & echo $! >child; sleep 4321\n", "sleeps", executable=True)
        with pytest.raises(UserError, match=r"did not finish on dash within 0\.5 s"):
            device.run([program], timeout=0.5)
        child = int(device.pull("child"))
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child}").exists() and "(sleep) Z" not in Path(f"/proc/{child}/stat").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        done = device.run([device.push(b"#!/bin/sh\nkill -SEGV $$\n", "crash", executable=True)])
        assert done.signal == "SIGSEGV"
        assert device.system(["no-such-program"]) is None
    assert left() == []


def test_no_key_and_nobody_to_ask(server: Server, tmp_path: Path) -> None:
    new_key(tmp_path / "other")
    with pytest.raises(UserError) as caught, open_device(server.host("stranger-key", IdentityFile=tmp_path / "other")):
        pass
    assert caught.value.what == f"127.0.0.1 does not let {ME} log in"
    assert "the server takes publickey" in caught.value.why
    assert "authorized_keys" in caught.value.fix


def test_a_locked_key(server: Server, tmp_path: Path) -> None:
    key = serialization.load_ssh_private_key(server.user_key.read_bytes(), None)
    locked = tmp_path / "locked"
    lock = serialization.BestAvailableEncryption(b"sesame")
    locked.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, lock))
    locked.chmod(0o600)
    name = server.host("locked", IdentityFile=locked)
    with pytest.raises(UserError) as caught, open_device(name):
        pass
    assert f"locked with a passphrase, and nobody can be asked for it: ssh-add {locked}" in caught.value.why
    asked: list[tuple[str, bool]] = []
    answers = iter(["wrong", "sesame"])

    def answer(question: str, secret: bool) -> str:
        asked.append((question, secret))
        return next(answers)

    with asking(answer), open_device(name) as device:
        assert isinstance(device, SshDevice)
        device._connection.close()  # type: ignore[union-attr]
        assert device.probe().machine == os.uname().machine  # a new connection asks nothing again
    assert asked == [(f"passphrase for the key {locked}: ", True)] * 2
    assert left() == []


def test_a_password(pi4: Board, user_config: Path) -> None:
    name = introduce(pi4, user_config, "password", IdentityFile="/nonexistent")
    with pytest.raises(UserError, match="does not let pi log in"), open_device(name):
        pass
    asked: list[str] = []
    answers = iter(["wrong", PASSWORD])

    def answer(question: str, secret: bool) -> str:
        asked.append(question)
        assert secret
        return next(answers)

    with asking(answer), open_device(name) as device:
        assert device.probe().cpu == "Cortex-A72"
    assert asked == [f"password of pi@127.0.0.1:{pi4.port}: "] * 2
    with asking(lambda *_: "wrong"), pytest.raises(UserError) as caught, open_device(name):
        pass
    assert "a password" in caught.value.why
    assert pi4.is_clean()


FORWARD = """
import os, socket, sys, threading

def pump(read, write):
    while data := read(65536):
        write(data)

assert sys.argv[3] == "and a word"
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
threading.Thread(target=pump, args=(lambda n: os.read(0, n), far.sendall), daemon=True).start()
pump(far.recv, lambda data: os.write(1, data))
"""


@pytest.mark.parametrize("way", ["one jump", "two jumps", "command"])
def test_through_others(server: Server, pi4: Board, user_config: Path, tmp_path: Path, way: str) -> None:
    jump, second = server.host(f"jump-{way[:3]}"), server.host(f"second-{way[:3]}")
    (tmp_path / "forward.py").write_text(FORWARD)
    command = f"{sys.executable} {tmp_path}/forward.py %h %p 'and a word'"
    options: dict[str, dict[str, object]] = {
        "one jump": {"ProxyJump": jump},
        "two jumps": {"ProxyJump": f"{jump},{second}"},
        "command": {"ProxyCommand": command, "Port": pi4.port},
    }
    name = introduce(pi4, user_config, f"through-{way[:3]}", **options[way])
    with open_device(name) as device:
        assert isinstance(device, SshDevice)
        hops = device.target.route.count(", ")
        assert hops == {"one jump": 1, "two jumps": 2, "command": 0}[way]
        assert device.probe().cpu == "Cortex-A72"
        device.push(b"#!/bin/sh\necho there\n", "x", executable=True)
        assert device.run(["./x"]).stdout == b"there\n"
    assert pi4.is_clean()


def test_a_jump_host_that_cannot_reach_the_board(server: Server) -> None:
    jump = server.host("jump-away")
    port = free_port()
    name = server.host("behind", ProxyJump=jump, Port=port)
    with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} cannot be reached from the jump host"), open_device(name):
        pass
    unknown = server.host("jump-unknown", known="")
    behind = server.host("behind-2", ProxyJump=unknown)
    with pytest.raises(UserError, match=r"host key of 127\.0\.0\.1 is not known"), open_device(behind):
        pass


def test_adding_a_device_and_its_key_changing(server: Server, tmp_path: Path) -> None:
    shown: list[str] = []

    def confirm(answer: bool | None) -> Callable[[str, str, str], bool | None]:
        def asked(host: str, kind: str, fingerprint: str) -> bool | None:
            shown.append(f"{host} {kind} {fingerprint}")
            return answer

        return asked

    name = server.host("to-add", known="")
    for answer, text in ((False, "was not confirmed"), (None, "is not known")):
        with pytest.raises(UserError, match=text):
            add("bench-pi", name, confirm=confirm(answer))
    with pytest.raises(UserError, match="another host key than the one that you gave") as caught:
        add("bench-pi", name, fingerprint="SHA256:wrong", confirm=confirm(True))
    assert "SHA256:wrong" in caught.value.why
    assert registry.entries() == {}
    added = add("bench-pi", name, confirm=confirm(True))
    assert added.problem is None
    assert added.board == "host"
    assert not added.known_before
    assert shown[0] == f"127.0.0.1 ED25519 {added.entry.key}"
    assert describe("bench-pi")["host_keys"][0]["fingerprint"] == added.entry.key
    with open_device("bench-pi") as device:
        assert str(device) == "bench-pi"
    assert add("bench-pi", name, fingerprint=added.entry.key, confirm=confirm(None)).known_before
    # The server gets another key.
    known = registry.known_hosts_file()
    other = " ".join(new_key(tmp_path / "other").split()[:2])
    known.write_text(known.read_text().replace(server.host_key, other))
    with pytest.raises(UserError, match="HAS CHANGED") as caught, open_device("bench-pi"):
        pass
    assert caught.value.fix.endswith(f"bvtdeploy devices remove bench-pi, then bvtdeploy devices add bench-pi {name}")
    removed = remove("bench-pi")
    assert (removed.entry.name, removed.key_forgotten) == ("bench-pi", True)
    assert known.read_text() == ""
    with pytest.raises(UserError, match="no device named 'bench-pi'"):
        remove("bench-pi")
    assert left() == []
