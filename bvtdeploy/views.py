"""What each command's result looks like as text. `Console` knows how to print; here is what is printed, and in which order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from bvtdeploy.boards import Board
from bvtdeploy.console import Console, amount, percent, size, visible
from bvtdeploy.ops.kinds import KINDS

if TYPE_CHECKING:
    from bvtdeploy.api import CheckedModels, ExportedModel, RunResult
    from bvtdeploy.bench import Bench
    from bvtdeploy.bench.measure import Duel, Measured
    from bvtdeploy.bench.modelled import BoardCount, Modelled
    from bvtdeploy.bench.tune import Tuning
    from bvtdeploy.build import Build
    from bvtdeploy.demo import Demo
    from bvtdeploy.doctor import Diagnosis
    from bvtdeploy.models.zoo import ModelFacts
    from bvtdeploy.profile import Profile


_SIDES = ("before", "after")
_ZEROS = {"exact": "a third code", "positive": "+1"}


def show_compile(console: Console, report: Mapping[str, Any], *, explain: bool) -> None:
    """The report of `compile`."""
    source, macs, layers = report["source"], report["macs"], report["layers"]
    whole = sum(macs.values())
    console.say(f"{report['artifact']}: {size(report['bytes'])}", style="bold")
    console.facts(
        [
            ("source", f"{source['kind']}, {amount(source['parameters'])} parameters, {size(source['bytes'])}"),
            (
                "layers",
                f"{layers['binary']} binary, "
                + (f"{layers['mixed']} mixed (real inputs, one-bit weights), " if layers["mixed"] else "")
                + f"{layers['float']} float",
            ),
            (
                "multiply-adds",
                f"{amount(macs['binary'])} binary ({percent(macs['binary'] / max(whole, 1))}), "
                + (f"{amount(macs['mixed'])} mixed, " if macs["mixed"] else "")
                + f"{amount(macs['float'])} float",
            ),
            ("ops", ", ".join(f"{count} {kind}" for kind, count in report["ops"].items())),
            ("fused", ", ".join(f"{count} {kind}" for kind, count in report["fused"].items())),
            (
                "signs that can be 0",
                f"{report['ternary_signs']}, with a third code" if report["ternary_signs"] else None,
            ),
            ("sign policy", f"{report['policy']}; integers that can be 0: {_ZEROS[report['zeros']]}"),
            ("weights that are 0", report["zeros_in_weights"]),
            ("estimator residue", f"at most {report['residue_max']:.3g}, removed" if report["residue_max"] else "none"),
            ("real parameters", f"stored as {report['side']}"),
            ("time", f"{sum(p['seconds'] for p in report['passes']):.2f} s in {len(report['passes'])} passes"),
        ]
    )
    storage = {kind: row for kind, row in report["storage"].items() if row["before"] or row["after"]}
    rows = [(KINDS[kind], *(size(row[side]) if row[side] else "" for side in _SIDES)) for kind, row in storage.items()]
    total = ("all", *(size(sum(row[side] for row in storage.values())) for side in _SIDES))
    console.table(["bytes", "source tensors", "artifact"], [*rows, total], align="nrr")
    declined = report["declined"]
    if declined and explain:
        console.table(["not fused", "line", "why"], [(d["site"], d["line"], d["why"]) for d in declined])
    elif declined:
        places = "1 place as they found it" if len(declined) == 1 else f"{len(declined)} places as they found them"
        console.note(f"passes left {places}: --explain lists where and why")


def show_inspect(console: Console, facts: Mapping[str, Any]) -> None:
    """The contents of an artifact."""
    macs = facts["macs"]
    console.facts(
        [
            ("format", facts["format"]),
            ("board", facts["board"]),
            (
                "multiply-adds",
                f"{amount(macs['binary'])} binary, "
                + (f"{amount(macs['mixed'])} mixed, " if macs["mixed"] else "")
                + f"{amount(macs['float'])} float",
            ),
            ("working memory", f"{size(facts['arena_bytes'])} for values, and {size(facts['tile_bytes'])} for each thread"),
            ("sections", ", ".join(f"{name} {size(count)}" for name, count in facts["sections"].items())),
        ]
    )
    kinds = [(KINDS[kind], size(count)) for kind, count in facts["storage"].items() if count]
    console.table(["bytes", "artifact"], kinds, align="nr")
    rows = [
        (
            i,
            op["module"],
            op["name"],
            op["kind"] + (f" ({op['layout']})" if op["layout"] else ""),
            _shapes(op["out_shape"]),
            amount(op["macs"]["binary"]),
            amount(op["macs"]["float"]),
            size(op["bytes"]),
        )
        for i, op in enumerate(facts["ops"])
    ]
    console.table(
        ["#", "source module", "op", "kind", "output", "binary MACs", "float MACs", "constants"],
        rows,
        align="rlnnrrrr",
        optional=("binary MACs", "float MACs", "constants"),
    )


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    return " ".join(dict.fromkeys("x".join(map(str, shape)) for shape in shapes))


def show_verify(console: Console, report: Mapping[str, Any], *, ok: bool) -> None:
    """The report of `verify`."""
    for name, equal in report["pairs"].items():
        count = report.get("compared", {}).get(name)
        left, _, right = name.partition("/")
        text = f"{left} = {right}" + (f" on {count} inputs" if count else "")
        console.good(f"{text}: equal bits") if equal else console.bad(f"{text}: different bits")
    first = report.get("first_difference")
    if first:
        console.bad("the first op that differs: " + ", ".join(f"{key} {value}" for key, value in first.items()))
    agreement = f"the same class as the source model on {percent(report['top1_agreement'])} of {report['images']} inputs"
    detail = f"logit cosine at least {report['logit_cosine_min']:.6f}, error at most {report['logit_error_max']:.3g}"
    (console.good if ok or not report["exact"] else console.bad)(f"{agreement}; {detail}")
    if report["exact"] and report["top1_agreement"] < report["min_agreement"]:
        least = percent(report["min_agreement"])
        console.say(f"      the bits are the same everywhere, but fewer than {least} of the inputs get the source's class")
        console.say("      (with random weights logits are nearly equal, and any rounding decides)")
    accuracy = report.get("accuracy")
    if accuracy:
        console.say(f"      accuracy: source {percent(accuracy['source'])}, artifact {percent(accuracy['artifact'])}")
    flips = [flip for flip in report["flips"] if flip["rate"]]
    if flips:
        worst = max(flips, key=lambda flip: float(flip["rate"]))
        console.say(
            f"      binary codes that differ from PyTorch's: at {len(flips)} of {len(report['flips'])} signs, "
            f"at most {100 * worst['rate']:.3g} % (after {worst['module'] or worst['op']})"
        )
    if side := report.get("side"):
        console.say(
            f"      parameters in {side['kind']} instead of fp32, on {side['images']} inputs: logits move by at most "
            f"{side['logit_error_max']:.3g} (mean {side['logit_error_mean']:.3g}), "
            f"the same class on {percent(side['top1_agreement'])}, {100 * side['codes_changed']:.3g} % of the codes change"
        )
    if forced := report.get("teacher_forced"):
        show_forced(console, forced)


def _forced_cells(row: Mapping[str, Any]) -> list[str]:
    counts = [f"{row[name]:,}".replace(",", " ") for name in ("integers", "codes", "mismatches", "ties", "floats")]
    return [str(row["ops"]), *counts, f"{row['worst']:.1e}" if row["floats"] else "-"]


_FORCED = ["ops", "integers", "codes", "wrong", "ties", "floats", "worst error"]


def show_forced(console: Console, table: Mapping[str, Any]) -> None:
    """The table of a teacher-forced comparison, by kind of op."""
    total = table["total"]
    rows = [(row["kind"], *_forced_cells(row)) for row in (*table["rows"], total)]
    console.table(["kind", *_FORCED], rows, title="every op on the source's operands", align="nrrrrrrr")
    text = f"op by op on {table['images']} images: {total['mismatches']} wrong integers, worst real number {total['worst']:.1e} off"
    console.good(text) if table["ok"] else console.bad(text)
    show_failures(console, table["failures"])
    if table["zeros"]:
        console.say(f"      {table['zeros']} operands of a sign were exactly 0, which is +1 on both sides")


def show_failures(console: Console, failures: Sequence[Mapping[str, Any]]) -> None:
    """Where a teacher-forced comparison found differences."""
    for f in failures:
        console.bad(
            f"{f['kind']} {f['op']} ({f['module'] or 'top level'}): {f['wrong']} of {f['of']} differ on image {f['image']}; "
            f"at row {f['row']}, channel {f['channel']}: {f['ours']:.9g}, source {f['source']:.9g}"
        )


def show_checked(console: Console, checked: CheckedModels) -> None:
    """The teacher-forced comparison of named models."""
    tables = {name: table.as_dict() for name, table in checked.tables.items()}
    rows = [(name, *_forced_cells(table["total"]), "yes" if table["ok"] else "NO") for name, table in tables.items()]
    console.table(["model", *_FORCED, "equal"], rows, align="nrrrrrrrn")
    for name, table in tables.items():
        if not table["ok"]:
            console.say(name, style="bold")
            show_failures(console, table["failures"])
    text = "every integer of every op is the one that PyTorch has, ties apart; real numbers agree to 1e-5"
    console.good(text) if checked.ok else console.bad("some results are not those of PyTorch")


def show_run(console: Console, result: RunResult) -> None:
    """What the model said."""
    for prediction in result.predictions:
        console.say(prediction.image, style="bold")
        rows = [(_share(g.share), visible(g.label) or f"class {g.index}", f"{g.logit:.4f}") for g in prediction.top]
        console.table(["share", "class", "logit"], rows, align="rlr")
    where = f"{result.device}, emulated" if result.emulated else result.device
    console.say(f"{where}; {result.isa} kernels, {result.threads} thread{'s' if result.threads > 1 else ''}", style="dim")


def _share(share: float) -> str:
    return f"{100 * share:5.1f} %" if math.isfinite(share) else "-"


def show_build(console: Console, build: Build) -> None:
    """What was built."""
    elf = build.elf
    kind = "static" if elf.static else f"needs {', '.join(elf.needed)}" + (f", GLIBC {elf.glibc_min}" if elf.glibc_min else "")
    console.say(str(build.program), style="bold")
    console.facts(
        [
            ("board", build.board),
            ("program", f"{elf.machine}, {elf.bits} bit, {kind}, {size(build.files['bvt_run']['bytes'])}"),
            ("compiler", build.toolchain["version"]),
            ("flags", " ".join(build.toolchain["flags"])),
            ("built", "before: found in the cache" if build.cached else f"now, in {build.seconds:.1f} s"),
        ]
    )


def show_profile(console: Console, profile: Profile, *, ops: int | None = None) -> None:
    """Times, where they go, and what speaks against them. `ops`: rows of the per-op table, None for all."""
    label = "emulated: no device time" if profile.emulated else "native"
    console.say(f"{profile.artifact} on {profile.device} ({label}), {profile.timings[0].isa} kernels", style="bold")
    rows = []
    for t in profile.timings:
        w = t.warm_ms
        runs = len(t.samples_ms)
        p90, p99 = (f"{ms:.3f}" if runs >= least else "-" for ms, least in ((w.p90, 10), (w.p99, 100)))  # of fewer they say nothing
        rows.append((t.threads, runs, *(f"{ms:.3f}" for ms in (t.first_ms, w.min, w.p50)), p90, p99, f"{w.max:.3f}"))
    console.table(["threads", "runs", "first ms", "min", "p50", "p90", "p99", "max"], rows, align="rrrrrrrr")
    count = profile.timings[0].threads
    console.heading(
        f"where the time goes with {count} threads: busy time of all {count} threads together, for one inference"
        if count > 1
        else "where the time goes with 1 thread, for one inference"
    )
    _show_kinds(console, profile)
    _show_ops(console, profile, ops)
    _show_golden(console, profile)
    for reason in profile.unstable_because:
        console.note(reason)


def _show_kinds(console: Console, profile: Profile) -> None:
    kinds: dict[str, tuple[int, float, int]] = {}
    for op in profile.ops:
        count, ms, macs = kinds.get(op.kind, (0, 0.0, 0))
        kinds[op.kind] = (count + 1, ms + op.ms, macs + op.macs["binary"] + op.macs["float"])
    total = sum(op.ms for op in profile.ops) or 1.0
    by_time = sorted(kinds.items(), key=lambda item: -item[1][1])
    rows = [(kind, n, f"{ms:.4f}", percent(ms / total), amount(macs), _rate(macs, ms)) for kind, (n, ms, macs) in by_time]
    console.table(["kind", "ops", "busy ms", "share", "MACs", "MAC/s"], rows, align="nrrrrr")


def _show_ops(console: Console, profile: Profile, count: int | None) -> None:
    ranked = sorted(profile.ops, key=lambda op: -op.ms)
    shown = ranked if count is None else ranked[:count]
    rows, above = [], 0.0
    for op in shown:
        above += op.share
        macs = op.macs["binary"] + op.macs["float"]
        times = (f"{op.ms:.4f}", percent(op.share), percent(above))
        rows.append((op.module, op.name, op.kind, *times, amount(macs), _rate(macs, op.ms), size(op.bytes)))
    console.table(
        ["source module", "op", "kind", "busy ms", "share", "sum", "MACs", "MAC/s", "constants"],
        rows,
        align="lnnrrrrrr",
        optional=("MACs", "constants"),
    )
    if len(shown) < len(ranked):
        rest = percent(sum(op.share for op in ranked[len(shown) :]))
        console.say(
            f"and {len(ranked) - len(shown)} more ops, {rest} of the time (bvtdeploy profile --ops 0 shows all)", style="dim"
        )


def _show_golden(console: Console, profile: Profile) -> None:
    checked = sum(t.golden_checked for t in profile.timings)
    equal = sum(t.golden_equal for t in profile.timings)
    if checked:
        (console.good if checked == equal else console.bad)(
            f"{equal} of {checked} golden outputs have equal bits on {profile.device}"
        )


def _rate(macs: int, ms: float) -> str:
    return amount(1000 * macs / ms) if ms and macs else ""


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


def show_tuning(console: Console, tuning: Tuning) -> None:
    """Times of the layouts, and what was chosen."""
    console.say(f"{tuning.output}: layouts for {tuning.device} ({tuning.cpu}), {tuning.isa} kernels", style="bold")
    layouts = list(dict.fromkeys(layout for choice in tuning.choices for layout in choice.ns))
    rows = []
    for choice in tuning.choices:
        times = [f"{choice.ns[layout] / 1000:.1f}" if layout in choice.ns else "" for layout in layouts]
        rows.append(("{} x {} x {}".format(*choice.product), choice.ops, *times, choice.layout.lower()))
    head = ["rows x columns x outputs", "ops", *(f"{layout.lower()} us" for layout in layouts), "chosen"]
    console.table(head, rows, align="nr" + "r" * len(layouts) + "n")
    console.say(f"these products take {100 / tuning.gain:.0f} % of the time that they take with lanes16")
    for reason in tuning.unstable_because:
        console.note(reason)


def show_boards(console: Console, boards: Sequence[Board]) -> None:
    """The boards."""
    rows = [
        (
            b.name,
            b.title,
            b.core,
            b.arch,
            b.cores or "",
            b.clock_mhz or "",
            " ".join(b.features),
            f"qemu:{b.qemu_cpu}" if b.qemu_cpu else "",
        )
        for b in boards
    ]
    console.table(["board", "what", "core", "arch", "cores", "MHz", "features", "emulated as"], rows, align="nlnlrrll")


def show_models(console: Console, models: Sequence[ModelFacts]) -> None:
    """The named models and their costs."""
    rows = [
        (
            m.name,
            m.family,
            "x".join(map(str, m.input_shape)),
            m.classes,
            amount(m.parameters),
            amount(m.macs_binary),
            amount(m.macs_float),
            size(m.packed_bytes),
        )
        for m in models
    ]
    console.table(
        ["model", "family", "input", "classes", "parameters", "binary MACs", "float MACs", "packed"],
        rows,
        align="nlnrrrrr",
        optional=("input", "classes"),
    )
    console.say("weights are random: bvtdeploy models export NAME -o model.pt2 writes one to try the compiler on", style="dim")


def show_exported(console: Console, exported: ExportedModel) -> None:
    """The file that was written."""
    kind = "an exported program" if exported.kind == "pt2" else "a checkpoint"
    console.say(f"{exported.file}: {exported.model} as {kind}, {size(exported.bytes)}, random weights of seed {exported.seed}")


def show_doctor(console: Console, diagnosis: Diagnosis) -> None:
    """What is there and what is not."""
    for finding in diagnosis.findings:
        if finding.present:
            console.good(f"{finding.name}: {finding.found}")
        else:
            say = console.bad if finding.needed else console.note
            say(f"{finding.name}: {finding.found} ({finding.purpose}). Get it: {finding.fix}")


def show_demo(console: Console, part: str, demo: Demo) -> None:
    """One part of the demo, when it is done."""
    if part == "compile" and demo.compiled:
        console.heading(f"1. compile {demo.source.name} for a Raspberry Pi 4")
        show_compile(console, demo.compiled.as_dict(), explain=False)
    elif part == "build":
        console.heading("2. build the program that goes to the board")
        if demo.built:
            show_build(console, demo.built)
        else:
            console.note("left out: see the end")
    elif part == "verify" and demo.verified:
        console.heading("3. verify against PyTorch, and bit by bit")
        show_verify(console, demo.verified.as_dict(), ok=demo.verified.ok)
    elif part == "run":
        console.heading("4. classify real images")
        devices = list(demo.answers[0].answers) if demo.answers else []
        rows = []
        for answer in demo.answers:
            told = [f"{visible(label)} {_share(share).strip()}" for label, share in answer.answers.values()]
            rows.append((answer.image, answer.truth, *told, "equal" if answer.equal else "DIFFERENT"))
        console.table(["image", "it is", *devices, "bits"], rows)
    elif part == "profile":
        console.heading("5. profile, op by op")
        if demo.profiled:
            show_profile(console, demo.profiled, ops=10)
        else:
            console.note("left out: see the end")
        if demo.emulated:  # its times would only mislead
            _show_golden(console, demo.emulated)


def show_demo_end(console: Console, demo: Demo) -> None:
    """What was left out, and the verdict."""
    for skipped in demo.skipped:
        console.note(f"left out: {skipped.what}: {skipped.why}. Get it: {skipped.fix}")
    if demo.ok:
        devices = " and ".join(demo.answers[0].answers) if demo.answers else "host"
        console.good(f"all outputs have equal bits on {devices}; the artifact is {demo.artifact}")
    else:
        console.bad("something does not hold: see above")
