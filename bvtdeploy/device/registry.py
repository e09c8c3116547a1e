"""The devices that the user has named, and the host keys that were confirmed for them.

Both are in the user's configuration folder ($BVTDEPLOY_CONFIG, else the system's usual one): `devices.json`, and `known_hosts` in
OpenSSH's format.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs

from bvtdeploy.boards import suggest
from bvtdeploy.build.files import write_whole
from bvtdeploy.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_RESERVED = ("local", "host", "qemu", "ssh")


@dataclass(frozen=True)
class Entry:
    """A named device.

    Attributes:
        name: what `--device` takes.
        address: as given: "pi@raspberrypi.local", "pi@[fe80::1]:2222", or a Host of the SSH configuration.
        board: the board whose runtime goes there; None: recognised each time.
        folder: where on the device files are put; None: the first of the usual places that will do.
        key: fingerprint of the host key that was confirmed: "SHA256:...".
    """

    name: str
    address: str
    board: str | None = None
    folder: str | None = None
    key: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON."""
        return asdict(self)


def config_folder() -> Path:
    """Where the user's configuration is: $BVTDEPLOY_CONFIG, else the system's usual folder."""
    chosen = os.environ.get("BVTDEPLOY_CONFIG")
    return Path(chosen).absolute() if chosen else platformdirs.user_config_path("bvtdeploy")


def known_hosts_file() -> Path:
    """Our own file of confirmed host keys."""
    return config_folder() / "known_hosts"


def entries() -> dict[str, Entry]:
    """All named devices."""
    path = config_folder() / "devices.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: _entry(name, fields) for name, fields in sorted(data["devices"].items())}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "the list of devices cannot be read", where=str(path), why=str(error) or type(error).__name__,
            fix="repair it, or move it away and add the devices again",
        ) from error  # fmt: skip


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    entry = Entry(name, **fields)
    optional = (entry.board, entry.folder, entry.key)
    if not isinstance(entry.address, str) or not all(value is None or isinstance(value, str) for value in optional):
        raise TypeError(f"a value of the device {name} is no text")
    return entry


def find(name: str) -> Entry:
    """A named device; an unknown name is a UserError that suggests near ones."""
    known = entries()
    if name not in known:
        none = "no device has been added: bvtdeploy devices add NAME user@host"
        raise UserError(f"there is no device named '{name}'", fix=suggest(name, known) if known else none)
    return known[name]


def check_name(name: str) -> None:
    """Refuse a name that could not be told from an address or a kind of device."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise UserError(
            f"'{name}' cannot be the name of a device",
            why=f"{', '.join(_RESERVED)} have a meaning already" if name in _RESERVED else "",
            fix="take letters, digits, dots, - and _, for example kitchen-pi",
        )


def save(entry: Entry) -> None:
    """Add a device, or replace the one of the same name."""
    check_name(entry.name)
    _write({**entries(), entry.name: entry})


def forget(name: str) -> Entry:
    """Remove a device from the list."""
    entry = find(name)
    _write({other: kept for other, kept in entries().items() if other != name})
    return entry


def _write(known: dict[str, Entry]) -> None:
    path = config_folder() / "devices.json"
    devices = {name: {k: v for k, v in entry.as_dict().items() if k != "name"} for name, entry in sorted(known.items())}
    try:
        write_whole(path, json.dumps({"devices": devices}, indent=1) + "\n", mode=0o600)
    except OSError as error:
        raise UserError(
            "the list of devices cannot be written", where=str(path), why=error.strerror or str(error),
            fix="set BVTDEPLOY_CONFIG to a folder that can be written",
        ) from error  # fmt: skip
