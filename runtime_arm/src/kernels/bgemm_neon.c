/* bgemm for NEON. A byte lane is an output channel: an activation byte is broadcast, xor and cnt give the differing bits of 16
 * channels, and no sum ever crosses lanes. A tile of R rows x T weight tiles (16 channels each) keeps its u8 counters in registers;
 * they hold up to 255, so at the latest after 31 steps (248 bits) they go into the i32 output.
 */
#include <arm_neon.h>

#include "../internal.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST_STEPS 31u

/* y = (first ? k : y) - 2*count, for the first n of 16 channels. */
INLINE void flush(int32_t *y, uint8x16_t count, bool first, int32_t k, unsigned n) {
    int32_t part[16];
    int32_t *to = n == 16 ? y : part;
    if (n < 16 && !first) memcpy(part, y, n * sizeof *y);
    if (n < 16 && first) memset(part, 0, sizeof part);
    const uint16x8_t twice[2] = {vshll_n_u8(vget_low_u8(count), 1), vshll_n_u8(vget_high_u8(count), 1)};
    for (int i = 0; i < 2; i++) {
        int32x4_t low = first ? vdupq_n_s32(k) : vld1q_s32(to + 8 * i), high = first ? low : vld1q_s32(to + 8 * i + 4);
        low = vreinterpretq_s32_u32(vsubw_u16(vreinterpretq_u32_s32(low), vget_low_u16(twice[i])));
        high = vreinterpretq_s32_u32(vsubw_high_u16(vreinterpretq_u32_s32(high), twice[i]));
        vst1q_s32(to + 8 * i, low);
        vst1q_s32(to + 8 * i + 4, high);
    }
    if (n < 16) memcpy(y, part, n * sizeof *y);
}

/* Rows row .. row+R-1, channels 16*tile .. 16*(tile+T)-1; with T = 1 only the first n of the 16 channels. */
INLINE void bgemm_tile(const bvt_call *call, uint32_t row, uint32_t tile, unsigned n, const unsigned R, const unsigned T) {
    const uint32_t k = call->in[0].cols, steps = (k + 7) / 8;
    const uint8_t *x[4], *w[4];
    int32_t *y[4];
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_bits(&call->in[0], row + r);
        y[r] = (int32_t *)bvt_row(&call->out[0], row + r) + 16 * (size_t)tile;
    }
    for (unsigned t = 0; t < T; t++) w[t] = call->in[1].base + (tile + t) * call->in[1].stride;
    for (uint32_t done = 0; done < steps;) {
        /* Chunks of 24 steps, which the loop of 8 divides, and a last one of up to 31. */
        const uint32_t chunk = steps - done <= MOST_STEPS ? steps - done : 24;
        uint8x16_t count[4][4];
        for (unsigned r = 0; r < R; r++)
            for (unsigned t = 0; t < T; t++) count[r][t] = vdupq_n_u8(0);
        uint32_t s = 0;
#define STEP(lane)                                                                                                      \
    do {                                                                                                                \
        uint8x16_t weight[4];                                                                                           \
        for (unsigned t = 0; t < T; t++) weight[t] = vld1q_u8(w[t] + 16 * (lane));                                      \
        for (unsigned r = 0; r < R; r++) {                                                                              \
            const uint8x16_t byte = vdupq_lane_u8(bytes[r], lane);                                                      \
            for (unsigned t = 0; t < T; t++) count[r][t] = vaddq_u8(count[r][t], vcntq_u8(veorq_u8(byte, weight[t]))); \
        }                                                                                                               \
    } while (0)
        for (; s + 8 <= chunk; s += 8) {
            uint8x8_t bytes[4];
            for (unsigned r = 0; r < R; r++) bytes[r] = vld1_u8(x[r] + done + s);
            STEP(0); STEP(1); STEP(2); STEP(3);
            STEP(4); STEP(5); STEP(6); STEP(7);
            for (unsigned t = 0; t < T; t++) w[t] += 128;
        }
        for (; s < chunk; s++) {
            uint8x8_t bytes[4];
            for (unsigned r = 0; r < R; r++) bytes[r] = vld1_dup_u8(x[r] + done + s);
            STEP(0);
            for (unsigned t = 0; t < T; t++) w[t] += 16;
        }
#undef STEP
        for (unsigned r = 0; r < R; r++)
            for (unsigned t = 0; t < T; t++) flush(y[r] + 16 * t, count[r][t], done == 0, (int32_t)k, T == 1 ? n : 16);
        done += chunk;
    }
}

INLINE void bgemm_rows(const bvt_call *call, uint32_t row, const unsigned R) {
    const uint32_t outputs = call->out[0].cols, whole = outputs / 16;
    uint32_t tile = 0;
    for (; tile + 4 <= whole; tile += 4) bgemm_tile(call, row, tile, 16, R, 4);
    for (; tile < whole; tile++) bgemm_tile(call, row, tile, 16, R, 1);
    if (outputs % 16) bgemm_tile(call, row, tile, outputs % 16, R, 1);
}

void bvt_bgemm_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    uint32_t row = row0;
    for (; row + 4 <= row1; row += 4) bgemm_rows(call, row, 4);
    for (; row < row1; row++) bgemm_rows(call, row, 1);
}
