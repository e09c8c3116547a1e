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

/* A mean of 2 x 2 pixels, the first of which is row `at`, 2 vectors at a time: nothing is asked on the way. */
VF_INLINE void mean_of_four(const bvt_view *in, uint32_t at, uint32_t width, float *out, vf factor) {
    const size_t pixel = in->stride / sizeof(float), line = width * pixel;
    const float *from = bvt_row_f32(in, at);
    for (uint32_t c = 0; c < in->cols; c += 2 * VF_LANES, from += 2 * VF_LANES, out += 2 * VF_LANES)
        for (unsigned i = 0; i < 2 * VF_LANES; i += VF_LANES) {
            const vf above = vf_add(vf_load(from + i), vf_load(from + pixel + i));
            const vf sum = vf_add(vf_add(above, vf_load(from + line + i)), vf_load(from + line + pixel + i));
            vf_store(out + i, vf_mul(sum, factor));
        }
}

VF_INLINE void pool_rows(const bvt_call *call, uint32_t row0, uint32_t row1, const bool most) {
    const int32_t *a = call->op->attr;
    const bvt_view *in = &call->in[0];
    const uint32_t channels = in->cols, width = (uint32_t)a[1];
    const vf factor = vf_set(bvt_reciprocal((uint32_t)a[2] * (uint32_t)a[2]));
    if (!most && a[2] == 2 && a[3] == 2 && a[4] == 0 && channels % (2 * VF_LANES) == 0) {
        uint32_t y = row0 / (width / 2), x = row0 % (width / 2);
        for (uint32_t row = row0; row < row1; row++) {
            mean_of_four(in, 2 * (y * width + x), width, bvt_row(&call->out[0], row), factor);
            if (++x == width / 2) x = 0, y++;
        }
        return;
    }
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(a, row);
        float *out = bvt_row(&call->out[0], row);
        uint32_t c = 0;
        for (; c + 4 * VF_LANES <= channels; c += 4 * VF_LANES) pool_channels(in, &w, out, c, factor, most, 4, VF_LANES);
        for (; c < channels; c += VF_LANES) pool_channels(in, &w, out, c, factor, most, 1, vf_min(channels - c));
    }
}
