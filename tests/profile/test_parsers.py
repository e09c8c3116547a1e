"""Parsers, on what boards of several generations print."""

from __future__ import annotations

import pytest
from board_samples import NVPMODEL, PI_CPU, PMIC, TEGRASTATS
from hypothesis import given
from hypothesis import strategies as st

from bvtdeploy.profile import parsers


@pytest.mark.parametrize("board", TEGRASTATS)
def test_tegrastats(board: str) -> None:
    line, heat, power = TEGRASTATS[board]
    assert parsers.tegrastats(line) == (heat, power)


@pytest.mark.parametrize("mode", NVPMODEL)
def test_nvpmodel(mode: str) -> None:
    assert parsers.nvpmodel(NVPMODEL[mode]) == mode


@pytest.mark.parametrize(
    ("told", "flags"),
    [("throttled=0x50000\n", 0x50000), ("50000\n", 0x50000), ("0\n", 0), ("0x0", 0), ("error=1", None), ("", None)],
)
def test_get_throttled(told: str, flags: int | None) -> None:
    assert parsers.get_throttled(told) == flags


def test_throttle_names() -> None:
    assert parsers.throttle_names(0b1101) == ["under-voltage", "throttled", "soft temperature limit"]


def test_rails_of_a_raspberry_pi_5() -> None:
    rails = parsers.pmic_rails(PMIC)
    assert rails.keys() == {"3V7_WL_SW", "3V3_SYS", "VDD_CORE"}  # EXT5V and BATT have no current
    assert rails["VDD_CORE"] == pytest.approx(1000 * 0.8715 * 0.7201282)


def test_rails_of_a_jetson() -> None:
    channels = {"VDD_IN": ("4984", "1016"), "NC": ("0", "0"), "sum of shunt voltages": ("1", "2"), "VDD_SOC": ("", "12")}
    assert parsers.rail_power(channels) == {"VDD_IN": pytest.approx(4984 * 1016 / 1000)}


def test_cpuinfo() -> None:
    assert parsers.cpuinfo_cores(PI_CPU) == {0: "Cortex-A72", 1: "Cortex-A72"}
    assert parsers.cpuinfo_serial(PI_CPU) == 0x10000000ABCDEF01
    assert parsers.cpuinfo_cores("processor\t: 3\nmodel name\t: AMD EPYC\nflags\t\t: a b\n") == {3: "AMD EPYC"}
    assert parsers.core_name(0x4E, 4) == "Carmel"
    assert parsers.core_name(0x41, 0xFFF) == "part 0xfff"


@pytest.mark.parametrize(
    ("told", "name"),
    [('NAME=x\nPRETTY_NAME="Debian GNU/Linux 12"\n', "Debian GNU/Linux 12"), ("PRETTY_NAME='A B'\n", "A B"), ("NAME=x\n", None)],
)
def test_os_release(told: str, name: str | None) -> None:
    assert parsers.os_release(told) == name


def test_zones_with_one_name_and_nonsense() -> None:
    zones = [("cpu", "40000"), ("cpu", "41000"), ("off", "-256000"), ("PMIC-Die", "100000"), ("busy", "")]
    assert parsers.temperatures(zones) == {"cpu": 40.0, "cpu 2": 41.0}


@given(st.sets(st.integers(0, 300), min_size=1))
def test_core_lists(cores: set[int]) -> None:
    assert parsers.core_list(",".join(map(str, sorted(cores)))) == sorted(cores)
    assert parsers.core_list(f"{min(cores)}-{max(cores)}") == list(range(min(cores), max(cores) + 1))


@given(st.text())
def test_no_text_breaks_a_parser(text: str) -> None:
    parsers.tegrastats(text)
    parsers.nvpmodel(text)
    parsers.get_throttled(text)
    parsers.pmic_rails(text)
    parsers.cpuinfo_cores(text)
    parsers.cpuinfo_serial(text)
    parsers.core_list(text)
    parsers.os_release(text)
    parsers.last_line(text)
    parsers.integer(text)
    parsers.temperatures([(text, text)])
    parsers.rail_power({text: (text, text)})


HUGE = "9" * 400


def test_numbers_that_nothing_has() -> None:
    for cores in ("0-9999999999", f"{HUGE}", "4096", "3-1", "-1", "1-", "٣", "0-3;6"):
        assert parsers.core_list(cores) is None
    assert parsers.core_list("0-4095,0-4095") == list(range(4096))
    assert parsers.pmic_rails("A_A current(1)=1.2.3A\nA_V volt(2)=1.5V\nB_A current(3)=2A\nB_V volt(4)=1.5V\n") == {"B": 3000.0}
    assert parsers.pmic_rails(f"A_A current(1)={HUGE}A\nA_V volt(2)=1.5V\n") == {}
    assert parsers.rail_power({"VDD": (HUGE, HUGE)}) == {}
    assert parsers.tegrastats(f"cpu@{HUGE}C VDD_IN {HUGE}mW/{HUGE}mW") == ({}, {})
    assert parsers.get_throttled(HUGE) is None and parsers.integer(HUGE) is None
