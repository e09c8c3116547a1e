/* norm_sign for NEON: 8 rows x 16 channels at a time. */
#include "norm_neon.h"
#include "signs_neon.h"

/* 8 rows, their moments, and where their signs go. */
typedef struct {
    const float *x[8];
    float mean[8], deviation[8];
    sign_target target;
    uint32_t row;
    unsigned rows;
} norm_rows;

/* direction * (x - mean) >= cut * deviation for 16 channels of a row; `one`: direction is 1. */
INLINE uint8x16_t row_mask(const float *x, const float32x4_t direction[4], const float32x4_t cut[4], float mean, float deviation,
                           const bool one) {
    uint32x4_t mask[4];
    for (unsigned i = 0; i < 4; i++) {
        float32x4_t d = vsubq_f32(vld1q_f32(x + 4 * i), vdupq_n_f32(mean));
        if (!one) d = vmulq_f32(direction[i], d);
        mask[i] = vcgeq_f32(d, vmulq_n_f32(cut[i], deviation));
    }
    return vuzp1q_u8(vreinterpretq_u8_u16(narrow(mask[0], mask[1])), vreinterpretq_u8_u16(narrow(mask[2], mask[3])));
}

/* Of n channels from c on, whose floats are at x[r], in 16s: of the last ones there must be so many to read. */
static __attribute__((noinline)) void put_signs(const norm_rows *t, const float *const *x, const float *direction, const float *cut,
                                                uint32_t c, uint32_t n) {
    const float32x4_t one = vdupq_n_f32(1);
    for (uint32_t at = 0; at < n; at += 16) {
        float32x4_t toward[4], least[4];
        uint32x4_t same = vdupq_n_u32(~0u);
        uint8x16_t mask[8];
        for (unsigned i = 0; i < 4; i++) {
            toward[i] = vld1q_f32(direction + at + 4 * i), least[i] = vld1q_f32(cut + at + 4 * i);
            same = vandq_u32(same, vceqq_f32(toward[i], one));
        }
        if (vminvq_u32(same)) {
            for (unsigned r = 0; r < 8; r++) mask[r] = row_mask(x[r] + at, toward, least, t->mean[r], t->deviation[r], true);
        } else {
#pragma GCC unroll 1
            for (unsigned r = 0; r < 8; r++) mask[r] = row_mask(x[r] + at, toward, least, t->mean[r], t->deviation[r], false);
        }
        store_masks(&t->target, t->row, t->rows, c + at, bvt_min_u32(n - at, 16), mask);
    }
}

/* Groups that are no multiple of 8 channels share bytes. */
static void any_group(const bvt_call *call, const norm_rows *t, uint32_t from, uint32_t n) {
    const float *cut = bvt_row_f32(&call->in[1], 0) + from, *direction = bvt_row_f32(&call->in[2], 0) + from;
    for (unsigned r = 0; r < t->rows; r++)
        for (uint32_t c = 0; c < n; c++)
            bvt_put_bit(&call->out[0], t->row + r, from + c, 0,
                        direction[c] * (t->x[r][c] - t->mean[r]) >= cut[c] * t->deviation[r]);
}

void bvt_norm_sign_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *cut = bvt_row_f32(&call->in[1], 0), *direction = bvt_row_f32(&call->in[2], 0);
    norm_rows t = {.target = {&call->out[0], 0}};
    for (t.row = row0; t.row < row1; t.row += 8) {
        t.rows = bvt_min_u32(row1 - t.row, 8);
        for (uint32_t from = 0; from < channels; from += n) {
            for (unsigned r = 0; r < t.rows; r++) t.x[r] = bvt_row_f32(&call->in[0], t.row + r) + from;
            norm_moments(t.x, t.rows, n, call->op->fattr[0], t.mean, t.deviation, 8);
            if (from % 8 || (n % 8 && from + n < channels)) {
                any_group(call, &t, from, n);
                continue;
            }
            const uint32_t c = n - n % 16;
            put_signs(&t, t.x, direction + from, cut + from, from, c);
            if (c < n) {
                float part[8][16] = {{0}}, d[16] = {0}, t16[16] = {0};
                const float *p[8];
                for (unsigned r = 0; r < 8; r++) p[r] = memcpy(part[r], t.x[r] + c, (n - c) * sizeof(float));
                memcpy(d, direction + from + c, (n - c) * sizeof(float));
                memcpy(t16, cut + from + c, (n - c) * sizeof(float));
                put_signs(&t, p, d, t16, from + c, n - c);
            }
        }
    }
    bvt_pad(&call->out[0], row0, row1);
}
