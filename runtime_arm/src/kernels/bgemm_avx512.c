/* bgemm for AVX-512 with VPOPCNTDQ and VBMI. A 32-bit lane is an output channel: four steps of a weight tile (64 bytes, 4 x 16
 * channels) become one register of 16 channels x 32 bits by a byte permutation, an activation's 4 bytes are broadcast from memory,
 * and xor, popcount and addition are three instructions for 512 bits. Counters have 32 bits and never need emptying.
 *
 * A tile of R rows x T weight tiles keeps its counters in registers; the permutation is done once for R rows.
 */
#include <immintrin.h>

#include "../ops/bgemm.h"

#define INLINE static inline __attribute__((always_inline))
#define ROWS 8 /* rows of a register tile */

/* Byte 16*s + c of a tile goes to byte 4*c + s. */
INLINE __m512i lanes_of_steps(void) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_add_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(0x01010101)), _mm512_set1_epi32(0x30201000));
}

/* The first n (1..4) bytes of a row's segment as a word; the others are 0, and are not read. */
INLINE __m512i load_bytes(const uint8_t *p, uint32_t n) {
    uint32_t word = 0;
    if (n == 4) memcpy(&word, p, 4);
    else
        for (uint32_t i = 0; i < n; i++) word |= (uint32_t)p[i] << 8 * i;
    return _mm512_set1_epi32((int)word);
}

/* Rows row .. row+R-1 and T weight tiles from `tile` on, of which n channels are there (n > 16*(T-1)). all: K, or of trits how
 * many of a row's codes are not 0. */
INLINE void bgemm_tile(const bvt_call *call, uint32_t row, uint32_t tile, uint32_t n, const unsigned R, const unsigned T,
                        const int32_t *all, const bool trits) {
    const uint32_t k = call->in[1].cols, steps = (k + 7) / 8, words = steps / 4, rest = steps % 4;
    const size_t at = bvt_bgemm_segment(call, tile), w_stride = call->in[1].stride;
    const __m512i lanes = lanes_of_steps();
    const __mmask64 there = ((__mmask64)1 << 16 * rest) - 1;
    const uint8_t *w[2] = {call->in[1].base + tile * w_stride, call->in[1].base + (tile + T - 1) * w_stride};
    const uint8_t *x[ROWS], *some[ROWS] = {NULL};
    __m512i count[ROWS][2];
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_bits(&call->in[0], row + r) + at;
        if (trits) some[r] = x[r] + bvt_plane(call->in[0].cols);
        for (unsigned t = 0; t < T; t++) count[r][t] = _mm512_setzero_si512();
    }
#define STEP(bytes, load)                                                                                              \
    {                                                                                                                  \
        __m512i weight[2];                                                                                             \
        for (unsigned t = 0; t < T; t++) weight[t] = _mm512_permutexvar_epi8(lanes, load);                             \
        for (unsigned r = 0; r < R; r++) {                                                                             \
            const __m512i code = load_bytes(x[r] + 4 * (size_t)i, bytes);                                              \
            const __m512i mask = trits ? load_bytes(some[r] + 4 * (size_t)i, bytes) : code;                            \
            for (unsigned t = 0; t < T; t++) {                                                                         \
                /* 0x28: (weight xor code) and mask */                                                                 \
                const __m512i differ = trits ? _mm512_ternarylogic_epi32(weight[t], code, mask, 0x28)                  \
                                             : _mm512_xor_si512(weight[t], code);                                      \
                count[r][t] = _mm512_add_epi32(count[r][t], _mm512_popcnt_epi32(differ));                              \
            }                                                                                                          \
        }                                                                                                              \
    }
    uint32_t i = 0;
    for (; i < words; i++) STEP(4, _mm512_loadu_si512(w[t] + 64 * (size_t)i))
    if (rest) STEP(rest, _mm512_maskz_loadu_epi8(there, w[t] + 64 * (size_t)i))
#undef STEP
    for (unsigned r = 0; r < R; r++) {
        const __m512i ones = _mm512_set1_epi32(all[r]);
        int16_t *y = (int16_t *)bvt_row(&call->out[0], row + r) + 16 * (size_t)tile;
        for (unsigned t = 0; t < T; t++) {
            const uint32_t left = n - 16 * t;
            const __mmask16 valid = left >= 16 ? 0xFFFF : (__mmask16)((1u << left) - 1);
            const __m512i dots = _mm512_sub_epi32(ones, _mm512_slli_epi32(count[r][t], 1));
            _mm256_mask_storeu_epi16(y + 16 * t, valid, _mm512_cvtepi32_epi16(dots));
        }
    }
}

INLINE void bgemm_rows(const bvt_call *call, uint32_t row, const unsigned R, const bool trits) {
    const uint32_t groups = call->in[0].cols / call->in[1].cols, outputs = call->out[0].cols / groups;
    for (uint32_t g = 0; g < groups; g++) {
        const uint32_t first = g * outputs;
        int32_t all[ROWS];
        for (unsigned r = 0; r < R; r++) {
            const size_t at = bvt_bgemm_segment(call, first / 16);
            all[r] = (int32_t)call->in[1].cols;
            if (trits) all[r] = bvt_bgemm_ones(bvt_row_bits(&call->in[0], row + r) + bvt_plane(call->in[0].cols) + at, call->in[1].cols);
        }
        uint32_t o = 0;
        for (; o + 16 < outputs; o += 32) bgemm_tile(call, row, (first + o) / 16, bvt_min_u32(outputs - o, 32), R, 2, all, trits);
        if (o < outputs) bgemm_tile(call, row, (first + o) / 16, outputs - o, R, 1, all, trits);
    }
}

INLINE void bgemm_all(const bvt_call *call, uint32_t row0, uint32_t row1, const bool trits) {
    uint32_t row = row0;
    for (; row + ROWS <= row1; row += ROWS) bgemm_rows(call, row, ROWS, trits);
    for (; row < row1; row++) bgemm_rows(call, row, 1, trits);
}

void bvt_bgemm_avx512(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (!bvt_bgemm_tiles(call)) bvt_bgemm_ref(call, row0, row1);
    else if (call->in[0].dtype == BVT_DTYPE_TRITS) bgemm_all(call, row0, row1, true);
    else bgemm_all(call, row0, row1, false);
}
