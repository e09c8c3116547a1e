"""Images, really built and used: the compilers', the bundle's by Docker alone, and the one with a model in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_engine import ROOT, Docker

from bvtdeploy.boards import load_board
from bvtdeploy.build import build_runtime, container, engines, runtime
from bvtdeploy.build.engines import BASE, CHOOSE, find_engine
from bvtdeploy.build.sources import runtime_folder
from bvtdeploy.device.local import find_qemu
from bvtdeploy.errors import UserError


def golden(program: Path, artifact: Path, machine: str, cpu: str) -> None:
    """The outputs of an artifact's golden inputs have equal bits on an emulated core."""
    emulator = find_qemu(machine)
    if not emulator:
        pytest.skip("no user-mode QEMU: apt-get install qemu-user-static")
    done = subprocess.run([emulator, "-cpu", cpu, program, artifact, "--golden"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["golden: 2 of 2 equal"]), done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The runtime's sources as they are now: who edits them meanwhile does not change what is compared."""
    copy = tmp_path_factory.mktemp("sources") / "runtime_arm"
    shutil.copytree(runtime_folder(), copy, ignore=shutil.ignore_patterns("tests", "bench", "fuzz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "runtime_folder", lambda: copy)
        yield


@pytest.fixture(scope="module")
def built(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for a Raspberry Pi 4, made in a container."""
    output = tmp_path_factory.mktemp("built") / "rpi4"
    said: list[str] = []
    made = build_runtime(load_board("rpi4"), toolchain="docker", output=output, progress=said.append)
    assert made.container is not None and made.container["engine"] == docker.engine.name
    assert [text.split(" ")[0] for text in said] == ["building", "compiling"]
    assert made.elf.static and made.elf.machine == "aarch64"
    return output


def test_what_a_container_builds_gives_the_golden_bits(built: Path, artifact: Path) -> None:
    golden(built / "bvt_run", artifact, "aarch64", "cortex-a72")


def test_the_same_compiler_makes_the_same_bytes_inside_and_outside(built: Path, cross_gcc: str, tmp_path: Path) -> None:
    here = build_runtime(load_board("rpi4"), toolchain="gcc", output=tmp_path / "here")
    names = sorted([*here.files, "build.json"])
    assert sorted(p.relative_to(built).as_posix() for p in built.rglob("*") if p.is_file()) == names
    if f'"{here.toolchain["version"]}"' not in (built / "build.json").read_text():
        pytest.skip(f"this machine has another compiler: {here.toolchain['version']}")
    assert [name for name in names if (built / name).read_bytes() != (here.folder / name).read_bytes()] == []


def test_the_second_build_needs_no_engine(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "find_engine", lambda: pytest.fail("the engine was asked"))
    assert build_runtime(load_board("rpi4"), toolchain="docker").cached


def test_a_32_bit_board_and_sources_that_do_not_compile(
    built: Path, docker: Docker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "runtime"
    shutil.copytree(runtime_folder(), copy, ignore=shutil.ignore_patterns("tests", "bench", "fuzz"))
    (copy / "sources.txt").write_text("src/crc.c\n@bvt_run\ntools/tiny.c\n")
    (copy / "tools/tiny.c").write_text("int main(void) { return 0; }\n")
    monkeypatch.setattr(runtime, "runtime_folder", lambda: copy)
    made = build_runtime(load_board("rpi2"), toolchain="docker")
    assert (made.elf.machine, made.elf.float_abi, made.elf.static) == ("arm", "hard", True)
    (copy / "tools/tiny.c").write_text("int main(void) { return undeclared; }\n")
    with pytest.raises(UserError, match="does not compile") as caught:
        build_runtime(load_board("rpi2"), toolchain="docker")
    assert "undeclared" in caught.value.why


def test_the_dockerfile_alone_makes_the_bundle(built: Path, docker: Docker, artifact: Path, tmp_path: Path) -> None:
    if docker.engine.name == "buildah":
        pytest.skip("buildah has no create and cp")
    args = ["--build-arg", f"BASE={docker.environ[BASE]}", "--build-arg", "FLAGS=-mcpu=cortex-a72"]
    docker("build", *docker.network, *args, "-t", "bvt-test-bundle", "-f", ROOT / "docker/Dockerfile", ROOT)
    made = docker("create", "bvt-test-bundle", "-").strip()
    docker("cp", f"{made}:/", tmp_path / "bundle")
    docker("rm", made)
    docker("rmi", "bvt-test-bundle")
    for path in built.rglob("*"):
        assert path.name == "build.json" or (tmp_path / "bundle" / path.relative_to(built)).exists(), path
    golden(tmp_path / "bundle/bvt_run", artifact, "aarch64", "cortex-a72")


def test_an_arm_image_with_a_model_in_it(built: Path, docker: Docker, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    if docker.engine.name == "buildah":
        pytest.skip("buildah runs no images for other machines")
    for name in ("bvt_run", "LICENSE"):
        shutil.copy(built / name, tmp_path / name)
    shutil.copy(artifact, tmp_path / "model.bvt")
    docker("build", "--platform", "linux/arm64", "-t", "bvt-test-model", "-f", ROOT / "docker/Dockerfile.runtime", tmp_path)
    try:
        told = docker(
            "image", "inspect", "--format", "{{.Architecture}} {{.Config.User}} {{.Config.Healthcheck.Test}}", "bvt-test-model"
        )
        assert told.split(" ", 2) == ["arm64", "65534:65534", "[CMD /bvt_run /model.bvt --golden]\n"]
        fence = ["run", "--rm", "--platform", "linux/arm64", "--network", "none", "--read-only"]
        photos = ["-v", f"{images[0].parent}:/photos:ro"]
        if Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():  # as on a board
            assert "golden: 2 of 2 equal" in docker(*fence, "bvt-test-model")
            told = docker(*fence, *photos, "bvt-test-model", f"/photos/{images[0].name}")
        else:  # the emulator is called by name; nothing is registered on this machine
            emulator = find_qemu()
            if "static" not in emulator:
                pytest.skip("no static QEMU: apt-get install qemu-user-static")
            by_name = [*fence, "-v", f"{emulator}:/qemu:ro", "--entrypoint", "/qemu"]
            told = docker(*by_name, "bvt-test-model", "-cpu", "cortex-a72", "/bvt_run", "/model.bvt", "--golden")
            assert "golden: 2 of 2 equal" in told
            told = docker(
                *by_name, *photos, "bvt-test-model", "-cpu", "cortex-a72", "/bvt_run", "/model.bvt", f"/photos/{images[0].name}"
            )
        assert images[0].stem.split("_", 2)[2].replace("_", " ") in told
    finally:
        docker("rmi", "bvt-test-model")


def test_a_base_image_that_cannot_be_had(docker: Docker, own_image: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BASE, "localhost:1/no-such-base:1")
    with pytest.raises(UserError, match="the base image localhost:1/no-such-base:1 is not available") as caught:
        build_runtime(load_board("rpi3"), toolchain="docker")
    assert "docker/make-base.sh" in caught.value.fix and BASE in caught.value.fix


@pytest.fixture
def own_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BVTDEPLOY_CACHE", str(tmp_path))


def test_a_daemon_that_cannot_be_reached(own_image: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker: apt-get install docker.io")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    monkeypatch.setenv(CHOOSE, "docker")
    with pytest.raises(UserError, match="the Docker daemon cannot be reached") as caught:
        build_runtime(load_board("rpi3"), toolchain="docker")
    assert "nothing.sock" in caught.value.where and "DOCKER_HOST" in caught.value.fix


def test_a_daemon_that_lets_nobody_in(docker: Docker, own_image: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if docker.engine.name != "docker" or os.getuid() or shutil.which("setpriv") is None:
        pytest.skip("needs a Docker daemon and root rights, to give them up")
    monkeypatch.delenv(CHOOSE, raising=False)
    as_nobody = tmp_path / "docker"
    as_nobody.write_text(f'#!/bin/sh\nexec setpriv --reuid 65534 --regid 65534 --clear-groups {docker.engine.path} "$@"\n')
    as_nobody.chmod(0o755)
    monkeypatch.setenv(CHOOSE, str(as_nobody))
    with pytest.raises(UserError, match="the Docker daemon does not let you in") as caught:
        build_runtime(load_board("rpi3"), toolchain="docker")
    assert "usermod -aG docker" in caught.value.fix


def test_no_engine_at_all(own_image: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(CHOOSE, raising=False)
    with pytest.raises(UserError, match="there is no container engine here") as caught:
        find_engine()
    assert "docker.io" in caught.value.fix
    monkeypatch.setenv(CHOOSE, "dokcer")
    with pytest.raises(UserError, match="there is no container engine 'dokcer'"):
        engines.find_engine()
