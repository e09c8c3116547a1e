"""What boards say of themselves in /proc, /sys and with their own programs: test data, to be changed while a board runs."""

from __future__ import annotations

from pathlib import Path

_PI4_CPU = """\
BogoMIPS	: 108.00
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3
"""
_ORIN_CPU = """\
BogoMIPS	: 62.50
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp uscat ilrcpc flagm
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd42
CPU revision	: 1
"""
_TREE = "sys/firmware/devicetree/base"
_CPUFREQ = "sys/devices/system/cpu/cpufreq"
_VCGENCMD = """\
#!/bin/sh
case "$1" in
measure_temp) t=$(cat /sys/class/thermal/thermal_zone0/temp); t=${t%??}; echo "temp=${t%?}.${t#??}'C";;
get_throttled) echo "throttled=0x$(cat /sys/devices/platform/soc/soc:firmware/get_throttled)";;
measure_clock) echo "frequency(48)=$(cat /sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq)000";;
measure_volts) echo "volt=0.8688V";;
version) echo "Jan 11 2024 10:00:00"; echo "version 30cc5f37 (clean) (release) (start)";;
*) echo 'error=1 error_msg="Command not registered"'; exit 255;;
esac
"""
_NVPMODEL = '#!/bin/sh\ncase "$1" in -q) echo "NV Power Mode: 15W"; echo 0;; *) echo usage >&2; exit 1;; esac\n'
_TEGRASTATS = """\
#!/bin/sh
ms=1000; [ "$1" = --interval ] && ms=$2
while :; do
echo "$(date '+%m-%d-%Y %H:%M:%S') RAM 2914/7619MB (lfb 20x4MB) SWAP 0/3810MB (cached 0MB) CPU [12%@1510,8%@1510,off,off,5%@1510,\
3%@1510] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[306] cpu@52.5C soc2@50C soc0@50C gpu@51C tj@53.5C soc1@50C VDD_IN 5064mW/5064mW \
VDD_CPU_GPU_CV 521mW/521mW VDD_SOC 1520mW/1520mW"
usleep $((ms*1000))
done
"""


def _cpuinfo(cpu: str, count: int, tail: str) -> str:
    return "".join(f"processor\t: {i}\n{cpu}\n" for i in range(count)) + tail


def _policy(number: int, cpus: str, khz: tuple[int, int, int], governor: str) -> dict[str, str]:
    low, now, high = khz
    values = {"scaling_governor": governor, "scaling_cur_freq": now, "scaling_min_freq": low, "scaling_max_freq": high}
    values |= {"related_cpus": cpus, "scaling_available_frequencies": f"{low} {now} {high} "}
    return {f"{_CPUFREQ}/policy{number}/{name}": f"{value}\n" for name, value in values.items()}


def _zones(degrees: dict[str, int]) -> dict[str, str]:
    zones = {}
    for i, (kind, milli) in enumerate(degrees.items()):
        zones[f"sys/class/thermal/thermal_zone{i}/type"] = f"{kind}\n"
        zones[f"sys/class/thermal/thermal_zone{i}/temp"] = f"{milli}\n"
    return zones


PI4 = {
    "cpuinfo": _cpuinfo(
        _PI4_CPU, 4, "Revision\t: c03114\nSerial\t\t: 10000000abcdef01\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
    ),
    f"{_TREE}/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    f"{_TREE}/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
    "sys/devices/system/cpu/online": "0-3\n",
    "bin/vcgencmd": _VCGENCMD,
    **_policy(0, "0 1 2 3", (600000, 1500000, 1800000), "ondemand"),
    **_zones({"cpu-thermal": 48312}),
}
ORIN = {
    "cpuinfo": _cpuinfo(_ORIN_CPU, 6, ""),
    f"{_TREE}/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    f"{_TREE}/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "sys/devices/system/cpu/online": "0-5\n",
    "sys/devices/platform/bus@0/17000000.gpu/load": "0\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "4984\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1016\n",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc2_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "0\n",
    "bin/nvpmodel": _NVPMODEL,
    "bin/tegrastats": _TEGRASTATS,
    "etc/hostname": "tegra-ubuntu\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n",
    **_policy(0, "0 1 2 3", (115200, 1510400, 1728000), "schedutil"),
    **_policy(4, "4 5", (115200, 1510400, 1728000), "schedutil"),
    **_zones({"cpu-thermal": 40500, "gpu-thermal": 41500, "cv0-thermal": 42500, "soc0-thermal": 43500, "tj-thermal": 44500}),
}


def write(facts: dict[str, str], folder: Path) -> None:
    """Put a board's facts into a folder, as `boot.sh` takes them."""
    for name, text in facts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755 if name.startswith("bin/") else 0o644)
