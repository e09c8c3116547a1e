/* bgemm for NEON: the choice by layout, and layout LANES16 in tiles of 4 rows x 4 weight tiles. */
#define WIDE 4u
#include "bgemm_lanes16_neon.h"

/* 4 rows x 4 tiles. What keeps GCC 12 from spilling half of the registers: the counters are 16 variables (an array would live in
 * memory), and an empty asm after each step (it would turn the chain of additions into a tree and load all weights first). */
static void bgemm_wide(const bvt_call *call, uint32_t row, uint32_t tile) {
    const uint32_t k = call->in[1].cols, steps = (k + 7) / 8;
    const size_t w_stride = call->in[1].stride;
    const size_t at = bvt_bgemm_segment(call, tile);
    const uint8_t *x0 = bvt_row_bits(&call->in[0], row) + at, *x1 = bvt_row_bits(&call->in[0], row + 1) + at;
    const uint8_t *x2 = bvt_row_bits(&call->in[0], row + 2) + at, *x3 = bvt_row_bits(&call->in[0], row + 3) + at;
    const uint8_t *w0 = call->in[1].base + tile * w_stride, *w1 = w0 + w_stride, *w2 = w1 + w_stride, *w3 = w2 + w_stride;
    for (uint32_t done = 0; done < steps;) {
        const uint32_t chunk = chunk_steps(steps - done);
        uint32_t s = 0;
#define ROWS(X) X(0) X(1) X(2) X(3)
#define DECLARE(r) uint8x16_t c##r##0 = vdupq_n_u8(0), c##r##1 = c##r##0, c##r##2 = c##r##0, c##r##3 = c##r##0;
#define WEIGHTS(lane)                                                                                                   \
    const uint8x16_t v0 = vld1q_u8(w0 + 16 * (lane)), v1 = vld1q_u8(w1 + 16 * (lane)), v2 = vld1q_u8(w2 + 16 * (lane)), \
                     v3 = vld1q_u8(w3 + 16 * (lane));
#define COUNT(r, byte)                                                                     \
    {                                                                                      \
        const uint8x16_t b = byte;                                                         \
        c##r##0 = vaddq_u8(c##r##0, vcntq_u8(veorq_u8(b, v0)));                            \
        c##r##1 = vaddq_u8(c##r##1, vcntq_u8(veorq_u8(b, v1)));                            \
        c##r##2 = vaddq_u8(c##r##2, vcntq_u8(veorq_u8(b, v2)));                            \
        c##r##3 = vaddq_u8(c##r##3, vcntq_u8(veorq_u8(b, v3)));                            \
        __asm__ volatile("" : "+w"(c##r##0), "+w"(c##r##1), "+w"(c##r##2), "+w"(c##r##3)); \
    }
#define STEP(lane)                                                                                                       \
    {WEIGHTS(lane) COUNT(0, vdupq_lane_u8(a0, lane)) COUNT(1, vdupq_lane_u8(a1, lane)) COUNT(2, vdupq_lane_u8(a2, lane)) \
         COUNT(3, vdupq_lane_u8(a3, lane))}
#define FLUSH(r)                                                                       \
    {                                                                                  \
        int16_t *y = (int16_t *)bvt_row(&call->out[0], row + (r)) + 16 * (size_t)tile; \
        flush(y, c##r##0, done == 0, (int32_t)k, 16);                                  \
        flush(y + 16, c##r##1, done == 0, (int32_t)k, 16);                             \
        flush(y + 32, c##r##2, done == 0, (int32_t)k, 16);                             \
        flush(y + 48, c##r##3, done == 0, (int32_t)k, 16);                             \
    }
        ROWS(DECLARE)
        for (; s + 8 <= chunk; s += 8) {
            const uint8x8_t a0 = load8(x0), a1 = load8(x1), a2 = load8(x2), a3 = load8(x3);
            STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) x0 += 8, x1 += 8, x2 += 8, x3 += 8;
            w0 += 128, w1 += 128, w2 += 128, w3 += 128;
        }
        for (; s < chunk; s++) {
            WEIGHTS(0)
            COUNT(0, vld1q_dup_u8(x0++))
            COUNT(1, vld1q_dup_u8(x1++))
            COUNT(2, vld1q_dup_u8(x2++))
            COUNT(3, vld1q_dup_u8(x3++))
            w0 += 16, w1 += 16, w2 += 16, w3 += 16;
        }
        ROWS(FLUSH)
        done += chunk;
#undef ROWS
#undef DECLARE
#undef WEIGHTS
#undef COUNT
#undef STEP
#undef FLUSH
    }
}

/* Trits: 2 rows x 4 tiles, where the second plane masks what differs. */
static void bgemm_trits_wide(const bvt_call *call, uint32_t row, uint32_t tile, const int32_t ones[2]) {
    const uint32_t steps = (call->in[1].cols + 7) / 8;
    const size_t w_stride = call->in[1].stride, at = bvt_bgemm_segment(call, tile), plane = bvt_plane(call->in[0].cols);
    const uint8_t *x0 = bvt_row_bits(&call->in[0], row) + at, *x1 = bvt_row_bits(&call->in[0], row + 1) + at;
    const uint8_t *w0 = call->in[1].base + tile * w_stride, *w1 = w0 + w_stride, *w2 = w1 + w_stride, *w3 = w2 + w_stride;
    for (uint32_t done = 0; done < steps;) {
        const uint32_t chunk = chunk_steps(steps - done);
        uint32_t s = 0;
#define DECLARE(r) uint8x16_t c##r##0 = vdupq_n_u8(0), c##r##1 = c##r##0, c##r##2 = c##r##0, c##r##3 = c##r##0;
#define COUNT(r, sign, some)                                                               \
    {                                                                                      \
        const uint8x16_t b = sign, m = some;                                               \
        c##r##0 = vaddq_u8(c##r##0, vcntq_u8(vandq_u8(veorq_u8(b, v0), m)));               \
        c##r##1 = vaddq_u8(c##r##1, vcntq_u8(vandq_u8(veorq_u8(b, v1), m)));               \
        c##r##2 = vaddq_u8(c##r##2, vcntq_u8(vandq_u8(veorq_u8(b, v2), m)));               \
        c##r##3 = vaddq_u8(c##r##3, vcntq_u8(vandq_u8(veorq_u8(b, v3), m)));               \
        __asm__ volatile("" : "+w"(c##r##0), "+w"(c##r##1), "+w"(c##r##2), "+w"(c##r##3)); \
    }
#define STEP(lane)                                                                                                        \
    {                                                                                                                     \
        const uint8x16_t v0 = vld1q_u8(w0 + 16 * (lane)), v1 = vld1q_u8(w1 + 16 * (lane)), v2 = vld1q_u8(w2 + 16 * (lane)), \
                         v3 = vld1q_u8(w3 + 16 * (lane));                                                                 \
        COUNT(0, vdupq_lane_u8(a0, lane), vdupq_lane_u8(m0, lane))                                                        \
        COUNT(1, vdupq_lane_u8(a1, lane), vdupq_lane_u8(m1, lane))                                                        \
    }
#define FLUSH(r)                                                                       \
    {                                                                                  \
        int16_t *y = (int16_t *)bvt_row(&call->out[0], row + (r)) + 16 * (size_t)tile; \
        flush(y, c##r##0, done == 0, ones[r], 16);                                     \
        flush(y + 16, c##r##1, done == 0, ones[r], 16);                                \
        flush(y + 32, c##r##2, done == 0, ones[r], 16);                                \
        flush(y + 48, c##r##3, done == 0, ones[r], 16);                                \
    }
        DECLARE(0) DECLARE(1)
        for (; s + 8 <= chunk; s += 8) {
            const uint8x8_t a0 = load8(x0), a1 = load8(x1), m0 = load8(x0 + plane), m1 = load8(x1 + plane);
            STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7) x0 += 8, x1 += 8;
            w0 += 128, w1 += 128, w2 += 128, w3 += 128;
        }
        for (; s < chunk; s++) {
            const uint8x8_t a0 = vld1_dup_u8(x0), a1 = vld1_dup_u8(x1), m0 = vld1_dup_u8(x0 + plane), m1 = vld1_dup_u8(x1 + plane);
            STEP(0) x0++, x1++;
            w0 += 16, w1 += 16, w2 += 16, w3 += 16;
        }
        FLUSH(0) FLUSH(1)
        done += chunk;
#undef DECLARE
#undef COUNT
#undef STEP
#undef FLUSH
    }
}

void bvt_bgemm_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    switch (call->in[1].layout) {
    case BVT_LAYOUT_CSA: bvt_bgemm_csa(call, row0, row1); break;
    case BVT_LAYOUT_TBL2: bvt_bgemm_tbl2(call, row0, row1); break;
    case BVT_LAYOUT_LUT: bvt_bgemm_lut(call, row0, row1); break;
    default: bgemm_lanes16(call, row0, row1);
    }
}

/* For cores that issue in order, which need another order of instructions. */
void bvt_bgemm_neon_in_order(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (call->in[1].layout == BVT_LAYOUT_CSA) bvt_bgemm_csa_in_order(call, row0, row1);
    else bvt_bgemm_neon(call, row0, row1);
}
