/* channel_pool: mean of consecutive channels.
 *
 *     in f32[N x C*g]      out f32[N x C]      attr[0] = g
 *     out[n][c] = (sum of x[n][c*g .. c*g+g-1], rounded after every addition) * fp32(1/g); while their number is even, neighbours are
 *     added to pairs; what is left, an odd number, is added first to last
 *     Both may be F16: then every addition, fp16(fp32(1/g)) and the product are rounded to it.
 */
#include "channel_pool.h"

int bvt_check_channel_pool(bvt_check *c) {
    const int32_t g = c->op->attr[0];
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_expect(c, g > 0, "the number of channels to pool must be positive"));
    BVT_TRY(bvt_check_attrs_end(c, 1));
    const bvt_rec_value *x = bvt_in(c, 0), *y = bvt_out(c, 0);
    BVT_TRY(bvt_check_value(c, x, bvt_real_dtype(c), BVT_LAYOUT_ROWS, y->rows, (uint64_t)y->cols * (uint64_t)g, "x"));
    BVT_TRY(bvt_check_value(c, y, bvt_real_dtype(c), BVT_LAYOUT_ROWS, x->rows, x->cols / (uint32_t)g, "the output"));
    return BVT_OK;
}

void bvt_channel_pool_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bool half = call->in[0].dtype == BVT_DTYPE_F16;
    const uint32_t g = (uint32_t)call->op->attr[0], block = g & -g, channels = call->out[0].cols; /* block: the power of two in g */
    const float reciprocal = bvt_rounded(bvt_reciprocal(g), half);
    for (uint32_t n = row0; n < row1; n++) {
        const void *x = bvt_row(&call->in[0], n);
        void *y = bvt_row(&call->out[0], n);
        for (uint32_t c = 0; c < channels; c++) {
            float sum = bvt_pairs_sum(x, c * g, block, half);
            for (uint32_t i = block; i < g; i += block) sum = bvt_rounded(sum + bvt_pairs_sum(x, c * g + i, block, half), half);
            bvt_put_real(y, c, sum * reciprocal, half);
        }
    }
}
