/* mixed_gemm over vectors of output channels: a tile of 16 channels x R rows keeps its sums in registers while k runs upwards. The
 * weights of a k are a mask of sign bits that all rows share. */
#include "vf.h"

/* Channels of `tile`, of which the first n are there. */
VF_INLINE void mixed_tile(const bvt_call *call, uint32_t row, uint32_t tile, unsigned n, const unsigned R) {
    const uint32_t k_end = call->in[0].cols;
    const uint8_t *weight = call->in[1].base + tile * call->in[1].stride;
    const float *x[4];
    vf acc[4][2];
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_f32(&call->in[0], row + r);
        acc[r][0] = acc[r][1] = vf_set(0);
    }
    for (uint32_t k = 0; k < k_end; k += 8, weight += 16) {
        const unsigned bits = vf_min(k_end - k);
        for (unsigned b = 0; b < bits; b++) {
            const vf low = vf_sign_bits(weight, b), high = vf_sign_bits(weight + 8, b);
            for (unsigned r = 0; r < R; r++) {
                const vf value = vf_set(x[r][k + b]);
                acc[r][0] = vf_add(acc[r][0], vf_xor(value, low));
                acc[r][1] = vf_add(acc[r][1], vf_xor(value, high));
            }
        }
    }
    for (unsigned r = 0; r < R; r++) {
        float *y = (float *)bvt_row(&call->out[0], row + r) + 16 * (size_t)tile;
        vf_store_n(y, acc[r][0], n < 8 ? n : 8);
        if (n > 8) vf_store_n(y + 8, acc[r][1], n - 8);
    }
}

void VF_KERNEL(mixed_gemm)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t outputs = call->out[0].cols;
    uint32_t row = row0;
    for (; row + 4 <= row1; row += 4)
        for (uint32_t o = 0; o < outputs; o += 16) mixed_tile(call, row, o / 16, bvt_min_u32(outputs - o, 16), 4);
    for (; row < row1; row++)
        for (uint32_t o = 0; o < outputs; o += 16) mixed_tile(call, row, o / 16, bvt_min_u32(outputs - o, 16), 1);
}
