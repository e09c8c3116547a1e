"""Devices: where artifacts run. `open_device` takes what the user wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bvtdeploy.boards import board_names, suggest
from bvtdeploy.device import registry
from bvtdeploy.device.base import Completed, Device, ModelRun, Probe, RunOptions
from bvtdeploy.device.local import LocalDevice, QemuDevice
from bvtdeploy.device.ssh import SshDevice
from bvtdeploy.device.ssh.address import config_hosts
from bvtdeploy.errors import UserError

__all__ = ["Completed", "Device", "LocalDevice", "ModelRun", "Probe", "QemuDevice", "RunOptions", "SshDevice", "open_device"]


def open_device(
    name: str,
    *,
    toolchain: str = "auto",
    progress: Callable[[str], None] | None = None,
    also: Sequence[str] = (),
    keep: bool = False,
) -> Device:
    """The device that a name stands for. It is not open yet: use it in a with statement.

    Args:
        name: what the user wrote: `local`, `qemu:CPU`, `user@host[:port]`, a name of `bvtdeploy devices add`, or a Host of the SSH
            configuration.
        toolchain: what builds the runtime for it.
        progress: told what is being done.
        also: names that the caller takes besides, for the error's advice.
        keep: leave what was pushed on the device, so that the next run need not push it again.
    """
    device = _device(name, also)
    device.toolchain, device.progress, device.keep = toolchain, progress, keep
    return device


def _device(name: str, also: Sequence[str]) -> Device:
    if name == "local":
        return LocalDevice()
    kind, colon, rest = name.partition(":")
    if kind == "qemu" and colon and rest:
        return QemuDevice(rest)
    if kind == "qemu":
        raise UserError("an emulated device needs a core", where=f"--device {name}", fix="for example qemu:cortex-a72")
    if name == "host":
        raise UserError(
            "the device 'host' is not one for this command", fix="local runs the program that boards get, on this machine"
        )
    named = registry.entries()
    if name in named:
        return SshDevice(name, entry=named[name])
    hosts = config_hosts()
    if name in hosts or any(c in name for c in "@:[./"):  # a lone word is too likely a mistyped name
        return SshDevice(name)
    if name in board_names():
        raise UserError(
            f"{name} is a board, not a device",
            why="a device is one particular machine, and needs an address",
            fix="for example --device pi@raspberrypi.local; `bvtdeploy devices add NAME user@host` gives it a name",
        )
    known = ("local", *also, "qemu:cortex-a53", "qemu:cortex-a72", "qemu:cortex-a76", *named, *hosts)
    raise UserError(f"there is no device '{name}'", fix=f"{suggest(name, known)}; a board over SSH is user@host, or user@host:port")
