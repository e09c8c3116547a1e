from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bvtdeploy.boards import Board, all_boards, board_names, load_board
from bvtdeploy.boards.explain import FEATURES
from bvtdeploy.build.fits import HWCAPS
from bvtdeploy.device import open_device
from bvtdeploy.device.local import find_qemu, qemu_cpus
from bvtdeploy.errors import UserError
from bvtdeploy.lower.weights import Cost

ARM = [board for board in all_boards() if not board.native]


def test_every_board_file_loads() -> None:
    raspberries = {"rpi-zero2w", "rpi2", "rpi3", "rpi3-32", "rpi4", "rpi5"}
    jetsons = {"jetson-nano", "jetson-tx2", "jetson-xavier", "jetson-orin"}
    assert {"generic", "generic-32", "host", *raspberries, *jetsons} == set(board_names())
    assert [board.name for board in all_boards()] == board_names()


MACROS = {
    "dotprod": "__ARM_FEATURE_DOTPROD",
    "crc": "__ARM_FEATURE_CRC32",
    "lse": "__ARM_FEATURE_ATOMICS",
    "rdma": "__ARM_FEATURE_QRDMX",
    "fp16": "__ARM_FEATURE_FP16_VECTOR_ARITHMETIC",
    "neon": "__ARM_NEON",
}


@pytest.mark.parametrize("board", ARM, ids=lambda board: board.name)
def test_gcc_allows_what_the_board_says_and_no_more(board: Board) -> None:
    """What the compiler may use is what `check_fits` looks for on a device."""
    compiler = f"{board.triple}-gcc"
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    done = subprocess.run(
        [compiler, *board.flags, "-Werror", "-dM", "-E", "-x", "c", "-"], input="", capture_output=True, text=True, check=True
    )
    assert {feature for feature, macro in MACROS.items() if macro in done.stdout} == set(board.features) & set(MACROS)
    assert set(board.features) <= set(HWCAPS) and set(board.features) <= set(FEATURES)
    if board.machine == "arm":
        assert "__ARM_FEATURE_FMA" in done.stdout and "__ARM_PCS_VFP" in done.stdout
        assert "vfpv4" in board.features


@pytest.mark.parametrize("board", ARM, ids=lambda board: board.name)
def test_zig_knows_the_core(board: Board) -> None:
    """It spells names with underscores. Its answer to a core that it does not know is an error, so it is asked."""
    assert len(board.zig_flags) == 1 and "-" not in board.zig_flags[0].removeprefix("-mcpu")
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("no ziglang: pip install ziglang")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", board.zig_target, *board.zig_flags, "-dM", "-E", "-x", "c", "-"]
    done = subprocess.run(command, input="", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "__ARM_FEATURE_FMA" in done.stdout


def test_every_emulated_core_exists() -> None:
    for board in ARM:
        emulator = find_qemu(board.machine)
        if board.qemu_cpu and emulator:
            assert board.qemu_cpu in qemu_cpus(emulator), board.name


def test_an_emulated_core_runs_the_program_of_a_board_that_has_it() -> None:
    if not (find_qemu("aarch64") and find_qemu("arm")):
        pytest.skip("no user-mode QEMU: apt-get install qemu-user-static")
    names = {cpu: open_device(f"qemu:{cpu}").board for cpu in ("cortex-a53", "cortex-a72", "cortex-a76", "cortex-a7", "max")}
    boards = {"cortex-a53": "rpi3", "cortex-a72": "rpi4", "cortex-a76": "rpi5", "cortex-a7": "rpi2", "max": "generic"}
    assert names == boards


def test_a_mistyped_board_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="no board named 'rip4'") as caught:
        load_board("rip4")
    assert "did you mean rpi4" in caught.value.fix


def test_a_board_file_of_the_user(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    text = (Path(__file__).parents[2] / "bvtdeploy/boards/rpi4.toml").read_text()
    own.write_text(text.replace("cortex-a72", "cortex-a73"))
    assert load_board(own).name == "mine"
    assert load_board(str(own)).flags == ("-mcpu=cortex-a73",)


def test_all_faults_of_a_board_file_are_told_at_once(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(
        'title = 3\nsock = "x"\nfeatures = ["a", 1]\ncores = -1\ncaches = 4\n[toolchain]\nflag = []\n[[clusters]]\nsize=2\n'
    )
    with pytest.raises(UserError) as caught:
        load_board(own)
    why = caught.value.why
    expected = (
        "title must be a string",
        "sock is unknown (did you mean soc",
        "features must be a list of strings",
        "cores must be a whole number",
    )
    for part in (
        *expected,
        "caches must be a table",
        "clusters.core is missing",
        "clusters.size is unknown",
        "toolchain.flag is unknown",
        "toolchain.flags is missing",
        "core is missing",
    ):
        assert part in why


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[[clusters]]\ncore = "cortex-a72"\ncount = 3\n', "cores is 4, but the clusters have 3"),
        ('[[clusters]]\ncore = "cortex-a73"\ncount = 4\n', "core is cortex-a72, which is in no cluster"),
    ],
)
def test_a_board_file_that_contradicts_itself(more: str, said: str, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text((Path(__file__).parents[2] / "bvtdeploy/boards/rpi4.toml").read_text() + more)
    with pytest.raises(UserError) as caught:
        load_board(own)
    assert said in caught.value.why


def test_costs_of_layouts(tmp_path: Path) -> None:
    assert load_board("generic").costs == {} and load_board("host").costs == {}
    for name in ("rpi3", "rpi4", "rpi5", "jetson-nano", "jetson-tx2", "jetson-xavier", "jetson-orin", "rpi-zero2w"):
        assert "LANES16" in load_board(name).costs, f"{name}: a layout that takes every product"
    own = tmp_path / "mine.toml"
    text = (Path(__file__).parents[2] / "bvtdeploy/boards/generic.toml").read_text()
    own.write_text(text + "\n[bgemm]\nlanes16 = [12, 500]\nlut = [8, 500.5, 300]\n")
    assert load_board(own).costs == {"LANES16": Cost(0.012, 0.5), "LUT": Cost(0.008, 0.5005, 0.3)}
    own.write_text(text + '\n[bgemm]\nlanes = [1, 2]\ncsa = [1]\ntbl2 = [1, "x"]\nlut = [1, -2]\n')
    with pytest.raises(UserError) as caught:
        load_board(own)
    for part in ("bgemm.lanes is unknown (did you mean lanes16", "bgemm.csa must be", "bgemm.tbl2 must be", "bgemm.lut must be"):
        assert part in caught.value.why


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = = 1"])
def test_a_board_file_that_cannot_be_read(content: bytes, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    with pytest.raises(UserError, match="no such board file"):
        load_board(own)
    own.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_board(own)
