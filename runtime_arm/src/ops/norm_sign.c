/* norm_sign: the sign after a LayerNorm whose affine part is a threshold a channel.
 *
 *     in x f32[N x C], cut f32[1 x C], direction f32[1 x C]      out bits[N x C], ROWS or COLS      attr[0] = G, fattr[0] = eps
 *     d, s as in layer_norm_rows.c; bit = direction[c] * d >= cut[c] * s
 *     x may be F16, which is widened first.
 */
#include "bits.h"
#include "norm.h"

int bvt_check_norm_sign(bvt_check *c) {
    BVT_TRY(bvt_check_norm(c));
    const bvt_rec_value *x = bvt_in(c, 0), *y = bvt_out(c, 0);
    c->whole = 6;
    const int layout = y->layout == BVT_LAYOUT_COLS ? BVT_LAYOUT_COLS : BVT_LAYOUT_ROWS;
    return bvt_check_value(c, y, BVT_DTYPE_BITS, layout, x->rows, x->cols, "the output");
}

void bvt_norm_sign_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (call->in[0].dtype == BVT_DTYPE_F16) {
        bvt_widen_rows(call, row0, row1, bvt_widen_row_ref, bvt_norm_sign_ref);
        return;
    }
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *cut = bvt_row_f32(&call->in[1], 0), *direction = bvt_row_f32(&call->in[2], 0);
    for (uint32_t row = row0; row < row1; row++) {
        const float *x = bvt_row_f32(&call->in[0], row);
        for (uint32_t from = 0; from < channels; from += n) {
            float mean, s;
            bvt_norm_moments(x + from, n, call->op->fattr[0], &mean, &s);
            for (uint32_t c = from; c < from + n; c++)
                bvt_put_bit(&call->out[0], row, c, 0, direction[c] * (x[c] - mean) >= cut[c] * s);
        }
    }
    bvt_pad(&call->out[0], row0, row1);
}
