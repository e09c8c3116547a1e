/* What the NEON kernels of bgemm share: reading rows as words, and adding counts to the output. */
#ifndef BVT_KERNELS_BGEMM_NEON_H
#define BVT_KERNELS_BGEMM_NEON_H
#include <arm_neon.h>

#include "../ops/bgemm.h"

#define INLINE static inline __attribute__((always_inline))

/* Of the layouts other than LANES16; as a bvt_kernel. */
void bvt_bgemm_csa(const bvt_call *call, uint32_t row0, uint32_t row1);
void bvt_bgemm_csa_in_order(const bvt_call *call, uint32_t row0, uint32_t row1);
void bvt_bgemm_tbl2(const bvt_call *call, uint32_t row0, uint32_t row1);
void bvt_bgemm_lut(const bvt_call *call, uint32_t row0, uint32_t row1);

/* Word i of a row of `bytes` bytes: its columns 60*i .. 60*i+59, zero beyond its end; the 4 highest bits may be anything. */
static inline uint64_t bvt_word(const uint8_t *row, size_t bytes, size_t i) {
    const size_t at = i * BVT_WORD / 8;
    uint64_t word = 0;
    if (at + 8 <= bytes) memcpy(&word, row + at, 8);
    else if (at < bytes) memcpy(&word, row + at, bytes - at);
    return word >> i * BVT_WORD % 8;
}

/* The part of the output that a tile of weights makes for some rows. Where the tile has channels or rows that the output has not,
 * it is a copy, so that kernels always write whole tiles. */
#define TARGET_ROWS 4
typedef struct {
    int32_t *y[TARGET_ROWS];
    int32_t copy[TARGET_ROWS][64];
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
        int32_t *y = (int32_t *)bvt_row(&call->out[0], row + r) + col;
        if (!t->copied) t->y[r] = y;
        else if (!first) memcpy(t->copy[r], y, t->cols * sizeof *y);
    }
}

INLINE void target_end(const target *t, const bvt_call *call, uint32_t row, uint32_t col) {
    if (!t->copied) return;
    for (uint32_t r = 0; r < t->rows; r++)
        memcpy((int32_t *)bvt_row(&call->out[0], row + r) + col, t->copy[r], t->cols * sizeof(int32_t));
}

/* y = (first ? k : y) - twice, of 16 channels. */
INLINE void subtract(int32_t *y, uint16x8_t twice_low, uint16x8_t twice_high, bool first, int32_t k) {
    const uint16x8_t twice[2] = {twice_low, twice_high};
    for (int i = 0; i < 2; i++) {
        int32x4_t a = first ? vdupq_n_s32(k) : vld1q_s32(y + 8 * i), b = first ? a : vld1q_s32(y + 8 * i + 4);
        a = vreinterpretq_s32_u32(vsubw_u16(vreinterpretq_u32_s32(a), vget_low_u16(twice[i])));
        b = vreinterpretq_s32_u32(vsubw_high_u16(vreinterpretq_u32_s32(b), twice[i]));
        vst1q_s32(y + 8 * i, a);
        vst1q_s32(y + 8 * i + 4, b);
    }
}

/* y = (first ? k : y) - 2*count, of 16 channels. */
INLINE void subtract_twice(int32_t *y, uint8x16_t count, bool first, int32_t k) {
    subtract(y, vshll_n_u8(vget_low_u8(count), 1), vshll_high_n_u8(count, 1), first, k);
}

#endif
