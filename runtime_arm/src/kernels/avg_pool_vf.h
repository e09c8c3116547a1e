/* avg_pool over vectors of channels. */
#include "../ops/pool.h"
#include "vf.h"

void VF_KERNEL(avg_pool)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr;
    const uint32_t channels = call->in[0].cols;
    const vf reciprocal = vf_set(bvt_reciprocal((uint32_t)a[2] * (uint32_t)a[2]));
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(a, row);
        float *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c += VF_LANES) {
            const unsigned n = vf_min(channels - c);
            vf sum = vf_load_n(bvt_row_f32(&call->in[0], w.y0 * w.width + w.x0) + c, n);
            for (uint32_t y = w.y0; y < w.y1; y++)
                for (uint32_t x = w.x0 + (y == w.y0); x < w.x1; x++)
                    sum = vf_add(sum, vf_load_n(bvt_row_f32(&call->in[0], y * w.width + x) + c, n));
            vf_store_n(out + c, vf_mul(sum, reciprocal), n);
        }
    }
}
