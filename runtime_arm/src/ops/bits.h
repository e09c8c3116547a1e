/* Bits and trits as the portable kernels write them. */
#ifndef BVT_OPS_BITS_H
#define BVT_OPS_BITS_H
#include "../internal.h"

/* Writes one bit of a ROWS or COLS output, `plane` bytes into its line. The bits of a byte must come in rising order. */
static inline void bvt_put_bit(const bvt_view *out, uint32_t r, uint32_t c, size_t plane, bool bit) {
    const uint32_t at = r - out->first, position = (out->by_cols ? at : c) % 8;
    uint8_t *byte = plane + (out->by_cols ? out->base + c * out->stride + at / 8 : out->base + at * out->stride + c / 8);
    if (position == 0) *byte = 0;
    *byte |= (uint8_t)(bit << position);
}

/* 4 to 8 bytes, by two stores, which may overlap. */
static inline void bvt_zero_few(uint8_t *to, size_t n) { memset(to, 0, 4), memset(to + n - 4, 0, 4); }

/* n bytes; up to 8 without a call, of which there would be one for every line. */
static inline void bvt_zero_bytes(uint8_t *to, size_t n) {
    if (n > 8) memset(to, 0, n);
    else if (n >= 4) bvt_zero_few(to, n);
    else if (n >= 2) memset(to, 0, 2), memset(to + n - 2, 0, 2);
    else if (n) *to = 0;
}

/* What follows the bits of a line (a row of ROWS, a column of COLS): `bytes` bytes from `at` on, and in trits the same of every
 * plane, `plane` bytes further on. None of them holds a bit: bytes of a column that do may be another thread's. */
typedef struct {
    size_t at, bytes, plane;
} bvt_padding;
static inline bvt_padding bvt_padding_of(const bvt_view *out) {
    const uint32_t n = out->by_cols ? out->rows : out->cols;
    const size_t used = (n + 7) / 8, plane = out->dtype == BVT_DTYPE_TRITS ? bvt_plane(n) : out->stride;
    return (bvt_padding){used, plane - used, plane};
}

/* Pads rows row0 .. row1-1, a block that was written; in COLS every column, after the last block. */
static inline void bvt_pad(const bvt_view *out, uint32_t row0, uint32_t row1) {
    if (out->by_cols && row1 != out->rows) return;
    const bvt_padding pad = bvt_padding_of(out);
    const uint32_t lines = out->by_cols ? out->cols : row1 - row0;
    uint8_t *first = out->by_cols ? out->base : bvt_row(out, row0);
    for (size_t at = pad.at; at < out->stride; at += pad.plane) {
        uint8_t *to = first + at;
        if (pad.bytes >= 4 && pad.bytes <= 8) /* what nearly every output has: nothing is asked in the loop */
            for (uint32_t i = 0; i < lines; i++, to += out->stride) bvt_zero_few(to, pad.bytes);
        else if (pad.bytes)
            for (uint32_t i = 0; i < lines; i++, to += out->stride) bvt_zero_bytes(to, pad.bytes);
    }
}

/* Bits at .. at+n-1 of src, 1 <= n <= 8; reads no byte that holds none of them. */
static inline unsigned bvt_get_bits(const uint8_t *src, size_t at, unsigned n) {
    unsigned v = src[at / 8] >> at % 8;
    if (at % 8 + n > 8) v |= (unsigned)src[at / 8 + 1] << (8 - at % 8);
    return v & 0xFFu >> (8 - n);
}

/* ORs n bits of src from bit `from` (of ones, where src is NULL) into dst from bit `at`, where dst is still zero. */
static inline void bvt_or_bits(uint8_t *dst, size_t at, const uint8_t *src, size_t from, size_t n) {
    if (src && !(at % 8 || from % 8 || n % 8)) {
        memcpy(dst + at / 8, src + from / 8, n / 8);
        return;
    }
    while (n) {
        const unsigned m = n < 8 ? (unsigned)n : 8, bits = src ? bvt_get_bits(src, from, m) : 0xFFu >> (8 - m);
        dst[at / 8] |= (uint8_t)(bits << at % 8);
        if (at % 8 + m > 8) dst[at / 8 + 1] |= (uint8_t)(bits >> (8 - at % 8));
        at += m, from += m, n -= m;
    }
}

/* Copies `n` codes from column `from` of a row of bits or trits to column `at` of an output row, whose bits there are still zero.
 * Trits of bits are never 0. */
static inline void bvt_copy_codes(const bvt_view *out, uint8_t *to, size_t at, const bvt_view *in, const uint8_t *row, size_t from,
                                  size_t n) {
    bvt_or_bits(to, at, row, from, n);
    if (out->dtype == BVT_DTYPE_TRITS)
        bvt_or_bits(to + bvt_plane(out->cols), at, in->dtype == BVT_DTYPE_TRITS ? row + bvt_plane(in->cols) : NULL, from, n);
}

/* Copies n bytes, a multiple of 8. */
static inline void bvt_copy_words(uint8_t *to, const uint8_t *from, size_t n) {
    struct {
        uint64_t a, b;
    } x;
    for (; n >= 16; n -= 16, to += 16, from += 16) memcpy(to, memcpy(&x, from, 16), 16);
    if (n) memcpy(to, memcpy(&x, from, 8), 8);
}

#endif
