/* multiply: the product of two values, element by element.
 *
 *     in x f32[N x C], y f32[N x C] or f32[N x 1]      out f32[N x C] = x * y
 */
#include "../internal.h"

int bvt_check_multiply(bvt_check *c) {
    BVT_TRY(bvt_check_operands(c, 3, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 0));
    const bvt_rec_value *x = bvt_in(c, 0), *y = bvt_in(c, 1);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, c->rows, x->cols, "x"));
    BVT_TRY(bvt_check_value(c, y, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, c->rows, y->cols == 1 ? 1 : x->cols, "y"));
    return bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->rows, x->cols, "the output");
}

void bvt_multiply_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    for (uint32_t row = row0; row < row1; row++) {
        const float *x = bvt_row_f32(&call->in[0], row), *y = bvt_row_f32(&call->in[1], row);
        float *out = bvt_row(&call->out[0], row);
        if (call->in[1].cols == channels) {
            for (uint32_t c = 0; c < channels; c++) out[c] = x[c] * y[c];
        } else {
            for (uint32_t c = 0; c < channels; c++) out[c] = x[c] * *y;
        }
    }
}
