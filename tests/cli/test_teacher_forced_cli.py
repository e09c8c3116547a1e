"""`verify --teacher-forced` and `models check`, and what `verify` says about parameters that are stored smaller."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from commands import call, call_json

from bvtdeploy.compiler import compile_model
from bvtdeploy.models import zoo
from bvtdeploy.schemas import schema

SMALL = "binaryvit_xiao_deit_nano"


def test_smaller_parameters_say_what_they_cost(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(zoo.checkpoint_bytes(SMALL))
    compile_model(path, tmp_path / "m.bvt", side="int8")
    code, out, _ = call("verify", path, tmp_path / "m.bvt", "--random", "2", "--teacher-forced", "--json")
    told = json.loads(out)
    jsonschema.validate(told, schema("verify"))
    assert code in (0, 1), "random weights have no margins: classes may change"
    assert told["exact"]
    assert told["side"]["kind"] == "int8"
    assert 0 < told["side"]["logit_error_mean"] <= told["side"]["logit_error_max"] < 10
    assert 0 < told["side"]["codes_changed"] < 0.5
    assert told["teacher_forced"]["ok"], "what the source compiles to in fp32"
    assert any("int8" in warning for warning in told["warnings"])


def test_models_check_prints_a_row_a_model() -> None:
    told = call_json("models", "check", SMALL, "--json")
    assert [table["model"] for table in told["checked"]] == [SMALL]
    assert told["checked"][0]["total"]["mismatches"] == 0
    call_json("models", "check", "nope", "--json", code=2)
    call_json("models", "check", SMALL, "--all", "--json", code=2)


def test_the_table_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(zoo.checkpoint_bytes(SMALL))
    compile_model(path, tmp_path / "m.bvt")
    code, out, _ = call("verify", path, tmp_path / "m.bvt", "--random", "1", "--teacher-forced")
    assert code == 0
    assert "0 wrong integers" in out
    assert all(word in out for word in ("bgemm", "attention", "norm_sign", "worst error"))
