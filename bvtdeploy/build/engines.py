"""Container engines: docker, podman, and buildah where neither can start. What each is asked, and what its complaints mean."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from bvtdeploy.errors import UserError

CHOOSE = "BVTDEPLOY_DOCKER"  # environment: the engine to take, a name or a path
BASE = "BVTDEPLOY_DOCKER_BASE"  # environment: the image that ours is made from
GET_DOCKER = "apt-get install docker.io (or podman, or buildah)"
_ANSWER, _MAKE, _RUN = 60.0, 1800.0, 900.0  # seconds


@dataclass(frozen=True)
class Engine:
    """An engine that answers.

    Attributes:
        name: "docker", "podman" or "buildah".
        path: the program.
    """

    name: str
    path: str

    def has_image(self, tag: str) -> bool:
        """Whether an image is there."""
        asked = ["inspect", "--type", "image", tag] if self.name == "buildah" else ["image", "inspect", tag]
        return _ask([self.path, *asked]).returncode == 0

    def make_image(self, tag: str, dockerfile: Path, *, base: str, target: str) -> None:
        """Build a stage of a Dockerfile that needs no other files."""
        options = ["--target", target, "--tag", tag, *(["--build-arg", f"BASE={base}"] if base else [])]
        if self.name == "buildah":
            options += ["--isolation", "chroot"]  # needs no runtime and no cgroups
        elif self.name == "docker" and _ask([self.path, "network", "inspect", "bridge"]).returncode:
            options += ["--network", "host"]  # a daemon without a bridge has no other network to fetch packages from
        with tempfile.TemporaryDirectory(prefix="bvtdeploy-") as context:
            shutil.copyfile(dockerfile, Path(context) / "Dockerfile")
            done = _ask([self.path, "build", *options, context], timeout=_MAKE)
        if done.returncode:
            raise _image_error(self, base, done)

    def run(self, tag: str, script: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
        """Run a shell script in a new container, with no network, no capabilities, and as nobody or as the caller.

        Args:
            tag: the image.
            script: for `sh -c`.
            given: its standard input.

        Returns:
            What came back: the script's own exit code, output and complaints. Nothing stays behind, also after an interrupt.
        """
        name = f"bvtdeploy-{uuid.uuid4().hex[:12]}"
        if self.name == "buildah":
            return self._run_buildah(name, tag, script, given)
        user = ["--user", f"{os.getuid()}:{os.getgid()}"] if os.getuid() else []
        fence = ["--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        try:
            return _ask(
                [self.path, "run", "--rm", "--interactive", "--name", name, *fence, *user, tag, "sh", "-c", script], given, _RUN
            )
        except BaseException:  # the client was ended; the container would go on
            _ask([self.path, "rm", "--force", name])
            raise

    def _run_buildah(self, name: str, tag: str, script: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
        """Buildah's chroot has no network of its own to take away; all else is the same."""
        try:
            made = _ask([self.path, "from", "--pull-never", "--name", name, tag])
            if made.returncode:
                raise _image_error(self, tag, made)
            return _ask([self.path, "run", "--isolation", "chroot", name, "--", "sh", "-c", script], given, _RUN)
        finally:
            _ask([self.path, "rm", name])


def find_engine() -> Engine:
    """The engine that $BVTDEPLOY_DOCKER names, else the first of docker, podman and buildah that answers."""
    chosen = os.environ.get(CHOOSE, "")
    if chosen:
        path = shutil.which(chosen)
        if path is None:
            raise UserError(f"there is no container engine '{chosen}'", where=CHOOSE, fix=GET_DOCKER)
        name = next((kind for kind in ("podman", "buildah") if kind in Path(path).name), "docker")
        _check(Engine(name, path))
        return Engine(name, path)
    first: UserError | None = None
    for name in ("docker", "podman", "buildah"):
        path = shutil.which(name)
        if path is not None:
            try:
                _check(Engine(name, path))
                return Engine(name, path)
            except UserError as error:
                first = first or error
    raise first or UserError("there is no container engine here", where="--toolchain docker", fix=GET_DOCKER)


def engine_version(engine: Engine) -> str:
    """What `doctor` shows."""
    asked = ["version", "--format", "{{.Server.Version}}"] if engine.name == "docker" else ["--version"]
    return _ask([engine.path, *asked]).stdout.decode(errors="replace").strip()


def _check(engine: Engine) -> None:
    """Refuse an engine that does not answer, with the reason."""
    asked = {"docker": ["version", "--format", "{{.Server.Version}}"], "podman": ["info"], "buildah": ["info"]}[engine.name]
    done = _ask([engine.path, *asked])
    if done.returncode == 0 and done.stdout.strip():
        return
    told = _told(done)
    if engine.name != "docker":
        raise UserError(f"{engine.name} cannot be used", where=engine.path, why=told, fix=f"see {engine.name} info")
    host = os.environ.get("DOCKER_HOST")
    where = f"DOCKER_HOST={host}" if host else "the default socket, /var/run/docker.sock"
    if "permission denied" in told.lower():
        fix = "usermod -aG docker YOU, as root, and log in again; or take podman"
        raise UserError("the Docker daemon does not let you in", where=where, why=told, fix=fix)
    fix = "check DOCKER_HOST, or unset it" if host else "start it (systemctl start docker, or dockerd), or set DOCKER_HOST"
    raise UserError("the Docker daemon cannot be reached", where=where, why=told, fix=fix)


_NO_BASE = (
    "manifest unknown",
    "pull access denied",
    "not found: manifest",
    "repository does not exist",
    "no such host",
    "name resolution",
    "connection refused",
    "i/o timeout",
    "tls handshake",
    "deadline exceeded",
    "client.timeout",
    "network is unreachable",
    "server misbehaving",
    "unauthorized",
    "toomanyrequests",
    "short-name",
    "error creating build container",
    "initializing source",
    "no such image",
    "unable to copy from source",
)


def _image_error(engine: Engine, base: str, done: subprocess.CompletedProcess[bytes]) -> UserError:
    told = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    steps = done.stdout.decode(errors="replace")
    where = f"{engine.name} build, docker/Dockerfile"
    why = _told(done)
    if "buildx component is missing" in told:
        return UserError(
            "this Docker has no BuildKit, but DOCKER_BUILDKIT asks for it", where=where, why=why, fix="unset DOCKER_BUILDKIT"
        )
    if "no space left" in told.lower():
        return UserError(
            "there is no space left for the image", where=where, why=why, fix=f"{engine.name} system prune, or free disk"
        )
    if "apt-get" not in steps.split("Step 3")[-1] or not any(sign in steps for sign in ("Reading package", "Err:", "Ign:")):
        refused = next((line.strip() for line in told.splitlines() if any(sign in line.lower() for sign in _NO_BASE)), "")
        if refused:
            image = base or "of docker/Dockerfile"
            return UserError(
                f"the base image {image} is not available",
                where=where,
                why=refused,
                fix=f"set {BASE} to an image that you can pull, or make one: sh docker/make-base.sh, "
                f"then {BASE}=bvtdeploy-base:bookworm",
            )
    return UserError(
        "the image with the compilers cannot be built",
        where=where,
        why=why,
        fix="its packages come by apt, so the base image needs sources that can be reached, and the daemon a network",
    )


def _told(done: subprocess.CompletedProcess[bytes]) -> str:
    text = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace")
    return "\n       ".join(text.splitlines()[-6:]) or f"it ended with code {done.returncode}"


def _ask(command: list[str], given: bytes = b"", timeout: float = _ANSWER) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=given, capture_output=True, timeout=timeout, env={**os.environ, "LC_ALL": "C"})
    except subprocess.TimeoutExpired as error:
        raise UserError(
            "the container engine does not answer", where=shlex.join(command[:4]), why=f"stopped after {timeout:.0f} s"
        ) from error
    except OSError as error:
        raise UserError("the container engine cannot be run", where=command[0], why=str(error)) from error
