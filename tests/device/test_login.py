"""Logging in to a server that wants several things, and what lies beside a key."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from boardsim.rootfs import new_key

from bvtdeploy.device.prompts import asking
from bvtdeploy.device.ssh.address import Target
from bvtdeploy.device.ssh.auth import Secrets, _load, authenticate
from bvtdeploy.errors import UserError


class Factors(paramiko.ServerInterface):
    """Wants each of some methods, in order."""

    def __init__(self, wanted: list[str]) -> None:
        self.wanted = wanted

    def get_allowed_auths(self, username: str) -> str:
        return self.wanted[0]

    def _proved(self, method: str) -> int:
        if self.wanted[0] != method:
            return paramiko.AUTH_FAILED
        if len(self.wanted) == 1:
            return paramiko.AUTH_SUCCESSFUL
        del self.wanted[0]
        return paramiko.AUTH_PARTIALLY_SUCCESSFUL

    def check_auth_password(self, username: str, password: str) -> int:
        return self._proved("password") if password == "secret" else paramiko.AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._proved("publickey")

    def check_auth_interactive(self, username: str, submethods: str) -> int | paramiko.InteractiveQuery:
        return paramiko.InteractiveQuery("", "", ("code: ", False))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return self._proved("keyboard-interactive") if responses == ["123456"] else paramiko.AUTH_FAILED


@contextmanager
def serving(wanted: list[str], host_key: Path) -> Iterator[paramiko.Transport]:
    ours, theirs = socket.socketpair()
    server, client = paramiko.Transport(theirs), paramiko.Transport(ours)
    try:
        server.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(host_key)))
        server.start_server(threading.Event(), Factors(wanted))
        client.start_client(timeout=20)
        yield client
    finally:
        client.close()
        server.close()


@pytest.mark.parametrize(
    ("wanted", "asked"),
    [
        (["password", "keyboard-interactive"], ["password of pi@board: ", "code: "]),
        (["password", "publickey"], ["password of pi@board: "]),
        (["publickey", "password"], ["password of pi@board: "]),
        (["publickey"], []),
    ],
)
def test_one_thing_after_the_other(tmp_path: Path, wanted: list[str], asked: list[str]) -> None:
    new_key(tmp_path / "key")
    target = Target("board", 22, "pi", "board", identities=(tmp_path / "key",), agent="none")
    said: list[str] = []

    def answer(question: str, secret: bool) -> str:
        said.append(question)
        return "123456" if question == "code: " else "secret"

    with serving(list(wanted), tmp_path / "key") as client, asking(answer):
        authenticate(client, target, Secrets())
        assert client.is_authenticated()
    assert said == asked


def test_a_part_is_not_enough(tmp_path: Path) -> None:
    new_key(tmp_path / "key")
    target = Target("board", 22, "pi", "board", identities=(), agent="none")
    with serving(["password", "publickey"], tmp_path / "key") as client, asking(lambda *_: "secret"):
        with pytest.raises(UserError, match="does not let pi log in") as caught:
            authenticate(client, target, Secrets())
        assert not client.is_authenticated()
    assert "the server takes publickey" in caught.value.why


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"ssh-ed25519-cert-v01@openssh.com AAAA", b"ssh-rsa-cert-v01@openssh.com !!!! x"]
)
def test_a_certificate_that_cannot_be_used_is_left_out(tmp_path: Path, content: bytes) -> None:
    public = new_key(tmp_path / "key")
    (tmp_path / "key-cert.pub").write_bytes(content)
    assert _load(tmp_path / "key", None).get_base64() == public.split()[1]
