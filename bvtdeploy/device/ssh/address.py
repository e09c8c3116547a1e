"""From what the user wrote to what is connected to: `user@host:port`, an IPv6 address, or a Host of the SSH configuration."""

from __future__ import annotations

import contextlib
import getpass
import glob
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from bvtdeploy.device.registry import entries, known_hosts_file
from bvtdeploy.errors import UserError

# No characters that mean something to a shell: a ProxyCommand is given the host.
_WORD = r"[^@:\s/\[\]'\"$`\\;&|<>(){}*?!~]+"
_ADDRESS = re.compile(
    rf"(?:ssh://)?(?:(?P<user>{_WORD})@)?(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%\w+)?)\]|(?P<host>(?!-){_WORD}))(?::(?P<port>\d+))?/?"
)
_HOST_LINE = re.compile(r"\s*host(?:\s*=\s*|\s+)(.+)", re.IGNORECASE)
_MOST_HOPS = 8
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True)
class Address:
    """What the user wrote, in parts. `user` and `port` are None where they were not given."""

    host: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True)
class Target:
    """A host to connect to, with everything that the SSH configuration says about it.

    Attributes:
        host, port, user: where, and as whom.
        key_name: the host's name in files of known hosts: "host", or "[host]:port" where the port is not 22.
        identities: files of private keys, in the order in which they are tried.
        identities_only: offer no other keys, even where the agent has some.
        agent: the agent's socket; None: the usual one; "none": no agent.
        known_hosts: files of known host keys; our own is the first.
        jump: the hop before this one.
        proxy_command: a command whose input and output are the connection.
        connect_timeout: seconds, where the configuration says.
        password: whether a password may be asked for.
    """

    host: str
    port: int
    user: str
    key_name: str
    identities: tuple[Path, ...] = ()
    identities_only: bool = False
    agent: str | None = None
    known_hosts: tuple[Path, ...] = ()
    jump: Target | None = None
    proxy_command: str | None = None
    connect_timeout: float | None = None
    password: bool = True
    unreadable: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != 22 else "")

    @property
    def route(self) -> str:
        """The hops in order: "me@jump, pi@board"."""
        return f"{self.jump.route}, {self}" if self.jump else str(self)


def parse_address(text: str) -> Address:
    """Takes an address apart.

    Raises:
        UserError: it is none.
    """
    found = _ADDRESS.fullmatch(text.strip())
    port = int(found["port"][:6]) if found and found["port"] else None
    if not found or (port is not None and not 1 <= port <= 65535):
        raise UserError(
            f"'{text}' is no address of a device",
            why="the port must be from 1 to 65535" if found else "",
            fix="write user@host, user@host:port, or user@[IPv6]:port; or a Host of your SSH configuration",
        )
    return Address(found["six"] or found["host"], found["user"], port)


def config_file() -> Path:
    """The user's SSH configuration: $BVTDEPLOY_SSH_CONFIG, else ~/.ssh/config."""
    chosen = os.environ.get("BVTDEPLOY_SSH_CONFIG")
    try:
        return Path(chosen or "~/.ssh/config").expanduser()
    except RuntimeError as error:  # a user that there is not
        raise UserError(
            "the SSH configuration is not there", where=chosen or "", why=str(error), fix="check BVTDEPLOY_SSH_CONFIG"
        ) from error


def config_hosts() -> list[str]:
    """The names of Hosts in the SSH configuration; patterns are none."""
    names: set[str] = set()
    try:
        for line in _text().splitlines():
            found = _HOST_LINE.match(line)
            names.update(shlex.split(found[1]) if found else ())
    except (UserError, ValueError, RuntimeError):
        return []
    return sorted(name for name in names if not set(name) & set("*?!"))


def sharing(key_name: str) -> list[str]:
    """The named devices whose host key is noted under a name: two names may stand for one address."""
    found = []
    for name, entry in entries().items():
        with contextlib.suppress(UserError):  # an address that no longer means anything
            if resolve(parse_address(entry.address)).key_name == key_name:
                found.append(name)
    return found


def resolve(address: Address, *, hops: int = 0) -> Target:
    """Ask the SSH configuration about an address.

    Raises:
        UserError: the configuration cannot be read or understood, or its jump hosts go in a circle.
    """
    try:
        return _resolve(address, hops)
    except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, ImportError, ValueError, RuntimeError) as error:
        raise UserError(  # also a quote without its end, and the home of a user that there is not
            "the SSH configuration cannot be understood", where=str(config_file()), why=str(error) or type(error).__name__,
            fix="correct it, or name another with BVTDEPLOY_SSH_CONFIG",
        ) from error  # fmt: skip


def _resolve(address: Address, hops: int) -> Target:
    if hops > _MOST_HOPS:
        raise UserError("the jump hosts of the SSH configuration go in a circle", where=str(config_file()), fix="check ProxyJump")
    given = "".join(f"{key} {value}\n" for key, value in (("User", address.user), ("Port", address.port)) if value)
    # The first value of an option counts: what was given comes first.
    options = paramiko.SSHConfig.from_text(given + _text()).lookup(address.host)
    host, told = options.get("hostname", address.host), options.get("port", "22")
    port = int(told) if told.isdecimal() and 1 <= int(told[:9]) <= 65535 else 0
    if not port:
        raise UserError(
            "the SSH configuration has a port that is none", where=str(config_file()), why=f"Port {told}", fix="correct it"
        )
    alias = options.get("hostkeyalias", host).lower()
    jump, command = options.get("proxyjump"), options.get("proxycommand")
    named = [Path(path).expanduser() for path in options.get("identityfile", [])]
    agent = options.get("identityagent")
    return Target(
        host=host,
        port=port,
        user=options.get("user") or _me(),
        key_name=f"[{alias}]:{port}" if port != 22 and "hostkeyalias" not in options else alias,
        identities=tuple(named) if named else tuple(Path("~/.ssh").expanduser() / name for name in _KEYS),
        identities_only=options.get("identitiesonly", "no").lower() == "yes",
        agent=agent if agent in (None, "none", "SSH_AUTH_SOCK") else str(Path(os.path.expandvars(agent)).expanduser()),
        known_hosts=_known_hosts(options),
        jump=_jump(jump, hops) if jump and jump.lower() != "none" else None,
        proxy_command=command if command and not jump else None,
        connect_timeout=float(options["connecttimeout"]) if options.get("connecttimeout", "").isdecimal() else None,
        password=options.get("passwordauthentication", "yes").lower() != "no" and options.get("batchmode", "no").lower() != "yes",
    )


def _jump(text: str, hops: int) -> Target:
    """The last hop of `a,b,c`, which goes through b, which goes through a. Only the first hop's own ProxyJump counts."""
    target: Target | None = None
    for part in text.split(","):
        hop = resolve(parse_address(part), hops=hops + 1)
        target = hop if target is None else Target(**{**vars(hop), "jump": target, "proxy_command": None})
    assert target is not None
    return target


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "root"


def _known_hosts(options: paramiko.SSHConfigDict) -> tuple[Path, ...]:
    user = shlex.split(options.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"))
    everybody = shlex.split(options.get("globalknownhostsfile", "/etc/ssh/ssh_known_hosts"))
    return (known_hosts_file(), *(Path(name).expanduser() for name in (*user, *everybody) if name.lower() != "none"))


def _text() -> str:
    """The configuration with its Includes."""
    chosen = config_file()
    if chosen.exists():
        return _with_includes(chosen, chosen.parent, 0)
    if os.environ.get("BVTDEPLOY_SSH_CONFIG"):
        raise UserError("the SSH configuration is not there", where=str(chosen), fix="check BVTDEPLOY_SSH_CONFIG")
    return ""


def _with_includes(path: Path, base: Path, depth: int) -> str:
    """A file's text with the files that it includes in their places; paramiko knows no Include."""
    if depth > 16:
        raise UserError("the SSH configuration includes itself", where=str(path), fix="check its Include lines")
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise UserError("the SSH configuration cannot be read", where=str(path), why=error.strerror or str(error)) from error
    lines, block = [], "Host *"
    for line in text.splitlines():
        word, *rest = line.strip().replace("=", " ", 1).split(None, 1) or [""]
        if word.lower() in ("host", "match"):
            block = line
        if word.lower() != "include" or not rest:
            lines.append(line)
            continue
        for pattern in shlex.split(rest[0]):
            found = sorted(glob.glob(str(base / Path(pattern).expanduser())))  # noqa: PTH207 (absolute patterns)
            lines += [_with_includes(Path(name), base, depth + 1) for name in found]
        lines.append(block)  # what follows belongs to the block that the Include stands in
    return "\n".join(lines) + "\n"
