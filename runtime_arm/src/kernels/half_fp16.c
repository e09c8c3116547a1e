/* epilogue, stencil and pools in fp16 with the FP16 instructions of ARMv8.2: 8 channels a vector. Rare forms are left to
 * half_neon.c, which computes the same bits.
 */
#if defined(__clang__)
#ifndef __ARM_FEATURE_FP16_VECTOR_ARITHMETIC
#define __ARM_FEATURE_FP16_VECTOR_ARITHMETIC 1 /* without it, arm_neon.h of Clang before 16 declares nothing of this */
#endif
#pragma clang attribute push(__attribute__((target("fullfp16"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+fp16")
#endif
#include "../numerics.h"
#include "../ops/pool.h"
#include "../ops/stencil.h"
#include "epilogue_sets.h"
#include "signs_neon.h"

typedef float16x8_t half8;

INLINE half8 load(const uint16_t *p) { return vreinterpretq_f16_u16(vld1q_u16(p)); }
INLINE void store(uint16_t *p, half8 v) { vst1q_u16(p, vreinterpretq_u16_f16(v)); }

/* ---- epilogue: 8 rows x 32 channels at a time, so that parameters are loaded once for 8 rows ------------------------------ */

#define TILE 32u /* channels */

/* What x holds. SMALL: dots up to BVT_EP_MOST_SMALL; 0x6600 + x are the bits of 1536 + x, and nothing has to be converted. */
enum { SMALL_I16, REAL_F16, ANY_I16, ANY_I32, REAL_F32 };

typedef struct {
    const bvt_call *call;
    uint32_t cols;
    unsigned set; /* which operands there are */
    bool even; /* no residual's columns begin anew within a tile */
    const bvt_view *x, *out; /* out: or NULL */
    unsigned x_kind, x_bytes, pool;
    const uint16_t *param[BVT_EP_THRESHOLD0], *threshold; /* or NULL: no sign */
    sign_target target;
    uint32_t res_cols[BVT_EP_RESIDUALS];
} operands;

enum { AFTER = AFFINE2 | 7 << BVT_EP_POST_RES0 };

/* 8 rows. */
typedef struct {
    unsigned rows;
    uint32_t first;
    const uint8_t *x;
    uint8_t *out;
    const void *res[BVT_EP_RESIDUALS][8];
    uint32_t at[BVT_EP_RESIDUALS]; /* of a tile's first channel: c mod the residual's columns */
    uint8x16_t sums[8];            /* signs of a tile: byte i is the weighted sum of those of channels 2i and 2i + 1 */
    uint16_t x_copy[8][TILE], out_copy[8][TILE];
} rows8;

/* 32 channels of a row. */
typedef struct {
    half8 v[4];
} half32;

/* x.v[i] = expression, for every i. */
#define EACH(x32, expression) \
    _Pragma("GCC unroll 4") for (unsigned i = 0; i < 4; i++)(x32).v[i] = (expression)

INLINE half32 load32(const uint16_t *p) {
    half32 x;
    EACH(x, load(p + 8 * i));
    return x;
}
INLINE half32 add32(half32 x, half32 y) {
    EACH(x, vaddq_f16(x.v[i], y.v[i]));
    return x;
}
INLINE half32 multiply32(half32 x, half32 y) {
    EACH(x, vmulq_f16(x.v[i], y.v[i]));
    return x;
}
INLINE half32 multiply_add32(half32 x, half32 y, half32 z) {
    EACH(z, vfmaq_f16(z.v[i], x.v[i], y.v[i]));
    return z;
}
INLINE half8 small_dots(int16x8_t x) {
    return vsubq_f16(vreinterpretq_f16_s16(vaddq_s16(x, vdupq_n_s16(0x6600))), vreinterpretq_f16_u16(vdupq_n_u16(0x6600)));
}

/* 8 channels of x, from channel i on. */
INLINE half8 load_x(const uint8_t *x, unsigned i, const unsigned kind) {
    const int16_t *p = (const int16_t *)(const void *)x + i;
    const int32_t *wide = (const int32_t *)(const void *)x + i;
    const float *real = (const float *)(const void *)x + i;
    switch (kind) {
    case SMALL_I16: return small_dots(vld1q_s16(p));
    case ANY_I16: return vcvtq_f16_s16(vld1q_s16(p));
    case ANY_I32: return vcvt_high_f16_f32(vcvt_f16_f32(vcvtq_f32_s32(vld1q_s32(wide))), vcvtq_f32_s32(vld1q_s32(wide + 4)));
    case REAL_F32: return vcvt_high_f16_f32(vcvt_f16_f32(vld1q_f32(real)), vld1q_f32(real + 4));
    default: return load((const uint16_t *)p);
    }
}

/* Writes 32 channels, or the means of every 4 or 8 of them. */
INLINE void put_real(uint16_t *to, half32 v, const unsigned pool) {
    if (pool == 1) {
#pragma GCC unroll 4
        for (unsigned i = 0; i < 4; i++) store(to + 8 * i, v.v[i]);
        return;
    }
    const half8 fours = vpaddq_f16(vpaddq_f16(v.v[0], v.v[1]), vpaddq_f16(v.v[2], v.v[3]));
    if (pool == 4) {
        store(to, vmulq_n_f16(fours, (float16_t)0.25f));
        return;
    }
    const float16x4_t eights = vpadd_f16(vget_low_f16(fours), vget_high_f16(fours));
    vst1_u16(to, vreinterpret_u16_f16(vmul_n_f16(eights, (float16_t)0.125f)));
}

/* Channels c .. c+31 of the rows, written as F16 (store_out) and as t->sums (sign). An operand is there if it is `always`, or `maybe`
 * and in the op's set, which is tested in every row: 32 channels keep the vector pipes busy meanwhile. */
INLINE void rows_tile(const operands *o, rows8 *t, uint32_t c, const void *x, size_t x_stride, const unsigned kind, void *out,
                      size_t out_stride, const unsigned always, const unsigned maybe, const bool sign, const bool store_out,
                      const unsigned pool) {
    const unsigned set = o->set, rows = t->rows;
#define HAS(role) (always >> (role) & 1 || (maybe >> (role) & 1 && set >> (role) & 1))
    const half8 zero = vreinterpretq_f16_u16(vdupq_n_u16(0)), one = vreinterpretq_f16_u16(vdupq_n_u16(0x3C00));
    half32 scale, less, knee, threshold;
    EACH(scale, zero);
    less = knee = threshold = scale;
    if (HAS(BVT_EP_SCALE)) scale = load32(o->param[BVT_EP_SCALE] + c);
    if (HAS(BVT_EP_SLOPE)) {
        less = load32(o->param[BVT_EP_SLOPE] + c);
        EACH(less, vsubq_f16(less.v[i], one));
        if (HAS(BVT_EP_KNEE)) knee = load32(o->param[BVT_EP_KNEE] + c);
    }
    if (sign) threshold = load32(o->threshold + c);
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    /* A multiply-add overwrites its addend, so that is read anew for every row: a load is cheaper than a move. To the empty asm the
     * pointer is another one in every row. */
#define ADDRESS(operand) (HAS(operand) ? o->param[operand] + c : NULL)
    const uint16_t *shift = ADDRESS(BVT_EP_SHIFT), *post = ADDRESS(BVT_EP_POST);
    const uint16_t *scale2 = ADDRESS(BVT_EP_SCALE2), *shift2 = ADDRESS(BVT_EP_SHIFT2);
#undef ADDRESS
    uint32_t at[BVT_EP_RESIDUALS];
#pragma GCC unroll 6
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) at[slot] = HAS(BVT_EP_RES0 + slot) ? t->at[slot] : 0;
#pragma GCC unroll 1
    for (unsigned r = 0; r < rows; r++) {
        half32 v;
        switch (kind) {
#define X(one)                                   \
    case one: EACH(v, load_x(x, 8 * i, one)); break;
            X(SMALL_I16) X(ANY_I16)
        default: v = load32(x);
#undef X
        }
        x = (const uint8_t *)x + x_stride;
        __asm__("" : "+r"(shift), "+r"(post), "+r"(scale2), "+r"(shift2));
#define PARAM(operand) \
    ((operand) == BVT_EP_SCALE ? scale : load32((operand) == BVT_EP_SHIFT ? shift : (operand) == BVT_EP_SCALE2 ? scale2 : shift2))
#define MULTIPLY_ADD multiply_add32
#define MULTIPLY multiply32
#define ADD add32
#define RESIDUAL(slot) load32((const uint16_t *)t->res[slot][r] + at[slot])
        EPILOGUE_AFFINE(v, BVT_EP_SCALE, 0)
        if (HAS(BVT_EP_SLOPE)) EACH(v, vfmaq_f16(v.v[i], vminq_f16(v.v[i], knee.v[i]), less.v[i])); /* as vf_prelu */
        if (HAS(BVT_EP_POST)) v = add32(v, load32(post));
        if (always & AFTER || (maybe & AFTER && set & AFTER)) {
            EPILOGUE_AFFINE(v, BVT_EP_SCALE2, 3)
        }
#undef PARAM
#undef MULTIPLY_ADD
#undef MULTIPLY
#undef ADD
#undef RESIDUAL
        if (store_out) {
            put_real(out, v, pool);
            out = (uint8_t *)out + out_stride;
        }
        if (sign) {
#define REACHES(i) vreinterpretq_u8_u16(vcgeq_f16(v.v[i], threshold.v[i]))
            const uint8x16_t first = vandq_u8(vuzp1q_u8(REACHES(0), REACHES(1)), bit);
            t->sums[r] = vpaddq_u8(first, vandq_u8(vuzp1q_u8(REACHES(2), REACHES(3)), bit));
#undef REACHES
        }
    }
#undef HAS
}

/* Writes signs of n channels: word r has those of row r. */
static __attribute__((noinline)) void put_words32(const operands *o, const rows8 *t, uint32_t c, unsigned n, uint32x4_t low,
                                                  uint32x4_t high) {
    const sign_target *target = &o->target;
    const size_t stride = target->view->stride;
    uint8_t part[TILE];
    vst1q_u32((uint32_t *)(void *)part, low), vst1q_u32((uint32_t *)(void *)part + 4, high);
    if (target->view->by_cols) {
        const uint8x8x4_t bytes = vld4_u8(part);
        const uint8x16_t there = vdupq_n_u8((uint8_t)((1u << t->rows) - 1));
        vst1q_u8(part, vandq_u8(transpose8(vcombine_u8(bytes.val[0], bytes.val[1])), there));
        vst1q_u8(part + 16, vandq_u8(transpose8(vcombine_u8(bytes.val[2], bytes.val[3])), there));
        uint8_t *to = column_of(target, t->first, c);
        for (unsigned i = 0; i < n; i++, to += stride) *to = part[i];
        return;
    }
    uint8_t *to = line_of(target, t->first) + c / 8;
    for (unsigned r = 0; r < t->rows; r++, to += stride) {
        uint32_t word;
        memcpy(&word, part + 4 * r, sizeof word);
        word &= 0xFFFFFFFFu >> (TILE - n);
        if (n == TILE) memcpy(to, &word, sizeof word);
        else memcpy(to, &word, (n + 7) / 8);
    }
}

INLINE void put_signs(const operands *o, const rows8 *t, uint32_t c, unsigned n, bool whole_rows) {
    const uint8x16_t *s = t->sums;
    const uint32x4_t low = vreinterpretq_u32_u8(vpaddq_u8(vpaddq_u8(s[0], s[1]), vpaddq_u8(s[2], s[3])));
    const uint32x4_t high = vreinterpretq_u32_u8(vpaddq_u8(vpaddq_u8(s[4], s[5]), vpaddq_u8(s[6], s[7])));
    if (!whole_rows) {
        put_words32(o, t, c, n, low, high);
        return;
    }
    uint8_t *to = line_of(&o->target, t->first) + c / 8;
    const size_t stride = o->target.view->stride;
#define X(words, r) vst1q_lane_u32((uint32_t *)(void *)to, words, r), to += stride;
    X(low, 0) X(low, 1) X(low, 2) X(low, 3) X(high, 0) X(high, 1) X(high, 2) X(high, 3)
#undef X
}

/* Makes x_copy of n channels from c on. */
static __attribute__((noinline)) void copy_x(const operands *o, rows8 *t, uint32_t c, unsigned n) {
    const uint8_t *x = t->x + c * o->x_bytes;
    for (unsigned r = 0; r < t->rows; r++, x += o->x->stride) {
        uint32_t part[TILE] = {0};
        const uint8_t *from = n < TILE ? memcpy(part, x, n * o->x_bytes) : x;
        uint16_t *to = t->x_copy[r];
        switch (o->x_kind) {
#define X(kind)                                                                              \
    case kind:                                                                               \
        for (unsigned i = 0; i < TILE; i += 8) store(to + i, load_x(from, i, kind));         \
        break;
            X(SMALL_I16) X(REAL_F16) X(ANY_I16) X(ANY_I32) X(REAL_F32)
#undef X
        }
    }
}

/* Writes n channels of out_copy, if somebody wants them. */
static __attribute__((noinline)) void put_copy(const operands *o, const rows8 *t, uint32_t c, unsigned n) {
    if (!o->out) return;
    const bool wide = o->out->dtype == BVT_DTYPE_F32;
    for (unsigned r = 0; r < t->rows; r++) {
        const uint16_t *from = t->out_copy[r];
        uint8_t *to = (uint8_t *)bvt_row(o->out, t->first + r) + c * (wide ? 4 : 2);
        float part[TILE], *reals = wide && n == TILE ? (float *)(void *)to : part;
        for (unsigned i = 0; wide && i < TILE; i += 4) vst1q_f32(reals + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i))));
        if (!wide) memcpy(to, from, n * sizeof *from);
        else if (n < TILE) memcpy(to, part, n * sizeof *part);
    }
}

/* n channels of any form, from c on: of the parameters `at` on. */
static __attribute__((noinline)) void any_tile(const operands *o, rows8 *t, uint32_t c, unsigned n, uint32_t at) {
    /* Of x in other kinds than these a converted copy is read. */
    const bool part = n < TILE, x_copied = part || o->x_kind > REAL_F16;
    const bool out_copied = part || !o->out || o->out->dtype != BVT_DTYPE_F16;
    if (x_copied) copy_x(o, t, c, n);
    const void *x = x_copied ? (const void *)t->x_copy : t->x + c * o->x_bytes;
    void *out = out_copied ? (void *)t->out_copy : t->out + c * sizeof(uint16_t);
    const size_t x_stride = x_copied ? sizeof t->x_copy[0] : o->x->stride;
    const size_t out_stride = out_copied ? sizeof t->out_copy[0] : o->out->stride;
    const unsigned kind = !x_copied && o->x_kind == SMALL_I16 ? SMALL_I16 : REAL_F16, maybe = (1u << BVT_EP_THRESHOLD0) - 2;
    rows_tile(o, t, at, x, x_stride, kind, out, out_stride, 0, maybe, o->threshold != NULL, true, 1);
    if (out_copied) put_copy(o, t, c, n);
}

/* The same where parameters or residuals have to be copied: the tile is not whole, or a residual's columns begin anew in it. */
static __attribute__((noinline)) void copied_tile(const operands *o, rows8 *t, uint32_t c, unsigned n) {
    uint16_t res[BVT_EP_RESIDUALS][8][TILE], param[BVT_EP_THRESHOLD0 + 1][TILE] = {{0}};
    operands part = *o;
    rows8 rows = *t;
    memset(res, 0, sizeof res);
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
        if (!(o->set >> (BVT_EP_RES0 + slot) & 1)) continue;
        rows.at[slot] = 0;
        for (unsigned r = 0; r < t->rows; r++) {
            const uint16_t *row = t->res[slot][r];
            for (unsigned i = 0; i < n; i++) res[slot][r][i] = row[(c + i) % o->res_cols[slot]];
            rows.res[slot][r] = res[slot][r];
        }
    }
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++)
        if (o->set >> i & 1) part.param[i] = memcpy(param[i], o->param[i] + c, n * sizeof(uint16_t));
    if (o->threshold) part.threshold = memcpy(param[BVT_EP_THRESHOLD0], o->threshold + c, n * sizeof(uint16_t));
    any_tile(&part, &rows, c, n, 0);
    memcpy(t->sums, rows.sums, sizeof rows.sums);
}

INLINE void next_tile(const operands *o, rows8 *t, unsigned set) {
#pragma GCC unroll 6
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
        if (set >> (BVT_EP_RES0 + slot) & 1) t->at[slot] = t->at[slot] + TILE == o->res_cols[slot] ? 0 : t->at[slot] + TILE;
}

/* A form that is common enough to have its own code: whole tiles, no copies. */
INLINE void common_rows(const operands *o, rows8 *t, bool whole_rows, const unsigned kind, const unsigned always,
                        const unsigned maybe, const bool sign, const bool store_out, const unsigned pool) {
    for (uint32_t c = 0; c < o->cols; c += TILE) {
        rows_tile(o, t, c, t->x + c * 2, o->x->stride, kind,
                  store_out ? t->out + c / pool * 2 : NULL, store_out ? o->out->stride : 0, always, maybe, sign, store_out, pool);
        next_tile(o, t, always | maybe);
        if (sign) put_signs(o, t, c, TILE, whole_rows);
    }
}
#define COMMON_POOLED(name, kind, always, maybe, sign, store_out, pool)                               \
    static __attribute__((noinline)) void half_##name##_rows(const operands *o, rows8 *t, bool whole_rows) { \
        common_rows(o, t, whole_rows, kind, always, maybe, sign, store_out, pool);                    \
    }
#define COMMON(name, kind, always, maybe, sign, store_out) COMMON_POOLED(name, kind, always, maybe, sign, store_out, 1)
/* A binary layer with its shortcut; one with a sum of branches behind it; and (product) one without a PReLU. */
enum {
    LAYER = SCALE | RES0 | BENT,
    BRANCH = LAYER | SCALE2 | POST_RES0,
    MAYBE_BRANCH = 1 << BVT_EP_SHIFT2 | POST_RES1,
};
COMMON(layer, SMALL_I16, LAYER, 0, true, true)
COMMON_POOLED(pooled_4, SMALL_I16, LAYER, 0, true, true, 4)
COMMON_POOLED(pooled_8, SMALL_I16, LAYER, 0, true, true, 8)
COMMON(branch, o->x_kind == SMALL_I16 ? SMALL_I16 : ANY_I16, BRANCH, MAYBE_BRANCH, false, true)
COMMON(product, o->x_kind == SMALL_I16 ? SMALL_I16 : ANY_I16, SCALE, RES0, false, true)
COMMON(attention, SMALL_I16, LAYER | RES1, 0, true, true)
COMMON(norm, REAL_F16, AFFINE, 0, true, true)
COMMON(sign, REAL_F16, 0, 0, true, false)
#undef COMMON
#undef COMMON_POOLED

static __attribute__((noinline)) void half_any_rows(const operands *o, rows8 *t, bool whole_rows) {
    for (uint32_t c = 0; c < o->cols; c += TILE) {
        const unsigned n = bvt_min_u32(o->cols - c, TILE);
        if (o->even && n == TILE) any_tile(o, t, c, n, c);
        else copied_tile(o, t, c, n);
        next_tile(o, t, o->set);
        if (o->threshold) put_signs(o, t, c, n, whole_rows && n == TILE);
    }
}

/* Has a pooled result code of its own? */
static bool has_pool(const operands *o) {
    const uint32_t cols = o->res_cols[0];
    return o->set == LAYER && o->x_kind == SMALL_I16 && o->pool != 2 && o->out->dtype == BVT_DTYPE_F16 && o->cols % TILE == 0 &&
           (cols == o->cols || cols % TILE == 0);
}

/* Up to one sign. */
static void run(operands *o, uint32_t row0, uint32_t row1) {
    void (*rows)(const operands *, rows8 *, bool) = half_any_rows;
    const bool half_out = o->out && o->out->dtype == BVT_DTYPE_F16;
    const unsigned residuals = o->set >> BVT_EP_RES0 & 0x3F;
    o->even = true;
    for (unsigned left = residuals; left; left &= left - 1) {
        const uint32_t cols = o->res_cols[__builtin_ctz(left)];
        o->even = o->even && (cols == o->cols || cols % TILE == 0);
    }
    if (!o->even || o->cols % TILE) {
    } else if (o->threshold && half_out) {
        if (o->set == LAYER && o->x_kind == SMALL_I16)
            rows = o->pool == 4 ? half_pooled_4_rows : o->pool == 8 ? half_pooled_8_rows : half_layer_rows;
        if (o->set == (LAYER | RES1) && o->x_kind == SMALL_I16) rows = half_attention_rows;
        if (o->set == AFFINE && o->x_kind == REAL_F16) rows = half_norm_rows;
    } else if (half_out) {
        const bool dots = o->x_kind == SMALL_I16 || o->x_kind == ANY_I16;
        if ((o->set & ~(unsigned)MAYBE_BRANCH) == BRANCH && dots) rows = half_branch_rows;
        if ((o->set & ~(unsigned)RES0) == SCALE && dots) rows = half_product_rows;
    } else if (o->threshold && !o->out && !o->set && o->x_kind == REAL_F16) {
        rows = half_sign_rows;
    }
    rows8 t;
    memset(t.sums, 0, sizeof t.sums);
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        t.rows = bvt_min_u32(row1 - r0, 8), t.first = r0;
        t.x = bvt_row(o->x, r0), t.out = o->out ? bvt_row(o->out, r0) : NULL;
        memset(t.at, 0, sizeof t.at);
        for (unsigned left = residuals; left; left &= left - 1) {
            const unsigned slot = (unsigned)__builtin_ctz(left);
            bvt_epilogue_residual_rows(o->call, slot, r0, t.rows, t.res[slot]);
        }
        rows(o, &t, t.rows == 8 && o->threshold && !o->target.view->by_cols);
    }
}

void bvt_epilogue_half_fp16(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[BVT_EP_X], *real = call->out[0].base ? &call->out[0] : NULL;
    const bool small = call->op->attr[BVT_EP_SMALL] == 1;
    operands o = {.call = call, .cols = x->cols, .x = x, .out = real, .x_bytes = 2, .pool = bvt_epilogue_pool(call)};
    switch (x->dtype) {
    case BVT_DTYPE_I16: o.x_kind = small ? SMALL_I16 : ANY_I16; break;
    case BVT_DTYPE_I32: o.x_kind = ANY_I32, o.x_bytes = 4; break;
    case BVT_DTYPE_F16: o.x_kind = REAL_F16; break;
    default: o.x_kind = REAL_F32, o.x_bytes = 4;
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++)
        if (call->out[1 + i].base && call->out[1 + i].dtype == BVT_DTYPE_TRITS) {
            bvt_epilogue_half_neon(call, row0, row1);
            return;
        }
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
        const bvt_view *res = &call->in[BVT_EP_RES0 + slot];
        o.set |= (unsigned)(res->base != NULL) << (BVT_EP_RES0 + slot);
        o.res_cols[slot] = res->cols;
    }
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) {
        o.set |= (unsigned)(call->in[i].base != NULL) << i;
        o.param[i] = (const uint16_t *)(const void *)call->in[i].base; /* one row */
    }
    unsigned signs = 0;
    for (unsigned i = 0; i < BVT_EP_BITS; i++) signs += call->out[1 + i].base != NULL;
    if (o.pool > 1 && (signs != 1 || !has_pool(&o))) {
        bvt_epilogue_half_neon(call, row0, row1);
        return;
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++) {
        const bvt_view *out = &call->out[1 + i];
        if (!out->base) continue;
        o.threshold = bvt_row_f16(&call->in[BVT_EP_THRESHOLD0 + i], 0), o.target = (sign_target){out, 0};
        run(&o, row0, row1);
        bvt_pad(out, row0, row1);
        if (!real || signs == 1) continue;
        /* The other signs are thresholds on what was just written. */
        o.x = real, o.x_kind = real->dtype == BVT_DTYPE_F16 ? REAL_F16 : REAL_F32, o.x_bytes = o.x_kind == REAL_F16 ? 2 : 4;
        o.out = NULL, o.set = 0;
    }
    if (!signs) run(&o, row0, row1);
}

/* ---- stencil ----------------------------------------------------------------------------------------------------------------- */

enum { TOKENS = 4 }; /* side by side in a line */

/* What a tap multiplies for some tokens. */
typedef struct {
    const uint16_t *weight, *source[TOKENS]; /* NULL: outside of the grid, or no token; where even, only the first is set */
    bool even; /* the sources lie side by side */
} tap_sources;

/* The taps that count for tokens x .. x+tokens-1 of line y, in order. */
static unsigned find_taps(tap_sources *s, const bvt_call *call, int y, int x, int tokens) {
    const int32_t *a = call->op->attr;
    const int height = a[0], width = a[1];
    const bvt_view *in = &call->in[0], *weights = &call->in[1];
    const tap_sources *begin = s;
    for (int t = 0; t < a[2]; t++) {
        const int dx = (int8_t)(a[4 + t] >> 8 & 255), from = x + dx;
        int line = y + (int8_t)(a[4 + t] & 255);
        if (a[3] == 1) line += line < 0 ? height : line >= height ? -height : 0; /* |dy| < H: one turn is enough */
        if (line < 0 || line >= height) continue;
        s->weight = bvt_row_f16(weights, (uint32_t)t);
        s->even = tokens == TOKENS && from >= 0 && from + TOKENS <= width;
        if (s->even) s->source[0] = bvt_row_f16(in, (uint32_t)(line * width + from));
        for (int i = 0; !s->even && i < TOKENS; i++) {
            int at = from + i;
            if (a[3] == 1) at += at < 0 ? width : at >= width ? -width : 0;
            s->source[i] = i < tokens && at >= 0 && at < width ? bvt_row_f16(in, (uint32_t)(line * width + at)) : NULL;
        }
        s++;
    }
    return (unsigned)(s - begin);
}

void bvt_stencil_half_fp16(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols, width = (uint32_t)call->op->attr[1];
    const uint16_t *shift = call->in[2].base ? bvt_row_f16(&call->in[2], 0) : NULL;
    const size_t apart = call->in[0].stride / sizeof(uint16_t);
    if (channels % TILE) {
        bvt_stencil_half_neon(call, row0, row1);
        return;
    }
    uint32_t y = row0 / width, x = row0 % width;
    for (uint32_t token = row0, tokens; token < row1; token += tokens) {
        tap_sources taps[BVT_STENCIL_TAPS];
        tokens = bvt_min_u32(bvt_min_u32(row1 - token, width - x), TOKENS);
        const unsigned n = find_taps(taps, call, (int)y, (int)x, (int)tokens);
        for (uint32_t c = 0; c < channels; c += TILE) {
            half8 sum[TOKENS][4], w[4];
#pragma GCC unroll 4
            for (unsigned i = 0; i < 4; i++) {
                const half8 begin = shift ? load(shift + c + 8 * i) : vreinterpretq_f16_u16(vdupq_n_u16(0));
                sum[0][i] = sum[1][i] = sum[2][i] = sum[3][i] = begin;
            }
            for (const tap_sources *s = taps; s < taps + n; s++) {
                const uint16_t *from = s->even ? s->source[0] + c : NULL;
#pragma GCC unroll 4
                for (unsigned i = 0; i < 4; i++) w[i] = load(s->weight + c + 8 * i);
#define ADD(j) \
    _Pragma("GCC unroll 4") for (unsigned i = 0; i < 4; i++) sum[j][i] = vfmaq_f16(sum[j][i], load(from + 8 * i), w[i]);
                if (s->even) {
                    ADD(0) from += apart;
                    ADD(1) from += apart;
                    ADD(2) from += apart;
                    ADD(3)
                } else {
#define ADD_IF(j)                         \
    if (s->source[j]) {                   \
        from = s->source[j] + c;          \
        ADD(j)                            \
    }
                    ADD_IF(0) ADD_IF(1) ADD_IF(2) ADD_IF(3)
#undef ADD_IF
                }
#undef ADD
            }
#define PUT(j)                                                        \
    if (j < tokens) {                                                 \
        uint16_t *to = (uint16_t *)bvt_row(&call->out[0], token + j) + c; \
        _Pragma("GCC unroll 4") for (unsigned i = 0; i < 4; i++) store(to + 8 * i, sum[j][i]);  \
    }
            PUT(0) PUT(1) PUT(2) PUT(3)
#undef PUT
        }
        x += tokens;
        if (x == width) x = 0, y++;
    }
}

/* ---- Pools ------------------------------------------------------------------------------------------------------------------- */

/* 8 channels of g inputs each, g = 2, 4 or 8: neighbours are added as they lie in memory, and their sums likewise. */
INLINE half8 pool_group(const uint16_t *p, const unsigned g) {
    half8 v[8];
#pragma GCC unroll 8
    for (unsigned i = 0; i < g; i++) v[i] = load(p + 8 * i);
#pragma GCC unroll 3
    for (unsigned left = g / 2; left; left /= 2)
#pragma GCC unroll 4
        for (unsigned i = 0; i < left; i++) v[i] = vpaddq_f16(v[2 * i], v[2 * i + 1]);
    return v[0];
}

INLINE void pool_rows(const bvt_call *call, uint32_t row0, uint32_t row1, const unsigned g) {
    const uint32_t channels = call->out[0].cols;
    const half8 reciprocal = vdupq_n_f16((float16_t)bvt_reciprocal(g));
    for (uint32_t row = row0; row < row1; row++) {
        const uint16_t *x = bvt_row_f16(&call->in[0], row);
        uint16_t *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c += 8) store(out + c, vmulq_f16(pool_group(x + (size_t)c * g, g), reciprocal));
    }
}

void bvt_channel_pool_half_fp16(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t g = call->op->attr[0];
    if (call->out[0].cols % 8 || (g != 2 && g != 4 && g != 8)) bvt_channel_pool_half_neon(call, row0, row1);
    else if (g == 2) pool_rows(call, row0, row1, 2);
    else if (g == 4) pool_rows(call, row0, row1, 4);
    else pool_rows(call, row0, row1, 8);
}

/* The sum of a window's taps in fp32, 8 channels at a time. */
void bvt_avg_pool_half_fp16(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr;
    const bvt_view *x = &call->in[0];
    const float32x4_t reciprocal = vdupq_n_f32(bvt_reciprocal((uint32_t)a[2] * (uint32_t)a[2]));
    if (x->cols % 8) {
        bvt_avg_pool_half_neon(call, row0, row1);
        return;
    }
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(a, row);
        const uint32_t taps = w.x1 - w.x0;
        for (uint32_t c = 0; c < x->cols; c += 8) {
            float32x4_t low = vdupq_n_f32(-0.0f), high = low;
            for (uint32_t y = w.y0; y < w.y1; y++) {
                const uint16_t *tap = bvt_row_f16(x, y * w.width + w.x0) + c;
                for (uint32_t left = taps; left; left--, tap += x->stride / sizeof *tap) {
                    const half8 v = load(tap);
                    low = vaddq_f32(low, vcvt_f32_f16(vget_low_f16(v))), high = vaddq_f32(high, vcvt_high_f32_f16(v));
                }
            }
            store((uint16_t *)bvt_row(&call->out[0], row) + c,
                  vcvt_high_f16_f32(vcvt_f16_f32(vmulq_f32(low, reciprocal)), vmulq_f32(high, reciprocal)));
        }
    }
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
