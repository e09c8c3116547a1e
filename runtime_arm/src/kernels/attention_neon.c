/* attention for NEON: eight queries of a head at a time, in all forms whose heads are at most 64 wide. Wider heads, zero points of
 * the queries and very many keys go row by row.
 *
 * Scores are bytes: for a pair of keys, the xor with each of 8 queries is counted and a tree of pairwise additions leaves the 16
 * distances in one register. The table's entries have up to 53 bits; their upper 16 are summed by TBL and bound the sum, which settles
 * nearly all thresholds; where it does not, the sum is taken exactly, in scalars. A plane's threshold is an integer, so that its masks are comparisons
 * of bytes; masks and value columns meet in a tree again, over 8 or 16 channels of one query.
 */
#include <arm_neon.h>

#include "attention_rows.h"

#define INLINE static inline __attribute__((always_inline))
#define QUERIES 8
#define MOST_KEYS 1024u /* 37 KiB on the stack, little enough for the smallest that threads have (musl: 128 KiB) */
#define MOST_WORDS (MOST_KEYS / 64)
#define MOST_WIDTH 64u
#define TABLE 256u /* a power of two above all distances: at most 128, of trits */

typedef struct {
    uint64_t key[MOST_KEYS + 2], key_some[MOST_KEYS + 2]; /* codes of the head; key_some: which are not 0 */
    uint8_t score[MOST_KEYS * QUERIES];                   /* [key / 2][query][key % 2]: distances, 255 beyond the last key */
    uint64_t mask[BVT_ATTENTION_PLANES][QUERIES][MOST_WORDS];
    uint64_t table[TABLE];     /* the head's, 0 beyond its end */
    double real_table[TABLE];  /* the same as floats, with a bias */
    uint8_t coarse[2][64];     /* bytes of the first 64 entries >> coarse_shift, of 16 bits each: the low ones, the high ones */
    unsigned coarse_shift;
    uint64_t coarse_rest;      /* the most that an entry has beyond what is in `coarse` */
    int16_t count[BVT_ATTENTION_PLANES][QUERIES][MOST_WIDTH + 16]; /* sums of the masked values */
    int32_t base[MOST_WIDTH];
    uint64_t pair[2][MOST_WIDTH + 16]; /* up to 64 keys: the value columns side by side, and which of them are not 0 */
} workspace;

/* ---- Scores -------------------------------------------------------------------------------------------------------------- */

/* Sums of the bytes of the two halves of 8 registers: [0 low, 0 high, 1 low, ...]. */
INLINE uint8x16_t half_sums(const uint8x16_t x[8]) {
    const uint8x16_t a = vpaddq_u8(vpaddq_u8(x[0], x[1]), vpaddq_u8(x[2], x[3]));
    const uint8x16_t b = vpaddq_u8(vpaddq_u8(x[4], x[5]), vpaddq_u8(x[6], x[7]));
    return vpaddq_u8(a, b);
}

INLINE uint8x16_t dup_word(uint64_t x) { return vreinterpretq_u8_u64(vdupq_n_u64(x)); }

/* Distances of all keys: differing bits, or, of trits, d - dot. Returns the least of each query, twice. */
INLINE uint8x16_t pair_scores(workspace *w, const uint64_t *query, const uint64_t *some, uint32_t keys, uint32_t d,
                              const bool trits) {
    uint8x16_t q[QUERIES], s[QUERIES], least = vdupq_n_u8(255);
    for (unsigned i = 0; i < QUERIES; i++) {
        q[i] = dup_word(query[i]);
        if (trits) s[i] = dup_word(some[i]);
    }
    for (uint32_t j = 0; j < keys; j += 2) {
        const uint8x16_t k = vreinterpretq_u8_u64(vld1q_u64(w->key + j));
        uint8x16_t x[QUERIES];
        if (trits) {
            const uint8x16_t there = vreinterpretq_u8_u64(vld1q_u64(w->key_some + j));
            for (unsigned i = 0; i < QUERIES; i++) {
                const uint8x16_t both = vandq_u8(there, s[i]), differ = vcntq_u8(vandq_u8(veorq_u8(q[i], k), both));
                x[i] = vsubq_u8(vaddq_u8(differ, differ), vcntq_u8(both));
            }
        } else {
            for (unsigned i = 0; i < QUERIES; i++) x[i] = vcntq_u8(veorq_u8(q[i], k));
        }
        uint8x16_t score = half_sums(x);
        if (trits) score = vaddq_u8(score, vdupq_n_u8((uint8_t)d));
        vst1q_u8(w->score + 8 * (size_t)j, score);
        least = vminq_u8(least, score);
    }
    least = vpminq_u8(least, least);
    return vzip1q_u8(least, least);
}

/* ---- Thresholds ---------------------------------------------------------------------------------------------------------- */

/* z[i] = sum of table[score - least[2 * i]] over all keys, for 4 queries. A function of its own: all of it is in registers. */
static __attribute__((noinline)) void table_sums(uint64_t *z, const uint8_t *score, const uint64_t *table, const uint8_t *least,
                                                 uint32_t keys) {
    /* The tables' beginnings as they are for a score; an integer until it points into the table. */
    const uintptr_t at = (uintptr_t)table, size = sizeof *table;
    const uint64_t *t0 = (const uint64_t *)(at - least[0] * size), *t1 = (const uint64_t *)(at - least[2] * size),
                   *t2 = (const uint64_t *)(at - least[4] * size), *t3 = (const uint64_t *)(at - least[6] * size);
    uint64_t a = 0, b = 0, c = 0, d = 0;
    uint32_t j = 0;
    for (; j + 2 <= keys; j += 2, score += 2 * QUERIES) {
        uint64_t x;
        memcpy(&x, score, 8);
        a += t0[x & 255], a += t0[x >> 8 & 255];
        b += t1[x >> 16 & 255], b += t1[x >> 24 & 255];
        c += t2[x >> 32 & 255], c += t2[x >> 40 & 255];
        d += t3[x >> 48 & 255], d += t3[x >> 56];
    }
    if (j < keys) a += t0[score[0]], b += t1[score[2]], c += t2[score[4]], d += t3[score[6]];
    z[0] = a, z[1] = b, z[2] = c, z[3] = d;
}

/* Cuts the table's entries to 16 bits. */
static void make_coarse(workspace *w) {
    const unsigned bits = 64 - (unsigned)__builtin_clzll(w->table[0] | 1);
    w->coarse_shift = bits > 16 ? bits - 16 : 0;
    for (unsigned i = 0; i < 64; i++) {
        const uint64_t entry = w->table[i] >> w->coarse_shift;
        w->coarse[0][i] = (uint8_t)entry, w->coarse[1][i] = (uint8_t)(entry >> 8);
    }
    w->coarse_rest = ((uint64_t)1 << w->coarse_shift) - 1;
    if (w->table[64] > w->coarse_rest) w->coarse_rest = w->table[64]; /* which TBL takes for 0 */
}

/* z[i] = sum over all keys of the 16 bits of entry score - least, for 8 queries. */
static __attribute__((noinline)) void coarse_sums(uint32_t z[QUERIES], const workspace *w, uint8x16_t least, uint32_t keys) {
    const uint8x16x4_t low_table = vld1q_u8_x4(w->coarse[0]), high_table = vld1q_u8_x4(w->coarse[1]);
    const uint8_t *score = w->score;
    uint32x4_t sum[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
    for (uint32_t left = (keys + 1) / 2; left;) { /* pairs, of which 128 are 2 * 128 * 255 < 2^16 */
        uint16x8_t low = vdupq_n_u16(0), high = low;
        uint32_t n = bvt_min_u32(left, 128);
        left -= n;
        for (; n > 0; n--, score += 2 * QUERIES) {
            const uint8x16_t at = vsubq_u8(vld1q_u8(score), least); /* beyond the last key it is above 63, and has no entry */
            low = vpadalq_u8(low, vqtbl4q_u8(low_table, at));
            high = vpadalq_u8(high, vqtbl4q_u8(high_table, at));
        }
        sum[0] = vaddq_u32(sum[0], vaddq_u32(vmovl_u16(vget_low_u16(low)), vshll_n_u16(vget_low_u16(high), 8)));
        sum[1] = vaddq_u32(sum[1], vaddq_u32(vmovl_high_u16(low), vshll_high_n_u16(high, 8)));
    }
    vst1q_u32(z, sum[0]), vst1q_u32(z + 4, sum[1]);
}

/* How many of the n entries of a table of integers, which does not increase, are above a limit, or not below it. */
INLINE uint32_t table_count(const uint64_t *table, uint32_t n, double limit, bool inclusive) {
    if (!(limit < 0x1p63)) return 0; /* NaN too; entries are below 2^53 */
    if (inclusive ? limit <= 0 : limit < 0) return n;
    uint64_t above = (uint64_t)limit; /* an integer is > limit if it is > this */
    if (inclusive && (double)above == limit) above--;
    const uint64_t *at = table;
    for (uint32_t step = TABLE / 2; step; step /= 2) at += at[step - 1] > above ? step : 0;
    return bvt_min_u32((uint32_t)(at - table), n);
}

/* Of one plane: bit j of mask[i] says whether the distance of key j from query i is below bound[i]. */
static __attribute__((noinline)) void plane_masks(uint64_t mask[QUERIES][MOST_WORDS], const uint8_t *score, const uint8_t *bound, uint32_t words) {
    const uint8x8_t one = vld1_u8(bound);
    const uint8x16_t limit = vzip1q_u8(vcombine_u8(one, one), vcombine_u8(one, one));
    const uint8x16_t w0 = vreinterpretq_u8_u16(vdupq_n_u16(0x0201)), w1 = vreinterpretq_u8_u16(vdupq_n_u16(0x0804)),
                     w2 = vreinterpretq_u8_u16(vdupq_n_u16(0x2010)), w3 = vreinterpretq_u8_u16(vdupq_n_u16(0x8040));
    for (uint32_t w = 0; w < words; w++) {
        uint16x8_t pair[4]; /* of each query: two bytes of its word */
        for (unsigned p = 0; p < 4; p++) {
            uint8x16_t x[2];
            for (unsigned i = 0; i < 2; i++, score += 64) {
                x[i] = vandq_u8(vcltq_u8(vld1q_u8(score), limit), w0);
                x[i] = vbslq_u8(w1, vcltq_u8(vld1q_u8(score + 16), limit), x[i]);
                x[i] = vbslq_u8(w2, vcltq_u8(vld1q_u8(score + 32), limit), x[i]);
                x[i] = vbslq_u8(w3, vcltq_u8(vld1q_u8(score + 48), limit), x[i]);
            }
            const uint8x16_t both = vpaddq_u8(x[0], x[1]);
            pair[p] = vreinterpretq_u16_u8(vzip1q_u8(both, vextq_u8(both, both, 8)));
        }
        const uint32x4_t a = vreinterpretq_u32_u16(vzip1q_u16(pair[0], pair[1])),
                         b = vreinterpretq_u32_u16(vzip2q_u16(pair[0], pair[1]));
        const uint32x4_t c = vreinterpretq_u32_u16(vzip1q_u16(pair[2], pair[3])),
                         d = vreinterpretq_u32_u16(vzip2q_u16(pair[2], pair[3]));
        const uint64x2_t q[4] = {vreinterpretq_u64_u32(vzip1q_u32(a, c)), vreinterpretq_u64_u32(vzip2q_u32(a, c)),
                                 vreinterpretq_u64_u32(vzip1q_u32(b, d)), vreinterpretq_u64_u32(vzip2q_u32(b, d))};
        for (unsigned i = 0; i < 4; i++) {
            mask[2 * i][w] = vgetq_lane_u64(q[i], 0);
            mask[2 * i + 1][w] = vgetq_lane_u64(q[i], 1);
        }
    }
}

/* Entries of a plane's threshold for query i, whose table's sum lies between low and high: `exact` has it once it was needed. A limit
 * is a factor times the sum, so that the entries above it are the same for all sums in between if they are for both ends: all that
 * are above the lower one are above the upper one if the least of them is. */
static uint32_t plane_count(const workspace *w, const general_attention *a, const general_head *g, unsigned t, unsigned i,
                            const uint8_t *least, uint32_t entries, double low, double high, uint64_t *exact) {
    const bool inclusive = a->inclusive >> t & 1;
    const uint32_t count = table_count(w->table, entries, general_limit(a, t, g->head, low), inclusive);
    if (low == high || count == 0) return count;
    const double limit = general_limit(a, t, g->head, high), last = (double)w->table[count - 1];
    if (inclusive ? last >= limit : last > limit) return count;
    if (!exact[i]) table_sums(exact + (i & 4), w->score + 2 * (i & 4), w->table, least + 2 * (i & 4), a->nk);
    return table_count(w->table, entries, general_limit(a, t, g->head, (double)exact[i]), inclusive);
}

static void threshold_planes(workspace *w, const general_attention *a, const general_head *g, const uint8_t *least,
                             uint32_t entries) {
    double low[QUERIES] = {0}, high[QUERIES] = {0};
    uint64_t z[QUERIES] = {0};
    if (a->max_planes != (1u << a->planes) - 1) {
        if (entries <= 65) {
            uint32_t coarse[QUERIES];
            coarse_sums(coarse, w, vld1q_u8(least), a->nk);
            for (unsigned i = 0; i < QUERIES; i++) {
                const uint64_t sum = (uint64_t)coarse[i] << w->coarse_shift;
                low[i] = (double)sum, high[i] = (double)(sum + a->nk * w->coarse_rest);
            }
        } else {
            table_sums(z, w->score, w->table, least, a->nk);
            table_sums(z + 4, w->score + 8, w->table, least + 8, a->nk);
            for (unsigned i = 0; i < QUERIES; i++) low[i] = high[i] = (double)z[i];
        }
    }
    for (unsigned t = 0; t < a->planes; t++) {
        uint8_t bound[QUERIES];
        for (unsigned i = 0; i < QUERIES; i++) {
            uint32_t count = (uint32_t)(g->static_last[t] + 1);
            if (!(a->max_planes >> t & 1)) count = plane_count(w, a, g, t, i, least, entries, low[i], high[i], z);
            bound[i] = (uint8_t)bvt_min_u32(count + least[2 * i], 255);
        }
        plane_masks(w->mask[t], w->score, bound, a->key_words);
    }
}

/* The keys from 64 * word on, of up to n, whose weight is not below a limit, or is above it. Two keys are a register. */
INLINE uint64_t weight_mask(const double *weight, uint32_t n, double limit, const bool inclusive) {
    const float64x2_t least = vdupq_n_f64(limit);
    uint64x2_t bits = vdupq_n_u64(0); /* bit 2i: key 2i, key 2i + 1 */
    for (uint32_t j = n + n % 2; j > 0; j -= 2) {
        const float64x2_t x = vld1q_f64(weight + j - 2);
        bits = vsubq_u64(vshlq_n_u64(bits, 2), inclusive ? vcgeq_f64(x, least) : vcgtq_f64(x, least));
    }
    const uint64_t all = vgetq_lane_u64(bits, 0) | vgetq_lane_u64(bits, 1) << 1;
    return n < 64 ? all & (((uint64_t)1 << n) - 1) : all;
}

/* The masks with a bias on the scores. Sums are taken in the definition's order, where a plane needs them. */
static void weighted_planes(workspace *w, const general_attention *a, const general_head *g, const uint8_t *least, uint32_t row,
                            unsigned queries) {
    const bvt_view *bias = &a->call->in[BVT_ATTENTION_BIAS];
    const uint32_t class = (uint32_t)((const int32_t *)bvt_row(&a->call->in[BVT_ATTENTION_CLASS], 0))[g->window], keys = a->nk;
    const double *factors = (const double *)bvt_row(bias, 0) + g->head;
    const size_t apart = bias->stride / sizeof *factors;
    double *weight = (double *)(void *)(a->scratch + a->areas.weights); /* an even number of them: the area is whole cache lines */
    const bool needs_sum = a->max_planes != (1u << a->planes) - 1;
    weight[keys - 1 + keys % 2] = 0;
    for (unsigned i = 0; i < queries; i++) {
        const int32_t *pattern = bvt_row(&a->call->in[BVT_ATTENTION_PATTERN], class * a->nq + (row + i) % a->nq);
        const uint8_t *score = w->score + 2 * i;
        const double *entry = (const double *)((uintptr_t)w->real_table - least[2 * i] * sizeof(double)); /* as in table_sums */
        float64x2_t most = vdupq_n_f64(0);
        uint32_t j = 0;
        for (; j + 2 <= keys; j += 2, score += 2 * QUERIES) {
            const float64x2_t e = vcombine_f64(vld1_f64(entry + score[0]), vld1_f64(entry + score[1]));
            const float64x2_t f = vcombine_f64(vld1_f64(factors + (uint32_t)pattern[j] * apart),
                                               vld1_f64(factors + (uint32_t)pattern[j + 1] * apart));
            const float64x2_t x = vmulq_f64(e, f);
            vst1q_f64(weight + j, x);
            most = vmaxq_f64(most, x);
        }
        double top = vmaxvq_f64(most), sum = 0;
        if (j < keys) {
            weight[j] = entry[score[0]] * factors[(uint32_t)pattern[j] * apart];
            top = weight[j] > top ? weight[j] : top;
        }
        for (j = 0; needs_sum && j < keys; j++) sum += weight[j];
        for (unsigned t = 0; t < a->planes; t++) {
            const double limit = general_limit(a, t, g->head, a->max_planes >> t & 1 ? top : sum);
            for (uint32_t word = 0; word < a->key_words; word++) {
                const uint32_t n = bvt_min_u32(keys - 64 * word, 64);
                const double *at = weight + (size_t)64 * word;
                w->mask[t][i][word] = a->inclusive >> t & 1 ? weight_mask(at, n, limit, true) : weight_mask(at, n, limit, false);
            }
        }
    }
    for (unsigned t = 0; t < a->planes; t++)
        for (unsigned i = queries; i < QUERIES; i++) memcpy(w->mask[t][i], w->mask[t][0], 8 * (size_t)a->key_words);
}

/* ---- Values -------------------------------------------------------------------------------------------------------------- */

/* The bytes of a column, or of two columns, that count where the mask is set; of trits +1 and -1. */
INLINE uint8x16_t masked(uint8x16_t plus, uint8x16_t some, uint8x16_t mask, const bool trits) {
    const uint8x16_t n = vcntq_u8(vandq_u8(plus, mask));
    return trits ? vsubq_u8(vaddq_u8(n, n), vcntq_u8(vandq_u8(some, mask))) : n;
}

/* A column's words, of which `words` (1 or 2) are there. */
INLINE uint8x16_t load_words(const uint8_t *p, const unsigned words) {
    return words == 2 ? vld1q_u8(p) : vcombine_u8(vld1_u8(p), vdup_n_u8(0));
}

/* The sums of 8 registers as 8 lanes; signed bytes where there are trits. */
INLINE int16x8_t column_sums(const uint8x16_t x[8], const bool trits) {
    if (!trits) return vreinterpretq_s16_u16(vpaddlq_u8(half_sums(x)));
    int16x8_t y[4];
    for (unsigned i = 0; i < 4; i++) y[i] = vpaddlq_s8(vreinterpretq_s8_u8(vpaddq_u8(x[2 * i], x[2 * i + 1])));
    return vpaddq_s16(vpaddq_s16(y[0], y[1]), vpaddq_s16(y[2], y[3]));
}

/* count[i][c .. c+7] of 4 masks over words word .. word+n-1 of the keys, n <= 4; added to what is there unless it is the first. */
INLINE void count_8(int16_t *count, size_t apart, const uint64_t *mask, const uint8_t *column, size_t stride, size_t nonzero,
                    bool first, const unsigned n, const bool trits) {
    uint8x16_t x[4][8];
    for (unsigned c = 0; c < 8; c++, column += stride) {
        const unsigned tail = n > 2 ? n - 2 : 0;
        const uint8x16_t plus = load_words(column, n > 2 ? 2 : n),
                         some = trits ? load_words(column + nonzero, n > 2 ? 2 : n) : plus;
        const uint8x16_t plus2 = tail ? load_words(column + 16, tail) : plus,
                         some2 = tail && trits ? load_words(column + nonzero + 16, tail) : plus;
        for (unsigned i = 0; i < 4; i++) {
            const uint8_t *m = (const uint8_t *)(mask + i * MOST_WORDS);
            x[i][c] = masked(plus, some, vld1q_u8(m), trits);
            if (tail) x[i][c] = vaddq_u8(x[i][c], masked(plus2, some2, vld1q_u8(m + 16), trits));
        }
    }
    for (unsigned i = 0; i < 4; i++, count += apart) {
        const int16x8_t sum = column_sums(x[i], trits);
        vst1q_s16(count, first ? sum : vaddq_s16(vld1q_s16(count), sum));
    }
}

/* The same of 16 channels where there is one word: two columns are a register. */
INLINE void count_16(int16_t *count, size_t apart, const uint64_t *mask, const uint64_t *column, const uint64_t *nonzero,
                     const bool trits) {
    uint8x16_t x[4][8];
    for (unsigned c = 0; c < 8; c++) {
        const uint8x16_t plus = vreinterpretq_u8_u64(vld1q_u64(column + 2 * c));
        const uint8x16_t some = trits ? vreinterpretq_u8_u64(vld1q_u64(nonzero + 2 * c)) : plus;
        for (unsigned i = 0; i < 4; i++) x[i][c] = masked(plus, some, dup_word(mask[i * MOST_WORDS]), trits);
    }
    for (unsigned i = 0; i < 4; i++, count += apart) {
        if (trits) {
            int16x8_t y[4];
            for (unsigned k = 0; k < 4; k++) y[k] = vpaddlq_s8(vreinterpretq_s8_u8(vpaddq_u8(x[i][2 * k], x[i][2 * k + 1])));
            vst1q_s16(count, vpaddq_s16(y[0], y[1]));
            vst1q_s16(count + 8, vpaddq_s16(y[2], y[3]));
        } else {
            const uint8x16_t sum = half_sums(x[i]);
            vst1q_s16(count, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(sum))));
            vst1q_s16(count + 8, vreinterpretq_s16_u16(vmovl_high_u8(sum)));
        }
    }
}

INLINE void count_plane(workspace *w, const general_attention *a, const general_head *g, unsigned t, unsigned i, const bool trits) {
    int16_t *count = w->count[t][i];
    const size_t apart = sizeof w->count[t][i] / sizeof *count;
    const uint64_t *mask = w->mask[t][i];
    const uint8_t *column = g->column;
    if (a->key_words == 1) {
        for (uint32_t c = 0; c < a->d; c += 16)
            count_16(count + c, apart, mask, w->pair[0] + c, w->pair[1] + c, trits);
        return;
    }
    for (uint32_t c = 0; c < a->d; c += 8, count += 8, column += 8 * g->column_stride)
        for (uint32_t word = 0; word < a->key_words; word += 4) {
#define COUNT(n) count_8(count, apart, mask + word, column + 8 * (size_t)word, g->column_stride, g->nonzero, word == 0, n, trits)
            switch (a->key_words - word) {
            case 1: COUNT(1); break;
            case 2: COUNT(2); break;
            case 3: COUNT(3); break;
            default: COUNT(4);
            }
#undef COUNT
        }
}

/* The results of query i; ones: set bits of its masks. */
INLINE void finish(const workspace *w, const general_head *g, uint8_t *out, unsigned i, uint32_t d, const int32_t *ones,
                   const int32_t *step, const float *real, int32_t minus, const unsigned masks, const bool trits) {
    for (uint32_t c = 0; c < d; c += 8) {
        int32x4_t low = vdupq_n_s32(-minus), high = low;
        float32x4_t y0 = vdupq_n_f32(0), y1 = y0;
        if (g->base) low = vaddq_s32(low, vld1q_s32(w->base + c)), high = vaddq_s32(high, vld1q_s32(w->base + c + 4));
        for (unsigned t = 0; t < masks; t++) {
            int16x8_t n = vld1q_s16(w->count[t][i] + c);
            if (!trits) n = vsubq_s16(vaddq_s16(n, n), vdupq_n_s16((int16_t)ones[t])); /* at most 1024 */
            const int32x4_t n0 = vmovl_s16(vget_low_s16(n)), n1 = vmovl_high_s16(n);
            if (real) {
                y0 = vfmaq_n_f32(y0, vcvtq_f32_s32(n0), real[t]);
                y1 = vfmaq_n_f32(y1, vcvtq_f32_s32(n1), real[t]);
            } else if (masks == 1 && step[t] == 1) {
                low = vaddq_s32(low, n0), high = vaddq_s32(high, n1);
            } else {
                low = vmlaq_n_s32(low, n0, step[t]), high = vmlaq_n_s32(high, n1, step[t]);
            }
        }
        if (real) low = vreinterpretq_s32_f32(y0), high = vreinterpretq_s32_f32(y1);
        vst1q_s32((int32_t *)(void *)(out + 4 * (size_t)c), low);
        vst1q_s32((int32_t *)(void *)(out + 4 * (size_t)c + 16), high);
    }
}

static int32_t set_bits(const uint64_t *mask, uint32_t words) {
    uint16x8_t sum = vdupq_n_u16(0);
    uint32_t w = 0;
    for (; w + 2 <= words; w += 2) sum = vpadalq_u8(sum, vcntq_u8(vreinterpretq_u8_u64(vld1q_u64(mask + w))));
    if (w < words) sum = vpadalq_u8(sum, vcntq_u8(vreinterpretq_u8_u64(vcombine_u64(vld1_u64(mask + w), vdup_n_u64(0)))));
    return vaddvq_u16(sum);
}

/* The results of the first `queries` queries. */
static void contexts(workspace *w, const general_attention *a, const general_head *g, uint32_t row, unsigned queries) {
    const bvt_view *real_view = &a->call->in[BVT_ATTENTION_REAL_STEPS];
    const bool trits = a->call->in[2].dtype == BVT_DTYPE_TRITS;
    unsigned masks = a->planes;
    int32_t step[BVT_ATTENTION_PLANES] = {g->step[0], g->step[1], g->step[2]};
    float real[BVT_ATTENTION_PLANES] = {0};
    if (g->digits) {
        for (unsigned i = 0; i < queries; i++)
            for (uint32_t word = 0; word < a->key_words; word++) {
                const uint64_t x = w->mask[0][i][word], y = w->mask[1][i][word], z = w->mask[2][i][word];
                w->mask[0][i][word] = x ^ y ^ z;
                w->mask[1][i][word] = (x & y) | (z & (x ^ y));
            }
        masks = 2, step[1] = 2 * step[0];
    }
    for (unsigned t = 0; t < masks; t++) {
        if (real_view->base) real[t] = bvt_row_f32(real_view, t)[g->head];
        for (unsigned i = 0; i < queries; i += 4) {
            if (trits) count_plane(w, a, g, t, i, true);
            else count_plane(w, a, g, t, i, false);
        }
    }
    for (unsigned i = 0; i < queries; i++) {
        uint8_t *out = (uint8_t *)bvt_row(&a->call->out[0], row + i) + (size_t)g->head * a->d * 4;
        int32_t ones[BVT_ATTENTION_PLANES] = {0}, minus = 0;
        for (unsigned t = 0; t < masks && (!trits || g->zv); t++) {
            ones[t] = set_bits(w->mask[t][i], a->key_words);
            minus += g->zv * step[t] * ones[t];
        }
#define FINISH(n, levels, codes) finish(w, g, out, i, a->d, ones, step, levels, minus, n, codes)
        switch ((real_view->base ? 6 : 0) + 2 * (masks - 1) + trits) {
        case 0: FINISH(1, NULL, false); break;
        case 1: FINISH(1, NULL, true); break;
        case 2: FINISH(2, NULL, false); break;
        default: finish(w, g, out, i, a->d, ones, step, real_view->base ? real : NULL, minus, masks, trits);
        }
#undef FINISH
    }
}

/* ---- Heads --------------------------------------------------------------------------------------------------------------- */

/* The head's codes of a row: the bits, or +1 of trits; *some: what is not 0. */
INLINE uint64_t head_codes(const bvt_view *v, uint32_t row, uint32_t from, uint32_t d, uint64_t *some) {
    if (v->dtype != BVT_DTYPE_TRITS) {
        uint64_t word = 0;
        *some = ~(uint64_t)0 >> (64 - d);
        if (from % 8 == 0 && d == 64) memcpy(&word, bvt_row_bits(v, row) + from / 8, 8);
        else take_bits(&word, bvt_row_bits(v, row), from, d);
        return word;
    }
    uint64_t words[2] = {0};
    take_codes(words, v, row, from, d, 1);
    *some = words[1];
    return words[0];
}

static void load_keys(workspace *w, const general_attention *a, const general_head *g, bool trits) {
    const bvt_view *k = &a->call->in[1];
    const uint32_t first = g->window * a->nk, from = g->head * a->d;
    if (k->dtype == BVT_DTYPE_BITS && a->d == 64 && !trits) {
        const uint8_t *at = bvt_row_bits(k, first) + from / 8;
        const size_t stride = k->stride;
        for (uint32_t j = 0, n = a->nk; j < n; j++, at += stride) memcpy(&w->key[j], at, 8);
    } else {
        for (uint32_t j = 0; j < a->nk; j++) w->key[j] = head_codes(k, first + j, from, a->d, &w->key_some[j]);
    }
    w->key[a->nk] = w->key[a->nk - 1]; /* a pair's second one is no less than the first */
    w->key_some[a->nk] = w->key_some[a->nk - 1];
}

/* The value columns of up to 64 keys. */
static void load_columns(workspace *w, const general_attention *a, const general_head *g) {
    const uint8_t *column = g->column;
    memset(w->pair, 0, sizeof w->pair);
    for (uint32_t c = 0; c < a->d; c++, column += g->column_stride) {
        memcpy(&w->pair[0][c], column, 8);
        if (a->call->in[2].dtype == BVT_DTYPE_TRITS) memcpy(&w->pair[1][c], column + g->nonzero, 8);
    }
}

/* Rows row .. row+queries-1 of one window and head. */
static void attend(workspace *w, const general_attention *a, const general_head *g, uint32_t row, unsigned queries,
                   uint32_t entries, bool trits) {
    const uint32_t keys = a->nk;
    uint64_t query[QUERIES], some[QUERIES];
    uint8_t least[16];
    for (unsigned i = 0; i < QUERIES; i++) /* those that are not there repeat the last one */
        query[i] = head_codes(&a->call->in[0], row + (i < queries ? i : queries - 1), g->head * a->d, a->d, &some[i]);
    vst1q_u8(least, trits ? pair_scores(w, query, some, keys, a->d, true) : pair_scores(w, query, some, keys, a->d, false));
    if (a->call->in[BVT_ATTENTION_BIAS].base) {
        weighted_planes(w, a, g, least, row, queries);
    } else {
        if (keys % 2)
            for (unsigned i = 0; i < QUERIES; i++) w->score[8 * (size_t)(keys - 1) + 2 * i + 1] = 255;
        memset(w->score + 8 * (size_t)(keys + keys % 2), 255, 8 * (size_t)(64 * a->key_words - keys - keys % 2));
        threshold_planes(w, a, g, least, entries);
    }
    contexts(w, a, g, row, queries);
}

static bool has_query_zero(const general_attention *a) {
    for (uint32_t h = 0; h < a->heads; h++)
        if (general_int(a, 0, h, 0)) return true;
    return false;
}

/* Row by row. Of other forms than the plain one the reference is as fast, and is there already. */
static void one_by_one(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (bvt_attention_plain(call)) attention_rows_plain(call, row0, row1);
    else bvt_attention_ref(call, row0, row1);
}

void bvt_attention_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t windows = call->op->attr[1] ? (uint32_t)call->op->attr[1] : 1;
    const uint32_t d = call->in[0].cols / (uint32_t)call->op->attr[0];
    if (d > MOST_WIDTH || d % 8 || call->in[1].rows / windows > MOST_KEYS) {
        one_by_one(call, row0, row1);
        return;
    }
    const general_attention a = general_start(call);
    if (has_query_zero(&a)) {
        one_by_one(call, row0, row1);
        return;
    }
    const bool trits = call->in[0].dtype == BVT_DTYPE_TRITS || call->in[1].dtype == BVT_DTYPE_TRITS;
    const uint32_t entries = bvt_min_u32(a.entries, trits ? 2 * d + 1 : d + 1);
    workspace w;
    for (uint32_t row = row0, end; row < row1; row = end) {
        const uint32_t window = row / a.nq;
        end = bvt_min_u32(row1, (window + 1) * a.nq);
        for (uint32_t h = 0; h < a.heads; h++) {
            const general_head g = general_values(&a, h, window);
            load_keys(&w, &a, &g, trits);
            memcpy(w.table, g.table, entries * sizeof *w.table);
            memset(w.table + entries, 0, (TABLE - entries) * sizeof *w.table);
            if (entries <= 65) make_coarse(&w);
            for (uint32_t m = 0; m < entries && call->in[BVT_ATTENTION_BIAS].base; m++) w.real_table[m] = (double)w.table[m];
            if (g.base) general_base(&a, &g, w.base);
            if (a.key_words == 1) load_columns(&w, &a, &g);
            for (uint32_t r = row; r < end; r += QUERIES) attend(&w, &a, &g, r, bvt_min_u32(end - r, QUERIES), entries, trits);
        }
    }
}
