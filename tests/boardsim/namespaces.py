"""Run a command as root of user, mount, process, host-name and IPC namespaces of its own: `namespaces.py COMMAND...`.

Whatever ends this process ends everything inside. `unshare --map-users` would go through newuidmap, which refuses; the identity map
is written here instead.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000
_PDEATHSIG, _MS_REC, _MS_PRIVATE = 1, 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent() -> None:
    _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(command: list[str]) -> int:
    _die_with_parent()
    ready, told = os.pipe()
    mapped, go = os.pipe()
    child = os.fork()
    if child == 0:
        _die_with_parent()
        if _libc.unshare(_NEWUSER | _NEWNS | _NEWPID | _NEWUTS | _NEWIPC):
            print(f"unshare: {os.strerror(ctypes.get_errno())}", file=sys.stderr, flush=True)
            os._exit(90)
        os.write(told, b"x")
        os.read(mapped, 1)
        os.setgid(0)
        os.setuid(0)
        _die_with_parent()  # setuid takes it back
        _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        first = os.fork()
        if first == 0:
            _die_with_parent()
            os.execvp(command[0], command)
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(told)
    if not os.read(ready, 1):
        return 90
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file:  # noqa: PTH123 (one write)
            file.write("0 0 65536\n")
    os.write(go, b"x")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGKILL))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
