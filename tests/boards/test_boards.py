from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bvtdeploy.boards import Board, all_boards, board_names, load_board
from bvtdeploy.errors import UserError
from bvtdeploy.lower.weights import Cost

ARM = [board for board in all_boards() if not board.native]


def test_every_board_file_loads() -> None:
    assert {"generic", "host", "rpi3", "rpi4", "rpi5", "rpi-zero2w", "jetson-nano", "jetson-orin"} <= set(board_names())
    assert [board.name for board in all_boards()] == board_names()


@pytest.mark.parametrize("board", ARM, ids=lambda board: board.name)
def test_gcc_knows_the_core(board: Board, cross_gcc: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [cross_gcc, *board.flags, "-Werror", "-dM", "-E", "-x", "c", "-"], input="", capture_output=True, text=True, check=True
    )
    for feature, macro in (("dotprod", "__ARM_FEATURE_DOTPROD"), ("crc", "__ARM_FEATURE_CRC32"), ("lse", "__ARM_FEATURE_ATOMICS")):
        assert (feature in board.features) == (macro in done.stdout), feature


@pytest.mark.parametrize("board", ARM, ids=lambda board: board.name)
def test_zig_spells_the_core_with_underscores(board: Board) -> None:
    assert board.zig_flags == ("-mcpu=" + board.core.replace("-", "_"),)


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
    own.write_text('title = 3\nsock = "x"\nfeatures = ["a", 1]\ncores = -1\ncaches = 4\n[toolchain]\nflag = []\n')
    with pytest.raises(UserError) as caught:
        load_board(own)
    why = caught.value.why
    expected = (
        "title must be a string",
        "sock is unknown (did you mean soc",
        "features must be a list of strings",
        "cores must be a whole number",
    )
    for part in (*expected, "caches must be a table", "toolchain.flag is unknown", "toolchain.flags is missing", "core is missing"):
        assert part in why


def test_costs_of_layouts(tmp_path: Path) -> None:
    assert load_board("generic").costs == {} and load_board("host").costs == {}
    for name in ("rpi3", "rpi4", "rpi5", "jetson-nano", "jetson-orin", "rpi-zero2w"):
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
