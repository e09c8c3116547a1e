/* bgemm: +-1 rows (or rows with zeros) times +-1 weights -> integer dots.
 *
 *     in x bits or trits[N x K], weight bits[O x K'] (any layout of weights), K' = K/G      out i16[N x O]      attr[0] = G (0: 1)
 *     output o takes segment g = o / (O/G) of the row:
 *     of bits K' - 2*popcount(x xor weight), of trits (planes s, m) popcount(m) - 2*popcount((s xor weight) and m)
 *     any K' >= 1, pad bits are zero in all; of K' > BVT_MOST_COLUMNS out is i32
 *
 * Layouts other than LANES16 are for one group; CSA for bits.
 */
#include "bgemm.h"
#include "bits.h"

uint32_t bvt_tile_channels(int layout) {
    switch (layout) {
    case BVT_LAYOUT_LANES16: return 16;
    case BVT_LAYOUT_CSA: return 32;
    case BVT_LAYOUT_TBL2: return 64;
    case BVT_LAYOUT_LUT: return BVT_LUT_CHANNELS;
    default: return 0;
    }
}

/* Words of LUT that groups of one part take. */
static uint32_t lut_words(uint32_t groups) { return (groups + BVT_WORD_GROUPS - 1) / BVT_WORD_GROUPS; }

uint64_t bvt_tile_bytes(int layout, uint32_t cols) {
    switch (layout) {
    case BVT_LAYOUT_LANES16: return 16 * bvt_ceil_div(cols, 8);
    case BVT_LAYOUT_CSA: return 32 * (uint64_t)bvt_csa_steps(cols);
    case BVT_LAYOUT_TBL2: return 64 * (uint64_t)bvt_groups(cols);
    case BVT_LAYOUT_LUT: {
        const uint32_t groups = bvt_groups(cols), most = bvt_lut_part(groups), parts = bvt_lut_parts(groups);
        return 8 * BVT_LUT_CHANNELS * ((uint64_t)(parts - 1) * lut_words(most) + lut_words(groups - (parts - 1) * most));
    }
    default: return 0;
    }
}

/* Bit of LUT's words of a channel where a column is. */
static size_t lut_bit(uint32_t cols, uint32_t col) {
    const uint32_t groups = bvt_groups(cols), most = bvt_lut_part(groups), part = col / BVT_GROUP / most, group = col / BVT_GROUP % most;
    const uint32_t n = bvt_min_u32(most, groups - part * most), odd = n % BVT_WORD_GROUPS, whole = n - odd;
    uint32_t place; /* in the part; a word has 12 */
    if (group < whole) place = group + (odd ? BVT_WORD_GROUPS : 0);
    else if (group - whole < odd % 3) place = group - whole;
    else place = BVT_WORD_GROUPS - (n - group);
    return 64 * ((size_t)part * lut_words(most) + place / BVT_WORD_GROUPS) + place % BVT_WORD_GROUPS * BVT_GROUP + col % BVT_GROUP;
}

bool bvt_weight_bit(const bvt_view *weight, uint32_t row, uint32_t col) {
    const uint32_t channels = bvt_tile_channels(weight->layout), lane = row % channels, step = col / 8;
    const uint8_t *tile = weight->base + row / channels * weight->stride;
    unsigned byte;
    switch (weight->layout) {
    case BVT_LAYOUT_CSA:
        byte = tile[(size_t)step * 32 + lane];
        if (step % BVT_CSA_STEPS) byte ^= tile[(size_t)(step - 1) * 32 + lane];
        /* One of four bytes is complemented; so either it or the one before it is, or none. */
        if (step % 4 == 1 || step % 4 == 2) byte = ~byte;
        return byte >> col % 8 & 1;
    case BVT_LAYOUT_TBL2: return tile[(size_t)(col / BVT_GROUP) * 64 + lane] >> col % BVT_GROUP & 1;
    case BVT_LAYOUT_LUT: {
        const size_t bit = lut_bit(weight->cols, col);
        return tile[bit / 64 * 64 + (size_t)lane * 8 + bit % 64 / 8] >> bit % 8 & 1;
    }
    default: return tile[(size_t)step * 16 + lane] >> col % 8 & 1;
    }
}

int bvt_check_bgemm(bvt_check *c) {
    const int32_t groups = c->op->attr[0] ? c->op->attr[0] : 1;
    BVT_TRY(bvt_check_operands(c, 3, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 1));
    const bvt_rec_value *x = bvt_in(c, 0), *weight = bvt_in(c, 1), *y = bvt_out(c, 0);
    const int dtype = x->dtype == BVT_DTYPE_TRITS ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS;
    BVT_TRY(bvt_expect(c, groups > 0 && y->cols % (uint32_t)groups == 0, "the groups do not divide the outputs"));
    BVT_TRY(bvt_check_value(c, x, dtype, BVT_LAYOUT_ROWS, y->rows, (uint64_t)groups * weight->cols, "x"));
    const int layout = bvt_tile_channels(weight->layout) ? weight->layout : BVT_LAYOUT_LANES16;
    BVT_TRY(bvt_check_value(c, weight, BVT_DTYPE_BITS, layout, y->cols, weight->cols, "the weight"));
    BVT_TRY(bvt_check_value(c, y, weight->cols > BVT_MOST_COLUMNS ? BVT_DTYPE_I32 : BVT_DTYPE_I16, BVT_LAYOUT_ROWS, x->rows, weight->rows,
                            "the output"));
    const bool plain = groups == 1 && weight->cols <= BVT_MOST_COLUMNS, trits = dtype == BVT_DTYPE_TRITS;
    BVT_TRY(bvt_expect(c, plain || layout == BVT_LAYOUT_LANES16,
                       "groups and more than 32766 columns need a weight in layout lanes16"));
    BVT_TRY(bvt_expect(c, !trits || layout != BVT_LAYOUT_CSA, "trits need a weight in a layout other than csa"));
    c->whole = 2;
    c->scratch = bvt_bgemm_scratch(layout, weight->cols, trits);
    return BVT_OK;
}

#define CHUNK 256u /* steps: a channel's columns that are unpacked at a time, for all rows */

void bvt_bgemm_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[0], *weight = &call->in[1];
    const uint32_t k = weight->cols, outputs = call->out[0].cols, per_group = outputs / (x->cols / k);
    const bool trits = x->dtype == BVT_DTYPE_TRITS, wide = call->out[0].dtype == BVT_DTYPE_I32;
    uint8_t w[CHUNK];
    for (uint32_t o = 0; o < outputs; o++) {
        const size_t from = (size_t)(o / per_group) * k;
        for (uint32_t at = 0; at < k; at += 8 * CHUNK) {
            const uint32_t end = bvt_min_u32(k - at, 8 * CHUNK);
            memset(w, 0, sizeof w);
            for (uint32_t i = 0; i < end; i++) w[i / 8] |= (uint8_t)(bvt_weight_bit(weight, o, at + i) << i % 8);
            for (uint32_t n = row0; n < row1; n++) {
                const uint8_t *sign = bvt_row_bits(x, n), *some = sign + bvt_plane(x->cols);
                int32_t differing = 0, present = trits ? 0 : (int32_t)end;
                for (uint32_t i = 0; i < end; i += 8) {
                    const unsigned bits = bvt_min_u32(end - i, 8);
                    unsigned differ = bvt_get_bits(sign, from + at + i, bits) ^ w[i / 8];
                    if (trits) {
                        const unsigned m = bvt_get_bits(some, from + at + i, bits);
                        differ &= m;
                        present += __builtin_popcount(m);
                    }
                    differing += __builtin_popcount(differ);
                }
                const int32_t sum = present - 2 * differing;
                if (wide) {
                    int32_t *y = (int32_t *)bvt_row(&call->out[0], n) + o;
                    *y = at ? *y + sum : sum;
                } else {
                    int16_t *y = (int16_t *)bvt_row(&call->out[0], n) + o;
                    *y = (int16_t)(at ? *y + sum : sum);
                }
            }
        }
    }
}
