/* norm_sign for AVX2, eight rows at a time, with bits along the rows: eight channels are a byte. Groups of broken bytes and
 * layout COLS are left to the reference. */
#include "norm_avx2.h"

/* Rows row .. row+7, of which `rows` are there. */
static void norm_signs(const bvt_call *call, uint32_t row, uint32_t rows) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *cut = bvt_row_f32(&call->in[1], 0), *direction = bvt_row_f32(&call->in[2], 0);
    const bvt_view *out = &call->out[0];
    const size_t used = (channels + 7) / 8;
    uint8_t *bits[NORM_ROWS];
    for (uint32_t r = 0; r < NORM_ROWS; r++) bits[r] = bvt_row(out, row + bvt_min_u32(r, rows - 1));
    for (uint32_t from = 0; from < channels; from += n) {
        norm_rows t;
        __m256 mean[NORM_ROWS], deviation[NORM_ROWS];
        for (uint32_t r = 0; r < NORM_ROWS; r++) t.x[r] = bvt_row_f32(&call->in[0], row + bvt_min_u32(r, rows - 1)) + from;
        norm_moments(&t, n, call->op->fattr[0]);
        for (unsigned r = 0; r < NORM_ROWS; r++) mean[r] = _mm256_set1_ps(t.mean[r]), deviation[r] = _mm256_set1_ps(t.deviation[r]);
        uint32_t i = 0;
        for (; i + VF_LANES <= n; i += VF_LANES) {
            const __m256 toward = _mm256_loadu_ps(direction + from + i), least = _mm256_loadu_ps(cut + from + i);
            for (unsigned r = 0; r < NORM_ROWS; r++) {
                const __m256 d = _mm256_mul_ps(toward, _mm256_sub_ps(_mm256_loadu_ps(t.x[r] + i), mean[r]));
                bits[r][(from + i) / 8] = (uint8_t)vf_ge(d, _mm256_mul_ps(least, deviation[r]));
            }
        }
        if (i < n) { /* then there is one group */
            const __m256 toward = vf_load_n(direction + i, n - i), least = vf_load_n(cut + i, n - i);
            for (unsigned r = 0; r < NORM_ROWS; r++) {
                const __m256 d = _mm256_mul_ps(toward, _mm256_sub_ps(vf_load_n(t.x[r] + i, n - i), mean[r]));
                bits[r][i / 8] = (uint8_t)(vf_ge(d, _mm256_mul_ps(least, deviation[r])) & (0xFFu >> (8 - (n - i))));
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) memset(bits[r] + used, 0, out->stride - used);
}

void bvt_norm_sign_avx2(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t groups = (uint32_t)call->op->attr[0];
    if (call->out[0].by_cols || (groups > 1 && call->in[0].cols / groups % 8)) {
        bvt_norm_sign_ref(call, row0, row1);
        return;
    }
    for (uint32_t row = row0; row < row1; row += NORM_ROWS) norm_signs(call, row, bvt_min_u32(row1 - row, NORM_ROWS));
}
