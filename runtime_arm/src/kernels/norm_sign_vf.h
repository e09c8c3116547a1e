/* norm_sign over vectors of channels, with bits along the rows: eight channels are a byte. Groups of broken bytes and layout
 * COLS are left to the reference. */
#include "norm_vf.h"

/* R rows from `row` on. */
VF_INLINE void norm_signs(const bvt_call *call, uint32_t row, const unsigned R) {
    const uint32_t channels = call->in[0].cols, n = channels / (uint32_t)call->op->attr[0];
    const float *cut = bvt_row_f32(&call->in[1], 0), *direction = bvt_row_f32(&call->in[2], 0);
    const bvt_view *out = &call->out[0];
    const size_t used = (channels + 7) / 8;
    for (uint32_t from = 0; from < channels; from += n) {
        const float *x[VF_NORM_ROWS];
        float mean[VF_NORM_ROWS], deviation[VF_NORM_ROWS];
        for (unsigned r = 0; r < R; r++) x[r] = bvt_row_f32(&call->in[0], row + r) + from;
        vf_norm_moments(x, n, call->op->fattr[0], mean, deviation, R);
        for (uint32_t i = 0; i < n; i += VF_LANES) {
            const unsigned lanes = vf_min(n - i);
            const vf toward = vf_load_n(direction + from + i, lanes), least = vf_load_n(cut + from + i, lanes);
            for (unsigned r = 0; r < R; r++) {
                const vf d = vf_mul(toward, vf_sub(vf_load_n(x[r] + i, lanes), vf_set(mean[r])));
                uint8_t *bits = bvt_row(out, row + r);
                bits[(from + i) / 8] = (uint8_t)(vf_ge(d, vf_mul(least, vf_set(deviation[r]))) & (0xFFu >> (8 - lanes)));
            }
        }
    }
    for (unsigned r = 0; r < R; r++) memset((uint8_t *)bvt_row(out, row + r) + used, 0, out->stride - used);
}

void VF_KERNEL(norm_sign)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t groups = (uint32_t)call->op->attr[0];
    if (call->out[0].by_cols || (groups > 1 && call->in[0].cols / groups % 8)) {
        bvt_norm_sign_ref(call, row0, row1);
        return;
    }
    uint32_t row = row0;
    for (; row + VF_NORM_ROWS <= row1; row += VF_NORM_ROWS) norm_signs(call, row, VF_NORM_ROWS);
    for (; row < row1; row++) norm_signs(call, row, 1);
}
