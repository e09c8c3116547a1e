"""examples/classify: both programs give the classes of `bvtdeploy run`, follow a folder, and survive whatever lies in it."""

from __future__ import annotations

import io
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bvtdeploy import api

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "classify"
DECODER = ROOT / "runtime_arm" / "tools"


@dataclass(frozen=True)
class Classify:
    """One of the programs."""

    command: tuple[str, ...]

    def __call__(self, *arguments: str | Path, code: int = 0) -> tuple[list[list[str]], list[str]]:
        """The fields of every line, and the complaints."""
        done = subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        return [line.split("\t") for line in done.stdout.splitlines()], done.stderr.splitlines()

    @contextmanager
    def watching(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """The program while it follows a folder."""
        command = [*self.command, *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


def host_flags() -> list[str]:
    return ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{DECODER}"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `bvtdeploy build --board host` makes."""
    folder = tmp_path_factory.mktemp("host")
    api.build("host", output=folder)
    return folder


@pytest.fixture(scope="module")
def in_c(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Classify:
    """The C program with its decoder, under AddressSanitizer and UBSan."""
    program = tmp_path_factory.mktemp("c") / "classify"
    files = [EXAMPLE / "classify.c", DECODER / "image_file.c", bundle / "lib" / "libbvt.a"]
    sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["gcc", *host_flags(), *sanitizers, f"-I{bundle / 'include'}", *files, "-pthread", "-lm", "-o", program]
    subprocess.run(list(map(str, command)), check=True)
    return Classify((str(program),))


@pytest.fixture(scope="module")
def in_python(bundle: Path) -> Classify:
    """The Python program as on a bare system: without the packages of this environment."""
    return Classify((sys.executable, "-I", "-S", str(EXAMPLE / "classify.py"), "--bvt-run", str(bundle / "bvt_run")))


@pytest.fixture(params=["c", "python"])
def program(request: pytest.FixtureRequest) -> Classify:
    classify: Classify = request.getfixturevalue(f"in_{request.param}")
    return classify


def expected(artifact: Path, images: list[Path]) -> list[str]:
    """The first class of each image as the API finds it."""
    return [prediction.top[0].label for prediction in api.run(artifact, images).predictions]


def first_classes(lines: list[list[str]]) -> list[str]:
    found = [re.fullmatch(r"(.*) (\d+\.\d) %", fields[1]) for fields in lines]
    assert all(match and 10 < float(match[2]) <= 100 for match in found)
    return [match[1] for match in found if match]


def photo(path: Path, source: Path, size: tuple[int, int] = (97, 64), **options: Any) -> Path:
    """An image of another kind and size."""
    with Image.open(source) as image:
        image.convert("RGB").resize(size).save(path, **options)
    return path


def test_files_and_folders(program: Classify, artifact: Path, images: list[Path]) -> None:
    lines, complaints = program(artifact, images[0].parent)
    assert [fields[0] for fields in lines] == [str(path) for path in images] and not complaints
    assert first_classes(lines) == expected(artifact, images) == [path.stem[13:].replace("_", " ") for path in images]
    assert all(len(fields) >= 5 and fields[-1].endswith(" ms") for fields in lines)
    few, _ = program(artifact, *images, "--top", "1", "--count", "2", "--threads", "2")
    assert [fields[:2] for fields in few] == [fields[:2] for fields in lines[:2]]
    assert len(few[0]) == len(lines[0]) - 2


def test_every_format(program: Classify, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    kinds: dict[str, dict[str, Any]] = {
        "a.jpg": {"quality": 95},
        "b.JPEG": {"progressive": True},
        "c.png": {},
        "d.bmp": {},
        "e.ppm": {},
    }
    files = [photo(tmp_path / name, images[1], **options) for name, options in kinds.items()]
    lines, _ = program(artifact, tmp_path)
    assert first_classes(lines) == expected(artifact, files) == ["pullover"] * 5


def test_raw_frames(program: Classify, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    with Image.open(images[0]) as image:
        small = image.convert("RGB").resize((40, 30))
    (tmp_path / "frame0").write_bytes(small.tobytes())
    (tmp_path / "frame1").write_bytes(small.tobytes()[:-1])
    (tmp_path / "frame2.part").write_bytes(small.tobytes())
    small.save(tmp_path / "same.png")
    lines, complaints = program(artifact, tmp_path, "--raw", "40x30:rgb", code=1)
    assert first_classes(lines) == expected(artifact, [tmp_path / "same.png"])
    assert [line.split(": ", 2)[1:] for line in complaints] == [
        [str(tmp_path / name), "its size is not that of a frame"] for name in ("frame1", "same.png")
    ]
    grey = tmp_path / "grey"
    grey.mkdir()
    (grey / "0").write_bytes(np.full(40 * 30, 7, np.uint8).tobytes())
    assert len(program(artifact, grey, "--raw", "40x30:gray")[0]) == 1


def test_broken_images_are_a_line_each(program: Classify, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    whole = io.BytesIO()
    with Image.open(images[0]) as image:
        image.convert("RGB").resize((300, 200)).save(whole, "JPEG", quality=90)
    data = whole.getvalue()
    (tmp_path / "a_cut.jpg").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "b_cut.png").write_bytes(images[0].read_bytes()[:200])
    (tmp_path / "c_empty.png").touch()
    (tmp_path / "d_folder.jpg").mkdir()
    (tmp_path / "e_text.jpg").write_text("no image\n")
    (tmp_path / "f_good.jpg").write_bytes(data + b"raw data that a camera appends")
    (tmp_path / "g_bad\x1b[2J\n.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\xff" * 64)
    (tmp_path / "h_gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("left out")
    lines, complaints = program(artifact, tmp_path, tmp_path / "missing.png", code=1)
    assert [Path(fields[0]).name for fields in lines] == ["f_good.jpg"]
    found = {Path(line.split(": ")[1]).name: line.split(": ", 2)[2] for line in complaints}
    assert len(complaints) == len(found) == 7
    assert found["a_cut.jpg"] == "the JPEG file is cut short: it has no end marker"
    assert found["b_cut.png"].startswith("the image file is damaged or cut short")
    assert found["c_empty.png"] == "the file is empty"
    assert found["d_folder.jpg"] == "it is a folder"
    assert found["e_text.jpg"] == "not a PNG, JPEG, BMP or PNM image"
    assert "g_bad?[2J?.png" in found
    assert found["missing.png"] == "No such file or directory"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert program(artifact, empty, code=1)[1] == [f"classify: {empty}: there is no image in this folder"]


def test_every_cut_of_a_jpeg_is_seen(in_c: Classify, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    """A thumbnail's end marker is not the picture's."""
    small = io.BytesIO()
    with Image.open(images[0]) as image:
        image.convert("RGB").resize((16, 16)).save(small, "JPEG")
        thumbnail = small.getvalue()
        photo(tmp_path / "whole.jpg", images[0], (64, 48), exif=b"Exif\0\0" + thumbnail, progressive=True)
    data = (tmp_path / "whole.jpg").read_bytes()
    assert thumbnail in data
    (tmp_path / "whole.jpg").unlink()
    for n in range(2, len(data), 7):
        (tmp_path / f"{n:05}.jpg").write_bytes(data[:n])
    lines, complaints = in_c(artifact, tmp_path, code=1)
    assert not lines and all("has no end marker" in line for line in complaints) and len(complaints) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL"], "no image|required: PATH"),
        (["MODEL", "a.png", "--watch"], "--watch needs one folder"),
        (["MODEL", ".", "--new"], "--new is for --watch"),
        (["MODEL", ".", "--raw", "640x480"], "640x480:rgb"),
        (["MODEL", ".", "--raw", "0x5:rgb"], "640x480:rgb"),
        (["MODEL", ".", "--top", "0"], "--top"),
        (["nowhere.bvt", "."], "nowhere.bvt: No such file"),
        ([str(Path(__file__)), "."], "not a .bvt file"),
    ],
)
def test_wrong_use(program: Classify, artifact: Path, arguments: list[str], message: str) -> None:
    lines, complaints = program(*(str(artifact) if a == "MODEL" else a for a in arguments), code=2)
    assert not lines and re.search(message, " ".join(complaints))


def test_watching(program: Classify, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    camera = tmp_path / "camera"
    camera.mkdir()
    shutil.copy(images[0], camera / "before.png")
    data = images[2].read_bytes()
    with program.watching(artifact, camera, "--watch", "--new", "--poll", "50", "--top", "1") as process:
        assert process.stdout is not None and process.stderr is not None
        time.sleep(1.0)  # until it has looked: what was there before is left out
        with (camera / "slow.png").open("wb") as file:  # for longer than two looks it grows
            for at in range(0, len(data), 64):
                file.write(data[at : at + 64])
                file.flush()
                time.sleep(0.03)
        assert process.stdout.readline().split("\t")[:1] == [str(camera / "slow.png")]
        shutil.copy(images[1], tmp_path / "next.png")
        (tmp_path / "next.png").rename(camera / "slow.png")  # another image with the same name
        assert "pullover" in process.stdout.readline()
        (camera / "broken.jpg").write_text("no image")
        assert "not a PNG" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 1
        assert process.stdout.read() == process.stderr.read() == ""


def test_the_folder_goes_away(program: Classify, artifact: Path, tmp_path: Path) -> None:
    camera = tmp_path / "camera"
    camera.mkdir()
    with program.watching(artifact, camera, "--watch", "--poll", "50") as process:
        time.sleep(0.5)
        camera.rmdir()
        assert process.wait(20) == 2
        assert process.stderr is not None and process.stderr.read() == f"classify: {camera}: No such file or directory\n"


def test_on_a_pi(cross_gcc: str, emulator: str, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    """The README's commands: a bundle, the compiler's line, and the program under emulation."""
    api.build("rpi4", output=tmp_path / "rpi4")
    for name in ("examples", "runtime_arm"):
        (tmp_path / name).symlink_to(ROOT / name)
    line = re.search(r"^    (aarch64-linux-gnu-gcc .*)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert line and cross_gcc in line[1]
    subprocess.run(["sh", "-c", line[1]], cwd=tmp_path, check=True)
    classify = Classify((emulator, "-cpu", "cortex-a72", str(tmp_path / "classify")))
    lines, _ = classify(artifact, images[0].parent)
    assert first_classes(lines) == expected(artifact, images)


def test_cmake_with_a_bundle(bundle: Path, artifact: Path, images: list[Path], tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: apt-get install cmake")
    say: Callable[..., Any] = subprocess.run
    say(["cmake", "-S", EXAMPLE, "-B", tmp_path, f"-DCMAKE_PREFIX_PATH={bundle}"], check=True, capture_output=True)
    say(["cmake", "--build", tmp_path], check=True, capture_output=True)
    lines, _ = Classify((str(tmp_path / "classify"),))(artifact, images[3])
    assert first_classes(lines) == ["trouser"]
