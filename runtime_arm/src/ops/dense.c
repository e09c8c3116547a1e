/* dense: f32 rows times f32 weights, plus a bias.
 *
 *     in x f32[N x K], weight f32[K x O], optional bias f32[1 x O]      out f32[N x O]
 *     acc = +0; for k = 0 .. K-1: acc = fma(x[n][k], weight[k][o], acc);  y = acc + bias[o] (if there is a bias)
 */
#include "../internal.h"
#include "../numerics.h"

int bvt_check_dense(bvt_check *c) {
    BVT_TRY(bvt_check_operands(c, 3, 4, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 0));
    const bvt_rec_value *x = bvt_in(c, 0), *weight = bvt_in(c, 1), *bias = bvt_in(c, 2), *y = bvt_out(c, 0);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, y->rows, weight->rows, "x"));
    BVT_TRY(bvt_check_value(c, weight, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->cols, y->cols, "the weight"));
    BVT_TRY(bvt_check_value(c, y, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->rows, weight->cols, "the output"));
    if (bias) BVT_TRY(bvt_check_value(c, bias, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, y->cols, "the bias"));
    c->whole = 2 | 4;
    return BVT_OK;
}

void bvt_dense_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t k_end = call->in[0].cols, outputs = call->out[0].cols;
    const bvt_view *weight = &call->in[1];
    const float *bias = call->in[2].base ? bvt_row_f32(&call->in[2], 0) : NULL;
    for (uint32_t n = row0; n < row1; n++) {
        const float *x = bvt_row_f32(&call->in[0], n);
        float *y = bvt_row(&call->out[0], n);
        for (uint32_t o = 0; o < outputs; o++) {
            float acc = 0;
            for (uint32_t k = 0; k < k_end; k++) acc = bvt_fma(x[k], bvt_row_f32(weight, k)[o], acc);
            y[o] = bias ? acc + bias[o] : acc;
        }
    }
}
