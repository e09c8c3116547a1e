/* attention for AVX-512 with VPOPCNTDQ and VBMI, with heads of one 64-bit word: the head's keys are an array of words and its value
 * columns words side by side, made once for all rows of the call; then eight keys, or eight channels, are one register.
 *
 * Where one threshold on the row's sum decides, scores are bytes, so that 64 compares with it are one mask word; the other forms go
 * through attention_general.h, whose scores, thresholds and contexts are done here. Wider heads and more keys than the stack takes go
 * row by row.
 */
#include <immintrin.h>
#include <math.h>

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
    __m512i any = _mm512_setzero_si512();
    for (uint32_t i = 0; i < MOST_ENTRIES; i += 8) {
        const __mmask8 there = entries > i ? (__mmask8)((1u << bvt_min_u32(entries - i, 8)) - 1) : 0;
        const __m512i entry = _mm512_maskz_loadu_epi64(there, table + i);
        any = _mm512_or_si512(any, entry);
        for (unsigned p = 0; p < 8; p++)
            _mm_storel_epi64((__m128i *)(void *)(to->bytes[p] + i), _mm512_cvtepi64_epi8(_mm512_srli_epi64(entry, 8 * p)));
    }
    const uint64_t highest = (uint64_t)_mm512_reduce_or_epi64(any);
    for (to->planes = 0; to->planes < 8 && highest >> 8 * to->planes; to->planes++) {}
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

/* ---- One threshold on the row's sum ---------------------------------------------------------------------------------------- */

#define QUERIES 4u /* that take every step together: none waits for the end of the one before */

/* The plain form, and its like with ternary values or an inclusive threshold: scores are bytes. */
typedef struct {
    byte_planes table;
    _Alignas(64) uint64_t keys[MOST_KEYS];      /* of 64 keys: key 8*j + i at 8*i + j */
    _Alignas(64) uint64_t values[2][MOST_KEYS]; /* [plane of trits][word of 64 keys][channel] */
    _Alignas(64) uint8_t score[QUERIES][MOST_KEYS];
    _Alignas(64) double weight[72]; /* the table; NaN behind its d + 1 entries, above no limit */
} head_words;

static bool one_threshold(const bvt_call *call, uint32_t d, uint32_t m) {
    const int32_t *attr = call->op->attr;
    for (unsigned i = BVT_ATTENTION_INTS; i < BVT_ATTENTION_INPUTS; i++)
        if (call->in[i].base) return false;
    const bool bits = call->in[0].dtype == BVT_DTYPE_BITS && call->in[1].dtype == BVT_DTYPE_BITS;
    return bits && attr[1] <= 1 && attr[2] <= 1 && !attr[3] && d % 8 == 0 && d <= 64 && m <= MOST_KEYS;
}

static void load_head(head_words *w, const bvt_view *k, const bvt_view *v, uint32_t h, uint32_t d, uint32_t m) {
    const uint32_t bytes = d / 8, words = (m + 63) / 64;
    const uint8_t *key = k->base + h * bytes;
    memset(w->keys, 0, 64 * words * sizeof *w->keys);
    for (uint32_t j = 0; j < m; j++, key += k->stride) w->keys[(j & ~63u) + j % 8 * 8 + j / 8 % 8] = load_word(key, bytes);
    for (unsigned plane = 0; plane < 1u + (v->dtype == BVT_DTYPE_TRITS); plane++) {
        memset(w->values[plane], 0, 64 * words * sizeof *w->values[plane]);
        for (uint32_t c = 0; c < d; c++) {
            const uint8_t *column = v->base + (size_t)(h * d + c) * v->stride + (plane ? bvt_plane(v->rows) : 0);
            for (uint32_t i = 0; i < words; i++) memcpy(&w->values[plane][64 * i + c], column + (size_t)i * 8, 8);
        }
    }
}

static void load_table(head_words *w, const uint64_t *table, uint32_t d) {
    split_table(&w->table, table, d + 1);
    for (uint32_t i = 0; i < 72; i++) w->weight[i] = i <= d ? (double)table[i] : NAN;
}

/* As bvt_attention_last, by how many entries are above the limit: a search would go wrong at every other branch. */
static int last_above(const head_words *w, uint32_t d, double limit, bool inclusive) {
    const __m512d lim = _mm512_set1_pd(limit);
    int n = 0;
    if (inclusive)
        for (uint32_t i = 0; i <= d; i += 8) n += __builtin_popcount(_mm512_cmp_pd_mask(_mm512_load_pd(w->weight + i), lim, _CMP_GE_OQ));
    else
        for (uint32_t i = 0; i <= d; i += 8) n += __builtin_popcount(_mm512_cmp_pd_mask(_mm512_load_pd(w->weight + i), lim, _CMP_GT_OQ));
    return n - 1;
}

INLINE __mmask64 keys_there(uint32_t left) { return left < 64 ? ((__mmask64)1 << left) - 1 : ~(__mmask64)0; }

#define NO_KEY 127u /* the score of one: its table entry is 0, and no threshold takes it */

/* Distances of a query to all keys, less the least of them. */
INLINE void relative_scores(uint8_t *scores, const head_words *w, uint64_t query, uint32_t m) {
    const __m512i q = _mm512_set1_epi64((long long)query), none = _mm512_set1_epi8(NO_KEY);
    __m512i least = none;
    for (uint32_t j = 0; j < m; j += 64) {
        __m512i score = _mm512_setzero_si512(); /* a byte from each of 8 registers; 64 fits into 7 bits */
        for (unsigned i = 8; i-- > 0;) {
            const __m512i differ = _mm512_popcnt_epi64(_mm512_xor_si512(q, _mm512_load_si512(w->keys + j + 8 * i)));
            score = _mm512_or_si512(_mm512_slli_epi64(score, 8), differ);
        }
        score = _mm512_mask_mov_epi8(none, keys_there(m - j), score);
        _mm512_store_si512(scores + j, score);
        least = _mm512_min_epu8(least, score);
    }
    const __m256i half = _mm256_min_epu8(_mm512_castsi512_si256(least), _mm512_extracti64x4_epi64(least, 1));
    const __m128i quarter = _mm_min_epu8(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    const __m128i pairs = _mm_min_epu8(quarter, _mm_srli_epi16(quarter, 8)); /* low bytes of 16 */
    const __m512i low = _mm512_broadcastb_epi8(_mm_minpos_epu16(_mm_and_si128(pairs, _mm_set1_epi16(255))));
    for (uint32_t j = 0; j < m; j += 64) {
        const __m512i score = _mm512_load_si512(scores + j);
        _mm512_store_si512(scores + j, _mm512_mask_sub_epi8(score, _mm512_cmpneq_epi8_mask(score, none), score, low));
    }
}

/* The sum of the scores' table entries. */
INLINE uint64_t table_sum(const uint8_t *scores, const head_words *w, uint32_t m) {
    __m512i whole = _mm512_setzero_si512();
    for (unsigned p = w->table.planes; p-- > 0;) {
        const __m512i low = _mm512_load_si512(w->table.bytes[p]), high = _mm512_load_si512(w->table.bytes[p] + 64);
        whole = _mm512_slli_epi64(whole, 8);
        for (uint32_t j = 0; j < m; j += 64) {
            const __m512i entry = _mm512_permutex2var_epi8(low, _mm512_load_si512(scores + j), high);
            whole = _mm512_add_epi64(whole, _mm512_sad_epu8(entry, _mm512_setzero_si512()));
        }
    }
    return (uint64_t)_mm512_reduce_add_epi64(whole);
}

/* out[c] = sum of the values of the keys with score <= last = 2 * (how many of them are +1) - (how many are not 0). */
INLINE void context(int16_t *out, const uint8_t *scores, const head_words *w, int last, uint32_t d, uint32_t m, const bool trits) {
    __m512i plus[8], some[8];
    int32_t ones = 0;
    for (uint32_t c = 0; c < 8; c++) plus[c] = some[c] = _mm512_setzero_si512();
    for (uint32_t j = 0; j < m && last >= 0; j += 64) {
        const uint64_t mask = _mm512_cmple_epu8_mask(_mm512_load_si512(scores + j), _mm512_set1_epi8((char)last));
        const __m512i keys = _mm512_set1_epi64((long long)mask);
        if (!trits) ones += __builtin_popcountll(mask);
        for (uint32_t c = 0; c < 8; c++) {
            const __m512i value = _mm512_load_si512(w->values[0] + j + 8 * c);
            plus[c] = _mm512_add_epi64(plus[c], _mm512_popcnt_epi64(_mm512_and_si512(keys, value)));
            if (!trits) continue;
            const __m512i there = _mm512_load_si512(w->values[1] + j + 8 * c);
            some[c] = _mm512_add_epi64(some[c], _mm512_popcnt_epi64(_mm512_and_si512(keys, there)));
        }
    }
#pragma GCC unroll 8
    for (uint32_t c = 0; c < 8; c++) {
        const __m512i twice = _mm512_add_epi64(plus[c], plus[c]);
        const __m512i y = _mm512_sub_epi64(twice, trits ? some[c] : _mm512_set1_epi64(ones));
        _mm_mask_storeu_epi16(out + 8 * c, 8 * c < d ? 0xFF : 0, _mm512_cvtepi64_epi16(y));
    }
}

static void one_threshold_rows(const bvt_call *call, uint32_t row0, uint32_t row1, uint32_t heads, uint32_t d, uint32_t m) {
    const double *limit = bvt_row(&call->in[BVT_ATTENTION_LIMIT], 0);
    const bool trits = call->in[2].dtype == BVT_DTYPE_TRITS, inclusive = call->op->attr[4];
    head_words w;
    for (uint32_t h = 0; h < heads; h++) {
        load_head(&w, &call->in[1], &call->in[2], h, d, m);
        load_table(&w, bvt_attention_table(call, h), d);
        for (uint32_t row = row0; row < row1; row += QUERIES) {
            const uint32_t rows = bvt_min_u32(row1 - row, QUERIES);
            double sum[QUERIES];
            for (uint32_t i = 0; i < rows; i++)
                relative_scores(w.score[i], &w, load_word(bvt_row_bits(&call->in[0], row + i) + h * (d / 8), d / 8), m);
            for (uint32_t i = 0; i < rows; i++) sum[i] = (double)table_sum(w.score[i], &w, m);
            for (uint32_t i = 0; i < rows; i++) {
                const int last = last_above(&w, d, limit[h] * sum[i], inclusive);
                int16_t *out = (int16_t *)bvt_row(&call->out[0], row + i) + (size_t)h * d; /* so few keys are no more than i16 */
                if (trits) context(out, w.score[i], &w, last, d, m, true);
                else context(out, w.score[i], &w, last, d, m, false);
            }
        }
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
    const bool narrow = a->call->out[0].dtype == BVT_DTYPE_I16;
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
        if (narrow) _mm_mask_storeu_epi16(out + (size_t)c * 2, there, _mm256_cvtepi32_epi16(y));
        else _mm256_mask_storeu_epi32(out + (size_t)c * 4, there, real ? _mm256_castps_si256(f) : y);
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
    if (one_threshold(call, d, m)) one_threshold_rows(call, row0, row1, heads, d, m);
    else if (bvt_attention_plain(call)) attention_rows(call, row0, row1);
    else general_rows_512(call, row0, row1);
}
