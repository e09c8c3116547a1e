"""No two threads write the same byte: the runtime under ThreadSanitizer, which also sees a byte that is written back unchanged."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bvtdeploy import api
from bvtdeploy.build.sources import Source, read_sources, runtime_folder
from bvtdeploy.models import create, names

FLAGS = ["-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-Iinclude", "-Isrc", "-fsanitize=thread"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bvt_run with ThreadSanitizer."""
    cc, root, folder = shutil.which("gcc"), runtime_folder(), tmp_path_factory.mktemp("tsan")
    if cc is None:
        pytest.skip("there is no gcc")
    empty = folder / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    linked = subprocess.run([cc, "-fsanitize=thread", str(empty), "-o", str(folder / "empty")], check=False)
    if linked.returncode or subprocess.run([str(folder / "empty")], check=False).returncode:
        pytest.skip("this gcc has no ThreadSanitizer that runs here")

    def compiled(source: Source) -> str:
        to = str(folder / source.path.replace("/", "_")) + ".o"
        subprocess.run([cc, *FLAGS, *source.isa_flags, "-c", source.path, "-o", to], cwd=root, check=True)
        return to

    sources = [s for s in read_sources(root) if s.target in ("bvt", "bvt_run") and s.machine in ("", platform.machine())]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    program = folder / "bvt_run"
    subprocess.run([cc, "-fsanitize=thread", *objects, "-pthread", "-lm", "-o", str(program)], check=True)
    return program


@pytest.mark.parametrize("elementwise", ["fp32", "fp16"])
@pytest.mark.parametrize("name", [name for name in names() if name.endswith("_nano")])
def test_four_threads_write_different_bytes(watched: Path, tmp_path: Path, name: str, elementwise: str) -> None:
    artifact = tmp_path / "model.bvt"
    api.compile(create(name), artifact, board="generic", elementwise=elementwise)
    done = subprocess.run(
        [str(watched), str(artifact), "--runs", "2", "--top", "0", "--threads", "4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr + done.stdout, done.stderr[:4000]
