/* gather: rows picked from one to four sources by a constant table, P of them side by side in a result row.
 *
 *     in[0] = index i32[N x P], a constant; in[1..4] = sources [R_i x C], all f32, all f16, all bits or all trits (ROWS)
 *     out [N x P*C] of the sources' kind, or trits of bits
 *     out[n][p*C + c] = S[index[n][p]][c], S = the rows of all sources one after the other; -1: zeros (not into bits)
 */
#include "bits.h"

#define MOST_SOURCES 4

int bvt_check_gather(bvt_check *c) {
    BVT_TRY(bvt_check_operands(c, 3, 28, 1, 0));
    BVT_TRY(bvt_check_attrs_end(c, 0));
    const bvt_rec_value *index = bvt_in(c, 0), *first = bvt_in(c, 1), *y = bvt_out(c, 0);
    const bool known = first->dtype == BVT_DTYPE_BITS || first->dtype == BVT_DTYPE_TRITS || first->dtype == BVT_DTYPE_F16;
    const int dtype = known ? first->dtype : BVT_DTYPE_F32;
    uint64_t rows = 0;
    for (unsigned i = 1; i <= MOST_SOURCES; i++) {
        const bvt_rec_value *v = bvt_in(c, i);
        if (!v) continue;
        BVT_TRY(bvt_expect(c, bvt_in(c, i - 1) != NULL, "its sources have a gap"));
        BVT_TRY(bvt_check_value(c, v, dtype, BVT_LAYOUT_ROWS, v->rows, first->cols, "a source"));
        rows += v->rows;
    }
    const int out = dtype == BVT_DTYPE_BITS && y->dtype == BVT_DTYPE_TRITS ? BVT_DTYPE_TRITS : dtype;
    BVT_TRY(bvt_check_indices(c, index, out == BVT_DTYPE_BITS ? 0 : -1, rows, "the index"));
    /* Both factors are at most 2^24. */
    BVT_TRY(bvt_check_value(c, y, out, BVT_LAYOUT_ROWS, index->rows, (uint64_t)index->cols * first->cols, "the output"));
    c->whole = 31;
    return BVT_OK;
}

/* Rows row0 .. row1-1 of n bytes, of one source. */
static inline void pick_rows(const bvt_call *call, uint32_t row0, uint32_t row1, const size_t n) {
    const bvt_view *source = &call->in[1];
    const uint8_t *base = source->base - source->first * source->stride, *index = bvt_row(&call->in[0], row0);
    const size_t next = call->in[0].stride, stride = source->stride;
    uint8_t *to = bvt_row(&call->out[0], row0);
    for (uint32_t row = row0; row < row1; row++, index += next, to += n)
        bvt_copy_words(to, base + *(const uint32_t *)(const void *)index * stride, n);
}

void bvt_gather_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *out = &call->out[0];
    const uint32_t parts = call->in[0].cols, cols = call->in[1].cols;
    const size_t element = out->dtype == BVT_DTYPE_F32 ? 4 : out->dtype == BVT_DTYPE_F16 ? 2 : 0, part = cols * element; /* 0: codes */
    /* Bits that fill whole words, one row of one source a row, are copied as they lie. An index of bits is never -1 (checked). */
    if (out->dtype == BVT_DTYPE_BITS && parts == 1 && cols % 64 == 0 && !call->in[2].base && out->stride == cols / 8) {
        if (cols == 256) pick_rows(call, row0, row1, 32);
        else pick_rows(call, row0, row1, cols / 8);
        return;
    }
    /* Other codes that do. */
    const bool rows = !element && parts == 1 && cols % 64 == 0 && out->dtype == call->in[1].dtype && out->stride == call->in[1].stride;
    for (uint32_t row = row0; row < row1; row++) {
        const int32_t *index = (const int32_t *)bvt_row(&call->in[0], row);
        uint8_t *to = bvt_row(out, row);
        if (!element && (!rows || index[0] < 0)) memset(to, 0, out->stride);
        for (uint32_t p = 0; p < parts; p++) {
            if (index[p] < 0) {
                memset(to + p * part, 0, part);
                continue;
            }
            uint32_t at = (uint32_t)index[p];
            const bvt_view *source = &call->in[1];
            while (at >= source->rows) at -= source->rows, source++;
            if (element) memcpy(to + p * part, bvt_row(source, at), part);
            else if (rows) memcpy(to, bvt_row(source, at), out->stride);
            else bvt_copy_codes(out, to, (size_t)p * cols, source, bvt_row_bits(source, at), 0, cols);
        }
    }
}
