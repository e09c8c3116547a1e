"""The kinds of machine, by the one spelling that is used everywhere: ELF's ("aarch64", "arm", "x86_64")."""

from __future__ import annotations

import platform
from typing import Final

BITS: Final = {"aarch64": 64, "arm": 32, "x86_64": 64, "i386": 32, "riscv64": 64}
# What else `uname -m`, a compiler's triple or a package calls them.
_ALIASES: Final = {
    "arm64": "aarch64",
    "armv8l": "arm",
    "armv7l": "arm",
    "armv7": "arm",
    "armv7a": "arm",
    "armv6l": "arm",
    "armhf": "arm",
    "amd64": "x86_64",
    "x64": "x86_64",
    "i486": "i386",
    "i586": "i386",
    "i686": "i386",
    "x86": "i386",
}


def machine_name(spelled: str) -> str:
    """What `uname -m` says ("armv7l"), or the first part of a compiler's triple, in our spelling ("arm")."""
    name = spelled.strip().lower()
    return _ALIASES.get(name, name)


def this_machine() -> str:
    """The machine that we run on."""
    return machine_name(platform.machine())
