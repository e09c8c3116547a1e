/* What the kernels of `channel_pool` share. */
#ifndef BVT_OPS_CHANNEL_POOL_H
#define BVT_OPS_CHANNEL_POOL_H
#include "../internal.h"
#include "../numerics.h"

/* The sum of a power of two of neighbours: of pairs, of pairs of their sums, and so on. */
static inline float bvt_pairs_sum(const float *x, uint32_t n) {
    float sums[32]; /* of 2^i neighbours each, i falling; bit i of the count of x that were taken says that there is one */
    unsigned top = 0;
    for (uint32_t i = 0; i < n; i++) {
        float sum = x[i];
        for (uint32_t taken = i; taken & 1; taken >>= 1) sum = sums[--top] + sum;
        sums[top++] = sum;
    }
    return sums[0];
}

#endif
