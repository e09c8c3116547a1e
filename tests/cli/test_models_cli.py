"""`bvtdeploy models`: what there is, and files to try the compiler on."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import call, call_json

from bvtdeploy import api
from bvtdeploy.errors import UserError
from bvtdeploy.models import zoo


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models only: the others take a while to count."""
    monkeypatch.setattr(zoo, "names", lambda: ["bhvit_nano", "bivit_he_deit_nano"])


@pytest.mark.usefixtures("few")
def test_the_list() -> None:
    told = call_json("models", "--json")["models"]
    assert [model["name"] for model in told] == ["bhvit_nano", "bivit_he_deit_nano"]
    assert told == [model.as_dict() for model in api.models()]
    assert told[0]["packed_bytes"] < told[0]["parameters"] * 4
    code, out, _ = call("models")
    assert code == 0
    assert all(model["name"] in out and model["family"] in out for model in told)
    assert "models export" in out


@pytest.mark.parametrize("ending", ["pt", "pt2"])
def test_export(ending: str, tmp_path: Path) -> None:
    output = tmp_path / f"m.{ending}"
    told = call_json("models", "export", "bivit_he_deit_nano", "-o", output, "--seed", "3", "--json")
    assert told["bytes"] == output.stat().st_size
    assert (told["model"], told["seed"], told["kind"]) == ("bivit_he_deit_nano", 3, "checkpoint" if ending == "pt" else "pt2")
    assert list(tmp_path.iterdir()) == [output]
    code, out, _ = call("models", "export", "bivit_he_deit_nano", "-o", output)
    assert code == 0
    assert str(output) in out
    import torch

    loaded = torch.load(output, weights_only=True) if ending == "pt" else torch.export.load(output)
    assert loaded


def test_json_may_stand_before_the_subcommand(tmp_path: Path) -> None:
    told = call_json("models", "--json", "export", "bivit_he_deit_nano", "-o", tmp_path / "m.pt")
    assert told["file"] == str(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("arguments", "what", "fix"),
    [
        (("export", "bhvit_nan", "-o", "m.pt"), "no model named 'bhvit_nan'", "did you mean bhvit_nano"),
        (("export", "bhvit_nano", "-o", "m.onnx"), "ending says no format", ".pt2"),
        (("export", "bhvit_nano", "-o", "none/m.pt"), "no such folder", ""),
        (("export", "bhvit_nano"), "Missing option", "--help"),
        (("export", "bhvit_nano", "-o", "m.pt", "--seed", "-1"), "Invalid value", ""),
        (("exprt", "bhvit_nano"), "no command 'exprt'", ""),
    ],
)
def test_wrong_use_exits_2_and_writes_nothing(
    arguments: tuple[str, ...], what: str, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = call_json("models", *arguments, "--json", code=2)
    assert what in told["error"]["what"]
    assert fix in told["error"]["fix"]
    code, out, err = call("models", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "m.pt"
    output.write_bytes(b"before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(output))

    monkeypatch.setattr("bvtdeploy.artifact.writer.os.replace", full)
    call_json("models", "export", "bivit_he_deit_nano", "-o", output, "--json", code=2)
    assert output.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [output]


def test_the_api_refuses_the_same() -> None:
    with pytest.raises(UserError, match="no format"):
        api.export_model("bhvit_nano", "m.bin")
