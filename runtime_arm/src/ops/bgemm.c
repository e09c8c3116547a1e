/* bgemm: +-1 rows times +-1 weights -> integer dots.
 *
 *     in x bits[N x K], weight bits[O x K] (layout LANES16)      out i32[N x O]
 *     y[n][o] = K - 2*popcount(x[n] xor weight[o]); any K >= 1, pad bits are zero in both
 */
#include "../internal.h"

int bvt_check_bgemm(bvt_check *c) {
    BVT_TRY(bvt_check_operands(c, 3, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 0));
    const bvt_rec_value *x = bvt_in(c, 0), *weight = bvt_in(c, 1), *y = bvt_out(c, 0);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, y->rows, weight->cols, "x"));
    BVT_TRY(bvt_check_value(c, weight, BVT_DTYPE_BITS, BVT_LAYOUT_LANES16, y->cols, x->cols, "the weight"));
    BVT_TRY(bvt_check_value(c, y, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, x->rows, weight->rows, "the output"));
    c->whole = 2;
    return BVT_OK;
}

void bvt_bgemm_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t k = call->in[0].cols, outputs = call->out[0].cols, steps = (k + 7) / 8;
    const bvt_view *weight = &call->in[1];
    for (uint32_t n = row0; n < row1; n++) {
        const uint8_t *x = bvt_row_bits(&call->in[0], n);
        int32_t *y = bvt_row(&call->out[0], n);
        for (uint32_t o = 0; o < outputs; o++) {
            const uint8_t *w = weight->base + o / 16 * weight->stride + o % 16;
            int32_t differing = 0;
            for (uint32_t s = 0; s < steps; s++) differing += __builtin_popcount(x[s] ^ w[(size_t)s * 16]);
            y[o] = (int32_t)k - 2 * differing;
        }
    }
}
