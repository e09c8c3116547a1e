"""Debian packages of another architecture, fetched into a folder with an apt state of its own: nothing is installed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path("/etc/apt/sources.list.d/debian.sources")


class Unavailable(Exception):
    """Says why a stand-in cannot be had here."""


def run(command: Sequence[str | Path], *, cwd: Path | None = None, timeout: float = 300) -> str:
    """Run a command; what it says on standard output."""
    try:
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(map(str, command))[:80]}: {done.stderr.strip()[-300:] or done.returncode}")
    return done.stdout


class Packages:
    """Fetches packages."""

    def __init__(self, folder: Path, architecture: str) -> None:
        self.folder = folder
        for name in ("lists/partial", "cache/archives/partial", "sources"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        if not SOURCES.exists():
            raise Unavailable(f"no {SOURCES}: the packages come from there")
        # The main suite only: the index of security updates of a foreign architecture is often stale on mirrors.
        stanzas = SOURCES.read_text().split("\n\n")
        (folder / "sources" / "debian.sources").write_text("\n\n".join(s for s in stanzas if "-security" not in s) + "\n")
        options = {
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "Dir::State": folder,
            "Dir::State::Lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": folder / "sources",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        run(["apt-get", *self._options, "-qq", "update"])

    def unpack(self, names: Sequence[str], into: Path) -> None:
        """Fetch packages and unpack their files, without running anything of theirs."""
        debs = self.folder / "debs" / into.name
        debs.mkdir(parents=True, exist_ok=True)
        run(["apt-get", *self._options, "-qq", "download", *names], cwd=debs)
        into.mkdir(parents=True, exist_ok=True)
        for deb in sorted(debs.glob("*.deb")):
            run(["dpkg-deb", "-x", deb, into])

    def kernel(self, package: str) -> str:
        """The package with the kernel that a kernel's general package stands for."""
        for line in run(["apt-cache", *self._options, "depends", package]).splitlines():
            if "Depends: linux-image-" in line:
                return line.split()[1]
        raise Unavailable(f"{package} depends on no kernel")
