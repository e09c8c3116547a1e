/* bgemm for NEON as 32-bit ARM has it: the kernel of bgemm_neon.c with half the registers, for layout LANES16, which every other
 * layout becomes when a file is opened here. A tile is 4 rows x 2 weight tiles of 16 channels: 8 counters, 2 weights, and the rows'
 * next 8 bytes.
 *
 * Only integers: NEON of 32-bit ARM flushes subnormal floats to zero whatever the FPSCR says, so that floats are for VFP alone.
 */
#define WIDE 2u
#include "bgemm_lanes16_neon.h"

/* 4 rows x 2 tiles. The counters are 8 variables and an empty asm follows each step, or GCC 12 spills them (bgemm_neon.c). */
static void bgemm_wide(const bvt_call *call, uint32_t row, uint32_t tile) {
    const uint32_t k = call->in[1].cols, steps = (k + 7) / 8;
    const size_t w_stride = call->in[1].stride, at = bvt_bgemm_segment(call, tile);
    const uint8_t *x0 = bvt_row_bits(&call->in[0], row) + at, *x1 = bvt_row_bits(&call->in[0], row + 1) + at;
    const uint8_t *x2 = bvt_row_bits(&call->in[0], row + 2) + at, *x3 = bvt_row_bits(&call->in[0], row + 3) + at;
    const uint8_t *w0 = call->in[1].base + tile * w_stride, *w1 = w0 + w_stride;
    for (uint32_t done = 0; done < steps;) {
        const uint32_t chunk = chunk_steps(steps - done);
        uint32_t s = 0;
#define ROWS(X) X(0) X(1) X(2) X(3)
#define DECLARE(r) uint8x16_t c##r##0 = vdupq_n_u8(0), c##r##1 = c##r##0;
#define COUNT(r, byte)                                           \
    {                                                            \
        const uint8x16_t b = byte;                               \
        c##r##0 = vaddq_u8(c##r##0, vcntq_u8(veorq_u8(b, v0)));  \
        c##r##1 = vaddq_u8(c##r##1, vcntq_u8(veorq_u8(b, v1)));  \
        __asm__ volatile("" : "+w"(c##r##0), "+w"(c##r##1));     \
    }
#define STEP(lane)                                                            \
    {                                                                         \
        const uint8x16_t v0 = vld1q_u8(w0), v1 = vld1q_u8(w1);                \
        COUNT(0, vdupq_lane_u8(a0, lane)) COUNT(1, vdupq_lane_u8(a1, lane))   \
        COUNT(2, vdupq_lane_u8(a2, lane)) COUNT(3, vdupq_lane_u8(a3, lane))   \
        w0 += 16, w1 += 16;                                                   \
    }
#define FLUSH(r)                                                                       \
    {                                                                                  \
        int16_t *y = (int16_t *)bvt_row(&call->out[0], row + (r)) + 16 * (size_t)tile; \
        flush(y, c##r##0, done == 0, (int32_t)k, 16);                                  \
        flush(y + 16, c##r##1, done == 0, (int32_t)k, 16);                             \
    }
        ROWS(DECLARE)
        for (; s + 8 <= chunk; s += 8) {
            const uint8x8_t a0 = load8(x0), a1 = load8(x1), a2 = load8(x2), a3 = load8(x3);
            STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
            x0 += 8, x1 += 8, x2 += 8, x3 += 8;
        }
        for (; s < chunk; s++) {
            const uint8x8_t a0 = vld1_dup_u8(x0++), a1 = vld1_dup_u8(x1++), a2 = vld1_dup_u8(x2++), a3 = vld1_dup_u8(x3++);
            STEP(0)
        }
        ROWS(FLUSH)
        done += chunk;
#undef ROWS
#undef DECLARE
#undef COUNT
#undef STEP
#undef FLUSH
    }
}

/* Trits: 2 rows x 2 tiles, where the second plane masks what differs. */
static void bgemm_trits_wide(const bvt_call *call, uint32_t row, uint32_t tile, const int32_t ones[2]) {
    const uint32_t steps = (call->in[1].cols + 7) / 8;
    const size_t w_stride = call->in[1].stride, at = bvt_bgemm_segment(call, tile), plane = bvt_plane(call->in[0].cols);
    const uint8_t *x0 = bvt_row_bits(&call->in[0], row) + at, *x1 = bvt_row_bits(&call->in[0], row + 1) + at;
    const uint8_t *w0 = call->in[1].base + tile * w_stride, *w1 = w0 + w_stride;
    for (uint32_t done = 0; done < steps;) {
        const uint32_t chunk = chunk_steps(steps - done);
        uint32_t s = 0;
        uint8x16_t c00 = vdupq_n_u8(0), c01 = c00, c10 = c00, c11 = c00;
#define COUNT(r, sign, some)                                                   \
    {                                                                          \
        const uint8x16_t b = sign, m = some;                                   \
        c##r##0 = vaddq_u8(c##r##0, vcntq_u8(vandq_u8(veorq_u8(b, v0), m)));   \
        c##r##1 = vaddq_u8(c##r##1, vcntq_u8(vandq_u8(veorq_u8(b, v1), m)));   \
        __asm__ volatile("" : "+w"(c##r##0), "+w"(c##r##1));                   \
    }
#define STEP(lane)                                                    \
    {                                                                 \
        const uint8x16_t v0 = vld1q_u8(w0), v1 = vld1q_u8(w1);        \
        COUNT(0, vdupq_lane_u8(a0, lane), vdupq_lane_u8(m0, lane))    \
        COUNT(1, vdupq_lane_u8(a1, lane), vdupq_lane_u8(m1, lane))    \
        w0 += 16, w1 += 16;                                           \
    }
#define FLUSH(r)                                                                       \
    {                                                                                  \
        int16_t *y = (int16_t *)bvt_row(&call->out[0], row + (r)) + 16 * (size_t)tile; \
        flush(y, c##r##0, done == 0, ones[r], 16);                                     \
        flush(y + 16, c##r##1, done == 0, ones[r], 16);                                \
    }
        for (; s + 8 <= chunk; s += 8) {
            const uint8x8_t a0 = load8(x0), a1 = load8(x1), m0 = load8(x0 + plane), m1 = load8(x1 + plane);
            STEP(0) STEP(1) STEP(2) STEP(3) STEP(4) STEP(5) STEP(6) STEP(7)
            x0 += 8, x1 += 8;
        }
        for (; s < chunk; s++) {
            const uint8x8_t a0 = vld1_dup_u8(x0), a1 = vld1_dup_u8(x1), m0 = vld1_dup_u8(x0 + plane), m1 = vld1_dup_u8(x1 + plane);
            STEP(0)
            x0++, x1++;
        }
        FLUSH(0) FLUSH(1)
        done += chunk;
#undef COUNT
#undef STEP
#undef FLUSH
    }
}

void bvt_bgemm_armv7(const bvt_call *call, uint32_t row0, uint32_t row1) { bgemm_lanes16(call, row0, row1); }
