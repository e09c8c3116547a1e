"""Running commands in this process, as every test of the command line does."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema

from bvtdeploy import __version__, cli
from bvtdeploy.schemas import schema


def call(*arguments: str | Path) -> tuple[int, str, str]:
    """Runs a command in this process: exit code, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        code = cli.main([str(a) for a in arguments])
    finally:
        sys.stdout, sys.stderr = before
    return code, out.getvalue(), err.getvalue()


def call_json(command: str, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """Runs a command with --json (at the end, where it is not given); what it prints must be one line that its schema allows."""
    found, out, err = call(command, *arguments, *(() if "--json" in arguments else ("--json",)))
    assert found == code, out + err
    assert out.count("\n") == 1
    told: dict[str, Any] = json.loads(out)
    jsonschema.validate(told, schema("error" if "error" in told else command))
    assert told["ok"] == (code == 0)
    assert told["bvtdeploy"] == __version__
    return told
