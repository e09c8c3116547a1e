/* max_pool over vectors of channels. */
#include "../ops/pool.h"
#include "vf.h"

void VF_KERNEL(max_pool)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(call->op->attr, row);
        float *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c += VF_LANES) {
            const unsigned n = vf_min(channels - c);
            vf most = vf_set(-INFINITY);
            for (uint32_t y = w.y0; y < w.y1; y++)
                for (uint32_t x = w.x0; x < w.x1; x++)
                    most = vf_max(vf_load_n(bvt_row_f32(&call->in[0], y * w.width + x) + c, n), most);
            vf_store_n(out + c, most, n);
        }
    }
}
