/* layer_norm_rows for AVX2, eight rows at a time. */
#include "norm_avx2.h"

/* Rows row .. row+7, of which `rows` are there. */
static void layer_norms(const bvt_call *call, uint32_t row, uint32_t rows) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *gamma = bvt_row_f32(&call->in[1], 0), *beta = bvt_row_f32(&call->in[2], 0);
    for (uint32_t from = 0; from < channels; from += n) {
        norm_rows t;
        float inverse[NORM_ROWS];
        for (uint32_t r = 0; r < NORM_ROWS; r++) t.x[r] = bvt_row_f32(&call->in[0], row + bvt_min_u32(r, rows - 1)) + from;
        norm_moments(&t, n, call->op->fattr[0]);
        _mm256_storeu_ps(inverse, _mm256_div_ps(_mm256_set1_ps(1), _mm256_loadu_ps(t.deviation)));
        for (unsigned r = 0; r < rows; r++) { /* no row twice: the output may be where x is */
            const vf mean = vf_set(t.mean[r]), factor = vf_set(inverse[r]);
            float *y = (float *)bvt_row(&call->out[0], row + r) + from;
            for (uint32_t i = 0; i < n; i += VF_LANES) {
                const unsigned lanes = vf_min(n - i);
                const vf d = vf_mul(vf_sub(vf_load_n(t.x[r] + i, lanes), mean), factor);
                vf_store_n(y + i, vf_fma(d, vf_load_n(gamma + from + i, lanes), vf_load_n(beta + from + i, lanes)), lanes);
            }
        }
    }
}

void bvt_layer_norm_rows_avx2(const bvt_call *call, uint32_t row0, uint32_t row1) {
    for (uint32_t row = row0; row < row1; row += NORM_ROWS) layer_norms(call, row, bvt_min_u32(row1 - row, NORM_ROWS));
}
