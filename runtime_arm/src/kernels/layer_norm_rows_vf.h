/* layer_norm_rows over vectors of channels. */
#include "norm_vf.h"

/* R rows from `row` on. */
VF_INLINE void layer_norms(const bvt_call *call, uint32_t row, const unsigned R) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *gamma = bvt_row_f32(&call->in[1], 0), *beta = bvt_row_f32(&call->in[2], 0);
    for (uint32_t from = 0; from < channels; from += n) {
        const float *x[VF_NORM_ROWS];
        float mean[VF_NORM_ROWS], deviation[VF_NORM_ROWS];
        for (unsigned r = 0; r < R; r++) x[r] = bvt_row_f32(&call->in[0], row + r) + from;
        vf_norm_moments(x, n, call->op->fattr[0], mean, deviation, R);
        for (unsigned r = 0; r < R; r++) {
            const float inverse = 1.0f / deviation[r];
            float *y = (float *)bvt_row(&call->out[0], row + r) + from;
            for (uint32_t i = 0; i < n; i += VF_LANES) {
                const unsigned lanes = vf_min(n - i);
                const vf d = vf_mul(vf_sub(vf_load_n(x[r] + i, lanes), vf_set(mean[r])), vf_set(inverse));
                vf_store_n(y + i, vf_fma(d, vf_load_n(gamma + from + i, lanes), vf_load_n(beta + from + i, lanes)), lanes);
            }
        }
    }
}

void VF_KERNEL(layer_norm_rows)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    uint32_t row = row0;
    for (; row + VF_NORM_ROWS <= row1; row += VF_NORM_ROWS) layer_norms(call, row, VF_NORM_ROWS);
    for (; row < row1; row++) layer_norms(call, row, 1);
}
