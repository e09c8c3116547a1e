/* mean_rows: mean over all rows, or over each of G groups of consecutive rows.
 *
 *     in f32[G*n x C]      out f32[G x C]      attr[0] = G (0: 1)
 *     sum of a group's rows, first to last, rounded after every addition; times fp32(1/n)
 *     The input may be F16, which is widened first.
 */
#include "../half.h"
#include "../internal.h"
#include "../numerics.h"

int bvt_check_mean_rows(bvt_check *c) {
    const int32_t groups = c->op->attr[0] ? c->op->attr[0] : 1;
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 1));
    const bvt_rec_value *x = bvt_in(c, 0);
    BVT_TRY(bvt_expect(c, groups > 0 && x->rows % (uint32_t)groups == 0, "the groups do not divide the rows"));
    BVT_TRY(bvt_check_value(c, x, bvt_real_dtype(c), BVT_LAYOUT_ROWS, x->rows, x->cols, "x"));
    BVT_TRY(bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, (uint64_t)groups, x->cols, "the output"));
    c->whole = 1;
    return BVT_OK;
}

void bvt_mean_rows_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bool half = call->in[0].dtype == BVT_DTYPE_F16;
    const bvt_view *x = &call->in[0];
    const uint32_t n = x->rows / call->out[0].rows;
    const float reciprocal = bvt_reciprocal(n);
    for (uint32_t group = row0; group < row1; group++) {
        float *out = bvt_row(&call->out[0], group);
        for (uint32_t c = 0; c < x->cols; c++) out[c] = bvt_get_real(bvt_row(x, group * n), c, half);
        /* Row by row, so that memory is read in order; each channel's sum still runs first to last. */
        for (uint32_t i = 1; i < n; i++)
            for (uint32_t c = 0; c < x->cols; c++) out[c] += bvt_get_real(bvt_row(x, group * n + i), c, half);
        for (uint32_t c = 0; c < x->cols; c++) out[c] *= reciprocal;
    }
}
