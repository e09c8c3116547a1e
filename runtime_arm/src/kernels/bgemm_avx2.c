/* bgemm for AVX2: as for NEON (bgemm_neon.c), with two weight tiles of 16 channels in a register. A popcount of bytes is two
 * table look-ups of nibbles.
 */
#include <immintrin.h>

#include "../ops/bgemm.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST_STEPS 31u /* a step adds at most 8 to a u8 counter */

INLINE __m256i popcount_bytes(__m256i x) {
    const __m256i table =
        _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble)),
                           _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble)));
}

/* y = (first ? k : y) - 2*count, for the first n of 16 channels. */
INLINE void flush(int16_t *y, __m128i count, bool first, int16_t k, unsigned n) {
    int16_t part[16] = {0};
    int16_t *to = n == 16 ? y : part;
    if (n < 16 && !first) memcpy(part, y, n * sizeof *y);
    const __m256i twice = _mm256_slli_epi16(_mm256_cvtepu8_epi16(count), 1);
    const __m256i old = first ? _mm256_set1_epi16(k) : _mm256_loadu_si256((const __m256i *)(const void *)to);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_sub_epi16(old, twice));
    if (n < 16) memcpy(y, part, n * sizeof *y);
}

/* Rows row .. row+R-1 and P pairs of weight tiles from `tile` on. n is the number of channels that are there, at most 32*P: where
 * the second tile of a pair is missing, the first one is read twice. */
INLINE void bgemm_tile(const bvt_call *call, uint32_t row, uint32_t tile, uint32_t n, const unsigned R, const unsigned P,
                        const bool trits) {
    const uint32_t k = call->in[1].cols, steps = (k + 7) / 8;
    const uint8_t *x[4], *some[4] = {NULL}, *w[4];
    int16_t *y[4], ones[4];
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_bits(&call->in[0], row + r) + bvt_bgemm_segment(call, tile);
        if (trits) some[r] = x[r] + bvt_plane(call->in[0].cols);
        ones[r] = (int16_t)(trits ? bvt_bgemm_ones(some[r], k) : (int32_t)k);
        y[r] = (int16_t *)bvt_row(&call->out[0], row + r) + 16 * (size_t)tile;
    }
    for (unsigned t = 0; t < 2 * P; t++) w[t] = call->in[1].base + (tile + (t * 16 < n ? t : 0)) * call->in[1].stride;
    for (uint32_t done = 0; done < steps;) {
        const uint32_t chunk = steps - done <= MOST_STEPS ? steps - done : 24;
        __m256i count[4][2];
        for (unsigned r = 0; r < R; r++)
            for (unsigned p = 0; p < P; p++) count[r][p] = _mm256_setzero_si256();
        for (uint32_t s = done; s < done + chunk; s++) {
            __m256i weight[2];
            for (unsigned p = 0; p < P; p++)
                weight[p] = _mm256_loadu2_m128i((const __m128i *)(const void *)(w[2 * p + 1] + 16 * (size_t)s),
                                                (const __m128i *)(const void *)(w[2 * p] + 16 * (size_t)s));
            for (unsigned r = 0; r < R; r++) {
                const __m256i byte = _mm256_set1_epi8((char)x[r][s]), mask = _mm256_set1_epi8(trits ? (char)some[r][s] : -1);
                for (unsigned p = 0; p < P; p++) {
                    const __m256i differ = _mm256_xor_si256(byte, weight[p]);
                    count[r][p] = _mm256_add_epi8(count[r][p], popcount_bytes(trits ? _mm256_and_si256(differ, mask) : differ));
                }
            }
        }
        for (unsigned r = 0; r < R; r++)
            for (unsigned p = 0; p < P; p++) {
                const uint32_t left = n - 32 * p;
                flush(y[r] + 32 * p, _mm256_castsi256_si128(count[r][p]), done == 0, ones[r], left < 16 ? left : 16);
                if (left > 16)
                    flush(y[r] + 32 * p + 16, _mm256_extracti128_si256(count[r][p], 1), done == 0, ones[r],
                          left < 32 ? left - 16 : 16);
            }
        done += chunk;
    }
}

INLINE void bgemm_rows(const bvt_call *call, uint32_t row, const unsigned R, const bool trits) {
    const uint32_t groups = call->in[0].cols / call->in[1].cols, outputs = call->out[0].cols / groups;
    for (uint32_t g = 0; g < groups; g++) {
        const uint32_t first = g * outputs;
        uint32_t o = 0;
        for (; o + 64 <= outputs; o += 64) bgemm_tile(call, row, (first + o) / 16, 64, R, 2, trits);
        for (; o < outputs; o += 32) bgemm_tile(call, row, (first + o) / 16, bvt_min_u32(outputs - o, 32), R, 1, trits);
    }
}

INLINE void bgemm_all(const bvt_call *call, uint32_t row0, uint32_t row1, const bool trits) {
    uint32_t row = row0;
    for (; row + 4 <= row1; row += 4) bgemm_rows(call, row, 4, trits);
    for (; row < row1; row++) bgemm_rows(call, row, 1, trits);
}

void bvt_bgemm_avx2(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (!bvt_bgemm_tiles(call)) bvt_bgemm_ref(call, row0, row1);
    else if (call->in[0].dtype == BVT_DTYPE_TRITS) bgemm_all(call, row0, row1, true);
    else bgemm_all(call, row0, row1, false);
}
