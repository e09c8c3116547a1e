/* channel_pool of 2, 4 or 8 channels: neighbours are added as they lie in memory, and their sums likewise. Others: the
 * reference. */
#include "../ops/channel_pool.h"
#include "vf.h"

VF_INLINE void pool_rows(const bvt_call *call, uint32_t row0, uint32_t row1, const unsigned g) {
    const uint32_t channels = call->out[0].cols;
    const float factor = bvt_reciprocal(g);
    const vf reciprocal = vf_set(factor);
    for (uint32_t n = row0; n < row1; n++) {
        const float *x = bvt_row_f32(&call->in[0], n);
        float *y = bvt_row(&call->out[0], n);
        uint32_t c = 0;
        for (; c + VF_LANES <= channels; c += VF_LANES, x += g * VF_LANES) {
            vf v[8];
            for (unsigned i = 0; i < g; i++) v[i] = vf_load(x + i * VF_LANES);
            for (unsigned left = g / 2; left; left /= 2)
                for (unsigned i = 0; i < left; i++) v[i] = vf_add_pairs(v[2 * i], v[2 * i + 1]);
            vf_store(y + c, vf_mul(v[0], reciprocal));
        }
        for (; c < channels; c++, x += g) y[c] = bvt_pairs_sum(x, 0, g, false) * factor;
    }
}

void VF_KERNEL(channel_pool)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    switch (call->op->attr[0]) {
    case 2: pool_rows(call, row0, row1, 2); break;
    case 4: pool_rows(call, row0, row1, 4); break;
    case 8: pool_rows(call, row0, row1, 8); break;
    default: bvt_channel_pool_ref(call, row0, row1);
    }
}
