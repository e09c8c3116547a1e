"""Starting a simulated board, and looking at it from outside what is tested."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import paramiko

from boardsim import facts
from boardsim.packages import Unavailable
from boardsim.rootfs import Rootfs

HERE = Path(__file__).parent


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Board:
    """A running stand-in.

    Attributes:
        name: its Host in the tests' SSH configuration.
        port: of its SSH server on loopback.
        key: the private key that its users let in.
        host_key: its public host key.
        facts: folder of what it says of itself; its files may be rewritten.
    """

    def __init__(self, name: str, port: int, key: Path, host_key: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.port, self.key, self.host_key, self.log = name, port, key, host_key, log
        self.facts = Path()
        self._process = process
        self._client: paramiko.SSHClient | None = None

    def wait(self, seconds: float) -> None:
        """Until its SSH server answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise Unavailable(f"{self.name} did not start: {self.log.read_text(errors='replace')[-400:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
                sock.settimeout(2)
                if sock.recv(4) == b"SSH-":
                    return
            time.sleep(0.05)
        self.stop()
        raise Unavailable(f"{self.name} was not ready within {seconds:g} s: {self.log.read_text(errors='replace')[-400:]}")

    def shell(self, command: str) -> str:
        """Run a command as root, over a connection of our own."""
        transport = self._client.get_transport() if self._client is not None else None
        if self._client is None or transport is None or not transport.is_active():
            client = paramiko.SSHClient()
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect(
                "127.0.0.1", self.port, "root", key_filename=str(self.key), allow_agent=False, look_for_keys=False, timeout=20
            )
            self._client = client
        _, out, _ = self._client.exec_command(command, timeout=30)
        with out.channel:
            return out.read().decode(errors="replace")

    def left(self) -> list[str]:
        """What is on it that was not there when it started: files of ours, and programs that still run."""
        found = self.shell(
            "find /home /tmp /var/tmp /full /noexec /root /run -mindepth 1 2>/dev/null "
            "| grep -v -e /.ssh -e '^/home/[a-z]*$' -e dropbear; "
            # $0 of our scripts, and every program of a private folder
            "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null "
            "| grep -e bvt_run -e 'sh -c .*bvtdeploy' -e 'sleep [0-9]' | grep -v 'for p in'; done"
        )
        return [line for line in found.splitlines() if line.strip()]

    def is_clean(self, seconds: float = 10.0) -> bool:
        """Whether everything of ours is gone, at the latest after some seconds. What is not is told, and removed."""
        deadline = time.monotonic() + seconds
        while left := self.left():
            if time.monotonic() > deadline:
                print("left on the board:", *left, sep="\n")
                self.shell("rm -rf /home/*/.cache /tmp/bvt* /var/tmp/bvt* /full/bvt*; killall -9 sleep")
                return False
            time.sleep(0.1)
        return True

    def stop(self) -> None:
        """Pull the plug."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def start(rootfs: Rootfs, name: str, what: dict[str, str], folder: Path, *, cpu: str, port: int | None = None) -> Board:
    """Start a board.

    Args:
        rootfs: its system.
        name: its Host in the tests' SSH configuration.
        what: what it says of itself.
        folder: for that, and its log.
        cpu: as QEMU names it.
        port: of its SSH server; None: a free one.
    """
    facts.write(what, folder)
    log = folder / "log"
    port = port or free_port()
    command = [sys.executable, HERE / "namespaces.py", "sh", HERE / "boot.sh", rootfs.root, str(port), cpu, folder]
    with log.open("wb") as out:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(os.environ))
    board = Board(name, port, rootfs.key, rootfs.host_key, process, log)
    board.facts = folder
    board.wait(20)
    return board
