/* A vector of floats: one AVX2 register or two NEON registers (8 lanes), or one AVX-512 register (16). The float kernels are
 * written once over these (<op>_vf.h) and compiled once an ISA (<op>_neon.c, <op>_avx2.c, <op>_avx512.c; <op>_armv7.c, where a
 * "vector" is eight scalars).
 *
 * Every function does to each lane exactly what the portable kernels do to a scalar; lanes never meet.
 */
#ifndef BVT_VF_H
#define BVT_VF_H
#include "../internal.h"
#include "../numerics.h"

#define VF_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>

#define VF_LANES 16
#define VF_KERNEL(op) bvt_##op##_avx512
typedef __m512 vf;

VF_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
VF_INLINE vf vf_load_i32(const int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
VF_INLINE vf vf_load_i16(const int16_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p)));
}
VF_INLINE void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
VF_INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
VF_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VF_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VF_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VF_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
VF_INLINE vf vf_least(vf v, vf knee) { return _mm512_min_ps(knee, v); }
VF_INLINE vf vf_factor(vf less, vf knee) { return _mm512_mask_mov_ps(less, _mm512_cmp_ps_mask(knee, knee, _CMP_UNORD_Q), knee); }
VF_INLINE unsigned vf_ge(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
VF_INLINE unsigned vf_gt(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
VF_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
/* Lanes 2i and 2i+1 of a, added, then those of b. */
VF_INLINE vf vf_add_pairs(vf a, vf b) {
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_add_ps(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b));
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define VF_LANES 8

#define VF_KERNEL(op) bvt_##op##_avx2
typedef __m256 vf;

VF_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
VF_INLINE vf vf_load_i32(const int32_t *p) { return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
VF_INLINE vf vf_load_i16(const int16_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
VF_INLINE void vf_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
VF_INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
VF_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VF_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
VF_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
VF_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
/* v <= knee ? v : knee, of a PReLU: fma(that, slope - 1, v). Of two zeros MINPS returns v, as it should. Where v or the knee is NaN the
 * PReLU must be NaN, but MINPS returns v then: vf_factor puts a knee that is NaN in the place of slope - 1. */
VF_INLINE vf vf_least(vf v, vf knee) { return _mm256_min_ps(knee, v); }
VF_INLINE vf vf_factor(vf less, vf knee) { return _mm256_blendv_ps(less, knee, _mm256_cmp_ps(knee, knee, _CMP_UNORD_Q)); }
/* Bit i: a >= b in lane i. */
VF_INLINE unsigned vf_ge(vf a, vf b) { return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)); }
/* Bit i: a > b in lane i. */
VF_INLINE unsigned vf_gt(vf a, vf b) { return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
/* a > b ? a : b */
VF_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
VF_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
/* a < b ? c : d */
VF_INLINE vf vf_if_lt(vf a, vf b, vf c, vf d) { return _mm256_blendv_ps(d, c, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
/* -0 in lane i where bit b of byte p[i] is 0, else +0. */
VF_INLINE vf vf_sign_bits(const uint8_t *p, unsigned b) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    const __m256i bit = _mm256_sll_epi32(bytes, _mm_cvtsi32_si128((int)(31 - b)));
    return _mm256_castsi256_ps(_mm256_andnot_si256(bit, _mm256_set1_epi32(INT32_MIN)));
}
VF_INLINE vf vf_xor(vf a, vf b) { return _mm256_xor_ps(a, b); }
VF_INLINE vf vf_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
/* Lanes 2i and 2i+1 of a, added, then those of b. */
VF_INLINE vf vf_add_pairs(vf a, vf b) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_hadd_ps(a, b)), 0xD8));
}

#elif defined(__aarch64__)
#include <arm_neon.h>

#define VF_LANES 8
#define VF_KERNEL(op) bvt_##op##_neon
typedef struct {
    float32x4_t a, b;
} vf;

VF_INLINE vf vf_load(const float *p) { return (vf){vld1q_f32(p), vld1q_f32(p + 4)}; }
VF_INLINE vf vf_load_i32(const int32_t *p) { return (vf){vcvtq_f32_s32(vld1q_s32(p)), vcvtq_f32_s32(vld1q_s32(p + 4))}; }
/* SCVTF runs at half the rate of other instructions. The last bit of `base`, which is VF_I16_BASE, counts 1: its bits + x are those of
 * the float base + x. */
#define VF_I16_BASE 0x1.8p23f
VF_INLINE vf vf_from_i16(const int16_t *p, float32x4_t base) {
    const int16x8_t x = vld1q_s16(p);
    const int32x4_t bits = vreinterpretq_s32_f32(base);
    return (vf){vsubq_f32(vreinterpretq_f32_s32(vaddw_s16(bits, vget_low_s16(x))), base),
                vsubq_f32(vreinterpretq_f32_s32(vaddw_high_s16(bits, x)), base)};
}
VF_INLINE vf vf_load_i16(const int16_t *p) { return vf_from_i16(p, vdupq_n_f32(VF_I16_BASE)); }
VF_INLINE void vf_store(float *p, vf v) { vst1q_f32(p, v.a), vst1q_f32(p + 4, v.b); }
VF_INLINE vf vf_set(float x) { return (vf){vdupq_n_f32(x), vdupq_n_f32(x)}; }
VF_INLINE vf vf_add(vf a, vf b) { return (vf){vaddq_f32(a.a, b.a), vaddq_f32(a.b, b.b)}; }
VF_INLINE vf vf_sub(vf a, vf b) { return (vf){vsubq_f32(a.a, b.a), vsubq_f32(a.b, b.b)}; }
VF_INLINE vf vf_mul(vf a, vf b) { return (vf){vmulq_f32(a.a, b.a), vmulq_f32(a.b, b.b)}; }
VF_INLINE vf vf_fma(vf a, vf b, vf c) { return (vf){vfmaq_f32(c.a, a.a, b.a), vfmaq_f32(c.b, a.b, b.b)}; }
/* FMIN takes NaN, and of two zeros -0: where v is the other one, what is added to +0 is a zero of either sign, and +0 comes out. */
VF_INLINE vf vf_least(vf v, vf knee) { return (vf){vminq_f32(v.a, knee.a), vminq_f32(v.b, knee.b)}; }
VF_INLINE vf vf_factor(vf less, vf knee) {
    (void)knee;
    return less;
}
VF_INLINE unsigned vf_ge(vf a, vf b) {
    static const uint8_t weight[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t wide = vuzp1q_u16(vreinterpretq_u16_u32(vcgeq_f32(a.a, b.a)), vreinterpretq_u16_u32(vcgeq_f32(a.b, b.b)));
    return vaddv_u8(vand_u8(vmovn_u16(wide), vld1_u8(weight)));
}
VF_INLINE unsigned vf_gt(vf a, vf b) {
    static const uint8_t weight[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const uint16x8_t wide = vuzp1q_u16(vreinterpretq_u16_u32(vcgtq_f32(a.a, b.a)), vreinterpretq_u16_u32(vcgtq_f32(a.b, b.b)));
    return vaddv_u8(vand_u8(vmovn_u16(wide), vld1_u8(weight)));
}
VF_INLINE vf vf_max(vf a, vf b) { return (vf){vbslq_f32(vcgtq_f32(a.a, b.a), a.a, b.a), vbslq_f32(vcgtq_f32(a.b, b.b), a.b, b.b)}; }
VF_INLINE vf vf_div(vf a, vf b) { return (vf){vdivq_f32(a.a, b.a), vdivq_f32(a.b, b.b)}; }
VF_INLINE vf vf_if_lt(vf a, vf b, vf c, vf d) {
    return (vf){vbslq_f32(vcltq_f32(a.a, b.a), c.a, d.a), vbslq_f32(vcltq_f32(a.b, b.b), c.b, d.b)};
}
VF_INLINE vf vf_sign_bits(const uint8_t *p, unsigned b) {
    const uint16x8_t bytes = vmovl_u8(vld1_u8(p));
    const int32x4_t up = vdupq_n_s32((int)(31 - b));
    const uint32x4_t sign = vdupq_n_u32(0x80000000u);
    return (vf){vreinterpretq_f32_u32(vbicq_u32(sign, vshlq_u32(vmovl_u16(vget_low_u16(bytes)), up))),
                vreinterpretq_f32_u32(vbicq_u32(sign, vshlq_u32(vmovl_high_u16(bytes), up)))};
}
VF_INLINE vf vf_xor(vf a, vf b) {
    return (vf){vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(a.a), vreinterpretq_u32_f32(b.a))),
                vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(a.b), vreinterpretq_u32_f32(b.b)))};
}
VF_INLINE vf vf_abs(vf a) { return (vf){vabsq_f32(a.a), vabsq_f32(a.b)}; }
VF_INLINE vf vf_add_pairs(vf a, vf b) { return (vf){vpaddq_f32(a.a, a.b), vpaddq_f32(b.a, b.b)}; }

#elif defined(__arm__)
#include "vf_armv7.h"
#endif

/* PReLU: factor is vf_factor(slope - 1, knee). */
VF_INLINE vf vf_prelu(vf v, vf factor, vf knee) { return vf_fma(vf_least(v, knee), factor, v); }

/* The same for the first n lanes, 1 <= n <= VF_LANES; other lanes are read as 0 and not written. */
#if VF_LANES == 16
VF_INLINE __mmask16 vf_first(unsigned n) { return (__mmask16)(0xFFFFu >> (16 - n)); }
VF_INLINE vf vf_load_n(const float *p, unsigned n) { return _mm512_maskz_loadu_ps(vf_first(n), p); }
VF_INLINE vf vf_load_i32_n(const int32_t *p, unsigned n) { return _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(vf_first(n), p)); }
VF_INLINE vf vf_load_i16_n(const int16_t *p, unsigned n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(vf_first(n), p)));
}
VF_INLINE void vf_store_n(float *p, vf v, unsigned n) { _mm512_mask_storeu_ps(p, vf_first(n), v); }
#else
VF_INLINE vf vf_load_n(const float *p, unsigned n) {
    float x[VF_LANES] = {0};
    if (n == VF_LANES) return vf_load(p);
    for (unsigned i = 0; i < n; i++) x[i] = p[i];
    return vf_load(x);
}
VF_INLINE vf vf_load_i32_n(const int32_t *p, unsigned n) {
    int32_t x[VF_LANES] = {0};
    if (n == VF_LANES) return vf_load_i32(p);
    for (unsigned i = 0; i < n; i++) x[i] = p[i];
    return vf_load_i32(x);
}
VF_INLINE vf vf_load_i16_n(const int16_t *p, unsigned n) {
    int16_t x[VF_LANES] = {0};
    if (n == VF_LANES) return vf_load_i16(p);
    for (unsigned i = 0; i < n; i++) x[i] = p[i];
    return vf_load_i16(x);
}
VF_INLINE void vf_store_n(float *p, vf v, unsigned n) {
    float x[VF_LANES];
    if (n == VF_LANES) {
        vf_store(p, v);
        return;
    }
    vf_store(x, v);
    for (unsigned i = 0; i < n; i++) p[i] = x[i];
}
#endif
VF_INLINE unsigned vf_min(uint32_t left) { return left < VF_LANES ? left : VF_LANES; }

#endif
