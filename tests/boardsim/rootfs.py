"""The system of a simulated board: busybox, dropbear and a C library, unpacked from packages. 11 MB."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from boardsim.packages import Packages, Unavailable, run

PASSWORD = "raspberry"
_PACKAGES = (
    "dropbear-bin",
    "busybox-static",
    "libc6",
    "libcrypt1",
    "libtomcrypt1",
    "libtommath1",
    "libgmp10",
    "zlib1g",
    "libgcc-s1",
)


@dataclass(frozen=True)
class Rootfs:
    """A system on disk, to be run on.

    Attributes:
        folder: where everything of it is.
        root: its root folder.
        key: the private key that its users let in.
        host_key: the public key of its SSH server: "ssh-ed25519 AAAA...".
        packages: to fetch more.
    """

    folder: Path
    root: Path
    key: Path
    host_key: str
    packages: Packages


def new_key(path: Path) -> str:
    """Make a key pair. Returns the public half."""
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    path.write_bytes(secret)
    path.chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    Path(f"{path}.pub").write_text(public + "\n")
    return public


def build(folder: Path) -> Rootfs:
    """Make the system, or find it there."""
    root, key, told = folder / "root", folder / "key", folder / "host_key"
    if os.getuid() != 0:
        raise Unavailable("only root can make the users of a board")
    for program, package in (("qemu-aarch64-static", "qemu-user-static"), ("dpkg-deb", "dpkg"), ("openssl", "openssl")):
        if shutil.which(program) is None:
            raise Unavailable(f"no {program}: apt-get install {package}")
    folder.mkdir(parents=True, exist_ok=True)
    packages = Packages(folder / "apt", "arm64")
    if told.exists():
        return Rootfs(folder, root, key, told.read_text().strip(), packages)
    packages.unpack(_PACKAGES, root)
    for useless in ("usr/share", "usr/lib/aarch64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/audit"):
        shutil.rmtree(root / useless, ignore_errors=True)
    for name in [
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "root/.ssh",
        "etc/dropbear",
        "usr/local/bin",
        "mnt",
        "var/log",
        "var/tmp",
        "full",
        "noexec",
    ]:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    for applet in run(["qemu-aarch64-static", root / "bin/busybox", "--list"]).split():
        if not (root / "bin" / applet).exists():
            (root / "bin" / applet).symlink_to("/bin/busybox")
    public = new_key(key)
    hashed = run(["openssl", "passwd", "-6", PASSWORD]).strip()
    passwd, shadow = ["root:x:0:0:root:/root:/bin/sh"], ["root:*:19000::::::"]
    # noisy: a login shell that prints before and after every command. readonly: a home folder that cannot be written.
    users = {"pi": (1000, "/bin/sh"), "noisy": (1001, "/bin/noisy"), "readonly": (1002, "/bin/sh")}
    _authorize(root / "root", public, 0)
    for user, (number, shell) in users.items():
        passwd.append(f"{user}:x:{number}:{number}:{user}:/home/{user}:{shell}")
        shadow.append(f"{user}:{hashed}:19000::::::")
        _authorize(root / "home" / user, public, number)
    os.chown(root / "home/readonly", 0, 0)
    (root / "home/readonly").chmod(0o755)
    noisy = root / "bin/noisy"
    noisy.write_text(
        '#!/bin/sh\necho "Welcome to your board!"\necho "have a nice day" >&2\n/bin/sh "$@"\nc=$?\necho "bye"\nexit $c\n'
    )
    noisy.chmod(0o755)
    etc = {"passwd": passwd, "group": ["root:x:0:", "pi:x:1000:", "video:x:44:pi"], "shadow": shadow}
    etc |= {"shells": ["/bin/sh", "/bin/noisy"], "hostname": ["raspberrypi"]}
    for name, lines in etc.items():
        (root / "etc" / name).write_text("\n".join(lines) + "\n")
    (root / "etc/shadow").chmod(0o600)
    made = run(
        [
            "qemu-aarch64-static",
            "-L",
            root,
            root / "usr/bin/dropbearkey",
            "-t",
            "ed25519",
            "-f",
            root / "etc/dropbear/dropbear_ed25519_host_key",
        ]
    )
    host_key = next(line for line in made.splitlines() if line.startswith("ssh-ed25519 "))
    told.write_text(" ".join(host_key.split()[:2]))
    return Rootfs(folder, root, key, told.read_text(), packages)


def _authorize(home: Path, public: str, owner: int) -> None:
    keys = home / ".ssh" / "authorized_keys"
    keys.parent.mkdir(parents=True, exist_ok=True)
    keys.write_text(public + "\n")
    for path, mode in ((home, 0o700), (keys.parent, 0o700), (keys, 0o600)):
        path.chmod(mode)
        os.chown(path, owner, owner)
