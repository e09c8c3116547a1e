"""A project of one's own, in C and C++, links the runtime: from a bundle that was moved, from source, and by pkg-config."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bvtdeploy.boards import load_board
from bvtdeploy.build import build_runtime, read_elf
from bvtdeploy.build.sources import runtime_folder

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "link"


@pytest.fixture(scope="module")
def bundle(cross_gcc: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, moved from where it was written."""
    folder = tmp_path_factory.mktemp("bundle")
    build_runtime(load_board("rpi4"), toolchain="gcc", output=folder / "written")
    (folder / "written").rename(folder / "moved here")
    return folder / "moved here"


def tool(name: str) -> str:
    """A program of the system or of this virtual environment."""
    found = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"no {name}: pip install {name}")
    return found


def cmake(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run([tool("cmake"), *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def configure(source: Path, folder: Path, *options: str, code: int = 0) -> str:
    return cmake("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-S", source, "-B", folder, *options, code=code)


def linked(folder: Path, *options: str) -> Path:
    if shutil.which("aarch64-linux-gnu-g++") is None:
        pytest.skip("no aarch64-linux-gnu-g++: apt-get install g++-aarch64-linux-gnu")
    configure(EXAMPLE, folder, f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE}/aarch64.cmake", *options)
    cmake("--build", folder)
    return folder


def run(emulator: str, program: Path, artifact: Path) -> None:
    done = subprocess.run([emulator, "-cpu", "cortex-a72", program, artifact], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("neon: 2 of 2 golden outputs have equal bits\n")


def test_find_package_takes_a_bundle(emulator: str, bundle: Path, artifact: Path, tmp_path: Path) -> None:
    made = linked(tmp_path, f"-DCMAKE_PREFIX_PATH={bundle}")
    for name in ("golden", "golden_cpp"):
        assert read_elf(made / name).static
        run(emulator, made / name, artifact)


def test_the_sources_are_a_subdirectory_of_a_project(emulator: str, artifact: Path, tmp_path: Path) -> None:
    made = linked(tmp_path / "made", f"-DBVT_SOURCE={runtime_folder()}")
    assert not (made / "bvt" / "bvt_run").exists()  # only the library is built in another's project
    for name in ("golden", "golden_cpp"):
        run(emulator, made / name, artifact)


def test_a_bundle_for_another_machine_is_refused(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler: apt-get install build-essential")
    other = ("-DCMAKE_SYSTEM_PROCESSOR=riscv64", "-DCMAKE_SYSTEM_NAME=Linux")
    told = configure(EXAMPLE, tmp_path, *other, f"-DCMAKE_PREFIX_PATH={bundle}", code=1)
    assert "this bvt is for aarch64, the project is built for riscv64" in " ".join(told.split())


@pytest.mark.parametrize(("wanted", "code"), [("0.1", 0), ("0.1.0", 0), ("", 0), ("0.2", 1), ("1", 1), ("0.1.9", 1)])
def test_versions(bundle: Path, wanted: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(v LANGUAGES NONE)\nset(CMAKE_SIZEOF_VOID_P 8)\n"
        f'set(PACKAGE_FIND_VERSION "{wanted}")\ninclude("{bundle}/lib/cmake/bvt/bvtConfigVersion.cmake")\n'
        "if(NOT PACKAGE_VERSION_COMPATIBLE)\n  message(FATAL_ERROR incompatible)\nendif()\n"
    )
    configure(tmp_path, tmp_path / "made", code=code)


def test_pkg_config(emulator: str, bundle: Path, artifact: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config: apt-get install pkg-config")
    shutil.copytree(bundle, tmp_path / "bundle")
    asked = ["pkg-config", f"--with-path={tmp_path}/bundle/lib/pkgconfig", "--cflags", "--libs", "bvt"]
    flags = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    program = tmp_path / "golden"
    subprocess.run(["aarch64-linux-gnu-gcc", EXAMPLE / "golden.c", *flags, "-static", "-o", program], check=True)
    run(emulator, program, artifact)
