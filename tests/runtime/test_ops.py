"""Every compiled op, as executed by the C runtime, against its numpy reference in bvtdeploy/ops: equal bits.

A test makes a file of many random ops with constant operands and compares the checksums of all their outputs; `CASES` has one
maker per op kind. Adding an op: add its maker.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.dense_i8 import scratch_bytes
from bvtdeploy.ops.epilogue import PARAMETERS, POOLS, RESIDUALS, ROLES, THRESHOLDS

from .bvtfile import File, align, logical_bytes
from .conftest import Runner

Rng = np.random.Generator
Expected = dict[tuple[int, int], tuple[str, int]]  # (op, output) -> what it was, checksum


def codes(rng: Rng, *shape: int) -> np.ndarray:
    """+-1 codes; sometimes all alike, which is where counters overflow."""
    if rng.random() < 0.15:
        return np.full(shape, rng.choice([-1, 1]), np.int8)
    return rng.choice(np.array([-1, 1], np.int8), shape)


def trits(rng: Rng, *shape: int) -> np.ndarray:
    """Codes -1, 0, +1; sometimes all alike."""
    if rng.random() < 0.15:
        return np.full(shape, rng.choice([-1, 0, 1]), np.int8)
    return rng.choice(np.array([-1, 0, 1], np.int8), shape)


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3.4e38, -3.4e38, 1.0, -1.0], np.float32)


def floats(rng: Rng, *shape: int, special: float = 0.02) -> np.ndarray:
    """Floats over a wide range of exponents, some of them special."""
    x = (rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 13, shape)).astype(np.float32)
    return np.where(rng.random(shape) < special, rng.choice(SPECIAL, shape), x).astype(np.float32)


def block_of(rng: Rng, rows: int) -> int:
    return int(rng.choice([8, 16, 24, 64, align(rows, 8)]))


def add(
    f: File,
    want: Expected,
    kind: str,
    attrs: dict[str, Any],
    inputs: dict[int, Any],
    operands: list[np.ndarray],
    outputs: list[tuple[int, str, str]],
    attr: list[int],
    rng: Rng,
    scratch: int = 0,
    fattr: Sequence[float] = (),
) -> None:
    """Adds an op with constant operands. `inputs`: slot -> (array, layout); `outputs`: (slot, dtype, layout)."""
    if f.half:
        attrs, inputs, operands, outputs, scratch = in_half(kind, attrs, inputs, operands, outputs, rng)
    with np.errstate(all="ignore"):
        results = REGISTRY[kind].reference(attrs, operands)
    pad = int(rng.choice([0, 0, 4, 60]))
    slots = {i: f.constant(x, layout, 0 if layout != "ROWS" else pad) for i, (x, layout) in inputs.items()}
    values = {}
    for (slot, dtype, layout), result in zip(outputs, results, strict=True):
        values[slot] = f.result(dtype, layout, *result.shape, pad=pad if layout == "ROWS" else 0)
    op = f.op(kind, slots, values, attr, block=block_of(rng, results[0].shape[0]), scratch=scratch, fattr=fattr)
    for (slot, dtype, layout), result in zip(outputs, results, strict=True):
        form = f"{dtype.lower()} {layout}" if dtype in ("BITS", "TRITS") else dtype
        shapes = {i: x.shape for i, (x, _) in inputs.items()}
        want[op, slot] = (f"{kind} {attrs} of {shapes} -> {form}{result.shape}", zlib.crc32(logical_bytes(result, form)))


def in_half(
    kind: str,
    attrs: dict[str, Any],
    inputs: dict[int, Any],
    operands: list[np.ndarray],
    outputs: list[tuple[int, str, str]],
    rng: Rng,
) -> tuple[dict[str, Any], dict[int, Any], list[np.ndarray], list[tuple[int, str, str]], int]:
    """The arguments of `add` for an op that computes in fp16, or reads it, and its scratch. An epilogue may have f32."""
    reads = kind in ("mean_rows", "layer_norm_rows", "norm_sign")
    keep_x, keep_result = (kind == "epilogue" and rng.random() < 0.3 for _ in range(2))
    keep_result = keep_result and len(operands) > 1  # something is fp16
    changed: dict[int, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for i, x in enumerate(operands):
            stays = x.dtype != np.float32 or (reads and i > 0) or (keep_x and i == 0)
            changed[id(x)] = x if stays else x.astype(np.float16)
    inputs = {slot: (changed[id(x)], layout) for slot, (x, layout) in inputs.items()}
    if not (reads or keep_result):
        outputs = [(slot, "F16" if dtype == "F32" else dtype, layout) for slot, dtype, layout in outputs]
        if kind == "epilogue":
            attrs = {**attrs, "results": tuple("f16" if r == "f32" else r for r in attrs["results"])}
    scratch = 8 * 4 * operands[0].shape[1] if kind in ("layer_norm_rows", "norm_sign") else 0
    return attrs, inputs, [changed[id(x)] for x in operands], outputs, align(scratch)


def bgemm(f: File, want: Expected, rng: Rng) -> None:
    n, k, o = int(rng.integers(1, 40)), int(rng.integers(1, 521)), int(rng.integers(1, 70))
    if rng.random() < 0.1:
        k = int(rng.integers(1000, 5000))
    groups = int(rng.choice([1, 1, 2, 3, 5, 8]))
    if groups > 1:
        k, o = int(rng.integers(1, 80)), groups * int(rng.integers(1, 20))
        if rng.random() < 0.5:  # whole bytes and whole tiles, which kernels take faster
            k, o = 8 * int(rng.integers(1, 40)), groups * 16 * int(rng.integers(1, 5))
    ternary = bool(rng.random() < 0.4)
    x, w = (trits if ternary else codes)(rng, n, groups * k), codes(rng, o, k)
    operands = {0: (x, "TRITS" if ternary else "ROWS"), 1: (w, "LANES16")}
    add(f, want, "bgemm", {"groups": groups}, operands, [x, w], [(0, "I16", "ROWS")], [groups if groups > 1 else 0], rng)


def dense(f: File, want: Expected, rng: Rng) -> None:
    n, k, o = int(rng.integers(1, 30)), int(rng.integers(1, 60)), int(rng.integers(1, 50))
    operands = [floats(rng, n, k, special=0.001), floats(rng, k, o, special=0.001)]
    if rng.random() < 0.5:
        operands.append(floats(rng, 1, o))
    add(f, want, "dense", {}, {i: (x, "ROWS") for i, x in enumerate(operands)}, operands, [(0, "F32", "ROWS")], [], rng)


def dense_i8(f: File, want: Expected, rng: Rng) -> None:
    n, k, o = int(rng.integers(1, 40)), int(rng.integers(1, 100)), int(rng.integers(1, 70))
    if rng.random() < 0.1:
        k = int(rng.integers(500, 1200))
    x = floats(rng, n, k, special=0.001)
    halves = rng.random(n) < 0.3  # whole and half steps, which tie
    x[halves] = (rng.integers(-254, 255, (n, k)) / 2 * 2.0 ** rng.integers(-125, 100, (n, 1))).astype(np.float32)[halves]
    most = rng.random(n) < 0.5
    x[most, rng.integers(0, k, n)[most]] *= 127
    w = rng.integers(-128, 128, (o, k)).astype(np.int8)
    operands = [x, w, floats(rng, 1, o)]
    if rng.random() < 0.5:
        operands.append(floats(rng, 1, o))
    slots = {i: (a, "QUADS" if i == 1 else "ROWS") for i, a in enumerate(operands)}
    add(f, want, "dense_i8", {}, slots, operands, [(0, "F32", "ROWS")], [], rng, scratch=scratch_bytes(k))


def grid(rng: Rng, most: int) -> dict[str, int]:
    h, w = int(rng.integers(1, most)), int(rng.integers(1, most))
    return {"height": h, "width": w, "kernel": int(rng.integers(1, min(h, w, 5) + 1)), "stride": int(rng.integers(1, 4))}


def patches(f: File, want: Expected, rng: Rng) -> None:
    a = {"channels": int(rng.integers(1, 5)), **grid(rng, 30)}
    x = floats(rng, a["channels"] * a["height"], a["width"])
    add(f, want, "patches", a, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], list(a.values()), rng)


def padded(rng: Rng, a: dict[str, int]) -> dict[str, int]:
    """The window of a pool with padding."""
    return {**a, "padding": int(rng.integers(0, a["kernel"]))}


def row_patches(f: File, want: Expected, rng: Rng) -> None:
    a = grid(rng, 12)
    padding, dilation = int(rng.choice([0, 1, 2, 3])), int(rng.choice([1, 1, 2]))
    if dilation * (a["kernel"] - 1) >= min(a["height"], a["width"]) + 2 * padding:
        dilation = 1
    groups = int(rng.choice([1, 1, 2, 4]))
    cols = groups * int(rng.choice([int(rng.integers(1, 40)), 8, 16, 64]))
    a |= {"padding": padding, "dilation": dilation, "groups": groups}
    kind = rng.choice(["F32", "BITS", "TRITS"])
    make = {"F32": floats, "BITS": codes, "TRITS": trits}[kind]
    x = make(rng, a["height"] * a["width"], cols)
    out = "TRITS" if kind == "BITS" and padding else kind
    add(f, want, "row_patches", a, {0: (x, "TRITS" if kind == "TRITS" else "ROWS")}, [x], [(0, out, "ROWS")], list(a.values()), rng)


def avg_pool(f: File, want: Expected, rng: Rng) -> None:
    a = padded(rng, grid(rng, 12))
    x = floats(rng, a["height"] * a["width"], int(rng.integers(1, 70)), special=0.002)
    add(f, want, "avg_pool", a, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], list(a.values()), rng)


def max_pool(f: File, want: Expected, rng: Rng) -> None:
    a = padded(rng, grid(rng, 12))
    x = floats(rng, a["height"] * a["width"], int(rng.integers(1, 70)), special=0.2)
    add(f, want, "max_pool", a, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], list(a.values()), rng)


def norm_operands(rng: Rng) -> tuple[dict[str, Any], list[np.ndarray]]:
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    c = groups * int(rng.choice([int(rng.integers(1, 70)), 8, 64, 192]))
    special = float(rng.choice([0.0, 0.0, 0.002]))
    operands = [rng.standard_normal((int(rng.integers(1, 40)), c)).astype(np.float32), floats(rng, 1, c), floats(rng, 1, c)]
    operands[0] = np.where(rng.random(operands[0].shape) < special, rng.choice(SPECIAL, operands[0].shape), operands[0])
    if rng.random() < 0.2:
        operands[0][0] = 0.25  # a row without variance
    return {"groups": groups, "eps": float(np.float32(rng.choice([0.0, 1e-5, 1e-6, 0.5])))}, operands


def layer_norm_rows(f: File, want: Expected, rng: Rng) -> None:
    attrs, operands = norm_operands(rng)
    inputs = {i: (x, "ROWS") for i, x in enumerate(operands)}
    add(f, want, "layer_norm_rows", attrs, inputs, operands, [(0, "F32", "ROWS")], [attrs["groups"]], rng, fattr=[attrs["eps"]])


def norm_sign(f: File, want: Expected, rng: Rng) -> None:
    attrs, operands = norm_operands(rng)
    if rng.random() < 0.5:
        operands[1:] = [rng.standard_normal((1, operands[0].shape[1])).astype(np.float32) for _ in range(2)]
    layout = "ROWS" if rng.random() < 0.5 else "COLS"
    attrs["packed"] = int(layout == "ROWS")
    inputs = {i: (x, "ROWS") for i, x in enumerate(operands)}
    add(f, want, "norm_sign", attrs, inputs, operands, [(0, "BITS", layout)], [attrs["groups"]], rng, fattr=[attrs["eps"]])


def gather(f: File, want: Expected, rng: Rng) -> None:
    n, parts = int(rng.integers(1, 40)), int(rng.choice([1, int(rng.integers(1, 6))]))
    c = int(rng.choice([int(rng.integers(1, 70)), 8, 64]))
    kind = str(rng.choice(["F32", "BITS", "TRITS"]))
    make = {"F32": floats, "BITS": codes, "TRITS": trits}[kind]
    sources = [make(rng, int(rng.integers(1, 20)), c) for _ in range(int(rng.integers(1, 5)))]
    if kind == "TRITS":
        sources[0][0, 0] = 0  # by which they are known as trits
    zeros = kind != "BITS" or bool(rng.random() < 0.5)
    index = rng.integers(-1 if zeros else 0, sum(map(len, sources)), (n, parts)).astype(np.int32)
    out = "TRITS" if kind == "BITS" and zeros else kind
    inputs = {0: (index, "ROWS")} | {i + 1: (x, "TRITS" if kind == "TRITS" else "ROWS") for i, x in enumerate(sources)}
    add(f, want, "gather", {"ternary": out != kind}, inputs, [*sources, index], [(0, out, "ROWS")], [], rng)


def mixed_gemm(f: File, want: Expected, rng: Rng) -> None:
    n, k, o = int(rng.integers(1, 30)), int(rng.integers(1, 100)), int(rng.integers(1, 70))
    x, w = floats(rng, n, k, special=0.001), codes(rng, o, k)
    add(f, want, "mixed_gemm", {}, {0: (x, "ROWS"), 1: (w, "LANES16")}, [x, w], [(0, "F32", "ROWS")], [], rng)


def activation(f: File, want: Expected, rng: Rng) -> None:
    x = floats(rng, int(rng.integers(1, 40)), int(rng.integers(1, 90)), special=0.05)
    x = np.where(rng.random(x.shape) < 0.5, rng.uniform(-7, 7, x.shape), x).astype(np.float32)
    low, high = sorted(float(v) for v in floats(rng, 2, special=0))
    gelu = bool(rng.random() < 0.6)
    attrs: dict[str, Any] = {"kind": "gelu"} if gelu else {"kind": "clamp", "low": low, "high": high}
    limits = () if gelu else (low, high)
    add(f, want, "activation", attrs, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], [int(not gelu)], rng, fattr=limits)


def multiply(f: File, want: Expected, rng: Rng) -> None:
    n, c = int(rng.integers(1, 40)), int(rng.integers(1, 90))
    operands = [floats(rng, n, c), floats(rng, n, int(rng.choice([1, c])))]
    add(f, want, "multiply", {}, {i: (x, "ROWS") for i, x in enumerate(operands)}, operands, [(0, "F32", "ROWS")], [], rng)


def stencil(f: File, want: Expected, rng: Rng) -> None:
    h, w, c, t = (int(rng.integers(1, most)) for most in (12, 12, 70, 17))
    offsets = [
        (int(rng.integers(-min(h, 127) + 1, min(h, 127))), int(rng.integers(-min(w, 127) + 1, min(w, 127)))) for _ in range(t)
    ]
    circular = bool(rng.random() < 0.5)
    operands = [floats(rng, h * w, c, special=0.002), floats(rng, t, c, special=0.002)]
    if rng.random() < 0.5:
        operands.append(floats(rng, 1, c))
    attrs = {"height": h, "width": w, "offsets": tuple(offsets), "boundary": "circular" if circular else "zero"}
    attr = [h, w, t, int(circular), *((dy & 255) | (dx & 255) << 8 for dy, dx in offsets)]
    add(f, want, "stencil", attrs, {i: (x, "ROWS") for i, x in enumerate(operands)}, operands, [(0, "F32", "ROWS")], attr, rng)


def attention(f: File, want: Expected, rng: Rng) -> None:
    n, m, heads = int(rng.integers(1, 40)), int(rng.integers(1, 210)), int(rng.integers(1, 5))
    d = int(rng.choice([int(rng.integers(1, 80)), 8, 16, 32, 64, 64, 128, 255, 256, 300]))
    q, k, v = codes(rng, n, heads * d), codes(rng, m, heads * d), codes(rng, m, heads * d)
    if rng.random() < 0.5:  # queries near keys, so that scores spread
        near = k[rng.integers(0, m, n)]
        q = np.where(rng.random(q.shape) < 0.2, q, near).astype(np.int8)
    scale = float(rng.choice([0.02, 0.1, 0.5]))
    top = int((2**53 - 1) // m)
    table = np.minimum(np.floor(np.exp(-2 * scale * np.arange(d + 1)) * float(rng.choice([255.0, 2.0**30, top * 0.99]))), top)
    limit = rng.choice([0.25 / m, 1.0 / m, 0.5, 0.0, 2.0 / m, -1.0, np.inf, np.nan], (1, heads))
    operands = [q, k, v, table.astype(np.uint64).reshape(1, -1), limit]
    layouts = ["ROWS", "ROWS", "COLS", "ROWS", "ROWS"]
    minimum = align(2 * m) + align(-(-m // 64) * 8)
    wide = align(16 * m) + align(16 * -(-m // 8))
    add(
        f,
        want,
        "attention",
        {"heads": heads},
        dict(enumerate(zip(operands, layouts, strict=True))),
        operands,
        [(0, "I16", "ROWS")],
        [heads, 1, 1, 0, 0],
        rng,
        scratch=minimum if rng.random() < 0.3 else max(minimum, wide),
    )


def mean_rows(f: File, want: Expected, rng: Rng) -> None:
    groups = int(rng.choice([1, 1, 2, 7, 19]))
    x = floats(rng, groups * int(rng.integers(1, 30)), int(rng.integers(1, 100)), special=0.002)
    add(f, want, "mean_rows", {"groups": groups}, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], [groups if groups > 1 else 0], rng)


def channel_pool(f: File, want: Expected, rng: Rng) -> None:
    g = int(rng.choice([1, 2, 3, 4, 5, 6, 8, 12]))
    x = floats(rng, int(rng.integers(1, 40)), g * int(rng.integers(1, 50)), special=0.01)
    add(f, want, "channel_pool", {"group": g}, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], [g], rng)


def epilogue(f: File, want: Expected, rng: Rng) -> None:
    width = int(rng.integers(1, 7))
    factor = int(rng.choice([1, 2, 3]))
    width *= factor
    n = width * factor * int(rng.integers(1, 5))
    c = int(rng.integers(1, 100)) if rng.random() < 0.7 else int(rng.choice([64, 128, 192]))
    density = rng.random()
    present = [r for r in ROLES[1:] if r != "rows" and rng.random() < density]
    present = [r for r in present if r != "knee" or "slope" in present]
    has_f32 = bool(rng.random() < 0.5) or not any(r in THRESHOLDS for r in present)
    special = float(rng.choice([0.0, 0.02, 0.3]))
    at: dict[str, np.ndarray] = {}
    is_dots = bool(rng.random() < 0.5)
    at["x"] = rng.integers(-600, 601, (n, c), dtype=np.int32) if is_dots else floats(rng, n, c, special=special)
    factors: dict[str, int] = {}
    table_rows = int(rng.integers(1, 30))
    for r in present:
        if r in RESIDUALS:
            factors[r] = int(rng.choice([0, 1, 1, factor, factor]))
            cols = int(rng.choice([d for d in range(1, c + 1) if c % d == 0 and (d > 3 or d == c or rng.random() < 0.3)]))
            count = n // factors[r] ** 2 if factors[r] else table_rows
            at[r] = floats(rng, count, cols, special=special)
        else:
            assert r in PARAMETERS or r in THRESHOLDS
            at[r] = floats(rng, 1, c, special=special)
    thresholds = [r for r in present if r in THRESHOLDS]
    for r in thresholds:  # some thresholds are values that occur
        rows = rng.integers(0, n, c)
        at[r] = np.where(rng.random((1, c)) < 0.3, at["x"][rows, np.arange(c)].astype(np.float32), at[r])
    packed = tuple(int(rng.random() < 0.6) for _ in thresholds)
    kinds = ["TRITS" if rng.random() < 0.4 else "BITS" for _ in thresholds]
    for r, kind in zip(thresholds, kinds, strict=True):
        if kind == "TRITS":
            gap = np.abs(floats(rng, 1, c, special=0)) * rng.integers(0, 2, (1, c))
            at[r] = np.concatenate([at[r] - gap, at[r]]).astype(np.float32)
    if 0 in factors.values():
        present.append("rows")
        at["rows"] = rng.integers(0, table_rows, (1, n)).astype(np.int32)
    attrs = {
        "roles": ("x", *present),
        "results": (("f32",) if has_f32 else ()) + tuple(kind.lower() for kind in kinds),
        "factors": tuple(factors[r] for r in present if r in RESIDUALS),
        "width": width,
        "packed": packed,
    }
    pool = int(rng.choice([g for g in (1, 1, 1, *POOLS) if c % g == 0])) if has_f32 else 1
    if pool > 1:
        attrs["pool"] = pool
    outputs = [(0, "F32", "ROWS")] if has_f32 else []
    for r, kind, p in zip(thresholds, kinds, packed, strict=True):
        outputs.append((1 + THRESHOLDS.index(r), kind, "ROWS" if p else "COLS"))
    attr = [width, *(factors.get(r, 1) for r in RESIDUALS), 0, pool if pool > 1 else 0]
    add(f, want, "epilogue", attrs, {ROLES.index(r): (x, "ROWS") for r, x in at.items()}, list(at.values()), outputs, attr, rng)


CASES: list[tuple[Callable[[File, Expected, Rng], None], int]] = [
    (bgemm, 90),
    (dense, 25),
    (dense_i8, 60),
    (patches, 12),
    (row_patches, 50),
    (avg_pool, 15),
    (stencil, 25),
    (attention, 30),
    (mean_rows, 12),
    (channel_pool, 20),
    (layer_norm_rows, 30),
    (norm_sign, 30),
    (gather, 40),
    (mixed_gemm, 20),
    (max_pool, 20),
    (activation, 25),
    (multiply, 10),
    (epilogue, 120),
]


def test_every_opcode_has_cases() -> None:
    from bvtdeploy.artifact import spec

    assert {make.__name__ for make, _ in CASES} == set(spec.OPCODES)


HALF = {"epilogue", "stencil", "channel_pool", "avg_pool", "max_pool", "gather", "mean_rows", "layer_norm_rows", "norm_sign"}
HALF_CASES = [(make, count) for make, count in CASES if make.__name__ in HALF]


@pytest.mark.parametrize("make,count", HALF_CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_equals_float16_of_numpy(make: Callable[[File, Expected, Rng], None], count: int, runner: Runner, tmp_path: Path) -> None:
    f, want = File(half=True), {}
    for seed in range(count):
        make(f, want, np.random.default_rng([seed, sum(map(ord, make.__name__)), 16]))
    run_and_compare(f, want, runner, tmp_path)


@pytest.mark.parametrize("make,count", CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_equals_reference(make: Callable[[File, Expected, Rng], None], count: int, runner: Runner, tmp_path: Path) -> None:
    f, want = File(), {}
    for seed in range(count):
        make(f, want, np.random.default_rng([seed, sum(map(ord, make.__name__))]))
    run_and_compare(f, want, runner, tmp_path)


def run_and_compare(f: File, want: Expected, runner: Runner, tmp_path: Path) -> None:
    model, raw = tmp_path / "m.bvt", tmp_path / "x.f32"
    model.write_bytes(f.finish())
    raw.write_bytes(np.float32(1).tobytes())
    got = {(c["op"], c["output"]): c["crc"] for c in runner.crcs(model, raw)}
    wrong = [what for key, (what, crc) in want.items() if got[key] != crc]
    assert not wrong, f"{len(wrong)} of {len(want)} differ, the first: {wrong[0]}"
