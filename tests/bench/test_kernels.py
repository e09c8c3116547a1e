"""Kernels by themselves, counted and modelled beside their bounds."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from commands import call

from bvtdeploy import api, views
from bvtdeploy.bench import counting, kernels
from bvtdeploy.bench.a64 import GROUPS
from bvtdeploy.bench.cores import find_core
from bvtdeploy.build.sources import runtime_folder
from bvtdeploy.console import Console
from bvtdeploy.errors import UserError
from bvtdeploy.schemas import schema

CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
TABLE: dict[str, Any] = tomllib.loads((Path(kernels.__file__).parent / "bounds.toml").read_text(encoding="utf-8"))


def test_every_case_has_a_bound_on_every_core() -> None:
    for case in TABLE["case"]:
        assert ("cycles" in case) != ("needs" in case)
        assert all(text.partition("/")[0] in GROUPS for text in case.get("needs", {}))
        assert all(kernels.bound_of(case, find_core(core)) > 0 for core in CORES)
    assert set(TABLE["bgemm"]["cores"]) == set(CORES)


def test_every_element_wise_case_of_the_program_has_a_bound() -> None:
    source = (runtime_folder() / "bench" / "bench_kernels.c").read_text(encoding="utf-8")
    cases = set(re.findall(r'^    \{"([a-z0-9-]+)", \w+\},$', source, re.MULTILINE))
    assert {case["name"] for case in TABLE["case"]} == cases - {"patches", "dense", "dense-i8", "mixed-gemm", "bgemm"}


def test_a_bound_is_what_its_instructions_take() -> None:
    a76 = find_core("cortex-a76")
    assert kernels.bound_of({"elements": 4, "needs": {"load": 4, "fp": 1}}, a76) == 2 / 4  # 4 loads of two pipes
    assert kernels.bound_of({"elements": 4, "needs": {"load": 1, "fp": 6}}, a76) == 3 / 4
    assert kernels.bound_of({"elements": 1, "needs": {"store/half": 2}}, find_core("cortex-a72")) == 2
    assert kernels.bound_of({"cycles": {"cortex-a72": 1.5}}, find_core("cortex-a57")) == 1.5


@pytest.fixture(scope="module")
def counting_tools(cross_gcc: str) -> str:
    try:
        return counting.find_counting_qemu()
    except UserError as error:
        pytest.skip(str(error.why))


def test_kernels_on_an_emulated_board(counting_tools: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = api.bench_kernels(["rpi4"], cases=["multiply", "attention-197"])
    told = json.loads(json.dumps(found.as_dict()))
    jsonschema.validate({"bvtdeploy": "", "ok": True, "warnings": [], **told}, schema("bench"))
    (board,) = found.boards
    assert [e.case for e in board.elements] == ["attention-197 (softmax)", "attention-197", "multiply"]
    assert not board.products
    softmax, attention, multiply = board.elements
    assert 0 < softmax.cycles < attention.cycles
    assert multiply.bound == pytest.approx(8 / 3 / 4)  # two loads, a product and a store of 128 bits: 8 slots of three a cycle
    assert multiply.bound <= multiply.cycles < 4 * multiply.bound
    assert multiply.ratio == pytest.approx(multiply.cycles / multiply.bound)
    views.show_kernels(Console(as_json=False), found)
    assert "cycles are MODELLED; no board was measured" in capsys.readouterr().out


def test_binary_products_are_below_their_bound(counting_tools: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels._bounds()["bgemm"], "rows", [49])
    monkeypatch.setitem(kernels._bounds()["bgemm"], "k", [192])
    (board,) = api.bench_kernels(["rpi4"], cases=["bgemm"]).boards
    assert {p.layout for p in board.products} == {"lanes16", "csa", "tbl2", "lut", "lanes16-trits", "lut-trits"}
    assert all(10 < p.macs_a_cycle < p.bound for p in board.products)


def test_products_are_shown_wherever_a_core_has_some(capsys: pytest.CaptureFixture[str]) -> None:
    product = kernels.ProductKernel("csa", 49, 192, 64, 20.0, 40.0, None, 0.9)
    boards = [kernels.BoardKernels(name, "cortex-a72", "", "gcc", 1.5, (), own) for name, own in (("a", ()), ("b", (product,)))]
    views.show_kernels(Console(as_json=False), kernels.Kernels(tuple(boards), "rates: none"))
    assert "20.0" in capsys.readouterr().out


def test_what_kernels_do_not_go_with() -> None:
    assert "takes no artifact" in call("bench", "x.bvt", "--kernels")[2]
    assert "give an artifact, or --kernels" in call("bench")[2]
    assert "--cases is for --kernels" in call("bench", "x.bvt", "--cases", "gelu")[2]
    with pytest.raises(UserError, match="no such kernel case"):
        api.bench_kernels(["rpi4"], cases=["softmax"])
