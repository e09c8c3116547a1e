/* Signs of 8 rows x 16 channels, for the kernels that end in bits, in one of two forms: masks, a row each, of which a byte is 255
 * or 0; or `signs`, a 16-bit lane a channel whose bit r is row r: its low byte is a byte of layout COLS, and an 8 x 8 bit transpose
 * makes those of layout ROWS.
 */
#ifndef BVT_KERNELS_SIGNS_NEON_H
#define BVT_KERNELS_SIGNS_NEON_H
#include <arm_neon.h>

#include "../ops/bits.h"

#define INLINE static inline __attribute__((always_inline))

/* Bit r of lane c; the first 8 channels, and the others. Rows, up to 8 of them, are added in falling order. */
typedef struct {
    uint16x8_t low, high;
} signs;

INLINE uint16x8_t *half_of(signs *s, unsigned half) { return half ? &s->high : &s->low; }

INLINE uint16x8_t narrow(uint32x4_t a, uint32x4_t b) { return vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)); }
INLINE uint16x8_t add_row(uint16x8_t rows, uint16x8_t mask) { return vsubq_u16(vaddq_u16(rows, rows), mask); }

/* Transposes the 8 x 8 bit matrices in both halves, whose rows are bytes (Hacker's Delight 7-3). */
INLINE uint8x16_t transpose8(uint8x16_t bytes) {
    uint64x2_t x = vreinterpretq_u64_u8(bytes);
    uint64x2_t t = vandq_u64(veorq_u64(x, vshrq_n_u64(x, 7)), vdupq_n_u64(0x00AA00AA00AA00AAu));
    x = veorq_u64(veorq_u64(x, t), vshlq_n_u64(t, 7));
    t = vandq_u64(veorq_u64(x, vshrq_n_u64(x, 14)), vdupq_n_u64(0x0000CCCC0000CCCCu));
    x = veorq_u64(veorq_u64(x, t), vshlq_n_u64(t, 14));
    t = vandq_u64(veorq_u64(x, vshrq_n_u64(x, 28)), vdupq_n_u64(0x00000000F0F0F0F0u));
    return vreinterpretq_u8_u64(veorq_u64(veorq_u64(x, t), vshlq_n_u64(t, 28)));
}

/* Where one output's, or one plane's, signs go. */
typedef struct {
    const bvt_view *view;
    size_t plane;
} sign_target;

/* Bit r of byte i: that of mask r, of which a byte is 255 or 0. */
INLINE uint8x16_t columns_of(const uint8x16_t mask[8]) {
    uint8x16_t columns = vandq_u8(mask[0], vdupq_n_u8(1));
#define X(r) columns = vbslq_u8(vdupq_n_u8(1 << r), mask[r], columns);
    X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
    return columns;
}

/* Where rows r0 .. of channel c go, of a view in layout COLS. */
INLINE uint8_t *column_of(const sign_target *target, uint32_t r0, uint32_t c) {
    return target->view->base + c * target->view->stride + (r0 - target->view->first) / 8 + target->plane;
}

/* 8 rows of 16 channels, `stride` bytes apart. */
INLINE void put_columns(uint8_t *to, size_t stride, uint8x16_t columns) {
#define X(i) vst1q_lane_u8(to, columns, i), to += stride;
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#undef X
}

/* Writes columns c .. c+n-1 of a view in layout COLS: byte i has rows r0 .. of channel c + i. */
INLINE void store_columns(const sign_target *target, uint32_t r0, uint32_t c, unsigned n, uint8x16_t columns) {
    const size_t stride = target->view->stride;
    uint8_t *to = column_of(target, r0, c);
    if (n == 16) {
        put_columns(to, stride, columns);
    } else {
        uint8_t bytes[16];
        vst1q_u8(bytes, columns);
        for (unsigned i = 0; i < n; i++, to += stride) *to = bytes[i];
    }
}

/* Where the signs of row r0 go, of a view in layout ROWS. */
INLINE uint8_t *line_of(const sign_target *target, uint32_t r0) { return (uint8_t *)bvt_row(target->view, r0) + target->plane; }

/* 16 channels of 8 rows, `stride` bytes apart. */
INLINE void put_words(uint8_t *to, size_t stride, uint16x8_t words) {
#define X(r) vst1q_lane_u16((uint16_t *)(void *)to, words, r), to += stride;
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#undef X
}

/* Word r: mask r, of which a byte is 255 or 0, as bits. */
INLINE uint16x8_t words_of(const uint8x16_t mask[8]) {
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201u));
    uint8x16_t sum[4];
    for (unsigned i = 0; i < 4; i++) sum[i] = vpaddq_u8(vandq_u8(mask[2 * i], bit), vandq_u8(mask[2 * i + 1], bit));
    return vreinterpretq_u16_u8(vpaddq_u8(vpaddq_u8(sum[0], sum[1]), vpaddq_u8(sum[2], sum[3])));
}

/* Writes rows r0 .. r0+rows-1 of a view in layout ROWS: word r has channels c .. of row r0 + r. */
INLINE void store_words(const sign_target *target, uint32_t r0, unsigned rows, uint32_t c, unsigned n, uint16x8_t words) {
    const size_t stride = target->view->stride;
    uint8_t *to = line_of(target, r0) + c / 8;
    if (n == 16 && rows == 8) {
        put_words(to, stride, words);
    } else {
        uint16_t word[8];
        vst1q_u16(word, words);
        for (unsigned r = 0; r < rows; r++, to += stride) {
            const unsigned there = word[r] & 0xFFFFu >> (16 - n); /* lanes beyond the last channel are no signs */
            to[0] = (uint8_t)there;
            if (n > 8) to[1] = (uint8_t)(there >> 8);
        }
    }
}

/* Writes the signs of channels c .. c+n-1 of rows r0 .. r0+rows-1. */
INLINE void store_signs(const sign_target *target, uint32_t r0, unsigned rows, uint32_t c, unsigned n, const signs *s) {
    const uint8x16_t columns = vmovn_high_u16(vmovn_u16(s->low), s->high);
    if (target->view->by_cols) {
        store_columns(target, r0, c, n, columns);
        return;
    }
    const uint8x16_t halves = transpose8(columns); /* byte r: the first 8 channels of row r; byte 8+r: the others */
    store_words(target, r0, rows, c, n, vreinterpretq_u16_u8(vzip1q_u8(halves, vextq_u8(halves, halves, 8))));
}

/* The same of masks: byte i of mask r is 255 or 0, the sign of channel c + i of row r0 + r. */
INLINE void store_masks(const sign_target *target, uint32_t r0, unsigned rows, uint32_t c, unsigned n, const uint8x16_t mask[8]) {
    if (target->view->by_cols) {
        uint8x16_t columns = columns_of(mask);
        if (rows < 8) columns = vandq_u8(columns, vdupq_n_u8((uint8_t)((1u << rows) - 1)));
        store_columns(target, r0, c, n, columns);
        return;
    }
    store_words(target, r0, rows, c, n, words_of(mask));
}

#endif
