"""The environment record of boards, and what is read between the runs. Their files are given; over SSH: test_over_ssh.py."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from board_samples import NVPMODEL, ORIN, PI4, PMIC, TEGRASTATS
from given_device import Given

from bvtdeploy.device.base import Look
from bvtdeploy.profile import environment
from bvtdeploy.profile.environment import look, read_environment
from bvtdeploy.profile.power import energy
from bvtdeploy.schemas import schema


def valid(record: dict[str, Any]) -> dict[str, Any]:
    definitions = schema("profile")["$defs"]
    jsonschema.validate(record, {**definitions["environment"], "$defs": definitions})
    for name, value in record.items():
        assert (value is None) == (name in record["unavailable"]) or name in ("emulated", "unavailable"), name
    return record


def test_a_raspberry_pi() -> None:
    device = Given(PI4, {"getconf PAGESIZE": "4096\n"})
    record = valid(read_environment(device))
    assert record["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert (record["governor"], record["khz"], record["max_khz"]) == (["ondemand"], [600000], [1800000])
    assert record["policies"][0]["cores"] == [0, 1, 2, 3]
    assert (record["temperature_c"], record["throttled"], record["load"]) == (48.312, 0x50000, 0.1)
    assert record["throttle"] == {"now": [], "since_start": ["under-voltage", "throttled"]}
    assert (record["os"], record["page_bytes"]) == ("Debian GNU/Linux 12 (bookworm)", 4096)
    assert record["core_kinds"] == [{"core": "Cortex-A72", "cores": [0, 1], "capacity": None}]
    assert record["emulated"] is None
    assert device.asked == ["getconf PAGESIZE"]  # what /sys tells needs no program


def test_flags_and_rails_of_a_raspberry_pi_5_come_from_vcgencmd() -> None:
    files = {path: data for path, data in PI4.items() if "throttled" not in path and "hwmon" not in path}
    files["/sys/firmware/devicetree/base/model"] = b"Raspberry Pi 5 Model B Rev 1.0\0"
    programs = {"vcgencmd get_throttled": "throttled=0x4\n", "vcgencmd pmic_read_adc": PMIC}
    record = valid(read_environment(Given(files, programs)))
    assert record["throttle"] == {"now": ["throttled"], "since_start": []}
    assert set(record["rails_mw"]) == {"3V7_WL_SW", "3V3_SYS", "VDD_CORE"}


def test_a_jetson() -> None:
    line = TEGRASTATS["orin-nano"][0]
    programs = {"nvpmodel -q": NVPMODEL["MODE_15W_6CORE"], "timeout 1.5 tegrastats --interval 500": f"{line}\n{line}\n"}
    record = valid(read_environment(Given(ORIN, programs)))
    assert record["power_mode"] == "MODE_15W_6CORE"
    assert record["tegrastats"] == line
    assert record["temperatures_c"] == {"cpu-thermal": 50.5, "gpu-thermal": 61.0}
    assert record["temperature_c"] == 50.5  # the CPU's, not the hottest
    assert record["rails_mw"] == {"VDD_IN": pytest.approx(5063.7, abs=0.1), "VDD_SOC": pytest.approx(1512.7, abs=0.1)}
    assert record["events"] == {"oc1": 0, "oc3": 7}
    assert record["cores_offline"] == [4, 5]


def test_without_rails_in_sys_a_jetson_is_read_by_tegrastats() -> None:
    files = {path: data for path, data in ORIN.items() if "hwmon1" not in path and "thermal_zone" not in path}
    record = valid(read_environment(Given(files, {"timeout 1.5 tegrastats --interval 500": TEGRASTATS["nano"][0]})))
    assert record["rails_mw"]["POM_5V_IN"] == 2198
    assert record["temperature_c"] == 37


def test_rails_of_jetpack_4() -> None:
    folder = "/sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    files = {f"{folder}/rail_name_0": b"POM_5V_IN\n", f"{folder}/in_power0_input": b"2198\n"}
    seen = look(Given(files))
    assert seen.record["rails_mw"] == {"POM_5V_IN": 2198.0}
    assert [(w.kind, w.name) for w in seen.watch] == [("mw", "POM_5V_IN")]


def test_what_is_not_there_or_nonsense_is_none_with_a_reason() -> None:
    record = valid(read_environment(Given({"/proc/loadavg": b"", "/sys/class/thermal/thermal_zone0/temp": b"hot"})))
    for name in ("model", "governor", "khz", "policies", "temperature_c", "throttled", "load", "rails_mw", "power_mode"):
        assert record[name] is None
        assert record["unavailable"][name]


def test_of_an_emulated_core_nothing_is_taken_from_the_machine_below() -> None:
    seen = look(Given(PI4, own=False))
    record = valid(seen.record)
    assert record["governor"] is record["temperature_c"] is record["model"] is None
    assert "emulated" in record["unavailable"]["governor"]
    assert record["load"] == 0.1  # what slows the emulator down does matter
    assert seen.watch == ()


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"/sys/firmware/devicetree/base/compatible": b"linux,dummy-virt\0"}, "dummy-virt"),
        ({"/sys/firmware/devicetree/base/fw-cfg@9020000/compatible": b"qemu,fw-cfg-mmio\0"}, "fw-cfg"),
        ({"/proc/1/cmdline": b"/usr/bin/qemu-aarch64-static\0/sbin/init\0"}, "first process"),
        ({"/sys/class/dmi/id/sys_vendor": b"QEMU\n", "/proc/cpuinfo": PI4["/proc/cpuinfo"]}, "maker"),
        ({**PI4, "/proc/cpuinfo": b"processor : 0\nSerial\t\t: 0000000000000000\n"}, "serial"),
        ({"/sys/class/dmi/id/sys_vendor": b"QEMU\n", "/proc/cpuinfo": b"processor : 0\nmodel name : AMD EPYC\n"}, ""),
        (PI4, ""),
        (ORIN, ""),
    ],
)
def test_emulated_machines_are_recognised(files: dict[str, bytes], why: str) -> None:
    found = environment.emulation(files)
    assert (why in found) and bool(found) == bool(why)


def test_between_the_runs() -> None:
    watch = look(Given(ORIN)).watch
    now = {
        "/temp": "55000",
        "oc1_event_cnt": "1",
        "oc3_event_cnt": "7",
        "in1_input": "5000",
        "curr1_input": "2000",
        "cur_state": "3",
    }
    values = tuple(next((v for end, v in now.items() if w.path.endswith(end)), "") for w in watch)
    seen = environment.between(watch, Look(1_500_000, 9, values))
    assert seen["temperatures_c"] == {"cpu-thermal": 55.0, "gpu-thermal": 55.0}
    assert seen["events"] == {"oc1": 1, "oc3": 7}
    assert seen["rails_mw"] == {"VDD_IN": 10_000.0}
    assert seen["cooling"] == {"cpufreq-cpu0 1": 3}
    assert (seen["at_ms"], seen["run"]) == (1.5, 9)
    assert {w.kind for w in look(Given(PI4)).watch} == {"khz", "temperature", "throttled"}  # a fan is none of it


def test_energy_is_power_by_time() -> None:
    before = look(Given(ORIN)).record
    looks = [{"rails_mw": {"VDD_IN": mw}} for mw in (5000.0, 7000.0, 9000.0)]
    found, why = energy(before, looks, 2.5)
    assert why == "" and found is not None
    assert found["total"] == "VDD_IN"
    assert found["rails"]["VDD_IN"]["mw"] == 8000  # the first look is before the first run
    assert found["rails"]["VDD_IN"]["mj"] == 20
    assert found["rails"]["VDD_IN"]["idle_mw"] == pytest.approx(5063.7, abs=0.1)
    assert energy(look(Given(PI4)).record, looks, 1.0) == (None, "no power rails that can be read")
