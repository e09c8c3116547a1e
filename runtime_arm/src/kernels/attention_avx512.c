/* attention for AVX-512 with VPOPCNTDQ and VBMI, with heads of one 64-bit word: the head's keys are an array of words and its value columns
 * words side by side, made once for all rows of the call; then eight keys, or eight channels, are one register.
 *
 * In the plain form scores are bytes, so that 64 compares with the row's threshold are one mask word; the other forms go through
 * attention_general.h, whose scores, thresholds and contexts are done here. Wider heads and more keys than the stack takes go row by
 * row.
 */
#include <immintrin.h>

#include "attention_rows.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST_KEYS 1024u /* 8 KiB of keys, as much of values a 64 channels: little enough for the smallest stacks that threads have */

/* ---- Sums over a table of u64 --------------------------------------------------------------------------------------------- */

/* A table of up to 128 entries as bytes: plane p has byte p of each, so that two registers look up 64 at a time. */
#define MOST_ENTRIES 128u
typedef struct {
    _Alignas(64) uint8_t bytes[8][MOST_ENTRIES];
    unsigned planes; /* that are not 0 */
} byte_planes;

static void split_table(byte_planes *to, const uint64_t *table, uint32_t entries) {
    uint64_t any = 0;
    memset(to->bytes, 0, sizeof to->bytes);
    for (uint32_t i = 0; i < entries; i++) {
        any |= table[i];
        for (unsigned p = 0; p < 8; p++) to->bytes[p][i] = (uint8_t)(table[i] >> 8 * p);
    }
    for (to->planes = 0; to->planes < 8 && any >> 8 * to->planes; to->planes++) {}
}

/* Adds the entries at 64 indices, of which those in `there` count: sums of eight bytes of every plane. */
INLINE void add_entries(__m512i sum[8], const byte_planes *t, __m512i index, __mmask64 there) {
    for (unsigned p = 0; p < t->planes; p++) {
        const __m512i low = _mm512_load_si512(t->bytes[p]), high = _mm512_load_si512(t->bytes[p] + 64);
        const __m512i entry = _mm512_maskz_permutex2var_epi8(there, low, index, high);
        sum[p] = _mm512_add_epi64(sum[p], _mm512_sad_epu8(entry, _mm512_setzero_si512()));
    }
}

INLINE uint64_t whole_sum(const __m512i sum[8], unsigned planes) {
    __m512i whole = _mm512_setzero_si512();
    for (unsigned p = planes; p-- > 0;) whole = _mm512_add_epi64(_mm512_slli_epi64(whole, 8), sum[p]);
    return (uint64_t)_mm512_reduce_add_epi64(whole);
}

/* ---- The plain form -------------------------------------------------------------------------------------------------------- */

typedef struct {
    byte_planes table;
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

/* The sum of the scores' table entries. */
static uint64_t table_sum(const head_words *w, uint32_t m) {
    __m512i sum[8] = {0};
    for (uint32_t j = 0; j < m; j += 64) {
        const __mmask64 there = m - j < 64 ? ((__mmask64)1 << (m - j)) - 1 : ~(__mmask64)0;
        add_entries(sum, &w->table, _mm512_load_si512(w->score + j), there);
    }
    return whole_sum(sum, w->table.planes);
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

/* ---- The other forms ----------------------------------------------------------------------------------------------------- */

/* Value columns of a head, [plane of trits][word of 64 keys][channel], and its table if it has at most MOST_ENTRIES. */
typedef struct {
    byte_planes table;
    _Alignas(64) uint64_t values[2][MOST_KEYS];
} head_values;

static void general_head_512(const general_attention *a, const general_head *g) {
    head_values *w = a->own;
    if (a->entries <= MOST_ENTRIES && general_needs_sum(a)) split_table(&w->table, g->table, a->entries);
    for (unsigned plane = 0; plane < 1u + (a->call->in[2].dtype == BVT_DTYPE_TRITS); plane++) {
        memset(w->values[plane], 0, 64 * sizeof(uint64_t) * a->key_words);
        for (uint32_t c = 0; c < a->d; c++)
            for (uint32_t i = 0; i < a->key_words; i++)
                memcpy(&w->values[plane][64 * i + c], g->column + plane * g->nonzero + c * g->column_stride + (size_t)8 * i, 8);
    }
}

INLINE __m256i popcounts(__m512i x) { return _mm512_cvtepi64_epi32(_mm512_popcnt_epi64(x)); }

/* Eight keys at a time; see general_scores_of. */
INLINE int32_t scores_512(const general_attention *a, const general_head *g, int32_t *score, const uint64_t *q, const bool q_trits,
                           const bool k_trits) {
    const uint64_t *keys = (const uint64_t *)(const void *)(a->scratch + a->areas.keys);
    const int32_t *key_sum = (const int32_t *)(const void *)(a->scratch + a->areas.key_sums);
    const __m512i query = _mm512_set1_epi64((long long)q[0]), some = _mm512_set1_epi64(q_trits ? (long long)q[1] : -1);
    const __m512i first = _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), second = _mm512_add_epi64(first, _mm512_set1_epi64(1));
    const __m256i all = _mm256_set1_epi32(q_trits ? __builtin_popcountll(q[1]) : (int)a->d), zq = _mm256_set1_epi32(g->zq);
    __m256i most = _mm256_set1_epi32(INT32_MIN);
    for (uint32_t j = 0; j < a->nk; j += 8) {
        const __mmask8 there = a->nk - j < 8 ? (__mmask8)((1u << (a->nk - j)) - 1) : 0xFF;
        __m512i key, mask = some;
        if (k_trits) { /* codes, then which are not 0, key after key */
            const __mmask16 pairs = (__mmask16)((1u << 2 * __builtin_popcount(there)) - 1);
            const __m512i low = _mm512_maskz_loadu_epi64((__mmask8)pairs, keys + 2 * j);
            const __m512i high = _mm512_maskz_loadu_epi64((__mmask8)(pairs >> 8), keys + 2 * j + 8);
            key = _mm512_permutex2var_epi64(low, first, high);
            mask = _mm512_and_si512(mask, _mm512_permutex2var_epi64(low, second, high));
        } else {
            key = _mm512_maskz_loadu_epi64(there, keys + j);
        }
        const __m256i both = k_trits ? popcounts(mask) : all;
        const __m256i differ = popcounts(_mm512_and_si512(_mm512_xor_si512(query, key), mask));
        const __m256i minus = _mm256_mullo_epi32(zq, _mm256_maskz_loadu_epi32(there, key_sum + j));
        const __m256i s = _mm256_sub_epi32(_mm256_sub_epi32(both, _mm256_add_epi32(differ, differ)), minus);
        _mm256_mask_storeu_epi32(score + j, there, s);
        most = _mm256_mask_max_epi32(most, there, most, s);
    }
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4E));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}

static int32_t general_scores_512(const general_attention *a, const general_head *g, int32_t *score, const uint64_t *q) {
    const bool q_trits = a->call->in[0].dtype == BVT_DTYPE_TRITS, k_trits = a->call->in[1].dtype == BVT_DTYPE_TRITS;
    if (q_trits) return k_trits ? scores_512(a, g, score, q, true, true) : scores_512(a, g, score, q, true, false);
    return k_trits ? scores_512(a, g, score, q, false, true) : scores_512(a, g, score, q, false, false);
}

/* mask word w = score[64*w ..] >= from */
INLINE uint64_t reached(const int32_t *score, uint32_t n, int32_t from) {
    uint64_t bits = 0;
    for (uint32_t j = 0; j < n; j += 16) {
        const __mmask16 there = n - j < 16 ? (__mmask16)((1u << (n - j)) - 1) : 0xFFFF;
        const __m512i s = _mm512_maskz_loadu_epi32(there, score + j);
        bits |= (uint64_t)_mm512_mask_cmpge_epi32_mask(there, s, _mm512_set1_epi32(from)) << j;
    }
    return bits;
}

/* See general_sum. */
static uint64_t table_sum_512(const byte_planes *table, const int32_t *score, uint32_t n, int32_t most, unsigned shift) {
    __m512i sum[8] = {0};
    for (uint32_t j = 0; j < n; j += 64) {
        const __mmask64 there = n - j < 64 ? ((__mmask64)1 << (n - j)) - 1 : ~(__mmask64)0;
        __m128i part[4]; /* 16 indices each */
        for (unsigned i = 0; i < 4; i++) {
            const __m512i s = _mm512_maskz_loadu_epi32((__mmask16)(there >> 16 * i), score + j + 16 * i);
            part[i] = _mm512_cvtepi32_epi8(_mm512_srli_epi32(_mm512_sub_epi32(_mm512_set1_epi32(most), s), shift));
        }
        const __m512i index = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(part[1], part[0])),
                                                 _mm256_set_m128i(part[3], part[2]), 1);
        add_entries(sum, table, index, there);
    }
    return whole_sum(sum, table->planes);
}

static void general_thresholds_512(const general_attention *a, const general_head *g, uint64_t *mask, const int32_t *score,
                                   int32_t most, const unsigned shift) {
    const head_values *w = a->own;
    double sum;
    if (general_needs_sum(a) && a->entries <= MOST_ENTRIES) sum = (double)table_sum_512(&w->table, score, a->nk, most, shift);
    else sum = general_row_sum(a, g, score, most, shift);
    threshold_masks_by(a, g, mask, score, most, shift, sum, reached);
}

/* Eight channels at a time; see general_context_of. */
INLINE void context_512(const general_attention *a, const general_head *g, uint8_t *out, const uint64_t *mask, const int32_t *step,
                         const float *real, const unsigned masks, const bool trits) {
    const head_values *w = a->own;
    const int32_t *base = (const int32_t *)(const void *)(a->scratch + a->areas.base);
    int32_t ones[BVT_ATTENTION_PLANES] = {0}, minus = 0;
    for (unsigned t = 0; t < masks; t++) {
        for (uint32_t i = 0; i < a->key_words; i++) ones[t] += __builtin_popcountll(mask[t * a->key_words + i]);
        minus += g->zv * step[t] * ones[t];
    }
    for (uint32_t c = 0; c < a->d; c += 8) {
        __m512i plus[BVT_ATTENTION_PLANES], any[BVT_ATTENTION_PLANES];
        for (unsigned t = 0; t < masks; t++) plus[t] = any[t] = _mm512_setzero_si512();
        for (uint32_t i = 0; i < a->key_words; i++) {
            const __m512i value = _mm512_load_si512(w->values[0] + 64 * i + c);
            const __m512i some = trits ? _mm512_load_si512(w->values[1] + 64 * i + c) : value;
            for (unsigned t = 0; t < masks; t++) {
                const __m512i keys = _mm512_set1_epi64((long long)mask[t * a->key_words + i]);
                plus[t] = _mm512_add_epi64(plus[t], _mm512_popcnt_epi64(_mm512_and_si512(value, keys)));
                if (trits) any[t] = _mm512_add_epi64(any[t], _mm512_popcnt_epi64(_mm512_and_si512(some, keys)));
            }
        }
        const __mmask8 there = a->d - c < 8 ? (__mmask8)((1u << (a->d - c)) - 1) : 0xFF;
        __m256i y = _mm256_sub_epi32(_mm256_maskz_loadu_epi32(there, base + c), _mm256_set1_epi32(minus));
        __m256 f = _mm256_setzero_ps();
        for (unsigned t = 0; t < masks; t++) {
            const __m256i twice = _mm256_slli_epi32(_mm512_cvtepi64_epi32(plus[t]), 1);
            const __m256i count = _mm256_sub_epi32(twice, trits ? _mm512_cvtepi64_epi32(any[t]) : _mm256_set1_epi32(ones[t]));
            if (real) f = _mm256_fmadd_ps(_mm256_cvtepi32_ps(count), _mm256_set1_ps(real[t]), f);
            else y = _mm256_add_epi32(y, _mm256_mullo_epi32(_mm256_set1_epi32(step[t]), count));
        }
        _mm256_mask_storeu_epi32(out + (size_t)c * 4, there, real ? _mm256_castps_si256(f) : y);
    }
}

static void general_context_512(const general_attention *a, const general_head *g, uint8_t *out, const uint64_t *mask,
                                const int32_t *step, const float *real, const unsigned masks) {
    switch (masks << 1 | (a->call->in[2].dtype == BVT_DTYPE_TRITS)) {
    case 2: context_512(a, g, out, mask, step, real, 1, false); break;
    case 3: context_512(a, g, out, mask, step, real, 1, true); break;
    case 4: context_512(a, g, out, mask, step, real, 2, false); break;
    case 5: context_512(a, g, out, mask, step, real, 2, true); break;
    case 6: context_512(a, g, out, mask, step, real, 3, false); break;
    default: context_512(a, g, out, mask, step, real, 3, true);
    }
}

static void general_rows_512(const bvt_call *call, uint32_t row0, uint32_t row1) {
    static const general_parts parts = {general_head_512, general_scores_512, general_thresholds_512, general_context_512};
    general_attention a = general_start(call);
    head_values own;
    if (a.head_words > 1 || a.nk > MOST_KEYS) {
        attention_general(call, row0, row1);
        return;
    }
    a.own = &own;
    general_rows(&a, row0, row1, &parts);
}

void bvt_attention_avx512(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t heads = (uint32_t)call->op->attr[0], d = call->in[0].cols / heads, m = call->in[1].rows;
    if (!bvt_attention_plain(call)) {
        general_rows_512(call, row0, row1);
        return;
    }
    if (d % 8 || d > 64 || m > MOST_KEYS) {
        attention_rows(call, row0, row1);
        return;
    }
    const double *limit = bvt_row(&call->in[BVT_ATTENTION_LIMIT], 0);
    head_words w;
    for (uint32_t h = 0; h < heads; h++) {
        const uint64_t *table = bvt_attention_table(call, h);
        load_head(&w, &call->in[1], &call->in[2], h, d, m);
        split_table(&w.table, table, d + 1);
        for (uint32_t i = row0; i < row1; i++) {
            relative_scores(&w, load_word(bvt_row_bits(&call->in[0], i) + h * (d / 8), d / 8), m);
            const int last = bvt_attention_last(table, d, limit[h] * (double)table_sum(&w, m));
            context((int32_t *)bvt_row(&call->out[0], i) + (size_t)h * d, &w, last, d, m);
        }
    }
}
