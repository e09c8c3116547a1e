/* layer_norm_rows: LayerNorm over the channels of every row, or over each of G groups of consecutive channels.
 *
 *     in x f32[N x C], gamma f32[1 x C], beta f32[1 x C]      out f32[N x C]      attr[0] = G, fattr[0] = eps
 *     a group of n = C/G channels: mean = sum(x) * fp32(1/n); d = x - mean; var = sum(d^2) * fp32(1/n)
 *     s = sqrt(var + eps); r = 1/s; y = fma(d * r, gamma[c], beta[c])
 *     a sum has 8 lanes: lane l starts at +0 and takes channels l, l+8, ... (acc + x, or fma(d, d, acc)); the lanes then meet as
 *     ((0+4)+(2+6))+((1+5)+(3+7))
 *     x may be F16, which is widened first.
 */
#include "norm.h"

#include "../half.h"

int bvt_check_norm(bvt_check *c) {
    const int32_t groups = c->op->attr[0];
    BVT_TRY(bvt_check_operands(c, 7, 0, 1, 0));
    BVT_TRY(bvt_check_reserved(c, 1, 1));
    const bvt_rec_value *x = bvt_in(c, 0);
    BVT_TRY(bvt_check_value(c, x, bvt_real_dtype(c), BVT_LAYOUT_ROWS, c->rows, x->cols, "x"));
    if (x->dtype == BVT_DTYPE_F16) c->scratch = bvt_align64(BVT_WIDENED_ROWS * sizeof(float) * (uint64_t)x->cols);
    BVT_TRY(bvt_expect(c, groups > 0 && x->cols % (uint32_t)groups == 0, "the groups do not divide the channels"));
    BVT_TRY(bvt_expect(c, c->op->fattr[0] >= 0 && isfinite(c->op->fattr[0]), "eps must be finite and not negative"));
    for (unsigned i = 1; i < 3; i++)
        BVT_TRY(bvt_check_value(c, bvt_in(c, i), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, x->cols, "a parameter"));
    return BVT_OK;
}

void bvt_widen_row_ref(const uint16_t *from, float *to, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) to[i] = bvt_from_half(from[i]);
}

void bvt_widen_rows(const bvt_call *call, uint32_t row0, uint32_t row1, void (*widen)(const uint16_t *, float *, uint32_t),
                    bvt_kernel kernel) {
    const bvt_view *x = &call->in[0];
    bvt_call wide = *call;
    wide.in[0] = (bvt_view){
        .base = call->scratch, .stride = x->cols * sizeof(float), .rows = x->rows, .cols = x->cols, .dtype = BVT_DTYPE_F32, .tile = true};
    for (uint32_t row = row0; row < row1; row += BVT_WIDENED_ROWS) {
        const uint32_t end = row + bvt_min_u32(row1 - row, BVT_WIDENED_ROWS);
        wide.in[0].first = row;
        for (uint32_t r = row; r < end; r++) widen(bvt_row_f16(x, r), bvt_row(&wide.in[0], r), x->cols);
        kernel(&wide, row, end);
    }
}

int bvt_check_layer_norm_rows(bvt_check *c) {
    BVT_TRY(bvt_check_norm(c));
    const bvt_rec_value *x = bvt_in(c, 0);
    c->whole = 6;
    return bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->rows, x->cols, "the output");
}

void bvt_layer_norm_rows_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (call->in[0].dtype == BVT_DTYPE_F16) {
        bvt_widen_rows(call, row0, row1, bvt_widen_row_ref, bvt_layer_norm_rows_ref);
        return;
    }
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *gamma = bvt_row_f32(&call->in[1], 0), *beta = bvt_row_f32(&call->in[2], 0);
    for (uint32_t row = row0; row < row1; row++) {
        const float *x = bvt_row_f32(&call->in[0], row);
        float *y = bvt_row(&call->out[0], row);
        for (uint32_t from = 0; from < channels; from += n) {
            float mean, deviation;
            bvt_norm_moments(x + from, n, call->op->fattr[0], &mean, &deviation);
            const float r = 1.0f / deviation;
            for (uint32_t c = from; c < from + n; c++) y[c] = bvt_fma((x[c] - mean) * r, gamma[c], beta[c]);
        }
    }
}
