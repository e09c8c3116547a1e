/* What the NEON kernels of bgemm share: counting codes, and adding counts to the output. */
#ifndef BVT_KERNELS_BGEMM_NEON_H
#define BVT_KERNELS_BGEMM_NEON_H
#include <arm_neon.h>

#include "../ops/bgemm.h"

#define INLINE static inline __attribute__((always_inline))

#if !defined(__aarch64__) /* 32-bit ARM has no instructions on high halves */
#define vsubw_high_u8(wide, narrow) vsubw_u8(wide, vget_high_u8(narrow))
#endif

/* Of the layouts other than LANES16; as a bvt_kernel. */
void bvt_bgemm_csa(const bvt_call *call, uint32_t row0, uint32_t row1);
void bvt_bgemm_csa_in_order(const bvt_call *call, uint32_t row0, uint32_t row1);
void bvt_bgemm_tbl2(const bvt_call *call, uint32_t row0, uint32_t row1);
void bvt_bgemm_lut(const bvt_call *call, uint32_t row0, uint32_t row1);

/* How many codes of a segment of `bytes` bytes are not 0. */
INLINE int32_t count_some(const uint8_t *some, uint32_t bytes) {
    uint32x4_t sum = vdupq_n_u32(0);
    uint32_t i = 0;
    for (; i + 16 <= bytes; i += 16) sum = vpadalq_u16(sum, vpaddlq_u8(vcntq_u8(vld1q_u8(some + i))));
    const uint64x2_t two = vpaddlq_u32(sum);
    return (int32_t)(vgetq_lane_u64(two, 0) + vgetq_lane_u64(two, 1)) + bvt_bgemm_ones(some + i, 8 * (bytes - i));
}

/* The part of the output that a tile of weights makes for some rows. Where the tile has channels or rows that the output has not,
 * it is a copy, so that kernels always write whole tiles. */
#define TARGET_ROWS 4
typedef struct {
    int16_t *y[TARGET_ROWS];
    int16_t copy[TARGET_ROWS][64];
    uint32_t rows, cols;
    bool copied;
} target;

INLINE void target_begin(target *t, const bvt_call *call, uint32_t row, uint32_t rows, uint32_t col, uint32_t channels,
                         bool first) {
    const uint32_t left = call->out[0].cols - col;
    t->rows = rows, t->cols = bvt_min_u32(left, channels);
    t->copied = rows < TARGET_ROWS || left < channels;
    for (uint32_t r = 0; r < TARGET_ROWS; r++) t->y[r] = t->copy[r];
    if (t->copied && !first) memset(t->copy, 0, sizeof t->copy);
    for (uint32_t r = 0; r < rows; r++) {
        int16_t *y = (int16_t *)bvt_row(&call->out[0], row + r) + col;
        if (!t->copied) t->y[r] = y;
        else if (!first) memcpy(t->copy[r], y, t->cols * sizeof *y);
    }
}

INLINE void target_end(const target *t, const bvt_call *call, uint32_t row, uint32_t col) {
    if (!t->copied) return;
    for (uint32_t r = 0; r < t->rows; r++)
        memcpy((int16_t *)bvt_row(&call->out[0], row + r) + col, t->copy[r], t->cols * sizeof(int16_t));
}

/* y = (first ? k : y) - twice, of 16 channels. */
INLINE void subtract(int16_t *y, uint16x8_t twice_low, uint16x8_t twice_high, bool first, int32_t k) {
    const int16x8_t low = first ? vdupq_n_s16((int16_t)k) : vld1q_s16(y), high = first ? low : vld1q_s16(y + 8);
    vst1q_s16(y, vsubq_s16(low, vreinterpretq_s16_u16(twice_low)));
    vst1q_s16(y + 8, vsubq_s16(high, vreinterpretq_s16_u16(twice_high)));
}

/* y = (first ? k : y) - 2*count, of 16 channels. Two widening subtractions: shifts have one pipe only. */
INLINE void subtract_twice(int16_t *y, uint8x16_t count, bool first, int32_t k) {
    uint16x8_t low = vreinterpretq_u16_s16(first ? vdupq_n_s16((int16_t)k) : vld1q_s16(y));
    uint16x8_t high = first ? low : vreinterpretq_u16_s16(vld1q_s16(y + 8));
    low = vsubw_u8(vsubw_u8(low, vget_low_u8(count)), vget_low_u8(count));
    high = vsubw_high_u8(vsubw_high_u8(high, count), count);
    vst1q_s16(y, vreinterpretq_s16_u16(low));
    vst1q_s16(y + 8, vreinterpretq_s16_u16(high));
}

#endif
