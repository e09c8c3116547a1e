/* What the row norms share on NEON: the moments of up to 4 rows at a time. The lanes of the sums are those of the definition. */
#ifndef BVT_KERNELS_NORM_NEON_H
#define BVT_KERNELS_NORM_NEON_H
#include <arm_neon.h>

#include "../ops/norm.h"

/* Mean and sqrt(variance + eps) of n channels of R rows. */
static inline __attribute__((always_inline)) void moments_of(const float *const *x, uint32_t n, float eps, float *mean,
                                                             float *deviation, const unsigned R) {
    const float reciprocal = bvt_reciprocal(n);
    const uint32_t whole = n - n % 8;
    float32x4_t low[4], high[4], middle[4];
    float lanes[8];
    for (unsigned r = 0; r < R; r++) low[r] = high[r] = vdupq_n_f32(0);
    for (uint32_t i = 0; i < whole; i += 8)
        for (unsigned r = 0; r < R; r++) {
            low[r] = vaddq_f32(low[r], vld1q_f32(x[r] + i));
            high[r] = vaddq_f32(high[r], vld1q_f32(x[r] + i + 4));
        }
    for (unsigned r = 0; r < R; r++) {
        vst1q_f32(lanes, low[r]);
        vst1q_f32(lanes + 4, high[r]);
        for (uint32_t i = whole; i < n; i++) lanes[i - whole] += x[r][i];
        mean[r] = bvt_lanes_sum(lanes) * reciprocal;
        middle[r] = vdupq_n_f32(mean[r]);
        low[r] = high[r] = vdupq_n_f32(0);
    }
    for (uint32_t i = 0; i < whole; i += 8)
        for (unsigned r = 0; r < R; r++) {
            const float32x4_t a = vsubq_f32(vld1q_f32(x[r] + i), middle[r]), b = vsubq_f32(vld1q_f32(x[r] + i + 4), middle[r]);
            low[r] = vfmaq_f32(low[r], a, a);
            high[r] = vfmaq_f32(high[r], b, b);
        }
    for (unsigned r = 0; r < R; r++) {
        vst1q_f32(lanes, low[r]);
        vst1q_f32(lanes + 4, high[r]);
        for (uint32_t i = whole; i < n; i++) {
            const float d = x[r][i] - mean[r];
            lanes[i - whole] = bvt_fma(d, d, lanes[i - whole]);
        }
        deviation[r] = sqrtf(bvt_lanes_sum(lanes) * reciprocal + eps);
    }
}

/* The same of up to 8 rows. */
static inline void norm_moments(const float *const *x, unsigned rows, uint32_t n, float eps, float *mean, float *deviation) {
    unsigned r = 0;
    for (; r + 4 <= rows; r += 4) moments_of(x + r, n, eps, mean + r, deviation + r, 4);
    for (; r < rows; r++) moments_of(x + r, n, eps, mean + r, deviation + r, 1);
}

#endif
