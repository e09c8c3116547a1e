"""Choosing layouts by their times, and compiling with what was chosen."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from commands import call_json

from bvtdeploy import api
from bvtdeploy.artifact.reader import read
from bvtdeploy.bench.tune import ONE_LAYOUT, choose_layouts, load_tuning, products
from bvtdeploy.boards.machines import this_machine
from bvtdeploy.errors import UserError
from bvtdeploy.lower.weights import Product

SMALL, LARGE = Product(18, 64, 64), Product(18, 64, 128)


def test_every_shape_gets_its_fastest_layout() -> None:
    # Ops 0 and 2 are of the small shape, 1 of the large one; op 3 has groups and so no choice, op 4 is no product.
    default = {0: (SMALL, "LANES16"), 1: (LARGE, "LANES16"), 2: (SMALL, "LANES16"), 3: (SMALL, "LANES16")}
    csa = {0: (SMALL, "CSA"), 1: (LARGE, "CSA"), 2: (SMALL, "CSA"), 3: (SMALL, "LANES16")}
    samples = {
        "LANES16": [(10, 40, 20, 99, 5), (11, 41, 21, 99, 5), (500, 42, 22, 99, 5)],  # one round was disturbed
        "CSA": [(12, 20, 24, 1, 5), (12, 20, 24, 1, 5), (12, 20, 24, 1, 5)],
    }
    large, small = choose_layouts({"LANES16": default, "CSA": csa}, samples)
    assert (large.product, large.ops, large.layout, large.ns) == (LARGE, 1, "CSA", {"LANES16": 41, "CSA": 20})
    assert (small.product, small.ops, small.layout, small.ns) == (SMALL, 2, "LANES16", {"LANES16": 16, "CSA": 18})


def test_a_layout_must_be_clearly_faster_than_the_default() -> None:
    made = {"LANES16": {0: (SMALL, "LANES16")}, "LUT": {0: (SMALL, "LUT")}}
    (close,) = choose_layouts(made, {"LANES16": [(100,)], "LUT": [(99,)]})
    (clear,) = choose_layouts(made, {"LANES16": [(100,)], "LUT": [(97,)]})
    assert (close.layout, clear.layout) == ("LANES16", "LUT")


def test_where_there_is_one_layout_all_shapes_get_it() -> None:
    default = {0: (SMALL, "LANES16"), 1: (LARGE, "LANES16")}
    large, small = choose_layouts({"LANES16": default}, {"LANES16": [(10, 40)]})
    assert [(c.product, c.layout, c.ns) for c in (large, small)] == [
        (LARGE, "LANES16", {"LANES16": 40}),
        (SMALL, "LANES16", {"LANES16": 10}),
    ]


def test_compile_takes_a_tuning_file(nano: Path, nano_source: Path, tmp_path: Path) -> None:
    tuning = tmp_path / "tuning.toml"
    tuning.write_text('format = 1\n[[product]]\nrows = 18\ncols = 64\noutputs = 128\nlayout = "csa"\n')
    tuned = tmp_path / "tuned.bvt"
    call_json("compile", nano_source, "-o", tuned, "--tuning", tuning)
    before, after = products(read(nano)), products(read(tuned))
    assert {got for product, got in after.values() if product == LARGE} == {"CSA"}
    assert {product for product, got in after.values() if got == "CSA"} == {LARGE}
    assert {op: product for op, (product, _) in before.items()} == {op: product for op, (product, _) in after.items()}
    # The golden outputs come from the interpreter, which knows no layouts.
    assert [y.tobytes() for _, y in read(tuned).golden] == [y.tobytes() for _, y in read(nano).golden]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "format = 2",
        "format = 1\nproduct = 3",
        'format = 1\n[[product]]\nrows = 18\ncols = 64\nlayout = "csa"',
        'format = 1\n[[product]]\nrows = 0\ncols = 64\noutputs = 8\nlayout = "csa"',
        'format = 1\n[[product]]\nrows = 18\ncols = 64\noutputs = 8\nlayout = "rows"',
        'format = 1\n[[product]]\nrows = 18\ncols = 40000\noutputs = 8\nlayout = "csa"',
        'format = 1\n[[product]]\nrows = 18\ncols = 64\noutputs = 8\ntrits = true\nlayout = "csa"',
        'format = 1\n[[product]]\nrows = 18\ncols = 64\noutputs = 8\ntrits = 1\nlayout = "tbl2"',
        "format = ",
    ],
)
def test_damaged_tuning_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(UserError, match="tuning file"):
        load_tuning(tmp_path / "t.toml")


def test_products_of_trits_are_of_their_own(tmp_path: Path) -> None:
    text = 'format = 1\n[[product]]\nrows = 18\ncols = 64\noutputs = 8\nlayout = "csa"\n'
    (tmp_path / "t.toml").write_text(text + text.replace("format = 1\n", "").replace("csa", "tbl2") + "trits = true\n")
    assert load_tuning(tmp_path / "t.toml") == {Product(18, 64, 8): "CSA", Product(18, 64, 8, True): "TBL2"}


def test_emulated_devices_are_refused(nano_source: Path, tmp_path: Path, emulator: str) -> None:
    with pytest.raises(UserError, match="an emulated device cannot be tuned for"):
        api.tune(nano_source, tmp_path / "t.toml", device="qemu:cortex-a72")
    assert list(tmp_path.iterdir()) == []


def test_tune_on_this_machine(nano_source: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.toml"
    told = call_json("tune", nano_source, "-o", output, "--rounds", "1")
    shapes = [Product(p["rows"], p["cols"], p["outputs"], p["trits"]) for p in told["products"]]
    assert {shape: p["ops"] for shape, p in zip(shapes, told["products"], strict=True)} == {
        SMALL: 6,
        LARGE: 2,
        Product(18, 64, 64, True): 2,
        Product(18, 128, 64, True): 2,
    }
    several = this_machine() == "aarch64"
    for product in told["products"]:
        able = {"lanes16", "tbl2", "lut"} if product["trits"] else {"lanes16", "csa", "tbl2", "lut"}
        assert set(product["ns"]) == (able if several else {"lanes16"})
        assert min(product["ns"].values()) > 0
    assert told["gain"] >= 1
    assert told["notes"] == ([] if several else [ONE_LAYOUT]) and ONE_LAYOUT not in told["unstable_because"]
    assert several or ({p["layout"] for p in told["products"]} == {"lanes16"} and told["gain"] == 1)
    assert (f"# {ONE_LAYOUT}\n" in output.read_text()) != several
    written = load_tuning(output)
    assert written == {shape: p["layout"].upper() for shape, p in zip(shapes, told["products"], strict=True)}
    assert tomllib.loads(output.read_text())["isa"] == told["isa"]
