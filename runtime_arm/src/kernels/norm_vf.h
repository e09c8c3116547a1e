/* The moments of a row norm over vectors of channels: the lanes of its sums are those of the definition, eight. */
#ifndef BVT_NORM_VF_H
#define BVT_NORM_VF_H
#include "../ops/norm.h"
#include "vf.h"

_Static_assert(VF_LANES == 8, "the definition's sums have 8 lanes");

#define VF_NORM_ROWS 4 /* rows at a time: their sums do not wait for each other */

/* Mean and sqrt(variance + eps) of n channels of R rows. */
VF_INLINE void vf_norm_moments(const float *const x[VF_NORM_ROWS], uint32_t n, float eps, float mean[VF_NORM_ROWS],
                               float deviation[VF_NORM_ROWS], const unsigned R) {
    const float reciprocal = bvt_reciprocal(n);
    const uint32_t whole = n - n % VF_LANES;
    float lanes[VF_LANES];
    vf sum[VF_NORM_ROWS];
    for (unsigned r = 0; r < R; r++) sum[r] = vf_set(0);
    for (uint32_t i = 0; i < whole; i += VF_LANES)
        for (unsigned r = 0; r < R; r++) sum[r] = vf_add(sum[r], vf_load(x[r] + i));
    for (unsigned r = 0; r < R; r++) {
        vf_store(lanes, sum[r]);
        for (uint32_t i = whole; i < n; i++) lanes[i - whole] += x[r][i];
        mean[r] = bvt_lanes_sum(lanes) * reciprocal;
        sum[r] = vf_set(0);
    }
    for (uint32_t i = 0; i < whole; i += VF_LANES)
        for (unsigned r = 0; r < R; r++) {
            const vf d = vf_sub(vf_load(x[r] + i), vf_set(mean[r]));
            sum[r] = vf_fma(d, d, sum[r]);
        }
    for (unsigned r = 0; r < R; r++) {
        vf_store(lanes, sum[r]);
        for (uint32_t i = whole; i < n; i++) {
            const float d = x[r][i] - mean[r];
            lanes[i - whole] = bvt_fma(d, d, lanes[i - whole]);
        }
        deviation[r] = sqrtf(bvt_lanes_sum(lanes) * reciprocal + eps);
    }
}

#endif
