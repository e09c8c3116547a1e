/* What avg_pool and max_pool share: attr[0..4] = H, W, k, s, p. */
#ifndef BVT_OPS_POOL_H
#define BVT_OPS_POOL_H
#include "../internal.h"

/* The whole check of either: x f32[(H*W) x C], output f32[(Ho*Wo) x C], or both F16. */
int bvt_check_pool(bvt_check *c);

/* The part of an output row's window that lies on the grid: rows y0 .. y1-1, columns x0 .. x1-1 (never empty, as p < k). */
typedef struct {
    uint32_t y0, y1, x0, x1, width;
} bvt_pool_window;

static inline bvt_pool_window bvt_pool_at(const int32_t *a, uint32_t row) {
    const int32_t out_w = (a[1] + 2 * a[4] - a[2]) / a[3] + 1;
    const int32_t y = (int32_t)row / out_w * a[3] - a[4], x = (int32_t)row % out_w * a[3] - a[4];
    return (bvt_pool_window){.y0 = (uint32_t)(y > 0 ? y : 0),
                             .y1 = (uint32_t)(y + a[2] < a[0] ? y + a[2] : a[0]),
                             .x0 = (uint32_t)(x > 0 ? x : 0),
                             .x1 = (uint32_t)(x + a[2] < a[1] ? x + a[2] : a[1]),
                             .width = (uint32_t)a[1]};
}

#endif
