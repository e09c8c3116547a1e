"""Every compiled op, as executed by the C runtime, against its numpy reference in bvtdeploy/ops: equal bits.

A test makes a file of many random ops with constant operands and compares the checksums of all their outputs; `CASES` has one
maker per op kind. Adding an op: add its maker.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.epilogue import PARAMETERS, RESIDUALS, ROLES, THRESHOLDS

from .bvtfile import File, align, logical_bytes
from .conftest import Runner

Rng = np.random.Generator
Expected = dict[tuple[int, int], tuple[str, int]]  # (op, output) -> what it was, checksum


def codes(rng: Rng, *shape: int) -> np.ndarray:
    """+-1 codes; sometimes all alike, which is where counters overflow."""
    if rng.random() < 0.15:
        return np.full(shape, rng.choice([-1, 1]), np.int8)
    return rng.choice(np.array([-1, 1], np.int8), shape)


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
) -> None:
    """Adds an op with constant operands. `inputs`: slot -> (array, layout); `outputs`: (slot, dtype, layout)."""
    with np.errstate(all="ignore"):
        results = REGISTRY[kind].reference(attrs, operands)
    pad = int(rng.choice([0, 0, 4, 60]))
    slots = {i: f.constant(x, layout, 0 if layout != "ROWS" else pad) for i, (x, layout) in inputs.items()}
    values = {}
    for (slot, dtype, layout), result in zip(outputs, results, strict=True):
        values[slot] = f.result(dtype, layout, *result.shape, pad=pad if layout == "ROWS" else 0)
    op = f.op(kind, slots, values, attr, block=block_of(rng, results[0].shape[0]), scratch=scratch)
    for (slot, dtype, layout), result in zip(outputs, results, strict=True):
        form = f"bits {layout}" if dtype == "BITS" else dtype
        shapes = {i: x.shape for i, (x, _) in inputs.items()}
        want[op, slot] = (f"{kind} {attrs} of {shapes} -> {form}{result.shape}", zlib.crc32(logical_bytes(result, form)))


def bgemm(f: File, want: Expected, rng: Rng) -> None:
    n, k, o = int(rng.integers(1, 40)), int(rng.integers(1, 521)), int(rng.integers(1, 70))
    if rng.random() < 0.1:
        k = int(rng.integers(1000, 5000))
    x, w = codes(rng, n, k), codes(rng, o, k)
    add(f, want, "bgemm", {}, {0: (x, "ROWS"), 1: (w, "LANES16")}, [x, w], [(0, "I32", "ROWS")], [], rng)


def dense(f: File, want: Expected, rng: Rng) -> None:
    n, k, o = int(rng.integers(1, 30)), int(rng.integers(1, 60)), int(rng.integers(1, 50))
    operands = [floats(rng, n, k, special=0.001), floats(rng, k, o, special=0.001)]
    if rng.random() < 0.5:
        operands.append(floats(rng, 1, o))
    add(f, want, "dense", {}, {i: (x, "ROWS") for i, x in enumerate(operands)}, operands, [(0, "F32", "ROWS")], [], rng)


def grid(rng: Rng, most: int) -> dict[str, int]:
    h, w = int(rng.integers(1, most)), int(rng.integers(1, most))
    return {"height": h, "width": w, "kernel": int(rng.integers(1, min(h, w, 5) + 1)), "stride": int(rng.integers(1, 4))}


def patches(f: File, want: Expected, rng: Rng) -> None:
    a = {"channels": int(rng.integers(1, 5)), **grid(rng, 30)}
    x = floats(rng, a["channels"] * a["height"], a["width"])
    add(f, want, "patches", a, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], list(a.values()), rng)


def row_patches(f: File, want: Expected, rng: Rng) -> None:
    a = grid(rng, 12)
    shape = (a["height"] * a["width"], int(rng.choice([int(rng.integers(1, 70)), 8, 64, 128])))
    packed = rng.random() < 0.5
    x = codes(rng, *shape) if packed else floats(rng, *shape)
    add(f, want, "row_patches", a, {0: (x, "ROWS")}, [x], [(0, "BITS" if packed else "F32", "ROWS")], list(a.values()), rng)


def avg_pool(f: File, want: Expected, rng: Rng) -> None:
    a = grid(rng, 12)
    x = floats(rng, a["height"] * a["width"], int(rng.integers(1, 70)), special=0.002)
    add(f, want, "avg_pool", a, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], list(a.values()), rng)


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
        [(0, "I32", "ROWS")],
        [heads],
        rng,
        scratch=minimum if rng.random() < 0.3 else max(minimum, wide),
    )


def mean_rows(f: File, want: Expected, rng: Rng) -> None:
    x = floats(rng, int(rng.integers(1, 60)), int(rng.integers(1, 100)), special=0.002)
    add(f, want, "mean_rows", {}, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], [], rng)


def channel_pool(f: File, want: Expected, rng: Rng) -> None:
    g = int(rng.choice([1, 2, 3, 4, 5, 8]))
    x = floats(rng, int(rng.integers(1, 40)), g * int(rng.integers(1, 50)), special=0.01)
    add(f, want, "channel_pool", {"group": g}, {0: (x, "ROWS")}, [x], [(0, "F32", "ROWS")], [g], rng)


def epilogue(f: File, want: Expected, rng: Rng) -> None:
    width = int(rng.integers(1, 7))
    factor = int(rng.choice([1, 2, 3]))
    width *= factor
    n = width * factor * int(rng.integers(1, 5))
    c = int(rng.integers(1, 100)) if rng.random() < 0.7 else int(rng.choice([64, 128, 192]))
    density = rng.random()
    present = [r for r in ROLES[1:] if rng.random() < density]
    has_f32 = bool(rng.random() < 0.5) or not any(r in THRESHOLDS for r in present)
    special = float(rng.choice([0.0, 0.02, 0.3]))
    at: dict[str, np.ndarray] = {}
    is_dots = bool(rng.random() < 0.5)
    at["x"] = rng.integers(-600, 601, (n, c), dtype=np.int32) if is_dots else floats(rng, n, c, special=special)
    factors: dict[str, int] = {}
    for r in present:
        if r in RESIDUALS:
            factors[r] = int(rng.choice([1, factor]))
            cols = int(rng.choice([d for d in range(1, c + 1) if c % d == 0 and (d > 3 or d == c or rng.random() < 0.3)]))
            at[r] = floats(rng, n // factors[r] ** 2, cols, special=special)
        else:
            assert r in PARAMETERS or r in THRESHOLDS
            at[r] = floats(rng, 1, c, special=special)
    thresholds = [r for r in present if r in THRESHOLDS]
    for r in thresholds:  # some thresholds are values that occur
        rows = rng.integers(0, n, c)
        at[r] = np.where(rng.random((1, c)) < 0.3, at["x"][rows, np.arange(c)].astype(np.float32), at[r])
    packed = tuple(int(rng.random() < 0.6) for _ in thresholds)
    attrs = {
        "roles": ("x", *present),
        "results": (("f32",) if has_f32 else ()) + ("bits",) * len(thresholds),
        "factors": tuple(factors[r] for r in present if r in RESIDUALS),
        "width": width,
        "packed": packed,
    }
    outputs = [(0, "F32", "ROWS")] if has_f32 else []
    outputs += [(1 + THRESHOLDS.index(r), "BITS", "ROWS" if p else "COLS") for r, p in zip(thresholds, packed, strict=True)]
    attr = [width, *(factors.get(r, 1) for r in RESIDUALS)]
    add(f, want, "epilogue", attrs, {ROLES.index(r): (x, "ROWS") for r, x in at.items()}, list(at.values()), outputs, attr, rng)


CASES: list[tuple[Callable[[File, Expected, Rng], None], int]] = [
    (bgemm, 60),
    (dense, 25),
    (patches, 12),
    (row_patches, 20),
    (avg_pool, 15),
    (stencil, 25),
    (attention, 30),
    (mean_rows, 8),
    (channel_pool, 20),
    (epilogue, 120),
]


def test_every_opcode_has_cases() -> None:
    from bvtdeploy.artifact import spec

    assert {make.__name__ for make, _ in CASES} == set(spec.OPCODES)


@pytest.mark.parametrize("make,count", CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_equals_reference(make: Callable[[File, Expected, Rng], None], count: int, runner: Runner, tmp_path: Path) -> None:
    f, want = File(), {}
    for seed in range(count):
        make(f, want, np.random.default_rng([seed, sum(map(ord, make.__name__))]))
    model, raw = tmp_path / "m.bvt", tmp_path / "x.f32"
    model.write_bytes(f.finish())
    raw.write_bytes(np.float32(1).tobytes())
    got = {(c["op"], c["output"]): c["crc"] for c in runner.crcs(model, raw)}
    wrong = [what for key, (what, crc) in want.items() if got[key] != crc]
    assert not wrong, f"{len(wrong)} of {len(want)} differ, the first: {wrong[0]}"
