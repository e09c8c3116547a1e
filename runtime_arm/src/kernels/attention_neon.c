/* attention for NEON: in the plain form 16 queries at a time, a byte lane each; other forms go to attention_general.h.
 *
 * As in bgemm no sum crosses lanes: a key byte is broadcast against the 16 queries' bytes, and a value byte against the 16 queries'
 * masks. Minimum, subtraction, threshold and the packing of masks are one instruction for 16 queries; only the table sum is scalar.
 * Counters are u8, so heads have at most 248 bits here; wider ones and heads of broken bytes go row by row. Scores and masks of 16
 * queries are on the stack for up to STACK_KEYS keys; with more keys they need scratch, and without it it goes row by row.
 */
#include <arm_neon.h>

#include "attention_rows.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST_BYTES 31u   /* 8 * 31 <= 255 */
#define STACK_KEYS 1024u /* 18 KiB, little enough for the smallest stacks that threads have (musl: 128 KiB) */

/* score[j][lane] = popcount(q_lane xor k_j); returns the least of every lane. `q` is [bytes][16]. */
INLINE uint8x16_t lane_scores(uint8_t *score, const uint8_t *q, const uint8_t *k, size_t k_stride, uint32_t m,
                              const uint32_t bytes) {
    uint8x16_t least = vdupq_n_u8(255);
    for (uint32_t j = 0; j < m; j++, k += k_stride) {
        uint8x16_t p = vdupq_n_u8(0);
        for (uint32_t b = 0; b < bytes; b++) p = vaddq_u8(p, vcntq_u8(veorq_u8(vld1q_u8(q + 16 * b), vld1q_dup_u8(k + b))));
        vst1q_u8(score + 16 * (size_t)j, p);
        least = vminq_u8(least, p);
    }
    return least;
}

/* z[lane] = sum_j table[score[j][lane]] for 4 lanes. */
INLINE void table_sums(uint64_t *z, const uint8_t *score, const uint64_t *table, uint32_t m) {
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (uint32_t j = 0; j < m; j++, score += 16) {
        uint32_t four;
        memcpy(&four, score, 4);
        a += table[four & 255];
        b += table[four >> 8 & 255];
        c += table[four >> 16 & 255];
        d += table[four >> 24];
    }
    z[0] = a, z[1] = b, z[2] = c, z[3] = d;
}

/* mask[j/8][lane] bit j%8 = score[j][lane] < bound[lane]; ones = set bits of every lane. */
INLINE void lane_masks(uint8_t *mask, uint16x8_t ones[2], const uint8_t *score, uint8x16_t bound, uint32_t m) {
    ones[0] = ones[1] = vdupq_n_u16(0);
    for (uint32_t j = 0; j < m; j += 8, mask += 16) {
        const uint32_t n = m - j < 8 ? m - j : 8;
        uint8x16_t bits = vdupq_n_u8(0), bit = vdupq_n_u8(1);
        for (uint32_t i = 0; i < n; i++, score += 16, bit = vshlq_n_u8(bit, 1))
            bits = vorrq_u8(bits, vandq_u8(vcltq_u8(vld1q_u8(score), bound), bit));
        vst1q_u8(mask, bits);
        const uint8x16_t count = vcntq_u8(bits);
        ones[0] = vaddw_u8(ones[0], vget_low_u8(count));
        ones[1] = vaddw_high_u8(ones[1], count);
    }
}

/* Rows of 4 channels: out[lane][0..3] = 2*count - ones for the lanes base .. base+7 that are there. */
INLINE void store_lanes(int32_t *out, size_t stride, unsigned base, unsigned lanes, const uint16x8_t count[4], uint16x8_t ones) {
    const uint32x4_t ab[2] = {vreinterpretq_u32_u16(vzip1q_u16(count[0], count[1])),
                              vreinterpretq_u32_u16(vzip2q_u16(count[0], count[1]))};
    const uint32x4_t cd[2] = {vreinterpretq_u32_u16(vzip1q_u16(count[2], count[3])),
                              vreinterpretq_u32_u16(vzip2q_u16(count[2], count[3]))};
    uint16_t minus[8];
    vst1q_u16(minus, ones);
    for (unsigned half = 0; half < 2; half++) {
        /* Each holds 4 channels of two lanes. */
        const uint16x8_t pair[2] = {vreinterpretq_u16_u32(vzip1q_u32(ab[half], cd[half])),
                                    vreinterpretq_u16_u32(vzip2q_u32(ab[half], cd[half]))};
        for (unsigned i = 0; i < 4; i++) {
            const unsigned lane = 4 * half + i;
            const uint16x4_t four = i % 2 ? vget_high_u16(pair[i / 2]) : vget_low_u16(pair[i / 2]);
            const int32x4_t result = vsubq_s32(vreinterpretq_s32_u32(vshll_n_u16(four, 1)), vdupq_n_s32(minus[lane]));
            if (base + lane < lanes) vst1q_s32((int32_t *)(void *)((uint8_t *)out + (base + lane) * stride), result);
        }
    }
}

/* out[lane][0..3] for 4 columns of v. */
INLINE void lane_context(int32_t *out, size_t out_stride, unsigned lanes, const uint8_t *mask, const uint8_t *v, size_t v_stride,
                         const uint16x8_t ones[2], uint32_t m) {
    const uint32_t steps = (m + 7) / 8;
    uint16x8_t low[4], high[4];
    for (int c = 0; c < 4; c++) low[c] = high[c] = vdupq_n_u16(0);
    for (uint32_t done = 0; done < steps;) {
        const uint32_t end = steps - done < MOST_BYTES ? steps : done + MOST_BYTES;
        uint8x16_t count[4];
        for (int c = 0; c < 4; c++) count[c] = vdupq_n_u8(0);
        for (uint32_t s = done; s < end; s++) {
            const uint8x16_t bits = vld1q_u8(mask + 16 * (size_t)s);
            for (int c = 0; c < 4; c++) count[c] = vaddq_u8(count[c], vcntq_u8(vandq_u8(bits, vld1q_dup_u8(v + c * v_stride + s))));
        }
        for (int c = 0; c < 4; c++) {
            low[c] = vaddw_u8(low[c], vget_low_u8(count[c]));
            high[c] = vaddw_high_u8(high[c], count[c]);
        }
        done = end;
    }
    store_lanes(out, out_stride, 0, lanes, low, ones[0]);
    store_lanes(out, out_stride, 8, lanes, high, ones[1]);
}

void bvt_attention_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t heads = (uint32_t)call->op->attr[0], d = call->in[0].cols / heads, bytes = d / 8, m = call->in[1].rows;
    _Alignas(64) uint8_t local[STACK_KEYS * 16 + STACK_KEYS / 8 * 16];
    const bool fits = m <= STACK_KEYS || (m <= 65535 && call->op->scratch >= bvt_attention_scratch16(m));
    if (!bvt_attention_plain(call) || d % 8 || bytes > MOST_BYTES || !fits) {
        attention_rows(call, row0, row1);
        return;
    }
    const bvt_view *k = &call->in[1], *v = &call->in[2];
    const double *limit = bvt_row(&call->in[4], 0);
    uint8_t *score = m <= STACK_KEYS ? local : call->scratch,
            *mask = score + (m <= STACK_KEYS ? STACK_KEYS * 16 : bvt_attention_mask16_at(m));
    for (uint32_t row = row0; row < row1; row += 16) {
        const unsigned lanes = row1 - row < 16 ? row1 - row : 16;
        for (uint32_t h = 0; h < heads; h++) {
            const uint64_t *table = bvt_attention_table(call, h);
            uint8_t q[MOST_BYTES * 16], bound[16];
            for (unsigned lane = 0; lane < 16; lane++) { /* lanes that are not there repeat the last one */
                const uint8_t *from = bvt_row_bits(&call->in[0], row + (lane < lanes ? lane : lanes - 1)) + h * bytes;
                for (uint32_t b = 0; b < bytes; b++) q[16 * b + lane] = from[b];
            }
            const uint8_t *keys = k->base + h * bytes;
            uint8x16_t low;
            switch (bytes) {
            case 2: low = lane_scores(score, q, keys, k->stride, m, 2); break;
            case 4: low = lane_scores(score, q, keys, k->stride, m, 4); break;
            case 8: low = lane_scores(score, q, keys, k->stride, m, 8); break;
            default: low = lane_scores(score, q, keys, k->stride, m, bytes);
            }
            for (uint32_t j = 0; j < m; j++) vst1q_u8(score + 16 * (size_t)j, vsubq_u8(vld1q_u8(score + 16 * (size_t)j), low));
            for (unsigned lane = 0; lane < 16; lane += 4) {
                uint64_t z[4];
                table_sums(z, score + lane, table, m);
                for (unsigned i = 0; i < 4; i++)
                    bound[lane + i] = (uint8_t)(bvt_attention_last(table, d, limit[h] * (double)z[i]) + 1);
            }
            uint16x8_t ones[2];
            lane_masks(mask, ones, score, vld1q_u8(bound), m);
            for (uint32_t c = h * d; c < h * d + d; c += 4)
                lane_context((int32_t *)bvt_row(&call->out[0], row) + c, call->out[0].stride, lanes, mask,
                             v->base + (size_t)c * v->stride, v->stride, ones, m);
        }
    }
}
