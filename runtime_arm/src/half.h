/* IEEE 754 binary16 for the portable kernels, and the rule of fp16 arithmetic: every step is one IEEE operation, rounded to nearest
 * even, subnormals kept: an addition, a multiplication, or a multiply-add (bvt_half_fma), which is rounded once. Additions and
 * multiplications in fp32, rounded to binary16, are those of fp16, as 24 >= 2*11 + 2 bits. So F16C, FCVTN and the FP16 instructions
 * of ARMv8.2 agree bit for bit.
 */
#ifndef BVT_HALF_H
#define BVT_HALF_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__aarch64__)
/* Every 64-bit ARM converts. */
static inline float bvt_from_half(uint16_t half) {
    __fp16 x;
    memcpy(&x, &half, sizeof x);
    return x;
}
static inline uint16_t bvt_to_half(float x) {
    const __fp16 rounded = (__fp16)x;
    uint16_t half;
    memcpy(&half, &rounded, sizeof half);
    return half;
}
#else
/* Exact: fp32 holds every binary16. */
static inline float bvt_from_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3FFu;
    uint32_t bits = sign | (exponent + 112) << 23 | fraction << 13;
    if (exponent == 31) bits = sign | 0x7F800000u | fraction << 13;
    if (!exponent) {
        bits = sign;
        if (fraction) { /* subnormal, fraction * 2^-24: its highest bit becomes the implicit one */
            const uint32_t shift = (uint32_t)__builtin_clz(fraction) - 21;
            bits = sign | (113 - shift) << 23 | (fraction << shift & 0x3FFu) << 13;
        }
    }
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To nearest even; a NaN becomes a quiet one. */
static inline uint16_t bvt_to_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    bits &= 0x7FFFFFFFu;
    if (bits > 0x7F800000u) return (uint16_t)(sign | 0x7E00u);
    if (bits >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); /* 65520 and beyond */
    if (bits < 0x38800000u) {
        /* Below 2^-14: the last bit of a number of [1/2, 1) is 2^-24, that of a subnormal. */
        float least;
        memcpy(&least, &bits, sizeof least);
        least += 0.5f;
        memcpy(&bits, &least, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3F000000u));
    }
    bits += 0xFFFu + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}
#endif

/* x as a step of fp16 or of fp32 arithmetic leaves it. */
static inline float bvt_rounded(float x, bool half) { return half ? bvt_from_half(bvt_to_half(x)) : x; }

/* a*b + c of fp16 numbers, rounded to binary16 once. The product is exact in fp32 (22 bits), and TwoSum (Knuth) has the exact
 * error of the sum s. Where there is one, s is rounded to odd: to that of the two fp32 numbers around the exact sum whose last
 * bit is 1. Such an s, of more than 11 + 2 bits, rounds to binary16 as the exact sum does (Boldo & Melquiond 2008, theorem 3).
 * Where p or c is infinite or NaN, the error is NaN, and s stays. */
static inline float bvt_half_fma(float a, float b, float c) {
    const float p = a * b, t = (p + c) - p, error = (p - ((p + c) - t)) + (c - t);
    float s = p + c;
    if (error < 0 || error > 0) {
        uint32_t bits;
        memcpy(&bits, &s, sizeof bits);
        bits = (bits - ((error < 0) != (s < 0))) | 1; /* the one nearer to 0, made odd */
        memcpy(&s, &bits, sizeof s);
    }
    return bvt_rounded(s, true);
}

/* Element c of a row of F16 or F32. */
static inline float bvt_get_real(const void *row, uint32_t c, bool half) {
    return half ? bvt_from_half(((const uint16_t *)row)[c]) : ((const float *)row)[c];
}
static inline void bvt_put_real(void *row, uint32_t c, float x, bool half) {
    if (half) ((uint16_t *)row)[c] = bvt_to_half(x);
    else ((float *)row)[c] = x;
}

#endif
