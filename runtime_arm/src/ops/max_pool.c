/* max_pool: the largest of k x k windows of a grid.
 *
 *     in f32[(H*W) x C]      out f32[(Ho*Wo) x C], Ho = (H + 2p - k)/s + 1      attr[0..4] = H, W, k, s, p (p < k)
 *     m = -inf; the window's taps that lie on the grid, row by row, left to right: m = x > m ? x : m
 *     Both may be F16.
 */
#include "../half.h"
#include "../numerics.h"
#include "pool.h"

int bvt_check_max_pool(bvt_check *c) { return bvt_check_pool(c); }

void bvt_max_pool_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bool half = call->in[0].dtype == BVT_DTYPE_F16;
    const uint32_t channels = call->in[0].cols;
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(call->op->attr, row);
        void *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c++) bvt_put_real(out, c, -INFINITY, half);
        for (uint32_t y = w.y0; y < w.y1; y++)
            for (uint32_t x = w.x0; x < w.x1; x++) {
                const void *tap = bvt_row(&call->in[0], y * w.width + x);
                for (uint32_t c = 0; c < channels; c++) {
                    const float v = bvt_get_real(tap, c, half), most = bvt_get_real(out, c, half);
                    bvt_put_real(out, c, v > most ? v : most, half);
                }
            }
    }
}
