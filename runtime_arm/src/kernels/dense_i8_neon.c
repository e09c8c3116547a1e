/* dense_i8 by SMULL, SMLAL and SADALP, which every core has: 3 operations for 16 products. A 16-bit lane takes two products
 * before it is added to 32 bits (2 * 127 * 128 < 2^15), one of each step of a pair; so a lane of 32 bits holds half a channel,
 * and an ADDP at the end makes it whole. Operands have 64 bits: loads of those take one slot of an A72 instead of two. Codes lie
 * twice in scratch, since a register holds the same 4 columns of two channels. */
#define I8_COPIES 2u
#define I8_ROWS 8u
#define I8_CHANNELS 8u
#if defined(__aarch64__)
#define I8_TILE 4u
#else
#define I8_TILE 2u /* half the registers */
#endif
#include "dense_i8_neon.h"

INLINE void i8_tile(int32_t sums[I8_TILE][I8_CHANNELS], const int8_t *const codes[I8_TILE], const int8_t *weight, uint32_t pairs) {
    int32x4_t acc[I8_TILE][4];
    for (unsigned r = 0; r < I8_TILE; r++)
        for (unsigned h = 0; h < 4; h++) acc[r][h] = vdupq_n_s32(0);
    for (uint32_t p = 0; p < pairs; p++, weight += 128) {
        int8x8_t w[2][4];
        for (unsigned h = 0; h < 4; h++) w[0][h] = vld1_s8(weight + 8 * h), w[1][h] = vld1_s8(weight + 64 + 8 * h);
        for (unsigned r = 0; r < I8_TILE; r++) {
            const int8x8_t first = vld1_s8(codes[r] + 16 * p), second = vld1_s8(codes[r] + 16 * p + 8);
            for (unsigned h = 0; h < 4; h++)
                acc[r][h] = vpadalq_s16(acc[r][h], vmlal_s8(vmull_s8(first, w[0][h]), second, w[1][h]));
            I8_IN_ORDER(acc[r]);
        }
    }
    for (unsigned r = 0; r < I8_TILE; r++)
        for (unsigned h = 0; h < 4; h++) vst1_s32(sums[r] + 2 * h, vpadd_s32(vget_low_s32(acc[r][h]), vget_high_s32(acc[r][h])));
}

#if defined(__aarch64__)
void bvt_dense_i8_neon(const bvt_call *call, uint32_t row0, uint32_t row1) { i8_rows(call, row0, row1); }
#else
void bvt_dense_i8_armv7(const bvt_call *call, uint32_t row0, uint32_t row1) { i8_rows(call, row0, row1); }
#endif
