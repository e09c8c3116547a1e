/* bgemm: +-1 rows (or rows with zeros) times +-1 weights -> integer dots.
 *
 *     in x bits or trits[N x K], weight bits[O x K'] (layout LANES16), K' = K/G      out i32[N x O]      attr[0] = G (0: 1)
 *     output o takes segment g = o / (O/G) of the row:
 *     of bits K' - 2*popcount(x xor weight), of trits (planes s, m) popcount(m) - 2*popcount((s xor weight) and m)
 *     any K' >= 1, pad bits are zero in all
 */
#include "bits.h"

int bvt_check_bgemm(bvt_check *c) {
    const int32_t groups = c->op->attr[0] ? c->op->attr[0] : 1;
    BVT_TRY(bvt_check_operands(c, 3, 0, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 1));
    const bvt_rec_value *x = bvt_in(c, 0), *weight = bvt_in(c, 1), *y = bvt_out(c, 0);
    const int dtype = x->dtype == BVT_DTYPE_TRITS ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS;
    BVT_TRY(bvt_expect(c, groups > 0 && y->cols % (uint32_t)groups == 0, "the groups do not divide the outputs"));
    BVT_TRY(bvt_check_value(c, x, dtype, BVT_LAYOUT_ROWS, y->rows, (uint64_t)groups * weight->cols, "x"));
    BVT_TRY(bvt_check_value(c, weight, BVT_DTYPE_BITS, BVT_LAYOUT_LANES16, y->cols, weight->cols, "the weight"));
    BVT_TRY(bvt_check_value(c, y, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, x->rows, weight->rows, "the output"));
    c->whole = 2;
    return BVT_OK;
}

/* Trits, or more than one group. */
static void general_row(const bvt_call *call, uint32_t n) {
    const bvt_view *weight = &call->in[1];
    const uint32_t k = weight->cols, outputs = call->out[0].cols, per_group = outputs / (call->in[0].cols / k);
    const uint8_t *sign = bvt_row_bits(&call->in[0], n);
    const uint8_t *some = call->in[0].dtype == BVT_DTYPE_TRITS ? sign + bvt_plane(call->in[0].cols) : NULL;
    int32_t *y = bvt_row(&call->out[0], n);
    for (uint32_t o = 0; o < outputs; o++) {
        const uint8_t *w = weight->base + o / 16 * weight->stride + o % 16;
        const size_t from = (size_t)(o / per_group) * k;
        int32_t sum = 0;
        for (uint32_t at = 0; at < k; at += 8, w += 16) {
            const unsigned bits = bvt_min_u32(k - at, 8);
            const unsigned m = some ? bvt_get_bits(some, from + at, bits) : 0xFFu >> (8 - bits);
            sum += __builtin_popcount(m) - 2 * __builtin_popcount((bvt_get_bits(sign, from + at, bits) ^ *w) & m);
        }
        y[o] = sum;
    }
}

void bvt_bgemm_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t k = call->in[0].cols, outputs = call->out[0].cols, steps = (k + 7) / 8;
    const bvt_view *weight = &call->in[1];
    for (uint32_t n = row0; n < row1; n++) {
        if (call->in[0].dtype == BVT_DTYPE_TRITS || weight->cols != k) {
            general_row(call, n);
            continue;
        }
        const uint8_t *x = bvt_row_bits(&call->in[0], n);
        int32_t *y = bvt_row(&call->out[0], n);
        for (uint32_t o = 0; o < outputs; o++) {
            const uint8_t *w = weight->base + o / 16 * weight->stride + o % 16;
            int32_t differing = 0;
            for (uint32_t s = 0; s < steps; s++) differing += __builtin_popcount(x[s] ^ w[(size_t)s * 16]);
            y[o] = (int32_t)k - 2 * differing;
        }
    }
}
