"""What is shipped beside the code: the package's metadata and the README's two commands."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bvtdeploy
from bvtdeploy.host import runtime_version

ROOT = Path(__file__).resolve().parents[1]


def test_there_is_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == bvtdeploy.__version__ == runtime_version()[0]


def test_doctor_asks_for_the_torch_that_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pin = next(line for line in project["dependencies"] if line.startswith("torch"))
    assert pin in (ROOT / "bvtdeploy" / "doctor.py").read_text()


def test_functions_stay_functions_when_the_packages_of_their_names_are_imported() -> None:
    import bvtdeploy.api
    import bvtdeploy.boards
    import bvtdeploy.build
    import bvtdeploy.doctor
    import bvtdeploy.profile

    assert [name for name in bvtdeploy.__all__ if name != "__version__" and not callable(getattr(bvtdeploy, name))] == []
    assert bvtdeploy.api is sys.modules["bvtdeploy.api"]


@pytest.mark.parametrize(
    "script", ["examples/setup.sh", "examples/demo.sh", "tests/run.sh", "runtime_arm/tests/run.sh", "docker/make-base.sh"]
)
def test_scripts_are_plain_shell(script: str) -> None:
    subprocess.run(["sh", "-n", ROOT / script], check=True)


def test_the_readmes_commands_are_there() -> None:
    readme = (ROOT / "README.md").read_text()
    for script in ("examples/demo.sh", "tests/run.sh"):
        assert f"sh {script}" in readme
        assert (ROOT / script).is_file()


def test_the_demo_command_sets_up_and_starts() -> None:
    venv = Path(sys.prefix)
    if not list(venv.glob("bvtdeploy.*.stamp")):
        pytest.skip("this environment was not set up by tests/run.sh, and setting it up is not a test's business")
    environment = {**os.environ, "VIRTUAL_ENV": str(venv)}
    done = subprocess.run(["sh", ROOT / "examples/demo.sh", "--help"], env=environment, capture_output=True, text=True, check=True)
    assert "Do the main job on a shipped example" in done.stdout
    assert done.stderr == ""
