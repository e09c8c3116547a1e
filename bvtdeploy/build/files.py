"""Files that are whole or not there: written aside, then moved into place."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import platformdirs


def write_whole(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Write a file so that no reader, and no interrupt, ever sees a part of it. Makes missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        Path(aside).chmod(mode)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where built runtimes and compiler caches are kept: $BVTDEPLOY_CACHE, else the user's cache folder."""
    chosen = os.environ.get("BVTDEPLOY_CACHE")
    return Path(chosen).absolute() if chosen else platformdirs.user_cache_path("bvtdeploy")
