"""Which host keys are known: OpenSSH's files of known hosts, and our own.

A key is known by the host's name. Nothing is ever trusted because it is the first that was seen: an unknown key is refused until
the user has confirmed its fingerprint, and a key that has changed is always refused.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fnmatch
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bvtdeploy.build.files import write_whole
from bvtdeploy.errors import UserError


@dataclass(frozen=True)
class KnownKey:
    """A line of a file of known hosts.

    Attributes:
        kind: "ssh-ed25519", "ecdsa-sha2-nistp256", ...
        blob: the public key.
        file, line: where it stands, from 1 on.
        revoked: the line forbids this key.
    """

    kind: str
    blob: bytes
    file: Path
    line: int
    revoked: bool = False

    @property
    def fingerprint(self) -> str:
        """As OpenSSH prints it."""
        return fingerprint(self.blob)


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key as OpenSSH prints it: "SHA256:..."."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def short_kind(kind: str) -> str:
    """A key's kind as OpenSSH names it in its messages: "ED25519"."""
    name = kind.removeprefix("ssh-").split("-")[0].upper()
    return "ECDSA" if kind.startswith("ecdsa") else "RSA" if "rsa" in kind else name


def known_keys(name: str, files: Sequence[Path]) -> list[KnownKey]:
    """The keys that files say a host has.

    Args:
        name: "host" or "[host]:port".
        files: files of known hosts; those that are not there are left out.
    """
    return [key for file in files for hosts, key in _lines(file) if _names(hosts, name.lower())]


def _lines(file: Path) -> Iterator[tuple[str, KnownKey]]:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
            continue  # also @cert-authority: certificates of hosts are not supported, and their plain key is asked about
        with contextlib.suppress(binascii.Error, ValueError):
            yield fields[0], KnownKey(fields[1], base64.b64decode(fields[2], validate=True), file, number, marker == "@revoked")


def _names(hosts: str, name: str) -> bool:
    if hosts.startswith("|1|"):
        with contextlib.suppress(binascii.Error, ValueError):
            salt, digest = (base64.b64decode(part) for part in hosts[3:].split("|"))
            return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
        return False
    found = False
    for pattern in hosts.lower().split(","):
        escaped = pattern.removeprefix("!").replace("[", "[[]")  # brackets are the port's, no set of letters
        if fnmatch.fnmatchcase(name, escaped):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def remember(file: Path, name: str, kind: str, blob: bytes) -> None:
    """Add a confirmed key to our own file."""
    if any(key.blob == blob for key in known_keys(name, [file])):
        return
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    try:
        write_whole(file, f"{before}{name} {kind} {base64.b64encode(blob).decode()}\n", mode=0o600)
    except OSError as error:
        raise UserError("the host key cannot be recorded", where=str(file), why=error.strerror or str(error)) from error


def drop(file: Path, name: str) -> int:
    """Remove a host's keys from our own file. Returns how many."""
    gone = {key.line for key in known_keys(name, [file])}
    if gone:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        write_whole(file, "".join(line for number, line in enumerate(lines, 1) if number not in gone), mode=0o600)
    return len(gone)
