"""A whole ARM machine under QEMU: Debian's kernel on the device tree of a Raspberry Pi 4, with the simulated boards' system."""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from boardsim.packages import Unavailable, run
from boardsim.rootfs import Rootfs
from boardsim.simulated import Board, free_port

_MODULES = ("virtio_pci", "virtio_mmio", "virtio_net", "cpufreq-dt", "cpufreq_ondemand", "cpufreq_powersave", "cpufreq_userspace")
_MHZ = (600, 900, 1200, 1500, 1800)
_INIT = """\
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts; mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp -o mode=1777; mount -t tmpfs run /run
hostname "$(cat /etc/hostname)"
for m in $(cat /modules/order); do insmod /modules/$m.ko; done
n=0; while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 300 ]; do n=$((n+1)); sleep 0.1; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
exec /usr/sbin/dropbear -F -E -p 22
"""


@dataclass(frozen=True)
class Image:
    """What QEMU starts."""

    kernel: Path
    initramfs: Path
    tree: Path


def build(rootfs: Rootfs) -> Image:
    """Fetch a kernel and make what it starts from, or find it there."""
    for program, package in (("qemu-system-aarch64", "qemu-system-arm"), ("dtc", "device-tree-compiler")):
        if shutil.which(program) is None:
            raise Unavailable(f"no {program}: apt-get install {package}")
    folder = rootfs.folder
    image = Image(folder / "vmlinuz", folder / "initramfs.gz", folder / "pi4.dtb")
    if image.tree.exists():
        return image
    kernel = folder / "kernel"
    rootfs.packages.unpack([rootfs.packages.kernel("linux-image-arm64")], kernel)
    shutil.copy(next((kernel / "boot").glob("vmlinuz-*")), image.kernel)
    files = {f"modules/{name}.ko": path.read_bytes() for name, path in _modules(kernel / "lib/modules")}
    files["modules/order"] = "\n".join(Path(name).stem for name in files).encode() + b"\n"
    archive = _cpio(rootfs.root, files | {"init": _INIT.encode()})
    image.initramfs.write_bytes(gzip.compress(archive, 1))
    _device_tree(folder, image.tree)
    return image


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """The modules that are needed, those that others need first."""
    there = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    done: dict[str, Path] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in done or name not in there:  # not there: built into the kernel
            return
        needs = re.search(rb"\0?depends=([^\0]*)\0", there[name].read_bytes())
        for need in (needs[1].decode() if needs else "").split(","):
            add(need)
        done[name] = there[name]

    for name in _MODULES:
        add(name)
    return list(done.items())


def _cpio(root: Path, files: dict[str, bytes]) -> bytes:
    """A folder and further files as the kernel's initial RAM disk takes them (cpio, newc)."""
    out = bytearray()

    def entry(name: str, mode: int, uid: int, gid: int, data: bytes) -> None:
        head = (len(out) % 0xFFFFFFFF, mode, uid, gid, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.extend(b"070701" + b"".join(b"%08x" % n for n in head) + name.encode() + b"\0")
        out.extend(b"\0" * (-len(out) % 4) + data)
        out.extend(b"\0" * (-len(out) % 4))

    for path in sorted(root.rglob("*")):
        about = path.lstat()
        if stat.S_ISLNK(about.st_mode):
            data = str(path.readlink()).encode()
        else:
            data = path.read_bytes() if stat.S_ISREG(about.st_mode) else b""
        entry(str(path.relative_to(root)), about.st_mode, about.st_uid, about.st_gid, data)
    entry("modules", 0o40755, 0, 0, b"")
    for name, data in files.items():
        entry(name, 0o100755, 0, 0, data)
    entry("TRAILER!!!", 0, 0, 0, b"")
    return bytes(out)


def _device_tree(folder: Path, output: Path) -> None:
    """QEMU's own tree with the names and the clocks of a Raspberry Pi 4: the kernel's cpufreq driver then works as there."""
    blob, text = folder / "virt.dtb", folder / "pi4.dts"
    run(
        [
            "qemu-system-aarch64",
            "-M",
            f"virt,dumpdtb={blob}",
            "-cpu",
            "cortex-a72",
            "-smp",
            "4",
            "-m",
            "512",
            "-nographic",
            "-nodefaults",
        ]
    )
    tree = run(["dtc", "-q", "-I", "dtb", "-O", "dts", blob])
    tree = tree.replace('model = "linux,dummy-virt";', 'model = "Raspberry Pi 4 Model B Rev 1.4";', 1)
    tree = tree.replace(
        'compatible = "linux,dummy-virt";', 'compatible = "raspberrypi,4-model-b", "brcm,bcm2711", "linux,dummy-virt";', 1
    )
    core = 'compatible = "arm,cortex-a72";'
    tree = tree.replace(core, f"{core} clocks = <&cpuclk>; operating-points-v2 = <&cpuopp>;")
    clock = 'cpuclk: cpuclk { compatible = "fixed-clock"; #clock-cells = <0>; clock-frequency = <1800000000>; };\n'
    points = "".join(f"opp-{mhz} {{ opp-hz = /bits/ 64 <{mhz}000000>; }};\n" for mhz in _MHZ)
    table = f'cpuopp: opp-table {{ compatible = "operating-points-v2"; opp-shared;\n{points}}};\n'
    at = tree.index("\tcpus {")
    text.write_text(tree[:at] + clock + table + tree[at:])
    run(["dtc", "-q", "-I", "dts", "-O", "dtb", "-o", output, text])


def start(rootfs: Rootfs, image: Image, name: str, folder: Path) -> Board:
    """Boot the machine: four cores of a Cortex-A72. It reaches nothing, and is reached on loopback alone."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / "log"
    command = ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-smp", "4", "-m", "512", "-dtb", image.tree]
    command += ["-nographic", "-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel", image.kernel, "-initrd", image.initramfs]
    command += ["-append", "console=ttyAMA0 quiet panic=-1", "-device", "virtio-rng-pci"]
    command += [
        "-netdev",
        f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    board = Board(name, port, rootfs.key, rootfs.host_key, process, log)
    board.wait(90)
    return board
