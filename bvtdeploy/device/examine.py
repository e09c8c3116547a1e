"""Everything that a run on a device needs, looked at one by one, each with what to do about it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from bvtdeploy.boards import load_board
from bvtdeploy.boards.machines import machine_name
from bvtdeploy.build.fits import HWCAPS, missing_features
from bvtdeploy.device import identify
from bvtdeploy.device.base import Device
from bvtdeploy.device.ssh import SshDevice, scripts
from bvtdeploy.device.ssh.hostkeys import fingerprint, short_kind
from bvtdeploy.errors import UserError

State = Literal["ok", "failed", "unknown"]
_ENOUGH_DISK, _ENOUGH_MEMORY = 32 << 20, 64 << 20  # a program, a model and its inputs; what a small model needs while it runs
_SKEW = 120.0  # seconds
_GOVERNORS = "/sys/devices/system/cpu/cpufreq/policy*/scaling_governor"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: "ok", "failed", or "unknown" where it could not be found out.
        needed: whether nothing runs without it.
        found: what was found, or why nothing was.
        fix: what to do; empty where nothing is.
    """

    name: str
    state: State
    needed: bool
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Examination:
    """All checks of a device."""

    device: str
    model: str | None
    board: str | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing that is needed failed."""
        return not any(check.needed and check.state == "failed" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {"device": self.device, "model": self.model, "board": self.board, "checks": [vars(check) for check in self.checks]}


_STAGES = ("resolve", "connect", "host key", "authentication")
_NEEDED = ("architecture", "free disk", "exec permission")
_REST = ("architecture", "CPU features", "libc", "free disk", "free memory", "exec permission", "clock", "governor")


def examine(device: Device) -> Examination:
    """Look at a device that is not open. It is closed again at the end."""
    checks: list[Check] = []
    try:
        if isinstance(device, SshDevice):
            checks += _connecting(device)
            if any(check.state == "failed" for check in checks):
                return Examination(device.name, None, None, (*checks, *_unknown("not connected")))
            try:
                system: identify.System | None = device.look()
            except UserError as error:
                checks.append(Check("POSIX shell", "failed", True, f"{error.what}: {error.why}", error.fix))
                return Examination(device.name, None, None, (*checks, *_unknown("it could not be asked")))
        else:
            device.open()
            system = _look(device)
        if system is None:
            return Examination(device.name, None, device.board, (*checks, *_emulated(device)))
        board = _board(device, system, checks)
        governor = _governor(device)
        checks += [*_system(system, board), _exec(device), _clock(system), governor]  # _exec opens a session of its own
        return Examination(device.name, system.model or None, board, tuple(checks))
    finally:
        device.clean()


def _unknown(why: str) -> Iterator[Check]:
    """What is looked at over a connection, where there is none to look over."""
    for name in _REST:
        yield Check(name, "unknown", name in _NEEDED, why)


def _connecting(device: SshDevice) -> list[Check]:
    problem: UserError | None = None
    try:
        device.connect()
    except UserError as error:
        problem = error
    target = device.target
    found = {"resolve": target.host, "connect": f"port {target.port}" + (f", through {target.jump.route}" if target.jump else "")}
    if device.host_key is not None:
        kind, blob = device.host_key
        found["host key"] = f"{short_kind(kind)} {fingerprint(blob)}"
    found["authentication"] = f"as {target.user}"
    checks: list[Check] = []
    for stage in _STAGES:
        if any(check.state == "failed" for check in checks):
            checks.append(Check(stage, "unknown", True, "not connected"))
        elif problem is not None and stage == device.stage:
            checks.append(Check(stage, "failed", True, problem.what + (f": {problem.why}" if problem.why else ""), problem.fix))
        else:
            checks.append(Check(stage, "ok", True, found.get(stage, "")))
    return checks


def _look(device: Device) -> identify.System | None:
    """The same script that runs over SSH, on this machine."""
    mark = secrets.token_hex(8)
    done = device.system(("sh", "-c", scripts.FACTS, "bvtdeploy", mark, ""))
    if done is None:
        return None
    lines = (line.partition("=") for line in done.stdout.decode(errors="replace").splitlines()[1:])
    return identify.read_system({name: value.strip() for name, _, value in lines}, device.read_files(identify.FILES))


def _emulated(device: Device) -> Iterator[Check]:
    why = "an emulated core in user mode has no system of its own"
    yield Check("architecture", "ok", True, f"emulated {device.name.partition(':')[2]}: right results, no times")
    yield Check("exec permission", "ok", True, "the emulator runs what is pushed")
    for name in ("libc", "clock", "governor"):
        yield Check(name, "unknown", False, why)


def _board(device: Device, system: identify.System, checks: list[Check]) -> str | None:
    userland = f", {system.userland} programs" if system.userland and system.userland != machine_name(system.kernel_machine) else ""
    said = f"{system.kernel_machine}{userland}"
    try:
        board = device.board
        loaded = load_board(board)
        if not loaded.native:
            identify.check_board(replace(loaded, features=()), system, device.name)
    except UserError as error:
        checks.append(Check("architecture", "failed", True, f"{said}: {error.what}", error.fix))
        return None
    checks.append(Check("architecture", "ok", True, f"{said}: board {board}"))
    return board


def _system(system: identify.System, board: str | None) -> Iterator[Check]:
    probe = system.probe
    lacking = missing_features(load_board(board), probe.features) if board else []
    if board is None or not probe.features:
        yield Check("CPU features", "unknown", False, probe.unavailable.get("features", "there is no board for it"))
    elif lacking:
        names = ", ".join(f"{HWCAPS[name][0]} ({name})" for name in lacking)
        yield Check(
            "CPU features", "failed", True, f"{probe.cpu} lacks {names}", "name another board, or none: it is recognised then"
        )
    else:
        yield Check("CPU features", "ok", True, f"{probe.cpu}: all that programs for {board} use")
    if probe.glibc:
        yield Check("libc", "ok", False, f"glibc {probe.glibc} (our programs are static and need none)")
    else:
        yield Check("libc", "unknown", False, f"{probe.unavailable['glibc']} (our programs are static and need none)")
    free = system.facts.get("disk_free_kib", "")
    if free.isdecimal():
        enough = int(free) << 10 >= _ENOUGH_DISK
        found = f"{int(free) / 1024:.0f} MiB in {system.facts.get('disk', '')}"
        fix = "" if enough else "free some, or name another folder: bvtdeploy devices add NAME ADDRESS --folder DIR"
        yield Check("free disk", "ok" if enough else "failed", True, found, fix)
    else:
        yield Check("free disk", "unknown", True, "df does not tell")
    memory = system.memory_available
    if memory is None:
        yield Check("free memory", "unknown", False, "/proc/meminfo does not tell")
    else:
        enough = memory >= _ENOUGH_MEMORY
        fix = "" if enough else "end other programs: the system ends the largest when there is no more"
        yield Check("free memory", "ok" if enough else "failed", False, f"{memory >> 20} MiB", fix)


def _exec(device: Device) -> Check:
    if not isinstance(device, SshDevice):
        return Check("exec permission", "ok", True, "the temporary folder of this machine")
    device.timeouts = replace(device.timeouts, lock=0.0)  # to look is not worth waiting for
    try:
        device.clean()
        device.open()
        return Check("exec permission", "ok", True, f"programs may run in {device.folder.rpartition('/')[0]}")
    except UserError as error:
        if "in use" in error.what:
            return Check("exec permission", "unknown", True, f"the device is in use {error.why}", "wait until that has ended")
        return Check("exec permission", "failed", True, f"{error.what}: {error.why}", error.fix)


def _clock(system: identify.System) -> Check:
    told = system.facts.get("date", "")
    if not told.isdecimal():
        return Check("clock", "unknown", False, "date does not tell")
    skew = int(told) - system.looked_at
    if abs(skew) <= _SKEW:
        return Check("clock", "ok", False, "as this machine's" if abs(skew) < 5 else f"{skew:+.0f} s from this machine's")
    fix = "on the board: sudo timedatectl set-ntp true (certificates and the age of files depend on it)"
    return Check(
        "clock", "failed", False, f"{skew:+.0f} s from this machine's ({time.strftime('%Y-%m-%d', time.gmtime(int(told)))})", fix
    )


def _governor(device: Device) -> Check:
    found = sorted({text.decode(errors="replace").strip() for text in device.read_files([_GOVERNORS]).values()})
    if not found:
        return Check("governor", "unknown", False, "no cpufreq: a virtual machine, or a system that hides it")
    if found == ["performance"]:
        return Check("governor", "ok", False, "performance")
    fix = "for times that repeat, on the board: echo performance | sudo tee " + _GOVERNORS
    return Check("governor", "failed", False, f"{', '.join(found)}: the clock changes with the load", fix)
