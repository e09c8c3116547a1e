/* attention for NEON: eight queries of a head at a time, in all forms whose heads are at most 64 wide. Wider heads, zero points of
 * the queries and very many keys go row by row.
 *
 * Scores are bytes: for a pair of keys, the xor with each of 8 queries is counted and a tree of pairwise additions leaves the 16
 * distances in one register. The table's entries have up to 53 bits; their upper 16 are summed by TBL and bound the sum, which
 * settles nearly all thresholds; where it does not, the sum is taken exactly, in scalars. A plane's threshold is an integer, so
 * that its masks are comparisons of bytes.
 *
 * The values are looked up (Four Russians): of every 4 keys, the sums that their 16 masks can give are tables in the workspace, two
 * channels a byte, made once for the rows of a call. Scores lie so that 4 comparisons in a row are the codes of the 4 keys of 16
 * masks.
 */
#include <arm_neon.h>

#include "attention_rows.h"

#define INLINE static inline __attribute__((always_inline))
#define QUERIES 8
#define MOST_KEYS 1024u
#define PART_STEPS 32u /* steps of 8 keys, whose even ones are one code, and whose odd ones another: whose tables there are */
#define CODES (8 * 1024u)
#define COUNTS 32u /* queries x planes */
#define MOST_WIDTH 64u
#define TABLE 256u /* a power of two above all distances: at most 128, of trits */

/* 73 KiB on the stack, little enough for the smallest that threads have (musl: 128 KiB). */
typedef struct {
    uint64_t key[MOST_KEYS + 2], key_some[MOST_KEYS + 2]; /* codes of the head; key_some: which are not 0 */
    uint8_t score[MOST_KEYS * QUERIES];                   /* [key / 2][query][key % 2]: distances, 255 beyond the last key */
    uint8_t sums[PART_STEPS * 2 * 16 * 32]; /* [step][key % 2][code]: 16 or 32 bytes; in 16: channels 0 .. 15, and << 4 16 .. 31 */
    uint8_t code[CODES];                   /* [plane][eight queries][step][query][key % 2]: bit b: key 8 * step + 2 * b + key % 2 */
    uint16_t count[COUNTS][MOST_WIDTH];    /* [plane][query]: the sums of the codes' values: bits, or trits + 1 */
    uint16_t ones[COUNTS];                 /* how many keys they are */
    uint64_t table[TABLE];                 /* the head's, 0 beyond its end */
    double real_table[TABLE];              /* the same as floats, with a bias */
    uint8_t coarse[2][64];                 /* the low and the high bytes of 16 bits, the first 64 entries >> coarse_shift */
    unsigned coarse_shift, coarse_entries; /* how many are used: 32 or 64 */
    uint64_t coarse_rest;                  /* the most that an entry has beyond what is in `coarse` */
    int32_t base[MOST_WIDTH];
    uint32_t steps, blocks; /* of 8 keys; of 8 queries, whose codes there is room for */
} workspace;

/* The codes of a plane of the block-th 8 queries. */
INLINE uint8_t *codes_of(workspace *w, unsigned plane, uint32_t block) {
    return w->code + (plane * w->blocks + block) * w->steps * 2 * QUERIES;
}

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
    const size_t end = 8 * ((size_t)keys + keys % 2); /* of a pair there are 16 bytes of codes, and as many distances */
#pragma GCC unroll 2
    for (size_t at = 0; at != end; at += 16) {
        const uint8x16_t k = vld1q_u8((const uint8_t *)w->key + at);
        uint8x16_t x[QUERIES];
        if (trits) {
            const uint8x16_t there = vld1q_u8((const uint8_t *)w->key_some + at);
            for (unsigned i = 0; i < QUERIES; i++) {
                const uint8x16_t both = vandq_u8(there, s[i]), differ = vcntq_u8(vandq_u8(veorq_u8(q[i], k), both));
                x[i] = vsubq_u8(vaddq_u8(differ, differ), vcntq_u8(both));
            }
        } else {
            for (unsigned i = 0; i < QUERIES; i++) x[i] = vcntq_u8(veorq_u8(q[i], k));
        }
        uint8x16_t score = half_sums(x);
        if (trits) score = vaddq_u8(score, vdupq_n_u8((uint8_t)d));
        vst1q_u8(w->score + at, score);
        least = vminq_u8(least, score);
    }
    __asm__("" : "+w"(least)); /* else GCC copies it in every turn, for the next line */
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

/* Cuts the table's entries to 16 bits. Of 32 entries the look-ups are several times as fast; what the others have is left out where
 * that is little. */
static void make_coarse(workspace *w) {
    const unsigned bits = 64 - (unsigned)__builtin_clzll(w->table[0] | 1);
    w->coarse_shift = bits > 16 ? bits - 16 : 0;
    for (unsigned i = 0; i < 64; i++) {
        const uint64_t entry = w->table[i] >> w->coarse_shift;
        w->coarse[0][i] = (uint8_t)entry, w->coarse[1][i] = (uint8_t)(entry >> 8);
    }
    w->coarse_entries = w->table[32] <= w->table[0] >> 10 ? 32 : 64;
    w->coarse_rest = ((uint64_t)1 << w->coarse_shift) - 1;
    const uint64_t beyond = w->table[w->coarse_entries]; /* which TBL takes for 0 */
    if (beyond > w->coarse_rest) w->coarse_rest = beyond;
}

/* z[i] = sum over all keys of the 16 bits of entry score - least, for 8 queries. */
INLINE void coarse_sums_of(uint32_t z[QUERIES], const workspace *w, uint8x16_t least, uint32_t keys, const unsigned entries) {
    const uint8x16x4_t low4 = vld1q_u8_x4(w->coarse[0]), high4 = vld1q_u8_x4(w->coarse[1]);
    const uint8x16x2_t low2 = vld1q_u8_x2(w->coarse[0]), high2 = vld1q_u8_x2(w->coarse[1]);
    const uint8_t *score = w->score;
    uint32x4_t sum[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
    for (uint32_t left = (keys + 1) / 2; left;) { /* pairs, of which 128 are 2 * 128 * 255 < 2^16 */
        uint16x8_t low = vdupq_n_u16(0), high = low;
        uint32_t n = bvt_min_u32(left, 128);
        left -= n;
        for (; n > 0; n--, score += 2 * QUERIES) {
            const uint8x16_t at = vsubq_u8(vld1q_u8(score), least); /* beyond the last key it is above 63, and has no entry */
            low = vpadalq_u8(low, entries == 32 ? vqtbl2q_u8(low2, at) : vqtbl4q_u8(low4, at));
            high = vpadalq_u8(high, entries == 32 ? vqtbl2q_u8(high2, at) : vqtbl4q_u8(high4, at));
        }
        sum[0] = vaddq_u32(sum[0], vaddq_u32(vmovl_u16(vget_low_u16(low)), vshll_n_u16(vget_low_u16(high), 8)));
        sum[1] = vaddq_u32(sum[1], vaddq_u32(vmovl_high_u16(low), vshll_high_n_u16(high, 8)));
    }
    vst1q_u32(z, sum[0]), vst1q_u32(z + 4, sum[1]);
}

static __attribute__((noinline)) void coarse_sums(uint32_t z[QUERIES], const workspace *w, uint8x16_t least, uint32_t keys) {
    if (w->coarse_entries == 32) coarse_sums_of(z, w, least, keys, 32);
    else coarse_sums_of(z, w, least, keys, 64);
}

/* How many of the n entries of a table of integers, which does not increase, are above a limit, or not below it. */
INLINE uint32_t table_count(const uint64_t *table, uint32_t n, double limit, bool inclusive) {
    if (!(limit < 0x1p63)) return 0; /* NaN too; entries are below 2^53 */
    if (inclusive ? limit <= 0 : limit < 0) return n;
    uint64_t above = (uint64_t)limit; /* an integer is > limit if it is > this */
    if (inclusive && (double)above == limit) above--;
    const uint64_t *at = table;
    if (n >= TABLE / 2) at += at[TABLE / 2 - 1] > above ? TABLE / 2 : 0;
    for (uint32_t step = TABLE / 4; step; step /= 2) at += at[step - 1] > above ? step : 0;
    return bvt_min_u32((uint32_t)(at - table), n);
}

/* Of one plane: the codes of the keys whose distance from query i is below bound[i]. */
static __attribute__((noinline)) void plane_codes(uint8_t *code, const uint8_t *score, const uint8_t *bound, uint32_t steps) {
    const uint8x8_t one = vld1_u8(bound);
    const uint8x16_t limit = vcombine_u8(vzip1_u8(one, one), vzip2_u8(one, one));
    const uint8x16_t b0 = vdupq_n_u8(1), b1 = vdupq_n_u8(2), b2 = vdupq_n_u8(4), b3 = vdupq_n_u8(8);
    for (; steps > 0; steps--, score += 4 * 2 * QUERIES, code += 2 * QUERIES) {
        uint8x16_t x = vandq_u8(vcltq_u8(vld1q_u8(score), limit), b0);
        x = vbslq_u8(b1, vcltq_u8(vld1q_u8(score + 16), limit), x);
        x = vbslq_u8(b2, vcltq_u8(vld1q_u8(score + 32), limit), x);
        x = vbslq_u8(b3, vcltq_u8(vld1q_u8(score + 48), limit), x);
        vst1q_u8(code, x);
    }
}

/* Entries of a plane's threshold for query i, whose table's sum lies between low and high: `exact` has it once it was needed. A
 * limit is a factor times the sum, so that the entries above it are the same for all sums in between if they are for both ends: all
 * that are above the lower one are above the upper one if the least of them is. */
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
                             uint32_t entries, uint32_t block) {
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
        plane_codes(codes_of(w, t, block), w->score, bound, w->steps);
    }
}

/* The keys of up to 64 whose weight is not below a limit, or is above it: bits b and 32 + b are keys 2b and 2b + 1. */
INLINE uint64_t weight_mask(const double *weight, uint32_t n, double limit, const bool inclusive) {
    const float64x2_t least = vdupq_n_f64(limit);
    uint64x2_t bits = vdupq_n_u64(0);
    for (uint32_t j = n + n % 2; j > 0; j -= 2) {
        const float64x2_t x = vld1q_f64(weight + j - 2);
        bits = vsubq_u64(vaddq_u64(bits, bits), inclusive ? vcgeq_f64(x, least) : vcgtq_f64(x, least));
    }
    const uint64_t all = vgetq_lane_u64(bits, 0) | vgetq_lane_u64(bits, 1) << 32;
    return n % 2 ? all & ~((uint64_t)1 << 32 << n / 2) : all;
}

/* The codes with a bias on the scores. Sums are taken in the definition's order, where a plane needs them. */
static void weighted_planes(workspace *w, const general_attention *a, const general_head *g, const uint8_t *least, uint32_t row,
                            unsigned queries, uint32_t block) {
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
            uint8_t *code = codes_of(w, t, block) + 2 * i;
            for (uint32_t from = 0; from < keys; from += 64) {
                const uint32_t n = bvt_min_u32(keys - from, 64);
                const double *at = weight + from;
                const uint64_t bits = a->inclusive >> t & 1 ? weight_mask(at, n, limit, true) : weight_mask(at, n, limit, false);
                for (uint32_t b = 0; b < n; b += 8, code += 2 * QUERIES)
                    code[0] = bits >> b / 2 & 15, code[1] = bits >> (32 + b / 2) & 15;
            }
        }
    }
}

/* ---- Values -------------------------------------------------------------------------------------------------------------- */

/* 8 bytes of each of 16 columns, of which the last 8 begin at another place: byte i of all columns goes to to[i * MOST_WIDTH]. */
INLINE void transpose_columns(uint8_t *to, const uint8_t *column, const uint8_t *other, size_t stride) {
    uint8x16_t x[8], y[8];
    for (unsigned i = 0; i < 8; i++, column += stride, other += stride)
        x[i] = vzip1q_u8(vcombine_u8(vld1_u8(column), vdup_n_u8(0)), vcombine_u8(vld1_u8(other), vdup_n_u8(0)));
    for (unsigned i = 0; i < 4; i++) y[2 * i] = vzip1q_u8(x[i], x[i + 4]), y[2 * i + 1] = vzip2q_u8(x[i], x[i + 4]);
    for (unsigned i = 0; i < 2; i++) /* y[2i + h]: columns i, i + 8, i + 4, i + 12 of bytes 4h .. 4h + 3 */
        for (unsigned h = 0; h < 2; h++) {
            x[4 * i + 2 * h] = vzip1q_u8(y[2 * i + h], y[2 * i + 4 + h]);
            x[4 * i + 2 * h + 1] = vzip2q_u8(y[2 * i + h], y[2 * i + 4 + h]);
        }
    for (unsigned k = 0; k < 4; k++) {
        vst1q_u8(to + (2 * k) * MOST_WIDTH, vzip1q_u8(x[k], x[4 + k]));
        vst1q_u8(to + (2 * k + 1) * MOST_WIDTH, vzip2q_u8(x[k], x[4 + k]));
    }
}

/* The 16 sums of 4 keys, of which x[b] is added where bit b is set. */
INLINE void make_sums(uint8_t *to, const uint8x16_t x[4], const unsigned vectors) {
    const size_t entry = 16 * (size_t)vectors;
    uint8x16_t e[8] = {vdupq_n_u8(0), x[0], x[1], vaddq_u8(x[0], x[1]), x[2]};
    for (unsigned i = 1; i < 4; i++) e[4 + i] = vaddq_u8(e[i], x[2]);
    for (unsigned i = 0; i < 8; i++) vst1q_u8(to + entry * i, e[i]);
    for (unsigned i = 0; i < 8; i++) vst1q_u8(to + entry * (8 + i), vaddq_u8(e[i], x[3]));
}

/* The nibbles of 32 channels that bytes of 16 and 16 have: of bits 0 .. 3, and of bits 4 .. 7. */
INLINE void nibbles(uint8x16_t p[2], uint8x16_t low, uint8x16_t high) {
    p[0] = vsliq_n_u8(low, high, 4), p[1] = vsriq_n_u8(high, low, 4);
}

/* The tables of steps from .. from+steps-1. */
INLINE void part_sums(workspace *w, const general_attention *a, const general_head *g, uint32_t from, uint32_t steps,
                      const unsigned vectors, const bool trits) {
    const uint8x16_t units = vdupq_n_u8(0x11);
    const size_t stride = g->column_stride, table = 16 * 16 * (size_t)vectors;
    uint8_t byte[2][8 * MOST_WIDTH]; /* [plane][step][channel] of 64 keys */
    for (uint32_t step = 0; step < steps; step += 8) {
        for (uint32_t c = 0; c < a->d; c += 16) { /* an even number of eights is looked up: the last may stand twice */
            const uint8_t *column = g->column + c * stride + from + step, *other = c + 8 < a->d ? column + 8 * stride : column;
            transpose_columns(byte[0] + c, column, other, stride);
            if (trits) transpose_columns(byte[1] + c, column + g->nonzero, other + g->nonzero, stride);
        }
        const uint32_t n = bvt_min_u32(steps - step, 8);
        for (uint32_t i = 0; i < n; i++)
            for (unsigned v = 0; v < vectors; v++) {
                const size_t at = i * MOST_WIDTH + 32 * v;
                uint8_t *to = w->sums + 2 * table * (step + i) + 16 * v;
                uint8x16_t p[2], zero[2] = {units, units};
                nibbles(p, vld1q_u8(byte[0] + at), vld1q_u8(byte[0] + at + 16));
                if (trits) nibbles(zero, vmvnq_u8(vld1q_u8(byte[1] + at)), vmvnq_u8(vld1q_u8(byte[1] + at + 16)));
#pragma GCC unroll 1
                for (unsigned odd = 0; odd < 2; odd++, to += table) { /* bits 0 and 2, then 1 and 3 */
                    uint8x16_t x[4];
                    for (unsigned b = 0; b < 4; b++) {
                        x[b] = vandq_u8(b % 2 ? vshrq_n_u8(p[b / 2], 2) : p[b / 2], units);
                        if (trits) { /* 2 for +1, 1 for 0, 0 for -1 */
                            x[b] = vaddq_u8(x[b], x[b]);
                            x[b] = vaddq_u8(x[b], vandq_u8(b % 2 ? vshrq_n_u8(zero[b / 2], 2) : zero[b / 2], units));
                        }
                    }
                    make_sums(to, x, vectors);
                    for (unsigned h = 0; h < 2; h++) p[h] = vshrq_n_u8(p[h], 1), zero[h] = vshrq_n_u8(zero[h], 1);
                }
            }
    }
}

/* Adds what 2 * n codes have to all = low + 16 * high modulo 256, and to high. */
INLINE void add_entries(uint8x16_t all[2], uint8x16_t high[2], const uint8_t *code, const uint8_t *sums, const unsigned n,
                        const unsigned vectors, const bool trits) {
    const size_t entry = 16 * (size_t)vectors;
    for (unsigned i = 0; i < n; i++) {
        const uint8_t *even = sums + code[2 * QUERIES * i] * entry, *odd = sums + code[2 * QUERIES * i + 1] * entry;
        __asm__("" : "+r"(even)); /* one sum, not an offset for the first load and a sum for the others */
        for (unsigned v = 0; v < vectors; v++) {
            const uint8x16_t x = vld1q_u8(even + 32 * i * entry + 16 * v), y = vld1q_u8(odd + (32 * i + 16) * entry + 16 * v);
            if (trits) {
                all[v] = vaddq_u8(all[v], x), high[v] = vsraq_n_u8(high[v], x, 4);
                all[v] = vaddq_u8(all[v], y), high[v] = vsraq_n_u8(high[v], y, 4);
            } else {
                const uint8x16_t both = vaddq_u8(x, y);
                all[v] = vaddq_u8(all[v], both), high[v] = vsraq_n_u8(high[v], both, 4);
            }
        }
    }
}

/* Steps whose sums are bytes: 15 * 2 * 8 and 31 * 2 * 4. */
INLINE uint32_t byte_steps(const bool trits) { return trits ? 15 : 31; }

/* The sums of 32 * vectors channels, 16 each, of the keys of a query's codes, of so few steps. */
INLINE void byte_sums(uint8x16_t *sum, const uint8_t *code, const uint8_t *sums, uint32_t n, const unsigned vectors, const bool trits) {
    uint8x16_t all[2], high[2];
    for (unsigned v = 0; v < vectors; v++) all[v] = high[v] = vdupq_n_u8(0);
    for (; n > 1; n -= 2, code += 4 * QUERIES, sums += 64 * 16 * vectors) add_entries(all, high, code, sums, 2, vectors, trits);
    if (n) add_entries(all, high, code, sums, 1, vectors, trits);
    for (unsigned v = 0; v < vectors; v++) sum[2 * v] = vsubq_u8(all[v], vshlq_n_u8(high[v], 4)), sum[2 * v + 1] = high[v];
}

/* Adds to sums, once or twice, what the keys of a query's codes have, of `steps` steps. */
INLINE void look_up(uint16x8_t *sum, const uint8_t *code, const uint8_t *sums, uint32_t steps, const unsigned vectors,
                    const bool trits, const bool twice) {
    for (uint32_t n; steps; steps -= n, code += (size_t)n * 2 * QUERIES, sums += (size_t)n * 32 * 16 * vectors) {
        uint8x16_t part[4];
        n = bvt_min_u32(steps, byte_steps(trits));
        byte_sums(part, code, sums, n, vectors, trits);
        for (unsigned k = 0; k < 2 * vectors; k++) {
            for (unsigned times = 0; times < 1u + twice; times++) {
                sum[2 * k] = vaddw_u8(sum[2 * k], vget_low_u8(part[k]));
                sum[2 * k + 1] = vaddw_high_u8(sum[2 * k + 1], part[k]);
            }
        }
    }
}

/* The counts of some queries' codes, of a part of the keys. */
INLINE void part_counts(workspace *w, uint32_t queries, uint32_t from, uint32_t steps, unsigned masks, const unsigned vectors,
                        const bool trits) {
    for (unsigned t = 0; t < masks; t++)
        for (uint32_t i = 0; i < queries; i++) {
            uint16_t *count = w->count[t * w->blocks * QUERIES + i];
            uint16x8_t sum[8];
            for (unsigned k = 0; k < 4 * vectors; k++) sum[k] = from ? vld1q_u16(count + 8 * k) : vdupq_n_u16(0);
            look_up(sum, codes_of(w, t, i / QUERIES) + from * 2 * QUERIES + i % QUERIES * 2, w->sums, steps, vectors, trits, false);
            for (unsigned k = 0; k < 4 * vectors; k++) vst1q_u16(count + 8 * k, sum[k]);
        }
}

/* The results in i16 of queries with one plane, whose step is 1, and neither zero point nor base: count, or twice it, - ones. */
INLINE void plain_results(workspace *w, const general_attention *a, const general_head *g, uint32_t row, uint32_t queries,
                          const unsigned vectors, const bool trits) {
    uint8_t *out = general_out(a, g, row);
    const size_t stride = a->call->out[0].stride;
    const uint32_t d = a->d, first = bvt_min_u32(w->steps, byte_steps(trits)), rest = w->steps - first;
    for (uint32_t i = 0; i < queries; i++, out += stride) {
        const uint8_t *code = codes_of(w, 0, i / QUERIES) + i % QUERIES * 2;
        const uint16x8_t minus = vdupq_n_u16((uint16_t)-w->ones[i]);
        uint8x16_t part[4];
        uint16x8_t y[8];
        byte_sums(part, code, w->sums, first, vectors, trits);
        for (unsigned k = 0; k < 2 * vectors; k++) {
            y[2 * k] = vaddw_u8(minus, vget_low_u8(part[k])), y[2 * k + 1] = vaddw_high_u8(minus, part[k]);
            if (!trits) y[2 * k] = vaddw_u8(y[2 * k], vget_low_u8(part[k])), y[2 * k + 1] = vaddw_high_u8(y[2 * k + 1], part[k]);
        }
        if (rest) look_up(y, code + first * 2 * QUERIES, w->sums + (size_t)first * 32 * 16 * vectors, rest, vectors, trits, !trits);
        uint16_t *to = (uint16_t *)(void *)out;
        if (d == 32 * vectors)
            for (unsigned k = 0; k < 4 * vectors; k++) vst1q_u16(to + 8 * k, y[k]);
        else
            for (unsigned k = 0; k < 4 * vectors && 8 * k < d; k++) vst1q_u16(to + 8 * k, y[k]);
    }
}

/* The tables, and what is looked up in them, by heads of up to 32 or 64 channels, and by values of bits or trits. */
typedef struct {
    void (*sums)(workspace *w, const general_attention *a, const general_head *g, uint32_t from, uint32_t steps);
    void (*counts)(workspace *w, uint32_t queries, uint32_t from, uint32_t steps, unsigned masks);
    void (*results)(workspace *w, const general_attention *a, const general_head *g, uint32_t row, uint32_t queries);
} value_form;
#define FORM(name, vectors, trits)                                                                                             \
    static void name##_sums(workspace *w, const general_attention *a, const general_head *g, uint32_t from, uint32_t steps) {  \
        part_sums(w, a, g, from, steps, vectors, trits);                                                                       \
    }                                                                                                                          \
    static void name##_counts(workspace *w, uint32_t queries, uint32_t from, uint32_t steps, unsigned masks) {                 \
        part_counts(w, queries, from, steps, masks, vectors, trits);                                                           \
    }                                                                                                                          \
    static void name##_results(workspace *w, const general_attention *a, const general_head *g, uint32_t row, uint32_t rows) { \
        plain_results(w, a, g, row, rows, vectors, trits);                                                                     \
    }
FORM(bits_32, 1, false)
FORM(trits_32, 1, true)
FORM(bits_64, 2, false)
FORM(trits_64, 2, true)
#undef FORM
static const value_form value_forms[4] = {{bits_32_sums, bits_32_counts, bits_32_results},
                                          {trits_32_sums, trits_32_counts, trits_32_results},
                                          {bits_64_sums, bits_64_counts, bits_64_results},
                                          {trits_64_sums, trits_64_counts, trits_64_results}};

/* The results in i16 of a query from its counts: modulo 2^16, which they are exact in. */
static void finish_i16(const workspace *w, const general_head *g, int16_t *out, uint32_t i, uint32_t d, const int32_t *step,
                       unsigned masks, bool trits) {
    const uint32_t apart = w->blocks * QUERIES;
    uint16_t ones[BVT_ATTENTION_PLANES], factor[BVT_ATTENTION_PLANES], minus = 0;
    for (unsigned t = 0; t < masks; t++) {
        ones[t] = w->ones[t * apart + i], factor[t] = (uint16_t)step[t];
        minus = (uint16_t)(minus + (1u + (uint32_t)g->zv) * factor[t] * ones[t]);
        if (!trits) factor[t] = (uint16_t)(2 * factor[t]);
    }
    for (uint32_t c = 0; c < d; c += 8) {
        uint16x8_t y = vdupq_n_u16((uint16_t)-minus);
        if (g->base) {
            const uint32x4_t low = vld1q_u32((const uint32_t *)w->base + c), high = vld1q_u32((const uint32_t *)w->base + c + 4);
            y = vaddq_u16(y, vuzp1q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high)));
        }
        for (unsigned t = 0; t < masks; t++) y = vmlaq_n_u16(y, vld1q_u16(w->count[t * apart + i] + c), factor[t]);
        vst1q_s16(out + c, vreinterpretq_s16_u16(y));
    }
}

/* The results in i32 or f32 of a query from its counts. */
static void finish(const workspace *w, const general_head *g, uint8_t *out, uint32_t i, uint32_t d, const int32_t *step,
                   const float *real, unsigned masks, bool trits) {
    const uint32_t apart = w->blocks * QUERIES;
    int32_t minus = 0;
    for (unsigned t = 0; t < masks; t++) minus += g->zv * step[t] * w->ones[t * apart + i];
    for (uint32_t c = 0; c < d; c += 8) {
        int32x4_t low = vdupq_n_s32(-minus), high = low;
        float32x4_t y0 = vdupq_n_f32(0), y1 = y0;
        if (g->base) low = vaddq_s32(low, vld1q_s32(w->base + c)), high = vaddq_s32(high, vld1q_s32(w->base + c + 4));
        for (unsigned t = 0; t < masks; t++) {
            int16x8_t n = vreinterpretq_s16_u16(vld1q_u16(w->count[t * apart + i] + c));
            if (!trits) n = vaddq_s16(n, n);
            n = vsubq_s16(n, vdupq_n_s16((int16_t)w->ones[t * apart + i])); /* at most 1024 */
            const int32x4_t n0 = vmovl_s16(vget_low_s16(n)), n1 = vmovl_high_s16(n);
            if (real) {
                y0 = vfmaq_n_f32(y0, vcvtq_f32_s32(n0), real[t]);
                y1 = vfmaq_n_f32(y1, vcvtq_f32_s32(n1), real[t]);
            } else {
                low = vmlaq_n_s32(low, n0, step[t]), high = vmlaq_n_s32(high, n1, step[t]);
            }
        }
        if (real) low = vreinterpretq_s32_f32(y0), high = vreinterpretq_s32_f32(y1);
        vst1q_s32((int32_t *)(void *)(out + 4 * (size_t)c), low);
        vst1q_s32((int32_t *)(void *)(out + 4 * (size_t)c + 16), high);
    }
}

/* How many keys the codes of 8 queries have. */
static void set_bits(uint16_t ones[QUERIES], const uint8_t *code, uint32_t steps) {
    uint16x8_t sum = vdupq_n_u16(0);
    for (; steps > 0; steps--, code += 2 * QUERIES) sum = vpadalq_u8(sum, vcntq_u8(vld1q_u8(code)));
    vst1q_u16(ones, sum);
}

/* Three planes of equal steps become two: the binary digits of how many are set. */
static void codes_to_digits(workspace *w, uint32_t block) {
    uint8_t *code[3] = {codes_of(w, 0, block), codes_of(w, 1, block), codes_of(w, 2, block)};
    for (uint32_t at = 0; at < w->steps * 2 * QUERIES; at += 16) {
        const uint8x16_t x = vld1q_u8(code[0] + at), y = vld1q_u8(code[1] + at), z = vld1q_u8(code[2] + at), xy = veorq_u8(x, y);
        vst1q_u8(code[0] + at, veorq_u8(xy, z));
        vst1q_u8(code[1] + at, vbslq_u8(xy, z, x));
    }
}

/* The results of some rows from their codes; `made`: the values' tables are there already. */
static void contexts(workspace *w, const general_attention *a, const general_head *g, uint32_t row, uint32_t queries, bool made) {
    const bvt_view *real_view = &a->call->in[BVT_ATTENTION_REAL_STEPS];
    const bool trits = a->call->in[2].dtype == BVT_DTYPE_TRITS;
    const value_form *form = &value_forms[2 * (a->d > 32) + trits];
    unsigned masks = a->planes;
    int32_t step[BVT_ATTENTION_PLANES] = {g->step[0], g->step[1], g->step[2]};
    float real[BVT_ATTENTION_PLANES] = {0};
    if (g->digits) {
        for (uint32_t block = 0; block * QUERIES < queries; block++) codes_to_digits(w, block);
        masks = 2, step[1] = 2 * step[0];
    }
    for (unsigned t = 0; t < masks; t++) {
        if (real_view->base) real[t] = bvt_row_f32(real_view, t)[g->head];
        for (uint32_t block = 0; block * QUERIES < queries; block++)
            set_bits(w->ones + (t * w->blocks + block) * QUERIES, codes_of(w, t, block), w->steps);
    }
    const bool narrow = a->call->out[0].dtype == BVT_DTYPE_I16;
    const bool plain = narrow && masks == 1 && step[0] == 1 && !g->zv && !g->base && w->steps <= PART_STEPS;
    for (uint32_t from = 0; from < w->steps; from += PART_STEPS) {
        const uint32_t steps = bvt_min_u32(w->steps - from, PART_STEPS);
        if (!made) form->sums(w, a, g, from, steps);
        if (plain) form->results(w, a, g, row, queries);
        else form->counts(w, queries, from, steps, masks);
    }
    for (uint32_t i = 0; i < queries && !plain; i++) {
        uint8_t *out = general_out(a, g, row + i);
        if (narrow) finish_i16(w, g, (int16_t *)(void *)out, i, a->d, step, masks, trits);
        else finish(w, g, out, i, a->d, step, real_view->base ? real : NULL, masks, trits);
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

/* The codes of rows row .. row+queries-1 of one window and head, up to 8. */
static void attend(workspace *w, const general_attention *a, const general_head *g, uint32_t row, unsigned queries, uint32_t block,
                   uint32_t entries, bool trits) {
    const uint32_t keys = a->nk;
    uint64_t query[QUERIES], some[QUERIES];
    uint8_t least[16];
    for (unsigned i = 0; i < QUERIES; i++) /* those that are not there repeat the last one */
        query[i] = head_codes(&a->call->in[0], row + (i < queries ? i : queries - 1), g->head * a->d, a->d, &some[i]);
    vst1q_u8(least, trits ? pair_scores(w, query, some, keys, a->d, true) : pair_scores(w, query, some, keys, a->d, false));
    if (a->call->in[BVT_ATTENTION_BIAS].base) {
        weighted_planes(w, a, g, least, row, queries, block);
        return;
    }
    if (keys % 2)
        for (unsigned i = 0; i < QUERIES; i++) w->score[8 * (size_t)(keys - 1) + 2 * i + 1] = 255;
    memset(w->score + 8 * (size_t)(keys + keys % 2), 255, 8 * (size_t)(8 * w->steps - keys - keys % 2));
    threshold_planes(w, a, g, least, entries, block);
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
    w.steps = (a.nk + 7) / 8;
    w.blocks = bvt_min_u32(CODES / (w.steps * 2 * QUERIES), COUNTS / QUERIES) / a.planes;
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
            for (uint32_t r = row; r < end; r += w.blocks * QUERIES) {
                const uint32_t queries = bvt_min_u32(end - r, w.blocks * QUERIES);
                for (uint32_t i = 0; i < queries; i += QUERIES)
                    attend(&w, &a, &g, r + i, bvt_min_u32(queries - i, QUERIES), i / QUERIES, entries, trits);
                contexts(&w, &a, &g, r, queries, r > row && w.steps <= PART_STEPS);
            }
        }
    }
}
