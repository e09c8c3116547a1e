"""Fixtures with stand-ins for boards, each built and started once in a session. Where one cannot be had, its tests are
skipped, with the reason.

`BVTDEPLOY_BOARDSIM=DIR` keeps the built systems in a folder, for who runs these tests often.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from boardsim import facts, machine, simulated
from boardsim.packages import Unavailable
from boardsim.rootfs import Rootfs, build
from boardsim.simulated import Board


@pytest.fixture(scope="session", autouse=True)
def user_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing of the user's SSH configuration and devices is read or changed."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "ssh_config").write_text("")
    names = {"BVTDEPLOY_CONFIG": folder / "bvtdeploy", "BVTDEPLOY_SSH_CONFIG": folder / "ssh_config"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, str(value))
        yield folder


@pytest.fixture(scope="session")
def board_system(tmp_path_factory: pytest.TempPathFactory) -> Rootfs:
    """The system that all stand-ins have."""
    kept = os.environ.get("BVTDEPLOY_BOARDSIM")
    try:
        return build(Path(kept) if kept else tmp_path_factory.mktemp("boardsim"))
    except Unavailable as why:
        pytest.skip(f"no stand-in for a board: {why}")


def introduce(board: Board, config: Path, name: str = "", *, port: int = 0, host_key: str | None = None, **options: object) -> str:
    """Write a board into the tests' SSH configuration.

    Args:
        board: it.
        config: the fixture `user_config`.
        name: its Host; "": the board's own name.
        port: 0: the board's own; else that of something that forwards to it.
        host_key: what is known as its host key; "": nothing; None: the right one.
        options: further options, which win over ours: `User="root"`.
    """
    name = name or board.name
    known = config / f"known_{name}"
    right = f"{name} {board.host_key if host_key is None else host_key}\n"
    known.write_text(right if host_key != "" else "")
    ours = {"HostName": "127.0.0.1", "Port": port or board.port, "User": "pi", "IdentityFile": board.key, "IdentitiesOnly": "yes"}
    ours |= {"IdentityAgent": "none", "HostKeyAlias": name, "UserKnownHostsFile": known, "GlobalKnownHostsFile": "none"}
    lines = [f"Host {name}", *(f"  {key} {value}" for key, value in {**ours, **options}.items())]
    with (config / "ssh_config").open("a") as file:
        file.write("\n".join(lines) + "\n")
    return name


def _simulated(
    name: str, what: dict[str, str], cpu: str, system: Rootfs, config: Path, temp: pytest.TempPathFactory
) -> Iterator[Board]:
    try:
        board = simulated.start(system, name, what, temp.mktemp(name), cpu=cpu)
    except Unavailable as why:
        pytest.skip(f"no simulated board: {why}")
    introduce(board, config)
    yield board
    board.stop()


@pytest.fixture(scope="session")
def pi4(board_system: Rootfs, user_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A simulated Raspberry Pi 4, reached as `--device sim-pi4`."""
    yield from _simulated("sim-pi4", facts.PI4, "cortex-a72", board_system, user_config, tmp_path_factory)


@pytest.fixture(scope="session")
def orin(board_system: Rootfs, user_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A simulated Jetson Orin Nano, reached as `--device sim-orin`. QEMU's nearest core is the Cortex-A76."""
    yield from _simulated("sim-orin", facts.ORIN, "cortex-a76", board_system, user_config, tmp_path_factory)


@pytest.fixture(scope="session")
def booted_pi4(board_system: Rootfs, user_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A whole emulated machine that booted its own kernel, reached as `--device vm-pi4`."""
    try:
        board = machine.start(board_system, machine.build(board_system), "vm-pi4", tmp_path_factory.mktemp("vm-pi4"))
    except Unavailable as why:
        pytest.skip(f"no emulated machine: {why}")
    introduce(board, user_config)
    yield board
    board.stop()
