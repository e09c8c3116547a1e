"""Devices: where artifacts run. `open_device` takes what the user wrote."""

from __future__ import annotations

from collections.abc import Callable

from bvtdeploy.boards import suggest
from bvtdeploy.device.base import Completed, Device, ModelRun, Probe, RunOptions
from bvtdeploy.device.local import LocalDevice, QemuDevice
from bvtdeploy.errors import UserError

__all__ = ["Completed", "Device", "LocalDevice", "ModelRun", "Probe", "QemuDevice", "RunOptions", "open_device"]


def open_device(name: str, *, toolchain: str = "auto", progress: Callable[[str], None] | None = None) -> Device:
    """The device that a name stands for: `local` or `qemu:CPU`. It is not open yet: use it in a with statement."""
    device = _device(name)
    device.toolchain, device.progress = toolchain, progress
    return device


def _device(name: str) -> Device:
    if name == "local":
        return LocalDevice()
    kind, colon, rest = name.partition(":")
    if kind == "qemu" and colon and rest:
        return QemuDevice(rest)
    if kind == "qemu":
        raise UserError("an emulated device needs a core", where=f"--device {name}", fix="for example qemu:cortex-a72")
    hint = suggest(name, ("local", "qemu:cortex-a53", "qemu:cortex-a72", "qemu:cortex-a76"))
    raise UserError(f"there is no device '{name}'", fix=hint)
