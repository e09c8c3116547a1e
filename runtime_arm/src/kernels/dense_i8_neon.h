/* dense_i8 over NEON, of 64 and of 32 bits. Rows are quantised into scratch I8_ROWS at a time and then meet the weights in tiles of
 * I8_TILE rows x 4*I8_QUADS channels. Where rows or channels are missing to a whole tile, it is computed all the same. The file that
 * includes this one says how codes are laid out (I8_COPIES) and what a tile does:
 *     i8_tile(sums[I8_TILE][I8_QUADS], codes[I8_TILE], weight, pairs)
 * adds up `pairs` pairs of steps of 4 columns, from `weight`, which has 128 bytes a pair. */
#include <arm_neon.h>

#include "../ops/dense_i8.h"

#define INLINE static inline __attribute__((always_inline))

/* Keeps the rows of a tile apart: GCC 12 else mixes them and runs out of registers. */
#define I8_IN_ORDER(v) __asm__ volatile("" : "+w"((v)[0]), "+w"((v)[1]), "+w"((v)[2]), "+w"((v)[3]))

INLINE void i8_tile(int32x4_t sums[I8_TILE][I8_QUADS], const int8_t *const codes[I8_TILE], const int8_t *weight, uint32_t pairs);

#if defined(__aarch64__)
/* 16 columns. */
INLINE void i8_quantise(int8_t *to, const float *x, float32x4_t inverse) {
    static const float whole[4] = {0x1.8p23f, 0x1.8p23f, 0x1.8p23f, 0x1.8p23f};
    uint16x8_t part[4], half[2];
    for (unsigned i = 0; i < 4; i++) { /* an addend is overwritten: a load is cheaper than a move */
        const float *base = whole;
        __asm__("" : "+r"(base));
        part[i] = vreinterpretq_u16_f32(vfmaq_f32(vld1q_f32(base), vld1q_f32(x + 4 * i), inverse));
    }
    for (unsigned i = 0; i < 2; i++) half[i] = vuzp1q_u16(part[2 * i], part[2 * i + 1]);
    const int8x16_t codes = vreinterpretq_s8_u8(vuzp1q_u8(vreinterpretq_u8_u16(half[0]), vreinterpretq_u8_u16(half[1])));
    if (I8_COPIES == 1) vst1q_s8(to, codes);
    else {
        const int32x4_t quads = vreinterpretq_s32_s8(codes);
        vst1q_s8(to, vreinterpretq_s8_s32(vzip1q_s32(quads, quads)));
        vst1q_s8(to + 16, vreinterpretq_s8_s32(vzip2q_s32(quads, quads)));
    }
}

INLINE float i8_magnitude(const float *x, uint32_t cols) {
    uint32x4_t most[4];
    for (unsigned i = 0; i < 4; i++) most[i] = vdupq_n_u32(0);
    const float *const end = x + cols / 16 * 16;
    for (; x != end; x += 16) {
        for (unsigned i = 0; i < 4; i++) most[i] = vmaxq_u32(most[i], vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + 4 * i))));
        I8_IN_ORDER(most);
    }
    float parts[5];
    vst1q_f32(parts, vreinterpretq_f32_u32(vmaxq_u32(vmaxq_u32(most[0], most[1]), vmaxq_u32(most[2], most[3]))));
    parts[4] = bvt_i8_magnitude(x, cols % 16);
    return bvt_i8_magnitude(parts, 5);
}
#else
/* NEON of 32-bit ARM flushes subnormals to zero, so floats are scalars. */
INLINE void i8_quantise(int8_t *to, const float *x, float32x4_t inverse) {
    for (unsigned k = 0; k < 16; k++)
        for (unsigned copy = 0; copy < I8_COPIES; copy++)
            to[k / 4 * 4 * I8_COPIES + 4 * copy + k % 4] = bvt_i8_code(x[k], vgetq_lane_f32(inverse, 0));
}
#define i8_magnitude bvt_i8_magnitude
#endif

/* The codes of a row, `padded` of them, each quad I8_COPIES times, and the row's step. */
INLINE float i8_row(int8_t *codes, const float *x, uint32_t cols) {
    const float m = i8_magnitude(x, cols), inverse = bvt_i8_inverse(m);
    if (inverse == 0) memset(codes, 0, I8_COPIES * bvt_i8_padded(cols));
    else {
        const float32x4_t factor = vdupq_n_f32(inverse);
        for (uint32_t k = 0; k < cols; k += 16) {
            float rest[16] = {0};
            const bool whole = k + 16 <= cols;
            if (!whole) memcpy(rest, x + k, (cols - k) * sizeof *rest);
            i8_quantise(codes + I8_COPIES * k, whole ? x + k : rest, factor);
        }
    }
    return m / 127.0f;
}

/* The outputs of a row of a tile, n of 4*I8_QUADS channels. */
INLINE void i8_outputs(float *y, const int32x4_t sums[I8_QUADS], float step, const float *scale, const float *bias, uint32_t n) {
#if defined(__aarch64__)
    if (n >= 4 * I8_QUADS) {
        for (unsigned q = 0; q < I8_QUADS; q++) {
            float32x4_t v = vmulq_f32(vcvtq_f32_s32(sums[q]), vmulq_n_f32(vld1q_f32(scale + 4 * q), step));
            if (bias) v = vaddq_f32(v, vld1q_f32(bias + 4 * q));
            vst1q_f32(y + 4 * q, v);
        }
        return;
    }
#endif
    int32_t acc[4 * I8_QUADS];
    for (unsigned q = 0; q < I8_QUADS; q++) vst1q_s32(acc + 4 * q, sums[q]);
    for (unsigned i = 0; i < bvt_min_u32(n, 4 * I8_QUADS); i++)
        y[i] = bvt_i8_output(acc[i], step, scale[i], bias ? bias + i : NULL);
}

INLINE void i8_rows(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t cols = call->in[0].cols, outputs = call->out[0].cols;
    const size_t line = I8_COPIES * bvt_i8_padded(cols);
    const float *scale = bvt_row_f32(&call->in[2], 0), *bias = call->in[3].base ? bvt_row_f32(&call->in[3], 0) : NULL;
    for (uint32_t first = row0; first < row1; first += I8_ROWS) {
        const uint32_t rows = bvt_min_u32(I8_ROWS, row1 - first);
        float step[I8_ROWS];
        for (uint32_t r = 0; r < rows; r++)
            step[r] = i8_row((int8_t *)call->scratch + r * line, bvt_row_f32(&call->in[0], first + r), cols);
        for (uint32_t o = 0; o < outputs; o += 4 * I8_QUADS) {
            const int8_t *weight = (const int8_t *)call->in[1].base + o / 16 * call->in[1].stride + o % 16 * 4;
            for (uint32_t r = 0; r < rows; r += I8_TILE) {
                const int8_t *codes[I8_TILE];
                int32x4_t sums[I8_TILE][I8_QUADS];
                for (unsigned i = 0; i < I8_TILE; i++)
                    codes[i] = (const int8_t *)call->scratch + bvt_min_u32(r + i, rows - 1) * line;
                i8_tile(sums, codes, weight, (cols + 7) / 8);
                for (unsigned i = 0; i < I8_TILE && r + i < rows; i++)
                    i8_outputs((float *)bvt_row(&call->out[0], first + r + i) + o, sums[i], step[r + i], scale + o,
                               bias ? bias + o : NULL, outputs - o);
            }
        }
    }
}
