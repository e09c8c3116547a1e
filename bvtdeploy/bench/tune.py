"""Which layout of binary weights is the fastest on a device, for every shape of product that a model has.

The model is compiled once with each layout, the artifacts run on the device in turn, op by op, and the fastest layout of each shape
goes into a small file that `bvtdeploy compile --tuning` reads. Layouts never change results; every run compares the golden outputs.
Only 64-bit ARM has kernels for all of them: elsewhere weights become the default when a file is opened, which alone is timed there.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bvtdeploy.artifact import spec
from bvtdeploy.artifact.reader import Artifact, read
from bvtdeploy.boards import load_board
from bvtdeploy.build.files import write_whole
from bvtdeploy.device import Device, RunOptions
from bvtdeploy.errors import UserError
from bvtdeploy.lower.weights import DEFAULT, FOR_BITS, MOST_COLUMNS, TILES, Cost, Product, takes
from bvtdeploy.profile.environment import read_environment
from bvtdeploy.profile.stability import doubts

ROUNDS: Final = 5
VISIT_MS: Final = 200.0  # of one artifact in one round
CLEAR: Final = 1.02  # a layout must beat the default by more than this to be taken
FORMAT: Final = 1
ONE_LAYOUT: Final = f"this machine has kernels for {DEFAULT.lower()} alone, so that no other layout was timed"


@dataclass(frozen=True)
class Choice:
    """A shape of product.

    Attributes:
        ops: how many ops of the model have it.
        ns: layout -> nanoseconds of one such op, the median of the rounds.
        layout: the fastest; DEFAULT where none is clearly faster.
    """

    product: Product
    ops: int
    ns: Mapping[str, float]
    layout: str

    def as_dict(self) -> dict[str, Any]:
        """The choice as JSON."""
        own = {**self.product._asdict(), "ops": self.ops}
        return {**own, "layout": self.layout.lower(), "ns": {name.lower(): ns for name, ns in self.ns.items()}}


@dataclass(frozen=True)
class Tuning:
    """What tuning found. `gain`: time of all tuned products with the default layout over that with the chosen ones."""

    source: str
    output: Path
    device: str
    board: str
    cpu: str
    isa: str
    threads: int
    rounds: int
    choices: tuple[Choice, ...]
    gain: float
    before: dict[str, Any]
    after: dict[str, Any]
    unstable_because: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The tuning as JSON."""
        return {
            "source": self.source,
            "output": str(self.output),
            "device": self.device,
            "board": self.board,
            "cpu": self.cpu,
            "isa": self.isa,
            "threads": self.threads,
            "rounds": self.rounds,
            "products": [choice.as_dict() for choice in self.choices],
            "gain": self.gain,
            "environment": {"before": self.before, "after": self.after},
            "stable": not self.unstable_because,
            "unstable_because": list(self.unstable_because),
            "notes": list(self.notes),
        }

    def as_toml(self) -> str:
        """The file that `compile --tuning` reads."""
        lines = [
            "# Layouts of binary weights that were the fastest on a device, for bvtdeploy compile --tuning FILE: shapes that are",
            "# here get their layout, others what the board's file says. Results do not depend on it.",
            *(f"# {note}" for note in self.notes),
            f"format = {FORMAT}",
            *(f"{name} = {_quoted(text)}" for name, text in (("device", self.device), ("board", self.board), ("cpu", self.cpu))),
            f"isa = {_quoted(self.isa)}",
            f"threads = {self.threads}",
            f"stable = {str(not self.unstable_because).lower()}",
        ]
        for choice in self.choices:
            rows, cols, outputs, trits = choice.product
            times = ", ".join(f"{name.lower()} = {ns:.0f}" for name, ns in choice.ns.items())
            lines += ["", "[[product]]", f"rows = {rows}", f"cols = {cols}", f"outputs = {outputs}"]
            lines += ["trits = true"] if trits else []
            lines += [f"layout = {_quoted(choice.layout.lower())}", f"ns = {{ {times} }}"]
        return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else " " for c in text) + '"'


def load_tuning(path: Path) -> dict[Product, str]:
    """Shape -> layout of a tuning file. Raises UserError where it is none."""
    fix = "bvtdeploy tune MODEL -o FILE makes one"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(
            "the tuning file cannot be read", where=str(path), why=getattr(error, "strerror", None) or str(error), fix=fix
        ) from error
    if data.get("format") != FORMAT:
        raise UserError(
            "this is no tuning file that this version reads", where=str(path), why=f"it needs format = {FORMAT}", fix=fix
        )
    products, found = data.get("product", []), dict[Product, str]()
    for number, row in enumerate(products if isinstance(products, list) else [None], 1):
        shape: list[Any] = [row.get(key) for key in ("rows", "cols", "outputs")] if isinstance(row, dict) else []
        layout = str(row.get("layout")).upper() if isinstance(row, dict) else ""
        trits = row.get("trits", False) if isinstance(row, dict) else None
        sizes = len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)
        if not sizes or layout not in TILES or not isinstance(trits, bool):
            why = (
                f"product {number} needs whole numbers rows, cols and outputs, a layout of {', '.join(TILES).lower()}, "
                "and may have trits = true or false"
            )
            raise UserError("the tuning file is not valid", where=str(path), why=why, fix=fix)
        rows, cols, outputs = (int(size) for size in shape)
        if not takes(layout, cols, trits):
            what = "no trits" if layout in FOR_BITS and trits else f"at most {MOST_COLUMNS} columns"
            why = f"product {number}: {layout.lower()} takes {what}"
            raise UserError("the tuning file is not valid", where=str(path), why=why, fix=fix)
        found[Product(rows, cols, outputs, trits)] = layout
    return found


def tune(
    source: Any,
    output: Path,
    device: Device,
    *,
    threads: int,
    rounds: int | None,
    trust_pickle: bool,
    example_input: Any,
    model_output: str | int | None,
    progress: Callable[[str], None] | None,
) -> Tuning:
    """Time the layouts on an open device and write the winners; the arguments are those of `bvtdeploy.api.tune`."""
    from bvtdeploy.compiler import compile_model

    say = progress or (lambda _: None)
    if device.emulated:
        why = "its times say nothing about a board"
        fix = "give the board, for example --device pi@raspberrypi.local"
        raise UserError("an emulated device cannot be tuned for", where=device.name, why=why, fix=fix)
    if not output.parent.is_dir():
        raise UserError("there is no such folder", where=str(output.parent), fix="make it, or give another")
    several = load_board(device.board).machine == "aarch64"
    before = read_environment(device)
    rounds = rounds or ROUNDS
    with tempfile.TemporaryDirectory(prefix="bvtdeploy-") as folder:
        paths = {}
        for layout in TILES if several else (DEFAULT,):
            say(f"compiling with {layout.lower()} weights")
            paths[layout] = Path(folder) / f"{layout.lower()}.bvt"
            # The only layout that costs anything at all is the only one there is.
            compile_model(
                source,
                paths[layout],
                costs={layout: Cost(1.0, 1.0)},
                trust_pickle=trust_pickle,
                example_input=example_input,
                model_output=model_output,
            )
        made = {layout: products(read(path)) for layout, path in paths.items()}
        samples: dict[str, list[tuple[float, ...]]] = defaultdict(list)
        runs: dict[str, int] = {}
        isa = ""
        for number in range(rounds + 1):
            say(f"timing on {device.name}: round {number} of {rounds}" if number else f"warming up {device.name}")
            for layout, path in paths.items():
                many = runs.get(layout, 3)
                options = RunOptions(threads=threads, runs=many, warmup=1, profile=True, golden=True)
                done = device.run_model(path, None, options)
                if done.golden_equal != done.golden_checked:
                    raise UserError(
                        f"golden outputs differ with {layout.lower()} weights", where=device.name, fix="please report it"
                    )
                isa = done.isa
                if number:
                    samples[layout].append(tuple(ns / many for ns in done.ops_ns))
                else:
                    runs[layout] = max(3, min(500, round(1e6 * VISIT_MS / max(median(done.samples_ns), 1))))
    after = read_environment(device)
    choices = choose_layouts(made, samples)
    if not choices:
        raise UserError("there is nothing to tune", where=str(source), why="no product of this model has a choice of layouts")
    ours = sum(choice.ops * choice.ns[choice.layout] for choice in choices)
    tuning = Tuning(
        source=str(source) if isinstance(source, (str, Path)) else type(source).__name__,
        output=output,
        device=device.name,
        board=device.board,
        cpu=str(before["cpu"] or before["machine"]),
        isa=isa,
        threads=threads,
        rounds=rounds,
        choices=tuple(choices),
        gain=sum(choice.ops * choice.ns[DEFAULT] for choice in choices) / ours,
        before=before,
        after=after,
        unstable_because=tuple(doubts(before, after)),
        notes=() if several else (ONE_LAYOUT,),
    )
    write_whole(output, tuning.as_toml())
    return tuning


def products(artifact: Artifact) -> dict[int, tuple[Product, str]]:
    """Op number -> its shape and its weight's layout, of every binary product."""
    names = {number: name for name, number in spec.LAYOUTS.items()}
    found = {}
    for number, op in enumerate(artifact.ops):
        if op["opcode"] == spec.OPCODES["bgemm"]:
            x, weight = (artifact.values[i] for i in op["inputs"][:2])
            trits = x["dtype"] == spec.DTYPES["TRITS"]
            found[number] = Product(x["rows"], weight["cols"], weight["rows"], trits), names[weight["layout"]]
    return found


def choose_layouts(
    made: Mapping[str, Mapping[int, tuple[Product, str]]], samples: Mapping[str, Sequence[Sequence[float]]]
) -> list[Choice]:
    """The fastest layout of every shape, the most expensive shape first.

    Args:
        made: layout that was asked for -> op -> its shape, and the layout that it got. An op that got another one has no choice;
            where the default alone was asked for, none has, and all get it.
        samples: layout -> nanoseconds of every op, a row a round.
    """
    times: dict[Product, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    others = [layout for layout in made if layout != DEFAULT]
    free = {op for op in made[DEFAULT] if not others or any(made[layout][op][1] == layout for layout in others)}
    for layout, ops in made.items():
        for op, (product, got) in ops.items():
            if op in free and got == layout:
                times[product][layout].append(median(row[op] for row in samples[layout]))
    choices = []
    for product, by_layout in times.items():
        ns = {layout: sum(of_ops) / len(of_ops) for layout, of_ops in by_layout.items()}
        best = min(ns, key=lambda layout: ns[layout])
        chosen = best if ns[best] * CLEAR < ns[DEFAULT] else DEFAULT
        choices.append(Choice(product, len(by_layout[DEFAULT]), ns, chosen))
    return sorted(choices, key=lambda choice: -choice.ops * choice.ns[DEFAULT])
