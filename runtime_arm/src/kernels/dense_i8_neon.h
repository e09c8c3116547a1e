/* dense_i8 over NEON, of 64 and of 32 bits. Rows are quantised into scratch I8_ROWS at a time and then meet the weights in tiles of
 * I8_TILE rows x I8_CHANNELS channels. Where rows or channels are missing to a whole tile, it is computed all the same. The file that
 * includes this one says how often each 4 codes lie in scratch (I8_COPIES) and what a tile does:
 *     i8_tile(sums, codes, weight, pairs)
 * adds up `pairs` pairs of steps of 4 columns, from `weight`, which has 128 bytes a pair. */
#include <arm_neon.h>

#include "../ops/dense_i8.h"

#define INLINE static inline __attribute__((always_inline))

/* Keeps the rows of a tile apart: GCC 12 else mixes them and runs out of registers. */
#define I8_IN_ORDER(v) __asm__ volatile("" : "+w"((v)[0]), "+w"((v)[1]), "+w"((v)[2]), "+w"((v)[3]))

INLINE void i8_tile(int32_t sums[I8_TILE][I8_CHANNELS], const int8_t *const codes[I8_TILE], const int8_t *weight, uint32_t pairs);

INLINE void i8_outputs(float y[I8_CHANNELS], const int32_t *sums, float step, const float *scale, const float *bias) {
#if defined(__aarch64__)
    for (unsigned c = 0; c < I8_CHANNELS; c += 4) {
        const float32x4_t factor = vmulq_n_f32(vld1q_f32(scale + c), step);
        vst1q_f32(y + c, vaddq_f32(vmulq_f32(vcvtq_f32_s32(vld1q_s32(sums + c)), factor), vld1q_f32(bias + c)));
    }
#else /* NEON flushes subnormals to zero there */
    for (unsigned c = 0; c < I8_CHANNELS; c++) y[c] = bvt_i8_output(sums[c], step, scale[c], bias + c);
#endif
}

INLINE void i8_rows(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t cols = call->in[0].cols, outputs = call->out[0].cols;
    const size_t line = I8_COPIES * bvt_i8_padded(cols);
    int8_t *const scratch = call->scratch;
    for (uint32_t first = row0; first < row1; first += I8_ROWS) {
        const uint32_t rows = bvt_min_u32(I8_ROWS, row1 - first);
        float step[I8_ROWS];
        for (uint32_t r = 0; r < rows; r++)
            step[r] = bvt_i8_row_neon(scratch + r * line, bvt_row_f32(&call->in[0], first + r), cols, I8_COPIES);
        for (uint32_t o = 0; o < outputs; o += I8_CHANNELS) {
            const uint32_t channels = bvt_min_u32(I8_CHANNELS, outputs - o);
            const int8_t *weight = (const int8_t *)call->in[1].base + o / 16 * call->in[1].stride + o % 16 * 4;
            float scale[I8_CHANNELS] = {0}, bias[I8_CHANNELS];
            memcpy(scale, bvt_row_f32(&call->in[2], 0) + o, channels * sizeof *scale);
            for (unsigned c = 0; c < I8_CHANNELS; c++) bias[c] = -0.0f; /* which changes nothing that it is added to */
            if (call->in[3].base) memcpy(bias, bvt_row_f32(&call->in[3], 0) + o, channels * sizeof *bias);
            for (uint32_t r = 0; r < rows; r += I8_TILE) {
                const int8_t *codes[I8_TILE];
                int32_t sums[I8_TILE][I8_CHANNELS];
                for (unsigned i = 0; i < I8_TILE; i++) codes[i] = scratch + bvt_min_u32(r + i, rows - 1) * line;
                i8_tile(sums, codes, weight, (cols + 7) / 8);
#pragma GCC unroll 1 /* the tile is what takes time */
                for (uint32_t i = r; i < bvt_min_u32(r + I8_TILE, rows); i++) {
                    float rest[I8_CHANNELS], *const y = (float *)bvt_row(&call->out[0], first + i) + o;
                    uint32_t n = channels;
                    __asm__("" : "+r"(n)); /* GCC else makes a loop for each case */
                    i8_outputs(n == I8_CHANNELS ? y : rest, sums[i - r], step[i], scale, bias);
                    if (n != I8_CHANNELS) memcpy(y, rest, n * sizeof *y);
                }
            }
        }
    }
}
