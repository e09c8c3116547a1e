/* avg_pool over vectors of channels. */
#include "vf.h"

void VF_KERNEL(avg_pool)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr;
    const uint32_t width = (uint32_t)a[1], k = (uint32_t)a[2], s = (uint32_t)a[3], channels = call->in[0].cols;
    const uint32_t out_w = (width - k) / s + 1;
    const vf reciprocal = vf_set(bvt_reciprocal(k * k));
    for (uint32_t row = row0; row < row1; row++) {
        const uint32_t first = row / out_w * s * width + row % out_w * s;
        float *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c += VF_LANES) {
            const unsigned n = vf_min(channels - c);
            vf sum = vf_load_n(bvt_row_f32(&call->in[0], first) + c, n);
            for (uint32_t ky = 0; ky < k; ky++)
                for (uint32_t kx = ky == 0; kx < k; kx++)
                    sum = vf_add(sum, vf_load_n(bvt_row_f32(&call->in[0], first + ky * width + kx) + c, n));
            vf_store_n(out + c, vf_mul(sum, reciprocal), n);
        }
    }
}
