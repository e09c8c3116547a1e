"""What boards of several generations print, and files that they show: test data for the parsers and for the environment record."""

from __future__ import annotations

# Lines of tegrastats, oldest first: TX2 (JetPack 3), Nano (4), Xavier NX (4), AGX Xavier (5), Orin (5), Orin Nano (6).
TEGRASTATS = {
    "tx2": (
        "RAM 2243/7851MB (lfb 1151x4MB) SWAP 0/3926MB (cached 0MB) CPU [6%@806,off,off,1%@806,2%@805,1%@806] EMC_FREQ 1%@1600 "
        "GR3D_FREQ 0%@114 APE 150 BCPU@38C MCPU@38C GPU@36.5C PLL@38C Tboard@33C Tdiode@36C PMIC@100C thermal@37.3C "
        "VDD_IN 3104/4029 VDD_CPU 230/270 VDD_GPU 153/153 VDD_SOC 460/472",
        {"bcpu": 38, "mcpu": 38, "gpu": 36.5, "pll": 38, "tboard": 33, "tdiode": 36, "thermal": 37.3},
        {"VDD_IN": 3104, "VDD_CPU": 230, "VDD_GPU": 153, "VDD_SOC": 460},
    ),
    "nano": (
        "RAM 1903/3956MB (lfb 2x1MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [12%@1428,8%@1428,off,off] EMC_FREQ 0% "
        "GR3D_FREQ 0% PLL@34.5C CPU@37C iwlwifi@48C PMIC@100C GPU@36C AO@42C thermal@36.5C POM_5V_IN 2198/2198 POM_5V_GPU 0/0 "
        "POM_5V_CPU 319/319",
        {"pll": 34.5, "cpu": 37, "iwlwifi": 48, "gpu": 36, "ao": 42, "thermal": 36.5},
        {"POM_5V_IN": 2198, "POM_5V_GPU": 0, "POM_5V_CPU": 319},
    ),
    "agx-xavier": (
        "11-05-2022 11:32:26 RAM 1723/31002MB (lfb 6821x4MB) SWAP 0/15501MB (cached 0MB) CPU [1%@1190,0%@1190,off,off] "
        "EMC_FREQ 0%@1333 "
        "GR3D_FREQ 0%@318 VIC_FREQ 115 APE 150 AUX@30.5C CPU@32C thermal@31.4C Tboard@31C AO@31C GPU@32C Tdiode@33.5C PMIC@50C "
        "GPU 0mW/0mW CPU 776mW/776mW SOC 1087mW/1087mW CV 0mW/0mW VDDRQ 155mW/155mW SYS5V 1850mW/1850mW",
        {"aux": 30.5, "cpu": 32, "thermal": 31.4, "tboard": 31, "ao": 31, "gpu": 32, "tdiode": 33.5},
        {"GPU": 0, "CPU": 776, "SOC": 1087, "CV": 0, "VDDRQ": 155, "SYS5V": 1850},
    ),
    "orin-nano": (
        "01-08-2025 10:00:00 RAM 2914/7619MB (lfb 20x4MB) SWAP 0/3810MB (cached 0MB) CPU [12%@1510,8%@1510,off,off,5%@1510,3%@1510]"
        " EMC_FREQ 0%@2133 GR3D_FREQ 0%@[305,305] cpu@52.5C soc2@50C soc0@50C gpu@51C tj@53.5C soc1@50C cv0@-256C "
        "VDD_IN 5064mW/5064mW VDD_CPU_GPU_CV 521mW/521mW VDD_SOC 1520mW/1520mW",
        {"cpu": 52.5, "soc2": 50, "soc0": 50, "gpu": 51, "tj": 53.5, "soc1": 50},
        {"VDD_IN": 5064, "VDD_CPU_GPU_CV": 521, "VDD_SOC": 1520},
    ),
}

NVPMODEL = {
    "15W": "NV Power Mode: 15W\n0\n",
    "MODE_15W_6CORE": "NVPM WARN: fan mode is not set!\nNV Power Mode: MODE_15W_6CORE\n2\n",
    "MAXN": "NV Fan Mode:quiet\nNV Power Mode: MAXN\n0\n",
}

PMIC = """\
 3V7_WL_SW_A current(0)=0.09564336A
   3V3_SYS_A current(1)=0.04684032A
  VDD_CORE_A current(7)=0.87150000A
   3V7_WL_SW_V volt(8)=3.72531500V
     3V3_SYS_V volt(9)=3.30766700V
   VDD_CORE_V volt(15)=0.72012820V
      EXT5V_V volt(24)=5.15304000V
      BATT_V volt(25)=0.00000000V
"""

PI_CPU = """\
processor	: 0
BogoMIPS	: 108.00
CPU implementer	: 0x41
CPU part	: 0xd08

processor	: 1
BogoMIPS	: 108.00
CPU implementer	: 0x41
CPU part	: 0xd08

Revision	: c03114
Serial		: 10000000abcdef01
Model		: Raspberry Pi 4 Model B Rev 1.4
"""

POLICY = "/sys/devices/system/cpu/cpufreq/policy0"
PI4 = {
    "/sys/firmware/devicetree/base/model": b"Raspberry Pi 4 Model B Rev 1.4\0",
    "/sys/firmware/devicetree/base/compatible": b"raspberrypi,4-model-b\0brcm,bcm2711\0",
    "/etc/os-release": b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\n',
    "/proc/cpuinfo": PI_CPU.encode(),
    "/proc/loadavg": b"0.10 0.20 0.30 1/200 4242\n",
    "/proc/meminfo": b"MemTotal: 3884136 kB\nMemFree: 1 kB\nMemAvailable: 3210000 kB\n",
    "/proc/uptime": b"4242.10 16000.00\n",
    "/sys/devices/system/cpu/online": b"0-3\n",
    "/sys/devices/system/cpu/offline": b"\n",
    f"{POLICY}/scaling_governor": b"ondemand\n",
    f"{POLICY}/scaling_cur_freq": b"600000\n",
    f"{POLICY}/scaling_min_freq": b"600000\n",
    f"{POLICY}/scaling_max_freq": b"1800000\n",
    f"{POLICY}/cpuinfo_max_freq": b"1800000\n",
    f"{POLICY}/related_cpus": b"0 1 2 3\n",
    "/sys/class/thermal/thermal_zone0/type": b"cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": b"48312\n",
    "/sys/class/thermal/cooling_device0/type": b"pwm-fan\n",
    "/sys/class/thermal/cooling_device0/cur_state": b"2\n",
    "/sys/devices/platform/soc/soc:firmware/get_throttled": b"50000\n",
    "/sys/class/hwmon/hwmon1/name": b"rpi_volt\n",
    "/sys/class/hwmon/hwmon1/in0_lcrit_alarm": b"0\n",
}
ORIN = {
    "/sys/firmware/devicetree/base/model": b"NVIDIA Jetson Orin Nano Developer Kit\0",
    "/sys/firmware/devicetree/base/compatible": b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    "/etc/nv_tegra_release": b"# R36 (release), REVISION: 4.3\n",
    "/proc/cpuinfo": "".join(f"processor\t: {i}\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n\n" for i in range(4)).encode(),
    "/sys/devices/system/cpu/online": b"0-3\n",
    "/sys/devices/system/cpu/offline": b"4-5\n",
    "/sys/class/thermal/thermal_zone0/type": b"cpu-thermal\n",
    "/sys/class/thermal/thermal_zone0/temp": b"50500\n",
    "/sys/class/thermal/thermal_zone1/type": b"gpu-thermal\n",
    "/sys/class/thermal/thermal_zone1/temp": b"61000\n",
    "/sys/class/thermal/thermal_zone2/type": b"PMIC-Die\n",
    "/sys/class/thermal/thermal_zone2/temp": b"100000\n",
    "/sys/class/thermal/thermal_zone3/type": b"cv0-thermal\n",
    "/sys/class/thermal/thermal_zone3/temp": b"-256000\n",
    "/sys/class/thermal/cooling_device1/type": b"cpufreq-cpu0\n",
    "/sys/class/thermal/cooling_device1/cur_state": b"0\n",
    "/sys/class/hwmon/hwmon3/name": b"soctherm_oc\n",
    "/sys/class/hwmon/hwmon3/oc1_event_cnt": b"0\n",
    "/sys/class/hwmon/hwmon3/oc3_event_cnt": b"7\n",
    "/sys/class/hwmon/hwmon1/name": b"ina3221\n",
    "/sys/class/hwmon/hwmon1/in1_label": b"VDD_IN\n",
    "/sys/class/hwmon/hwmon1/in1_input": b"4984\n",
    "/sys/class/hwmon/hwmon1/curr1_input": b"1016\n",
    "/sys/class/hwmon/hwmon1/in2_label": b"VDD_SOC\n",
    "/sys/class/hwmon/hwmon1/in2_input": b"4976\n",
    "/sys/class/hwmon/hwmon1/curr2_input": b"304\n",
    "/sys/class/hwmon/hwmon1/in7_label": b"sum of shunt voltages\n",
}
