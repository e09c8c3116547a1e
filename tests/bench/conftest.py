"""The smallest plain Vision Transformer of the zoo, as a checkpoint and compiled. Commands are run as in the tests of the CLI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bvtdeploy import api

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))  # commands.py


@pytest.fixture(scope="session")
def nano_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "nano.pt"
    api.export_model("bi_vit_li_deit_nano", path)
    return path


@pytest.fixture(scope="session")
def nano(nano_source: Path) -> Path:
    path = nano_source.with_suffix(".bvt")
    api.compile(nano_source, path, board="rpi4")
    return path
