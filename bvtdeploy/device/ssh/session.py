"""The keeper: a process on the device that owns our private folder and the lock, and removes both when the connection is gone."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import threading
import time
from collections.abc import Callable

import paramiko

from bvtdeploy.device.ssh import scripts
from bvtdeploy.device.ssh.connection import Connection, LinkLostError
from bvtdeploy.errors import UserError

_NO_FOLDER, _BUSY = 74, 75
_MOST_SAID = 1 << 20  # bytes that may come before the keeper is ready: login scripts print before it
_CLOSING = 8.0  # seconds to remove a folder in; who pressed Ctrl-C waits for it


class Keeper:
    """One session's hold on a device.

    Attributes:
        run: the private folder on the device.
    """

    def __init__(self, connection: Connection, *, token: str, folder: str | None, say: Callable[[str], None]) -> None:
        self._connection, self._token, self._folder, self._say = connection, token, folder, say
        self._channel: paramiko.Channel | None = None
        self._buffer = b""
        self._said = 0
        self._answer_by = 0.0
        self._heard = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.run = ""

    def open(self) -> None:
        """Get the lock and a private folder; wait for those who have it.

        Raises:
            UserError: no folder will do, or others have the device for too long.
            LinkLostError: the connection broke.
        """
        deadline = time.monotonic() + self._connection.timeouts.lock
        pause = 0.2
        while not self._try(deadline):
            time.sleep(pause + 0.1 * (os.getpid() % 7))  # two that began together must not meet again
            pause = min(2.0, pause * 1.5)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _try(self, deadline: float) -> bool:
        mark = f"bvtdeploy-{self._token}"
        self._buffer, self._said = b"", 0
        self._answer_by = time.monotonic() + self._connection.timeouts.command
        self._channel = self._connection.channel(scripts.KEEPER, mark, self._token, _who(), self._folder or "")
        refused: list[str] = []
        while (line := self._line()) is not None and line != mark:
            pass  # what a login script says
        while (line := self._line()) is not None:
            word, _, rest = line.partition(" ")
            if word == "ready":
                self.run = rest
                return True
            if word == "busy":
                rest = "".join(letter for letter in rest if letter.isprintable())[:200]  # others there wrote it
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"{self._connection.target.host} is in use", where=str(self._connection.target), why=f"by {rest}",
                        fix="wait until that has ended; only one run at a time is timed on a device",
                    )  # fmt: skip
                self._say(f"waiting for {self._connection.target.host}: in use by {rest}")
            if word == "no":
                refused.append(rest)
        channel, self._channel = self._channel, None
        channel.status_event.wait(self._connection.timeouts.command)
        if channel.exit_status == _BUSY:
            return False
        if channel.exit_status == _NO_FOLDER:
            raise _no_folder(self._connection, refused, self._folder)
        if channel.exit_status < 0:
            raise LinkLostError("the connection broke")
        raise UserError(
            f"a private folder on {self._connection.target.host} could not be made", where=str(self._connection.target),
            why=f"the shell there ended with code {channel.exit_status}", fix="the device needs a POSIX shell as sh",
        )  # fmt: skip

    def _line(self) -> str | None:
        """The next line that the keeper says while it opens; None when it has ended."""
        assert self._channel is not None
        while b"\n" not in self._buffer:
            left = self._answer_by - time.monotonic()
            if left <= 0 or self._said > _MOST_SAID:
                raise self._no_answer()
            self._channel.settimeout(left)
            try:
                chunk = self._channel.recv(4096)
            except TimeoutError as error:
                if self._said:
                    raise self._no_answer() from error
                raise LinkLostError("nothing came from it") from error
            except (OSError, paramiko.SSHException) as error:
                raise LinkLostError(str(error)) from error
            if not chunk:
                return None
            self._buffer += chunk
            self._said += len(chunk)
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.decode(errors="replace")

    def _no_answer(self) -> UserError:
        """Something there talks, and not the keeper. Its channel is given up: it may talk for ever."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        limit = f"{_MOST_SAID >> 20} MiB" if self._said > _MOST_SAID else f"{self._connection.timeouts.command:g} s"
        return UserError(
            f"a private folder on {self._connection.target.host} could not be made", where=str(self._connection.target),
            why=f"what runs at login there printed, and did not come to our script within {limit}",
            fix="check what the login shell's start files (~/.profile, ~/.bashrc) print and wait for",
        )  # fmt: skip

    def _beat(self) -> None:
        """Send signs of life. Where none is answered, end the connection: who waits for it then learns that it is lost."""
        limits = self._connection.timeouts
        self._heard = time.monotonic()
        channel = self._channel
        assert channel is not None
        sent = 0.0
        while not self._stop.is_set():
            try:
                if time.monotonic() - sent >= limits.beat:
                    sent = time.monotonic()
                    channel.settimeout(limits.beat)
                    channel.sendall(b"\n")
                channel.settimeout(min(limits.beat, 0.25))
                chunk = channel.recv(4096)
                if not chunk:
                    return
                self._heard = time.monotonic()
            except TimeoutError:
                pass
            except (OSError, EOFError, paramiko.SSHException):
                return
            if time.monotonic() - self._heard > limits.lost:
                self._connection.close()
                return

    def close(self) -> bool:
        """Let the keeper remove the private folder and give the lock back. False: it did not say that it has."""
        channel, self._channel = self._channel, None
        self._stop.set()
        if self._thread is not None:
            self._thread.join(2.0)
            self._thread = None
        if channel is None:
            return True
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            deadline = time.monotonic() + min(_CLOSING, self._connection.timeouts.stall)
            channel.settimeout(deadline - time.monotonic())
            channel.shutdown_write()
            said = b""
            while chunk := channel.recv(4096):
                said = said[-64:] + chunk
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                channel.settimeout(left)
            channel.status_event.wait(2.0)
            channel.close()
            return b"gone" in said
        return False


def _who() -> str:
    """Who we are, for others who wait for the device."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "somebody"
    said = f"{user}@{socket.gethostname()} since {time.strftime('%H:%M:%S %z')} (process {os.getpid()})"
    return said.replace("\n", " ")


def _no_folder(connection: Connection, refused: list[str], chosen: str | None) -> UserError:
    fix = "name a folder on the device: bvtdeploy devices add NAME ADDRESS --folder DIR"
    if any("noexec" in reason for reason in refused) and chosen:
        fix = f"remount it with exec, or name another folder than {chosen}: bvtdeploy devices add NAME ADDRESS --folder DIR"
    if refused and all(reason.endswith(": full") or "No space" in reason for reason in refused):
        fix = "free some space there"
    return UserError(
        f"there is no folder on {connection.target.host} that programs can be put into and started from",
        where=str(connection.target),
        why="; ".join(refused),
        fix=fix,
    )
