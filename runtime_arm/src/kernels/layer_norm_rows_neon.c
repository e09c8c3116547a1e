/* layer_norm_rows for NEON: 4 rows x 8 channels at a time, so that parameters are loaded once for 4 rows. */
#include "norm_neon.h"

#define INLINE static inline __attribute__((always_inline))

INLINE float32x4_t normal(const float *x, float32x4_t mean, float32x4_t inverse, float32x4_t gamma, float32x4_t beta) {
    return vfmaq_f32(beta, vmulq_f32(vsubq_f32(vld1q_f32(x), mean), inverse), gamma);
}

/* 4 rows, of which `rows` are there; the others are written where the last of them is. */
INLINE void apply(const float *const *x, float *const *y, const float *mean, const float *inverse, const float *gamma,
                  const float *beta, uint32_t n, unsigned rows) {
    float32x4_t m[4], s[4];
    for (unsigned r = 0; r < 4; r++) m[r] = vdupq_n_f32(mean[r]), s[r] = vdupq_n_f32(inverse[r]);
    const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    float *y0 = y[0], *y1 = y[1], *y2 = y[2], *y3 = y[3];
    uint32_t c = 0;
    for (; c + 8 <= n; c += 8) {
        const float32x4_t g0 = vld1q_f32(gamma + c), g1 = vld1q_f32(gamma + c + 4), b0 = vld1q_f32(beta + c),
                          b1 = vld1q_f32(beta + c + 4);
#define ROW(r)                                                   \
    vst1q_f32(y##r + c, normal(x##r + c, m[r], s[r], g0, b0)); \
    vst1q_f32(y##r + c + 4, normal(x##r + c + 4, m[r], s[r], g1, b1));
        ROW(0) ROW(1) ROW(2) ROW(3)
#undef ROW
    }
    for (; c < n; c++)
        for (unsigned r = 0; r < rows; r++) y[r][c] = bvt_fma((x[r][c] - mean[r]) * inverse[r], gamma[c], beta[c]);
}

void bvt_layer_norm_rows_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *gamma = bvt_row_f32(&call->in[1], 0), *beta = bvt_row_f32(&call->in[2], 0);
    for (uint32_t row = row0; row < row1; row += 4) {
        const unsigned rows = bvt_min_u32(row1 - row, 4);
        for (uint32_t from = 0; from < channels; from += n) {
            const float *x[4];
            float *y[4], mean[4], inverse[4];
            for (unsigned r = 0; r < 4; r++) {
                x[r] = bvt_row_f32(&call->in[0], row + bvt_min_u32(r, rows - 1)) + from;
                y[r] = (float *)bvt_row(&call->out[0], row + bvt_min_u32(r, rows - 1)) + from;
            }
            norm_moments(x, rows, n, call->op->fattr[0], mean, inverse, 4);
            vst1q_f32(inverse, vdivq_f32(vdupq_n_f32(1), vld1q_f32(inverse)));
            apply(x, y, mean, inverse, gamma + from, beta + from, n, rows);
        }
    }
}
