/* dense_i8 by SDOT, which cores of ARMv8.2 mostly have (asimddp): an operation for 16 products. A lane of 32 bits is a channel, and
 * the row's 4 columns are an element of its register. */
#include <arm_neon.h>

#include "../internal.h"

/* Not by -march, which would contradict the -mcpu of a board's flags. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#define I8_COPIES 1u
#define I8_ROWS 16u
#define I8_TILE 4u
#define I8_CHANNELS 16u
#include "dense_i8_neon.h"

#define SDOT(acc, w, x, lane) __asm__("sdot %0.4s, %1.16b, %2.4b[" #lane "]" : "+w"(acc) : "w"(w), "w"(x))

INLINE void i8_tile(int32_t sums[I8_TILE][I8_CHANNELS], const int8_t *const codes[I8_TILE], const int8_t *weight, uint32_t pairs) {
    int32x4_t acc[I8_TILE][4];
    for (unsigned r = 0; r < I8_TILE; r++)
        for (unsigned q = 0; q < 4; q++) acc[r][q] = vdupq_n_s32(0);
    for (uint32_t p = 0; p < pairs; p++, weight += 128) {
        int8x16_t w[2][4];
        for (unsigned q = 0; q < 4; q++) w[0][q] = vld1q_s8(weight + 16 * q), w[1][q] = vld1q_s8(weight + 64 + 16 * q);
        for (unsigned r = 0; r < I8_TILE; r++) {
            const int8x8_t x = vld1_s8(codes[r] + 8 * p);
            for (unsigned q = 0; q < 4; q++) SDOT(acc[r][q], w[0][q], x, 0);
            for (unsigned q = 0; q < 4; q++) SDOT(acc[r][q], w[1][q], x, 1);
            I8_IN_ORDER(acc[r]);
        }
    }
    for (unsigned r = 0; r < I8_TILE; r++)
        for (unsigned q = 0; q < 4; q++) vst1q_s32(sums[r] + 4 * q, acc[r][q]);
}

void bvt_dense_i8_dotprod(const bvt_call *call, uint32_t row0, uint32_t row1) { i8_rows(call, row0, row1); }

#if defined(__clang__)
#pragma clang attribute pop
#endif
