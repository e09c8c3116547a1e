"""attention in all its forms, as the C runtime executes it, against the numpy reference: equal bits. And refusals."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bvtdeploy.artifact import spec
from bvtdeploy.ir.types import BIPOLAR, TERNARY, bits
from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.attention import ROLES, is_plain, largest_result, scratch_of, table_entries
from bvtdeploy.ops.dots import MOST_I16

from .bvtfile import Array, File, align, logical_bytes, pack_rows
from .conftest import Runner

Rng = np.random.Generator


def plane_rows(x: Array) -> Array:
    """A plane of bits, rows padded to 8 bytes."""
    stride = align(-(-x.shape[1] // 8), 8)
    return np.frombuffer(pack_rows(x, stride), np.uint8).reshape(x.shape[0], stride)


def operand(f: File, x: Array, ternary: bool, layout: str = "ROWS") -> int:
    """A constant of codes: bits, or trits in their two planes (+1; not 0)."""
    if not ternary:
        return f.constant(x, layout)
    lines = x if layout == "ROWS" else np.ascontiguousarray(x.T)
    data = np.concatenate([plane_rows((lines > 0).astype(np.int8)), plane_rows((lines != 0).astype(np.int8))], axis=1)
    f.constants += bytes(align(len(f.constants)) - len(f.constants))
    at, index = len(f.constants), len(f.values)
    f.constants += data.tobytes()
    f.values.append(
        {
            "name": f.name(f"v{index}"),
            "dtype": spec.DTYPES["TRITS"],
            "layout": spec.LAYOUTS[layout],
            "rows": x.shape[0],
            "cols": x.shape[1],
            "storage": spec.STORAGES["CONST"],
            "stride": data.shape[1],
            "offset": at,
            "bytes": data.size,
        }
    )
    return index


def codes(rng: Rng, n: int, c: int, ternary: bool) -> Array:
    if rng.random() < 0.1:
        return np.full((n, c), rng.choice([-1, 1]), np.int8)
    return rng.choice(np.array([-1, 0, 1] if ternary else [-1, 1], np.int8), (n, c))


def random_attention(rng: Rng) -> tuple[dict[str, Any], dict[str, Array], tuple[bool, bool, bool]]:
    """attrs, the inputs by role, which of q, k, v are ternary."""
    windows = int(rng.choice([1, 1, 2, 3, 7]))
    nq, nk = int(rng.integers(1, 70 if windows == 1 else 20)), int(rng.integers(1, 200 if windows == 1 else 75))
    heads, d = int(rng.integers(1, 4)), int(rng.choice([int(rng.integers(1, 80)), 8, 16, 32, 64, 128, 130]))
    ternary = tuple(bool(t) for t in rng.random(3) < rng.choice([0.0, 0.4, 1.0]))
    planes, density = int(rng.integers(1, 4)), rng.random()
    q, k, v = (codes(rng, windows * n, heads * d, t) for n, t in zip((nq, nk, nk), ternary, strict=True))
    if rng.random() < 0.5 and not ternary[1]:  # queries near keys, so that scores spread
        q = np.where(rng.random(q.shape) < 0.2, q, k[rng.integers(0, len(k), len(q))]).astype(np.int8)
    at: dict[str, Array] = {"q": q, "k": k, "v": v}
    zero_points = rng.integers(-3, 4, heads) if rng.random() < density else np.zeros(heads, int)
    unit = 1 if ternary[0] or ternary[1] else 2
    entries = table_entries(d, int(np.abs(zero_points).max()), unit) + int(rng.choice([0, 0, 5]))
    top = (2**53 - 1) // nk
    decay = float(rng.choice([0.02, 0.1, 0.5])) * unit
    table = np.minimum(np.floor(np.exp(-decay * np.arange(entries)) * float(rng.choice([255.0, 2.0**30, top * 0.99]))), top)
    tables = heads if rng.random() < 0.3 else 1
    at["table"] = np.stack([np.floor(table * 0.7**h) for h in range(tables)]).astype(np.uint64)
    choices = [0.25 / nk, 1.0 / nk, 0.5, 0.25, 0.0, 2.0 / nk, 1.0, *([-1.0, np.inf, np.nan] if rng.random() < 0.2 else [])]
    at["limit"] = rng.choice(choices, (planes, heads))
    real = rng.random() < 0.3
    if rng.random() < 0.7 or zero_points.any():
        ints = rng.integers(-4, 5, (3 + planes, heads)).astype(np.int32)
        ints[0] = zero_points
        ints[1:3] *= int(not real and rng.random() < 0.6)
        ints[3:] *= int(rng.choice([1, 1, 300]))  # results beyond 16 bits
        if rng.random() < 0.6:
            ints[3:] = ints[3]
        at["ints"] = ints
    if real:
        at["real_steps"] = (rng.standard_normal((planes, heads)) * 3).astype(np.float32)
    if rng.random() < density:
        classes, pairs = int(rng.integers(1, 4)), int(rng.integers(1, 30))
        at["bias"] = np.exp(rng.standard_normal((pairs, heads)) * 2) * rng.choice([1.0, 1e-44], (pairs, heads), p=[0.8, 0.2])
        at["pattern"] = rng.integers(0, pairs, (classes * nq, nk)).astype(np.int32)
        at["window_class"] = rng.integers(0, classes, (1, windows)).astype(np.int32)
    attrs = {
        "roles": tuple(r for r in ROLES if r in at),
        "heads": heads,
        "windows": windows,
        "planes": planes,
        "unit": unit,
        "references": tuple(str(rng.choice(["sum", "max"])) for _ in range(planes)),
        "inclusive": tuple(bool(i) for i in rng.random(planes) < 0.5),
    }
    return attrs, at, (ternary[0], ternary[1], ternary[2])


def add(f: File, attrs: dict[str, Any], at: dict[str, Array], ternary: tuple[bool, bool, bool], rng: Rng) -> tuple[int, Array]:
    """Adds the op to a file; its index and result."""
    (result,) = REGISTRY["attention"].reference(attrs, list(at.values()))
    layouts = {"v": "COLS" if attrs["windows"] == 1 else "ROWS"}
    slots = {
        ROLES.index(r): operand(f, x, ternary["qkv".index(r)], layouts.get(r, "ROWS"))
        if r in ("q", "k", "v")
        else f.constant(x, pad=int(rng.choice([0, 8])))
        for r, x in at.items()
    }
    types = [bits(*at[r].shape, alphabet=TERNARY if t else BIPOLAR) for r, t in zip("qkv", ternary, strict=True)]
    planes = list(zip(attrs["references"], attrs["inclusive"], strict=True))
    masks = [sum(1 << t for t, (r, _) in enumerate(planes) if r == "max"), sum(1 << t for t, (_, i) in enumerate(planes) if i)]
    rows, cols = result.shape
    most = largest_result(len(at["k"]) // attrs["windows"], attrs["planes"], at.get("ints"))
    dtype = "F32" if "real_steps" in at else "I16" if most <= MOST_I16 else "I32"
    out = f.result(dtype, "ROWS", rows, cols, pad=int(rng.choice([0, 4])))
    block = int(rng.choice([8, 16, 24, 64, align(rows, 8)]))
    attr = [attrs["heads"], attrs["windows"], len(planes), *masks]
    op = f.op("attention", slots, {0: out}, attr, block=block, scratch=align(scratch_of(attrs, types[0], types[1], types[2])))
    return op, result


def test_equals_reference(runner: Runner, tmp_path: Path) -> None:
    f, want, special = File(), {}, 0
    for seed in range(150):
        rng = np.random.default_rng([seed, 8])
        attrs, at, ternary = random_attention(rng)
        op, result = add(f, attrs, at, ternary, rng)
        text = f"{attrs} of { {r: x.shape for r, x in at.items()} }, ternary {ternary}"
        want[op] = (text, zlib.crc32(logical_bytes(result, "")))
        special += not is_plain(attrs, *(bits(*at[r].shape) for r in "qkv"))
    assert special > 100
    model, raw = tmp_path / "m.bvt", tmp_path / "x.f32"
    model.write_bytes(f.finish())
    raw.write_bytes(np.float32(1).tobytes())
    got = {c["op"]: c["crc"] for c in runner.crcs(model, raw)}
    wrong = [text for op, (text, crc) in want.items() if got[op] != crc]
    assert not wrong, f"{len(wrong)} of {len(want)} differ, the first: {wrong[0]}"


def small(**changes: Any) -> tuple[dict[str, Any], dict[str, Array]]:
    """An attention with everything, two windows of 2 queries and 3 keys, 2 heads of 4; changes by role or attribute."""
    rng = np.random.default_rng(0)
    at: dict[str, Array] = {r: codes(rng, n, 8, False) for r, n in (("q", 4), ("k", 6), ("v", 6))}
    at["table"] = np.arange(20, 0, -1).astype(np.uint64).reshape(1, -1)
    at["limit"] = np.full((1, 2), 0.3)
    at["ints"] = np.array([[1, -1], [1, 0], [0, 1], [2, 2]], np.int32)
    at["bias"] = np.array([[0.5, 1.0], [2.0, 0.0]])
    at["pattern"] = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]], np.int32)
    at["window_class"] = np.array([[1, 0]], np.int32)
    attrs: dict[str, Any] = {"heads": 2, "windows": 2, "planes": 1, "unit": 2, "references": ("sum",), "inclusive": (False,)}
    return attrs | {"roles": tuple(at)}, at | changes


def altered(x: Array, at: tuple[int, int], value: float) -> Array:
    """A copy with one element changed."""
    x = x.copy()
    x[at] = value
    return x


SMALL = small()[1]
REFUSED = [
    ("table", altered(SMALL["table"], (0, 5), 21), "increases"),
    ("table", np.repeat(SMALL["table"], 3, axis=0), "the table"),
    ("table", np.stack([SMALL["table"][0], np.full(20, 1 << 52)]).astype(np.uint64), "too large"),
    ("table", SMALL["table"] * np.uint64(1 << 51), "too large"),
    ("table", SMALL["table"][:, :8], "too short"),
    ("ints", altered(SMALL["ints"], (0, 0), 5), "too short"),
    ("ints", altered(SMALL["ints"], (0, 1), -(2**31)), "too short"),
    ("ints", altered(SMALL["ints"], (3, 0), 1 << 28), "beyond 2^24"),
    ("ints", altered(SMALL["ints"], (1, 0), -(2**31)), "beyond 2^24"),
    ("ints", altered(SMALL["ints"], (3, 0), 1 << 13), "the output has the wrong type"),  # 16 bits, and 3 * 2^13 * 2 may come
    ("ints", SMALL["ints"][:3], "ints"),
    ("limit", SMALL["limit"][:, :1], "limit"),
    ("limit", SMALL["limit"].astype(np.float32), "limit"),
    ("bias", altered(SMALL["bias"], (0, 0), -1.0), "finite factor"),
    ("bias", altered(SMALL["bias"], (1, 1), np.inf), "finite factor"),
    ("bias", altered(SMALL["bias"], (1, 1), np.nan), "finite factor"),
    ("bias", SMALL["bias"][:1], "beyond the bias"),
    ("pattern", altered(SMALL["pattern"], (3, 2), 2), "beyond the bias"),
    ("pattern", altered(SMALL["pattern"], (0, 0), -1), "beyond the bias"),
    ("pattern", SMALL["pattern"][:3], "whole windows"),
    ("pattern", SMALL["pattern"][:, :2], "the pattern"),
    ("pattern", SMALL["pattern"][:2], "class is out of range"),
    ("window_class", np.array([[1, 2]], np.int32), "class is out of range"),
    ("window_class", np.array([[-1, 0]], np.int32), "class is out of range"),
    ("window_class", np.array([[1]], np.int32), "classes"),
    ("real_steps", np.ones((1, 2), np.float32), "real levels have no base"),
    ("pattern", None, "come together"),
    ("attr0", 3, "divide the columns"),
    ("attr1", 3, "divide queries and keys"),
    ("attr1", -1, "out of range"),
    ("attr1", 1, "has the wrong type"),
    ("attr2", 4, "out of range"),
    ("attr2", 2, "limit"),
    ("attr3", 2, "planes that it does not have"),
    ("attr4", -1, "planes that it does not have"),
    ("attr5", 1, "unused attribute"),
    ("scratch", 64, "scratch"),
]


@pytest.mark.parametrize("what,value,text", REFUSED)
def test_refused(what: str, value: Any, text: str, native: Path, tmp_path: Path) -> None:
    f = File()
    attrs, at = small()
    op, _ = add(f, attrs, at, (False, False, False), np.random.default_rng(0))
    if what.startswith("attr"):
        f.ops[op]["attr"][int(what[4:])] = value
    elif what == "scratch":
        f.ops[op]["scratch"] = value
    else:
        f.ops[op]["inputs"][ROLES.index(what)] = spec.NONE if value is None else f.constant(value)
    model, raw = tmp_path / "m.bvt", tmp_path / "x.f32"
    model.write_bytes(f.finish())
    raw.write_bytes(np.float32(1).tobytes())
    done = Runner((str(native),), "ref")(model, "--raw", raw, code=2)
    assert "attention" in done.stderr and text in done.stderr


@pytest.mark.parametrize("seed", range(12))
def test_scratch_is_what_the_check_computes(seed: int, native: Path, tmp_path: Path) -> None:
    """64 bytes less than `scratch_of` are refused; the odd seeds are of the plain form."""
    rng = np.random.default_rng([seed, 9])
    attrs, at, ternary = random_attention(rng)
    if seed % 2:
        at = {r: at[r] for r in ROLES[:5]} | {r: codes(rng, len(at[r]), at[r].shape[1], False) for r in ("q", "k", "v")}
        at["table"], at["limit"] = np.repeat(at["table"][:1, :1], 400, axis=1), at["limit"][:1]
        attrs |= {"roles": ROLES[:5], "windows": 1, "planes": 1, "unit": 2, "references": ("sum",), "inclusive": (False,)}
        at["table"] //= np.uint64(8)  # all keys are in one window now
        ternary = (False, False, False)
    model, raw = tmp_path / "m.bvt", tmp_path / "x.f32"
    raw.write_bytes(np.float32(1).tobytes())
    f = File()
    op, result = add(f, attrs, at, ternary, rng)
    f.ops[op]["scratch"] -= spec.ALIGN
    model.write_bytes(f.finish())
    assert "its scratch is too small" in Runner((str(native),), "ref")(model, "--raw", raw, code=2).stderr
    f.ops[op]["scratch"] += spec.ALIGN
    model.write_bytes(f.finish())
    got = {c["op"]: c["crc"] for c in Runner((str(native),), "ref").crcs(model, raw)}
    assert got[op] == zlib.crc32(logical_bytes(result, ""))


def test_small_one_is_accepted(native: Path, tmp_path: Path) -> None:
    """What the refusals are changes of."""
    f = File()
    attrs, at = small()
    op, result = add(f, attrs, at, (False, False, False), np.random.default_rng(0))
    model, raw = tmp_path / "m.bvt", tmp_path / "x.f32"
    model.write_bytes(f.finish())
    raw.write_bytes(np.float32(1).tobytes())
    got = {c["op"]: c["crc"] for c in Runner((str(native),), "ref").crcs(model, raw)}
    assert got[op] == zlib.crc32(logical_bytes(result, ""))
