/* avg_pool: mean over k x k windows of a grid.
 *
 *     in f32[(H*W) x C]      out f32[(Ho*Wo) x C], Ho = (H + 2p - k)/s + 1      attr[0..4] = H, W, k, s, p (p < k)
 *     sum of the window's taps that lie on the grid, row by row, left to right, from the first one on, rounded after every
 *     addition; times fp32(1/(k*k))
 *     Both may be F16: computed in fp32 on the widened numbers, and rounded at the end.
 */
#include "../half.h"
#include "../numerics.h"
#include "pool.h"

int bvt_check_avg_pool(bvt_check *c) { return bvt_check_pool(c); }

void bvt_avg_pool_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bool half = call->in[0].dtype == BVT_DTYPE_F16;
    const int32_t *a = call->op->attr;
    const uint32_t channels = call->in[0].cols;
    const float reciprocal = bvt_reciprocal((uint32_t)a[2] * (uint32_t)a[2]);
    for (uint32_t row = row0; row < row1; row++) {
        const bvt_pool_window w = bvt_pool_at(a, row);
        void *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c++) {
            float sum = -0.0f; /* which leaves the first tap as it is */
            for (uint32_t y = w.y0; y < w.y1; y++)
                for (uint32_t x = w.x0; x < w.x1; x++) sum += bvt_get_real(bvt_row(&call->in[0], y * w.width + x), c, half);
            bvt_put_real(out, c, sum * reciprocal, half);
        }
    }
}
