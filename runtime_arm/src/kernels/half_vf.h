/* The kernels of fp16 operands without FP16 arithmetic: a vector is 8 floats, widened when loaded, and rounded to binary16 after
 * every step (half.h says why that is the same, and how a multiply-add is rounded once). They are for hosts and for ARM cores before
 * v8.2, and take what the kernels with FP16 instructions (half_fp16.c) leave; all of them are kept small.
 */
#include "../half.h"
#include "../ops/bits.h"
#include "../ops/epilogue.h"
#include "../ops/norm.h"
#include "../ops/pool.h"
#include "../ops/stencil.h"
#include "vf.h"

#if defined(__F16C__)
#define HALF_HELPER VF_INLINE
VF_INLINE vf vf_load_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
VF_INLINE __m128i vf_to_half(vf v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
VF_INLINE void vf_store_half(uint16_t *p, vf v) { _mm_storeu_si128((__m128i *)(void *)p, vf_to_half(v)); }
VF_INLINE vf vf_round_half(vf v) { return _mm256_cvtph_ps(vf_to_half(v)); }
/* s, rounded to odd: `error` is what the exact sum has more. */
VF_INLINE vf vf_to_odd(vf s, vf error) {
    const __m256i inexact = _mm256_castps_si256(_mm256_cmp_ps(error, _mm256_setzero_ps(), _CMP_NEQ_OQ));
    const __m256i nearer = _mm256_srai_epi32(_mm256_castps_si256(_mm256_xor_ps(s, error)), 31);
    const __m256i moved = _mm256_add_epi32(_mm256_castps_si256(s), _mm256_and_si256(nearer, inexact));
    return _mm256_castsi256_ps(_mm256_or_si256(moved, _mm256_srli_epi32(inexact, 31)));
}
#else
#define HALF_HELPER static __attribute__((noinline)) /* small, not fast */
VF_INLINE vf vf_from_half(float16x8_t v) { return (vf){vcvt_f32_f16(vget_low_f16(v)), vcvt_high_f32_f16(v)}; }
VF_INLINE float16x8_t vf_to_half(vf v) { return vcvt_high_f16_f32(vcvt_f16_f32(v.a), v.b); }
VF_INLINE vf vf_load_half(const uint16_t *p) { return vf_from_half(vreinterpretq_f16_u16(vld1q_u16(p))); }
VF_INLINE void vf_store_half(uint16_t *p, vf v) { vst1q_u16(p, vreinterpretq_u16_f16(vf_to_half(v))); }
VF_INLINE vf vf_round_half(vf v) { return vf_from_half(vf_to_half(v)); }
VF_INLINE float32x4_t to_odd(float32x4_t s, float32x4_t error) {
    const uint32x4_t inexact = vcagtq_f32(error, vdupq_n_f32(0)), sum = vreinterpretq_u32_f32(s);
    const int32x4_t nearer = vshrq_n_s32(vreinterpretq_s32_u32(veorq_u32(sum, vreinterpretq_u32_f32(error))), 31);
    const uint32x4_t moved = vaddq_u32(sum, vandq_u32(vreinterpretq_u32_s32(nearer), inexact));
    return vreinterpretq_f32_u32(vorrq_u32(moved, vshrq_n_u32(inexact, 31)));
}
/* s, rounded to odd: `error` is what the exact sum has more. */
VF_INLINE vf vf_to_odd(vf s, vf error) { return (vf){to_odd(s.a, error.a), to_odd(s.b, error.b)}; }
#endif

/* The same for the first n lanes; other lanes are read as 0 and not written. */
HALF_HELPER vf vf_load_half_n(const uint16_t *p, unsigned n) {
    uint16_t x[VF_LANES] = {0};
    if (n == VF_LANES) return vf_load_half(p);
    for (unsigned i = 0; i < n; i++) x[i] = p[i];
    return vf_load_half(x);
}
HALF_HELPER void vf_store_half_n(uint16_t *p, vf v, unsigned n) {
    uint16_t x[VF_LANES];
    if (n == VF_LANES) {
        vf_store_half(p, v);
        return;
    }
    vf_store_half(x, v);
    for (unsigned i = 0; i < n; i++) p[i] = x[i];
}

VF_INLINE vf add(vf a, vf b) { return vf_round_half(vf_add(a, b)); }
VF_INLINE vf multiply(vf a, vf b) { return vf_round_half(vf_mul(a, b)); }
/* bvt_half_fma */
HALF_HELPER vf multiply_add(vf a, vf b, vf c) {
    const vf p = vf_mul(a, b), s = vf_add(p, c), t = vf_sub(s, p);
    return vf_round_half(vf_to_odd(s, vf_add(vf_sub(p, vf_sub(s, t)), vf_sub(c, t))));
}

/* ---- epilogue ------------------------------------------------------------------------------------------------------------ */

HALF_HELPER vf load_x(const bvt_view *x, uint32_t r, uint32_t c, unsigned n) {
    const void *row = bvt_row(x, r);
    switch (x->dtype) {
    case BVT_DTYPE_I32: return vf_round_half(vf_load_i32_n((const int32_t *)row + c, n));
    case BVT_DTYPE_I16: return vf_round_half(vf_load_i16_n((const int16_t *)row + c, n));
    case BVT_DTYPE_F16: return vf_load_half_n((const uint16_t *)row + c, n);
    default: return vf_round_half(vf_load_n((const float *)row + c, n));
    }
}

HALF_HELPER vf load_residual(const bvt_call *call, unsigned slot, uint32_t r, uint32_t c, unsigned n) {
    const bvt_view *res = &call->in[BVT_EP_RES0 + slot];
    const uint16_t *row = bvt_epilogue_residual(call, slot, r);
    const uint32_t at = res->cols == call->in[BVT_EP_X].cols ? c : c % res->cols;
    uint16_t x[VF_LANES] = {0};
    if (at + n <= res->cols) return vf_load_half_n(row + at, n);
    for (unsigned i = 0; i < n; i++) x[i] = row[(at + i) % res->cols]; /* it begins anew */
    return vf_load_half(x);
}

/* A scale and a shift, and the residual sums of the 3 slots from `first` on that follow them. */
HALF_HELPER vf affine(const bvt_call *call, unsigned scale, unsigned first, const vf *p, uint32_t r, uint32_t c, unsigned n, vf v) {
    const bool has_scale = call->in[scale].base, has_shift = call->in[scale + 1].base;
    unsigned slot = first;
    if (has_scale && has_shift) v = multiply_add(v, p[scale], p[scale + 1]);
    else if (has_scale && call->in[BVT_EP_RES0 + slot].base) v = multiply_add(v, p[scale], load_residual(call, slot++, r, c, n));
    else if (has_scale) v = multiply(v, p[scale]);
    else if (has_shift) v = add(v, p[scale + 1]);
    for (; slot < first + 3; slot++)
        if (call->in[BVT_EP_RES0 + slot].base) v = add(v, load_residual(call, slot, r, c, n));
    return v;
}

/* Writes the codes of n channels from c on, bit i of `mask` channel c+i, into the plane at `plane`. */
HALF_HELPER void put_codes(const bvt_view *out, uint32_t r, uint32_t c, size_t plane, unsigned n, unsigned mask) {
    if (out->by_cols)
        for (unsigned i = 0; i < n; i++) bvt_put_bit(out, r, c + i, plane, mask >> i & 1);
    else ((uint8_t *)bvt_row(out, r))[plane + c / 8] = (uint8_t)(mask & 0xFFu >> (8 - n));
}

/* The means of every `pool` channels of n in the first lanes. */
HALF_HELPER vf pooled(vf v, unsigned pool) {
    for (unsigned left = pool; left > 1; left /= 2) v = vf_round_half(vf_add_pairs(v, v));
    return pool == 1 ? v : multiply(v, vf_set(bvt_rounded(bvt_reciprocal(pool), true)));
}

void VF_KERNEL(epilogue_half)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[BVT_EP_X], *real = &call->out[0];
    const unsigned pool = bvt_epilogue_pool(call);
    for (uint32_t c = 0; c < x->cols; c += VF_LANES) {
        const unsigned n = vf_min(x->cols - c);
        vf p[BVT_EP_THRESHOLD0];
        for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++)
            p[i] = call->in[i].base ? vf_load_half_n(bvt_row_f16(&call->in[i], 0) + c, n) : vf_set(0);
        p[BVT_EP_SLOPE] = vf_factor(add(p[BVT_EP_SLOPE], vf_set(-1)), p[BVT_EP_KNEE]);
        for (uint32_t r = row0; r < row1; r++) {
            const vf knee = p[BVT_EP_KNEE];
            vf v = affine(call, BVT_EP_SCALE, 0, p, r, c, n, load_x(x, r, c, n));
            if (call->in[BVT_EP_SLOPE].base) v = multiply_add(vf_least(v, knee), p[BVT_EP_SLOPE], v);
            if (call->in[BVT_EP_POST].base) v = add(v, p[BVT_EP_POST]);
            v = affine(call, BVT_EP_SCALE2, 3, p, r, c, n, v);
            if (real->base && real->dtype == BVT_DTYPE_F16)
                vf_store_half_n((uint16_t *)bvt_row(real, r) + c / pool, pooled(v, pool), n / pool);
            else if (real->base) vf_store_n((float *)bvt_row(real, r) + c / pool, pooled(v, pool), n / pool);
            for (unsigned i = 0; i < BVT_EP_BITS; i++) {
                const bvt_view *out = &call->out[1 + i], *threshold = &call->in[BVT_EP_THRESHOLD0 + i];
                if (!out->base) continue;
                const bool trits = out->dtype == BVT_DTYPE_TRITS;
                const unsigned high = vf_ge(v, vf_load_half_n(bvt_row_f16(threshold, trits) + c, n));
                put_codes(out, r, c, 0, n, high);
                if (trits)
                    put_codes(out, r, c, bvt_plane(out->by_cols ? out->rows : out->cols), n,
                              high | vf_gt(vf_load_half_n(bvt_row_f16(threshold, 0) + c, n), v));
            }
        }
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++)
        if (call->out[1 + i].base) bvt_pad(&call->out[1 + i], row0, row1);
}

/* ---- Ops on a grid, pools ------------------------------------------------------------------------------------------------ */

void VF_KERNEL(stencil_half)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    const uint16_t *shift = call->in[2].base ? bvt_row_f16(&call->in[2], 0) : NULL;
    for (uint32_t row = row0; row < row1; row++) {
        const float *source[BVT_STENCIL_TAPS], *tap[BVT_STENCIL_TAPS];
        const unsigned taps = bvt_stencil_sources(call, row, source, tap);
        for (uint32_t c = 0; c < channels; c += VF_LANES) {
            const unsigned n = vf_min(channels - c);
            vf sum = shift ? vf_load_half_n(shift + c, n) : vf_set(0);
            for (unsigned t = 0; t < taps; t++) {
                const uint16_t *x = (const uint16_t *)(const void *)source[t] + c, *w = (const uint16_t *)(const void *)tap[t] + c;
                sum = multiply_add(vf_load_half_n(x, n), vf_load_half_n(w, n), sum);
            }
            vf_store_half_n((uint16_t *)bvt_row(&call->out[0], row) + c, sum, n);
        }
    }
}

/* Channel l*g + i of lane l. */
HALF_HELPER vf load_strided_half(const uint16_t *x, uint32_t g, unsigned n) {
    uint16_t lanes[VF_LANES] = {0};
    for (unsigned l = 0; l < n; l++) lanes[l] = x[l * g];
    return vf_load_half(lanes);
}

/* In the order of bvt_pairs_sum and of the reference. */
void VF_KERNEL(channel_pool_half)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t g = (uint32_t)call->op->attr[0], block = g & -g, channels = call->out[0].cols;
    const vf reciprocal = vf_round_half(vf_set(bvt_reciprocal(g)));
    for (uint32_t row = row0; row < row1; row++)
        for (uint32_t c = 0; c < channels; c += VF_LANES) {
            const unsigned n = vf_min(channels - c);
            const uint16_t *x = bvt_row_f16(&call->in[0], row) + (size_t)c * g;
            vf sum = vf_set(0), sums[32];
            unsigned top = 0;
            for (uint32_t i = 0; i < g; i++) {
                vf part = load_strided_half(x + i, g, n);
                for (uint32_t taken = i % block; taken & 1; taken >>= 1) part = add(sums[--top], part);
                sums[top++] = part;
                if ((i + 1) % block) continue;
                sum = i < block ? part : add(sum, part);
                top = 0;
            }
            vf_store_half_n((uint16_t *)bvt_row(&call->out[0], row) + c, vf_mul(sum, reciprocal), n);
        }
}

/* The sum, or the largest, of a window's taps, in fp32. */
HALF_HELPER void pool(const bvt_call *call, uint32_t row0, uint32_t row1, bool largest) {
    const int32_t *a = call->op->attr;
    const bvt_view *x = &call->in[0];
    const vf reciprocal = vf_set(bvt_reciprocal((uint32_t)a[2] * (uint32_t)a[2]));
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(a, row);
        for (uint32_t c = 0; c < x->cols; c += VF_LANES) {
            const unsigned n = vf_min(x->cols - c);
            vf result = vf_set(largest ? -INFINITY : -0.0f);
            for (uint32_t j = w.y0; j < w.y1; j++)
                for (uint32_t i = w.x0; i < w.x1; i++) {
                    const uint16_t *at = bvt_row_f16(x, j * w.width + i) + c;
                    const vf tap = n == VF_LANES ? vf_load_half(at) : vf_load_half_n(at, n);
                    result = largest ? vf_max(tap, result) : vf_add(result, tap);
                }
            vf_store_half_n((uint16_t *)bvt_row(&call->out[0], row) + c, largest ? result : vf_mul(result, reciprocal), n);
        }
    }
}
void VF_KERNEL(avg_pool_half)(const bvt_call *call, uint32_t row0, uint32_t row1) { pool(call, row0, row1, false); }
void VF_KERNEL(max_pool_half)(const bvt_call *call, uint32_t row0, uint32_t row1) { pool(call, row0, row1, true); }

/* ---- Ops of f32 that read fp16 --------------------------------------------------------------------------------------------- */

static void widen_row(const uint16_t *from, float *to, uint32_t n) {
    uint32_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(to + i, vf_load_half(from + i));
    for (; i < n; i++) to[i] = bvt_from_half(from[i]);
}

void VF_KERNEL(layer_norm_rows_half)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    bvt_widen_rows(call, row0, row1, widen_row, VF_KERNEL(layer_norm_rows));
}
void VF_KERNEL(norm_sign_half)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    bvt_widen_rows(call, row0, row1, widen_row, VF_KERNEL(norm_sign));
}
