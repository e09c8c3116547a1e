/* dense for 32-bit ARM: tiles of 4 rows x 4 outputs in the 32 registers of VFP, whose vfma keeps subnormals (NEON's does not). A
 * tile keeps its sums in registers while k runs upwards, so that every sum has the order of the definition. */
#include "../internal.h"
#include "../numerics.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows row .. row+R-1, outputs o .. o+O-1. */
INLINE void dense_tile(const bvt_call *call, uint32_t row, uint32_t o, const unsigned R, const unsigned O) {
    const uint32_t k_end = call->in[0].cols;
    const size_t stride = call->in[1].stride;
    const uint8_t *weight = call->in[1].base + (size_t)o * 4;
    const float *x[4];
    float acc[4][4] = {{0}};
    for (unsigned r = 0; r < R; r++) x[r] = bvt_row_f32(&call->in[0], row + r);
    for (uint32_t k = 0; k < k_end; k++, weight += stride) {
        const float *at = (const float *)(const void *)weight;
        float w[4];
        for (unsigned i = 0; i < O; i++) w[i] = at[i];
        for (unsigned r = 0; r < R; r++) {
            const float value = *x[r]++;
            for (unsigned i = 0; i < O; i++) acc[r][i] = bvt_fma(value, w[i], acc[r][i]);
        }
    }
    const float *bias = call->in[2].base ? bvt_row_f32(&call->in[2], 0) + o : NULL;
    for (unsigned r = 0; r < R; r++)
        for (unsigned i = 0; i < O; i++) ((float *)bvt_row(&call->out[0], row + r))[o + i] = bias ? acc[r][i] + bias[i] : acc[r][i];
}

INLINE void dense_rows(const bvt_call *call, uint32_t row, const unsigned R) {
    const uint32_t outputs = call->out[0].cols;
    uint32_t o = 0;
    for (; o + 4 <= outputs; o += 4) dense_tile(call, row, o, R, 4);
    for (; o < outputs; o++) dense_tile(call, row, o, R, 1);
}

void bvt_dense_armv7(const bvt_call *call, uint32_t row0, uint32_t row1) {
    uint32_t row = row0;
    for (; row + 4 <= row1; row += 4) dense_rows(call, row, 4);
    for (; row < row1; row++) dense_rows(call, row, 1);
}
