"""Two names for one address have one host key."""

from __future__ import annotations

from pathlib import Path

import pytest

from bvtdeploy.device import registry
from bvtdeploy.device.adding import remove
from bvtdeploy.device.registry import Entry
from bvtdeploy.device.ssh.address import parse_address, resolve
from bvtdeploy.device.ssh.auth import Secrets
from bvtdeploy.device.ssh.connection import Connection, Timeouts
from bvtdeploy.device.ssh.hostkeys import known_keys, remember
from bvtdeploy.errors import UserError


def test_a_shared_key_goes_with_its_last_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BVTDEPLOY_CONFIG", str(tmp_path))
    ours = registry.known_hosts_file()
    for name, address in (("hall", "pi@board"), ("attic", "root@board"), ("other", "pi@board:2222"), ("lost", "no address")):
        registry.save(Entry(name, address))
    remember(ours, "board", "ssh-ed25519", b"old")
    target = resolve(parse_address("pi@board"))
    connection = Connection(target, Timeouts(), Secrets(), name="hall", address="pi@board")
    with pytest.raises(UserError, match="HAS CHANGED") as caught:
        connection._check_key("ssh-ed25519", b"new", known_keys("board", target.known_hosts))
    assert "bvtdeploy devices remove attic, bvtdeploy devices remove hall, then bvtdeploy devices add hall" in caught.value.fix
    removed = remove("hall")
    assert (removed.key_forgotten, removed.key_shared_with) == (False, ("attic",))
    assert known_keys("board", [ours])
    removed = remove("attic")
    assert (removed.key_forgotten, removed.key_shared_with) == (True, ())
    assert not known_keys("board", [ours])
    assert not remove("other").key_forgotten
    assert not remove("lost").key_forgotten
