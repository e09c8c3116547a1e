/* What the kernels of `attention` share. */
#ifndef BVT_OPS_ATTENTION_H
#define BVT_OPS_ATTENTION_H
#include "../internal.h"

/* Scratch of the row-wise kernels (every op has it): u16 scores[M], then the row's mask as 64-bit words. */
static inline uint64_t bvt_attention_mask_at(uint64_t m) { return bvt_align64(2 * m); }
static inline uint64_t bvt_attention_scratch(uint64_t m) { return bvt_attention_mask_at(m) + bvt_align64(bvt_ceil_div(m, 64) * 8); }

/* Scratch of the kernels that take 16 queries at a time, where they use it (they go row by row where an op has less):
 * u8 scores[M][16], then masks [ceil(M/8)][16] whose byte lane is the query. */
static inline uint64_t bvt_attention_mask16_at(uint64_t m) { return bvt_align64(16 * m); }
static inline uint64_t bvt_attention_scratch16(uint64_t m) {
    return bvt_attention_mask16_at(m) + bvt_align64(16 * bvt_ceil_div(m, 8));
}

/* T: the largest m in 0 .. d with float64(table[m]) > lim, or -1. The table does not increase. */
static inline int bvt_attention_last(const uint64_t *table, uint32_t d, double lim) {
    int lo = 0, hi = (int)d + 1; /* table[0 .. lo) is above lim, table[hi ..] is not */
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((double)table[mid] > lim) lo = mid + 1;
        else hi = mid;
    }
    return lo - 1;
}

#endif
