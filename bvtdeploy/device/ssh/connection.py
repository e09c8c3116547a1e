"""One SSH connection: through jump hosts, with a known host key, logged in; and running commands on it.

Everything has a time limit. What breaks while connecting is a UserError that says why; what breaks later is `LinkLostError`, so
that the device can decide whether to connect again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import shlex
import socket
import subprocess
import threading
import time
from dataclasses import dataclass

import paramiko

from bvtdeploy.device.base import Completed, signal_name
from bvtdeploy.device.ssh.address import Target, sharing
from bvtdeploy.device.ssh.auth import Secrets, authenticate
from bvtdeploy.device.ssh.hostkeys import KnownKey, fingerprint, known_keys, short_kind
from bvtdeploy.errors import UserError

# paramiko logs whole tracebacks of its threads; with no handler at all, Python prints them on stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

MOST_OUTPUT = 64 << 20  # bytes that a command may print
_CHUNK = 32768


@dataclass(frozen=True)
class Timeouts:
    """Limits in seconds.

    Attributes:
        connect: for the TCP connection.
        banner: until the server says that it speaks SSH.
        auth: for the key exchange, and for each way of logging in.
        command: for each short command of ours.
        stall: that data in either direction may stand still while a file is copied.
        beat: between two signs of life, which also keep the lock on the device.
        lost: without an answer to them, after which the connection counts as lost.
        lock: to wait for others who use the device.
    """

    connect: float = 10.0
    banner: float = 15.0
    auth: float = 30.0
    command: float = 60.0
    stall: float = 20.0
    beat: float = 10.0
    lost: float = 35.0
    lock: float = 900.0


class LinkLostError(Exception):
    """The connection broke, or stands still."""


class CommandTimeoutError(Exception):
    """A command did not end in time."""


class UnknownHostKeyError(UserError):
    """Nobody has confirmed this host's key yet."""

    def __init__(self, target: Target, kind: str, blob: bytes, name: str, address: str) -> None:
        self.target, self.kind, self.blob = target, kind, blob
        super().__init__(
            f"the host key of {target.host} is not known",
            where=str(target),
            why=f"{short_kind(kind)} key fingerprint is {fingerprint(blob)}",
            fix=f"compare it with the board's own (there: ssh-keygen -lf /etc/ssh/ssh_host_{short_kind(kind).lower()}_key.pub), "
            f"then: bvtdeploy devices add {name} {address}",
        )


class Connection:
    """A connection to a target. Not for several threads, but for the one that sends signs of life.

    `name` and `address` are what the user calls the device, for advice.

    Attributes:
        stage: what was being done last: "resolve", "connect", "host key", "authentication".
        host_key: kind and key that the server has shown.
    """

    def __init__(self, target: Target, timeouts: Timeouts, secrets: Secrets, *, name: str = "", address: str = "") -> None:
        self.target, self.timeouts = target, timeouts
        self._secrets, self._name, self._address = secrets, name, address or str(target)
        self._transport: paramiko.Transport | None = None
        self._jump: Connection | None = None
        self._proxy: subprocess.Popen[bytes] | None = None
        self.stage = "resolve"
        self.host_key: tuple[str, bytes] | None = None

    # -- connecting ----------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, check the host key, log in."""
        try:
            self.reach()
            self._login()
        except BaseException:
            self.close()
            raise

    def reach(self) -> None:
        """Connect and check the host key."""
        transport = paramiko.Transport(self._socket())
        self.stage = "connect"
        self._transport = transport
        transport.daemon = True
        transport.banner_timeout = transport.handshake_timeout = self.timeouts.banner
        transport.auth_timeout = self.timeouts.auth
        known = known_keys(self.target.key_name, self.target.known_hosts)
        _prefer(transport, known)
        try:
            transport.start_client(timeout=self.timeouts.banner + self.timeouts.auth)
            key = transport.get_remote_server_key()
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise self._no_ssh(error) from error
        self.stage, self.host_key = "host key", (key.get_name(), key.asbytes())
        try:
            self._check_key(key.get_name(), key.asbytes(), known)
        except UserError:
            self.close()
            raise

    def _login(self) -> None:
        assert self._transport is not None
        self.stage = "authentication"
        try:
            authenticate(self._transport, self.target, self._secrets)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise UserError(
                f"the connection to {self.target.host} broke while logging in", where=str(self.target),
                why=str(error) or type(error).__name__, fix="try again; the server's log says more",
            ) from error  # fmt: skip

    def _socket(self) -> socket.socket | paramiko.Channel:
        if self.target.jump is not None:
            return self._through_jump(self.target.jump)
        if self.target.proxy_command is not None:
            return self._through_command(self.target.proxy_command)
        return self._direct()

    def _direct(self) -> socket.socket:
        target, limit = self.target, self.target.connect_timeout or self.timeouts.connect
        try:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise UserError(
                f"the name {target.host} cannot be resolved", where=str(target), why=str(getattr(error, "strerror", error)),
                fix="check the spelling, or give the IP address; names that end in .local need a network with mDNS",
            ) from error  # fmt: skip
        self.stage = "connect"
        last: OSError | None = None
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(limit)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                return sock
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
        assert last is not None
        raise _unreachable(target, last, limit) from last

    def _through_jump(self, jump: Target) -> paramiko.Channel:
        self._jump = Connection(jump, self.timeouts, self._secrets, name=_name_for(jump))
        self.stage = "connect"  # its name is resolved there
        self._jump.open()
        assert self._jump._transport is not None
        try:
            return self._jump._transport.open_channel(
                "direct-tcpip", (self.target.host, self.target.port), ("127.0.0.1", 0), timeout=self.timeouts.connect
            )
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise UserError(
                f"{self.target.host}:{self.target.port} cannot be reached from the jump host {jump}", where=self.target.route,
                why=str(error) or type(error).__name__, fix="check that the board is on, and that the jump host allows forwarding",
            ) from error  # fmt: skip

    def _through_command(self, command: str) -> socket.socket:
        self.stage = "connect"
        ours, theirs = socket.socketpair()
        with theirs:
            self._proxy = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return ours

    def _no_ssh(self, error: Exception) -> UserError:
        """Something answered, and no SSH session came of it."""
        what = f"no SSH session with {self.target.host}:{self.target.port} came about"
        why = str(error) or "the connection was closed at once"
        fix = "check that the port is the SSH server's and that the board has finished starting; then try again"
        if "Incompatible" in why or "no acceptable" in why:
            fix = "the server is too old for today's algorithms: update it"
        elif "banner" in why:
            why = f"no greeting of an SSH server within {self.timeouts.banner:g} s"
        if self._proxy is not None:
            fix = f"check the ProxyCommand of the SSH configuration: {self.target.proxy_command}"
        return UserError(what, where=str(self.target), why=why, fix=fix)

    def _check_key(self, kind: str, blob: bytes, known: list[KnownKey]) -> None:
        if any(key.revoked and key.blob == blob for key in known):
            raise UserError(
                f"the host key of {self.target.host} is revoked", where=str(self.target), why=f"by {known[0].file}",
                fix="the board needs a new host key: somebody may have stolen this one",
            )  # fmt: skip
        if any(key.blob == blob for key in known):
            return
        valid = [key for key in known if not key.revoked]
        if not valid:
            raise UnknownHostKeyError(self.target, kind, blob, self._name or _name_for(self.target), self._address)
        old = next((key for key in valid if key.kind == kind), valid[0])
        ours = old.file == self.target.known_hosts[0]
        named = sharing(self.target.key_name) if ours else []  # the key goes with the last of its names
        again = ", ".join(f"bvtdeploy devices remove {name}" for name in named)
        again = again or f"ssh-keygen -f {old.file} -R '{self.target.key_name}'"
        raise UserError(
            f"THE HOST KEY OF {self.target.host} HAS CHANGED: this may be another machine, which listens in",
            where=str(self.target),
            why=f"it now shows {short_kind(kind)} {fingerprint(blob)}; "
            f"{old.file}:{old.line} has {short_kind(old.kind)} {old.fingerprint}",
            fix=f"find out why (a newly installed system has a new key). If it is right: {again}, then bvtdeploy devices add "
            f"{self._name or _name_for(self.target)} {self._address}",
        )

    # -- using ---------------------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as is known."""
        transport = self._transport
        return transport is not None and transport.is_active()

    def close(self) -> None:
        """End it, without waiting for the other side."""
        transport, jump, proxy = self._transport, self._jump, self._proxy
        self._transport = self._jump = self._proxy = None
        for closing in (transport, jump):
            if closing is not None:
                with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                    closing.close()
        if proxy is not None:
            proxy.kill()
            proxy.wait()

    def channel(self, script: str, *arguments: str) -> paramiko.Channel:
        """Start a shell script on the device."""
        transport = self._transport  # the thread with the signs of life may end the connection at any time
        if transport is None:
            raise LinkLostError
        try:
            channel = transport.open_session(timeout=self.timeouts.command)
            channel.settimeout(self.timeouts.command)
            channel.exec_command(command_line(script, *arguments))
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LinkLostError(str(error)) from error
        return channel

    def execute(
        self, script: str, *arguments: str, data: bytes = b"", hold: bool = False, timeout: float | None = None
    ) -> Completed:
        """Run a shell script and wait for its end.

        Args:
            script: POSIX shell.
            arguments: its $1, $2, ...
            data: its standard input.
            hold: leave its standard input open until it ends: it can see there that the connection is gone.
            timeout: seconds that it may take after its input was sent.

        Raises:
            LinkLostError: the connection broke, or stood still while the input was sent.
            CommandTimeoutError: it did not end in time. Its input is closed by then.
        """
        channel = self.channel(script, *arguments)
        errors = _Drain(channel)
        try:
            self._send(channel, data)
            if not hold:
                channel.shutdown_write()
            deadline = time.monotonic() + (self.timeouts.command if timeout is None else timeout)
            out = bytearray()
            while chunk := _receive(channel, deadline):
                out += chunk
                if len(out) > MOST_OUTPUT:
                    raise UserError(
                        f"a program on {self.target.host} prints without end", where=str(self.target),
                        why=f"more than {MOST_OUTPUT >> 20} MiB", fix="check what it is: bvtdeploy pushed another program",
                    )  # fmt: skip
            if not channel.status_event.wait(max(0.0, deadline - time.monotonic())):
                raise CommandTimeoutError
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise LinkLostError(str(error)) from error
        finally:
            channel.close()
            errors.stop()
        if channel.exit_status < 0:
            raise LinkLostError("the connection broke")
        return Completed(arguments, channel.exit_status, bytes(out), bytes(errors.data), signal_name(channel.exit_status))

    def _send(self, channel: paramiko.Channel, data: bytes) -> None:
        """Send input; a connection that takes nothing for `stall` seconds is lost."""
        channel.settimeout(self.timeouts.stall)
        view = memoryview(data)
        while view:
            try:
                sent = channel.send(bytes(view[:_CHUNK]))
            except OSError:
                if not channel.closed:
                    raise
                sent = 0
            if sent == 0:
                break  # the program ended before it had read everything: its exit code says why, or that the connection broke
            view = view[sent:]


def command_line(script: str, *arguments: str) -> str:
    """A command for a login shell of any kind (csh excepted) that runs a script in the POSIX shell."""
    lines = (line.strip() for line in script.splitlines())
    squeezed = "\n".join(line for line in lines if line and not line.startswith("#"))  # dropbear takes 9000 characters
    return "exec sh -c " + " ".join(shlex.quote(part) for part in (squeezed, "bvtdeploy", *arguments))


class _Drain:
    """Reads a channel's standard error meanwhile, so that neither side waits for the other."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self.data = bytearray()
        self._channel, self._stopped = channel, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                chunk = self._channel.recv_stderr(_CHUNK)
            except TimeoutError:
                if self._stopped:
                    return
                continue
            except (OSError, EOFError):
                return
            if not chunk:
                return
            if len(self.data) < MOST_OUTPUT:
                self.data += chunk

    def stop(self) -> None:
        self._stopped = True
        self._thread.join(5.0)


def _receive(channel: paramiko.Channel, deadline: float) -> bytes:
    """Bytes of standard output; b"" at its end."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise CommandTimeoutError
    channel.settimeout(left)
    try:
        return channel.recv(_CHUNK)
    except TimeoutError as error:
        raise CommandTimeoutError from error


def _prefer(transport: paramiko.Transport, known: list[KnownKey]) -> None:
    """Ask the server for a kind of key that we know it by."""
    kinds = {
        kind for key in known for kind in ({"ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"} if key.kind == "ssh-rsa" else {key.kind})
    }
    options = transport.get_security_options()
    options.key_types = tuple(sorted(options.key_types, key=lambda kind: kind not in kinds))


def _name_for(target: Target) -> str:
    """A name to suggest for a device."""
    first = target.host.split(".")[0]
    return (
        first if first.isascii() and first.replace("-", "").isalnum() and not target.host.replace(".", "").isdecimal() else "board"
    )


def _unreachable(target: Target, error: OSError, limit: float) -> UserError:
    place = f"{target.host}:{target.port}"
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        what, why = f"no answer from {place}", f"nothing came within {limit:g} s"
        fix = "check that the board is on, in this network, and that no firewall is between"
    elif error.errno == errno.ECONNREFUSED:
        what, why = f"{target.host} refuses connections to port {target.port}", "no SSH server listens there"
        fix = "on the board: sudo systemctl enable --now ssh; or check the port"
    else:
        what, why = f"{place} cannot be reached", error.strerror or str(error)
        fix = "check that the board is on and in a network that this machine reaches"
    return UserError(what, where=str(target), why=why, fix=fix)
