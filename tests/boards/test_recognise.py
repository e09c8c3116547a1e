"""Which board a device is, by what real devices say of themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bvtdeploy.boards import recognise
from bvtdeploy.boards.machines import machine_name
from bvtdeploy.errors import UserError


@pytest.mark.parametrize(
    ("machine", "compatible", "model", "board"),
    [
        ("aarch64", ["raspberrypi,4-model-b", "brcm,bcm2711"], "Raspberry Pi 4 Model B Rev 1.4\0", "rpi4"),
        ("aarch64", ["raspberrypi,5-model-b", "brcm,bcm2712"], "Raspberry Pi 5 Model B Rev 1.0\0", "rpi5"),
        ("aarch64", ["raspberrypi,3-model-b-plus", "brcm,bcm2837"], "Raspberry Pi 3 Model B Plus Rev 1.3", "rpi3"),
        ("aarch64", ["raspberrypi,model-zero-2-w", "brcm,bcm2837"], "Raspberry Pi Zero 2 W Rev 1.0", "rpi-zero2w"),
        ("armv7l", ["raspberrypi,model-zero-2-w", "brcm,bcm2837"], "Raspberry Pi Zero 2 W Rev 1.0", "rpi3-32"),
        ("armv7l", ["raspberrypi,2-model-b", "brcm,bcm2836"], "Raspberry Pi 2 Model B Rev 1.1", "rpi2"),
        ("armv7l", ["raspberrypi,4-model-b", "brcm,bcm2711"], "Raspberry Pi 4 Model B Rev 1.4", "generic-32"),
        ("aarch64", ["nvidia,p3768-0000+p3767-0003", "nvidia,p3767-0003", "nvidia,tegra234"], "", "jetson-orin"),
        ("aarch64", ["nvidia,p2972-0000", "nvidia,tegra194"], "Jetson-AGX", "jetson-xavier"),
        ("aarch64", ["nvidia,quill", "nvidia,tegra186"], "quill", "jetson-tx2"),
        ("aarch64", ["nvidia,jetson-nano", "nvidia,tegra210"], "NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("aarch64", [], "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit", "jetson-orin"),
        ("aarch64", ["pine64,rockpro64-v2.1", "rockchip,rk3399"], "Pine64 RockPro64 v2.1", "generic"),
        ("aarch64", ["linux,dummy-virt"], "linux,dummy-virt", "generic"),
    ],
)
def test_the_device_tree_names_the_board(machine: str, compatible: list[str], model: str, board: str) -> None:
    assert recognise(machine=machine, compatible=compatible, model=model, cpu_part="0x41:0xd08").name == board


@pytest.mark.parametrize(
    ("machine", "parts", "board"),
    [
        ("aarch64", "0xd08", "rpi4"),
        ("aarch64", "0x41:0xd08", "rpi4"),
        ("aarch64", ["0x41:0xd07", "0x4e:0x003"], "jetson-tx2"),
        ("aarch64", ["0x41:0xd07"], "jetson-nano"),
        ("aarch64", "0x43:0xd08", "generic"),  # the number of another maker
        ("aarch64", ["0x41:0xd03", "0x41:0xd08"], "generic"),  # two kinds of core, as no board of ours has them
        ("armv7l", "0xc07", "rpi2"),
        ("armv7l", "", "generic-32"),
    ],
)
def test_without_a_device_tree_the_cores_do(machine: str, parts: str | Sequence[str], board: str) -> None:
    assert recognise(machine=machine, cpu_part=parts).name == board


def test_what_is_no_arm_is_no_board() -> None:
    with pytest.raises(UserError, match="no board for x86_64"):
        recognise(machine="x86_64")


@pytest.mark.parametrize(("spelled", "name"), [("armv7l", "arm"), ("armv8l", "arm"), ("arm64", "aarch64"), ("AMD64", "x86_64")])
def test_a_machine_has_one_name(spelled: str, name: str) -> None:
    assert machine_name(spelled) == name
