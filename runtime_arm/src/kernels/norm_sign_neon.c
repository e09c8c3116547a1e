/* norm_sign for NEON: 8 rows x 16 channels at a time. */
#include "norm_neon.h"
#include "signs_neon.h"

/* direction * (x - mean) >= cut * s for 4 channels. */
INLINE uint32x4_t not_less(const float *x, float32x4_t direction, float32x4_t cut, float mean, float s) {
    return vcgeq_f32(vmulq_f32(direction, vsubq_f32(vld1q_f32(x), vdupq_n_f32(mean))), vmulq_n_f32(cut, s));
}

/* Of 16 channels, from where the pointers are. */
INLINE signs tile_signs(const float *const *x, size_t at, unsigned rows, const float *direction, const float *cut,
                        const float *mean, const float *s) {
    const float32x4_t d0 = vld1q_f32(direction), d1 = vld1q_f32(direction + 4), d2 = vld1q_f32(direction + 8),
                      d3 = vld1q_f32(direction + 12);
    const float32x4_t c0 = vld1q_f32(cut), c1 = vld1q_f32(cut + 4), c2 = vld1q_f32(cut + 8), c3 = vld1q_f32(cut + 12);
    signs out = {vdupq_n_u16(0), vdupq_n_u16(0)};
    for (unsigned r = rows; r-- > 0;) {
        const float *p = x[r] + at;
        const float m = mean[r], deviation = s[r];
        out.low = add_row(out.low, narrow(not_less(p, d0, c0, m, deviation), not_less(p + 4, d1, c1, m, deviation)));
        out.high = add_row(out.high, narrow(not_less(p + 8, d2, c2, m, deviation), not_less(p + 12, d3, c3, m, deviation)));
    }
    return out;
}

static __attribute__((noinline)) void put_signs(const sign_target *target, uint32_t row, unsigned rows, uint32_t c, unsigned n,
                                                const signs *s) {
    store_signs(target, row, rows, c, n, s);
}

/* Groups that are no multiple of 8 channels share bytes. */
static void any_group(const bvt_call *call, uint32_t row, unsigned rows, uint32_t from, uint32_t n, const float *mean,
                      const float *s) {
    const float *cut = bvt_row_f32(&call->in[1], 0), *direction = bvt_row_f32(&call->in[2], 0);
    for (unsigned r = 0; r < rows; r++) {
        const float *x = bvt_row_f32(&call->in[0], row + r);
        for (uint32_t c = from; c < from + n; c++)
            bvt_put_bit(&call->out[0], row + r, c, 0, direction[c] * (x[c] - mean[r]) >= cut[c] * s[r]);
    }
}

void bvt_norm_sign_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *cut = bvt_row_f32(&call->in[1], 0), *direction = bvt_row_f32(&call->in[2], 0);
    const sign_target target = {&call->out[0], 0};
    for (uint32_t row = row0; row < row1; row += 8) {
        const unsigned rows = bvt_min_u32(row1 - row, 8);
        for (uint32_t from = 0; from < channels; from += n) {
            const float *x[8];
            float mean[8], s[8];
            for (unsigned r = 0; r < rows; r++) x[r] = bvt_row_f32(&call->in[0], row + r) + from;
            norm_moments(x, rows, n, call->op->fattr[0], mean, s);
            if (from % 8 || (n % 8 && from + n < channels)) {
                any_group(call, row, rows, from, n, mean, s);
                continue;
            }
            uint32_t c = 0;
            for (; c + 16 <= n; c += 16) {
                const signs bits = tile_signs(x, c, rows, direction + from + c, cut + from + c, mean, s);
                put_signs(&target, row, rows, from + c, 16, &bits);
            }
            if (c < n) {
                float part[8][16] = {{0}}, d[16] = {0}, t[16] = {0};
                const float *p[8];
                for (unsigned r = 0; r < rows; r++) p[r] = memcpy(part[r], x[r] + c, (n - c) * sizeof(float));
                memcpy(d, direction + from + c, (n - c) * sizeof(float));
                memcpy(t, cut + from + c, (n - c) * sizeof(float));
                const signs bits = tile_signs(p, 0, rows, d, t, mean, s);
                put_signs(&target, row, rows, from + c, n - c, &bits);
            }
        }
        for (unsigned r = 0; r < rows; r++) bvt_pad_row(&call->out[0], row + r);
    }
    bvt_pad_cols(&call->out[0], row1);
}
