/* avg_pool: mean over k x k windows of a grid, without padding.
 *
 *     in f32[(H*W) x C]      out f32[(Ho*Wo) x C]      attr[0..3] = H, W, k, s
 *     sum of the window row by row, left to right, first to last, rounded after every addition; times fp32(1/(k*k))
 */
#include "../internal.h"
#include "../numerics.h"

int bvt_check_avg_pool(bvt_check *c) {
    const int32_t *a = c->op->attr;
    uint64_t oh, ow;
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_check_window(c, 0, &oh, &ow));
    BVT_TRY(bvt_check_attrs_end(c, 4));
    const bvt_rec_value *x = bvt_in(c, 0);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, (uint64_t)a[0] * (uint64_t)a[1], x->cols, "x"));
    BVT_TRY(bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, oh * ow, x->cols, "the output"));
    c->whole = 1;
    return BVT_OK;
}

void bvt_avg_pool_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr;
    const uint32_t width = (uint32_t)a[1], k = (uint32_t)a[2], s = (uint32_t)a[3], channels = call->in[0].cols;
    const uint32_t out_w = (width - k) / s + 1;
    const float reciprocal = bvt_reciprocal(k * k);
    for (uint32_t row = row0; row < row1; row++) {
        const uint32_t y = row / out_w * s, x = row % out_w * s;
        float *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c++) {
            float sum = bvt_row_f32(&call->in[0], y * width + x)[c];
            for (uint32_t i = 1; i < k * k; i++) sum += bvt_row_f32(&call->in[0], (y + i / k) * width + x + i % k)[c];
            out[c] = sum * reciprocal;
        }
    }
}
