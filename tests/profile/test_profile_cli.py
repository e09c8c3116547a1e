"""`bvtdeploy profile` and `compare`: exit codes, files, several devices."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from reports import made_profile

from bvtdeploy.profile import measure
from bvtdeploy.profile.stability import Verdict
from bvtdeploy.schemas import schema

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cli"))
from commands import call, call_json

QUICK = ("--runs", "3", "--warmup", "0")


def test_files_are_written_and_compared(artifact: Path, tmp_path: Path) -> None:
    out, trace, html = (tmp_path / name for name in ("p.json", "t.json", "r.html"))
    told = call_json("profile", artifact, *QUICK, "--verify", "--output", out, "--trace", trace, "--html", html)
    assert json.loads(out.read_text()) == told
    assert told["golden"]["checked"] > 0
    assert json.loads(trace.read_text())["traceEvents"]
    assert html.read_text().startswith("<!DOCTYPE html>")
    compared = tmp_path / "c.html"
    pair = call_json("compare", out, out, "--html", compared)["comparisons"][0]
    assert pair["totals"][0]["verdict"] == "cannot tell"  # three runs are too few
    assert "Comparison" in compared.read_text()
    code, text, _ = call("compare", out, out, "--ops", "2")
    assert code == 0 and "too few runs" in text and "more ops with smaller differences" in text


def test_several_devices(artifact: Path, emulator: str, tmp_path: Path) -> None:
    devices = ("--device", "local", "--device", "qemu:cortex-a53", "--device", "qemu:none")
    told = call_json("profile", artifact, *QUICK, *devices, "--html", tmp_path / "r.html", code=1)
    assert [p["device"] for p in told["profiles"]] == ["local", "qemu:cortex-a53"]
    assert [(f["device"], f["error"]["what"]) for f in told["failed"]] == [("qemu:none", "QEMU has no core 'none'")]
    assert (tmp_path / "r.html").read_text().count('class="profile"') == 2
    told = call_json("profile", artifact, *QUICK, "--device", "qemu:none", "--device", "qemu:nil", code=2)
    assert told["profiles"] == [] and len(told["failed"]) == 2
    code, text, _ = call("profile", artifact, *QUICK, "--device", "local", "--device", "qemu:none", "--ops", "1")
    assert code == 1 and "all devices" in text and "QEMU has no core 'none'" in text


def test_an_unstable_run_exits_with_1_unless_allowed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    throttled = Verdict(["the board reports: throttled"], ["the governor is ondemand"])
    monkeypatch.setattr(measure.stability, "judge_environment", lambda *_: throttled)
    told = call_json("profile", artifact, *QUICK, code=1)
    assert not told["stable"] and told["unstable_because"] == ["the board reports: throttled"]
    assert told["notes"][0] == "the governor is ondemand"
    assert call_json("profile", artifact, *QUICK, "--allow-unstable")["stable"] is False
    code, text, _ = call("profile", artifact, *QUICK)
    assert code == 1 and "unstable: the board reports: throttled" in text and "--allow-unstable" in text
    monkeypatch.setattr(measure.stability, "judge_environment", lambda *_: Verdict([], ["a note"]))
    assert call_json("profile", artifact, *QUICK)["notes"][0] == "a note"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--cpu", "huge"), "give big, little, all, or a list"),
        (("--output", "/nowhere/p.json"), "there is no folder /nowhere"),
        (("--html", "."), "is a folder"),
        (("--device", "local", "--device", "qemu:cortex-a53", "--trace", "t.json"), "--trace is of one device"),
        (("--output", "/dev/null"), "is no ordinary file"),
        (("--cpu", "0-9999999999"), "give big, little, all, or a list"),
        (("--runs", "9" * 5000), "give a number from 1 to"),
        (("--threads", "1," + "9" * 5000), "threads go from 1 to 64"),
        (("--timeout", "0"), "--timeout"),
    ],
)
def test_wrong_use_is_said_before_any_work(options: tuple[str, ...], text: str, artifact: Path) -> None:
    assert text in call_json("profile", artifact, *options, code=2)["error"]["what"]


def test_no_result_takes_the_place_of_what_is_read_or_of_another(artifact: Path, tmp_path: Path) -> None:
    model, both = tmp_path / "m.bvt", tmp_path / "both"
    model.write_bytes(artifact.read_bytes())
    linked = tmp_path / "link"
    linked.symlink_to(model)
    for option in ("--output", "--trace", "--html"):
        assert f"{option} {model} is what is read" in call_json("profile", model, option, model, code=2)["error"]["what"]
        assert "is what is read" in call_json("profile", linked, option, model, code=2)["error"]["what"]
    told = call_json("profile", model, "--output", both, "--html", tmp_path / "." / "both", code=2)
    assert "is also the file of --output" in told["error"]["what"]
    assert "is what is read" in call_json("tune", model, "-o", model, code=2)["error"]["what"]
    assert "is what is read" in call_json("compare", model, both, "--html", both, code=2)["error"]["what"]
    assert model.read_bytes() == artifact.read_bytes() and not both.exists()


def test_a_program_that_takes_too_long_is_ended(artifact: Path) -> None:
    told = call_json("profile", artifact, "--runs", "10000000", "--timeout", "1", code=2)["error"]
    assert told["what"] == "the program did not finish on local within 1 s" and "--timeout" in told["fix"]


@pytest.mark.parametrize("change", [{"ops": 3}, {"stable": "yes"}, {"environment": {}}, {"unknown": 1}])
def test_the_schema_can_say_no(change: dict[str, Any]) -> None:
    good = {"bvtdeploy": "0", "ok": True, "warnings": [], **made_profile()}
    jsonschema.validate(good, schema("profile"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**good, **change}, schema("profile"))
