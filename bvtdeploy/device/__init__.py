"""Devices: where artifacts run. `open_device` takes what the user wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bvtdeploy.boards import board_names, suggest
from bvtdeploy.device.base import Completed, Device, ModelRun, Probe, RunOptions
from bvtdeploy.device.local import LocalDevice, QemuDevice
from bvtdeploy.errors import UserError

__all__ = ["Completed", "Device", "LocalDevice", "ModelRun", "Probe", "QemuDevice", "RunOptions", "open_device"]


def open_device(
    name: str, *, toolchain: str = "auto", progress: Callable[[str], None] | None = None, also: Sequence[str] = ()
) -> Device:
    """The device that a name stands for: `local` or `qemu:CPU`. It is not open yet: use it in a with statement.

    Args:
        name: what the user wrote.
        toolchain: what builds the runtime for it.
        progress: told what is being done.
        also: names that the caller takes besides, for the error's advice.
    """
    device = _device(name, also)
    device.toolchain, device.progress = toolchain, progress
    return device


def _device(name: str, also: Sequence[str]) -> Device:
    if name == "local":
        return LocalDevice()
    kind, colon, rest = name.partition(":")
    if kind == "qemu" and colon and rest:
        return QemuDevice(rest)
    if kind == "qemu":
        raise UserError("an emulated device needs a core", where=f"--device {name}", fix="for example qemu:cortex-a72")
    known = ("local", *also, "qemu:cortex-a53", "qemu:cortex-a72", "qemu:cortex-a76")
    if name == "host":
        raise UserError(
            "the device 'host' is not one for this command", fix="local runs the program that boards get, on this machine"
        )
    if name in board_names():
        raise UserError(
            f"{name} is a board, not a device",
            why=f"devices are {', '.join(known)} and other qemu:CPU; none reaches a board over a network",
            fix=f"bvtdeploy build --board {name} --output DIR, then copy DIR/bvt_run and the model there",
        )
    raise UserError(f"there is no device '{name}'", fix=suggest(name, known))
