"""Container engines for tests: one that is reachable, else a Docker daemon of our own with its data in a temporary folder, else
buildah."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from bvtdeploy.build.engines import CHOOSE, Engine

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Docker:
    """An engine that runs, and the environment that leads to it."""

    engine: Engine
    environ: dict[str, str]
    network: tuple[str, ...]  # options of `build` that give it a network

    def __call__(self, *arguments: str | Path, timeout: float = 600) -> str:
        """Ask the engine something; standard output."""
        command = [self.engine.path, *map(str, arguments)]
        done = subprocess.run(
            command, env={**os.environ, **self.environ}, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


def daemon(folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """A Docker daemon that changes nothing on this machine: no bridge, no forwarding, no packet filter."""
    for program in ("dockerd", "docker"):
        if shutil.which(program) is None:
            raise RuntimeError(f"no {program}: apt-get install docker.io iptables")
    if os.getuid():
        raise RuntimeError("a Docker daemon needs root rights")
    environ = {"DOCKER_HOST": f"unix://{folder}/docker.sock"}
    quiet = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
    places = ["--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "docker.pid"]
    with (folder / "log").open("wb") as log:
        command = ["dockerd", "--host", environ["DOCKER_HOST"], *places, *quiet]
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        asked = subprocess.run(["docker", "info"], env={**os.environ, **environ}, capture_output=True)
        if asked.returncode == 0:
            return process, environ
        time.sleep(0.25)
    end(process)
    told = (folder / "log").read_text(errors="replace").splitlines()
    raise RuntimeError(f"dockerd does not start: {told[-1] if told else 'it says nothing'}")


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # it ends its containerd itself
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def clear(folder: Path) -> None:
    """Images are large; and what a daemon mounted (the name of its network) cannot be removed while it is mounted."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", line.split()[1]], capture_output=True)
    for part in ("data", "exec", "graph", "run"):
        shutil.rmtree(folder / part, ignore_errors=True)


def buildah(folder: Path) -> dict[str, str]:
    path = shutil.which("buildah")
    if path is None:
        raise RuntimeError("no buildah")
    storage = folder / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    environ = {"CONTAINERS_STORAGE_CONF": str(storage), CHOOSE: path}
    subprocess.run([path, "info"], env={**os.environ, **environ}, capture_output=True, check=True)
    return environ
