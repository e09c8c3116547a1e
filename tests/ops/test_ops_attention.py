"""Integer attention against the float definition: a = clip * clamp(round(softmax(q k / sqrt d) / clip), 0, 1), o = a v."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvtdeploy.ir.types import BIPOLAR, TERNARY, UNIPOLAR, Type, bits, f32, i32
from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.attention import ROLES, attend, table_entries
from bvtdeploy.passes.attention import softmax_table

Array = npt.NDArray[Any]


def signs(rng: np.random.Generator, *shape: int) -> Array:
    return rng.choice(np.array([-1, 1], np.int8), shape)


def float_mask(q: Array, k: Array, clip: float, scale: float) -> tuple[Array, Array]:
    """(a / clip, p / clip): the definition in float64, np.rint is half to even."""
    s = q.astype(np.float64) @ k.T.astype(np.float64) * scale
    e = np.exp(s - s.max(1, keepdims=True))
    ratio = e / e.sum(1, keepdims=True) / clip
    return np.clip(np.rint(ratio), 0, 1), ratio


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (3, 5, 7), (8, 4, 8), (17, 33, 64), (4, 1000, 64), (5, 300, 16)])
def test_against_the_float_definition(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n * m + d)
    for clip in (0.004, 0.02, 0.1, 0.31, 0.7, 1.0, 1.9, 2.1):
        q, k, v = signs(rng, n, d), signs(rng, m, d), signs(rng, m, d)
        a, ratio = float_mask(q, k, clip, d**-0.5)
        assert not (np.abs(ratio - 0.5) < 1e-7).any() or m == 1, "the test must stand clear of rounding"
        out = attend(q, k, v, softmax_table(d, d**-0.5, m)[0], 0.5 * clip)
        assert out.dtype == np.int32 and np.array_equal(out, a @ v)


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 40), st.integers(1, 20), st.floats(0.01, 2.5), st.floats(0.05, 2))
def test_mask_wherever_the_float_definition_is_clear(seed: int, n: int, m: int, d: int, clip: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    q, k = signs(rng, n, d), signs(rng, m, d)
    a, ratio = float_mask(q, k, clip, scale)
    clear = (np.abs(ratio - 0.5) > 1e-6).all(axis=1)
    if m > d:
        return  # V is the identity in +-1: column c shows whether key c is taken, through the difference of two runs
    v = np.ones((m, d), np.int8)
    w = v.copy()
    w[np.arange(m), np.arange(m)] = -1
    table, limit = softmax_table(d, scale, m)[0], 0.5 * clip
    mask = (attend(q, k, v, table, limit) - attend(q, k, w, table, limit))[:, :m] // 2
    assert np.array_equal(mask[clear], a[clear])


def test_exact_ties_are_zero() -> None:
    """Four equal keys: p = 1/4 exactly; p/clip = 1/2 rounds to the even 0. A hair below the tie is 1, above is 0."""
    q = np.ones((1, 8), np.int8)
    k = np.repeat(signs(np.random.default_rng(0), 1, 8), 4, 0)
    v = np.ones((4, 8), np.int8)
    table = softmax_table(8, 8**-0.5, 4)[0]
    for clip, want in ((0.5, 0), (np.nextafter(0.5, 0), 4), (np.nextafter(0.5, 1), 0)):
        assert attend(q, k, v, table, 0.5 * clip).tolist() == [[want] * 8]
        assert float_mask(q, k, 0.5, 8**-0.5)[0].sum() == 0


def test_rows_without_any_key_are_zero() -> None:
    rng = np.random.default_rng(0)
    q, k, v = signs(rng, 3, 16), signs(rng, 9, 16), signs(rng, 9, 16)
    assert not attend(q, k, v, softmax_table(16, 0.25, 9)[0], 1.0).any(), "clip = 2: no probability is above 1"


def test_single_key() -> None:
    v = np.array([[1, -1]], np.int8)
    table = softmax_table(2, 1.0, 1)[0]
    assert attend(v, v, v, table, 0.49).tolist() == [[1, -1]]
    assert attend(v, v, v, table, 1.0).tolist() == [[0, 0]]


def test_heads_are_independent() -> None:
    rng = np.random.default_rng(2)
    q, k, v = signs(rng, 5, 12), signs(rng, 6, 12), signs(rng, 6, 12)
    table, limit = softmax_table(4, 0.5, 6), np.array([[0.05, 0.1, 0.2]])
    (out,) = REGISTRY["attention"].reference({"heads": 3}, [q, k, v, table, limit])
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        assert np.array_equal(out[:, part], attend(q[:, part], k[:, part], v[:, part], table[0], float(limit[0, h])))
    source = [np.ascontiguousarray(z.reshape(-1, 3, 4).transpose(1, 0, 2))[None] for z in (q, k, v)]
    (same,) = REGISTRY["binary_attention"].reference({}, [*source, table, limit])
    assert np.array_equal(same[0].transpose(1, 0, 2).reshape(5, 12), out)


@pytest.mark.parametrize("keys", [1, 49, 196, 4095, 4096, 50_000, 10**9])
def test_table(keys: int) -> None:
    """Decreasing, exact to half a unit, and so small that Z is an exact integer and an exact double."""
    table = softmax_table(64, 0.125, keys)[0]
    assert table.dtype == np.uint64 and len(table) == 65 and (np.diff(table.astype(object)) <= 0).all()
    assert int(table[0]) * keys < 2**53 and int(table[0]) in (1 << b for b in range(53))
    exact = [Fraction(np.exp(np.longdouble(-0.25) * i).astype(float)) * int(table[0]) for i in range(65)]
    assert all(abs(int(t) - e) <= Fraction(51, 100) for t, e in zip(table, exact, strict=True))


def test_strong_scales_underflow_to_zero_and_take_the_maximum_only() -> None:
    rng = np.random.default_rng(3)
    q, k, v = signs(rng, 20, 32), signs(rng, 10, 32), signs(rng, 10, 32)
    table = softmax_table(32, 50.0, 10)[0]
    assert not table[1:].any()
    dots = q.astype(int) @ k.T
    best = (dots == dots.max(1, keepdims=True)) & ((dots == dots.max(1, keepdims=True)).sum(1, keepdims=True) < 5)
    assert np.array_equal(attend(q, k, v, table, 0.2), best.astype(int) @ v)


def trits(rng: np.random.Generator, *shape: int) -> Array:
    return rng.choice(np.array([-1, 0, 1], np.int8), shape)


def general_case(seed: int, real: bool) -> tuple[dict[str, Any], dict[str, Array], dict[str, Any]]:
    """attrs, inputs by role, and what the float definition needs: scale, zk, the bias before exp, tau a plane and head."""
    rng = np.random.default_rng(seed)
    windows, heads, d, nq, nk, planes = (int(rng.integers(1, most)) for most in (4, 4, 20, 6, 12, 4))
    ternary = rng.random(3) < 0.4
    q, k, v = ((trits if t else signs)(rng, windows * n, heads * d) for n, t in zip((nq, nk, nk), ternary, strict=True))
    unit, scale = (1 if ternary[0] or ternary[1] else 2), float(rng.uniform(0.05, 0.6))
    zq = rng.integers(-2, 3, heads)
    entries = table_entries(d, int(np.abs(zq).max()), unit)
    scales = scale * rng.uniform(0.5, 1.5, heads) if rng.random() < 0.3 else np.array([scale])  # one for all heads, or one a head
    table = np.concatenate([softmax_table(entries - 1, one * unit / 2, nk) for one in scales])
    tau = rng.uniform(0.2, 2.0, (planes, heads)) / nk
    ints = np.array([zq, rng.integers(-2, 3, heads), *rng.integers(-3, 4, (1 + planes, heads))], np.int32)
    if real:
        ints[1:3] = 0
    at: dict[str, Array] = {"q": q, "k": k, "v": v, "table": table, "limit": tau, "ints": ints}
    if real:
        at["real_steps"] = rng.standard_normal((planes, heads)).astype(np.float32)
    added = np.zeros((windows, heads, nq, nk))
    if rng.random() < 0.6:
        classes, pairs = int(rng.integers(1, 3)), int(rng.integers(1, 8))
        log = rng.standard_normal((pairs, heads)) - 100 * (rng.random((pairs, 1)) < 0.2)
        at["bias"] = np.exp(log)
        at["pattern"] = rng.integers(0, pairs, (classes * nq, nk)).astype(np.int32)
        at["window_class"] = rng.integers(0, classes, (1, windows)).astype(np.int32)
        added = log[at["pattern"].reshape(classes, nq, nk)[at["window_class"][0]]].transpose(0, 3, 1, 2)
    attrs = {
        "roles": tuple(r for r in ROLES if r in at),
        "heads": heads,
        "windows": windows,
        "planes": planes,
        "unit": unit,
        "references": tuple(str(r) for r in rng.choice(["sum", "max"], planes)),
        "inclusive": tuple(bool(i) for i in rng.random(planes) < 0.5),
    }
    return attrs, at, {"scale": np.broadcast_to(scales, heads), "zk": rng.integers(-2, 3, heads), "added": added}


def float_result(attrs: dict[str, Any], at: dict[str, Array], more: dict[str, Any]) -> tuple[Array, bool]:
    """softmax in float64 of the whole affine scores, thresholds on probabilities; and whether it stands clear of all thresholds."""
    windows, heads = attrs["windows"], attrs["heads"]

    def split(x: Array) -> Array:
        return x.reshape(windows, -1, heads, x.shape[1] // heads).transpose(0, 2, 1, 3).astype(np.float64)

    def each_head(x: Array) -> Array:
        return x.reshape(1, heads, 1, 1).astype(np.float64)

    q, k = split(at["q"]) - each_head(at["ints"][0]), split(at["k"]) - each_head(more["zk"])
    s = q @ k.swapaxes(2, 3) * each_head(more["scale"]) + more["added"]
    e = np.exp(s - s.max(axis=3, keepdims=True))
    p = e / e.sum(axis=3, keepdims=True)
    masks, clear = [], True
    for t, (reference, inclusive) in enumerate(zip(attrs["references"], attrs["inclusive"], strict=True)):
        of = p if reference == "sum" else p / p.max(axis=3, keepdims=True)
        tau = each_head(at["limit"][t])
        clear = clear and not (np.abs(of - tau) < 1e-7).any()
        masks.append((of >= tau if inclusive else of > tau).astype(np.float64))
    steps = at["real_steps"].astype(np.float64) if "real_steps" in at else at["ints"][3:]
    levels = each_head(at["ints"][2]) + sum(m * each_head(step) for m, step in zip(masks, steps, strict=True))
    out = levels @ (split(at["v"]) - each_head(at["ints"][1]))
    return out.transpose(0, 2, 1, 3).reshape(at["q"].shape), clear


@pytest.mark.parametrize("real", [False, True])
def test_every_form_against_float_softmax(real: bool) -> None:
    checked = 0
    for seed in range(150):
        attrs, at, more = general_case(seed, real)
        want, clear = float_result(attrs, at, more)
        (got,) = REGISTRY["attention"].reference(attrs, list(at.values()))
        assert got.dtype == (np.float32 if real else np.int32)
        if clear:
            assert np.allclose(got, want, rtol=1e-5, atol=1e-5), (seed, attrs)
            checked += 1
        source = [
            np.ascontiguousarray(
                x.reshape(attrs["windows"], -1, attrs["heads"], x.shape[1] // attrs["heads"]).transpose(0, 2, 1, 3)
            )
            for x in (at["q"], at["k"], at["v"])
        ]
        (same,) = REGISTRY["binary_attention"].reference(attrs, [*source, *list(at.values())[3:]])
        assert np.array_equal(same.transpose(0, 2, 1, 3).reshape(got.shape), got)
    assert checked > 100


def test_inclusive_planes_take_ties() -> None:
    """Four equal keys of probability 1/4 and a threshold of 1/4; relative to the maximum 1 and a threshold of 1."""
    q = np.ones((1, 8), np.int8)
    k = np.repeat(q, 4, 0)
    for reference, tie in (("sum", 0.25), ("max", 1.0)):
        for inclusive in (False, True):
            attrs = {"heads": 1, "references": (reference,), "inclusive": (inclusive,)}
            operands: list[Array] = [q, k, k, softmax_table(8, 0.3, 4), np.array([[tie]])]
            (out,) = REGISTRY["attention"].reference(attrs, operands)
            assert out.tolist() == [[4 * inclusive] * 8]


def test_types() -> None:
    def infer(alphabets: str = "bbb", **changes: Any) -> list[Type]:
        kinds = {"b": BIPOLAR, "t": TERNARY, "u": UNIPOLAR}
        windows = changes.get("windows", 1)
        q, k, v = (bits(12, 16, alphabet=kinds[a], packed=p) for a, p in zip(alphabets, (1, 1, int(windows > 1)), strict=True))
        at = {"table": Type("u64", (1, 17)), "limit": Type("f64", (changes.get("planes", 1), 2))} | changes.pop("more", {})
        attrs = {"heads": 2, "roles": ("q", "k", "v", *at)} | changes
        return REGISTRY["attention"].infer([q, k, v, *at.values()], attrs)

    assert infer() == infer("bbt") == infer("ttt", unit=1) == infer(windows=3) == [i32(12, 16)]
    assert infer(planes=2, references=("sum", "max"), more={"real_steps": f32(2, 2)}) == [f32(12, 16)]
    bias = {"bias": Type("f64", (5, 2)), "pattern": i32(8, 4), "window_class": i32(1, 3)}
    assert infer(windows=3, more=bias) == [i32(12, 16)]
    refused: list[dict[str, Any]] = [
        {"alphabets": "tbb"},  # the unit of ternary scores is 1
        {"alphabets": "bbb", "unit": 1},
        {"alphabets": "bbu"},
        {"heads": 3},
        {"windows": 5},
        {"planes": 4},
        {"planes": 2, "references": ("sum",)},
        {"references": ("mean",)},
        {"alphabets": "ttt", "unit": 1, "more": {"table": Type("u64", (1, 16))}},
        {"more": {"ints": i32(3, 2)}},
        {"more": {"real_steps": f32(1, 3)}},
        {"more": {"bias": bias["bias"]}},
        {"windows": 3, "more": bias | {"pattern": i32(6, 4)}},
        {"windows": 3, "more": bias | {"window_class": i32(1, 4)}},
        {"windows": 3, "more": bias | {"bias": Type("f64", (5, 1))}},
        {"roles": ("q", "k", "v", "limit", "table")},
    ]
    for changes in refused:
        with pytest.raises(ValueError, match="attention"):
            infer(**changes)
