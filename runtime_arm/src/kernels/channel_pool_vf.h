/* channel_pool: a lane is an output channel, so that its sum runs in order; the inputs of a lane lie g floats apart. */
#include "vf.h"

/* VF_LANES output channels from p on; G is the constant g, or 0 where it is only known at run time. */
VF_INLINE vf pool_group(const float *p, uint32_t g, const unsigned G) {
#if defined(__aarch64__)
    if (G == 2) {
        const float32x4x2_t a = vld2q_f32(p), b = vld2q_f32(p + 8);
        return (vf){vaddq_f32(a.val[0], a.val[1]), vaddq_f32(b.val[0], b.val[1])};
    }
    if (G == 4) {
        const float32x4x4_t a = vld4q_f32(p), b = vld4q_f32(p + 16);
        return (vf){vaddq_f32(vaddq_f32(vaddq_f32(a.val[0], a.val[1]), a.val[2]), a.val[3]),
                    vaddq_f32(vaddq_f32(vaddq_f32(b.val[0], b.val[1]), b.val[2]), b.val[3])};
    }
    if (G == 8) {
        float32x4_t sum[2];
        for (unsigned h = 0; h < 2; h++) {
            /* Lanes of val[i]: inputs i and 4+i of two channels, one after the other. */
            const float32x4x4_t a = vld4q_f32(p + 32 * h), b = vld4q_f32(p + 32 * h + 16);
            sum[h] = vuzp1q_f32(a.val[0], b.val[0]);
            for (unsigned i = 1; i < 4; i++) sum[h] = vaddq_f32(sum[h], vuzp1q_f32(a.val[i], b.val[i]));
            for (unsigned i = 0; i < 4; i++) sum[h] = vaddq_f32(sum[h], vuzp2q_f32(a.val[i], b.val[i]));
        }
        return (vf){sum[0], sum[1]};
    }
#elif VF_LANES == 16
    if (G) { /* G vectors; each stage puts the even elements in front of the odd ones, so that vector i holds the inputs i mod G */
        vf x[8], y[8];
        for (unsigned i = 0; i < G; i++) x[i] = vf_load(p + 16 * i);
        for (unsigned stage = G; stage > 1; stage /= 2) {
            for (unsigned i = 0; i < G; i++) y[i] = vf_every_other(x[2 * i % G], x[2 * i % G + 1], i >= G / 2);
            for (unsigned i = 0; i < G; i++) x[i] = y[i];
        }
        for (unsigned i = 1; i < G; i++) x[0] = vf_add(x[0], x[i]);
        return x[0];
    }
#else
    (void)G;
#endif
    vf sum = vf_load_strided(p, g);
    for (uint32_t i = 1; i < g; i++) sum = vf_add(sum, vf_load_strided(p + i, g));
    return sum;
}

VF_INLINE void pool_rows(const bvt_call *call, uint32_t row0, uint32_t row1, uint32_t g, const unsigned G) {
    const uint32_t channels = call->out[0].cols;
    const float factor = bvt_reciprocal(g);
    const vf reciprocal = vf_set(factor);
    for (uint32_t n = row0; n < row1; n++) {
        const float *x = bvt_row_f32(&call->in[0], n);
        float *y = bvt_row(&call->out[0], n);
        uint32_t c = 0;
        for (; c + VF_LANES <= channels; c += VF_LANES) vf_store(y + c, vf_mul(pool_group(x + (size_t)c * g, g, G), reciprocal));
        for (; c < channels; c++) {
            const float *p = x + (size_t)c * g;
            float sum = p[0];
            for (uint32_t i = 1; i < g; i++) sum += p[i];
            y[c] = sum * factor;
        }
    }
}

void VF_KERNEL(channel_pool)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t g = (uint32_t)call->op->attr[0];
    switch (g) {
    case 2: pool_rows(call, row0, row1, 2, 2); break;
    case 4: pool_rows(call, row0, row1, 4, 4); break;
    case 8: pool_rows(call, row0, row1, 8, 8); break;
    default: pool_rows(call, row0, row1, g, 0);
    }
}
