/* activation over vectors of channels. */
#include "../ops/activation.h"
#include "vf.h"

VF_INLINE vf gelu(vf x) {
    const vf t = vf_fma(vf_mul(x, x), vf_set(BVT_GELU_SCALE), vf_set(-1));
    vf q = vf_set(bvt_gelu_terms[BVT_GELU_TERMS - 1]);
    for (int i = BVT_GELU_TERMS - 2; i >= 0; i--) q = vf_fma(q, t, vf_set(bvt_gelu_terms[i]));
    const vf tail = vf_if_lt(vf_set(0), x, vf_set(1), vf_set(0));
    return vf_mul(x, vf_if_lt(vf_abs(x), vf_set(BVT_GELU_LIMIT), vf_fma(x, q, vf_set(0.5f)), tail));
}

VF_INLINE vf activate(vf v, const int kind, vf low, vf high) {
    if (kind == BVT_ACTIVATION_GELU) return gelu(v);
    if (kind == BVT_ACTIVATION_SIGN) return vf_if_lt(vf_set(0), v, vf_set(1), vf_if_lt(v, vf_set(0), vf_set(-1), vf_set(0)));
    v = vf_if_lt(v, low, low, v);
    return vf_if_lt(high, v, high, v);
}

static __attribute__((noinline)) void activate_few(float *y, const float *x, unsigned n, int kind, vf low, vf high) {
    vf_store_n(y, activate(vf_load_n(x, n), kind, low, high), n);
}

VF_INLINE void activate_rows(const bvt_call *call, uint32_t row0, uint32_t row1, const int kind) {
    const uint32_t channels = call->in[0].cols;
    const vf low = vf_set(call->op->fattr[0]), high = vf_set(call->op->fattr[1]);
    for (uint32_t row = row0; row < row1; row++) {
        const float *x = bvt_row_f32(&call->in[0], row);
        float *y = bvt_row(&call->out[0], row);
        uint32_t c = 0;
        for (; c + VF_LANES <= channels; c += VF_LANES) vf_store(y + c, activate(vf_load(x + c), kind, low, high));
        if (c < channels) activate_few(y + c, x + c, channels - c, kind, low, high);
    }
}

void VF_KERNEL(activation)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    switch (call->op->attr[0]) {
    case BVT_ACTIVATION_GELU: activate_rows(call, row0, row1, BVT_ACTIVATION_GELU); break;
    case BVT_ACTIVATION_SIGN: activate_rows(call, row0, row1, BVT_ACTIVATION_SIGN); break;
    default: activate_rows(call, row0, row1, BVT_ACTIVATION_CLAMP);
    }
}
