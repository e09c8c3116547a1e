/* mixed_gemm: f32 rows times +-1 weights.
 *
 *     in x f32[N x K], weight bits[O x K] (layout LANES16)      out f32[N x O]
 *     y[n][o]: acc = +0; for k = 0 .. K-1: acc = acc + (weight[o][k] is +1 ? x[n][k] : -x[n][k])
 */
#include "../internal.h"

int bvt_check_mixed_gemm(bvt_check *c) {
    BVT_TRY(bvt_check_operands(c, 3, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 0));
    const bvt_rec_value *x = bvt_in(c, 0), *weight = bvt_in(c, 1), *y = bvt_out(c, 0);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, y->rows, weight->cols, "x"));
    BVT_TRY(bvt_check_value(c, weight, BVT_DTYPE_BITS, BVT_LAYOUT_LANES16, y->cols, x->cols, "the weight"));
    BVT_TRY(bvt_check_value(c, y, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->rows, weight->rows, "the output"));
    c->whole = 2;
    return BVT_OK;
}

void bvt_mixed_gemm_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t k_end = call->in[0].cols, outputs = call->out[0].cols;
    const bvt_view *weight = &call->in[1];
    for (uint32_t n = row0; n < row1; n++) {
        const float *x = bvt_row_f32(&call->in[0], n);
        float *y = bvt_row(&call->out[0], n);
        for (uint32_t o = 0; o < outputs; o++) {
            const uint8_t *w = weight->base + o / 16 * weight->stride + o % 16;
            float acc = 0;
            for (uint32_t k = 0; k < k_end; k++) acc += w[(size_t)(k / 8) * 16] >> k % 8 & 1 ? x[k] : -x[k];
            y[o] = acc;
        }
    }
}
