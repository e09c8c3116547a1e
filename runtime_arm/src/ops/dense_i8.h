/* What the kernels of `dense_i8` share. */
#ifndef BVT_OPS_DENSE_I8_H
#define BVT_OPS_DENSE_I8_H
#include "../internal.h"
#include "../numerics.h"

#define BVT_I8_MOST_COLUMNS (1u << 17) /* K * 127 * 128 < 2^31 */

/* Codes of a row in scratch, which kernels read to a multiple of 16: zeros behind the columns. */
static inline size_t bvt_i8_padded(uint32_t cols) { return ((size_t)cols + 15) & ~(size_t)15; }
/* Bytes of scratch: 16 rows of codes, or 8 rows in a form of two bytes a code. A multiple of 64. */
static inline uint64_t bvt_i8_scratch(uint32_t cols) { return 16 * (uint64_t)bvt_i8_padded(cols); }

/* 127/m, or 0 where the row's codes are all 0. */
static inline float bvt_i8_inverse(float m) {
    const float inverse = 127.0f / m;
    return isfinite(m) && isfinite(inverse) ? inverse : 0.0f;
}

/* The code of an element whose row has an inverse that is not 0: a float of the size of 1.5*2^23 is a whole number, and its lowest
 * byte is that of the number that was added. */
static inline int8_t bvt_i8_code(float x, float inverse) {
    const float sum = bvt_fma(x, inverse, 0x1.8p23f);
    uint32_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return (int8_t)(uint8_t)bits;
}

/* The largest magnitude, or a NaN where one is there: as integers, magnitudes have the order of their values, a NaN above all. */
static inline float bvt_i8_magnitude(const float *x, uint32_t n) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7FFFFFFF;
        most = bits > most ? bits : most;
    }
    float m;
    memcpy(&m, &most, sizeof m);
    return m;
}

/* dense_i8_row_neon.c: the codes of a row, each 4 of them `copies` times (1 or 2), with zeros to a multiple of 16; returns the
 * step. */
float bvt_i8_row_neon(int8_t *codes, const float *x, uint32_t cols, uint32_t copies);

/* An output. */
static inline float bvt_i8_output(int32_t acc, float step, float scale, const float *bias) {
    const float y = (float)acc * (step * scale);
    return bias ? y + *bias : y;
}

#endif
