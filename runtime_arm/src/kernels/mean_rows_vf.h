/* mean_rows over vectors of channels, 32 at a time in registers. */
#include "vf.h"

/* Channels c .. of the mean of rows r0 .. r0+rows-1. */
VF_INLINE void mean_columns(const bvt_view *x, uint32_t r0, uint32_t rows, float *out, uint32_t c, unsigned n, const unsigned V) {
    const size_t apart = x->stride / sizeof(float);
    const float *row = bvt_row_f32(x, r0) + c;
    vf sum[4];
    for (unsigned v = 0; v < V; v++) sum[v] = vf_load_n(row + v * VF_LANES, n);
    for (uint32_t left = rows; --left;) {
        row += apart;
        for (unsigned v = 0; v < V; v++) sum[v] = vf_add(sum[v], vf_load_n(row + v * VF_LANES, n));
    }
    const vf reciprocal = vf_set(bvt_reciprocal(rows));
    for (unsigned v = 0; v < V; v++) vf_store_n(out + c + v * VF_LANES, vf_mul(sum[v], reciprocal), n);
}

void VF_KERNEL(mean_rows)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[0];
    const uint32_t rows = x->rows / call->out[0].rows;
    for (uint32_t group = row0; group < row1; group++) {
        float *out = bvt_row(&call->out[0], group);
        uint32_t c = 0;
        for (; c + 4 * VF_LANES <= x->cols; c += 4 * VF_LANES) mean_columns(x, group * rows, rows, out, c, VF_LANES, 4);
        for (; c < x->cols; c += VF_LANES) mean_columns(x, group * rows, rows, out, c, vf_min(x->cols - c), 1);
    }
}
