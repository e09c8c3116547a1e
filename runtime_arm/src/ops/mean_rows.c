/* mean_rows: mean over all rows.
 *
 *     in f32[N x C]      out f32[1 x C]
 *     sum of the rows, first to last, rounded after every addition; times fp32(1/N)
 */
#include "../internal.h"
#include "../numerics.h"

int bvt_check_mean_rows(bvt_check *c) {
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 0));
    const bvt_rec_value *x = bvt_in(c, 0);
    BVT_TRY(bvt_check_value(c, x, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, x->rows, x->cols, "x"));
    BVT_TRY(bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, x->cols, "the output"));
    c->whole = 1;
    return BVT_OK;
}

void bvt_mean_rows_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    (void)row0, (void)row1; /* there is one row */
    const bvt_view *x = &call->in[0];
    const float reciprocal = bvt_reciprocal(x->rows);
    float *out = bvt_row(&call->out[0], 0);
    memcpy(out, bvt_row_f32(x, 0), x->cols * sizeof *out);
    /* Row by row, so that memory is read in order; each channel's sum still runs first to last. */
    for (uint32_t n = 1; n < x->rows; n++) {
        const float *row = bvt_row_f32(x, n);
        for (uint32_t c = 0; c < x->cols; c++) out[c] += row[c];
    }
    for (uint32_t c = 0; c < x->cols; c++) out[c] *= reciprocal;
}
