/* attention one query at a time on 64-bit words. The plain form with heads of whole bytes is here; its other heads go to the
 * reference, other forms to attention_general.h.
 *
 * The including file says which instructions popcount and the loops over scores become.
 */
#include "attention_general.h"

/* score[j] = popcount(q xor k_j) over d_bytes bytes; returns the least. */
static inline __attribute__((always_inline)) uint32_t row_scores(uint16_t *score, const uint8_t *q, const uint8_t *k,
                                                                 size_t k_stride, uint32_t m, const uint32_t d_bytes) {
    uint32_t least = UINT32_MAX;
    for (uint32_t j = 0; j < m; j++, k += k_stride) {
        uint32_t p = 0;
        for (uint32_t b = 0; b < d_bytes; b += 8) {
            const uint32_t n = d_bytes - b < 8 ? d_bytes - b : 8;
            p += (uint32_t)__builtin_popcountll(load_word(q + b, n) ^ load_word(k + b, n));
        }
        score[j] = (uint16_t)p;
        least = p < least ? p : least;
    }
    return least;
}

/* The plain form. */
static inline void attention_rows_plain(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t heads = (uint32_t)call->op->attr[0], d = call->in[0].cols / heads, m = call->in[1].rows, words = (m + 63) / 64;
    const bvt_view *k = &call->in[1], *v = &call->in[2];
    const double *limit = bvt_row(&call->in[4], 0);
    uint16_t *score = call->scratch;
    uint64_t *mask = (uint64_t *)(void *)((uint8_t *)call->scratch + bvt_attention_mask_at(m));
    const bool narrow = call->out[0].dtype == BVT_DTYPE_I16;
    if (d % 8) {
        bvt_attention_ref(call, row0, row1);
        return;
    }
    for (uint32_t i = row0; i < row1; i++)
        for (uint32_t h = 0; h < heads; h++) {
            const uint8_t *q = bvt_row_bits(&call->in[0], i) + h * (d / 8), *keys = k->base + h * (d / 8);
            const uint64_t *table = bvt_attention_table(call, h);
            uint32_t least;
            switch (d) {
            case 16: least = row_scores(score, q, keys, k->stride, m, 2); break;
            case 32: least = row_scores(score, q, keys, k->stride, m, 4); break;
            case 64: least = row_scores(score, q, keys, k->stride, m, 8); break;
            default: least = row_scores(score, q, keys, k->stride, m, d / 8);
            }
            uint64_t z = 0;
            for (uint32_t j = 0; j < m; j++) z += table[score[j] - least];
            const int above = bvt_attention_last(table, d, limit[h] * (double)z) + (int)least; /* a_j = score <= above */
            int32_t ones = 0;
            for (uint32_t w = 0; w < words; w++) {
                const uint32_t n = bvt_min_u32(m - 64 * w, 64);
                uint64_t bits = 0;
                for (uint32_t j = 0; j < n; j++) bits |= (uint64_t)(score[64 * w + j] <= above) << j;
                mask[w] = bits;
                ones += __builtin_popcountll(bits);
            }
            void *out = bvt_row(&call->out[0], i);
            for (uint32_t c = 0; c < d; c++) {
                const uint8_t *column = v->base + (size_t)(h * d + c) * v->stride;
                int32_t both = 0;
                for (uint32_t w = 0; w < words; w++) {
                    uint64_t bits;
                    memcpy(&bits, column + (size_t)w * 8, 8);
                    both += __builtin_popcountll(bits & mask[w]);
                }
                bvt_put_dot(out, h * d + c, 2 * both - ones, narrow);
            }
        }
}

/* Any form. */
static inline void attention_rows(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (bvt_attention_plain(call)) attention_rows_plain(call, row0, row1);
    else attention_general(call, row0, row1);
}
