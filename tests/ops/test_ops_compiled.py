"""The reference of every compiled op against loops that say the same in another way, on small shapes with tails."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bvtdeploy.artifact.spec import OPCODES
from bvtdeploy.ir import Graph, Type, bits, f32, i32
from bvtdeploy.ir.types import BIPOLAR, TERNARY, i8
from bvtdeploy.ops import REGISTRY
from bvtdeploy.ops.epilogue import PARAMETERS, RESIDUALS, ROLES, THRESHOLDS, row_map
from bvtdeploy.ops.numerics import fma, lane_sum

Array = npt.NDArray[Any]
F = np.float32
RNG = np.random.default_rng(1)


def reals(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(F)


def signs(*shape: int) -> Array:
    return RNG.choice(np.array([-1, 1], np.int8), shape)


def run(kind: str, attrs: dict[str, Any], *inputs: Array) -> list[Array]:
    with np.errstate(all="ignore"):  # as the interpreter does
        return [np.asarray(o) for o in REGISTRY[kind].reference(attrs, inputs)]


def equal(a: Array, b: Array) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_every_opcode_is_a_compiled_op_and_back() -> None:
    assert set(OPCODES) == {kind for kind, op in REGISTRY.items() if op.compiled}


GRIDS = [(4, 4, 2, 2), (5, 7, 2, 2), (5, 4, 3, 1), (3, 3, 1, 1), (6, 5, 2, 3), (3, 3, 3, 3)]


def places(h: int, w: int, k: int, s: int) -> list[tuple[int, int]]:
    return [(y, x) for y in range(0, h - k + 1, s) for x in range(0, w - k + 1, s)]


@pytest.mark.parametrize(("h", "w", "k", "s"), GRIDS)
def test_patches(h: int, w: int, k: int, s: int) -> None:
    image, attrs = reals(3 * h, w), {"channels": 3, "height": h, "width": w, "kernel": k, "stride": s}
    rows = [[image[c * h + y + i, x + j] for c in range(3) for i in range(k) for j in range(k)] for y, x in places(h, w, k, s)]
    equal(run("patches", attrs, image)[0], np.array(rows, F))


@pytest.mark.parametrize(("h", "w", "k", "s"), GRIDS)
def test_row_patches(h: int, w: int, k: int, s: int) -> None:
    attrs = {"height": h, "width": w, "kernel": k, "stride": s}
    for x in (signs(h * w, 5), reals(h * w, 5)):
        rows = [[x[(y + i) * w + xx + j, c] for i in range(k) for j in range(k) for c in range(5)] for y, xx in places(h, w, k, s)]
        equal(run("row_patches", attrs, x)[0], np.array(rows, x.dtype))


@pytest.mark.parametrize(("h", "w", "k", "s"), GRIDS)
def test_avg_pool(h: int, w: int, k: int, s: int) -> None:
    x, attrs = reals(h * w, 3), {"height": h, "width": w, "kernel": k, "stride": s}
    out = []
    for y, xx in places(h, w, k, s):
        total = np.full(3, -0.0, F)
        for i in range(k):
            for j in range(k):
                total = (total + x[(y + i) * w + xx + j]).astype(F)
        out.append(total * F(1 / (k * k)))
    equal(run("avg_pool", attrs, x)[0], np.array(out, F))


@pytest.mark.parametrize("bias", [False, True])
def test_dense(bias: bool) -> None:
    x, w, b = reals(3, 7), reals(7, 5), reals(1, 5)
    want = np.zeros((3, 5), F)
    for n in range(3):
        for o in range(5):
            acc = F(0)
            for k in range(7):
                acc = fma(x[n, k], w[k, o], acc)[()]
            want[n, o] = acc + b[0, o] if bias else acc
    equal(run("dense", {}, x, w, *([b] if bias else []))[0], want)


def quantised(row: np.ndarray) -> tuple[list[int], np.float32]:
    """Codes and step of a row, from exact fractions: x * inverse to the nearest whole number, ties to even (as round() has it)."""
    with np.errstate(all="ignore"):
        m = np.float32(np.nan) if np.isnan(row).any() else np.abs(row).max()
        inverse, step = F(127) / m, m / F(127)
    if not (np.isfinite(m) and np.isfinite(inverse)):
        return [0] * len(row), step
    return [round(Fraction(float(v)) * Fraction(float(inverse))) for v in row], step


@pytest.mark.parametrize("bias", [False, True])
def test_dense_i8(bias: bool) -> None:
    x = reals(40, 11)
    x[:20] = (RNG.integers(-254, 255, (20, 11)) / 2 * 2.0 ** RNG.integers(-130, 110, (20, 1))).astype(F)  # ties
    x[:20, 3] = np.where(np.arange(20) % 2, 127, -63.5).astype(F) * np.abs(x[:20, 0])
    x[20], x[21, 4], x[22, 5], x[23, 10] = 0, np.inf, np.nan, -np.inf
    x[24], x[25] = 2.0**-149 * RNG.integers(-9, 10, 11), F(3.4e38) * RNG.choice([-1, 0.5, 1], 11)
    w, scale, b = RNG.integers(-128, 128, (5, 11)).astype(np.int8), np.abs(reals(1, 5)), reals(1, 5)
    found = run("dense_i8", {}, x, w, scale, *([b] if bias else []))[0]
    for n in range(len(x)):
        codes, step = quantised(x[n])
        assert max(map(abs, codes)) <= 127
        for o in range(5):
            acc = sum(q * int(v) for q, v in zip(codes, w[o], strict=True))
            with np.errstate(all="ignore"):
                want = F(acc) * (step * scale[0, o])
                want = want + b[0, o] if bias else want
            assert np.isnan(want) == np.isnan(found[n, o])
            np.isnan(want) or equal(found[n, o], want)
    assert np.isnan(found[21:24]).all() and not np.isnan(np.delete(found, [21, 22, 23], axis=0)).any()


def test_dense_i8_rounds_large_sums_once() -> None:
    k = 1 << 17
    x, w = np.ones((1, k), F), np.full((2, k), -128, np.int8)
    w[1, 0] = 1  # the sum is not a multiple of 256
    exact = [-128 * 127 * k, -128 * 127 * (k - 1) + 127]
    assert min(exact) >= -(2**31)
    step = F(1) / F(127)
    equal(run("dense_i8", {}, x, w, np.ones((1, 2), F))[0], np.array([[F(e) * step for e in exact]], F))


@pytest.mark.parametrize("k", [1, 7, 8, 9, 64, 65, 300])
def test_bgemm_is_the_popcount_formula(k: int) -> None:
    x, w = signs(3, k), signs(5, k)
    want = [[k - 2 * sum(int(a != b) for a, b in zip(xr, wr, strict=True)) for wr in w] for xr in x]
    equal(run("bgemm", {}, x, w)[0], np.array(want, np.int32))


def test_mean_rows_and_channel_pool() -> None:
    x = reals(5, 12)
    total = x[0].copy()
    for r in x[1:]:
        total = total + r
    equal(run("mean_rows", {}, x)[0], (total * F(1 / 5)).reshape(1, -1))
    pooled = ((x[:, 0::3] + x[:, 1::3]) + x[:, 2::3]) * F(1 / 3)
    equal(run("channel_pool", {"group": 3}, x)[0], pooled)
    pairs = x[:, 0::2] + x[:, 1::2]
    fours = pairs[:, 0::2] + pairs[:, 1::2]
    equal(run("channel_pool", {"group": 4}, x)[0], fours * F(1 / 4))
    equal(run("channel_pool", {"group": 12}, x)[0], ((fours[:, 0:1] + fours[:, 1:2]) + fours[:, 2:3]) * F(1 / 12))
    equal(run("channel_pool", {"group": 1}, x)[0], x)


# -- norms, pools, gathers, products of reals -------------------------------------------------------------------------


@pytest.mark.parametrize(("c", "groups"), [(1, 1), (8, 1), (13, 1), (48, 3), (40, 2), (21, 3)])
def test_layer_norm_rows_is_a_layer_norm(c: int, groups: int) -> None:
    x, gamma, beta = reals(5, c), reals(1, c), reals(1, c)
    parts = x.astype(np.float64).reshape(5, groups, -1)
    d = parts - parts.mean(axis=2, keepdims=True)
    s = np.sqrt((d * d).mean(axis=2, keepdims=True) + 1e-5)
    want = (d / s).reshape(5, c) * gamma + beta
    attrs = {"groups": groups, "eps": 1e-5}
    got = run("layer_norm_rows", attrs, x, gamma, beta)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    cut, direction = reals(1, c), reals(1, c)
    exact = (d.reshape(5, c) * direction) - cut * np.repeat(s[:, :, 0], c // groups, axis=1)
    code = run("norm_sign", attrs, x, cut, direction)[0]
    assert (code == np.where(exact >= 0, 1, -1))[np.abs(exact) > 1e-5].all()


def test_lane_sums_have_their_order() -> None:
    x = reals(3, 21)
    for squares in (False, True):
        lanes = [[F(0)] * 3 for _ in range(8)]
        for i in range(21):
            for r in range(3):
                lanes[i % 8][r] = fma(x[r, i], x[r, i], lanes[i % 8][r])[()] if squares else lanes[i % 8][r] + x[r, i]
        a = np.array(lanes, F)
        want = ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
        equal(lane_sum(x, squares=squares), want)


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_pools_as_torch_has_them(padding: int) -> None:
    torch = pytest.importorskip("torch")
    x = reals(7 * 6, 5)
    attrs = {"height": 7, "width": 6, "kernel": 4, "stride": 2, "padding": padding}
    image = torch.from_numpy(x.T.reshape(1, 5, 7, 6).copy())
    for kind, pool in (("max_pool", torch.nn.functional.max_pool2d), ("avg_pool", torch.nn.functional.avg_pool2d)):
        want = pool(image, 4, 2, padding)[0].flatten(1).T.numpy()
        np.testing.assert_allclose(run(kind, attrs, x)[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("padding", "dilation", "groups"), [(0, 1, 1), (1, 1, 1), (1, 2, 1), (2, 1, 3), (0, 2, 3)])
def test_row_patches_are_unfolded_images(padding: int, dilation: int, groups: int) -> None:
    torch = pytest.importorskip("torch")
    attrs = {"height": 6, "width": 7, "kernel": 3, "stride": 2, "padding": padding, "dilation": dilation, "groups": groups}
    for x in (reals(42, 6), signs(42, 6), RNG.integers(-1, 2, (42, 6)).astype(np.int8)):
        image = torch.from_numpy(x.T.reshape(1, 6, 6, 7).astype(F).copy())
        columns = torch.nn.functional.unfold(image, 3, dilation, padding, 2)[0].numpy()  # [C*9, L]
        want = columns.reshape(groups, 6 // groups, 9, -1).transpose(3, 0, 2, 1).reshape(columns.shape[1], -1)
        equal(run("row_patches", attrs, x)[0], want.astype(x.dtype))
    kind = REGISTRY["row_patches"].infer([bits(42, 6, packed=1)], attrs)[0]
    assert kind.alphabet == (TERNARY if padding else BIPOLAR)


def test_gather_picks_rows_and_zeros() -> None:
    a, b, index = reals(3, 2), reals(2, 2), np.array([[0, 4], [-1, 2]], np.int32)
    equal(run("gather", {}, a, b, index)[0], np.array([[*a[0], *b[1]], [0, 0, *a[2]]], F))
    x = signs(3, 2)
    equal(run("gather", {"ternary": True}, x, index % 3 - 1)[0][:, :2], np.array([[0, 0], x[1]], np.int8))
    with pytest.raises(ValueError, match="out of range"):
        run("gather", {}, a, index)
    with pytest.raises(ValueError, match="no zero"):
        run("gather", {}, x, np.array([[-1]], np.int32))


def test_grouped_and_ternary_products() -> None:
    x, w = RNG.integers(-1, 2, (4, 15)).astype(np.int8), signs(6, 5)
    want = np.concatenate([x[:, 5 * g : 5 * g + 5].astype(np.int32) @ w[2 * g : 2 * g + 2].T for g in range(3)], axis=1)
    equal(run("bgemm", {"groups": 3}, x, w)[0], want.astype(np.int32))
    real = reals(4, 5)
    np.testing.assert_allclose(run("mixed_gemm", {}, real, w)[0], real @ w.T, rtol=1e-5, atol=1e-6)
    equal(run("mean_rows", {"groups": 2}, real)[0], (real[0::2] + real[1::2])[:2] * F(0.5))
    equal(run("multiply", {}, real, real[:, :1].copy())[0], real * real[:, :1])


def test_gelu_and_clamp() -> None:
    x = np.concatenate([np.linspace(-8, 8, 200001), 2.0 ** np.arange(-140, 120), [np.inf, 0.0]]).astype(F).reshape(1, -1)
    want = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x[0].astype(float)])
    got = run("activation", {"kind": "gelu"}, x)[0][0]
    finite = np.isfinite(want)
    error = np.abs(got[finite] - want[finite])
    assert (error <= 3e-7 * np.maximum(1, np.abs(x[0][finite]))).all() and got[-2] == np.inf
    assert np.isnan(run("activation", {"kind": "gelu"}, np.array([[np.nan, -np.inf]], F))[0]).all()
    clamped = run("activation", {"kind": "clamp", "low": -1.0, "high": 2.0}, np.array([[np.nan, -3, 0.5, 9]], F))[0]
    assert np.isnan(clamped[0, 0]) and clamped[0, 1:].tolist() == [-1, 0.5, 2]


# -- stencil ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), st.sampled_from(["zero", "circular"]), st.integers(0, 99))
def test_stencil(h: int, w: int, shifted: bool, boundary: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = [(dy, dx) for dy in range(1 - h, h) for dx in range(1 - w, w)]
    offsets = tuple(every[i] for i in rng.permutation(len(every))[: rng.integers(1, 17)])
    x, taps, shift = (rng.standard_normal(s).astype(F) for s in ((h * w, 3), (len(offsets), 3), (1, 3)))
    want = np.zeros((h * w, 3), F)
    for y in range(h):
        for xx in range(w):
            acc = shift[0].copy() if shifted else np.zeros(3, F)
            for (dy, dx), tap in zip(offsets, taps, strict=True):
                sy, sx = y + dy, xx + dx
                if boundary == "circular":
                    sy, sx = sy % h, sx % w
                if 0 <= sy < h and 0 <= sx < w:
                    acc = fma(x[sy * w + sx], tap, acc)
            want[y * w + xx] = acc
    attrs = {"height": h, "width": w, "offsets": offsets, "boundary": boundary}
    equal(run("stencil", attrs, x, taps, *([shift] if shifted else []))[0], want)


def test_a_skipped_tap_is_not_a_multiplication_by_zero() -> None:
    attrs = {"height": 1, "width": 2, "offsets": ((0, -1),), "boundary": "zero"}
    out = run("stencil", attrs, np.array([[1], [1]], F), np.array([[np.inf]], F))[0]
    assert out.tolist() == [[0], [np.inf]]


# -- epilogue ---------------------------------------------------------------------------------------------------------


def naive_epilogue(attrs: dict[str, Any], inputs: list[Array]) -> list[Array]:
    at = dict(zip(attrs["roles"], inputs, strict=True))
    factors = dict(zip([r for r in attrs["roles"] if r in RESIDUALS], attrs["factors"], strict=True))
    n, c = at["x"].shape
    v = np.zeros((n, c), F)
    for r in range(n):
        for ch in range(c):
            y = F(at["x"][r, ch])

            def residual(y: Any, names: tuple[str, ...], r: int = r, ch: int = ch) -> Any:
                for name in names:
                    if name in at:
                        f, width = factors[name], attrs["width"]
                        row = at["rows"][0, r] if f == 0 else r if f == 1 else (r // width // f) * (width // f) + r % width // f
                        y = y + at[name][row, ch % at[name].shape[1]]
                return y

            def affine(y: Any, scale: str, shift: str, names: tuple[str, ...], ch: int = ch, residual: Any = residual) -> Any:
                if scale in at and shift not in at and names[0] in at:
                    return residual(fma(y, at[scale][0, ch], residual(F(0), names[:1]))[()], names[1:])
                if scale in at and shift in at:
                    return residual(fma(y, at[scale][0, ch], at[shift][0, ch])[()], names)
                y = y * at[scale][0, ch] if scale in at else y
                return residual(y + at[shift][0, ch] if shift in at else y, names)

            y = affine(y, "scale", "shift", RESIDUALS[:3])
            if "slope" in at:
                knee = at["knee"][0, ch] if "knee" in at else F(0)
                y = fma(knee if y > knee else y, at["slope"][0, ch] - F(1), y)[()]
            y = y + at["post"][0, ch] if "post" in at else y
            v[r, ch] = affine(y, "scale2", "shift2", RESIDUALS[3:])
    mean, pool = v, attrs.get("pool", 1)
    for _ in range(pool.bit_length() - 1):
        mean = mean[:, ::2] + mean[:, 1::2]
    out = [mean * F(1 / pool)] if "f32" in attrs["results"] else []
    kinds = [r for r in attrs["results"] if r != "f32"]
    for kind, t in zip(kinds, [at[t] for t in THRESHOLDS if t in at], strict=True):
        code = (v >= t[1]) * 1 - (v < t[0]) * 1 if kind == "trits" else np.where(v >= t, 1, -1)
        out.append(code.astype(np.int8))
    return out


@given(st.sets(st.sampled_from(ROLES[1:])), st.booleans(), st.booleans(), st.sampled_from([1, 1, 2, 4, 8]), st.integers(0, 999))
def test_epilogue(chosen: set[str], integers: bool, real: bool, pool: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, w, c = 4, 6, 8
    chosen = chosen if "slope" in chosen else chosen - {"knee"}
    by_table = "rows" in chosen and any(r in RESIDUALS for r in chosen)
    roles = tuple(r for r in ROLES if r == "x" or (r in chosen and (r != "rows" or by_table)))
    kinds = tuple(str(rng.choice(["bits", "trits"])) for r in roles if r in THRESHOLDS)
    x = rng.integers(-9, 10, (h * w, c)).astype(np.int32) if integers else rng.standard_normal((h * w, c)).astype(F)
    x.reshape(-1)[:2] = 0
    inputs, factors = [x], []
    for role in roles[1:]:
        if role in RESIDUALS:
            factors.append(0 if by_table and 0 not in factors else int(rng.choice([1, 2])))
            count = h * w // factors[-1] ** 2 if factors[-1] else 5
            inputs.append(rng.standard_normal((count, int(rng.choice([1, 2, 4, 8])))).astype(F))
        elif role == "rows":
            inputs.append(rng.integers(0, 5, (1, h * w)).astype(np.int32))
        elif role in THRESHOLDS and kinds[[r for r in roles if r in THRESHOLDS].index(role)] == "trits":
            inputs.append(np.sort(rng.choice([0, 0.25, -1, 2, 0.3], (2, c)), axis=0).astype(F))
        else:
            inputs.append(rng.choice([0, 0.25, -1, 2, 0.3], (1, c)).astype(F))
    n_bits = sum(r in THRESHOLDS for r in roles)
    real = real or not n_bits
    attrs = {
        "roles": roles,
        "factors": tuple(factors),
        "width": w,
        "results": ("f32",) * real + kinds,
        "packed": (1, 0, 1, 0)[:n_bits],
        **({"pool": pool} if real and pool > 1 else {}),
    }
    types = REGISTRY["epilogue"].infer([i32(*a.shape) if a.dtype == np.int32 else f32(*a.shape) for a in inputs], attrs)
    got = run("epilogue", attrs, *inputs)
    for a, b, t in zip(got, naive_epilogue(attrs, inputs), types, strict=True):
        equal(a, b)
        assert a.shape == t.shape


def test_epilogue_of_nan_and_zeros() -> None:
    x = np.array([[np.nan, -0.0, 0.0, np.inf]], F)
    zero = np.zeros((1, 4), F)
    attrs = {"roles": ("x", "slope", "threshold0", "threshold1"), "factors": (), "width": 0, "results": ("f32", "bits", "bits")}
    v, a, b = run("epilogue", {**attrs, "packed": (1, 1)}, x, zero, zero, -zero)
    assert np.isnan(v[0, 0]) and v[0, 3] == np.inf
    assert a.tolist() == b.tolist() == [[-1, 1, 1, 1]], "-0.0 is a threshold like 0.0"


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_row_map_is_nearest_upsampling(h: int, w: int, factor: int) -> None:
    small = np.arange(h * w).reshape(h, w)
    large = np.kron(small, np.ones((factor, factor), int))
    assert row_map(large.size, factor, w * factor).tolist() == large.reshape(-1).tolist()


def test_rows_and_channels_as_torch_has_them() -> None:
    torch = pytest.importorskip("torch")
    k, m = reals(1, 3, 2, 4), reals(1, 8, 3)
    up = torch.nn.functional.interpolate(torch.from_numpy(k), scale_factor=2.0, mode="nearest")
    want = up.flatten(2).transpose(1, 2)[0] + torch.zeros(32, 3)
    attrs = {"roles": ("x", "res0"), "factors": (2,), "width": 8, "results": ("f32",), "packed": ()}
    tokens = np.ascontiguousarray(k.reshape(3, 8).T)
    equal(run("epilogue", attrs, np.zeros((32, 3), F), tokens)[0], want.numpy())
    tiled = torch.cat([torch.from_numpy(m)] * 4, dim=-1)[0] + 0
    equal(run("epilogue", {**attrs, "factors": (1,)}, np.zeros((8, 12), F), m[0])[0], tiled.numpy())


@given(st.floats(width=32), st.floats(width=32))
def test_a_shifted_sign_is_a_threshold(v: float, move: float) -> None:
    """sign(v + move) with 0 -> +1 is v >= -move, in fp32, for every pair of finite numbers."""
    with np.errstate(all="ignore"):
        total = F(v) + F(move)
    if np.isfinite([v, move]).all():
        assert (total >= 0) == (F(v) >= -F(move))


# -- shape rules ------------------------------------------------------------------------------------------------------

GRID = {"height": 2, "width": 3, "kernel": 2, "stride": 1}
EPI = {"roles": ("x",), "factors": (), "width": 0, "results": ("f32",), "packed": ()}
U = Type("u64", (1, 9))
L = Type("f64", (1, 2))


@pytest.mark.parametrize(
    ("kind", "types", "attrs", "why"),
    [
        ("patches", [f32(6, 3)], {**GRID, "channels": 2}, "patches of"),
        ("patches", [f32(2, 3)], {**GRID, "channels": 1, "kernel": 3}, "do not fit"),
        ("patches", [f32(2, 3)], {**GRID, "channels": 1, "stride": 0}, "do not fit"),
        ("row_patches", [f32(5, 8)], GRID, "not the grid"),
        ("row_patches", [bits(5, 8, packed=1)], GRID, "not the grid"),
        ("row_patches", [bits(6, 8)], GRID, "row_patches of"),
        ("avg_pool", [f32(5, 8)], GRID, "not the grid"),
        ("avg_pool", [f32(6, 8)], {**GRID, "kernel": 0}, "do not fit"),
        ("dense", [f32(2, 3), f32(4, 5)], {}, "dense of"),
        ("dense", [f32(2, 3), f32(3, 5), f32(5)], {}, "bias"),
        ("dense", [i32(2, 3), f32(3, 5)], {}, "dense of"),
        ("dense_i8", [f32(2, 3), i8(5, 4), f32(1, 5)], {}, "dense_i8 of"),
        ("dense_i8", [f32(2, 3), f32(5, 3), f32(1, 5)], {}, "dense_i8 of"),
        ("dense_i8", [f32(2, 3), i8(5, 3)], {}, "dense_i8 of"),
        ("dense_i8", [f32(2, 3), i8(5, 3), f32(5, 1)], {}, "scale and bias"),
        ("dense_i8", [f32(2, 3), i8(5, 3), f32(1, 5), f32(1, 4)], {}, "scale and bias"),
        ("dense_i8", [f32(1, (1 << 17) + 1), i8(1, (1 << 17) + 1), f32(1, 1)], {}, "dense_i8 of"),
        ("bgemm", [bits(2, 3), bits(4, 5)], {}, "K differs"),
        ("bgemm", [bits(2, 3, alphabet="{0,1}"), bits(4, 3)], {}, "bgemm of"),
        ("mean_rows", [i32(2, 3)], {}, "mean_rows of"),
        ("channel_pool", [f32(2, 5)], {"group": 2}, "channel_pool of"),
        ("channel_pool", [f32(2, 4)], {"group": 0}, "channel_pool of"),
        ("stencil", [f32(6, 2), f32(1, 2)], {**GRID, "offsets": ((2, 0),), "boundary": "zero"}, "leaves the grid"),
        ("stencil", [f32(6, 2), f32(2, 2)], {**GRID, "offsets": ((0, 0),), "boundary": "zero"}, "taps are"),
        ("stencil", [f32(6, 2), f32(1, 2)], {**GRID, "offsets": ((0, 0),), "boundary": "mirror"}, "boundary"),
        ("stencil", [f32(6, 2), f32(0, 2)], {**GRID, "offsets": (), "boundary": "zero"}, "0 taps"),
        ("stencil", [f32(5, 2), f32(1, 2)], {**GRID, "offsets": ((0, 0),), "boundary": "zero"}, "grid"),
        ("epilogue", [bits(2, 3)], EPI, "epilogue of"),
        ("epilogue", [f32(2, 3), f32(1, 3)], EPI, "one role an input"),
        ("epilogue", [f32(2, 3), f32(1, 3), f32(1, 3)], {**EPI, "roles": ("x", "shift", "scale")}, "order of ROLES"),
        ("epilogue", [f32(2, 3), f32(1, 2)], {**EPI, "roles": ("x", "scale")}, "not one row of 3"),
        ("epilogue", [f32(2, 3), f32(2, 2)], {**EPI, "roles": ("x", "res0"), "factors": (1,)}, "residual"),
        ("epilogue", [f32(8, 3), f32(2, 3)], {**EPI, "roles": ("x", "res0"), "factors": (2,), "width": 3}, "grid and factor"),
        ("epilogue", [f32(8, 3), f32(1, 3)], {**EPI, "roles": ("x", "res0"), "factors": (2,), "width": 2}, "does not give 8 rows"),
        ("epilogue", [f32(8, 3)], {**EPI, "results": ("bits",), "packed": (1,)}, "a threshold for each"),
        ("epilogue", [f32(8, 3)], {**EPI, "results": ()}, "results"),
        ("epilogue", [f32(8, 3), f32(1, 3)], {**EPI, "roles": ("x", "knee")}, "belongs to a slope"),
        ("epilogue", [f32(8, 6)], {**EPI, "pool": 3}, "pool 3 of 6 channels"),
        ("epilogue", [f32(8, 6)], {**EPI, "pool": 4}, "pool 4 of 6 channels"),
        ("attention", [*[bits(4, 16, packed=1)] * 3, U, L], {"heads": 2}, "packed along tokens"),
        ("attention", [bits(4, 16, packed=1), bits(4, 16, packed=1), bits(5, 16, packed=0), U, L], {"heads": 2}, "attention of"),
        ("attention", [bits(4, 16, packed=1), bits(4, 16, packed=1), bits(4, 16, packed=0), U, L], {"heads": 3}, "attention of"),
        ("attention", [bits(4, 16, packed=1), bits(4, 16, packed=1), bits(4, 16, packed=0), U, L], {"heads": 1}, "a table of"),
    ],
)
def test_misfits_are_refused_with_a_sentence(kind: str, types: list[Type], attrs: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        REGISTRY[kind].infer(types, attrs)


def test_costs_count_multiply_accumulates() -> None:
    g = Graph("c")
    x = g.add_input("x", f32(6, 4))
    dense = g.create("dense", [x, g.constant(reals(4, 5))])
    cost = REGISTRY["dense"].cost([v.type for v in dense.inputs], [dense.out.type], {})
    assert (cost.macs_float, cost.macs_binary) == (6 * 4 * 5, 0)
    assert REGISTRY["bgemm"].cost([bits(6, 4), bits(5, 4)], [i32(6, 5)], {}).macs_binary == 6 * 4 * 5
    q, k = bits(6, 16, packed=1), bits(3, 16, packed=1)
    assert REGISTRY["attention"].cost([q, k, bits(3, 16, packed=0), U, L], [i32(6, 16)], {"heads": 2}).macs_binary == 2 * 6 * 3 * 16


def test_roles_are_those_of_the_record() -> None:
    assert len(ROLES) == 1 + len(RESIDUALS) + len(PARAMETERS) + len(THRESHOLDS) + 1
