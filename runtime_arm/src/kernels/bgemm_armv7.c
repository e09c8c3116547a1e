/* bgemm for NEON as 32-bit ARM has it: bgemm_neon.c with half the registers, for layout LANES16, which every other layout becomes
 * when a file is opened here. A tile is 4 rows x 2 weight tiles of 16 channels: 8 counters, 2 weights, and the rows' next 8 bytes.
 *
 * Only integers: NEON of 32-bit ARM flushes subnormal floats to zero whatever the FPSCR says, so that floats are for VFP alone.
 */
#include <arm_neon.h>

#include "../ops/bgemm.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST_STEPS 31u /* a step adds at most 8 to a u8 counter */

/* Which steps a chunk has: 24, which the loops of 8 divide, and a last one of up to 31. */
INLINE uint32_t chunk_steps(uint32_t left) { return left <= MOST_STEPS ? left : 24; }

/* y = (first ? k : y) - 2*count, of 16 channels. */
INLINE void subtract_twice(int16_t *y, uint8x16_t count, bool first, int32_t k) {
    const uint8x8_t half[2] = {vget_low_u8(count), vget_high_u8(count)};
    for (int i = 0; i < 2; i++) {
        const uint16x8_t old = vreinterpretq_u16_s16(first ? vdupq_n_s16((int16_t)k) : vld1q_s16(y + 8 * i)); /* modulo 2^16 */
        vst1q_s16(y + 8 * i, vreinterpretq_s16_u16(vsubw_u8(vsubw_u8(old, half[i]), half[i])));
    }
}

/* The same for the first n of 16 channels. */
INLINE void flush(int16_t *y, uint8x16_t count, bool first, int32_t k, unsigned n) {
    int16_t part[16] = {0};
    if (n == 16) {
        subtract_twice(y, count, first, k);
        return;
    }
    if (!first) memcpy(part, y, n * sizeof *y);
    subtract_twice(part, count, first, k);
    memcpy(y, part, n * sizeof *y);
}

/* Eight bytes of a row in a register. The empty asm keeps GCC from loading every byte again by itself. */
INLINE uint8x8_t load8(const uint8_t *p) {
    uint8x8_t bytes = vld1_u8(p);
    __asm__("" : "+w"(bytes));
    return bytes;
}

/* 4 rows x 2 tiles. The counters are 8 variables and an empty asm follows each step, or GCC 12 spills them (bgemm_neon.c). */
static void bgemm_4x2(const bvt_call *call, uint32_t row, uint32_t tile) {
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
static void bgemm_trits_2x2(const bvt_call *call, uint32_t row, uint32_t tile, const int32_t ones[2]) {
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

/* R rows x one tile, of which the first n channels are there. */
INLINE void bgemm_column(const bvt_call *call, uint32_t row, uint32_t tile, unsigned n, const unsigned R, const int32_t *ones,
                         const bool trits) {
    const uint32_t k = call->in[1].cols, steps = (k + 7) / 8;
    const uint8_t *w = call->in[1].base + tile * call->in[1].stride, *x[4], *some[4] = {NULL};
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_bits(&call->in[0], row + r) + bvt_bgemm_segment(call, tile);
        if (trits) some[r] = x[r] + bvt_plane(call->in[0].cols);
    }
    for (uint32_t done = 0; done < steps;) {
        const uint32_t end = done + chunk_steps(steps - done);
        uint8x16_t count[4];
        for (unsigned r = 0; r < R; r++) count[r] = vdupq_n_u8(0);
        for (uint32_t s = done; s < end; s++) {
            const uint8x16_t weight = vld1q_u8(w + 16 * (size_t)s);
            for (unsigned r = 0; r < R; r++) {
                uint8x16_t differ = veorq_u8(vld1q_dup_u8(x[r] + s), weight);
                if (trits) differ = vandq_u8(differ, vld1q_dup_u8(some[r] + s));
                count[r] = vaddq_u8(count[r], vcntq_u8(differ));
            }
        }
        for (unsigned r = 0; r < R; r++) {
            int16_t *y = (int16_t *)bvt_row(&call->out[0], row + r) + 16 * (size_t)tile;
            flush(y, count[r], done == 0, trits ? ones[r] : (int32_t)k, n);
        }
        done = end;
    }
}

/* How many codes of a segment of `bytes` bytes are not 0. */
INLINE int32_t count_some(const uint8_t *some, uint32_t bytes) {
    uint32x4_t sum = vdupq_n_u32(0);
    uint32_t i = 0;
    for (; i + 16 <= bytes; i += 16) sum = vpadalq_u16(sum, vpaddlq_u8(vcntq_u8(vld1q_u8(some + i))));
    const uint64x2_t two = vpaddlq_u32(sum);
    return (int32_t)(vgetq_lane_u64(two, 0) + vgetq_lane_u64(two, 1)) + bvt_bgemm_ones(some + i, 8 * (bytes - i));
}

static void bgemm_trits(const bvt_call *call, uint32_t row0, uint32_t row1, bool by_two) {
    const uint32_t k = call->in[1].cols, groups = call->in[0].cols / k, outputs = call->out[0].cols / groups;
    for (uint32_t row = row0; row < row1; row += 2) {
        const unsigned rows = row1 - row < 2 ? 1 : 2;
        for (uint32_t first = 0; first < call->out[0].cols; first += outputs) {
            int32_t ones[2] = {0};
            for (unsigned r = 0; r < rows; r++) {
                const uint8_t *some = bvt_row_bits(&call->in[0], row + r) + bvt_plane(call->in[0].cols);
                ones[r] = count_some(some + bvt_bgemm_segment(call, first / 16), (k + 7) / 8);
            }
            uint32_t o = 0;
            for (; by_two && rows == 2 && o + 32 <= outputs; o += 32) bgemm_trits_2x2(call, row, (first + o) / 16, ones);
            for (; o < outputs; o += 16) {
                const unsigned n = bvt_min_u32(outputs - o, 16);
                if (rows == 2) bgemm_column(call, row, (first + o) / 16, n, 2, ones, true);
                else bgemm_column(call, row, (first + o) / 16, n, 1, ones, true);
            }
        }
    }
}

void bvt_bgemm_armv7(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t outputs = call->out[0].cols, whole = outputs / 16, groups = call->in[0].cols / call->in[1].cols;
    if (!bvt_bgemm_tiles(call)) {
        bvt_bgemm_ref(call, row0, row1);
        return;
    }
    /* Two tiles at a time must be of one segment. */
    const bool by_two = groups == 1 || outputs / groups % 32 == 0;
    if (call->in[0].dtype == BVT_DTYPE_TRITS) {
        bgemm_trits(call, row0, row1, by_two);
        return;
    }
    uint32_t row = row0;
    for (; row + 4 <= row1; row += 4) {
        uint32_t tile = 0;
        for (; by_two && tile + 2 <= whole; tile += 2) bgemm_4x2(call, row, tile);
        for (; tile < whole; tile++) bgemm_column(call, row, tile, 16, 4, NULL, false);
        if (outputs % 16) bgemm_column(call, row, tile, outputs % 16, 4, NULL, false);
    }
    for (; row < row1; row++) {
        for (uint32_t tile = 0; tile < whole; tile++) bgemm_column(call, row, tile, 16, 1, NULL, false);
        if (outputs % 16) bgemm_column(call, row, whole, outputs % 16, 1, NULL, false);
    }
}
