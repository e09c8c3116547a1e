"""Counted instructions and modelled times."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from bvtdeploy import api, views
from bvtdeploy.bench import modelled
from bvtdeploy.bench.a64 import COUNTED
from bvtdeploy.console import Console
from bvtdeploy.errors import UserError
from bvtdeploy.schemas import schema


def test_a_piece_takes_the_most_of_slots_and_pipes() -> None:
    a72, a76 = modelled.find_core("cortex-a72"), modelled.find_core("cortex-a76")
    product = [("alu", True), ("cnt", True), ("alu", True)]  # xor, count and add of 128 bits
    assert a72.cycles(product) == 2  # 4 of two pipes, and 6 slots of 3: 64 products a cycle
    assert a76.cycles(product) == 1.5  # 3 of two pipes: 85.3
    assert modelled.find_core("cortex-a53").cycles(product) == 3  # 42.7
    assert a72.cycles([("fmla", True)] * 4) == 4
    assert a76.cycles([("fmla", True)] * 4) == 2
    assert a72.cycles([("store", True)]) == 2
    assert a76.cycles([("int", False)] * 8) == pytest.approx(8 / 3)


def test_the_least_cycles_are_of_vector_arithmetic() -> None:
    counts = {"simd": 300.0, "fmla": 150.0}
    assert modelled.find_core("cortex-a72").least(counts) == 150 / 1.5 + 150
    assert modelled.find_core("cortex-a76").least(counts) == 150


def test_a_core_may_stand_for_another() -> None:
    core = modelled.find_core("cortex-a57")
    assert core.name == "cortex-a72"
    assert "cortex-a72 for cortex-a57" in core.stands_for
    with pytest.raises(UserError, match="no model of the core 'cortex-m4'"):
        modelled.find_core("cortex-m4")


def test_what_a_core_cannot_run_is_no_model_of_it() -> None:
    with pytest.raises(UserError, match="the model of cortex-a72 does not fit"):
        modelled.find_core("cortex-a72").cycles([("dot", True)])


def test_the_peers_counts_are_whole() -> None:
    rows = tomllib.loads((Path(modelled.__file__).parent / "peers.toml").read_text())["peer"]
    assert len(rows) == len({(r["model"], r["core"], r["name"], r["precision"]) for r in rows})
    for row in rows:
        n = row["millions"]
        assert set(n) == {"total", *COUNTED}
        assert n["simd"] + n["vldst"] + n["ldst"] + n["branch"] + n["int"] == pytest.approx(n["total"], abs=0.5)
        assert n["fmla"] + n["dot"] + n["cnt"] <= n["simd"]


@pytest.fixture(scope="module")
def counting(cross_gcc: str) -> str:
    try:
        return modelled.find_counting_qemu()
    except UserError as error:
        pytest.skip(str(error.why))


def test_modelled_on_an_emulated_board(counting: str, nano: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = api.bench(nano, against=(), boards=["rpi4"], like="deit_tiny")
    told = json.loads(json.dumps(result.as_dict()))
    jsonschema.validate({"bvtdeploy": "", "ok": True, "warnings": [], **told}, schema("bench"))
    assert told["measured"] is None
    (board,) = told["modelled"]["boards"]
    n = board["counts"]
    assert n["simd"] + n["vldst"] + n["ldst"] + n["branch"] + n["int"] == n["total"]
    assert sum(f["instructions"] for f in board["functions"]) == n["total"]
    assert sum(f["cycles"] for f in board["functions"]) == pytest.approx(board["cycles"])
    # One count takes 128 of the 1.26 M binary products: none is missed, and nothing of the start is in.
    assert 1_262_592 / 128 <= n["cnt"] < n["total"] < 5_000_000
    assert {"bvt_bgemm_neon", "bvt_attention_neon"} <= {f["name"] for f in board["functions"]}
    assert board["ms"] == pytest.approx(board["cycles"] / 1.8e6)
    assert board["ms"] >= board["least_ms"]
    peers = {(p["name"], p["precision"]): p for p in board["peers"]}
    assert peers["LiteRT", "int8 dynamic"]["least_mcycles"] == pytest.approx((350.6 - 52.7) / 1.5 + 52.7)
    assert peers["LiteRT", "int8 dynamic"]["ratio"] == pytest.approx(251.3 / 1.8 / board["ms"], rel=1e-3)
    views.show_bench(Console(as_json=False), result)
    out = capsys.readouterr().out
    assert "times are MODELLED; no board was measured" in out
    assert "theirs are lower bounds" in out


def test_peers_are_shown_of_the_same_shape_alone(nano: Path) -> None:
    name, why = modelled._known(nano, None, {"deit_tiny"})
    assert (name, why) == ("", "peers were counted for deit_tiny alone, and this network has another shape")
    assert modelled._known(nano, "deit_base", {"deit_tiny"}) == ("", "no peers were counted for deit_base")
