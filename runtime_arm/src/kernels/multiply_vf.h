/* multiply over vectors of channels. */
#include "vf.h"

void VF_KERNEL(multiply)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    const bool one = call->in[1].cols != channels;
    for (uint32_t row = row0; row < row1; row++) {
        const float *x = bvt_row_f32(&call->in[0], row), *y = bvt_row_f32(&call->in[1], row);
        float *out = bvt_row(&call->out[0], row);
        const vf factor = vf_set(*y);
        uint32_t c = 0;
        for (; c + VF_LANES <= channels; c += VF_LANES) vf_store(out + c, vf_mul(vf_load(x + c), one ? factor : vf_load(y + c)));
        for (; c < channels; c++) out[c] = x[c] * y[one ? 0 : c];
    }
}
