/* activation: an elementwise function.
 *
 *     in f32[N x C]      out f32[N x C]      attr[0] = kind
 *     0, gelu:  t = fma(x*x, 2/5.25^2, -1); q = c[14]; for i = 13 .. 0: q = fma(q, t, c[i])
 *               phi = |x| < 5.25 ? fma(x, q, 0.5) : x > 0 ? 1 : 0; y = x * phi
 *     1, clamp: fattr[0..1] = low, high; v = x < low ? low : x; y = v > high ? high : v
 *     2, sign:  y = x > 0 ? 1 : x < 0 ? -1 : 0
 */
#include "activation.h"

#include "../numerics.h"

int bvt_check_activation(bvt_check *c) {
    const int32_t kind = c->op->attr[0];
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_expect(c, kind >= BVT_ACTIVATION_GELU && kind <= BVT_ACTIVATION_SIGN, "unknown activation"));
    BVT_TRY(bvt_check_reserved(c, 1, kind == BVT_ACTIVATION_CLAMP ? 2 : 0));
    BVT_TRY(bvt_expect(c, c->op->fattr[0] <= c->op->fattr[1], "low is above high"));
    const bvt_rec_value *x = bvt_in(c, 0);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, c->rows, x->cols, "x"));
    return bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->rows, x->cols, "the output");
}

static float gelu(float x) {
    const float t = bvt_fma(x * x, BVT_GELU_SCALE, -1.0f);
    float q = bvt_gelu_terms[BVT_GELU_TERMS - 1];
    for (int i = BVT_GELU_TERMS - 2; i >= 0; i--) q = bvt_fma(q, t, bvt_gelu_terms[i]);
    return x * (fabsf(x) < BVT_GELU_LIMIT ? bvt_fma(x, q, 0.5f) : x > 0 ? 1.0f : 0.0f);
}

void bvt_activation_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    const float low = call->op->fattr[0], high = call->op->fattr[1];
    for (uint32_t row = row0; row < row1; row++) {
        const float *x = bvt_row_f32(&call->in[0], row);
        float *y = bvt_row(&call->out[0], row);
        if (call->op->attr[0] == BVT_ACTIVATION_GELU) {
            for (uint32_t c = 0; c < channels; c++) y[c] = gelu(x[c]);
        } else if (call->op->attr[0] == BVT_ACTIVATION_SIGN) {
            for (uint32_t c = 0; c < channels; c++) y[c] = x[c] > 0 ? 1.0f : x[c] < 0 ? -1.0f : 0.0f;
        } else {
            for (uint32_t c = 0; c < channels; c++) {
                const float v = x[c] < low ? low : x[c];
                y[c] = v > high ? high : v;
            }
        }
    }
}
