/* What the kernels of `channel_pool` share. */
#ifndef BVT_OPS_CHANNEL_POOL_H
#define BVT_OPS_CHANNEL_POOL_H
#include "../half.h"
#include "../internal.h"
#include "../numerics.h"

/* The sum of n neighbours of a row from `at` on, a power of two: of pairs, of pairs of their sums, and so on. half: all are F16. */
static inline float bvt_pairs_sum(const void *row, uint32_t at, uint32_t n, bool half) {
    float sums[32]; /* of 2^i neighbours each, i falling; bit i of the count of x that were taken says that there is one */
    unsigned top = 0;
    for (uint32_t i = 0; i < n; i++) {
        float sum = bvt_get_real(row, at + i, half);
        for (uint32_t taken = i; taken & 1; taken >>= 1) sum = bvt_rounded(sums[--top] + sum, half);
        sums[top++] = sum;
    }
    return sums[0];
}

#endif
