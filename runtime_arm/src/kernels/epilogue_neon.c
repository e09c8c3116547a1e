/* epilogue for NEON: 8 rows x 16 channels at a time, so that parameters are loaded once for 8 rows.
 * Thresholds on bare dots never become floats.
 */
#include "epilogue_sets.h"
#include "signs_neon.h"

#define MOST_SIGNS (2 * BVT_EP_BITS)

/* 16 channels. */
typedef struct {
    float32x4_t a, b, c, d;
} quad;

INLINE quad load(const float *p) { return (quad){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
INLINE quad load_dots(const int32_t *p) {
    return (quad){vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4)), vcvtq_f32_s32(vld1q_s32(p + 8)),
                  vcvtq_f32_s32(vld1q_s32(p + 12))};
}
INLINE void store(float *p, quad v) { vst1q_f32(p, v.a), vst1q_f32(p + 4, v.b), vst1q_f32(p + 8, v.c), vst1q_f32(p + 12, v.d); }
INLINE quad add(quad x, quad y) {
    return (quad){vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
INLINE quad mul(quad x, quad y) {
    return (quad){vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
INLINE quad fma4(quad x, quad y, quad z) {
    return (quad){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
/* v > 0 ? v : v * slope */
INLINE quad prelu(quad v, quad slope) {
    const quad scaled = mul(v, slope);
    return (quad){vbslq_f32(vcgtzq_f32(v.a), v.a, scaled.a), vbslq_f32(vcgtzq_f32(v.b), v.b, scaled.b),
                  vbslq_f32(vcgtzq_f32(v.c), v.c, scaled.c), vbslq_f32(vcgtzq_f32(v.d), v.d, scaled.d)};
}
INLINE quad affine(const unsigned set, const unsigned scale, quad v, quad factor, quad offset) {
    const bool has_scale = set >> scale & 1, has_shift = set >> (scale + 1) & 1;
    if (has_scale) return has_shift ? fma4(v, factor, offset) : mul(v, factor);
    return has_shift ? add(v, offset) : v;
}

INLINE void add_not_less(signs *s, quad v, quad threshold) {
    add_row(s, narrow(vcgeq_f32(v.a, threshold.a), vcgeq_f32(v.b, threshold.b)),
            narrow(vcgeq_f32(v.c, threshold.c), vcgeq_f32(v.d, threshold.d)));
}
INLINE void add_outside(signs *s, quad v, quad below, quad threshold) {
    add_row(s,
            vorrq_u16(narrow(vcgeq_f32(v.a, threshold.a), vcgeq_f32(v.b, threshold.b)),
                      narrow(vcltq_f32(v.a, below.a), vcltq_f32(v.b, below.b))),
            vorrq_u16(narrow(vcgeq_f32(v.c, threshold.c), vcgeq_f32(v.d, threshold.d)),
                      narrow(vcltq_f32(v.c, below.c), vcltq_f32(v.d, below.d))));
}

/* Up to 8 rows x 16 channels of the operands; pointers are at the first row and channel. */
typedef struct {
    unsigned rows, n_signs;
    bool dots;
    const uint8_t *x;
    float *out; /* or NULL */
    size_t x_stride, out_stride;
    const float *(*res)[8]; /* rows of residuals, which are read from at[] on */
    uint32_t at[BVT_EP_RESIDUALS];
    const float *param[BVT_EP_THRESHOLD0];
    const float *threshold[MOST_SIGNS], *below[MOST_SIGNS]; /* below: NULL, or a sign is also set where v is less */
} tile;

INLINE void tile_signs(signs *out, const tile *t, const unsigned set) {
    const quad none = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    const bool dots = t->dots;
    const unsigned n_signs = t->n_signs;
    uint32_t at[BVT_EP_RESIDUALS];
    memcpy(at, t->at, sizeof at);
    const uint8_t *x = t->x + (t->rows - 1) * t->x_stride;
    uint8_t *to = t->out ? (uint8_t *)t->out + (t->rows - 1) * t->out_stride : NULL;
    const quad threshold = n_signs ? load(t->threshold[0]) : none;
    signs first = {vdupq_n_u16(0), vdupq_n_u16(0)};
    quad p[BVT_EP_THRESHOLD0];
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) p[i] = set >> i & 1 ? load(t->param[i]) : none;
    for (unsigned i = 1; i < n_signs; i++) out[i] = first;
    for (unsigned r = t->rows; r-- > 0; x -= t->x_stride) {
        quad v = dots ? load_dots((const int32_t *)(const void *)x) : load((const float *)(const void *)x);
        v = affine(set, BVT_EP_SCALE, v, p[BVT_EP_SCALE], p[BVT_EP_SHIFT]);
        /* Slots by hand: in a loop that is not unrolled the set is no constant. */
#define RESIDUAL(slot) \
    if (set >> (BVT_EP_RES0 + (slot)) & 1) v = add(v, load(t->res[slot][r] + at[slot]));
        RESIDUAL(0) RESIDUAL(1) RESIDUAL(2)
        if (set >> BVT_EP_SLOPE & 1) v = prelu(v, p[BVT_EP_SLOPE]);
        if (set >> BVT_EP_POST & 1) v = add(v, p[BVT_EP_POST]);
        v = affine(set, BVT_EP_SCALE2, v, p[BVT_EP_SCALE2], p[BVT_EP_SHIFT2]);
        RESIDUAL(3) RESIDUAL(4) RESIDUAL(5)
#undef RESIDUAL
        if (to) {
            store((float *)(void *)to, v);
            to -= t->out_stride;
        }
        if (n_signs) add_not_less(&first, v, threshold);
        for (unsigned i = 1; i < n_signs; i++) {
            if (t->below[i]) add_outside(&out[i], v, load(t->below[i]), load(t->threshold[i]));
            else add_not_less(&out[i], v, load(t->threshold[i]));
        }
    }
    out[0] = first;
}

/* A call's operands. */
typedef struct {
    const bvt_call *call;
    uint32_t cols;
    bool dots;
    unsigned n_signs;
    sign_target target[MOST_SIGNS];
    const float *threshold[MOST_SIGNS], *below[MOST_SIGNS];
    const float *param[BVT_EP_THRESHOLD0];
    uint32_t res_cols[BVT_EP_RESIDUALS];
} operands;

/* Copies of what a tile of fewer than 16 channels reads, or of one where a residual's columns begin anew. */
typedef struct {
    const float *rows[BVT_EP_RESIDUALS][8];
    float x[8][16], out[8][16], res[BVT_EP_RESIDUALS][8][16], param[BVT_EP_THRESHOLD0][16], threshold[MOST_SIGNS][2][16];
} copies;

static __attribute__((noinline)) void copied_tile(tile *t, copies *own, const operands *o, uint32_t r0, uint32_t c, unsigned n,
                                                  unsigned set) {
    memset(own, 0, sizeof *own);
    for (unsigned r = 0; r < t->rows; r++) {
        memcpy(own->x[r], bvt_row_bits(&o->call->in[BVT_EP_X], r0 + r) + (size_t)c * 4, n * sizeof(float));
        for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
            if (!(set >> (BVT_EP_RES0 + slot) & 1)) continue;
            const float *row = bvt_epilogue_residual(o->call, slot, r0 + r);
            for (unsigned i = 0; i < n; i++) own->res[slot][r][i] = row[(c + i) % o->res_cols[slot]];
            own->rows[slot][r] = own->res[slot][r];
        }
    }
    t->res = own->rows;
    memset(t->at, 0, sizeof t->at);
    t->x = (const uint8_t *)own->x, t->x_stride = sizeof own->x[0];
    if (t->out) t->out = own->out[0], t->out_stride = sizeof own->out[0];
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++)
        if (set >> i & 1) t->param[i] = memcpy(own->param[i], o->param[i] + c, n * sizeof(float));
    for (unsigned i = 0; i < o->n_signs; i++) {
        t->threshold[i] = memcpy(own->threshold[i][0], o->threshold[i] + c, n * sizeof(float));
        if (t->below[i]) t->below[i] = memcpy(own->threshold[i][1], o->below[i] + c, n * sizeof(float));
    }
}

static void copy_back(const operands *o, const copies *own, uint32_t r0, unsigned rows, uint32_t c, unsigned n) {
    for (unsigned r = 0; r < rows; r++) memcpy((float *)bvt_row(&o->call->out[0], r0 + r) + c, own->out[r], n * sizeof(float));
}

static __attribute__((noinline)) void tile_signs_any(signs *out, const tile *t, unsigned set) { tile_signs(out, t, set); }

INLINE void run(const operands *o, uint32_t row0, uint32_t row1, const unsigned set) {
    const bvt_view *x = &o->call->in[BVT_EP_X], *out = &o->call->out[0];
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        const float *res[BVT_EP_RESIDUALS][8];
        uint32_t at[BVT_EP_RESIDUALS] = {0}; /* c mod the residual's columns */
        tile t = {.rows = bvt_min_u32(row1 - r0, 8), .n_signs = o->n_signs, .dots = o->dots};
        for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
            for (unsigned r = 0; r < t.rows && set >> (BVT_EP_RES0 + slot) & 1; r++)
                res[slot][r] = bvt_epilogue_residual(o->call, slot, r0 + r);
        for (uint32_t c = 0; c < o->cols; c += 16) {
            const unsigned n = bvt_min_u32(o->cols - c, 16);
            signs s[MOST_SIGNS];
            bool whole = n == 16;
            t.x = bvt_row_bits(x, r0) + (size_t)c * 4, t.x_stride = x->stride;
            t.out = out->base ? (float *)bvt_row(out, r0) + c : NULL, t.out_stride = out->stride;
            t.res = res;
            for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
                if (!(set >> (BVT_EP_RES0 + slot) & 1)) continue;
                whole = whole && at[slot] + 16 <= o->res_cols[slot];
                t.at[slot] = at[slot];
                at[slot] += 16;
                if (at[slot] >= o->res_cols[slot]) at[slot] %= o->res_cols[slot];
            }
            for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++)
                if (set >> i & 1) t.param[i] = o->param[i] + c;
            for (unsigned i = 0; i < o->n_signs; i++) {
                t.threshold[i] = o->threshold[i] + c;
                t.below[i] = o->below[i] ? o->below[i] + c : NULL;
            }
            if (whole) {
                tile_signs(s, &t, set);
            } else {
                copies own;
                copied_tile(&t, &own, o, r0, c, n, set);
                tile_signs_any(s, &t, set);
                if (t.out) copy_back(o, &own, r0, t.rows, c, n);
            }
            for (unsigned i = 0; i < o->n_signs; i++) store_signs(&o->target[i], r0, t.rows, c, n, &s[i]);
        }
    }
}

/* ---- Thresholds on bare dots --------------------------------------------------------------------------------------------- */

/* Whether float(x) >= t is x >= ceil(t) for every dot and all n thresholds: so it is up to 2^24, where every integer is a float,
 * and beyond 2^31, which no op's results reach. */
static bool integer_thresholds(const float *t, uint32_t n) {
    uint32x4_t good = vdupq_n_u32(UINT32_MAX);
    uint32_t c = 0;
    for (; c + 4 <= n; c += 4) {
        const float32x4_t size = vabsq_f32(vld1q_f32(t + c));
        good = vandq_u32(good, vorrq_u32(vcleq_f32(size, vdupq_n_f32(0x1p24f)), vcgeq_f32(size, vdupq_n_f32(0x1p31f))));
    }
    bool all = vminvq_u32(good) != 0;
    for (; c < n; c++) all = all && (__builtin_fabsf(t[c]) <= 0x1p24f || __builtin_fabsf(t[c]) >= 0x1p31f);
    return all;
}

typedef struct {
    int32x4_t a, b, c, d;
} ints;

INLINE ints load_ints(const uint8_t *at) {
    const int32_t *p = (const int32_t *)(const void *)at;
    return (ints){vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
INLINE ints ceilings(const float *p) {
    return (ints){vcvtpq_s32_f32(vld1q_f32(p)), vcvtpq_s32_f32(vld1q_f32(p + 4)), vcvtpq_s32_f32(vld1q_f32(p + 8)),
                  vcvtpq_s32_f32(vld1q_f32(p + 12))};
}

/* The signs of `rows` rows x 16 channels; of bits out[0], of trits (below is not NULL) both planes. */
INLINE void dots_signs(signs *out, const uint8_t *x, size_t stride, unsigned rows, const float *threshold, const float *below,
                       const bool trits) {
    const ints high = ceilings(threshold), low = trits ? ceilings(below) : high;
    signs plus = {vdupq_n_u16(0), vdupq_n_u16(0)}, some = plus;
    x += (rows - 1) * stride;
    for (unsigned r = rows; r-- > 0; x -= stride) {
        const ints v = load_ints(x);
        const uint16x8_t ab = narrow(vcgeq_s32(v.a, high.a), vcgeq_s32(v.b, high.b)),
                         cd = narrow(vcgeq_s32(v.c, high.c), vcgeq_s32(v.d, high.d));
        add_row(&plus, ab, cd);
        if (trits)
            add_row(&some, vorrq_u16(ab, narrow(vcltq_s32(v.a, low.a), vcltq_s32(v.b, low.b))),
                    vorrq_u16(cd, narrow(vcltq_s32(v.c, low.c), vcltq_s32(v.d, low.d))));
    }
    out[0] = plus;
    if (trits) out[1] = some;
}

static void run_dots(const operands *o, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &o->call->in[BVT_EP_X];
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        const unsigned rows = bvt_min_u32(row1 - r0, 8);
        for (uint32_t c = 0; c < o->cols; c += 16) {
            const unsigned n = bvt_min_u32(o->cols - c, 16);
            const uint8_t *from = bvt_row_bits(x, r0) + (size_t)c * 4;
            size_t stride = x->stride;
            int32_t part[8][16];
            if (n < 16) {
                memset(part, 0, sizeof part);
                for (unsigned r = 0; r < rows; r++) memcpy(part[r], from + r * stride, n * sizeof(int32_t));
                from = (const uint8_t *)part, stride = sizeof part[0];
            }
            for (unsigned i = 0; i < o->n_signs; i++) {
                const float *threshold = o->threshold[i] + c, *below = NULL;
                const bool trits = i + 1 < o->n_signs && o->below[i + 1];
                float limits[2][16] = {{0}};
                signs s[2];
                if (trits) below = o->below[i + 1] + c;
                if (n < 16) {
                    threshold = memcpy(limits[0], threshold, n * sizeof(float));
                    if (trits) below = memcpy(limits[1], below, n * sizeof(float));
                }
                if (trits) dots_signs(s, from, stride, rows, threshold, below, true);
                else dots_signs(s, from, stride, rows, threshold, NULL, false);
                store_signs(&o->target[i], r0, rows, c, n, &s[0]);
                if (trits) store_signs(&o->target[++i], r0, rows, c, n, &s[1]);
            }
        }
    }
}

void bvt_epilogue_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[BVT_EP_X];
    operands o = {.call = call, .cols = x->cols, .dots = x->dtype == BVT_DTYPE_I32};
    unsigned set = 0;
    for (unsigned i = BVT_EP_RES0; i < BVT_EP_THRESHOLD0; i++) set |= (unsigned)(call->in[i].base != NULL) << i;
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) o.param[i] = call->in[i].base ? bvt_row_f32(&call->in[i], 0) : NULL;
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) o.res_cols[slot] = call->in[BVT_EP_RES0 + slot].cols;
    bool integers = !set && o.dots && !call->out[0].base;
    for (unsigned i = 0; i < BVT_EP_BITS; i++) {
        const bvt_view *out = &call->out[1 + i], *threshold = &call->in[BVT_EP_THRESHOLD0 + i];
        if (!out->base) continue;
        const bool trits = out->dtype == BVT_DTYPE_TRITS;
        for (unsigned plane = 0; plane < 1u + trits; plane++, o.n_signs++) {
            o.threshold[o.n_signs] = bvt_row_f32(threshold, trits);
            o.below[o.n_signs] = plane ? bvt_row_f32(threshold, 0) : NULL;
            o.target[o.n_signs] = (sign_target){out, plane ? bvt_plane(out->by_cols ? out->rows : out->cols) : 0};
            integers = integers && integer_thresholds(bvt_row_f32(threshold, plane), o.cols);
        }
    }
    if (integers) {
        run_dots(&o, row0, row1);
    } else {
        switch (set) {
#define X(common) \
    case (unsigned)(common): run(&o, row0, row1, common); break;
            COMMON_SETS(X)
#undef X
        default: run(&o, row0, row1, set);
        }
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++) {
        const bvt_view *out = &call->out[1 + i];
        if (!out->base) continue;
        for (uint32_t r = row0; r < row1; r++) bvt_pad_row(out, r);
        bvt_pad_cols(out, row1);
    }
}
