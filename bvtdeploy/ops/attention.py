"""attention: binary attention in integers: a table in place of exp, thresholds in place of the probabilities' quantiser.

Queries and keys stand in W windows of nq = N/W and nk = M/W rows, in window-major order; a query sees its own window's keys. For
each head h, query row i of a window and the keys j of the window (sums over c: over the head's d channels; ties as written):

    S_ij = sum_c q_ic*k_jc - zq[h]*sum_c k_jc             integers; zq is the zero point of the queries' codes (that of the keys
                                                          adds the same to a whole row, which the softmax does not see)
    m_ij = (max_j S_ij - S_ij) / u                        u = unit: 2 where q and k are both +-1 (the division is exact), else 1
    w_ij = table[m_ij]                                    the score: exp up to a row factor
    Z_i  = sum_j w_ij (u64, exact)    X_i = table[0]      the row's sum and maximum
    with a bias on the scores, as positive factors (bias = exp(what is added)), p_ij = pattern[class[w]*nq + i][j] in window w:
        w_ij = float64(table[m_ij]) * bias[p_ij][h]       one fp64 product
        Z_i  = fp64 sum over j ascending, X_i = max_j w_ij
    for each plane t = 0 .. P-1, P <= 3:
        R    = float64(Z_i) or float64(X_i)               references[t]: "sum" or "max"
        b_tij = float64(w_ij) > limit[t][h]*R             >= where inclusive[t]; one fp64 product
    integer levels: A_ij = base[h] + sum_t step[t][h]*b_tij;   out i32: O_ic = sum_j A_ij*(v_jc - zv[h])
    real levels (real_steps is there): base = zv = 0, the integer steps are not used;
        out f32: y = +0; for t ascending: y = fma(float32(sum_j b_tij*v_jc), real_steps[t][h], y)

    inputs, named by attrs["roles"] in the order of ROLES:
        q bits[N x h*d; packed 1], k bits[M x h*d; packed 1], v bits[M x h*d; packed 0 where W = 1, packed 1 where W > 1],
            each +-1 or {-1,0,+1};
        table u64[1 x T], or [h x T] (one a head), non-increasing, T >= (2*d*(1 + max|zq|))/u + 1, table[0]*nk < 2^53;
        limit f64[P x h];
        ints i32[3+P x h]: rows zq, zv, base, step 0 .. (absent: 0, 0, 0, 1 ..), with nk*(|base| + sum |step|)*(1 + |zv|) <= 2^24;
        real_steps f32[P x h];
        bias f64[U x h], pattern i32[K*nq x nk] (< U), window_class i32[1 x W] (< K): all three or none
    attrs: heads h; and where they differ from these defaults: roles (the first five), windows 1, planes 1, unit 2,
        references ("sum", ..), inclusive (False, ..)
    record: inputs[i] = the value whose role is ROLES[i], or NONE;
        attr[0..4] = heads, windows, planes, bit t: plane t is relative to the maximum, bit t: plane t is inclusive

The plain form is BinaryViT's (Le & Li 2023, arXiv 2306.16678), whose code computes a = clip*clamp(round(p/clip), 0, 1). Rounding
half to even makes that clip where p > clip/2 (strictly) and 0 elsewhere; p_j = table[m_j]/Z, so limit = clip/2. The factor clip
itself goes into the following scale. Without a bias a plane is a threshold on m_ij, one a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bvtdeploy.ir.types import BIPOLAR, TERNARY, Type, f32, i32
from bvtdeploy.ops.base import Array, Attrs, Cost, OpDef, expect, register
from bvtdeploy.ops.bgemm import exact_matmul
from bvtdeploy.ops.numerics import fma

if TYPE_CHECKING:
    from bvtdeploy.ir.graph import Op

ROLES: Final = ("q", "k", "v", "table", "limit", "ints", "real_steps", "bias", "pattern", "window_class")
PLAIN: Final = ROLES[:5]
BIAS: Final = ROLES[7:]
MOST_PLANES: Final = 3
MOST_RESULT: Final = 1 << 24  # up to which every integer is a float


def roles_of(attrs: Attrs) -> tuple[str, ...]:
    """The role of every input of an attention."""
    return tuple(attrs.get("roles", PLAIN))


def unit_of(q: Type, k: Type) -> int:
    """u: the step in which the scores of two kinds of codes differ within a row."""
    return 2 if q.alphabet == k.alphabet == BIPOLAR else 1


def table_entries(d: int, zero_point: int, unit: int) -> int:
    """How many entries the table has at least, for the largest |zero point| of the queries."""
    return 2 * d * (1 + abs(zero_point)) // unit + 1


def planes_of(attrs: Attrs) -> list[tuple[str, bool]]:
    """("sum" or "max", inclusive) of every plane."""
    n = attrs.get("planes", 1)
    return list(zip(attrs.get("references", ("sum",) * n), attrs.get("inclusive", (False,) * n), strict=True))


def largest_result(keys: int, planes: int, ints: Array | None) -> int:
    """The largest |result| of integer levels, for `keys` of a window; ints: i32[3+P x h] as above, or None."""
    if ints is None:
        return keys * planes
    _, zv, *levels = np.abs(ints.astype(object))  # of Python's integers: of a file anything can come
    return keys * max(int(n) for n in sum(levels) * (1 + zv))


def infer_operands(at: Mapping[str, Type], attrs: Attrs, heads: int, d: int, windows: int, nq: int, nk: int) -> None:
    """What holds of the operands in whatever rank q, k and v come: raises ValueError where it does not."""
    roles = roles_of(attrs)
    expect(tuple(r for r in ROLES if r in roles) == roles and roles[:5] == PLAIN, f"attention: the roles {roles}")
    codes = (BIPOLAR, TERNARY)
    expect(all(at[r].alphabet in codes for r in "qkv"), "attention: q, k, v are +-1 or {-1,0,+1} codes")
    unit = unit_of(at["q"], at["k"])
    expect(attrs.get("unit", 2) == unit, f"attention: scores of these codes differ by multiples of {unit}")
    planes = attrs.get("planes", 1)
    expect(1 <= planes <= MOST_PLANES, f"attention: {planes} planes")
    for name, allowed in (("references", ("sum", "max")), ("inclusive", (False, True))):
        given = attrs.get(name, allowed[:1] * planes)
        expect(len(given) == planes and all(g in allowed for g in given), f"attention: {name} {given}")
    table = at["table"]
    expect(table.elem == "u64" and len(table.shape) == 2 and table.shape[0] in (1, heads), f"attention: a table {table}")
    expect(table.shape[1] >= table_entries(d, 0, unit), f"attention: a table of {table.shape[1]} for heads of {d}")
    expect(at["limit"] == Type("f64", (planes, heads)), f"attention: limits {at['limit']} of {planes} planes, {heads} heads")
    expect("ints" not in at or at["ints"] == i32(3 + planes, heads), "attention: ints is zq, zv, base, steps of every head")
    expect("real_steps" not in at or at["real_steps"] == f32(planes, heads), "attention: a real step for every plane and head")
    present = [r for r in BIAS if r in at]
    expect(len(present) in (0, 3), "attention: bias, pattern and window_class come together")
    if present:
        bias, pattern = at["bias"], at["pattern"]
        expect(bias.elem == "f64" and len(bias.shape) == 2 and bias.shape[1] == heads, f"attention: a bias {bias}")
        expect(pattern.elem == "i32" and len(pattern.shape) == 2, f"attention: a pattern {pattern}")
        expect(pattern.shape[1] == nk and pattern.shape[0] % nq == 0, f"attention: a pattern {pattern} of {nq} x {nk} scores")
        expect(at["window_class"] == i32(1, windows), "attention: a class for every window")


def _infer(inputs: Sequence[Type], attrs: Attrs) -> list[Type]:
    expect(len(inputs) == len(roles_of(attrs)), "attention: one role an input")
    at = dict(zip(roles_of(attrs), inputs, strict=True))
    q, k, v = inputs[:3]
    heads, windows = attrs["heads"], attrs.get("windows", 1)
    expect(all(len(x.shape) == 2 for x in (q, k, v)), f"attention of {q}, {k}, {v}")
    expect(k.shape == v.shape and q.shape[1] == k.shape[1] and q.shape[1] % heads == 0, f"attention of {q}, {k}, {v}")
    whole = windows > 0 and q.shape[0] % windows == 0 and k.shape[0] % windows == 0
    expect(whole, f"attention of {q} and {k} in {windows} windows")
    expect(q.packed == k.packed == 1, "attention: q and k are packed along channels")
    expect(v.packed == int(windows > 1), "attention: v is packed along tokens, or along channels where there are windows")
    infer_operands(at, attrs, heads, q.shape[1] // heads, windows, q.shape[0] // windows, k.shape[0] // windows)
    return [f32(*q.shape) if "real_steps" in at else i32(*q.shape)]


def attend_windows(attrs: Attrs, at: Mapping[str, Array], head: int, q: Array, k: Array, v: Array) -> Array:
    """One head: codes q[W x nq x d], k and v[W x nk x d] -> i32 or f32[W x nq x d]. `at`: the other inputs by role."""
    planes = planes_of(attrs)
    unset = np.array([0, 0, 0, *[1] * len(planes)])
    zq, zv, base, *steps = (int(n) for n in (at["ints"][:, head] if "ints" in at else unset))
    s = exact_matmul(q, k.swapaxes(1, 2)).astype(np.int64)
    if zq:
        s -= zq * k.sum(axis=2, dtype=np.int64)[:, None, :]
    m = (s.max(axis=2, keepdims=True) - s) // attrs.get("unit", 2)
    table = at["table"][head % at["table"].shape[0]]
    w = table[m]
    with np.errstate(all="ignore"):
        if "bias" in at:
            windows, nq, nk = m.shape
            classes = at["window_class"][0][np.arange(windows) % at["window_class"].shape[1]]
            pattern = at["pattern"].reshape(-1, nq, nk)[classes]
            w = w.astype(np.float64) * at["bias"][pattern, head]
            relative = {"sum": np.add.accumulate(w, axis=2)[:, :, -1], "max": w.max(axis=2)}
        else:
            top = np.full(m.shape[:2], table[0])
            relative = {"sum": w.sum(axis=2, dtype=np.uint64), "max": top}
            w = w.astype(np.float64)
        masks = []
        for t, (reference, inclusive) in enumerate(planes):
            bound = (at["limit"][t, head] * relative[reference].astype(np.float64))[:, :, None]
            masks.append(w >= bound if inclusive else w > bound)
    if "real_steps" in at:
        y = np.zeros(q.shape, np.float32)
        for t, mask in enumerate(masks):
            y = fma(exact_matmul(mask, v).astype(np.float32), at["real_steps"][t, head], y)
        return y
    out = np.full(q.shape, 0, np.int64)
    if base:
        out += base * (v.sum(axis=1, dtype=np.int64) - zv * v.shape[1])[:, None, :]
    for mask, step in zip(masks, steps, strict=True):
        out += step * exact_matmul(mask, v).astype(np.int64)
        if zv:
            out -= step * zv * mask.sum(axis=2, dtype=np.int64)[:, :, None]
    assert np.abs(out).max(initial=0) <= MOST_RESULT, "attention: a result is beyond 2^24"
    return np.asarray(out.astype(np.int32))


def attend(q: Array, k: Array, v: Array, table: Array, limit: float) -> Array:
    """One head of the plain form: codes q[N x d], k[M x d], v[M x d] -> i32[N x d]."""
    at = {"table": np.asarray(table).reshape(1, -1), "limit": np.full((1, 1), limit, np.float64)}
    return np.asarray(attend_windows({}, at, 0, q[None], k[None], v[None])[0])


def _reference(attrs: Attrs, inputs: Sequence[Array]) -> list[Array]:
    at = dict(zip(roles_of(attrs), inputs, strict=True))
    windows, heads = attrs.get("windows", 1), attrs["heads"]
    n, c = inputs[0].shape
    d = c // heads
    q, k, v = (x.reshape(windows, -1, c) for x in inputs[:3])
    parts = [slice(h * d, (h + 1) * d) for h in range(heads)]
    results = [attend_windows(attrs, at, h, q[:, :, p], k[:, :, p], v[:, :, p]) for h, p in enumerate(parts)]
    return [np.concatenate(results, axis=2).reshape(n, c)]


def _cost(inputs: Sequence[Type], outputs: Sequence[Type], attrs: Attrs) -> Cost:
    return Cost(macs_binary=2 * inputs[0].size * (inputs[1].shape[0] // attrs.get("windows", 1)))


def is_plain(attrs: Attrs, q: Type, k: Type, v: Type) -> bool:
    """Whether an attention is of the form that the runtime has special kernels for: +-1 codes, one window, one plane > sum."""
    return (
        q.alphabet == k.alphabet == v.alphabet == BIPOLAR
        and attrs.get("windows", 1) == 1
        and roles_of(attrs) == PLAIN
        and planes_of(attrs) == [("sum", False)]
    )


def record_inputs(op: Op) -> list[Any]:
    """The value of each slot of the record, None where its role is absent."""
    at = dict(zip(roles_of(op.attrs), op.inputs, strict=True))
    return [at.get(r) for r in ROLES]


def record_attr(op: Op) -> list[int]:
    """The attributes of the record."""
    planes = planes_of(op.attrs)
    to_max = sum(1 << t for t, (reference, _) in enumerate(planes) if reference == "max")
    inclusive = sum(1 << t for t, (_, also) in enumerate(planes) if also)
    return [op.attrs["heads"], op.attrs.get("windows", 1), len(planes), to_max, inclusive]


def scratch_of(attrs: Attrs, q: Type, k: Type, v: Type) -> int:
    """Bytes of scratch of an attention of these operands; runtime_arm/src/ops/attention.h says the same."""

    def area(n: int) -> int:
        return -(-n // 64) * 64

    windows = attrs.get("windows", 1)
    keys, d = k.shape[0] // windows, q.shape[1] // attrs["heads"]
    key_words, head_words = -(-keys // 64), -(-d // 64)
    if is_plain(attrs, q, k, v):
        return area(2 * keys) + area(8 * key_words)
    ternary = [1 + (x.alphabet == TERNARY) for x in (q, k, v)]
    total = area(4 * keys) + area(4 * keys)  # scores, sums of the keys
    total += area(8 * keys) if "bias" in roles_of(attrs) else 0  # weights
    total += area(8 * ternary[0] * head_words) + area(8 * ternary[1] * head_words * keys)  # a query, the keys
    total += area(8 * MOST_PLANES * key_words)  # masks
    total += area(4 * d)  # sums of the value columns
    if windows > 1:  # a window's values: as 64 x 64 blocks, transposed
        total += area(8 * ternary[2] * key_words * 64 * head_words)
    return total


def scratch_bytes(op: Op) -> int:
    """Tile memory that the kernels need while they run."""
    q, k, v = (value.type for value in op.inputs[:3])
    return scratch_of(op.attrs, q, k, v)


register(OpDef("attention", _infer, _reference, _cost, compiled=True, whole_inputs=lambda attrs, n: frozenset({1, 2})))
