/* The moments of a row norm for AVX2, of eight rows at a time: their sums do not wait for each other, and from the eight lanes of
 * eight sums (the definition's, bvt_lanes_sum) on they are one vector. Where rows are missing, the last one stands in for them.
 */
#ifndef BVT_NORM_AVX2_H
#define BVT_NORM_AVX2_H
#include "../ops/norm.h"
#include "vf.h"

#define NORM_ROWS 8u

/* 8 rows of a group of n channels; mean and deviation in the order of the rows. */
typedef struct {
    const float *x[NORM_ROWS];
    float mean[NORM_ROWS], deviation[NORM_ROWS];
} norm_rows;

/* Lane r: the sum of s[r]'s lanes. */
VF_INLINE __m256 norm_sums(const __m256 s[NORM_ROWS]) {
    __m256 quarter[4], pair[2];
    for (unsigned i = 0; i < 4; i++) /* row 2i and row 2i+1: lane + lane 4 on */
        quarter[i] = _mm256_add_ps(_mm256_permute2f128_ps(s[2 * i], s[2 * i + 1], 0x20),
                                   _mm256_permute2f128_ps(s[2 * i], s[2 * i + 1], 0x31));
    for (unsigned i = 0; i < 2; i++) {
        const __m256d a = _mm256_castps_pd(quarter[2 * i]), b = _mm256_castps_pd(quarter[2 * i + 1]);
        pair[i] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    const __m256 sum = _mm256_add_ps(_mm256_shuffle_ps(pair[0], pair[1], 0x88), _mm256_shuffle_ps(pair[0], pair[1], 0xDD));
    return _mm256_permutevar8x32_ps(sum, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

VF_INLINE void norm_moments(norm_rows *t, uint32_t n, float eps) {
    const __m256 reciprocal = _mm256_set1_ps(bvt_reciprocal(n));
    const uint32_t whole = n - n % VF_LANES;
    __m256 sum[NORM_ROWS], mean[NORM_ROWS];
    for (unsigned r = 0; r < NORM_ROWS; r++) sum[r] = _mm256_setzero_ps();
    for (uint32_t i = 0; i < whole; i += VF_LANES)
        for (unsigned r = 0; r < NORM_ROWS; r++) sum[r] = _mm256_add_ps(sum[r], _mm256_loadu_ps(t->x[r] + i));
    if (whole < n)
        for (unsigned r = 0; r < NORM_ROWS; r++) sum[r] = _mm256_add_ps(sum[r], vf_load_n(t->x[r] + whole, n - whole));
    _mm256_storeu_ps(t->mean, _mm256_mul_ps(norm_sums(sum), reciprocal));
    for (unsigned r = 0; r < NORM_ROWS; r++) sum[r] = _mm256_setzero_ps(), mean[r] = _mm256_set1_ps(t->mean[r]);
    for (uint32_t i = 0; i < whole; i += VF_LANES)
        for (unsigned r = 0; r < NORM_ROWS; r++) {
            const __m256 d = _mm256_sub_ps(_mm256_loadu_ps(t->x[r] + i), mean[r]);
            sum[r] = _mm256_fmadd_ps(d, d, sum[r]);
        }
    if (whole < n) {
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256 there = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n - whole)), lane));
        for (unsigned r = 0; r < NORM_ROWS; r++) {
            const __m256 d = _mm256_and_ps(there, _mm256_sub_ps(vf_load_n(t->x[r] + whole, n - whole), mean[r]));
            sum[r] = _mm256_fmadd_ps(d, d, sum[r]);
        }
    }
    const __m256 variance = _mm256_mul_ps(norm_sums(sum), reciprocal);
    _mm256_storeu_ps(t->deviation, _mm256_sqrt_ps(_mm256_add_ps(variance, _mm256_set1_ps(eps))));
}

#endif
