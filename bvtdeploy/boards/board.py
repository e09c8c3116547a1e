"""What is known of one target."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bvtdeploy.boards.machines import machine_name, this_machine
from bvtdeploy.lower.weights import Cost, Costs


@dataclass(frozen=True)
class Cluster:
    """Cores of one kind.

    Attributes:
        core: as GCC or LLVM spells it.
        count: how many.
        clock_mhz: their highest clock; 0 where it varies.
    """

    core: str
    count: int
    clock_mhz: int = 0


@dataclass(frozen=True)
class Board:
    """One target.

    Attributes:
        name: what `--board` takes.
        title: the product's name.
        core: the CPU core that layouts and flags are for, as GCC or LLVM spells it; "generic" or "native".
        arch: architecture level: "armv7-a", "armv8-a", "armv8.2-a", or "native" for the machine that we run on.
        features: what a program for it may use beyond the bare architecture: neon, crc, lse, rdma, fp16, dotprod, rcpc; of a
            32-bit system neon, vfpv4, idiv.
        triple: GNU triple of the compiler, or "native".
        flags: target flags for GCC and Clang.
        zig_target, zig_flags: the same for zig, which spells CPU names with underscores.
        qemu_cpu: the `-cpu` of QEMU that has this board's instructions; empty where no one CPU does.
        soc, cores, clock_mhz: for reports; empty or 0 where they vary.
        clusters: its cores by kind, the one of `core` first; empty where there is one kind.
        l1d_kib, l2_kib, l3_kib: data caches; L1 is a core's own.
        os, glibc: the usual system and its C library's version; empty where there is no usual one. It is what a dynamic program has
            to do with.
        page_kib: page size of the usual kernel: a program's segments must be aligned to it. 0 where it varies.
        compatible: strings of its device tree's `compatible`, by which it is recognised.
        models: how its device tree's `model` begins.
        cpu_parts: "implementer:part" of its cores, as /proc/cpuinfo has them.
        notes: what else one should know, in sentences.
        bgemm: what a binary product costs by the layout of its weights (lower-case names): modelled cycles of 1000
            multiply-accumulates, of 1000 outputs, of 1000 bits of the rows once for all outputs (0 where it is not there), of
            1000 multiply-accumulates of rows with zeros (0: as of those without), and how many thousandths a row costs where
            rows come by 16 (0: the same). Empty: lanes16.
    """

    name: str
    title: str
    core: str
    arch: str
    features: tuple[str, ...]
    triple: str
    flags: tuple[str, ...]
    zig_target: str
    zig_flags: tuple[str, ...]
    qemu_cpu: str = ""
    soc: str = ""
    cores: int = 0
    clock_mhz: int = 0
    clusters: tuple[Cluster, ...] = ()
    l1d_kib: int = 32
    l2_kib: int = 512
    l3_kib: int = 0
    os: str = ""
    glibc: str = ""
    page_kib: int = 0
    compatible: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    cpu_parts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    bgemm: dict[str, list[float]] = field(default_factory=dict, hash=False)

    @property
    def costs(self) -> Costs:
        """`bgemm` as the lowering takes it."""
        return {name.upper(): Cost(*(x / 1000 for x in values)) for name, values in self.bgemm.items()}

    @property
    def native(self) -> bool:
        """Whether the board is the machine that we run on."""
        return self.triple == "native"

    @property
    def machine(self) -> str:
        """What its CPU runs: "aarch64", "arm" (32-bit), or what this machine is, for the board that stands for it."""
        return this_machine() if self.native else machine_name(self.triple.split("-")[0])

    @property
    def float_abi(self) -> str:
        """How a 32-bit ARM program passes real numbers: "hard" or "soft"; "" elsewhere, where there is one way."""
        return "" if self.machine != "arm" or self.native else "hard" if self.triple.endswith("hf") else "soft"

    def as_dict(self) -> dict[str, Any]:
        """The board as JSON."""
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {**given, "machine": self.machine, "float_abi": self.float_abi}
