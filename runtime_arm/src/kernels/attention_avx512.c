/* attention for AVX-512 with VPOPCNTDQ, in the plain form with heads of one 64-bit word: the head's keys become an array of words and
 * its value columns words side by side, once for all rows of the call; then eight keys, or eight channels, are one register.
 *
 * Scores are bytes, so that 64 compares with the row's threshold are one mask word. Wider heads, more keys than the stack takes and
 * the other forms go row by row.
 */
#include <immintrin.h>

#include "attention_rows.h"

#define MOST_KEYS 1024u /* 8 KiB of keys, as much of values a 64 channels: little enough for the smallest stacks that threads have */

typedef struct {
    _Alignas(64) uint64_t keys[MOST_KEYS], values[MOST_KEYS]; /* values: [word of 64 keys][channel] */
    _Alignas(64) uint8_t score[MOST_KEYS];
} head_words;

static void load_head(head_words *w, const bvt_view *k, const bvt_view *v, uint32_t h, uint32_t d, uint32_t m) {
    const uint32_t bytes = d / 8, words = (m + 63) / 64;
    const uint8_t *key = k->base + h * bytes;
    for (uint32_t j = 0; j < m; j++, key += k->stride) w->keys[j] = load_word(key, bytes);
    memset(w->keys + m, 0, (64 * words - m) * sizeof *w->keys);
    memset(w->values, 0, 64 * words * sizeof *w->values);
    for (uint32_t c = 0; c < d; c++) {
        const uint8_t *column = v->base + (size_t)(h * d + c) * v->stride;
        for (uint32_t i = 0; i < words; i++) memcpy(&w->values[64 * i + c], column + (size_t)i * 8, 8);
    }
}

/* Distances of a query to all keys, less the least of them. */
static void relative_scores(head_words *w, uint64_t query, uint32_t m) {
    const __m512i q = _mm512_set1_epi64((long long)query);
    __m512i least = _mm512_set1_epi8(127);
    for (uint32_t j = 0; j < m; j += 64) {
        for (uint32_t i = 0; i < 64; i += 8) {
            const __m512i differ = _mm512_popcnt_epi64(_mm512_xor_si512(q, _mm512_load_si512(w->keys + j + i)));
            _mm_storel_epi64((__m128i *)(void *)(w->score + j + i), _mm512_cvtepi64_epi8(differ));
        }
        const __mmask64 there = m - j < 64 ? ((__mmask64)1 << (m - j)) - 1 : ~(__mmask64)0;
        least = _mm512_mask_min_epu8(least, there, least, _mm512_load_si512(w->score + j));
    }
    const __m256i half = _mm256_min_epu8(_mm512_castsi512_si256(least), _mm512_extracti64x4_epi64(least, 1));
    const __m128i quarter = _mm_min_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128i pairs = _mm_min_epu8(quarter, _mm_srli_epi16(quarter, 8)); /* low bytes of 16 */
    const int low = _mm_extract_epi16(_mm_minpos_epu16(_mm_and_si128(pairs, _mm_set1_epi16(255))), 0);
    for (uint32_t j = 0; j < m; j += 64)
        _mm512_store_si512(w->score + j, _mm512_sub_epi8(_mm512_load_si512(w->score + j), _mm512_set1_epi8((char)low)));
}

/* The sum of the scores' table entries, eight of them at a time. */
static uint64_t table_sum(const uint8_t *score, const uint64_t *table, uint32_t m) {
    uint64_t a = 0, b = 0;
    uint32_t j = 0;
    for (; j + 8 <= m; j += 8) {
        uint64_t x;
        memcpy(&x, score + j, 8);
        a += table[x & 255] + table[x >> 16 & 255] + table[x >> 32 & 255] + table[x >> 48 & 255];
        b += table[x >> 8 & 255] + table[x >> 24 & 255] + table[x >> 40 & 255] + table[x >> 56];
    }
    for (; j < m; j++) a += table[score[j]];
    return a + b;
}

/* out[c] = (values of the keys with score <= last) = 2 * (how many of them are +1) - (how many). */
static void context(int32_t *out, const head_words *w, int last, uint32_t d, uint32_t m) {
    __m512i count[8];
    int32_t ones = 0;
    for (uint32_t c = 0; c < 8; c++) count[c] = _mm512_setzero_si512();
    for (uint32_t j = 0; j < m; j += 64) {
        const __mmask64 there = m - j < 64 ? ((__mmask64)1 << (m - j)) - 1 : ~(__mmask64)0;
        const uint64_t mask = last < 0 ? 0
                                       : _mm512_mask_cmple_epu8_mask(there, _mm512_load_si512(w->score + j),
                                                                     _mm512_set1_epi8((char)last));
        const __m512i keys = _mm512_set1_epi64((long long)mask);
        ones += __builtin_popcountll(mask);
        for (uint32_t c = 0; c < 8; c++)
            count[c] = _mm512_add_epi64(count[c], _mm512_popcnt_epi64(_mm512_and_si512(keys, _mm512_load_si512(w->values + j + 8 * c))));
    }
    for (uint32_t c = 0; 8 * c < d; c++) {
        const __m256i twice = _mm256_slli_epi32(_mm512_cvtepi64_epi32(count[c]), 1);
        _mm256_storeu_si256((__m256i *)(void *)(out + 8 * c), _mm256_sub_epi32(twice, _mm256_set1_epi32(ones)));
    }
}

void bvt_attention_avx512(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t heads = (uint32_t)call->op->attr[0], d = call->in[0].cols / heads, m = call->in[1].rows;
    if (!bvt_attention_plain(call) || d % 8 || d > 64 || m > MOST_KEYS) {
        attention_rows(call, row0, row1);
        return;
    }
    const double *limit = bvt_row(&call->in[BVT_ATTENTION_LIMIT], 0);
    head_words w;
    for (uint32_t h = 0; h < heads; h++) {
        const uint64_t *table = bvt_attention_table(call, h);
        load_head(&w, &call->in[1], &call->in[2], h, d, m);
        for (uint32_t i = row0; i < row1; i++) {
            relative_scores(&w, load_word(bvt_row_bits(&call->in[0], i) + h * (d / 8), d / 8), m);
            const int last = bvt_attention_last(table, d, limit[h] * (double)table_sum(w.score, table, m));
            context((int32_t *)bvt_row(&call->out[0], i) + (size_t)h * d, &w, last, d, m);
        }
    }
}
