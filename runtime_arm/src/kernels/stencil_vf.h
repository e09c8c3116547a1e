/* stencil over vectors of channels: the rows that the taps multiply are found once a token. */
#include "../ops/stencil.h"
#include "vf.h"

void VF_KERNEL(stencil)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    const float *shift = call->in[2].base ? bvt_row_f32(&call->in[2], 0) : NULL;
    for (uint32_t row = row0; row < row1; row++) {
        const float *source[BVT_STENCIL_TAPS], *tap[BVT_STENCIL_TAPS];
        const unsigned taps = bvt_stencil_sources(call, row, source, tap);
        float *out = bvt_row(&call->out[0], row);
        uint32_t c = 0;
        for (; c + 2 * VF_LANES <= channels; c += 2 * VF_LANES) { /* two sums hide the latency of fma */
            vf a = shift ? vf_load(shift + c) : vf_set(0), b = shift ? vf_load(shift + c + VF_LANES) : vf_set(0);
            for (unsigned t = 0; t < taps; t++) {
                a = vf_fma(vf_load(source[t] + c), vf_load(tap[t] + c), a);
                b = vf_fma(vf_load(source[t] + c + VF_LANES), vf_load(tap[t] + c + VF_LANES), b);
            }
            vf_store(out + c, a);
            vf_store(out + c + VF_LANES, b);
        }
        for (; c < channels; c += VF_LANES) {
            const unsigned n = vf_min(channels - c);
            vf a = shift ? vf_load_n(shift + c, n) : vf_set(0);
            for (unsigned t = 0; t < taps; t++) a = vf_fma(vf_load_n(source[t] + c, n), vf_load_n(tap[t] + c, n), a);
            vf_store_n(out + c, a, n);
        }
    }
}
