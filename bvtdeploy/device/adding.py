"""Naming a device: its host key is confirmed and recorded, its address noted, its board recognised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bvtdeploy.boards import load_board
from bvtdeploy.device import registry
from bvtdeploy.device.registry import Entry
from bvtdeploy.device.ssh.address import sharing
from bvtdeploy.device.ssh.auth import Secrets
from bvtdeploy.device.ssh.connection import Connection, UnknownHostKeyError
from bvtdeploy.device.ssh.hostkeys import drop, known_keys, remember, short_kind
from bvtdeploy.device.ssh.hostkeys import fingerprint as fingerprint_of
from bvtdeploy.device.ssh.remote import SshDevice
from bvtdeploy.errors import UserError

Confirm = Callable[[str, str, str], bool | None]  # host, kind of key, fingerprint -> yes, no, nobody to ask


@dataclass(frozen=True)
class Added:
    """A device that was added.

    Attributes:
        entry: what was noted.
        known_before: the SSH configuration knew its host key already.
        model, board: what it is; None where it could not be asked.
        problem: why it could not be asked.
    """

    entry: Entry
    known_before: bool
    model: str | None
    board: str | None
    problem: UserError | None

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "added": self.entry.as_dict(),
            "known_before": self.known_before,
            "model": self.model,
            "board": self.board,
            "problem": self.problem.as_dict() if self.problem else None,
        }


def add(
    name: str,
    address: str,
    *,
    board: str | None = None,
    folder: str | None = None,
    fingerprint: str | None = None,
    confirm: Confirm,
    progress: Callable[[str], None] | None = None,
) -> Added:
    """Name a device.

    Args:
        name: for it; a device of that name is replaced.
        address: `user@host[:port]`, or a Host of the SSH configuration.
        board: the board whose runtime goes there; None: recognised each time.
        folder: where on the device files are put; None: in the user's cache folder.
        fingerprint: the host key must have this one ("SHA256:..."); nobody is asked then.
        confirm: asked about a host key that is not known.
        progress: told what is being done.

    Raises:
        UserError: it cannot be reached, its key is another, or nobody has confirmed it. Then nothing was noted.
    """
    registry.check_name(name)
    if board is not None:
        load_board(board)
        board = str(Path(board).absolute()) if "/" in board or board.endswith(".toml") else board
    if folder is not None and not folder.startswith("/"):
        raise UserError(
            "the folder on the device must be an absolute path", where=f"--folder {folder}", fix="for example /srv/bvtdeploy"
        )
    device = SshDevice(name, entry=Entry(name, address, board, folder))
    connection = Connection(device.target, device.timeouts, Secrets(), name=name, address=address)
    (progress or (lambda _: None))(f"connecting to {device.target.route}")
    known_before = True
    try:
        connection.reach()
    except UnknownHostKeyError as unknown:
        if unknown.target != device.target:  # a jump host: it has to be known first
            raise
        known_before = False
        _confirmed(unknown, fingerprint, confirm)
    finally:
        connection.close()
    assert connection.host_key is not None
    kind, blob = connection.host_key
    shown = fingerprint_of(blob)
    if fingerprint is not None and fingerprint != shown:
        raise _other_key(device.target.host, str(device.target), kind, shown, fingerprint)
    remember(registry.known_hosts_file(), device.target.key_name, kind, blob)
    entry = replace(device.entry, key=shown) if device.entry else Entry(name, address, board, folder, shown)
    registry.save(entry)
    device.progress = progress
    try:
        device.connect()
        system = device.look()
        return Added(entry, known_before, system.model or system.kernel_machine, device.board, None)
    except UserError as problem:
        return Added(entry, known_before, None, None, problem)
    finally:
        device.clean()


@dataclass(frozen=True)
class Removed:
    """A device that was forgotten.

    Attributes:
        entry: what was noted.
        key_forgotten: its host key was in our list, and is no longer.
        key_shared_with: named devices of the same address, which still need the key.
    """

    entry: Entry
    key_forgotten: bool
    key_shared_with: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "removed": self.entry.as_dict(),
            "key_forgotten": self.key_forgotten,
            "key_shared_with": list(self.key_shared_with),
        }


def remove(name: str) -> Removed:
    """Forget a device, and its host key where no other named device has the same address."""
    entry = registry.forget(name)
    try:
        key_name = SshDevice(name, entry=entry).target.key_name
    except UserError:  # an address that no longer means anything
        return Removed(entry, False, ())
    others = tuple(sharing(key_name))
    return Removed(entry, not others and drop(registry.known_hosts_file(), key_name) > 0, others)


def describe(name: str) -> dict[str, Any]:
    """What is known of a named device without asking it: the entry, and what the SSH configuration makes of its address."""
    entry = registry.find(name)
    target = SshDevice(name, entry=entry).target
    keys = known_keys(target.key_name, target.known_hosts)
    return {
        "device": entry.as_dict(),
        "route": target.route,
        "host": target.host,
        "port": target.port,
        "user": target.user,
        "identities": [str(path) for path in target.identities if path.exists()],
        "proxy_command": target.proxy_command,
        "host_keys": [
            {"kind": key.kind, "fingerprint": key.fingerprint, "file": str(key.file), "line": key.line, "revoked": key.revoked}
            for key in keys
        ],
    }


def _confirmed(unknown: UnknownHostKeyError, fingerprint: str | None, confirm: Confirm) -> None:
    shown = fingerprint_of(unknown.blob)
    if fingerprint is not None:
        if fingerprint != shown:
            raise _other_key(unknown.target.host, str(unknown.target), unknown.kind, shown, fingerprint)
        return
    answer = confirm(unknown.target.host, short_kind(unknown.kind), shown)
    if answer is None:
        raise UserError(
            unknown.what, where=unknown.where, why=unknown.why,
            fix=f"there is no terminal to ask at: compare the fingerprint with the board's own, then add --fingerprint {shown}; "
            "or --yes, where you trust the network",
        )  # fmt: skip
    if not answer:
        raise UserError(
            f"the host key of {unknown.target.host} was not confirmed, so nothing was noted", where=unknown.where, why=unknown.why,
            fix="on the board itself, `ssh-keygen -lf` of the .pub files in /etc/ssh shows its keys",
        )  # fmt: skip


def _other_key(host: str, where: str, kind: str, shown: str, wanted: str) -> UserError:
    return UserError(
        f"{host} shows another host key than the one that you gave", where=where,
        why=f"it shows {short_kind(kind)} {shown}, wanted was {wanted}",
        fix="this is another machine, or another of its keys: look on the board (ssh-keygen -lf of the .pub files in /etc/ssh)",
    )  # fmt: skip
