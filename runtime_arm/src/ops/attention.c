/* attention: binary attention in integers.
 *
 *     in q bits[N x h*d], k bits[M x h*d], v bits[M x h*d] (layout COLS), table u64[1 x d+1], limit f64[1 x h]
 *     out i32[N x h*d]      attr[0] = h
 *     for each head and query row i:
 *         p_j = popcount(q_i xor k_j) over the head's d bits;  m_j = p_j - min_j p_j
 *         Z = sum_j table[m_j];  lim = limit[head] * float64(Z)
 *         T = (number of m in 0 .. d with float64(table[m]) > lim) - 1;  a_j = m_j <= T
 *         out[i][c] = 2*popcount(a and v_c) - popcount(a)
 */
#include "attention.h"

int bvt_check_attention(bvt_check *c) {
    const int32_t heads = c->op->attr[0];
    BVT_TRY(bvt_check_operands(c, 31, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 1));
    const bvt_rec_value *q = bvt_in(c, 0), *k = bvt_in(c, 1), *v = bvt_in(c, 2), *table = bvt_in(c, 3), *limit = bvt_in(c, 4);
    BVT_TRY(bvt_expect(c, heads > 0 && q->cols % (uint32_t)heads == 0, "heads must divide the columns"));
    const uint32_t d = q->cols / (uint32_t)heads;
    BVT_TRY(bvt_expect(c, d < 65536, "a head is wider than 65535"));
    BVT_TRY(bvt_check_value(c, q, BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, bvt_out(c, 0)->rows, q->cols, "q"));
    BVT_TRY(bvt_check_value(c, k, BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, v->rows, q->cols, "k"));
    BVT_TRY(bvt_check_value(c, v, BVT_DTYPE_BITS, BVT_LAYOUT_COLS, k->rows, q->cols, "v"));
    BVT_TRY(bvt_check_value(c, table, BVT_DTYPE_U64, BVT_LAYOUT_ROWS, 1, (uint64_t)d + 1, "the table"));
    BVT_TRY(bvt_check_value(c, limit, BVT_DTYPE_F64, BVT_LAYOUT_ROWS, 1, (uint64_t)heads, "limit"));
    BVT_TRY(bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_I32, BVT_LAYOUT_ROWS, q->rows, q->cols, "the output"));
    BVT_TRY(bvt_expect(c, table->storage == BVT_STORAGE_CONST && limit->storage == BVT_STORAGE_CONST,
                       "table and limit must be constants"));
    const uint64_t *t = (const uint64_t *)(const void *)(c->model->section[BVT_SECTION_CONSTANTS] + table->offset);
    for (uint32_t m = 0; m < d; m++) BVT_TRY(bvt_expect(c, t[m] >= t[m + 1], "the table increases"));
    BVT_TRY(bvt_expect(c, t[0] <= (((uint64_t)1 << 53) - 1) / k->rows, "the table is too large for its sums to be exact"));
    c->whole = 2 | 4 | 8 | 16;
    c->scratch = bvt_attention_scratch(k->rows);
    return BVT_OK;
}

/* popcount(a xor b) over the bits from .. from+n-1. */
static uint32_t differing(const uint8_t *a, const uint8_t *b, uint32_t from, uint32_t n) {
    uint32_t count = 0, end = from + n;
    for (uint32_t byte = from / 8; byte * 8 < end; byte++) {
        unsigned x = a[byte] ^ b[byte];
        if (byte * 8 < from) x &= 255u << (from - byte * 8);
        if (byte * 8 + 8 > end) x &= 255u >> (byte * 8 + 8 - end);
        count += (uint32_t)__builtin_popcount(x);
    }
    return count;
}

void bvt_attention_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t heads = (uint32_t)call->op->attr[0], d = call->in[0].cols / heads, m_end = call->in[1].rows;
    const bvt_view *k = &call->in[1], *v = &call->in[2];
    const uint64_t *table = bvt_row(&call->in[3], 0);
    const double *limit = bvt_row(&call->in[4], 0);
    uint16_t *score = call->scratch;
    uint64_t *mask = (uint64_t *)(void *)((uint8_t *)call->scratch + bvt_attention_mask_at(m_end));
    const uint32_t words = (m_end + 63) / 64;
    for (uint32_t i = row0; i < row1; i++) {
        const uint8_t *q = bvt_row_bits(&call->in[0], i);
        int32_t *out = bvt_row(&call->out[0], i);
        for (uint32_t h = 0; h < heads; h++) {
            uint32_t least = d;
            for (uint32_t j = 0; j < m_end; j++) {
                score[j] = (uint16_t)differing(q, bvt_row_bits(k, j), h * d, d);
                if (score[j] < least) least = score[j];
            }
            uint64_t z = 0;
            for (uint32_t j = 0; j < m_end; j++) z += table[score[j] - least];
            const int last = bvt_attention_last(table, d, limit[h] * (double)z);
            int32_t ones = 0;
            memset(mask, 0, words * sizeof *mask);
            for (uint32_t j = 0; j < m_end; j++) {
                if ((int)(score[j] - least) > last) continue;
                mask[j / 64] |= (uint64_t)1 << j % 64;
                ones++;
            }
            for (uint32_t c = h * d; c < h * d + d; c++) {
                const uint8_t *column = v->base + (size_t)c * v->stride;
                int32_t both = 0;
                for (uint32_t w = 0; w < words; w++) {
                    uint64_t bits; /* the stride is a multiple of 8: the last word is there too */
                    memcpy(&bits, column + (size_t)w * 8, 8);
                    both += __builtin_popcountll(bits & mask[w]);
                }
                out[c] = 2 * both - ones;
            }
        }
    }
}
