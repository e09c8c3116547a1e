/* attention for NEON as 32-bit ARM has it: popcounts of eight keys, or of eight value columns, at a time. Scores, masks and counts
 * are integers and done by NEON; the table's sum, thresholds and real levels are scalar, because NEON here flushes subnormal floats.
 *
 * The plain form keeps a head's keys as words on the stack, for heads of up to 64 columns and up to 1024 keys; other plain ops go
 * query by query (attention_rows.h). The other forms are attention_general.h with parts of its own.
 */
#include <arm_neon.h>

#include "attention_rows.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST_KEYS 1024u /* 10 KiB of stack */
#define MOST_WIDTH 64u
#define MOST_WORDS 4096u /* of a mask: a u16 counts them */

/* Byte i: the sum of the bytes of x[i], modulo 256. */
INLINE uint8x8_t byte_sums(const uint8x8_t x[8]) {
    const uint8x8_t a = vpadd_u8(vpadd_u8(x[0], x[1]), vpadd_u8(x[2], x[3]));
    const uint8x8_t b = vpadd_u8(vpadd_u8(x[4], x[5]), vpadd_u8(x[6], x[7]));
    return vpadd_u8(a, b);
}

/* Lane i: the sum of the lanes of x[i]. */
INLINE uint16x8_t lane_sums(const uint16x8_t x[8]) {
    uint16x4_t s[8];
    for (unsigned i = 0; i < 8; i++) s[i] = vpadd_u16(vget_low_u16(x[i]), vget_high_u16(x[i]));
    return vcombine_u16(vpadd_u16(vpadd_u16(s[0], s[1]), vpadd_u16(s[2], s[3])),
                        vpadd_u16(vpadd_u16(s[4], s[5]), vpadd_u16(s[6], s[7])));
}

INLINE uint8x8_t as_bytes(uint64_t word) { return vreinterpret_u8_u64(vdup_n_u64(word)); }

/* How many bits of a mask of `words` words are set in each of 8 columns. */
INLINE uint16x8_t column_counts(const uint8_t *column, size_t stride, const uint64_t *mask, uint32_t words) {
    uint16x8_t sum[8];
    for (unsigned i = 0; i < 8; i++, column += stride) {
        uint16x8_t s = vdupq_n_u16(0);
        uint32_t w = 0;
        for (; w + 2 <= words; w += 2) {
            const uint8x16_t m = vreinterpretq_u8_u64(vld1q_u64(mask + w));
            s = vpadalq_u8(s, vcntq_u8(vandq_u8(m, vld1q_u8(column + (size_t)8 * w))));
        }
        if (w < words) {
            const uint8x8_t last = vcnt_u8(vand_u8(vreinterpret_u8_u64(vld1_u64(mask + w)), vld1_u8(column + (size_t)8 * w)));
            s = vpadalq_u8(s, vcombine_u8(last, vdup_n_u8(0)));
        }
        sum[i] = s;
    }
    return lane_sums(sum);
}

static int32_t mask_ones(const uint64_t *mask, uint32_t words) {
    uint32x2_t sum = vdup_n_u32(0);
    for (uint32_t w = 0; w < words; w++) sum = vpadal_u16(sum, vpaddl_u8(vcnt_u8(vreinterpret_u8_u64(vld1_u64(mask + w)))));
    return (int32_t)vget_lane_u32(vpadd_u32(sum, sum), 0);
}

/* ---- The plain form ------------------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t key[MOST_KEYS]; /* the head's codes; 0 beyond the last key, up to a multiple of 8 */
    uint8_t score[MOST_KEYS]; /* distances; 255 beyond the last key, up to a multiple of 64 */
    uint64_t mask[MOST_KEYS / 64];
} workspace;

/* Distances of the keys from a query; returns the least of the first `keys`. */
static uint32_t plain_scores(workspace *w, uint64_t query, uint32_t keys) {
    const uint8x16_t q = vcombine_u8(as_bytes(query), as_bytes(query));
    uint8x8_t least = vdup_n_u8(255);
    for (uint32_t j = 0; j < keys; j += 8) {
        uint8x8_t x[8];
        for (unsigned i = 0; i < 8; i += 2) {
            const uint8x16_t differ = vcntq_u8(veorq_u8(q, vreinterpretq_u8_u64(vld1q_u64(w->key + j + i))));
            x[i] = vget_low_u8(differ), x[i + 1] = vget_high_u8(differ);
        }
        uint8x8_t score = byte_sums(x);
        if (j + 8 > keys) {
            static const uint8_t lanes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
            score = vorr_u8(score, vcge_u8(vld1_u8(lanes), vdup_n_u8((uint8_t)(keys - j))));
        }
        vst1_u8(w->score + j, score);
        least = vmin_u8(least, score);
    }
    for (int i = 0; i < 3; i++) least = vpmin_u8(least, least);
    return vget_lane_u8(least, 0);
}

/* Bit j of the mask: distance j is at most `above`; 255 never is, a distance is at most 64. */
static void plain_mask(workspace *w, uint32_t words, int above) {
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t weight = vld1q_u8(bits), limit = vdupq_n_u8((uint8_t)above);
    for (uint32_t word = 0; word < words; word++) {
        uint8x8_t x[8];
        for (unsigned i = 0; i < 4; i++) {
            const uint8x16_t set = vandq_u8(vcleq_u8(vld1q_u8(w->score + 64 * (size_t)word + 16 * i), limit), weight);
            x[2 * i] = vget_low_u8(set), x[2 * i + 1] = vget_high_u8(set);
        }
        vst1_u8((uint8_t *)&w->mask[word], byte_sums(x));
    }
}

static void plain_head(const bvt_call *call, workspace *w, uint32_t head, uint32_t row0, uint32_t row1) {
    const uint32_t d = call->in[0].cols / (uint32_t)call->op->attr[0], keys = call->in[1].rows, words = (keys + 63) / 64;
    const uint64_t *table = bvt_attention_table(call, head);
    const double limit = ((const double *)bvt_row(&call->in[BVT_ATTENTION_LIMIT], 0))[head];
    const bvt_view *v = &call->in[2];
    for (uint32_t j = 0; j < keys; j++) take_bits(&w->key[j], bvt_row_bits(&call->in[1], j), head * d, d);
    memset(w->key + keys, 0, (-keys & 7) * sizeof *w->key);
    memset(w->score + keys, 255, 64 * (size_t)words - keys);
    for (uint32_t row = row0; row < row1; row++) {
        uint64_t query, z = 0;
        take_bits(&query, bvt_row_bits(&call->in[0], row), head * d, d);
        const uint32_t least = plain_scores(w, query, keys);
        for (uint32_t j = 0; j < keys; j++) z += table[w->score[j] - least];
        const int last = bvt_attention_last(table, d, limit * (double)z);
        if (last < 0) memset(w->mask, 0, words * sizeof *w->mask);
        else plain_mask(w, words, last + (int)least < 254 ? last + (int)least : 254);
        const uint16x8_t ones = vdupq_n_u16((uint16_t)mask_ones(w->mask, words));
        int16_t *out = (int16_t *)bvt_row(&call->out[0], row) + (size_t)head * d; /* so few keys are no more than i16 */
        for (uint32_t c = 0; c < d; c += 8) {
            const uint16x8_t both = column_counts(v->base + (size_t)(head * d + c) * v->stride, v->stride, w->mask, words);
            vst1q_s16(out + c, vreinterpretq_s16_u16(vsubq_u16(vaddq_u16(both, both), ones)));
        }
    }
}

/* ---- The other forms ----------------------------------------------------------------------------------------------------- */

/* Of heads of one word. For each key: what both codes have (bits: nothing is counted, d is), minus twice what differs. */
INLINE int32_t word_scores(const general_attention *a, const general_head *g, int32_t *score, const uint64_t *q, const bool q_trits,
                           const bool k_trits) {
    const uint64_t *key = (const uint64_t *)(const void *)(a->scratch + a->areas.keys);
    const int32_t *key_sum = (const int32_t *)(const void *)(a->scratch + a->areas.key_sums);
    const uint8x8_t query = as_bytes(q[0]), present = as_bytes(q_trits ? q[1] : ~(uint64_t)0);
    const int16x8_t there = vdupq_n_s16(q_trits || k_trits ? 0 : (int16_t)a->d);
    const int32x4_t zero = vdupq_n_s32(-g->zq);
    int32x4_t most = vdupq_n_s32(INT32_MIN);
    uint32_t j = 0;
    for (; j + 8 <= a->nk; j += 8) {
        int8x8_t x[8];
        for (unsigned i = 0; i < 8; i++, key += k_trits ? 2 : 1) {
            uint8x8_t differ = veor_u8(query, vreinterpret_u8_u64(vld1_u64(key)));
            if (q_trits || k_trits) {
                const uint8x8_t some = k_trits ? vand_u8(present, vreinterpret_u8_u64(vld1_u64(key + 1))) : present;
                differ = vcnt_u8(vand_u8(differ, some));
                x[i] = vreinterpret_s8_u8(vsub_u8(vcnt_u8(some), vadd_u8(differ, differ)));
            } else {
                x[i] = vreinterpret_s8_u8(vcnt_u8(differ));
            }
        }
        uint8x8_t bytes[8];
        for (unsigned i = 0; i < 8; i++) bytes[i] = vreinterpret_u8_s8(x[i]);
        const int16x8_t sum = vmovl_s8(vreinterpret_s8_u8(byte_sums(bytes))); /* -64 .. 64 */
        const int16x8_t dot = q_trits || k_trits ? sum : vsubq_s16(there, vaddq_s16(sum, sum));
        const int32x4_t low = vmlaq_s32(vmovl_s16(vget_low_s16(dot)), vld1q_s32(key_sum + j), zero);
        const int32x4_t high = vmlaq_s32(vmovl_s16(vget_high_s16(dot)), vld1q_s32(key_sum + j + 4), zero);
        vst1q_s32(score + j, low);
        vst1q_s32(score + j + 4, high);
        most = vmaxq_s32(most, vmaxq_s32(low, high));
    }
    int32x2_t two = vpmax_s32(vget_low_s32(most), vget_high_s32(most));
    int32_t best = vget_lane_s32(vpmax_s32(two, two), 0);
    if (j < a->nk) {
        const int32_t rest = general_scores_of(score + j, q, key, key_sum + j, g->zq, a->nk - j, a->d, 1, q_trits, k_trits);
        best = rest > best ? rest : best;
    }
    return best;
}

static int32_t neon_scores(const general_attention *a, const general_head *g, int32_t *score, const uint64_t *q) {
    const bool q_trits = a->call->in[0].dtype == BVT_DTYPE_TRITS, k_trits = a->call->in[1].dtype == BVT_DTYPE_TRITS;
    if (a->head_words != 1) return general_scores(a, g, score, q);
    switch (q_trits << 1 | k_trits) {
    case 0: return word_scores(a, g, score, q, false, false);
    case 1: return word_scores(a, g, score, q, false, true);
    case 2: return word_scores(a, g, score, q, true, false);
    default: return word_scores(a, g, score, q, true, true);
    }
}

/* Bit j = score[j] >= from, of n <= 64 scores. */
static uint64_t neon_reached(const int32_t *score, uint32_t n, int32_t from) {
    static const uint8_t bits[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    const int32x4_t limit = vdupq_n_s32(from);
    const uint8x8_t weight = vld1_u8(bits);
    uint64_t result = 0;
    uint32_t j = 0;
    for (; j + 8 <= n; j += 8) {
        const uint16x4_t low = vmovn_u32(vcgeq_s32(vld1q_s32(score + j), limit)),
                         high = vmovn_u32(vcgeq_s32(vld1q_s32(score + j + 4), limit));
        uint8x8_t set = vand_u8(vmovn_u16(vcombine_u16(low, high)), weight);
        for (int i = 0; i < 3; i++) set = vpadd_u8(set, set);
        result |= (uint64_t)vget_lane_u8(set, 0) << j;
    }
    return j < n ? result | general_reached(score + j, n - j, from) << j : result;
}

static void neon_thresholds(const general_attention *a, const general_head *g, uint64_t *mask, const int32_t *score, int32_t most,
                            const unsigned shift) {
    threshold_masks_by(a, g, mask, score, most, shift, general_row_sum(a, g, score, most, shift), neon_reached);
}

static void neon_context(const general_attention *a, const general_head *g, uint8_t *out, const uint64_t *mask, const int32_t *step,
                         const float *real, const unsigned masks) {
    const int32_t *base = (const int32_t *)(const void *)(a->scratch + a->areas.base);
    const bool trits = a->call->in[2].dtype == BVT_DTYPE_TRITS;
    if (a->d % 8 || a->key_words > MOST_WORDS) {
        general_context(a, g, out, mask, step, real, masks);
        return;
    }
    int32_t minus = 0, ones[BVT_ATTENTION_PLANES];
    for (unsigned t = 0; t < masks; t++) {
        ones[t] = mask_ones(mask + (size_t)t * a->key_words, a->key_words);
        minus += g->zv * step[t] * ones[t];
    }
    const size_t element = bvt_attention_out_bytes(a->call);
    for (uint32_t c = 0; c < a->d; c += 8, out += 8 * element) {
        const uint8_t *column = g->column + c * g->column_stride;
        float y_real[8] = {0};
        int32_t y[8];
        for (unsigned i = 0; i < 8; i++) y[i] = base[c + i] - minus;
        for (unsigned t = 0; t < masks; t++) {
            const uint64_t *m = mask + (size_t)t * a->key_words;
            const uint16x8_t positive = column_counts(column, g->column_stride, m, a->key_words);
            int32x4_t any[2] = {vdupq_n_s32(ones[t]), vdupq_n_s32(ones[t])};
            int32_t count[8];
            if (trits) {
                const uint16x8_t some = column_counts(column + g->nonzero, g->column_stride, m, a->key_words);
                any[0] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(some)));
                any[1] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(some)));
            }
            vst1q_s32(count, vsubq_s32(vreinterpretq_s32_u32(vshll_n_u16(vget_low_u16(positive), 1)), any[0]));
            vst1q_s32(count + 4, vsubq_s32(vreinterpretq_s32_u32(vshll_n_u16(vget_high_u16(positive), 1)), any[1]));
            if (real)
                for (unsigned i = 0; i < 8; i++) y_real[i] = bvt_fma((float)count[i], real[t], y_real[i]);
            else
                for (unsigned i = 0; i < 8; i++) y[i] += step[t] * count[i];
        }
        if (element == 2) vst1q_s16((int16_t *)(void *)out, vcombine_s16(vmovn_s32(vld1q_s32(y)), vmovn_s32(vld1q_s32(y + 4))));
        else memcpy(out, real ? (const void *)y_real : y, 32);
    }
}

void bvt_attention_armv7(const bvt_call *call, uint32_t row0, uint32_t row1) {
    static const general_parts parts = {NULL, neon_scores, neon_thresholds, neon_context};
    const uint32_t heads = (uint32_t)call->op->attr[0], d = call->in[0].cols / heads;
    if (!bvt_attention_plain(call)) {
        const general_attention a = general_start(call);
        general_rows(&a, row0, row1, &parts);
    } else if (d > MOST_WIDTH || d % 8 || call->in[1].rows > MOST_KEYS) {
        attention_rows(call, row0, row1);
    } else {
        workspace w;
        for (uint32_t h = 0; h < heads; h++) plain_head(call, &w, h, row0, row1);
    }
}
