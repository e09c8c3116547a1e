/* avg_pool and max_pool over vectors of channels: up to four at a time, so that a window is walked once for all of them. */
#include "../ops/pool.h"
#include "vf.h"

/* Channels c .. of a window in V vectors, of which the last has n channels. */
VF_INLINE void pool_channels(const bvt_view *in, const bvt_pool_window *w, float *out, uint32_t c, vf factor, const bool most,
                             const unsigned V, const unsigned n) {
    const size_t pixel = in->stride;
    const uint8_t *line = (const uint8_t *)(bvt_row_f32(in, w->y0 * w->width + w->x0) + c);
    vf v[4];
    for (unsigned i = 0; i < V; i++) v[i] = most ? vf_set(-INFINITY) : vf_load_n((const float *)(const void *)line + i * VF_LANES, n);
    const uint8_t *from = line + (most ? 0 : pixel); /* a sum starts with the first */
    for (uint32_t y = w->y0; y < w->y1; y++, line += w->width * pixel, from = line)
        for (const uint8_t *end = line + (w->x1 - w->x0) * pixel; from < end; from += pixel)
            for (unsigned i = 0; i < V; i++) {
                const vf x = vf_load_n((const float *)(const void *)from + i * VF_LANES, n);
                v[i] = most ? vf_max(x, v[i]) : vf_add(v[i], x);
            }
    for (unsigned i = 0; i < V; i++) vf_store_n(out + c + i * VF_LANES, most ? v[i] : vf_mul(v[i], factor), n);
}

VF_INLINE void pool_rows(const bvt_call *call, uint32_t row0, uint32_t row1, const bool most) {
    const int32_t *a = call->op->attr;
    const bvt_view *in = &call->in[0];
    const uint32_t channels = in->cols;
    const vf factor = vf_set(bvt_reciprocal((uint32_t)a[2] * (uint32_t)a[2]));
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(a, row);
        float *out = bvt_row(&call->out[0], row);
        uint32_t c = 0;
        for (; c + 4 * VF_LANES <= channels; c += 4 * VF_LANES) pool_channels(in, &w, out, c, factor, most, 4, VF_LANES);
        for (; c < channels; c += VF_LANES) pool_channels(in, &w, out, c, factor, most, 1, vf_min(channels - c));
    }
}
