/* dense_i8: f32 rows, quantised one by one, times int8 weights, with sums in int32, plus a bias.
 *
 *     in x f32[N x K], weight i8[O x K] in layout QUADS, scale f32[1 x O], optional bias f32[1 x O]     out f32[N x O]
 *     m = max |x[n][k]| (a NaN where one is there);  inverse = 127 / m;  step = m / 127
 *     q[k] = fma(x[n][k], inverse, 1.5*2^23) - 1.5*2^23, or 0 where m or inverse is not finite
 *     acc = sum of q[k] * weight[o][k], in 32 bits;  y = (float)acc * (step * scale[o]);  y + bias[o] (if there is a bias)
 */
#include "dense_i8.h"

int bvt_check_dense_i8(bvt_check *c) {
    BVT_TRY(bvt_check_operands(c, 7, 8, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 0));
    const bvt_rec_value *x = bvt_in(c, 0), *weight = bvt_in(c, 1), *scale = bvt_in(c, 2), *bias = bvt_in(c, 3), *y = bvt_out(c, 0);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, y->rows, weight->cols, "x"));
    BVT_TRY(bvt_check_value(c, weight, BVT_DTYPE_I8, BVT_LAYOUT_QUADS, y->cols, x->cols, "the weight"));
    BVT_TRY(bvt_check_value(c, y, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->rows, weight->rows, "the output"));
    BVT_TRY(bvt_check_value(c, scale, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, y->cols, "the scale"));
    if (bias) BVT_TRY(bvt_check_value(c, bias, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, y->cols, "the bias"));
    BVT_TRY(bvt_expect(c, x->cols <= BVT_I8_MOST_COLUMNS, "its sums may not fit into 32 bits"));
    c->whole = 2 | 4 | 8;
    c->scratch = bvt_i8_scratch(x->cols);
    return BVT_OK;
}

void bvt_dense_i8_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t cols = call->in[0].cols, outputs = call->out[0].cols;
    const float *scale = bvt_row_f32(&call->in[2], 0), *bias = call->in[3].base ? bvt_row_f32(&call->in[3], 0) : NULL;
    int8_t *codes = call->scratch;
    for (uint32_t n = row0; n < row1; n++) {
        const float *x = bvt_row_f32(&call->in[0], n), m = bvt_i8_magnitude(x, cols), inverse = bvt_i8_inverse(m);
        float *y = bvt_row(&call->out[0], n);
        for (uint32_t k = 0; k < cols; k++) codes[k] = inverse != 0 ? bvt_i8_code(x[k], inverse) : 0;
        for (uint32_t o = 0; o < outputs; o++) {
            const int8_t *weight = (const int8_t *)call->in[1].base + o / 16 * call->in[1].stride + o % 16 * 4;
            int32_t acc = 0;
            for (uint32_t k = 0; k < cols; k++) acc += codes[k] * weight[k / 4 * 64 + k % 4];
            y[o] = bvt_i8_output(acc, m / 127.0f, scale[o], bias ? bias + o : NULL);
        }
    }
}
