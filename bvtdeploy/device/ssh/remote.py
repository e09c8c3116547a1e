"""A board over SSH as a device."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bvtdeploy.boards import load_board
from bvtdeploy.build import Build, build_runtime
from bvtdeploy.build.fits import check_fits
from bvtdeploy.device import identify
from bvtdeploy.device.base import DEFAULT_TIMEOUT, Completed, Device, Probe
from bvtdeploy.device.registry import Entry
from bvtdeploy.device.ssh import scripts
from bvtdeploy.device.ssh.address import parse_address, resolve
from bvtdeploy.device.ssh.auth import Secrets
from bvtdeploy.device.ssh.connection import CommandTimeoutError, Connection, LinkLostError, Timeouts
from bvtdeploy.device.ssh.session import Keeper
from bvtdeploy.errors import UserError

T = TypeVar("T")
_GRACE = 15.0  # seconds after which the device itself ends a program that our side did not end
_RECONNECTS = (0.0, 1.0, 3.0)  # pauses before each try


class SshDevice(Device):
    """A board that is reached over SSH.

    Attributes:
        target: where it is, as the SSH configuration says.
        timeouts: limits of everything; to be changed before it is opened.
        sums: what may sum a file's content on the device, in order.
        stage: how far the last connecting came: "resolve", "connect", "host key", "authentication".
        host_key: its kind and the key, once the device has shown it.
    """

    def __init__(self, name: str, *, entry: Entry | None = None) -> None:
        super().__init__()
        self.name = name
        self.entry = entry
        self.target = resolve(parse_address(entry.address if entry else name))
        self.timeouts = Timeouts()
        self.sums = scripts.SUMS
        self._secrets = Secrets()
        self._token = secrets.token_hex(8)
        self._connection: Connection | None = None
        self._keeper: Keeper | None = None
        self._system: identify.System | None = None
        self._files: dict[str, tuple[bytes, bool]] = {}
        self._done: list[str] = []
        self._closed = threading.Event()  # by clean(), perhaps while another thread is connecting again
        self.stage = "resolve"
        self.host_key: tuple[str, bytes] | None = None

    # -- a session -----------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect and log in, without a private folder and without the lock: enough to look."""
        self._closed.clear()
        self._connect()

    def _connect(self) -> None:
        if self._connection is None:
            self._say(f"connecting to {self.target.route}")
            name, address = (self.entry.name, self.entry.address) if self.entry else ("", self.name)
            connection = Connection(self.target, self.timeouts, self._secrets, name=name, address=address)
            try:
                connection.open()
            finally:
                self.stage, self.host_key = connection.stage, connection.host_key
            self._connection = connection

    def open(self) -> None:
        if self._keeper is not None:
            return
        self._closed.clear()
        try:
            try:
                self._begin()
            except LinkLostError:
                self._drop()
                self._begin()
        except LinkLostError as error:
            self.clean()
            raise self._lost("while the private folder was made", error) from error
        except BaseException:  # also an interrupt: leaving a with statement that was not entered cleans nothing
            self.clean()
            raise

    def _begin(self) -> None:
        self._connect()
        assert self._connection is not None
        keeper = Keeper(self._connection, token=self._token, folder=self.entry.folder if self.entry else None, say=self._say)
        self._keeper = keeper
        keeper.open()

    def clean(self) -> None:
        self._closed.set()
        keeper, self._keeper = self._keeper, None
        try:
            if keeper is not None and not keeper.close():
                self._sweep()
        finally:
            self._drop()
            self._files.clear()
            self._done.clear()

    def _sweep(self) -> None:
        """The keeper did not say that it tidied up: look after it once, over a new connection. The next session does else."""
        self._drop()
        with contextlib.suppress(UserError, LinkLostError):
            connection = Connection(self.target, replace(self.timeouts, lock=0.0), self._secrets)
            try:
                connection.open()
                after = Keeper(connection, token=self._token, folder=self.entry.folder if self.entry else None, say=self._say)
                after.open()
                after.close()
            finally:
                connection.close()

    def _drop(self) -> None:
        """Forget the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _steady(self, what: str, step: Callable[[Connection], T]) -> T:
        """A step that may be done twice: once more over a new connection, where the connection breaks."""
        try:
            return self._step(what, step)
        except LinkLostError as error:
            self._reconnect(what, error)
        try:
            return self._step(what, step)
        except LinkLostError as error:
            raise self._lost(what, error) from error

    def _once(self, what: str, step: Callable[[Connection], T]) -> T:
        """A step that cannot be done twice."""
        try:
            return self._step(what, step)
        except LinkLostError as error:
            raise self._lost(what, error) from error

    def _step(self, what: str, step: Callable[[Connection], T]) -> T:
        if self._connection is None:
            raise RuntimeError("the device is not open: use it in a with statement")
        try:
            return step(self._connection)
        except CommandTimeoutError as error:
            raise UserError(
                f"{self.name} did not answer in time {what}", where=str(self.target),
                why=f"a short command of ours took more than {self.timeouts.command:g} s",
                fix="the board may be overloaded: try again",
            ) from error  # fmt: skip

    def _reconnect(self, what: str, error: LinkLostError) -> None:
        """A new connection, a new private folder, and everything that was pushed, again."""
        held = self._keeper is not None
        for last, pause in enumerate(_RECONNECTS, 1):
            self._drop()
            if not self._closed.is_set():
                time.sleep(pause)
            if self._closed.is_set():
                raise self._lost(what, error)
            self._say(f"the connection to {self.target} broke: connecting again")
            try:
                self._again(held)
                if not self._closed.is_set():
                    return
            except (LinkLostError, CommandTimeoutError, UserError) as again:
                if last == len(_RECONNECTS) and not self._closed.is_set():
                    raise self._lost(what, error, again) from again
            if self._closed.is_set():  # meanwhile: what was opened since is ours to end
                self.clean()
                raise self._lost(what, error)

    def _again(self, held: bool) -> None:
        if not held:
            self._connect()
            return
        self._keeper = None
        self._begin()
        for name, (data, executable) in list(self._files.items()):
            assert self._connection is not None
            self._put(self._connection, data, name, executable)

    def _lost(self, what: str, error: Exception, again: Exception | None = None) -> UserError:
        why = [f"{error}" if str(error) else "it was closed from the other side, or the network is gone"]
        if again is not None:
            why.append("connecting again failed: " + (" ".join(str(again).split()) or "a command of ours did not end in time"))
        why.append("known by then: " + ("; ".join(self._done) if self._done else "nothing"))
        return UserError(
            f"the connection to {self.name} broke {what}", where=str(self.target), why=". ".join(why),
            fix="run it again; what is left on the board is removed by the board itself, at the latest at the next contact",
        )  # fmt: skip

    def _say(self, text: str) -> None:
        if self.progress is not None:
            self.progress(text)

    @property
    def folder(self) -> str:
        """The private folder, while there is one; else ""."""
        return self._keeper.run if self._keeper is not None else ""

    # -- what it is ----------------------------------------------------------------------------------------------------------

    @property
    def board(self) -> str:
        if self.entry is not None and self.entry.board:
            return self.entry.board
        return identify.board_of(self.look(), str(self.target))

    def look(self) -> identify.System:
        """What the device's system says of itself; asked once."""
        if self._system is None:
            found = self._steady("while the device was probed", self._look)
            self._system = found
            self.emulated = found.emulated
            self._done.append(f"it is {found.model or found.kernel_machine}")
        return self._system

    def _look(self, connection: Connection) -> identify.System:
        mark = self._mark()
        folder = self.entry.folder if self.entry and self.entry.folder else ""
        done = self._checked(connection.execute(scripts.FACTS, mark, folder))
        lines = (line.partition("=") for line in _after(done.stdout, mark).decode(errors="replace").splitlines())
        facts = {name: value.strip() for name, _, value in lines}
        return identify.read_system(facts, self._read(connection, identify.FILES))

    def probe(self) -> Probe:
        return self.look().probe

    @property
    def build(self) -> Build:
        """The runtime for this device; compiled when first asked for, and only if it can run there."""
        if self._build is None:
            board, system = load_board(self.board), self.look()
            identify.check_board(board, system, str(self.target))
            built = build_runtime(board, toolchain=self.toolchain, progress=self.progress)
            page = system.facts.get("page", "")
            check_fits(built.program, board, system.probe, page_bytes=int(page) if page.isdecimal() else None)
            self._build = built
        return self._build

    # -- files ---------------------------------------------------------------------------------------------------------------

    def push(self, source: Path | bytes, name: str, *, executable: bool = False) -> str:
        data = source if isinstance(source, bytes) else source.read_bytes()
        self._steady(f"while {name} was pushed", lambda connection: self._put(connection, data, name, executable))
        self._files[name] = (data, executable)
        self._done.append(f"{name} was pushed")
        return f"./{name}"

    def _put(self, connection: Connection, data: bytes, name: str, executable: bool) -> None:
        digest, mode, run = hashlib.sha256(data).hexdigest(), "700" if executable else "600", self._run_folder
        mark = self._mark()
        done = self._checked(
            connection.execute(scripts.HAVE, mark, run, name, digest, mode, self.sums, timeout=self._patience(data))
        )
        answer = _after(done.stdout, mark).decode(errors="replace").split()
        if answer[:1] == ["have"]:
            return
        free = int(answer[1]) * 1024 if len(answer) > 1 and answer[1].isdecimal() else None
        if free is not None and free < len(data) + 65536:
            raise self._no_space(name, data, free)
        self._say(f"pushing {name} ({len(data) / 1e6:.1f} MB) to {self.name}")
        done = connection.execute(
            scripts.PUT, mark, run, name, digest, mode, str(len(data)), "1" if self.keep else "0", self.sums,
            data=data, timeout=self._patience(data),
        )  # fmt: skip
        told = _after(done.stdout, mark).decode(errors="replace").split()
        if done.returncode == 73:
            why = " ".join(done.stderr.decode(errors="replace").split())
            if "No space" in why or "quota" in why:
                raise self._no_space(name, data, free)
            if told[:1] == ["size"]:
                raise LinkLostError(f"{told[1]} of {len(data)} bytes of {name} arrived")
            raise UserError(
                f"{name} could not be put on {self.name}", where=f"{self.target}:{self._run_folder}", why=why,
                fix="name another folder on the device: bvtdeploy devices add NAME ADDRESS --folder DIR",
            )  # fmt: skip
        if done.returncode == 71:
            raise LinkLostError(f"{name} arrived changed: its sum differs")
        self._checked(done)
        if told[:2] == ["sum", "none"] and self._fetch(connection, name) != data:
            raise LinkLostError(f"{name} arrived changed")

    def _patience(self, data: bytes) -> float:
        return self.timeouts.command + len(data) / 1e6  # a slow card writes a megabyte in a second

    def _no_space(self, name: str, data: bytes, free: int | None) -> UserError:
        has = f", there are {free / 1e6:.1f} MB" if free is not None else ""
        return UserError(
            f"there is no space for {name} on {self.name}", where=f"{self.target}:{self._run_folder}",
            why=f"it has {len(data) / 1e6:.1f} MB{has}",
            fix="free some, or name another folder on the device: bvtdeploy devices add NAME ADDRESS --folder DIR",
        )  # fmt: skip

    def pull(self, name: str) -> bytes:
        found = self._once(f"while {name} was pulled", lambda connection: self._fetch(connection, name))
        if found is None:
            raise UserError(f"the program left no file '{name}' on {self.name}", where=str(self.target))
        return found

    def _fetch(self, connection: Connection, name: str) -> bytes | None:
        mark = self._mark()
        done = connection.execute(scripts.PULL, mark, self._run_folder, name, timeout=10 * self.timeouts.command)
        if done.returncode == 70:
            return None
        self._checked(done)
        size, _, data = _after(done.stdout, mark).partition(b"\n")
        if len(data) < int(size):
            raise LinkLostError(f"{len(data)} of {int(size)} bytes of {name} arrived")
        return data[: int(size)]

    def forget_kept(self) -> dict[str, int]:
        """Remove the files that `keep` left on the board, from every folder where a session may have left them.

        Returns:
            folder -> bytes that it had. Folders of ours that are empty then go, too, the last when the session ends.
        """

        def step(connection: Connection) -> list[str]:
            mark = self._mark()
            folder = self.entry.folder if self.entry and self.entry.folder else ""
            done = self._checked(connection.execute(scripts.CLEAN, mark, folder))
            return _after(done.stdout, mark).decode(errors="replace").splitlines()

        told = [line.partition(" ")[::2] for line in self._steady("while kept files were removed", step)]
        left = [path for word, path in told if word == "left"]
        if left:
            raise UserError(
                f"what was kept on {self.name} cannot be removed", where=f"{self.target}:{left[0]}",
                fix="remove that folder on the board",
            )  # fmt: skip
        return {path: int(word) << 10 for word, path in told if word.isdecimal()}

    def read_files(self, patterns: Sequence[str]) -> dict[str, bytes]:
        return self._steady("while its files were read", lambda connection: self._read(connection, patterns))

    def _read(self, connection: Connection, patterns: Sequence[str]) -> dict[str, bytes]:
        mark = self._mark()
        done = self._checked(connection.execute(scripts.READ, mark, *patterns))
        found: dict[str, bytes] = {}
        for piece in _after(done.stdout, mark).split(f"{mark}<".encode())[1:]:
            path, _, rest = piece.partition(b"\n")
            content, _, code = rest.rpartition(f"{mark}>".encode())
            if code.split()[:1] == [b"0"]:
                found[path.decode(errors="replace")] = content
        return found

    # -- programs ------------------------------------------------------------------------------------------------------------

    def run(self, argv: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT) -> Completed:
        mark, command = self._mark(), " ".join(argv)
        limit = str(int(timeout + _GRACE + 1))

        def step(connection: Connection) -> Completed:
            try:
                done = connection.execute(scripts.RUN, mark, self._run_folder, limit, *argv, hold=True, timeout=timeout)
                return done if mark.encode() in done.stdout else self._checked(done)
            except CommandTimeoutError as error:
                raise UserError(
                    f"the program did not finish on {self.name} within {timeout:g} s", where=command,
                    why="it was ended", fix="give it more time with --timeout, or less work",
                ) from error  # fmt: skip

        done = self._once(f"while {Path(argv[0]).name} ran", step)
        told = done.stderr.decode(errors="replace")
        self._refuse_what_did_not_start(done.returncode, told, command)
        self._done.append(
            f"{Path(argv[0]).name} {' '.join(argv[1:3])} had ended with exit code {done.returncode}".replace("  ", " ")
        )
        return Completed(tuple(argv), done.returncode, _between(done.stdout, mark), done.stderr, done.signal)

    def _refuse_what_did_not_start(self, code: int, told: str, command: str) -> None:
        last = told.strip().splitlines()[-1] if told.strip() else ""
        if code == 126:
            raise UserError(
                f"{self.name} does not let the program start", where=command, why=last or "exit code 126",
                fix="its folder may be mounted noexec: bvtdeploy devices add NAME ADDRESS --folder DIR names another; "
                "an exec format error means that the program is for another machine",
            )  # fmt: skip
        if code == 127 and ("not found" in last or "No such file" in last):
            raise UserError(
                f"the program cannot be started on {self.name}", where=command, why=last,
                fix="the file or the loader that it asks for is not there; a static program needs none",
            )  # fmt: skip

    def system(self, argv: Sequence[str], *, timeout: float = 10.0) -> Completed | None:
        mark = self._mark()

        def step(connection: Connection) -> Completed | None:
            with contextlib.suppress(CommandTimeoutError):
                return connection.execute(
                    scripts.SYSTEM, mark, "", str(int(timeout + _GRACE + 1)), *argv, hold=True, timeout=timeout
                )
            return None

        done = self._steady(f"while {argv[0]} was asked", step)
        if done is None or mark.encode() not in done.stdout:
            return None
        if _after(done.stdout, mark).startswith(b"absent\n"):
            return None
        out = _between(done.stdout, mark)
        return Completed(tuple(argv), done.returncode, out, done.stderr, done.signal)

    @property
    def _run_folder(self) -> str:
        if self._keeper is None or not self._keeper.run:
            raise RuntimeError("the device is not open: use it in a with statement")
        return self._keeper.run

    def _mark(self) -> str:
        """A line that nothing on the device can guess: what a login script prints stands before it."""
        return f"bvtdeploy-{secrets.token_hex(12)}"

    def _checked(self, done: Completed) -> Completed:
        """One of our scripts must end well: a shell that is none of ours is the usual reason why it does not."""
        if done.returncode == 72:
            raise LinkLostError("the private folder is gone")
        if done.returncode != 0:
            told = " ".join((done.stderr or done.stdout).decode(errors="replace").split())[:300]
            raise UserError(
                f"{self.name} does not answer as a POSIX system does", where=str(self.target),
                why=f"a script of ours ended with code {done.returncode}: {told or 'it said nothing'}",
                fix="the login shell there must run `sh -c`; check what ~/.profile and ~/.bashrc print and whether they exit",
            )  # fmt: skip
        return done


def _after(data: bytes, mark: str) -> bytes:
    """What comes after the line of a marker; nothing where it is not there."""
    return data.partition(f"{mark}\n".encode())[2]


def _between(data: bytes, mark: str) -> bytes:
    """What a program printed, between the marker and the one of its end."""
    after = _after(data, mark)
    said, end, _ = after.rpartition(f"{mark}.\n".encode())
    return said if end else after
