/* layer_norm_rows for NEON: 4 rows x 8 channels at a time, so that parameters are loaded once for 4 rows. */
#include "norm_neon.h"

#define INLINE static inline __attribute__((always_inline))

INLINE float32x4_t normal(const float *x, float32x4_t mean, float32x4_t inverse, float32x4_t gamma, float32x4_t beta) {
    return vfmaq_f32(beta, vmulq_f32(vsubq_f32(vld1q_f32(x), mean), inverse), gamma);
}

INLINE void apply(const float *const *x, float *const *y, const float *mean, const float *inverse, const float *gamma,
                  const float *beta, uint32_t n, const unsigned R) {
    float32x4_t m[4], s[4];
    for (unsigned r = 0; r < R; r++) m[r] = vdupq_n_f32(mean[r]), s[r] = vdupq_n_f32(inverse[r]);
    uint32_t c = 0;
    for (; c + 8 <= n; c += 8) {
        const float32x4_t g0 = vld1q_f32(gamma + c), g1 = vld1q_f32(gamma + c + 4), b0 = vld1q_f32(beta + c),
                          b1 = vld1q_f32(beta + c + 4);
        for (unsigned r = 0; r < R; r++) {
            vst1q_f32(y[r] + c, normal(x[r] + c, m[r], s[r], g0, b0));
            vst1q_f32(y[r] + c + 4, normal(x[r] + c + 4, m[r], s[r], g1, b1));
        }
    }
    for (; c < n; c++)
        for (unsigned r = 0; r < R; r++) y[r][c] = bvt_fma((x[r][c] - mean[r]) * inverse[r], gamma[c], beta[c]);
}

void bvt_layer_norm_rows_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *gamma = bvt_row_f32(&call->in[1], 0), *beta = bvt_row_f32(&call->in[2], 0);
    for (uint32_t row = row0; row < row1; row += 4) {
        const unsigned rows = bvt_min_u32(row1 - row, 4);
        for (uint32_t from = 0; from < channels; from += n) {
            const float *x[4];
            float *y[4], mean[4], inverse[4];
            for (unsigned r = 0; r < rows; r++) {
                x[r] = bvt_row_f32(&call->in[0], row + r) + from;
                y[r] = (float *)bvt_row(&call->out[0], row + r) + from;
            }
            norm_moments(x, rows, n, call->op->fattr[0], mean, inverse);
            for (unsigned r = 0; r < rows; r++) inverse[r] = 1.0f / inverse[r];
            if (rows == 4) {
                apply(x, y, mean, inverse, gamma + from, beta + from, n, 4);
                continue;
            }
            for (unsigned r = 0; r < rows; r++)
                apply(x + r, y + r, mean + r, inverse + r, gamma + from, beta + from, n, 1);
        }
    }
}
