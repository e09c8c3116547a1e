/* What the row norms share. */
#ifndef BVT_OPS_NORM_H
#define BVT_OPS_NORM_H
#include "../internal.h"
#include "../numerics.h"

/* Inputs 0..2 are x f32[N x C] and two rows of C; attr[0] = G groups of channels, fattr[0] = eps. */
int bvt_check_norm(bvt_check *c);

/* Rows that are widened at a time: x of F16 has scratch for so many. A multiple of 8, as kernels want it. */
#define BVT_WIDENED_ROWS 8u

/* Runs a kernel of f32 on x of F16; `widen` makes floats of a row. */
void bvt_widen_rows(const bvt_call *call, uint32_t row0, uint32_t row1, void (*widen)(const uint16_t *, float *, uint32_t),
                    bvt_kernel kernel);
void bvt_widen_row_ref(const uint16_t *from, float *to, uint32_t n);

/* The sum of 8 lanes in its order. */
static inline float bvt_lanes_sum(const float s[8]) {
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* Mean and sqrt(variance + eps) of n channels. */
static inline void bvt_norm_moments(const float *x, uint32_t n, float eps, float *mean, float *deviation) {
    const float reciprocal = bvt_reciprocal(n);
    float s[8] = {0};
    for (uint32_t i = 0; i < n; i++) s[i % 8] += x[i];
    *mean = bvt_lanes_sum(s) * reciprocal;
    memset(s, 0, sizeof s);
    for (uint32_t i = 0; i < n; i++) {
        const float d = x[i] - *mean;
        s[i % 8] = bvt_fma(d, d, s[i % 8]);
    }
    *deviation = sqrtf(bvt_lanes_sum(s) * reciprocal + eps);
}

#endif
