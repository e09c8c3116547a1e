/* layer_norm_rows over vectors of channels: the lanes of its sums are those of the definition. */
#include "../ops/norm.h"
#include "vf.h"

/* Mean and 1/sqrt(variance + eps) of n channels. */
VF_INLINE void moments(const float *x, uint32_t n, float eps, float *mean, float *inverse) {
    const float reciprocal = bvt_reciprocal(n);
    const uint32_t whole = n - n % VF_LANES;
    float lanes[VF_LANES];
    vf sum = vf_set(0);
    for (uint32_t i = 0; i < n; i += VF_LANES) sum = vf_add(sum, vf_load_n(x + i, vf_min(n - i)));
    vf_store(lanes, sum);
    *mean = bvt_lanes_sum(lanes) * reciprocal;
    vf squares = vf_set(0);
    for (uint32_t i = 0; i < whole; i += VF_LANES) {
        const vf d = vf_sub(vf_load(x + i), vf_set(*mean));
        squares = vf_fma(d, d, squares);
    }
    vf_store(lanes, squares);
    for (uint32_t i = whole; i < n; i++) {
        const float d = x[i] - *mean;
        lanes[i - whole] = bvt_fma(d, d, lanes[i - whole]);
    }
    *inverse = 1.0f / sqrtf(bvt_lanes_sum(lanes) * reciprocal + eps);
}

void VF_KERNEL(layer_norm_rows)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *gamma = bvt_row_f32(&call->in[1], 0), *beta = bvt_row_f32(&call->in[2], 0);
    for (uint32_t row = row0; row < row1; row++) {
        const float *x = bvt_row_f32(&call->in[0], row);
        float *y = bvt_row(&call->out[0], row);
        for (uint32_t from = 0; from < channels; from += n) {
            float mean, inverse;
            moments(x + from, n, call->op->fattr[0], &mean, &inverse);
            for (uint32_t i = 0; i < n; i += VF_LANES) {
                const unsigned lanes = vf_min(n - i);
                const uint32_t c = from + i;
                const vf d = vf_mul(vf_sub(vf_load_n(x + c, lanes), vf_set(mean)), vf_set(inverse));
                vf_store_n(y + c, vf_fma(d, vf_load_n(gamma + c, lanes), vf_load_n(beta + c, lanes)), lanes);
            }
        }
    }
}
