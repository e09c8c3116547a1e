"""An engine for the tests of this folder, with a base image made from this machine's Debian mirror."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest
from docker_engine import ROOT, Docker, buildah, clear, daemon, end

from bvtdeploy.build.engines import BASE, CHOOSE, Engine, find_engine
from bvtdeploy.errors import UserError

NAME = "bvtdeploy-test-base:bookworm"


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """The engine, with a base image. Its environment is set for the whole folder's tests."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("engine")
    process = None
    engine: Engine | None = None
    environ: dict[str, str] = {}
    with contextlib.suppress(UserError):
        engine = find_engine()
    if engine is None or engine.name != "docker":  # others only where Docker cannot start: they may answer, and run nothing
        try:
            process, environ = daemon(folder)
        except RuntimeError as error:
            try:
                environ = buildah(folder)
            except (RuntimeError, subprocess.CalledProcessError) as why:
                pytest.skip(f"no container engine can start: {error}; {why}")
    os.environ.update(environ)
    try:
        engine = find_engine()
        asked = subprocess.run([engine.path, "network", "inspect", "bridge"], capture_output=True)
        alone = engine.name == "docker" and asked.returncode != 0
        base = subprocess.run(
            ["sh", ROOT / "docker/make-base.sh", NAME],
            env={**os.environ, CHOOSE: engine.path},
            capture_output=True,
            text=True,
        )
        if base.returncode:
            told = base.stderr.strip() or "make-base.sh failed"
            offline = any(
                sign in told for sign in ("Could not resolve", "Failed to fetch", "Could not connect", "Unable to connect")
            )
            if offline or "no mmdebstrap" in told:
                pytest.skip(f"no base image: {told.splitlines()[-1]}")
            pytest.fail(told)
        os.environ[BASE] = NAME
        yield Docker(engine, {**environ, BASE: NAME}, ("--network", "host") if alone else ())
    finally:
        if process is not None:
            end(process)
        elif engine is not None:
            subprocess.run([engine.path, "rmi", NAME], capture_output=True)
        for key in {*environ, BASE}:
            os.environ.pop(key, None)
            if key in before:
                os.environ[key] = before[key]
        clear(folder)
