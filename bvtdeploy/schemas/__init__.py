"""JSON Schemas of what each command prints with `--json`; `error` is what any of them prints when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def schema(command: str) -> dict[str, Any]:
    """The schema of a command's object ("compile", ...), or of "error"."""
    loaded: dict[str, Any] = json.loads((Path(__file__).parent / f"{command}.json").read_text(encoding="utf-8"))
    return loaded


def names() -> list[str]:
    """The names that `schema` takes."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.json"))
