/* dense_i8 over AVX2: codes and weights are widened to 16 bits, VPMADDWD multiplies 4 columns of 4 channels and adds pairs.
 * Codes lie in scratch with 16 bits each; rows are quantised 8 at a time and meet the weights in tiles of 2 rows x 16 channels. */
#include <immintrin.h>

#include "../ops/dense_i8.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS 8u
#define TILE 2u

static float row_codes(int16_t *codes, const float *x, uint32_t cols) {
    const __m256i magnitude = _mm256_set1_epi32(INT32_MAX);
    __m256i most = _mm256_setzero_si256();
    uint32_t k = 0;
    for (; k + 8 <= cols; k += 8)
        most = _mm256_max_epi32(most, _mm256_and_si256(magnitude, _mm256_loadu_si256((const __m256i *)(const void *)(x + k))));
    float all[9];
    _mm256_storeu_si256((__m256i *)(void *)all, most);
    all[8] = bvt_i8_magnitude(x + k, cols - k);
    const float m = bvt_i8_magnitude(all, 9), inverse = bvt_i8_inverse(m);
    if (inverse == 0) memset(codes, 0, 2 * bvt_i8_padded(cols));
    const __m256 factor = _mm256_set1_ps(inverse), whole = _mm256_set1_ps(0x1.8p23f);
    for (k = 0; inverse != 0 && k < cols; k += 16) {
        float rest[16] = {0};
        const float *from = x + k;
        if (k + 16 > cols) from = memcpy(rest, from, (cols - k) * sizeof *rest);
        const __m256i base = _mm256_castps_si256(whole);
        const __m256i a = _mm256_sub_epi32(_mm256_castps_si256(_mm256_fmadd_ps(_mm256_loadu_ps(from), factor, whole)), base);
        const __m256i b = _mm256_sub_epi32(_mm256_castps_si256(_mm256_fmadd_ps(_mm256_loadu_ps(from + 8), factor, whole)), base);
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
        _mm256_storeu_si256((__m256i *)(void *)(codes + k), both);
    }
    return m / 127.0f;
}

/* Sums of TILE rows and 16 channels. */
INLINE void tile(int32_t sums[TILE][16], const int16_t *const codes[TILE], const int8_t *weight, uint32_t steps) {
    __m256i acc[TILE][4];
    for (unsigned r = 0; r < TILE; r++)
        for (unsigned q = 0; q < 4; q++) acc[r][q] = _mm256_setzero_si256();
    for (uint32_t s = 0; s < steps; s++, weight += 64) {
        __m256i x[TILE];
        for (unsigned r = 0; r < TILE; r++) {
            int64_t quad;
            memcpy(&quad, codes[r] + 4 * s, sizeof quad);
            x[r] = _mm256_set1_epi64x(quad);
        }
        for (unsigned q = 0; q < 4; q++) {
            const __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(weight + 16 * q)));
            for (unsigned r = 0; r < TILE; r++) acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(w, x[r]));
        }
    }
    for (unsigned r = 0; r < TILE; r++)
        for (unsigned h = 0; h < 2; h++) { /* two halves of a channel lie beside each other */
            const __m256i pairs = _mm256_hadd_epi32(acc[r][2 * h], acc[r][2 * h + 1]);
            _mm256_storeu_si256((__m256i *)(void *)(sums[r] + 8 * h), _mm256_permute4x64_epi64(pairs, 0xD8));
        }
}

void bvt_dense_i8_avx2(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t cols = call->in[0].cols, outputs = call->out[0].cols;
    const size_t line = bvt_i8_padded(cols);
    const float *scale = bvt_row_f32(&call->in[2], 0), *bias = call->in[3].base ? bvt_row_f32(&call->in[3], 0) : NULL;
    int16_t *const scratch = call->scratch;
    for (uint32_t first = row0; first < row1; first += ROWS) {
        const uint32_t rows = bvt_min_u32(ROWS, row1 - first);
        float step[ROWS];
        for (uint32_t r = 0; r < rows; r++) step[r] = row_codes(scratch + r * line, bvt_row_f32(&call->in[0], first + r), cols);
        for (uint32_t o = 0; o < outputs; o += 16) {
            const int8_t *weight = (const int8_t *)call->in[1].base + o / 16 * call->in[1].stride;
            for (uint32_t r = 0; r < rows; r += TILE) {
                const int16_t *const codes[TILE] = {scratch + r * line, scratch + bvt_min_u32(r + 1, rows - 1) * line};
                int32_t sums[TILE][16];
                tile(sums, codes, weight, (cols + 3) / 4);
                for (unsigned i = 0; i < TILE && r + i < rows; i++) {
                    float *y = (float *)bvt_row(&call->out[0], first + r + i) + o;
                    for (uint32_t c = 0; c < bvt_min_u32(16, outputs - o); c++)
                        y[c] = bvt_i8_output(sums[i][c], step[r + i], scale[o + c], bias ? bias + o + c : NULL);
                }
            }
        }
    }
}
