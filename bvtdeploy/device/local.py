"""Devices on this machine: itself, and an emulated ARM core (QEMU in user mode)."""

from __future__ import annotations

import contextlib
import glob
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from bvtdeploy.boards import all_boards, suggest
from bvtdeploy.build.files import write_whole
from bvtdeploy.device.base import DEFAULT_TIMEOUT, Completed, Device, Probe, signal_name
from bvtdeploy.device.cpuinfo import paragraphs
from bvtdeploy.errors import UserError

GET_QEMU = "apt-get install qemu-user-static"


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """An interrupt between the start of a program and the `try` that ends it would leave it running: it waits until the end of the
    block. Only the main thread is interrupted at all; blocking the signals would not do, as another thread may get them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = [number for number, handler in before.items() if handler is not None]  # None: not Python's to restore
    for number in ours:
        signal.signal(number, lambda which, _: arrived.append(which))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
    for which in arrived:
        signal.raise_signal(which)


class LocalDevice(Device):
    """This machine."""

    name = "local"

    def __init__(self) -> None:
        super().__init__()
        self._folder: Path | None = None

    @property
    def board(self) -> str:
        return "host"

    def open(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="bvtdeploy-"))

    def clean(self) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def folder(self) -> Path:
        """The private folder."""
        if self._folder is None:
            raise RuntimeError("the device is not open: use it in a with statement")
        return self._folder

    def probe(self) -> Probe:
        missing: dict[str, str] = {}
        lines = _cpuinfo()
        cpu = lines.get("model name")
        if cpu is None:
            missing["cpu"] = "/proc/cpuinfo names no model"
        glibc = platform.libc_ver()[1] or None
        if glibc is None:
            missing["glibc"] = "the C library is not glibc"
        features = tuple((lines.get("flags") or lines.get("Features") or "").split())
        return Probe(platform.machine(), cpu, features, os.cpu_count(), platform.release(), glibc, missing)

    def push(self, source: Path | bytes, name: str, *, executable: bool = False) -> str:
        target = self.folder / name
        write_whole(target, source if isinstance(source, bytes) else source.read_bytes(), mode=0o700 if executable else 0o600)
        return str(target)

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs a pushed program."""
        return list(argv)

    def run(self, argv: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT) -> Completed:
        command = self.command(argv)
        process: subprocess.Popen[bytes] | None = None
        try:
            with _interrupts_wait():
                try:
                    # Its own process group: what it started ends with it, and Ctrl-C reaches it through us only, when we tidy up.
                    process = subprocess.Popen(
                        command,
                        cwd=self.folder,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        start_new_session=True,
                    )
                except OSError as error:
                    raise UserError(f"the program cannot be started on {self.name}", where=command[0], why=str(error)) from error
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"the program did not finish on {self.name} within {timeout:g} s",
                where=" ".join(map(str, argv)),
                fix="give it more time with --timeout, or less work",
            ) from error
        finally:
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return Completed(tuple(argv), process.returncode, out, err, signal_name(process.returncode))

    def pull(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise UserError(f"the program left no file '{name}' on {self.name}", why=str(error)) from error

    def read_files(self, patterns: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for pattern in patterns:
            for path in sorted(glob.glob(pattern)):  # noqa: PTH207 (absolute patterns)
                with contextlib.suppress(OSError):  # some are for root only, some zones answer EAGAIN
                    found[path] = Path(path).read_bytes()
        return found

    def system(self, argv: Sequence[str], *, timeout: float = 10.0) -> Completed | None:
        try:
            done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, start_new_session=True)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr, signal_name(done.returncode))


class QemuDevice(LocalDevice):
    """An ARM core emulated by QEMU. What it computes is what the core computes; its times mean nothing."""

    emulated = True
    own_system = False

    def __init__(self, cpu: str) -> None:
        super().__init__()
        self.name = f"qemu:{cpu}"
        found = {machine: path for machine in ("aarch64", "arm") if (path := find_qemu(machine))}
        if not found:
            raise UserError("QEMU is not installed, so there is no emulated core", where=self.name, fix=GET_QEMU)
        # A core that both emulators list ("max") is taken as the 64-bit one.
        known = {machine: qemu_cpus(path) for machine, path in found.items()}
        machine = next((m for m, cpus in known.items() if cpu in cpus or not cpus), "")
        if not machine:
            raise UserError(
                f"QEMU has no core '{cpu}'", where=self.name, fix=suggest(cpu, {c for cpus in known.values() for c in cpus})
            )
        self.cpu, self.machine, self.qemu = cpu, machine, found[machine]

    @property
    def board(self) -> str:
        """A board with this core (the best known one, which has the shortest name), or any ARM board."""
        same = [b.name for b in all_boards() if b.machine == self.machine and self.cpu in (b.core, b.qemu_cpu)]
        return min(same, key=len, default="generic" if self.machine == "aarch64" else "generic-32")

    def command(self, argv: Sequence[str]) -> list[str]:
        return [self.qemu, "-cpu", self.cpu, *argv]

    def probe(self) -> Probe:
        why = "an emulated core: /proc shows the machine that emulates"
        missing = {"features": why, "glibc": "the program is static"}
        return Probe(self.machine, self.cpu, (), os.cpu_count(), platform.release(), None, missing)

    def system(self, argv: Sequence[str], *, timeout: float = 10.0) -> Completed | None:
        """None: the core is ARM's, its system is the emulating machine's."""
        return None


def find_qemu(machine: str = "aarch64") -> str:
    """The user-mode emulator for "aarch64" or "arm", or ""."""
    return next((path for name in (f"qemu-{machine}-static", f"qemu-{machine}") if (path := shutil.which(name))), "")


@lru_cache(maxsize=4)
def qemu_cpus(qemu: str) -> tuple[str, ...]:
    """The cores that an emulator knows; empty where it does not say."""
    try:
        done = subprocess.run([qemu, "-cpu", "help"], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.startswith(" "))


def _cpuinfo() -> dict[str, str]:
    """The first CPU of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return paragraphs(text)[0]
