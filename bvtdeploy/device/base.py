"""The protocol of a device: probe, push, run, pull, clean.

A device is a context manager. Entering makes a private folder on it, leaving removes that folder, also after an error or an
interrupt. Nothing needs to be installed on a device: what runs there is the static program that `bvtdeploy.build` makes, pushed
with the artifact. How to add a kind of device: a class here with the abstract methods, and a line in `open_device`.
"""

from __future__ import annotations

import abc
import hashlib
import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from bvtdeploy.boards import load_board
from bvtdeploy.build import Build, build_runtime
from bvtdeploy.errors import UserError

DEFAULT_TIMEOUT = 600.0


@dataclass(frozen=True)
class Completed:
    """A program that ended on a device. `signal` names what stopped it ("SIGILL"), or is empty."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    signal: str = ""


@dataclass(frozen=True)
class Probe:
    """What a device is. What could not be read is None, with the reason in `unavailable`."""

    machine: str
    cpu: str | None
    features: tuple[str, ...]
    cores: int | None
    kernel: str | None
    glibc: str | None
    unavailable: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The probe as JSON."""
        return {
            "machine": self.machine,
            "cpu": self.cpu,
            "features": list(self.features),
            "cores": self.cores,
            "kernel": self.kernel,
            "glibc": self.glibc,
            "unavailable": self.unavailable,
        }


@dataclass(frozen=True)
class RunOptions:
    """What `bvt_run` is to do.

    Attributes:
        threads, isa: as of a session.
        runs, warmup: timed runs of the first input, and runs before them; "auto": as many as take about 2 s, and until the times
            settle. Without inputs a golden one is taken.
        cpus: the cores to run on: "fast", "slow", "all", a list such as "0-3,6"; "": as the system likes.
        golden: compare with the golden outputs in the artifact.
        profile: count the time of every op during the timed runs.
        spans: also tell what every thread did when, in one inference of a usual time.
        counters: count cycles, instructions and cache misses of the timed runs, where the kernel grants it.
        watch: files of the device to read before, between (every half second) and after the timed runs.
        op_crc: checksum the outputs of every op for the first input.
        timeout: seconds that all of it may take, where the device's own `timeout` does not say.
    """

    threads: int = 1
    isa: str = "auto"
    runs: int | Literal["auto"] = 0
    warmup: int | Literal["auto"] = 0
    cpus: str = ""
    golden: bool = False
    profile: bool = False
    spans: bool = False
    counters: bool = False
    watch: tuple[str, ...] = ()
    op_crc: bool = False
    timeout: float = DEFAULT_TIMEOUT


@dataclass(frozen=True)
class Look:
    """What the watched files said between two timed runs.

    Attributes:
        at_ns: since the first look.
        run: how many timed runs came before.
        values: the first line of every file, in the order of `RunOptions.watch`; "" where it could not be read.
    """

    at_ns: int
    run: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Counter:
    """A hardware counter over all timed runs: `value` is None where `why` says so; `running` is the part of the time it ran."""

    value: int | None
    running: float = 1.0
    why: str = ""


@dataclass(frozen=True)
class Span:
    """What a thread did from start to end, in ns since the inference began: an op on some rows, or (op -1) waiting for others."""

    thread: int
    op: int
    start_ns: int
    end_ns: int
    row0: int
    rows: int


@dataclass(frozen=True)
class ModelRun:
    """What `bvt_run` found.

    Attributes:
        isa, threads: what it ran with.
        cpu: the features of the device's CPU that matter to the runtime.
        outputs: float32 [inputs, rows, cols].
        samples_ns, warmup_ns: every timed run, and every run before them, in order.
        settled: whether an automatic warm-up ended because the times had settled; None where there was none.
        open_ns, session_ns: what opening the artifact and making the session (memory, threads) took.
        timer_hz: the rate of the CPU's own timer, 0 where a program cannot ask. Boards and emulators differ in it.
        cores_allowed, cores_seen: the cores that the threads were free to use, and those where one was met.
        usage: during the timed runs: user_ns, system_ns, waited_ns (ready, but without a core; None: not told), preempted, yielded,
            page_faults, major_faults.
        counters: by name.
        looks: what the watched files said.
        blocks: the timed runs in up to 20 parts: how many runs, and the ns of every op in them.
        spans, spans_ns: of one inference, and what it took.
        ops_ns, groups_ns: time of each op (summed over threads) and group, over all timed runs.
        golden_checked, golden_equal: golden pairs, and how many came out with the same bits.
        n_golden: golden pairs in the artifact.
        crcs: the CRC-32 of every value that an op wrote, by the value's name.
    """

    isa: str
    threads: int
    cpu: tuple[str, ...]
    outputs: npt.NDArray[np.float32]
    samples_ns: tuple[int, ...]
    ops_ns: tuple[int, ...]
    groups_ns: tuple[int, ...]
    golden_checked: int
    golden_equal: int
    n_golden: int
    crcs: dict[str, list[int]]
    warmup_ns: tuple[int, ...] = ()
    settled: bool | None = None
    open_ns: int = 0
    session_ns: int = 0
    timer_hz: int = 0
    cores_allowed: tuple[int, ...] = ()
    cores_seen: tuple[int, ...] = ()
    usage: dict[str, int | None] = field(default_factory=dict)
    counters: dict[str, Counter] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    blocks: tuple[tuple[int, tuple[int, ...]], ...] = ()
    spans: tuple[Span, ...] = ()
    spans_ns: int = 0


class Device(abc.ABC):
    """Something that runs programs.

    Attributes:
        name: as the user spells it: "local", "qemu:cortex-a72".
        emulated: its times say nothing about a board.
        own_system: `read_files` and `system` show the device itself. An emulated core in user mode has no system of its own.
        keep: leave what was pushed on the device, so that the next run need not push it again.
        toolchain: what builds the runtime for it.
        timeout: seconds that one run of a model may take here; None: what the work is likely to take, or 600.
        progress: told what is being done.
    """

    name: str
    emulated: bool = False
    own_system: bool = True
    keep: bool = False
    toolchain: str = "auto"
    timeout: float | None = None
    progress: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self._build: Build | None = None
        self._pushed: dict[str, str] = {}

    @property
    @abc.abstractmethod
    def board(self) -> str:
        """The board whose runtime runs here."""

    @abc.abstractmethod
    def open(self) -> None:
        """Make the private folder."""

    @abc.abstractmethod
    def clean(self) -> None:
        """Remove the private folder and end what still runs. Called twice, it does nothing the second time."""

    @abc.abstractmethod
    def probe(self) -> Probe:
        """Find out what the device is."""

    @abc.abstractmethod
    def push(self, source: Path | bytes, name: str, *, executable: bool = False) -> str:
        """Put a file into the private folder, whole or not at all. Returns its path on the device."""

    @abc.abstractmethod
    def run(self, argv: Sequence[str], *, timeout: float = DEFAULT_TIMEOUT) -> Completed:
        """Run a program that was pushed, in the private folder. A program that outlives the timeout is ended: a UserError."""

    @abc.abstractmethod
    def pull(self, name: str) -> bytes:
        """A file of the private folder."""

    @abc.abstractmethod
    def read_files(self, patterns: Sequence[str]) -> dict[str, bytes]:
        """The device's files (of /proc and /sys) that match glob patterns and can be read: path -> content."""

    @abc.abstractmethod
    def system(self, argv: Sequence[str], *, timeout: float = 10.0) -> Completed | None:
        """Run a program of the device's own system (vcgencmd, nvpmodel, uname).

        A program that fails is no error: its code is in the result. None: the device has no such program, or it did not end
        within the timeout (in seconds).
        """

    @property
    def build(self) -> Build:
        """The runtime for this device; compiled when first asked for."""
        if self._build is None:
            self._build = build_runtime(load_board(self.board), toolchain=self.toolchain, progress=self.progress)
        return self._build

    def run_model(
        self, artifact: Path, inputs: npt.NDArray[np.float32] | None = None, options: RunOptions | None = None
    ) -> ModelRun:
        """Run an artifact here with the runtime of this device's board.

        Args:
            artifact: the `.bvt` file.
            inputs: float32 [n, ...], preprocessed; None runs what the options ask for on a golden input.
            options: what to do.
        """
        o = options or RunOptions()
        argv = [
            self._push_once(self.build.program, "bvt_run", executable=True),
            self._push_once(artifact, "model.bvt"),
            "--json",
            "--top",
            "0",
        ]
        argv += ["--threads", str(o.threads), "--isa", o.isa]
        argv += ["--runs", str(o.runs), "--warmup", str(o.warmup)] if o.runs else []
        argv += ["--cpus", o.cpus] if o.cpus else []
        flags = {"--golden": o.golden, "--profile": o.profile, "--spans": o.spans, "--counters": o.counters, "--op-crc": o.op_crc}
        argv += [flag for flag, on in flags.items() if on]
        argv += [word for path in o.watch for word in ("--watch", path)]
        if inputs is not None:
            argv += ["--raw", self.push(np.ascontiguousarray(inputs, dtype="<f4").tobytes(), "inputs.f32"), "--out", "outputs.f32"]
        done = self.run(argv, timeout=o.timeout if self.timeout is None else self.timeout)
        if not (o.golden and done.returncode == 1):  # 1: a golden output differs, which is a result
            check_completed(done, self)
        try:
            told = json.loads(done.stdout)
            rows, cols = told["model"]["output"]
            raw = self.pull("outputs.f32") if inputs is not None else b""
            crcs: dict[str, list[int]] = {}
            for crc in told["crcs"]:
                crcs.setdefault(crc["value"], []).append(crc["crc"])
            golden = told["golden"] or {"checked": 0, "equal": 0}
            return ModelRun(
                isa=told["isa"],
                threads=told["threads"],
                cpu=tuple(told["cpu"].split()),
                outputs=np.frombuffer(raw, "<f4").reshape(-1, rows, cols).astype(np.float32),
                samples_ns=tuple(told["samples_ns"]),
                ops_ns=tuple(op["ns"] for op in told["ops"]),
                groups_ns=tuple(told["groups_ns"]),
                golden_checked=golden["checked"],
                golden_equal=golden["equal"],
                n_golden=told["model"]["n_golden"],
                crcs=crcs,
                warmup_ns=tuple(told["warmup_ns"]),
                settled=told["settled"],
                open_ns=told["open_ns"],
                session_ns=told["session_ns"],
                timer_hz=told["timer_hz"],
                cores_allowed=tuple(told["cores"]["allowed"]),
                cores_seen=tuple(told["cores"]["seen"]),
                usage=dict(told["usage"]),
                counters={name: Counter(**facts) for name, facts in told["counters"].items()},
                looks=tuple(Look(look["at_ns"], look["run"], tuple(look["values"])) for look in told["looks"]),
                blocks=tuple((block["runs"], tuple(block["ops_ns"])) for block in told["blocks"]),
                spans=tuple(Span(*span) for span in told["spans"]),
                spans_ns=told["spans_ns"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the runtime on {self.name} gave an answer that cannot be read",
                where=str(self.build.program),
                why=f"{error!r}: {done.stdout[:200]!r}",
            ) from error

    def run_inputs(self, artifact: Path, inputs: npt.NDArray[np.float32], threads: int = 1) -> npt.NDArray[np.float32]:
        """The outputs for a batch of preprocessed inputs: float32 [n, rows, cols]."""
        return self.run_model(artifact, inputs, RunOptions(threads=threads)).outputs

    def op_crcs(self, artifact: Path, inputs: npt.NDArray[np.float32]) -> dict[str, list[int]]:
        """Checksums of every value that an op wrote for one input, by the value's name."""
        return self.run_model(artifact, inputs, RunOptions(op_crc=True)).crcs

    def __str__(self) -> str:
        return self.name

    def _push_once(self, source: Path, name: str, *, executable: bool = False) -> str:
        """Push a file unless the same content is there under this name."""
        data = source.read_bytes()
        key = f"{name}:{hashlib.sha256(data).hexdigest()}"
        if key not in self._pushed:
            self._pushed = {k: v for k, v in self._pushed.items() if not k.startswith(f"{name}:")}
            self._pushed[key] = self.push(data, name, executable=executable)
        return self._pushed[key]

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pushed.clear()
        self.clean()


_SIGNALS = {
    "SIGILL": (
        "an illegal instruction",
        "the program was built for a CPU with instructions that this one lacks",
        "build for this core, or for any: bvtdeploy build --board generic",
    ),
    "SIGKILL": ("SIGKILL", "out of memory, as a rule: the system ends the largest program", "use fewer threads or a smaller model"),
    "SIGSEGV": ("a memory error (SIGSEGV)", "this is a bug of the runtime", "please report it with the artifact"),
    "SIGBUS": ("a bus error (SIGBUS)", "the artifact was changed or cut while it ran, or its disk failed", "push it again"),
}


def signal_name(returncode: int) -> str:
    """The signal behind an exit status: -4 from `subprocess` and 132 from a shell are both SIGILL."""
    number = -returncode if returncode < 0 else returncode - 128 if 128 < returncode < 160 else 0
    try:
        return signal.Signals(number).name if number else ""
    except ValueError:
        return f"signal {number}"


def check_completed(done: Completed, device: Device) -> None:
    """Turn a program's failure into an error that says what to do."""
    if done.returncode == 0:
        return
    told = done.stderr.decode(errors="replace").strip()
    where = f"{device.name} (runtime for {device.board})"
    if done.signal:
        what, why, fix = _SIGNALS.get(done.signal, (done.signal, told, ""))
        raise UserError(f"the runtime was stopped by {what} on {device.name}", where=where, why=why, fix=fix)
    if done.returncode == 2 and told.startswith("bvt_run: "):  # its own one-line reason
        raise UserError(told.removeprefix("bvt_run: "), where=where)
    why = "\n       ".join(told.splitlines()[-6:])
    raise UserError(f"the runtime failed on {device.name} with exit code {done.returncode}", where=where, why=why)
