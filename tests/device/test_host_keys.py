from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

from bvtdeploy.device.ssh.hostkeys import drop, fingerprint, known_keys, remember, short_kind

A, B = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (b"a", b"b"))


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def test_files_of_known_hosts(tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(
        f"# a comment\n\nboard,10.0.0.7 ssh-ed25519 {A} comment\n[board]:2222 ssh-rsa {B}\n{hashed('secret')} ssh-ed25519 {B}\n"
        f"*.farm,!bad.farm ssh-ed25519 {A}\n@revoked board ssh-ed25519 {B}\n@cert-authority * ssh-ed25519 {B}\n"
        "board ssh-dss ???\nx y\n"
    )

    def lines(name: str) -> list[int]:
        return [key.line for key in known_keys(name, [tmp_path / "missing", file])]

    assert lines("board") == [3, 7]
    assert lines("BOARD") == [3, 7]
    assert [key.revoked for key in known_keys("board", [file])] == [False, True]
    assert lines("10.0.0.7") == [3]
    assert lines("[board]:2222") == [4]
    assert lines("secret") == [5]
    assert lines("a.farm") == [6]
    assert lines("bad.farm") == []
    assert lines("other") == []
    assert known_keys("board", [file])[0].fingerprint == fingerprint(base64.b64decode(A))


def test_remembering_and_dropping(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "known_hosts"
    for name in ("[a]:22222", "b", "b"):
        remember(file, name, "ssh-ed25519", base64.b64decode(A))
    assert file.read_text().count("\n") == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert drop(file, "[a]:22222") == 1
    assert drop(file, "[a]:22222") == 0
    assert [key.kind for key in known_keys("b", [file])] == ["ssh-ed25519"]


def test_kinds_as_openssh_names_them() -> None:
    assert [short_kind(kind) for kind in ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa", "rsa-sha2-512")] == [
        "ED25519",
        "ECDSA",
        "RSA",
        "RSA",
    ]
