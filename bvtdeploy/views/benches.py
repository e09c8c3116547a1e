"""How `bench` and `tune` look."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from bvtdeploy.console import Console, amount, percent, size

if TYPE_CHECKING:
    from bvtdeploy.bench import Bench
    from bvtdeploy.bench.kernels import Kernels
    from bvtdeploy.bench.measure import Duel, Measured
    from bvtdeploy.bench.modelled import BoardCount, Modelled
    from bvtdeploy.bench.tune import Tuning


def show_bench(console: Console, bench: Bench) -> None:
    """Times against peers, what speaks against them, and what is modelled of boards."""
    if bench.measured is not None:
        _show_measured(console, bench.artifact, bench.measured)
    if bench.modelled is not None:
        if bench.measured is not None:
            console.say()
        _show_modelled(console, bench.artifact, bench.modelled)


def _show_measured(console: Console, artifact: str, measured: Measured) -> None:
    shape, sides = measured.shape, (("before", measured.before), ("after", measured.after))
    console.say(f"{artifact} in this process, {measured.isa} kernels, against other runtimes in turn", style="bold")
    plain = ""
    if shape is not None:
        plain = (
            f"{shape.depth} blocks of {shape.dim} channels, {shape.heads} heads, {shape.tokens} tokens, MLP of {shape.hidden}"
            + (f" ({shape.known_as})" if shape.known_as else "")
            + f", {amount(shape.macs)} multiply-adds, random weights"
        )
    console.facts(
        [
            ("multiply-adds", f"{amount(measured.macs_binary)} binary, {amount(measured.macs_float)} float"),
            ("file", size(measured.artifact_bytes)),
            ("plain ViT", plain or f"none: {measured.no_shape}"),
            ("CPU", measured.before["cpu"]),
            ("load", ", ".join(f"{side['load']:.1f} {when}" for when, side in sides if side["load"] is not None)),
            ("versions", ", ".join(f"{name} {number}" for name, number in measured.versions.items())),
        ]
    )
    rows = [
        (row.peer.title, row.peer.network, size(row.model_bytes), *_duel_cells(duel)) for row in measured.rows for duel in row.duels
    ]
    if rows:
        columns = [
            "peer",
            "runs",
            "file",
            "threads",
            "rounds",
            "ours ms",
            "peer ms",
            "peer / ours",
            "95 %",
            "quartiles",
            "CPU time",
        ]
        console.table(columns, rows, align="nnrrrrrrrrr", optional=("file", "rounds", "quartiles"))
        console.say(
            "ms: median of the rounds' wall times; peer / ours: median of the rounds' ratios, above 1 we are faster;", style="dim"
        )
        console.say(
            "95 %: bootstrap interval of that median; CPU time: the same ratio of CPU times, with one thread only", style="dim"
        )
    for row in measured.rows:
        if row.check is not None:
            c = row.check
            console.good(
                f"{row.peer.engine.title} computes the same function: the same class on {c.same_class} of {c.images} images, "
                f"logits differ by at most {c.max_error:.3g} of {c.largest:.3g}, cosine at least {c.cosine:.6f}"
            )
    for missing in measured.unavailable:
        what = " ".join(part for part in (missing.engine, f"({missing.model})" if missing.model else "") if part)
        console.note(f"{what}: {missing.why}" + (f"; {missing.fix}" if missing.fix else ""))
    for reason in measured.unstable_because:
        console.note(reason)


def _duel_cells(duel: Duel) -> tuple[Any, ...]:
    wall, cpu = duel.wall, duel.cpu
    ours, theirs = (median(times) for times in (duel.ours_wall, duel.peer_wall))
    return (
        duel.threads,
        len(duel.ours_wall),
        f"{ours:.3f}",
        f"{theirs:.3f}",
        f"{wall.median:.2f}",
        f"{wall.low:.2f}-{wall.high:.2f}",
        f"{wall.q1:.2f}-{wall.q3:.2f}",
        f"{cpu.median:.2f}" if cpu is not None else "",
    )


def _show_modelled(console: Console, artifact: str, modelled: Modelled) -> None:
    console.say(f"{artifact} on boards: instructions are counted, times are MODELLED; no board was measured", style="bold")
    columns = [
        "board",
        "core",
        "million instructions",
        "vector",
        "loads, stores",
        "other",
        "modelled Mcycles",
        "MHz",
        "modelled ms",
    ]
    rows = []
    for b in modelled.boards:
        n = {key: count / 1e6 for key, count in b.counts.items()}
        other = n["total"] - n["simd"] - n["vldst"] - n["ldst"]
        work = (f"{n['total']:.2f}", f"{n['simd']:.2f}", f"{n['vldst'] + n['ldst']:.2f}", f"{other:.2f}")
        rows.append((b.board, b.core, *work, f"{b.cycles / 1e6:.2f}", b.clock_mhz, f"{b.ms:.3f}"))
    console.table(columns, rows, align="nnrrrrrrr")
    for b in modelled.boards:
        _show_board(console, b)
    console.note("modelled: the most that a pipe or the dispatch is held; latencies, caches and branch misses are left out")
    console.note(f"rates: {modelled.rates}" if not modelled.rates.startswith("rates:") else modelled.rates)
    for text in dict.fromkeys(b.stands_for for b in modelled.boards if b.stands_for):
        console.note(text)
    if modelled.no_peers:
        console.note(modelled.no_peers)
    elif any(b.peers for b in modelled.boards):
        console.note(f"peers on {modelled.peers_of}: {modelled.peers_counted}; theirs are lower bounds: vector arithmetic alone")


def _show_board(console: Console, b: BoardCount) -> None:
    console.heading(f"{b.title} ({b.core}): where the modelled time goes, 1 thread")
    per_ms = 1000 * b.clock_mhz
    rows = [
        (f.name, f"{f.instructions / 1e6:.3f}", f"{f.cycles / per_ms:.4f}", percent(f.cycles / b.cycles)) for f in b.functions[:10]
    ]
    console.table(["function", "million instructions", "modelled ms", "share"], rows, align="nrrr")
    if b.peers:
        millions = {"total": b.counts["total"] / 1e6, "simd": b.counts["simd"] / 1e6}
        table: list[tuple[Any, ...]] = [
            (
                "bvtdeploy",
                "",
                "binary",
                f"{millions['total']:.0f}",
                f"{millions['simd']:.0f}",
                f"{b.least_ms:.1f}",
                f"{b.ms:.1f}",
                "",
            )
        ]
        for p in sorted(b.peers, key=lambda peer: peer.least_ms):
            counted = (f"{p.millions['total']:.0f}", f"{p.millions['simd']:.0f}")
            table.append((p.name, p.version, p.precision, *counted, f"{p.least_ms:.0f}", "", f"> {p.ratio:.1f}"))
        console.table(
            ["runtime", "version", "arithmetic", "million instructions", "vector", "at least ms", "modelled ms", "times ours"],
            table,
            align="nnnrrrrr",
        )


def show_kernels(console: Console, found: Kernels) -> None:
    """Kernels beside their bounds: element-wise ops in cycles an element, binary products in multiply-adds a cycle."""
    console.say("kernels on boards: instructions are counted, cycles are MODELLED; no board was measured", style="bold")
    cores = [f"{b.board} ({b.core})" for b in found.boards]
    first = found.boards[0]
    if first.elements:
        console.heading("element-wise ops: modelled cycles an element, the bound, and how many times it that is")
        head = ["case", "an element is a", *(text for core in cores for text in (core, "bound", "times"))]
        rows: list[tuple[Any, ...]] = []
        for at, e in enumerate(first.elements):
            own = [b.elements[at] for b in found.boards]
            cells = [c for k in own for c in (f"{k.cycles:.3f}", f"{k.bound:.3f}", f"{k.ratio:.2f}" + (" over" if k.over else ""))]
            rows.append((e.case, e.element, *cells))
        console.table(head, rows, align="nn" + "rrr" * len(cores))
        over = [f"{e.case} on {b.core}" for b in found.boards for e in b.elements if e.over]
        text = (
            f"over {first.limit:g} times the bound: {', '.join(over)}" if over else f"none is over {first.limit:g} times its bound"
        )
        console.note(text)
    if any(b.products for b in found.boards):
        console.heading("binary products: modelled multiply-adds a cycle, the bound of the layout's main loop, and Larq's bgemm")
        head = ["layout", "rows", "K", "outputs", *(text for core in cores for text in (core, "bound", "Larq"))]
        # Not every core has every layout.
        shapes = dict.fromkeys((p.layout, p.rows, p.k, p.outputs) for b in found.boards for p in b.products)
        known = [{(p.layout, p.rows, p.k, p.outputs): p for p in b.products} for b in found.boards]
        rows = []
        for shape in shapes:
            both = [products.get(shape) for products in known]
            cells = [
                c
                for p in both
                for c in ((f"{p.macs_a_cycle:.1f}", f"{p.bound:.1f}", f"{p.larq:.0f}" if p.larq else "") if p else ("", "", ""))
            ]
            rows.append((*shape, *cells))
        console.table(head, rows, align="nrrr" + "rrr" * len(cores))
    console.note("modelled: the most that a pipe or the dispatch is held; latencies, caches and branch misses are left out")
    console.note(found.rates)
    for text in dict.fromkeys(b.stands_for for b in found.boards if b.stands_for):
        console.note(text)


def show_tuning(console: Console, tuning: Tuning) -> None:
    """Times of the layouts, and what was chosen."""
    console.say(f"{tuning.output}: layouts for {tuning.device} ({tuning.cpu}), {tuning.isa} kernels", style="bold")
    layouts = list(dict.fromkeys(layout for choice in tuning.choices for layout in choice.ns))
    rows = []
    for choice in tuning.choices:
        times = [f"{choice.ns[layout] / 1000:.1f}" if layout in choice.ns else "" for layout in layouts]
        shape = "{} x {} x {}".format(*choice.product) + (", trits" if choice.product.trits else "")
        rows.append((shape, choice.ops, *times, choice.layout.lower()))
    head = ["rows x columns x outputs", "ops", *(f"{layout.lower()} us" for layout in layouts), "chosen"]
    console.table(head, rows, align="nr" + "r" * len(layouts) + "n")
    if len(layouts) > 1:
        console.say(f"these products take {100 / tuning.gain:.0f} % of the time that they take with lanes16")
    for reason in (*tuning.notes, *tuning.unstable_because):
        console.note(reason)
