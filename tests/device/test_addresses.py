from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bvtdeploy.device import SshDevice, open_device, registry
from bvtdeploy.device.examine import examine
from bvtdeploy.device.registry import Entry
from bvtdeploy.device.ssh.address import Address, config_hosts, parse_address, resolve
from bvtdeploy.errors import UserError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "ssh_config"
    file.write_text("")
    monkeypatch.setenv("BVTDEPLOY_SSH_CONFIG", str(file))
    monkeypatch.setenv("BVTDEPLOY_CONFIG", str(tmp_path / "bvtdeploy"))
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pi@raspberrypi.local", Address("raspberrypi.local", "pi")),
        ("pi@10.0.0.7:2222", Address("10.0.0.7", "pi", 2222)),
        ("[fe80::1%eth0]:2200", Address("fe80::1%eth0", None, 2200)),
        ("pi@[::1]", Address("::1", "pi")),
        ("ssh://pi@board:22/", Address("board", "pi", 22)),
        ("board", Address("board")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "pi@",
        "@board",
        "pi@board:0",
        "pi@board:65536",
        "pi@board:99999999999",
        "a b",
        "fe80::1",
        "pi@bo/ard",
        "",
        "pi@x;reboot",
        "-oProxy",
        "pi@$(id)",
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UserError, match="is no address of a device"):
        parse_address(text)


def test_the_ssh_configuration_is_followed(config: Path) -> None:
    (config.parent / "more").write_text("Host farm-*\n  User farmer\n  Port 2200\n")
    config.write_text(
        "Include more\nConnectTimeout 7\nHost kitchen\n  HostName 10.1.2.3\n  IdentityFile ~/keys/kitchen\n  IdentitiesOnly yes\n"
        "  ProxyJump gate,second@inner:2022\nHost gate\n  HostName gate.example\n  ProxyJump outer\n"
        "Host looped\n  ProxyJump looped\nHost *\n  User everybody\n"
    )
    assert config_hosts() == ["gate", "kitchen", "looped"]
    kitchen = resolve(parse_address("kitchen"))
    assert (kitchen.host, kitchen.port, kitchen.user, kitchen.connect_timeout) == ("10.1.2.3", 22, "everybody", 7.0)
    assert kitchen.identities == (Path("~/keys/kitchen").expanduser(),)
    assert kitchen.identities_only
    assert kitchen.route == "everybody@outer, everybody@gate.example, second@inner:2022, everybody@10.1.2.3"
    assert resolve(parse_address("me@farm-1")).user == "me"  # what is given wins
    farm = resolve(parse_address("farm-1:22"))
    assert (farm.user, farm.port, farm.key_name) == ("farmer", 22, "farm-1")
    assert resolve(parse_address("farm-1")).key_name == "[farm-1]:2200"
    with pytest.raises(UserError, match="go in a circle"):
        resolve(parse_address("looped"))


def test_a_configuration_that_cannot_be_read(config: Path) -> None:
    config.write_text("Include ssh_config\n")
    with pytest.raises(UserError, match="includes itself"):
        resolve(parse_address("x"))
    config.write_text("nonsense\n")
    with pytest.raises(UserError, match="cannot be understood"):
        resolve(parse_address("x"))
    config.unlink()
    with pytest.raises(UserError, match="is not there"):
        resolve(parse_address("x"))


def test_what_a_device_name_means(config: Path) -> None:
    config.write_text("Host kitchen\n  HostName 10.1.2.3\n")
    registry.save(Entry("hall", "pi@10.9.9.9:2222"))
    for name, place in (("kitchen", "10.1.2.3"), ("pi@board", "board"), ("10.1.1.1", "10.1.1.1"), ("hall", "10.9.9.9")):
        device = open_device(name)
        assert isinstance(device, SshDevice)
        assert (device.name, device.target.host) == (name, place)
    for name, fix in (("kichen", "did you mean kitchen?"), ("hal", "did you mean hall"), ("rpi4", "devices add NAME user@host")):
        with pytest.raises(UserError) as caught:
            open_device(name)
        assert fix in caught.value.fix
    with pytest.raises(UserError, match="is no address"):
        open_device("pi@board:nonsense")


@pytest.mark.parametrize("name", ["local", "qemu", "pi@home", "-x", "", "a/b", "a b"])
def test_names_that_are_none(config: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of a device"):
        registry.save(Entry(name, "pi@board"))


def test_a_damaged_list_of_devices(config: Path) -> None:
    registry.save(Entry("a", "pi@board", "rpi4", "/srv", "SHA256:x"))
    assert registry.find("a") == Entry("a", "pi@board", "rpi4", "/srv", "SHA256:x")
    (registry.config_folder() / "devices.json").write_text('{"devices": {"a": 1}}')
    with pytest.raises(UserError, match="list of devices cannot be read"):
        open_device("a")


def test_a_damaged_value_of_a_device(config: Path) -> None:
    registry.save(Entry("a", "pi@board"))
    for fields in ('{"address": 5}', '{"address": "pi@board", "folder": ["x"]}'):
        (registry.config_folder() / "devices.json").write_text(f'{{"devices": {{"a": {fields}}}}}')
        with pytest.raises(UserError, match="list of devices cannot be read"):
            open_device("a")


def test_a_match_block_names_no_host(config: Path) -> None:
    config.write_text('Match host kitchen\n  User cook\nhost=kitchen "dining room"\n  HostName 10.1.2.3\nMatch all\n  Port 2200\n')
    assert config_hosts() == ["dining room", "kitchen"]
    device = open_device("pi@board")
    assert isinstance(device, SshDevice)
    assert device.target.port == 2200
    assert resolve(parse_address("kitchen")).user == "cook"


@pytest.mark.parametrize(
    "text",
    [
        'Host "kitchen\n',
        "Include ~no-such-user/config\n",
        'Include "x\n',
        'UserKnownHostsFile "x\n',
    ],
)
def test_a_configuration_that_is_broken(config: Path, text: str) -> None:
    config.write_text(text)
    assert config_hosts() == []
    with pytest.raises(UserError, match="SSH configuration cannot be understood") as caught:
        open_device("pi@board")
    assert caught.value.fix.startswith("correct it")


def test_a_jump_host_that_does_not_answer_is_no_matter_of_names(config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    config.write_text(f"Host behind\n  ProxyJump me@127.0.0.1:{port}\n")
    examined = examine(open_device("behind"))
    assert [check.state for check in examined.checks][:3] == ["ok", "failed", "unknown"]
    assert "refuses connections" in examined.checks[1].found
