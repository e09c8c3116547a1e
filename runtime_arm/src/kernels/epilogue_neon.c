/* epilogue for NEON: 8 rows x 16 channels at a time, whose parameters fit into registers: they are loaded once for 8 rows. Bare
 * dots, on which there are thresholds only, do not become floats.
 */
#include "epilogue_sets.h"
#include "signs_neon.h"
#include "vf.h"

#define MOST_SIGNS (2 * BVT_EP_BITS)

/* A call's operands. */
typedef struct {
    const bvt_call *call;
    const bvt_view *x, *out; /* out: or NULL */
    uint32_t cols;
    int x_dtype;
    unsigned n_signs, pool;
    sign_target target[MOST_SIGNS];
    const float *threshold[MOST_SIGNS], *below[MOST_SIGNS]; /* below: NULL, or a sign is also set where v is less */
    const float *param[BVT_EP_THRESHOLD0];
    uint32_t res_cols[BVT_EP_RESIDUALS];
} operands;

INLINE vf load_x(const void *x, const int dtype) {
    switch (dtype) {
    case BVT_DTYPE_I32: return vf_load_i32(x);
    case BVT_DTYPE_I16: return vf_load_i16(x);
    default: return vf_load(x);
    }
}

INLINE uint16x8_t not_less(vf v, vf threshold) { return narrow(vcgeq_f32(v.a, threshold.a), vcgeq_f32(v.b, threshold.b)); }
INLINE uint16x8_t less(vf v, vf threshold) { return narrow(vcltq_f32(v.a, threshold.a), vcltq_f32(v.b, threshold.b)); }

#define HAS(operand) (set >> (operand)&1)

/* ---- The common form: few signs, whole tiles, in which no residual begins anew ----------------------------------------- */

/* 8 rows. */
typedef struct {
    unsigned rows;
    const void *x[8];
    const void *out[8]; /* const as what bvt_epilogue_rows finds is, though these are written; of nothing: `unread` */
    const void *res[BVT_EP_RESIDUALS][8];
    uint32_t at[BVT_EP_RESIDUALS]; /* of a tile's first channel: c mod the residual's columns */
    float unread[16];
} rows8;

static __attribute__((noinline)) void find_rows(rows8 *t, const operands *o, uint32_t r0, uint32_t row1, unsigned set) {
    t->rows = bvt_min_u32(row1 - r0, 8);
    bvt_epilogue_rows(t->x, bvt_row(o->x, r0), o->x->stride);
    bvt_epilogue_rows(t->out, o->out ? bvt_row(o->out, r0) : t->unread, o->out ? o->out->stride : 0);
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
        if (set >> (BVT_EP_RES0 + slot) & 1) bvt_epilogue_residual_rows(o->call, slot, r0, t->rows, t->res[slot]);
    }
}

static __attribute__((noinline)) void put_masks(const operands *o, unsigned i, uint32_t r0, unsigned rows, uint32_t c, unsigned n,
                                                uint8x16_t m0, uint8x16_t m1, uint8x16_t m2, uint8x16_t m3, uint8x16_t m4,
                                                uint8x16_t m5, uint8x16_t m6, uint8x16_t m7) {
    const uint8x16_t mask[8] = {m0, m1, m2, m3, m4, m5, m6, m7}; /* they come in registers */
    store_masks(&o->target[i], r0, rows, c, n, mask);
}
#define MASKS(m) m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7]

typedef struct {
    vf low, high;
} vf16;

INLINE vf16 load16(const float *p) { return (vf16){vf_load(p), vf_load(p + 8)}; }
/* Into registers of their own, which may be overwritten: GCC would load pairs and move them. */
INLINE vf16 load16_alone(const float *p) {
    float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + 4), c = vld1q_f32(p + 8), d = vld1q_f32(p + 12);
    __asm__("" : "+w"(a));
    __asm__("" : "+w"(b));
    __asm__("" : "+w"(c));
    __asm__("" : "+w"(d));
    return (vf16){{a, b}, {c, d}};
}
INLINE vf16 add16(vf16 x, vf16 y) { return (vf16){vf_add(x.low, y.low), vf_add(x.high, y.high)}; }
INLINE uint8x16_t not_less16(vf16 v, vf16 threshold) {
    return vuzp1q_u8(vreinterpretq_u8_u16(not_less(v.low, threshold.low)), vreinterpretq_u8_u16(not_less(v.high, threshold.high)));
}

INLINE vf16 multiply_add16(vf16 x, vf16 y, vf16 z) { return (vf16){vf_fma(x.low, y.low, z.low), vf_fma(x.high, y.high, z.high)}; }
INLINE vf16 multiply16(vf16 x, vf16 y) { return (vf16){vf_mul(x.low, y.low), vf_mul(x.high, y.high)}; }
INLINE vf16 prelu16(vf16 v, vf16 less, vf16 knee) {
    return (vf16){vf_prelu(v.low, less.low, knee.low), vf_prelu(v.high, less.high, knee.high)};
}

/* Writes 16 channels, or the means of every 4 or 8 of them. */
INLINE void put_real16(float *to, vf16 v, const unsigned pool, const float32x4_t reciprocal) {
    if (pool == 1) {
        vf_store(to, v.low), vf_store(to + 8, v.high);
        return;
    }
    const float32x4_t fours = vpaddq_f32(vpaddq_f32(v.low.a, v.low.b), vpaddq_f32(v.high.a, v.high.b));
    if (pool == 4) vst1q_f32(to, vmulq_f32(fours, reciprocal));
    else vst1_f32(to, vmul_f32(vpadd_f32(vget_low_f32(fours), vget_high_f32(fours)), vget_low_f32(reciprocal)));
}

enum { MOST_AT_ONCE = 3 }; /* signs */

/* 16 channels from c on. mask[i][r]: sign i of row r, of so many. dots: x is i16, else f32. Floats are written, though
 * it may be to where nobody reads them, which is cheaper than to ask in every row. */
INLINE void rows_tile(uint8x16_t mask[MOST_AT_ONCE][8], const operands *o, const rows8 *t, uint32_t c, const unsigned set,
                      const bool dots, const unsigned signs, const unsigned pool) {
    const vf16 none = {vf_set(0), vf_set(0)};
    vf16 p[BVT_EP_THRESHOLD0], threshold[MOST_AT_ONCE];
#pragma GCC unroll 3
    for (unsigned i = 0; i < MOST_AT_ONCE; i++) threshold[i] = i < signs ? load16(o->threshold[i] + c) : none;
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) p[i] = set >> i & 1 ? load16(o->param[i] + c) : none;
    const vf one = vf_set(1);
    if (HAS(BVT_EP_SLOPE)) p[BVT_EP_SLOPE] = (vf16){vf_sub(p[BVT_EP_SLOPE].low, one), vf_sub(p[BVT_EP_SLOPE].high, one)};
    /* A multiply-add overwrites its addend, so that is read anew for every row where the vector pipes are the busy ones: a load is
     * cheaper than a move there. The empty asm keeps GCC from keeping it, and the conversion's constant from being loaded for every
     * row. */
    const bool again = signs || HAS(BVT_EP_SLOPE);
    const float *shift = HAS(BVT_EP_SHIFT) ? o->param[BVT_EP_SHIFT] + c : NULL;
    const float *shift2 = HAS(BVT_EP_SHIFT2) ? o->param[BVT_EP_SHIFT2] + c : NULL;
    float32x4_t base = vdupq_n_f32(VF_I16_BASE);
    __asm__("" : "+w"(base));
    const unsigned rows = t->rows;
    const uint32_t to = o->out ? c / pool : 0;
    float32x4_t reciprocal = vdupq_n_f32(1 / (float)pool);
    if (pool > 1) __asm__("" : "+w"(reciprocal));
    size_t at[BVT_EP_RESIDUALS];
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) at[slot] = set >> (BVT_EP_RES0 + slot) & 1 ? t->at[slot] : 0;
#pragma GCC unroll 1
    for (unsigned r = 0; r < rows; r++) {
        const void *x = t->x[r];
        float *out = (float *)t->out[r];
        vf16 v;
        if (dots) v = (vf16){vf_from_i16((const int16_t *)x + c, base), vf_from_i16((const int16_t *)x + c + 8, base)};
        else v = load16((const float *)x + c);
        __asm__ volatile("" ::: "memory");
#define PARAM(operand) \
    (again && (operand) == BVT_EP_SHIFT ? load16(shift) : again && (operand) == BVT_EP_SHIFT2 ? load16(shift2) : p[operand])
#define RESIDUAL(slot) load16_alone((const float *)t->res[slot][r] + at[slot])
#define MULTIPLY_ADD multiply_add16
#define MULTIPLY multiply16
#define ADD add16
#define PRELU(v) prelu16(v, p[BVT_EP_SLOPE], p[BVT_EP_KNEE])
        EPILOGUE_STEPS(v)
#undef RESIDUAL
#undef PARAM
#undef MULTIPLY_ADD
#undef MULTIPLY
#undef ADD
#undef PRELU
        put_real16(out + to, v, pool, reciprocal);
#pragma GCC unroll 3
        for (unsigned i = 0; i < signs; i++) mask[i][r] = not_less16(v, threshold[i]);
    }
}

static __attribute__((noinline)) void epilogue_any(const operands *o, uint32_t row0, uint32_t row1, uint32_t first_col, unsigned set);

INLINE void run(const operands *o, uint32_t row0, uint32_t row1, const unsigned set, const bool dots, const unsigned signs,
                const unsigned pool) {
    const uint32_t whole = o->cols & ~15u;
    uint8x16_t mask[MOST_AT_ONCE][8];
    for (unsigned i = 0; i < signs; i++)
        for (unsigned r = 0; r < 8; r++) mask[i][r] = vdupq_n_u8(0);
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        rows8 t;
        find_rows(&t, o, r0, row1, set);
        memset(t.at, 0, sizeof t.at);
        uint8_t *line[MOST_AT_ONCE]; /* of 8 rows, where these are lines */
#pragma GCC unroll 3
        for (unsigned i = 0; i < signs; i++)
            line[i] = t.rows == 8 && !o->target[i].view->by_cols ? line_of(&o->target[i], r0) : NULL;
        for (uint32_t c = 0; c < whole; c += 16) {
            rows_tile(mask, o, &t, c, set, dots, signs, pool);
            for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
                if (set >> (BVT_EP_RES0 + slot) & 1) t.at[slot] = t.at[slot] + 16 == o->res_cols[slot] ? 0 : t.at[slot] + 16;
#pragma GCC unroll 3
            for (unsigned i = 0; i < signs; i++)
                if (line[i]) put_words(line[i] + c / 8, o->target[i].view->stride, words_of(mask[i]));
                else put_masks(o, i, r0, t.rows, c, 16, MASKS(mask[i]));
        }
    }
    if (whole < o->cols) epilogue_any(o, row0, row1, whole, set);
}

/* ---- Any form ---------------------------------------------------------------------------------------------------------------- */

/* Up to 8 rows x 16 channels of the operands; pointers are at the first row and channel. */
typedef struct {
    unsigned rows, n_signs, pool;
    int x_dtype;
    const uint8_t *x;
    float *out; /* or NULL */
    size_t x_stride, out_stride;
    const void *(*res)[8]; /* rows of residuals, which are read from at[] on */
    uint32_t at[BVT_EP_RESIDUALS];
    const float *param[BVT_EP_THRESHOLD0];
    const float *threshold[MOST_SIGNS], *below[MOST_SIGNS]; /* below: NULL, or a sign is also set where v is less */
} tile;

/* Writes 8 channels, or the means of every `pool` of them. */
INLINE void put_real8(float *to, vf v, unsigned pool) {
    if (pool == 1) {
        vf_store(to, v);
        return;
    }
    const float32x4_t twos = vpaddq_f32(v.a, v.b);
    const float32x2_t fours = vpadd_f32(vget_low_f32(twos), vget_high_f32(twos));
    if (pool == 2) vst1q_f32(to, vmulq_n_f32(twos, 0.5f));
    else if (pool == 4) vst1_f32(to, vmul_n_f32(fours, 0.25f));
    else *to = vpadds_f32(fours) * 0.125f;
}

/* Channels 8*half .. of a tile. Rows in falling order, as signs want them. */
INLINE void half_signs(signs *out, const tile *t, const unsigned half, unsigned set) {
    const int x_dtype = t->x_dtype;
    const uint32_t c = 8 * half;
    const unsigned n_signs = t->n_signs;
    const uint8_t *x = t->x + (t->rows - 1) * t->x_stride + c * (x_dtype == BVT_DTYPE_I16 ? 2 : 4);
    float *to = t->out ? (float *)(void *)((uint8_t *)t->out + (t->rows - 1) * t->out_stride) + c / t->pool : NULL;
    const vf threshold = n_signs ? vf_load(t->threshold[0] + c) : vf_set(0);
    vf p[BVT_EP_THRESHOLD0];
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) p[i] = set >> i & 1 ? vf_load(t->param[i] + c) : vf_set(0);
    p[BVT_EP_SLOPE] = vf_sub(p[BVT_EP_SLOPE], vf_set(1));
    uint16x8_t first = vdupq_n_u16(0);
    for (unsigned i = 1; i < n_signs; i++) *half_of(&out[i], half) = first;
    size_t at[BVT_EP_RESIDUALS];
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) at[slot] = t->at[slot] + c;
    for (unsigned r = t->rows; r-- > 0; x -= t->x_stride) {
        vf v = load_x(x, x_dtype);
#define PARAM(operand) p[operand]
#define RESIDUAL(slot) vf_load((const float *)t->res[slot][r] + at[slot])
#define MULTIPLY_ADD vf_fma
#define MULTIPLY vf_mul
#define ADD vf_add
#define PRELU(v) vf_prelu(v, p[BVT_EP_SLOPE], p[BVT_EP_KNEE])
        EPILOGUE_STEPS(v)
#undef RESIDUAL
#undef PARAM
#undef MULTIPLY_ADD
#undef MULTIPLY
#undef ADD
#undef PRELU
        if (to) {
            put_real8(to, v, t->pool);
            to = (float *)(void *)((uint8_t *)to - t->out_stride);
        }
        if (n_signs) first = add_row(first, not_less(v, threshold));
        for (unsigned i = 1; i < n_signs; i++) {
            uint16x8_t mask = not_less(v, vf_load(t->threshold[i] + c));
            if (t->below[i]) mask = vorrq_u16(mask, less(v, vf_load(t->below[i] + c)));
            *half_of(&out[i], half) = add_row(*half_of(&out[i], half), mask);
        }
    }
    *half_of(&out[0], half) = first;
}

static __attribute__((noinline)) void tile_signs(signs *out, const tile *t, unsigned set) {
    half_signs(out, t, 0, set);
    half_signs(out, t, 1, set);
}

/* Copies of what a tile of fewer than 16 channels reads, or of one where a residual's columns begin anew. */
typedef struct {
    const void *rows[BVT_EP_RESIDUALS][8];
    float x[8][16], out[8][16], res[BVT_EP_RESIDUALS][8][16], param[BVT_EP_THRESHOLD0][16], threshold[MOST_SIGNS][2][16];
} copies;

static __attribute__((noinline)) void copied_tile(tile *t, copies *own, const operands *o, uint32_t r0, uint32_t c, unsigned n,
                                                  unsigned set) {
    const bvt_view *x = o->x;
    memset(own, 0, sizeof *own);
    for (unsigned r = 0; r < t->rows; r++) {
        memcpy(own->x[r], bvt_row_bits(x, r0 + r) + c * bvt_epilogue_x_bytes(x), n * bvt_epilogue_x_bytes(x));
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
    for (unsigned r = 0; r < rows; r++)
        memcpy((float *)bvt_row(o->out, r0 + r) + c / o->pool, own->out[r], n / o->pool * sizeof(float));
}

/* From channel first_col on, a multiple of 16. */
static void epilogue_any(const operands *o, uint32_t row0, uint32_t row1, uint32_t first_col, unsigned set) {
    const bvt_view *x = o->x, *out = o->out;
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        const void *res[BVT_EP_RESIDUALS][8];
        uint32_t at[BVT_EP_RESIDUALS] = {0}; /* c mod the residual's columns */
        tile t = {.rows = bvt_min_u32(row1 - r0, 8), .n_signs = o->n_signs, .pool = o->pool, .x_dtype = o->x_dtype};
        for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
            if (!(set >> (BVT_EP_RES0 + slot) & 1)) continue;
            bvt_epilogue_residual_rows(o->call, slot, r0, t.rows, res[slot]);
            at[slot] = first_col % o->res_cols[slot];
        }
        for (uint32_t c = first_col; c < o->cols; c += 16) {
            const unsigned n = bvt_min_u32(o->cols - c, 16);
            signs s[MOST_SIGNS];
            bool whole = n == 16;
            t.x = bvt_row_bits(x, r0) + c * bvt_epilogue_x_bytes(x), t.x_stride = x->stride;
            t.out = out ? (float *)bvt_row(out, r0) + c / o->pool : NULL, t.out_stride = out ? out->stride : 0;
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
                tile_signs(s, &t, set);
                if (t.out) copy_back(o, &own, r0, t.rows, c, n);
            }
            for (unsigned i = 0; i < o->n_signs; i++) store_signs(&o->target[i], r0, t.rows, c, n, &s[i]);
        }
    }
}

/* The forms that compiled models have much of, which have code of their own: the set, whether x is dots in i16, whether there is a sign,
 * and how many channels are pooled. A layer ends in a sign; a sum of branches goes into a norm. */
#define DOTS (1u << 30)
#define SIGN (1u << 31)
#define FORMS(X)                                                    \
    X(RES0)                                                         \
    X(SCALE)                                                        \
    X(SCALE | RES0)                                                 \
    X(SCALE | RES0 | SIGN)                                          \
    X(AFFINE)                                                       \
    X(AFFINE | SIGN)                                                \
    X(AFFINE | RES0)                                                \
    X(SCALE | DOTS)                                                 \
    X(SCALE | RES0 | DOTS)                                          \
    X(AFFINE | DOTS)                                                \
    X(AFFINE | RES0 | DOTS)                                         \
    X(AFFINE | SLOPE | DOTS)                                        \
    X(AFFINE | SLOPE | POST_RES0 | POST_RES1 | DOTS)                \
    X(SCALE | RES0 | BENT | SIGN | DOTS)                            \
    X(SCALE | RES0 | BENT | SIGN | DOTS | POOL(4))                  \
    X(SCALE | RES0 | BENT | SIGN | DOTS | POOL(8))                  \
    X(SCALE | RES0 | RES1 | BENT | SIGN | DOTS)                     \
    X(SCALE | RES0 | RES1 | RES2 | BENT | POST | DOTS)              \
    X(SCALE | RES0 | BENT | POST_RES0 | DOTS)                       \
    X(SCALE | RES0 | BENT | SCALE2 | POST_RES0 | DOTS)              \
    X(SCALE | RES0 | BENT | SCALE2 | POST_RES0 | POST_RES1 | DOTS)  \
    X(SCALE | RES0 | BENT | AFFINE2 | POST_RES0 | POST_RES1 | DOTS)

/* ---- Signs of what is there: of bare dots, of floats that were written ------------------------------------------------------ */

/* Of dots in i16, float(x) >= t is x >= ceil(t), which may be cut to i16, whose ends no dot reaches (BVT_MOST_I16); a NaN, which nothing
 * reaches and nothing is below, becomes `nan`, one of the ends. */
INLINE int32x4_t ceilings(const float *p, int32_t nan) {
    const float32x4_t t = vld1q_f32(p);
    return vbslq_s32(vceqq_f32(t, t), vcvtpq_s32_f32(t), vdupq_n_s32(nan));
}

/* What 8 channels' dots are compared with. */
INLINE int16x8_t load_limits(const float *p, int32_t nan) {
    return vqmovn_high_s32(vqmovn_s32(ceilings(p, nan)), ceilings(p + 4, nan));
}
/* 16 channels: 255 or 0. */
INLINE uint8x16_t reach_words(int16x8_t first, int16x8_t second, const int16x8_t l[2]) {
    return vuzp1q_u8(vreinterpretq_u8_u16(vcgeq_s16(first, l[0])), vreinterpretq_u8_u16(vcgeq_s16(second, l[1])));
}
INLINE uint8x16_t reach(const uint8_t *x, const int16x8_t l[2]) {
    const int16_t *p = (const int16_t *)(const void *)x;
    return reach_words(vld1q_s16(p), vld1q_s16(p + 8), l);
}

/* Up to 8 rows x 16 channels, where the last row stands in for those that are missing; trits: and of the plane after output i, which is
 * also set where the lower limit is not reached. */
INLINE void dots_tile(const operands *o, unsigned i, uint32_t r0, unsigned rows, uint32_t c, unsigned n, const uint8_t *x, size_t stride,
                      const int16x8_t *high, const int16x8_t *low, bool trits) {
    uint8x16_t m[8];
#define X(r) m[r] = reach(x + bvt_min_u32(r, rows - 1) * stride, high);
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
    put_masks(o, i, r0, rows, c, n, MASKS(m));
    if (!trits) return;
#define X(r) m[r] = vornq_u8(m[r], reach(x + bvt_min_u32(r, rows - 1) * stride, low));
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
    put_masks(o, i + 1, r0, rows, c, n, MASKS(m));
}

static __attribute__((noinline)) void copy_rows(int16_t part[8][16], const uint8_t *x, size_t stride, unsigned rows, size_t bytes) {
    memset(part, 0, 8 * sizeof *part);
    for (unsigned r = 0; r < rows; r++) memcpy(part[r], x + r * stride, bytes);
}

/* 16 channels of a row, or their limits, in whole blocks: floats, or dots. Where limits are -127 .. 127, dots are cut to bytes: one that
 * is below all bytes stays below its limit, one above them does not. */
enum { FLOATS, WORDS, BYTES };
typedef struct {
    vf16 real;
    int16x8_t words[2];
    int8x16_t bytes;
} channels16;

INLINE int8x16_t cut_to_bytes(const int16x8_t words[2]) { return vqmovn_high_s16(vqmovn_s16(words[0]), words[1]); }

INLINE channels16 load_channels(const uint8_t *x, const int kind) {
    const int16_t *p = (const int16_t *)(const void *)x;
    channels16 v = {{vf_set(0), vf_set(0)}, {vdupq_n_s16(0), vdupq_n_s16(0)}, vdupq_n_s8(0)};
    if (kind == FLOATS) v.real = load16((const float *)(const void *)x);
    else v.words[0] = vld1q_s16(p), v.words[1] = vld1q_s16(p + 8);
    if (kind == BYTES) v.bytes = cut_to_bytes(v.words);
    return v;
}
INLINE channels16 load_cuts(const float *p, int32_t nan, const bool dots) {
    channels16 l = {load16(p), {vdupq_n_s16(0), vdupq_n_s16(0)}, vdupq_n_s8(0)};
    if (dots) l.words[0] = load_limits(p, nan), l.words[1] = load_limits(p + 8, nan);
    l.bytes = cut_to_bytes(l.words);
    return l;
}
INLINE bool fit_bytes(const channels16 *limits) {
    const int16x8_t most = vmaxq_s16(vqabsq_s16(limits->words[0]), vqabsq_s16(limits->words[1]));
    return vmaxvq_s16(most) <= INT8_MAX;
}

/* 255 or 0. */
INLINE uint8x16_t reach_cuts(const channels16 *v, const channels16 *limits, const int kind) {
    if (kind == FLOATS) return not_less16(v->real, limits->real);
    if (kind == BYTES) return vcgeq_s8(v->bytes, limits->bytes);
    return reach_words(v->words[0], v->words[1], limits->words);
}

/* 16 channels of output i, of whole blocks of 8 rows; trits: and of the plane after it. */
INLINE void block_signs(const operands *o, unsigned i, uint32_t row0, uint32_t row1, uint32_t c, const channels16 *high,
                        const channels16 *low, const int kind, const bool trits, const bool cols) {
    const size_t stride = o->x->stride, apart = o->target[i].view->stride;
    const size_t step = cols ? 1 : 8 * apart, some = trits ? o->target[i + 1].plane - o->target[i].plane : 0;
    const uint8_t *x = bvt_row_bits(o->x, row0) + c * (kind == FLOATS ? sizeof(float) : sizeof(int16_t));
    uint8_t *to = cols ? column_of(&o->target[i], row0, c) : line_of(&o->target[i], row0) + c / 8;
    for (uint32_t r0 = row0; r0 + 8 <= row1; r0 += 8, x += 8 * stride, to += step) {
        uint8x16_t m[8], some_of[8];
#define X(r)                                                                    \
    {                                                                           \
        const channels16 v = load_channels(x + (r) * stride, kind);             \
        m[r] = reach_cuts(&v, high, kind);                                      \
        if (trits) some_of[r] = vornq_u8(m[r], reach_cuts(&v, low, kind));      \
    }
        X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
        if (cols) put_columns(to, apart, columns_of(m));
        else put_words(to, apart, words_of(m));
        if (!trits) continue;
        if (cols) put_columns(to + some, apart, columns_of(some_of));
        else put_words(to + some, apart, words_of(some_of));
    }
}

/* Output i of the whole blocks of 8 rows x 16 channels; trits: and the plane after it. Returns the first row that is left. */
INLINE uint32_t blocks(const operands *o, unsigned i, uint32_t row0, uint32_t row1, const bool dots, const bool trits, const bool cols) {
    const uint32_t whole = o->cols & ~15u;
    for (uint32_t c = 0; c < whole; c += 16) {
        const channels16 high = load_cuts(o->threshold[i] + c, INT32_MAX, dots);
        const channels16 low = trits ? load_cuts(o->below[i + 1] + c, INT32_MIN, dots) : high;
        if (!dots) block_signs(o, i, row0, row1, c, &high, &low, FLOATS, trits, cols);
        else if (trits && fit_bytes(&high) && fit_bytes(&low)) block_signs(o, i, row0, row1, c, &high, &low, BYTES, trits, cols);
        else block_signs(o, i, row0, row1, c, &high, &low, WORDS, trits, cols);
    }
    return row1 - (row1 - row0) % 8;
}

static __attribute__((noinline)) uint32_t dots_blocks(const operands *o, unsigned i, uint32_t row0, uint32_t row1, bool trits) {
    const bool cols = o->target[i].view->by_cols;
    if (trits && cols) return blocks(o, i, row0, row1, true, true, true);
    if (trits) return blocks(o, i, row0, row1, true, true, false);
    return cols ? blocks(o, i, row0, row1, true, false, true) : blocks(o, i, row0, row1, true, false, false);
}

/* Channels c .. c+n-1 of output i, whose thresholds are 16; trits (`below` is not NULL): and of the plane after it. */
static __attribute__((noinline)) void dots_signs(const operands *o, unsigned i, uint32_t row0, uint32_t row1, uint32_t c, unsigned n,
                                                 const float *threshold, const float *below) {
    const bvt_view *view = o->x;
    const int16x8_t high[2] = {load_limits(threshold, INT32_MAX), load_limits(threshold + 8, INT32_MAX)};
    int16x8_t low[2] = {high[0], high[1]};
    if (below) low[0] = load_limits(below, INT32_MIN), low[1] = load_limits(below + 8, INT32_MIN);
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        const unsigned rows = bvt_min_u32(row1 - r0, 8);
        const uint8_t *x = bvt_row_bits(view, r0) + c * sizeof(int16_t);
        size_t stride = view->stride;
        int16_t part[8][16];
        if (n < 16) {
            copy_rows(part, x, stride, rows, n * sizeof(int16_t));
            x = (const uint8_t *)part, stride = sizeof part[0];
        }
        dots_tile(o, i, r0, rows, c, n, x, stride, high, low, below);
    }
}

static void epilogue_dots(const operands *o, uint32_t row0, uint32_t row1) {
    for (unsigned i = 0; i < o->n_signs; i++) {
        const bool trits = i + 1 < o->n_signs && o->below[i + 1];
        const uint32_t left = dots_blocks(o, i, row0, row1, trits); /* of whole tiles */
        for (uint32_t c = 0; c < o->cols; c += 16) {
            const unsigned n = bvt_min_u32(o->cols - c, 16);
            if (n == 16 && left == row1) continue;
            const float *threshold = o->threshold[i] + c, *below = trits ? o->below[i + 1] + c : NULL;
            float copy[2][16];
            if (n < 16) {
                memset(copy, 0, sizeof copy);
                threshold = memcpy(copy[0], threshold, n * sizeof(float));
                if (trits) below = memcpy(copy[1], below, n * sizeof(float));
            }
            dots_signs(o, i, n == 16 ? left : row0, row1, c, n, threshold, below);
        }
        i += trits;
    }
}

/* One sign of floats that are there. */
static void epilogue_floats(const operands *o, uint32_t row0, uint32_t row1) {
    const uint32_t whole = o->cols & ~15u;
    const uint32_t left = o->target[0].view->by_cols ? blocks(o, 0, row0, row1, false, false, true)
                                                     : blocks(o, 0, row0, row1, false, false, false);
    if (left < row1) epilogue_any(o, left, row1, 0, 0);
    if (whole < o->cols) epilogue_any(o, row0, left, whole, 0);
}

/* At most one sign. Dots in i32, which only very long sums have, take any form. */
static __attribute__((noinline)) void epilogue_one(const operands *o, uint32_t row0, uint32_t row1, unsigned set) {
    if (!set && o->n_signs && !o->out && o->x_dtype == BVT_DTYPE_F32) {
        epilogue_floats(o, row0, row1);
        return;
    }
    bool whole = o->x_dtype != BVT_DTYPE_I32; /* no residual begins anew within 16 channels */
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
        if (set >> (BVT_EP_RES0 + slot) & 1) whole = whole && (o->res_cols[slot] == o->cols || o->res_cols[slot] % 16 == 0);
    const unsigned flags = (o->x_dtype == BVT_DTYPE_I16 ? DOTS : 0u) | (o->n_signs ? SIGN : 0u);
    switch (whole ? form_of(set, o->pool) | flags : 0u) {
#define X(form)                                                                                                             \
    case (unsigned)(form):                                                                                                  \
        run(o, row0, row1, set_of((unsigned)(form)), ((form) & DOTS) != 0, (form) & SIGN ? 1 : 0, pool_of((unsigned)(form))); \
        break;
        FORMS(X)
#undef X
    default: epilogue_any(o, row0, row1, 0, set);
    }
}

/* Several signs: three of what an affine step makes, as the products of q, k and v want them, or the first, and then thresholds on the
 * floats that were just written. */
static void epilogue_several(const operands *o, uint32_t row0, uint32_t row1, unsigned set) {
    if (set == AFFINE && o->n_signs == 3 && o->x_dtype == BVT_DTYPE_F32) {
        run(o, row0, row1, AFFINE, false, 3, 1);
        return;
    }
    operands one = *o;
    one.n_signs = 1;
    epilogue_one(&one, row0, row1, set);
    one.x = o->out, one.x_dtype = BVT_DTYPE_F32, one.out = NULL;
    for (unsigned i = 1; i < o->n_signs; i++) {
        one.target[0] = o->target[i], one.threshold[0] = o->threshold[i];
        epilogue_one(&one, row0, row1, 0);
    }
}

void bvt_epilogue_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[BVT_EP_X];
    operands o = {.call = call, .x = x, .out = call->out[0].base ? &call->out[0] : NULL, .cols = x->cols, .x_dtype = x->dtype};
    o.pool = bvt_epilogue_pool(call);
    unsigned set = 0;
    bool trits = false;
    for (unsigned i = BVT_EP_RES0; i < BVT_EP_THRESHOLD0; i++) set |= (unsigned)(call->in[i].base != NULL) << i;
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) o.param[i] = call->in[i].base ? bvt_row_f32(&call->in[i], 0) : NULL;
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) o.res_cols[slot] = call->in[BVT_EP_RES0 + slot].cols;
    for (unsigned i = 0; i < BVT_EP_BITS; i++) {
        const bvt_view *out = &call->out[1 + i], *threshold = &call->in[BVT_EP_THRESHOLD0 + i];
        if (!out->base) continue;
        const unsigned planes = out->dtype == BVT_DTYPE_TRITS ? 2 : 1;
        trits = trits || planes == 2;
        for (unsigned plane = 0; plane < planes; plane++, o.n_signs++) {
            o.threshold[o.n_signs] = bvt_row_f32(threshold, planes - 1);
            o.below[o.n_signs] = plane ? bvt_row_f32(threshold, 0) : NULL;
            o.target[o.n_signs] = (sign_target){out, plane ? bvt_plane(out->by_cols ? out->rows : out->cols) : 0};
        }
    }
    if (!set && o.x_dtype == BVT_DTYPE_I16 && !o.out) epilogue_dots(&o, row0, row1);
    else if (o.n_signs <= 1) epilogue_one(&o, row0, row1, set);
    else if (o.out && !trits && o.pool == 1) epilogue_several(&o, row0, row1, set);
    else epilogue_any(&o, row0, row1, 0, set);
    for (unsigned i = 0; i < BVT_EP_BITS; i++)
        if (call->out[1 + i].base) bvt_pad(&call->out[1 + i], row0, row1);
}
