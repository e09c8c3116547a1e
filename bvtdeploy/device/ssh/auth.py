"""Proving to a server who we are: keys of the agent, keys in files, then a password, where there is somebody to ask for it."""

from __future__ import annotations

import base64
import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from bvtdeploy.device.prompts import ask, can_ask
from bvtdeploy.device.ssh.address import Target
from bvtdeploy.device.ssh.hostkeys import fingerprint
from bvtdeploy.errors import UserError

_TRIES = 3  # of a password
_FACTORS = 4  # ways of logging in that a server may want one after the other


@dataclass
class Secrets:
    """What the user has typed, for this process only: a lost connection comes back without asking again."""

    passwords: dict[str, str] = field(default_factory=dict)
    passphrases: dict[Path, str] = field(default_factory=dict)


class _Refused(Exception):
    """The server takes nothing of what we have. `methods` are those that it would take."""

    def __init__(self, methods: list[str]) -> None:
        super().__init__()
        self.methods = methods


def authenticate(transport: paramiko.Transport, target: Target, secrets: Secrets) -> None:
    """Log in.

    Raises:
        UserError: the server refuses all that there is; what was tried is said.
        paramiko.SSHException, EOFError, OSError: the connection broke.
    """
    tried: list[str] = []
    methods = _methods(transport, target)
    for factor in range(_FACTORS):
        if methods is None:
            return
        try:
            methods = _factor(transport, target, secrets, methods, tried, first=factor == 0)
        except _Refused as refused:
            raise _refusal(target, refused.methods, tried) from refused
    if methods is not None:
        raise _refusal(target, methods, tried)


def _factor(
    transport: paramiko.Transport, target: Target, secrets: Secrets, methods: list[str], tried: list[str], *, first: bool
) -> list[str] | None:
    """Prove one thing. Returns what the server wants besides; None: we are in."""
    if "publickey" in methods:
        for key, label in _keys(target, secrets, tried):
            tried.append(label)
            try:
                more = transport.auth_publickey(target.user, key)
            except paramiko.AuthenticationException as error:
                if not transport.is_active():
                    raise _too_many(target, tried) from error
                continue
            except paramiko.SSHException as error:
                if not transport.is_active():
                    raise _too_many(target, tried) from error
                continue  # a signature algorithm that the server does not take
            return list(more) or None  # more: the key was right and something else is wanted too
    return _typed(transport, target, secrets, methods, tried, first=first)


def _methods(transport: paramiko.Transport, target: Target) -> list[str] | None:
    """What the server takes; None: it lets us in as we are."""
    try:
        transport.auth_none(target.user)
    except paramiko.BadAuthenticationType as error:
        return list(error.allowed_types)
    return None


def _keys(target: Target, secrets: Secrets, tried: list[str]) -> Iterator[tuple[paramiko.PKey, str]]:
    """Keys in OpenSSH's order: the agent's, those that the configuration names first; then files. Locked files come last."""
    public = {blob for path in target.identities if (blob := _public(path))}
    seen: set[bytes] = set()
    with contextlib.closing(_agent(target)) as agent:
        held = list(agent.get_keys()) if target.agent != "none" else []
        for known in sorted(held, key=lambda key: key.asbytes() not in public):
            if target.identities_only and known.asbytes() not in public:
                continue
            seen.add(known.asbytes())
            yield known, f"the agent's {fingerprint(known.asbytes())}"
    locked: list[Path] = []
    for path in target.identities:
        if not path.is_file() or (_public(path) or b"") in seen:
            continue
        try:
            yield _load(path, secrets.passphrases.get(path)), str(path)
        except paramiko.PasswordRequiredException:
            locked.append(path)
        except UserError as error:
            tried.append(f"{path} ({error.why or error.what})")
    for path in locked:
        for _ in range(_TRIES):
            typed = ask(f"passphrase for the key {path}: ", secret=True)
            if typed is None:
                tried.append(f"{path} (locked with a passphrase, and nobody can be asked for it: ssh-add {path})")
                break
            with contextlib.suppress(UserError, paramiko.PasswordRequiredException):
                key = _load(path, typed)
                secrets.passphrases[path] = typed
                yield key, str(path)
                break
        else:
            tried.append(f"{path} (wrong passphrase)")


def _agent(target: Target) -> paramiko.Agent:
    """The agent; one without keys where there is none, or none is wanted."""
    chosen = target.agent
    if chosen in (None, "SSH_AUTH_SOCK"):
        return paramiko.Agent()
    before = os.environ.get("SSH_AUTH_SOCK")  # the only way to tell paramiko which
    os.environ["SSH_AUTH_SOCK"] = "" if chosen == "none" else chosen or ""
    try:
        return paramiko.Agent()
    finally:
        if before is None:
            del os.environ["SSH_AUTH_SOCK"]
        else:
            os.environ["SSH_AUTH_SOCK"] = before


def _public(path: Path) -> bytes | None:
    """The public half beside a private key."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return base64.b64decode(Path(f"{path}.pub").read_text(encoding="utf-8").split()[1])
    return None


def _load(path: Path, passphrase: str | None) -> paramiko.PKey:
    """A private key, with its certificate where there is one beside it.

    Raises:
        paramiko.PasswordRequiredException: it is locked.
        UserError: it cannot be used.
    """
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and path.stat().st_uid == os.getuid():
            raise UserError("the key is open to others", where=str(path), why="others may read it", fix=f"chmod 600 {path}")
        head = path.read_bytes()[:4096]
    except OSError as error:
        raise UserError("the key cannot be read", where=str(path), why=error.strerror or str(error)) from error
    kinds: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    if b"PRIVATE KEY" not in head:
        raise UserError("the file is no private key", where=str(path), why="it holds no private key")
    last = ""
    for kind in kinds:
        try:
            key = kind.from_private_key_file(str(path), passphrase)
        except paramiko.PasswordRequiredException:
            raise
        except (paramiko.SSHException, ValueError, TypeError, IndexError) as error:
            last = str(error) or type(error).__name__
            continue
        certificate = Path(f"{path}-cert.pub")
        if certificate.is_file():
            # One that cannot be used is left out, as OpenSSH does: the key itself may do.
            with contextlib.suppress(paramiko.SSHException, OSError, ValueError, TypeError, IndexError, struct.error):
                key.load_certificate(str(certificate))
        return key
    raise UserError("the key cannot be used", where=str(path), why=last)


def _typed(
    transport: paramiko.Transport, target: Target, secrets: Secrets, methods: list[str], tried: list[str], *, first: bool
) -> list[str] | None:
    """Prove it with what the user types. As `_factor`."""
    ways = [way for way in ("password", "keyboard-interactive") if way in methods]
    known = secrets.passwords.get(str(target))
    if not ways or not target.password or not (can_ask() or known):
        raise _Refused(methods)
    if not first and ways[0] == "keyboard-interactive":  # a second thing that it asks for: the password it is not
        tried.append("answers to its questions")
        try:
            return list(transport.auth_interactive(target.user, _Answers(None))) or None
        except paramiko.AuthenticationException as error:
            raise _Refused(methods) from error
    for _ in range(_TRIES):
        password = known or ask(f"password of {target}: ", secret=True)
        known = None
        if password is None:
            raise _Refused(methods)
        tried.append("a password")
        try:
            if ways[0] == "password":
                more = transport.auth_password(target.user, password, fallback=False)
            else:
                more = transport.auth_interactive(target.user, _Answers(password))
        except paramiko.AuthenticationException as error:
            secrets.passwords.pop(str(target), None)
            if not transport.is_active():
                raise _Refused(methods) from error
            continue
        secrets.passwords[str(target)] = password
        return list(more) or None
    raise _Refused(methods)


class _Answers:
    """Answers a server's questions: the first that hides what is typed gets the password, the user answers the others."""

    def __init__(self, password: str | None) -> None:
        self._password = password

    def __call__(self, title: str, instructions: str, questions: list[tuple[str, bool]]) -> list[str]:
        answers = []
        for question, shown in questions:
            if not shown and self._password is not None:
                answers.append(self._password)
                self._password = None
            else:
                answers.append(ask(question, secret=not shown) or "")
        return answers


def _refusal(target: Target, methods: list[str], tried: list[str]) -> UserError:
    why = f"tried: {', '.join(tried)}" if tried else "there is no key to try"
    why += f"; the server takes {', '.join(methods)}" if methods else ""
    words = {"password", "keyboard-interactive"} & set(methods)
    fix = f"put your key there: ssh-copy-id {_copy_id(target)}"
    if words and not can_ask():
        fix += "; a password is asked for only in a terminal and without --json"
    elif "publickey" in methods and not words:
        fix = "check the user's name, or name the right key with IdentityFile in the SSH configuration; " + (
            "the owner of the board must add your public key to ~/.ssh/authorized_keys"
        )
    return UserError(f"{target.host} does not let {target.user} log in", where=str(target), why=why, fix=fix)


def _copy_id(target: Target) -> str:
    return (f"-p {target.port} " if target.port != 22 else "") + f"{target.user}@{target.host}"


def _too_many(target: Target, tried: list[str]) -> UserError:
    return UserError(
        f"{target.host} ended the login", where=str(target), why=f"after {len(tried)} keys: {', '.join(tried)}",
        fix="name the right key: IdentityFile and IdentitiesOnly yes in the SSH configuration",
    )  # fmt: skip
