/* What the row norms share on NEON: the moments of 4 rows at a time. The lanes of the sums are those of the definition. */
#ifndef BVT_KERNELS_NORM_NEON_H
#define BVT_KERNELS_NORM_NEON_H
#include <arm_neon.h>

#include "../ops/norm.h"

/* The sums of 4 rows' lanes 0 .. 3 and 4 .. 7: a lane a row. */
static inline float32x4_t lanes_sums(const float32x4_t low[4], const float32x4_t high[4]) {
    float32x4_t two[2]; /* of two rows: (0+4)+(2+6), (1+5)+(3+7) */
    for (unsigned i = 0; i < 2; i++) {
        const float64x2_t a = vreinterpretq_f64_f32(vaddq_f32(low[2 * i], high[2 * i])),
                          b = vreinterpretq_f64_f32(vaddq_f32(low[2 * i + 1], high[2 * i + 1]));
        two[i] = vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b)));
    }
    return vpaddq_f32(two[0], two[1]);
}

/* The n % 8 last values of 4 rows; +0 beyond them, which changes no lane of a sum. */
static inline void norm_rest(float rest[4][8], const float *const *x, uint32_t n) {
    memset(rest, 0, 4 * sizeof *rest);
    for (unsigned r = 0; r < 4; r++) memcpy(rest[r], x[r] + (n - n % 8), n % 8 * sizeof(float));
}

/* Mean and sqrt(variance + eps) of n channels of 4 rows. */
static inline __attribute__((always_inline)) void moments_of(const float *const *x, uint32_t n, float eps, float *mean,
                                                             float *deviation) {
    const float reciprocal = bvt_reciprocal(n);
    const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    const uint32_t whole = n - n % 8;
    float rest[4][8];
    float32x4_t l0 = vdupq_n_f32(0), l1 = l0, l2 = l0, l3 = l0, h0 = l0, h1 = l0, h2 = l0, h3 = l0;
    if (n % 8) norm_rest(rest, x, n);
#define ROW(r, x) l##r = vaddq_f32(l##r, vld1q_f32(x)), h##r = vaddq_f32(h##r, vld1q_f32((x) + 4));
#pragma GCC unroll 2
    for (uint32_t i = 0; i < whole; i += 8) { ROW(0, x0 + i) ROW(1, x1 + i) ROW(2, x2 + i) ROW(3, x3 + i) }
    if (n % 8) { ROW(0, rest[0]) ROW(1, rest[1]) ROW(2, rest[2]) ROW(3, rest[3]) }
#undef ROW
    float32x4_t sum = lanes_sums((float32x4_t[]){l0, l1, l2, l3}, (float32x4_t[]){h0, h1, h2, h3});
    const float32x4_t middle = vmulq_n_f32(sum, reciprocal);
    const float32x4_t m0 = vdupq_laneq_f32(middle, 0), m1 = vdupq_laneq_f32(middle, 1), m2 = vdupq_laneq_f32(middle, 2),
                      m3 = vdupq_laneq_f32(middle, 3);
    vst1q_f32(mean, middle);
    l0 = l1 = l2 = l3 = h0 = h1 = h2 = h3 = vdupq_n_f32(0);
#define ROW(r, x)                                                                                     \
    {                                                                                                 \
        const float32x4_t a = vsubq_f32(vld1q_f32(x), m##r), b = vsubq_f32(vld1q_f32((x) + 4), m##r); \
        l##r = vfmaq_f32(l##r, a, a), h##r = vfmaq_f32(h##r, b, b);                                   \
    }
    for (uint32_t i = 0; i < whole; i += 8) { ROW(0, x0 + i) ROW(1, x1 + i) ROW(2, x2 + i) ROW(3, x3 + i) }
#undef ROW
    if (n % 8) { /* what is not there is no difference either */
        static const uint32_t there[16] = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u};
        const uint32x4_t low = vld1q_u32(there + 8 - n % 8), high = vld1q_u32(there + 12 - n % 8);
#define DIFFERENCE(x, m, mask) vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(vsubq_f32(vld1q_f32(x), m)), mask))
#define ROW(r)                                                                                               \
    {                                                                                                        \
        const float32x4_t a = DIFFERENCE(rest[r], m##r, low), b = DIFFERENCE(rest[r] + 4, m##r, high);       \
        l##r = vfmaq_f32(l##r, a, a), h##r = vfmaq_f32(h##r, b, b);                                          \
    }
        ROW(0) ROW(1) ROW(2) ROW(3)
#undef ROW
#undef DIFFERENCE
    }
    sum = lanes_sums((float32x4_t[]){l0, l1, l2, l3}, (float32x4_t[]){h0, h1, h2, h3});
    vst1q_f32(deviation, vsqrtq_f32(vaddq_f32(vmulq_n_f32(sum, reciprocal), vdupq_n_f32(eps))));
}

/* The same of any number of rows, R at most; what is beyond them repeats the last one. R is a multiple of 4. */
static inline __attribute__((always_inline)) void norm_moments(const float **x, unsigned rows, uint32_t n, float eps, float *mean,
                                                               float *deviation, const unsigned R) {
    for (unsigned r = rows; r < R; r++) x[r] = x[rows - 1];
#pragma GCC unroll 1
    for (unsigned r = 0; r < R && r < rows; r += 4) moments_of(x + r, n, eps, mean + r, deviation + r);
}

#endif
