"""Comparing profiles: differences that are there are found, others are not, and doubts are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports import made_profile

from bvtdeploy import api
from bvtdeploy.errors import UserError
from bvtdeploy.profile.compare import compare, left_out, pair_up, ratio_of_means, ratio_of_medians
from bvtdeploy.profile.html import report


def test_the_same_profile_shows_no_difference() -> None:
    found = compare(made_profile(), made_profile())
    assert found.comparable
    assert [t.verdict for t in found.totals] == ["same", "same"]
    assert {op.verdict for op in found.ops} == {"same"}
    assert found.notes == ()


def test_a_faster_op_is_found() -> None:
    found = compare(made_profile(), made_profile(faster=("v1", 0.5), scale=0.9, seed=1))
    assert [t.verdict for t in found.totals] == ["faster", "faster"]
    first = found.ops[0]
    assert (first.name, first.verdict) == ("v1", "faster")
    assert first.low is not None and first.high is not None
    assert 0.49 < first.low < first.ratio < first.high < 0.51
    assert first.delta_ms == pytest.approx(-0.5 * first.before_ms, rel=0.02)
    assert {op.verdict for op in found.ops[1:]} == {"same"}


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"emulated": True}, "the second is emulated"),
        ({"stable": False, "unstable_because": ["throttled", "hot"]}, "the second is unstable: throttled (and 1 more reasons)"),
    ],
)
def test_what_cannot_be_compared(change: dict[str, Any], because: str) -> None:
    found = compare(made_profile(), made_profile(scale=0.5) | change)
    assert not found.comparable and found.because[0].startswith(because)
    assert {t.verdict for t in found.totals} == {op.verdict for op in found.ops} == {"cannot tell"}


def test_differences_besides_are_noted() -> None:
    before, after = made_profile(), made_profile() | {"device": "pi@four", "board": "rpi4", "isa": "neon2", "model_sha256": "1"}
    before["environment"]["before"] |= {"governor": ["performance"]}
    after["environment"] = {"before": {**after["environment"]["before"], "governor": ["ondemand"], "model": "Pi 4"}, "after": {}}
    notes = " | ".join(compare(before, after).notes)
    for text in (
        "the artifacts differ",
        "devices differ",
        "kernels differ",
        "machines differ",
        "governors differ: performance and",
    ):
        assert text in notes


def test_other_models_and_threads() -> None:
    other = made_profile()
    other["ops"] = [op | {"name": op["name"].replace("v2", "w2")} for op in other["ops"]]
    found = compare(made_profile(), other)
    assert found.only_before == ("v2",) and found.only_after == ("w2",)
    assert "the models differ" in found.notes[0]
    other["scaling"] = [t | {"threads": 8} for t in other["scaling"]]
    assert "no number of threads in common" in compare(made_profile(), other).because[0]


def test_too_few_runs_cannot_tell() -> None:
    few = made_profile(runs=3)
    found = compare(few, few)
    assert {t.verdict for t in found.totals} == {"cannot tell"} and found.totals[0].low is None


@given(st.floats(0.3, 3.0), st.integers(0, 2**32 - 1))
def test_intervals_hold_the_true_ratio_of_quiet_times(ratio: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(1, 0.002, (2, 200))
    found = ratio_of_medians(noise[0].tolist(), (ratio * noise[1]).tolist())
    assert found.low is not None and found.high is not None
    assert found.low <= found.ratio <= found.high
    assert found.low == pytest.approx(ratio, rel=0.01) and found.high == pytest.approx(ratio, rel=0.01)
    assert found.verdict == ("faster" if ratio < 0.97 else "slower" if ratio > 1.03 else found.verdict)


def test_profiles_of_several_devices_are_paired() -> None:
    a, b = made_profile() | {"device": "a"}, made_profile() | {"device": "b"}
    assert pair_up([a, b], [b]) == [(b, b)]
    with pytest.raises(UserError, match="no device in common"):
        pair_up([a, a], [b])
    c = made_profile() | {"device": "c"}
    assert left_out([a, b], [b, c]) == ("only the first file has a: not compared", "only the second file has c: not compared")
    assert left_out([a, b], [b, a]) == left_out([a], [c]) == ()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"[]", "not of type"),
        (b"{}", "required"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": NaN}', "NaN is no number of a profile"),
        (b'{"a": 1e999}', "1e999 is no number of a profile"),
        (b"1" + b"0" * 5000, "is no number of a profile"),
    ],
)
def test_what_is_no_profile_is_refused(content: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match="this is no profile") as caught:
        api.compare(file, file)
    assert why in caught.value.why


def test_files_are_read(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    file.write_text(json.dumps({"bvtdeploy": "0", "ok": True, "warnings": [], **made_profile()}))
    assert api.compare(file, file).pairs[0].comparable
    with pytest.raises(UserError, match="cannot be read"):
        api.compare(file, tmp_path / "none.json")


def written(profiles: list[dict[str, Any]], path: Path) -> Path:
    head = profiles[0] if len(profiles) == 1 else {"profiles": profiles, "failed": []}
    path.write_text(json.dumps({"bvtdeploy": "0", "ok": True, "warnings": [], **head}))
    return path


def test_devices_of_one_file_alone_are_named(tmp_path: Path) -> None:
    a, b, c = (made_profile() | {"device": name} for name in "abc")
    files = written([a, b], tmp_path / "1.json"), written([b, c], tmp_path / "2.json")
    found = api.compare(*files)
    assert [pair.before["device"] for pair in found.pairs] == ["b"]
    assert found.warnings == ("only the first file has a: not compared", "only the second file has c: not compared")


def test_an_op_that_took_no_time_before(tmp_path: Path) -> None:
    before = made_profile()
    before["ops"][0]["ms"] = 0.0
    for timing in before["scaling"]:
        timing["ops_ms"][0] = 0.0
        timing["op_blocks_ms"] = [[0.0, *block[1:]] for block in timing["op_blocks_ms"]]
    found = api.compare(written([before], tmp_path / "1.json"), written([made_profile()], tmp_path / "2.json")).pairs[0]
    op = next(op for op in found.ops if op.name == "v0")
    assert (op.before_ms, op.ratio, op.low, op.verdict) == (0, None, None, "cannot tell")
    assert "from 0" in report([before], [found.as_dict()])
    assert (ratio_of_means([0.0], [0.0], 0, 0).ratio, ratio_of_medians([0, 0, 0, 0, 0], [1]).ratio) == (1, None)


def _change(timing: dict[str, Any], **new: Any) -> None:
    timing |= new


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda p: _change(p["scaling"][1], samples_ms=[]), "scaling/1/samples_ms"),
        (lambda p: _change(p["scaling"][0], samples_ms=[0.0] * 100), "scaling/0/samples_ms/"),
        (lambda p: _change(p, ops=[]), "ops: "),
        (lambda p: p["scaling"][1]["ops_ms"].pop(), "with 2 threads it does not have a time for each of the 8 ops"),
        (lambda p: p["scaling"][0]["op_blocks_ms"][3].pop(), "with 1 threads it does not have a time for each of the 8 ops"),
    ],
)
def test_a_profile_that_lacks_times_is_refused(spoil: Callable[[dict[str, Any]], Any], why: str, tmp_path: Path) -> None:
    profile = made_profile()
    spoil(profile)
    with pytest.raises(UserError, match="this is no profile") as caught:
        api.compare(written([profile], tmp_path / "p.json"), tmp_path / "p.json")
    assert why in caught.value.why
