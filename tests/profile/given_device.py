"""A device whose files and programs are given: for what no stand-in for a board shows."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch

from bvtdeploy.device import Completed, LocalDevice, Probe


class Given(LocalDevice):
    """A device whose files and programs are given."""

    def __init__(self, files: dict[str, bytes], programs: dict[str, str] | None = None, *, own: bool = True) -> None:
        super().__init__()
        self.files, self.programs, self.own_system, self.asked = files, programs or {}, own, list[str]()

    def probe(self) -> Probe:
        return Probe("aarch64", None, (), 4, "6.6", "2.36", {"cpu": "not told"})

    def read_files(self, patterns: Sequence[str]) -> dict[str, bytes]:
        return {path: data for path, data in self.files.items() if any(fnmatch(path, pattern) for pattern in patterns)}

    def system(self, argv: Sequence[str], *, timeout: float = 10.0) -> Completed | None:
        self.asked.append(" ".join(argv))
        told = self.programs.get(self.asked[-1])
        return None if told is None else Completed(tuple(argv), 124 if argv[0] == "timeout" else 0, told.encode(), b"")
