/* epilogue, stencil and channel_pool in fp16 with the FP16 instructions of ARMv8.2: 8 channels a vector. Rare forms are left to
 * half_neon.c, which computes the same bits.
 */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("fullfp16"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+fp16")
#endif
#include "../numerics.h"
#include "../ops/stencil.h"
#include "epilogue_sets.h"
#include "signs_neon.h"

typedef float16x8_t half8;

INLINE half8 load(const uint16_t *p) { return vreinterpretq_f16_u16(vld1q_u16(p)); }
INLINE void store(uint16_t *p, half8 v) { vst1q_u16(p, vreinterpretq_u16_f16(v)); }

/* ---- epilogue: 8 rows x 16 channels at a time, so that parameters are loaded once for 8 rows ------------------------------ */

/* What x holds. SMALL: dots up to BVT_EP_MOST_SMALL; 0x6600 + x are the bits of 1536 + x, and nothing has to be converted. */
enum { SMALL_I16, SMALL_I32, ANY_I16, ANY_I32, REAL_F16, REAL_F32 };

typedef struct {
    const bvt_call *call;
    uint32_t cols;
    const bvt_view *x_view;
    unsigned x_kind, x_bytes;
    int out_kind; /* REAL_F16, REAL_F32, or -1: none */
    bool has_res[BVT_EP_RESIDUALS];
    const uint16_t *param[BVT_EP_THRESHOLD0], *threshold; /* or NULL: no sign */
    sign_target target;
    uint32_t res_cols[BVT_EP_RESIDUALS];
} operands;

/* 8 rows. */
typedef struct {
    unsigned rows;
    const void *x[8];
    void *out[8]; /* or NULL, all of them */
    const void *res[BVT_EP_RESIDUALS][8];
    uint32_t at[BVT_EP_RESIDUALS]; /* c mod the residual's columns */
} rows8;

typedef struct {
    half8 a, b;
} half16;

INLINE half16 load16(const uint16_t *p) { return (half16){load(p), load(p + 8)}; }
INLINE half16 add16(half16 x, half16 y) { return (half16){vaddq_f16(x.a, y.a), vaddq_f16(x.b, y.b)}; }
INLINE half16 multiply16(half16 x, half16 y) { return (half16){vmulq_f16(x.a, y.a), vmulq_f16(x.b, y.b)}; }
INLINE half8 small_dots(int16x8_t x) {
    return vsubq_f16(vreinterpretq_f16_s16(vaddq_s16(x, vdupq_n_s16(0x6600))), vreinterpretq_f16_u16(vdupq_n_u16(0x6600)));
}
INLINE half8 narrow_floats(float32x4_t a, float32x4_t b) { return vcvt_high_f16_f32(vcvt_f16_f32(a), b); }

/* 8 channels of 32 bits each. */
INLINE half8 load_wide(const void *x, unsigned kind) {
    const int32_t *p = x;
    if (kind == REAL_F32) return narrow_floats(vld1q_f32(x), vld1q_f32((const float *)x + 4));
    if (kind == ANY_I32) return narrow_floats(vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4)));
    return small_dots(vuzp1q_s16(vreinterpretq_s16_s32(vld1q_s32(p)), vreinterpretq_s16_s32(vld1q_s32(p + 4))));
}

INLINE half16 load_x(const uint8_t *x, unsigned kind) {
    const int16_t *p = (const int16_t *)(const void *)x;
    if (kind == SMALL_I16) return (half16){small_dots(vld1q_s16(p)), small_dots(vld1q_s16(p + 8))};
    if (kind == REAL_F16) return load16((const uint16_t *)(const void *)x);
    if (kind == ANY_I16) return (half16){vcvtq_f16_s16(vld1q_s16(p)), vcvtq_f16_s16(vld1q_s16(p + 8))};
    return (half16){load_wide(x, kind), load_wide(x + 32, kind)};
}

INLINE half8 prelu(half8 v, half8 slope) { return vbslq_f16(vcgtzq_f16(v), v, vmulq_f16(v, slope)); }

/* What adds nothing, not even to -0: the rows of residuals that a form has and an op has not. */
static const uint16_t nothing[16] = {0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000,
                                     0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000};

static __attribute__((noinline)) void find_rows(rows8 *t, const operands *o, uint32_t r0, uint32_t row1, unsigned form) {
    const bvt_view *out = &o->call->out[0];
    t->rows = bvt_min_u32(row1 - r0, 8);
    memset(t->at, 0, sizeof t->at);
    bvt_epilogue_rows(t->x, bvt_row(o->x_view, r0), o->x_view->stride);
    bvt_epilogue_rows((const void **)t->out, out->base ? bvt_row(out, r0) : NULL, out->base ? out->stride : 0);
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
        if (!(form >> (BVT_EP_RES0 + slot) & 1)) continue;
        const bvt_view *res = &o->call->in[BVT_EP_RES0 + slot];
        if (!o->has_res[slot]) bvt_epilogue_rows(t->res[slot], nothing, 0);
        else if (o->call->op->attr[1 + slot] == 1) bvt_epilogue_rows(t->res[slot], bvt_row(res, r0), res->stride);
        else
            for (unsigned r = 0; r < t->rows; r++) t->res[slot][r] = bvt_epilogue_residual(o->call, slot, r0 + r); /* divides */
    }
}

static half16 neutral(uint16_t bits) {
    const half8 x = vreinterpretq_f16_u16(vdupq_n_u16(bits));
    return (half16){x, x};
}

/* Channels c .. c+15 of the rows. mask[r]: the signs of row r, if there are any. form: the operands that the code has; those that the op has not
 * are 1 or -0. Constants: kind of x, or -1: o->x_kind; signed: there is a sign, 0: none, -1: asked for every row; narrow: so for F16. */
INLINE void rows_tile(uint8x16_t mask[8], const operands *o, const rows8 *t, uint32_t c, const unsigned form, const int kind_is,
                      const int has_sign, const bool narrow) {
    const half16 one = neutral(0x3C00), zero = neutral(0x8000);
    /* By hand: an array would be in memory. */
#define PARAM(role, none) (form >> (role) & 1 && o->param[role] ? load16(o->param[role] + c) : (none))
    const half16 scale = PARAM(BVT_EP_SCALE, one), shift = PARAM(BVT_EP_SHIFT, zero), slope = PARAM(BVT_EP_SLOPE, one),
                 post = PARAM(BVT_EP_POST, zero), scale2 = PARAM(BVT_EP_SCALE2, one), shift2 = PARAM(BVT_EP_SHIFT2, zero),
                 threshold = has_sign && o->threshold ? load16(o->threshold + c) : zero;
#undef PARAM
#pragma GCC unroll 1
    for (unsigned r = 0; r < t->rows; r++) {
        unsigned kind = kind_is < 0 ? o->x_kind : (unsigned)kind_is;
        if (kind_is < 0) __asm__("" : "+r"(kind)); /* else the loop may be there once a kind */
        half16 v = load_x((const uint8_t *)t->x[r] + c * o->x_bytes, kind);
#define HAS(role) (form >> (role) & 1)
#define RESIDUAL(slot) \
    if (HAS(BVT_EP_RES0 + (slot))) v = add16(v, load16((const uint16_t *)t->res[slot][r] + t->at[slot]));
        if (HAS(BVT_EP_SCALE)) v = multiply16(v, scale);
        if (HAS(BVT_EP_SHIFT)) v = add16(v, shift);
        RESIDUAL(0) RESIDUAL(1) RESIDUAL(2)
        if (HAS(BVT_EP_SLOPE)) v = (half16){prelu(v.a, slope.a), prelu(v.b, slope.b)};
        if (HAS(BVT_EP_POST)) v = add16(v, post);
        if (HAS(BVT_EP_SCALE2)) v = multiply16(v, scale2);
        if (HAS(BVT_EP_SHIFT2)) v = add16(v, shift2);
        RESIDUAL(3) RESIDUAL(4)
#undef RESIDUAL
#undef HAS
        if (narrow || o->out_kind == REAL_F16) {
            uint16_t *to = (uint16_t *)t->out[r] + c;
            store(to, v.a), store(to + 8, v.b);
        } else if (o->out_kind == REAL_F32) {
            float *to = (float *)t->out[r] + c;
            vst1q_f32(to, vcvt_f32_f16(vget_low_f16(v.a))), vst1q_f32(to + 4, vcvt_high_f32_f16(v.a));
            vst1q_f32(to + 8, vcvt_f32_f16(vget_low_f16(v.b))), vst1q_f32(to + 12, vcvt_high_f32_f16(v.b));
        }
        if (has_sign > 0 || (has_sign && o->threshold))
            mask[r] = vuzp1q_u8(vreinterpretq_u8_u16(vcgeq_f16(v.a, threshold.a)), vreinterpretq_u8_u16(vcgeq_f16(v.b, threshold.b)));
    }
}

static __attribute__((noinline)) void put_masks(const operands *o, uint32_t r0, unsigned rows, uint32_t c, const uint8x16_t mask[8]) {
    store_masks(&o->target, r0, rows, c, 16, mask);
}

INLINE void run(const operands *o, uint32_t row0, uint32_t row1, const unsigned form, const int kind, const int has_sign,
                const bool narrow) {
    uint8x16_t mask[8];
    for (unsigned r = 0; r < 8; r++) mask[r] = vdupq_n_u8(0);
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        rows8 t;
        find_rows(&t, o, r0, row1, form);
        for (uint32_t c = 0; c < o->cols; c += 16) {
            rows_tile(mask, o, &t, c, form, kind, has_sign, narrow);
#pragma GCC unroll 6
            for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
                if (form >> (BVT_EP_RES0 + slot) & 1) t.at[slot] = t.at[slot] + 16 == o->res_cols[slot] ? 0 : t.at[slot] + 16;
            if (has_sign && o->threshold) put_masks(o, r0, t.rows, c, mask);
        }
    }
}

/* Up to one sign; false: in none of these forms. Most of a BinaryViT are the first (a binary layer with its shortcut), the third (such a
 * layer in front of a sum of branches) and the second (a norm). */
static __attribute__((noinline)) bool run_form(const operands *o, uint32_t row0, uint32_t row1, unsigned set) {
    const unsigned layer = AFFINE | RES0 | SLOPE | POST, wide = layer | RES1 | RES2, plain = SCALE | RES0,
                   branches = AFFINE | RES0 | SLOPE | AFFINE2 | POST_RES0 | POST_RES1;
    const bool both = o->threshold && o->out_kind == REAL_F16;
    if (both && set == layer && o->x_kind == SMALL_I16) run(o, row0, row1, layer, SMALL_I16, 1, true);
    else if (both && set == AFFINE && o->x_kind == REAL_F16) run(o, row0, row1, AFFINE, REAL_F16, 1, true);
    else if (!(set & ~plain)) run(o, row0, row1, plain, -1, -1, false);
    else if (!(set & ~wide)) run(o, row0, row1, wide, -1, -1, false);
    else if (!(set & ~branches) && !o->threshold && o->out_kind == REAL_F16) run(o, row0, row1, branches, -1, 0, true);
    else return false;
    return true;
}

void bvt_epilogue_half_fp16(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[BVT_EP_X], *real = &call->out[0];
    const bool small = call->op->attr[BVT_EP_SMALL] == 1;
    operands o = {.call = call, .cols = x->cols, .x_view = x, .x_bytes = 2, .out_kind = -1};
    unsigned set = 0, n_signs = 0;
    bool rare = x->cols % 16 != 0;
    switch (x->dtype) {
    case BVT_DTYPE_I16: o.x_kind = small ? SMALL_I16 : ANY_I16; break;
    case BVT_DTYPE_I32: o.x_kind = small ? SMALL_I32 : ANY_I32, o.x_bytes = 4; break;
    case BVT_DTYPE_F16: o.x_kind = REAL_F16; break;
    default: o.x_kind = REAL_F32, o.x_bytes = 4;
    }
    if (real->base) o.out_kind = real->dtype == BVT_DTYPE_F16 ? REAL_F16 : REAL_F32;
    for (unsigned i = BVT_EP_RES0; i < BVT_EP_THRESHOLD0; i++) set |= (unsigned)(call->in[i].base != NULL) << i;
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
        const bool there = set >> (BVT_EP_RES0 + slot) & 1;
        o.res_cols[slot] = there ? call->in[BVT_EP_RES0 + slot].cols : 16;
        o.has_res[slot] = there;
        rare = rare || o.res_cols[slot] % 16;
    }
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) o.param[i] = set >> i & 1 ? bvt_row_f16(&call->in[i], 0) : NULL;
    if (set & POST && set & 7u << BVT_EP_POST_RES0 && !(set & AFFINE2)) { /* v + post is 1 * v + post */
        o.param[BVT_EP_SHIFT2] = o.param[BVT_EP_POST];
        set ^= POST | 1u << BVT_EP_SHIFT2;
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++) {
        rare = rare || (call->out[1 + i].base && call->out[1 + i].dtype == BVT_DTYPE_TRITS);
        n_signs += call->out[1 + i].base != NULL;
    }
    rare = rare || (n_signs > 1 && o.out_kind != REAL_F16);
    for (unsigned i = 0; i < BVT_EP_BITS && !rare; i++) {
        const bvt_view *out = &call->out[1 + i];
        if (!out->base && !(n_signs == 0 && i == 0)) continue;
        o.threshold = out->base ? bvt_row_f16(&call->in[BVT_EP_THRESHOLD0 + i], 0) : NULL;
        o.target = (sign_target){out, 0};
        rare = !run_form(&o, row0, row1, set);
        if (rare || !out->base) break;
        for (uint32_t r = row0; r < row1 && out->stride * 8 != out->cols; r++) bvt_pad_row(out, r);
        bvt_pad_cols(out, row1);
        /* The other signs are thresholds on what was just written. */
        o.x_view = real, o.x_kind = REAL_F16, o.x_bytes = 2, o.out_kind = -1, set = 0;
        memset(o.param, 0, sizeof o.param);
        for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) o.res_cols[slot] = 16, o.has_res[slot] = false;
    }
    if (rare) bvt_epilogue_half_neon(call, row0, row1);
}

/* ---- stencil, channel_pool ------------------------------------------------------------------------------------------------- */

void bvt_stencil_half_fp16(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    const uint16_t *shift = call->in[2].base ? bvt_row_f16(&call->in[2], 0) : NULL;
    if (channels % 32) {
        bvt_stencil_half_neon(call, row0, row1);
        return;
    }
    for (uint32_t row = row0; row < row1; row++) {
        const float *source[BVT_STENCIL_TAPS], *tap[BVT_STENCIL_TAPS];
        const unsigned taps = bvt_stencil_sources(call, row, source, tap);
        uint16_t *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c += 32) { /* four sums hide the latencies */
            half8 sum[4];
#pragma GCC unroll 4
            for (unsigned v = 0; v < 4; v++) sum[v] = shift ? load(shift + c + 8 * v) : vreinterpretq_f16_u16(vdupq_n_u16(0));
            for (unsigned t = 0; t < taps; t++) {
                const uint16_t *x = (const uint16_t *)(const void *)source[t] + c, *w = (const uint16_t *)(const void *)tap[t] + c;
#pragma GCC unroll 4
                for (unsigned v = 0; v < 4; v++) sum[v] = vaddq_f16(sum[v], vmulq_f16(load(x + 8 * v), load(w + 8 * v)));
            }
#pragma GCC unroll 4
            for (unsigned v = 0; v < 4; v++) store(out + c + 8 * v, sum[v]);
        }
    }
}

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

#if defined(__clang__)
#pragma clang attribute pop
#endif
