"""Several devices in one go: the order they are opened in, and an interrupt."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bvtdeploy.build import Build
from bvtdeploy.device import Device, LocalDevice, SshDevice
from bvtdeploy.errors import UserError
from bvtdeploy.profile.grid import profile_devices
from bvtdeploy.profile.result import Profile


class Remote(SshDevice):
    """A device over SSH that tells when it is opened and cleaned, instead of connecting."""

    build = cast(Build, None)

    def __init__(self, name: str, told: list[str]) -> None:
        super().__init__(name)
        self.told, self.link = told, False
        self.cleaned = threading.Event()

    def open(self) -> None:
        self.told.append(self.name)
        self.link = True

    def clean(self) -> None:
        self.link = False
        self.cleaned.set()


@pytest.fixture(autouse=True)
def no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").touch()
    monkeypatch.setenv("BVTDEPLOY_SSH_CONFIG", str(tmp_path / "config"))


def named(device: Device) -> Profile:
    return cast(Profile, SimpleNamespace(device=device.name))


@pytest.mark.parametrize("order", [("me@b", "you@a:2222", "me@a"), ("me@a", "me@b", "you@a:2222")])
def test_all_open_their_devices_in_one_order(order: tuple[str, ...]) -> None:
    told: list[str] = []
    devices = {name: Remote(name, told) for name in order}
    profile_devices([(name, partial(devices.__getitem__, name)) for name in order], named)
    assert told == ["me@a", "you@a:2222", "me@b"]
    assert not any(device.link for device in devices.values())


def test_one_machine_under_two_names_does_not_wait_for_itself() -> None:
    told: list[str] = []
    found = profile_devices([(name, partial(Remote, name, told)) for name in ("me@a", "you@a")], _refuse)
    assert told == ["me@a"]
    assert [(f.device, f.error.what) for f in found.failed] == [("me@a", "no"), ("you@a", "you@a and me@a are one machine")]


def _refuse(_: Device) -> Profile:
    raise UserError("no")


def test_an_interrupt_leaves_no_link_open() -> None:
    """The thread of a device connects again when its link is closed under it, as one does whose link breaks."""
    told: list[str] = []
    remote, working = Remote("me@a", told), threading.Event()

    def work(device: Device) -> Profile:
        if isinstance(device, LocalDevice):
            assert working.wait(10)
            raise KeyboardInterrupt
        working.set()
        assert remote.cleaned.wait(10)
        remote.open()
        raise UserError("the device was cleaned")

    with pytest.raises(KeyboardInterrupt):
        profile_devices([("me@a", lambda: remote), ("local", LocalDevice)], work)
    assert told == ["me@a", "me@a"] and not remote.link
