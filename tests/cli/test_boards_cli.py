"""`bvtdeploy boards show`, and the board files of users."""

from __future__ import annotations

from pathlib import Path

from commands import call, call_json


def test_a_board_is_explained(tmp_path: Path) -> None:
    told = call_json("boards", "show", "rpi5")
    assert told["board"]["machine"] == "aarch64" and told["emulate"] == "qemu:cortex-a76"
    for layout in told["layouts"]:  # what is taken has the fewest cycles
        assert layout["cycles"][layout["layout"]] == min(layout["cycles"].values())
    code, out, _ = call("boards", "show", "jetson-tx2")
    assert code == 0 and "4 cortex-a57 at 2035 MHz + 2 denver2" in out and "Denver 2 cores are off" in out
    own = tmp_path / "mine.toml"
    own.write_text((Path(__file__).parents[2] / "bvtdeploy/boards/generic.toml").read_text())
    assert "mine: Any 64-bit ARM" in call("boards", "show", str(own))[1]
    assert call("boards", "show", "rip4")[0] == 2
