/* bgemm for NEON, layout LUT: tables of the rows, looked up with the bits of the weights (KERNELS.md, "lut").
 *
 * Of 5 columns and 32 rows a table has 32 vectors: at the index of a channel's 5 bits the equal bits of 32 rows, two a byte. A
 * look-up is a load and does 160 products; the tables of a part of the columns are built in scratch and used by all channels. Sums
 * of nibbles are kept as in bgemm_tbl2_neon.c. Of up to 16 rows only the lower 8 bytes of each vector are used.
 */
#include "bgemm_neon.h"

#define ROWS 32u /* of a tile */

#if defined(__clang__)
#define ALONE static __attribute__((noinline))
#else
#define ALONE static __attribute__((noinline, noclone)) /* GCC would make a copy for each form of the arguments: 7 KB */
#endif

/* ---- Tables ---------------------------------------------------------------------------------------------------------------- */

/* Bytes at .. at+7 of 16 rows, by byte: lane r is row r. */
INLINE void transpose(uint8x16_t by_byte[8], const uint8_t *rows, size_t stride) {
    uint8x16_t a[8], b[8];
#define FIRST(i)                                                                                       \
    a[i] = vzip1q_u8(vcombine_u8(vld1_u8(rows + (i)*stride), vdup_n_u8(0)), \
                     vcombine_u8(vld1_u8(rows + ((i) + 8) * stride), vdup_n_u8(0)));
    FIRST(0) FIRST(1) FIRST(2) FIRST(3) FIRST(4) FIRST(5) FIRST(6) FIRST(7)
#undef FIRST
    for (int i = 0; i < 4; i++) b[2 * i] = vzip1q_u8(a[i], a[i + 4]), b[2 * i + 1] = vzip2q_u8(a[i], a[i + 4]);
    for (int i = 0; i < 4; i++) {
        const int x = i / 2 * 2 + i % 2;
        a[2 * (i % 2) + 4 * (i / 2)] = vzip1q_u8(b[x], b[x + 4]), a[2 * (i % 2) + 1 + 4 * (i / 2)] = vzip2q_u8(b[x], b[x + 4]);
    }
    for (int i = 0; i < 4; i++) by_byte[2 * i] = vzip1q_u8(a[i], a[i + 4]), by_byte[2 * i + 1] = vzip2q_u8(a[i], a[i + 4]);
}

/* 8 bytes of a line from `at` on; what it has not is 0. */
INLINE uint64_t bytes_at(const uint8_t *line, uint32_t bytes, uint32_t at) {
    uint64_t x = 0;
    if (at + 8 <= bytes) {
        memcpy(&x, line + at, 8);
    } else if (at < bytes && bytes >= 8) {
        memcpy(&x, line + bytes - 8, 8);
        x >>= 8 * (at + 8 - bytes);
    } else if (at < bytes) {
        memcpy(&x, line + at, bytes - at);
    }
    return x;
}

/* Rows `row` .. at bytes `from` .. `from + bytes - 1` as vectors of 4 columns: bit b of the low nibble of lane r is that
 * column of row r, of the high nibble of row r + half. What a row has not is 0; where rows are missing, the last one stands in. */
static void lut_spread(uint8_t *to, const bvt_view *x, size_t plane, uint32_t row, uint32_t rows, uint32_t from, uint32_t bytes) {
    const uint32_t own = (x->cols + 7) / 8;
    const bool narrow = rows <= ROWS / 2;
    uint64_t copy[ROWS];
    for (uint32_t at = from; at < from + bytes; at += 8) {
        const uint8_t *source = bvt_row_bits(x, row) + plane + at;
        size_t stride = x->stride;
        if (at + 8 > own || (rows != ROWS && rows != ROWS / 2)) {
            for (uint32_t r = 0; r < ROWS; r++) copy[r] = bytes_at(bvt_row_bits(x, row + bvt_min_u32(r, rows - 1)) + plane, own, at);
            source = (const uint8_t *)copy, stride = sizeof *copy;
        }
        uint8x16_t low[8], high[8];
        transpose(low, source, stride);
        if (narrow)
            for (int i = 0; i < 8; i++) high[i] = vextq_u8(low[i], low[i], 8);
        else transpose(high, source + 16 * stride, stride);
        for (int i = 0; i < 8; i++, to += 32) {
            vst1q_u8(to, vsliq_n_u8(low[i], high[i], 4));
            vst1q_u8(to + 16, vsriq_n_u8(high[i], low[i], 4));
        }
    }
}

/* The 32 entries of a group of columns, whose bits 0x11 << bit are 1 and are not 0. */
INLINE void build(uint8_t *to, const uint8x16_t one[5], const uint8x16_t some[5]) {
    uint8x16_t entry[16], change[5], zero[5];
    for (int b = 0; b < 5; b++) {
        zero[b] = vsubq_u8(some[b], one[b]);
        change[b] = vsubq_u8(one[b], zero[b]); /* where the weight's bit is 1, what is 1 counts instead of what is -1 */
    }
    entry[0] = vaddq_u8(vaddq_u8(vaddq_u8(zero[0], zero[1]), vaddq_u8(zero[2], zero[3])), zero[4]);
    vst1q_u8(to, entry[0]);
    for (int b = 0; b < 4; b++)
        for (int i = 0; i < 1 << b; i++) {
            entry[(1 << b) + i] = vaddq_u8(entry[i], change[b]);
            vst1q_u8(to + 16 * ((1 << b) + i), entry[(1 << b) + i]);
        }
    for (int i = 0; i < 16; i++) vst1q_u8(to + 16 * (16 + i), vaddq_u8(entry[i], change[4]));
}

/* Tables of `groups` groups, rounded up to 4: 5 vectors of 4 columns; somes: which are not 0, or NULL: all. The empty asm keeps GCC from
 * unpacking all columns first, for which there are not enough registers. */
INLINE void tables_of(uint8_t *to, const uint8_t *ones, const uint8_t *somes, uint32_t groups) {
    for (uint32_t g = 0; g < groups; g += 4, ones += 80, somes += somes ? 80 : 0, to += 4 * BVT_LUT_TABLE) {
        const uint8x16_t both = vdupq_n_u8(0x11);
#define VECTOR(of, c) vld1q_u8(of + (c) / 4 * 16)
#define COLUMN(of, c) vandq_u8((c) % 4 ? vshrq_n_u8(VECTOR(of, c), (c) % 4 ? (c) % 4 : 1) : VECTOR(of, c), both)
#define COLUMNS(of, c) {COLUMN(of, c), COLUMN(of, (c) + 1), COLUMN(of, (c) + 2), COLUMN(of, (c) + 3), COLUMN(of, (c) + 4)}
#define ALL {both, both, both, both, both}
#define GROUP(i)                                                                                       \
    {                                                                                                  \
        const uint8x16_t one[5] = COLUMNS(ones, 5 * (i));                                              \
        if (somes) build(to + (i) * BVT_LUT_TABLE, one, (const uint8x16_t[5])COLUMNS(somes, 5 * (i))); \
        else build(to + (i) * BVT_LUT_TABLE, one, (const uint8x16_t[5])ALL);                           \
        __asm__ volatile("" ::: "memory");                                                             \
    }
        GROUP(0) GROUP(1) GROUP(2) GROUP(3)
#undef GROUP
#undef ALL
#undef COLUMNS
#undef COLUMN
#undef VECTOR
    }
}

ALONE void lut_tables(uint8_t *to, const uint8_t *ones, const uint8_t *somes, uint32_t groups) { tables_of(to, ones, somes, groups); }
ALONE void lut_tables_of_all(uint8_t *to, const uint8_t *ones, uint32_t groups) { tables_of(to, ones, NULL, groups); }

/* ---- Looking up ------------------------------------------------------------------------------------------------------------ */

/* clang-format off */
/* Three look-ups of a channel; its word in `x`, of which the groups are at s0, s1, s2; temporaries. The sum goes to all and high.
 * Q, B: "q" and ".16b" or "d" and ".8b". */
#define LOOK_UP(Q, B, x, s0, s1, s2, i, j, k, n0, n1, n2, all, high)                                            \
    "and " i ", x9, " x ", " s0 "\n\t" "and " j ", x9, " x ", " s1 "\n\t" "and " k ", x9, " x ", " s2 "\n\t"     \
    "ldr " Q n0 ", [x6, " i "]\n\t" "ldr " Q n1 ", [x7, " j "]\n\t" "ldr " Q n2 ", [x8, " k "]\n\t"              \
    "add v" n0 B ", v" n0 B ", v" n1 B "\n\t" "add v" n0 B ", v" n0 B ", v" n2 B "\n\t"                          \
    "add v" all B ", v" all B ", v" n0 B "\n\t" "usra v" high B ", v" n0 B ", #4\n\t"
/* The same of all channels; then the tables of the next three groups. */
#define TRIPLE(Q, B, s0, s1, s2)                                                                   \
    LOOK_UP(Q, B, "x20", s0, s1, s2, "x10", "x11", "x12", "16", "17", "18", "0", "8")               \
    LOOK_UP(Q, B, "x21", s0, s1, s2, "x13", "x14", "x15", "19", "20", "21", "1", "9")               \
    LOOK_UP(Q, B, "x22", s0, s1, s2, "x10", "x11", "x12", "22", "23", "24", "2", "10")              \
    LOOK_UP(Q, B, "x23", s0, s1, s2, "x13", "x14", "x15", "25", "26", "27", "3", "11")              \
    LOOK_UP(Q, B, "x24", s0, s1, s2, "x10", "x11", "x12", "28", "29", "30", "4", "12")              \
    LOOK_UP(Q, B, "x25", s0, s1, s2, "x13", "x14", "x15", "16", "17", "18", "5", "13")              \
    LOOK_UP(Q, B, "x26", s0, s1, s2, "x10", "x11", "x12", "19", "20", "21", "6", "14")              \
    LOOK_UP(Q, B, "x27", s0, s1, s2, "x13", "x14", "x15", "22", "23", "24", "7", "15")              \
    "add x6, x6, #1536\n\tadd x7, x7, #1536\n\tadd x8, x8, #1536\n\t"
/* One look-up of each channel. */
#define ONE(Q, B, x, s, i, n, all, high)                                                  \
    "and " i ", x9, " x ", " s "\n\t" "ldr " Q n ", [x6, " i "]\n\t"                       \
    "add v" all B ", v" all B ", v" n B "\n\t" "usra v" high B ", v" n B ", #4\n\t"
#define SINGLE(Q, B, s)                                                                              \
    ONE(Q, B, "x20", s, "x10", "16", "0", "8") ONE(Q, B, "x21", s, "x11", "17", "1", "9")             \
    ONE(Q, B, "x22", s, "x12", "18", "2", "10") ONE(Q, B, "x23", s, "x13", "19", "3", "11")           \
    ONE(Q, B, "x24", s, "x14", "20", "4", "12") ONE(Q, B, "x25", s, "x15", "21", "5", "13")           \
    ONE(Q, B, "x26", s, "x10", "22", "6", "14") ONE(Q, B, "x27", s, "x11", "23", "7", "15")           \
    "add x6, x6, #512\n\t"
#define WORDS                                                                             \
    "ldp x20, x21, [%[words]]\n\tldp x22, x23, [%[words], #16]\n\t"                        \
    "ldp x24, x25, [%[words], #32]\n\tldp x26, x27, [%[words], #48]\n\t"                   \
    "add %[words], %[words], #64\n\t"
#define LOOK_UPS(Q, B)                                                                            \
    "mov x9, #0x1f0\n\t"                                                                           \
    "mov x6, %[tables]\n\t"                                                                        \
    "dup v0.16b, %w[all]\n\tmov v1.16b, v0.16b\n\tmov v2.16b, v0.16b\n\tmov v3.16b, v0.16b\n\t"    \
    "mov v4.16b, v0.16b\n\tmov v5.16b, v0.16b\n\tmov v6.16b, v0.16b\n\tmov v7.16b, v0.16b\n\t"     \
    "dup v8.16b, %w[high]\n\tmov v9.16b, v8.16b\n\tmov v10.16b, v8.16b\n\tmov v11.16b, v8.16b\n\t" \
    "mov v12.16b, v8.16b\n\tmov v13.16b, v8.16b\n\tmov v14.16b, v8.16b\n\tmov v15.16b, v8.16b\n\t" \
    "cbz %w[odd], 8f\n\t"                                                                          \
    WORDS                                                                                           \
    "tst %w[odd], #3\n\t"                                                                          \
    "b.eq 1f\n\t"                                                                                  \
    SINGLE(Q, B, "lsl #4")                                                                          \
    "tbz %w[odd], #1, 1f\n\t"                                                                      \
    SINGLE(Q, B, "lsr #1")                                                                          \
    "1:\n\t"                                                                                       \
    "add x7, x6, #512\n\t"                                                                         \
    "add x8, x6, #1024\n\t"                                                                        \
    "lsr %w[odd], %w[odd], #2\n\t"                                                                 \
    "cbz %w[odd], 9f\n\t"                                                                          \
    "cmp %w[odd], #2\n\t"                                                                          \
    "b.lo 5f\n\t"                                                                                  \
    "b.eq 4f\n\t"                                                                                  \
    "b 3f\n\t"                                                                                     \
    "2:\n\t"                                                                                       \
    WORDS TRIPLE(Q, B, "lsl #4", "lsr #1", "lsr #6")                                                \
    "3:\n\t" TRIPLE(Q, B, "lsr #11", "lsr #16", "lsr #21")                                          \
    "4:\n\t" TRIPLE(Q, B, "lsr #26", "lsr #31", "lsr #36")                                          \
    "5:\n\t" TRIPLE(Q, B, "lsr #41", "lsr #46", "lsr #51")                                          \
    "9:\n\t"                                                                                       \
    "subs %w[whole], %w[whole], #1\n\t"                                                            \
    "b.ge 2b\n\t"                                                                                  \
    "b 7f\n"                                                                                       \
    "8:\n\t"                                                                                       \
    "add x7, x6, #512\n\t"                                                                         \
    "add x8, x6, #1024\n\t"                                                                        \
    "b 9b\n"                                                                                       \
    "7:"
/* clang-format on */

/* Counts of 8 channels, in low and high nibbles of the tables, from `start` on. odd: what the first word has if it is not whole,
 * 4 * triples of groups + groups before them; whole: how many whole words follow. */
INLINE void look_up(const uint8_t *words, const uint8_t *tables, uint32_t odd, uint32_t whole, int start, const bool narrow,
                    uint8x16_t low[8], uint8x16_t high[8]) {
    const int all = 17 * start;
    register uint8x16_t a0 __asm__("v0"), a1 __asm__("v1"), a2 __asm__("v2"), a3 __asm__("v3"), a4 __asm__("v4"), a5 __asm__("v5"),
        a6 __asm__("v6"), a7 __asm__("v7"), h0 __asm__("v8"), h1 __asm__("v9"), h2 __asm__("v10"), h3 __asm__("v11"),
        h4 __asm__("v12"), h5 __asm__("v13"), h6 __asm__("v14"), h7 __asm__("v15");
#define RUN(Q, B)                                                                                                                  \
    __asm__ volatile(LOOK_UPS(Q, B)                                                                                                \
                     : [words] "+&r"(words), [odd] "+&r"(odd), [whole] "+&r"(whole), "=w"(a0), "=w"(a1), "=w"(a2), "=w"(a3),       \
                       "=w"(a4), "=w"(a5), "=w"(a6), "=w"(a7), "=w"(h0), "=w"(h1), "=w"(h2), "=w"(h3), "=w"(h4), "=w"(h5),         \
                       "=w"(h6), "=w"(h7)                                                                                          \
                     : [tables] "r"(tables), [all] "r"(all), [high] "r"(start)                                                     \
                     : "memory", "cc", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x20", "x21", "x22",      \
                       "x23", "x24", "x25", "x26", "x27", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25",    \
                       "v26", "v27", "v28", "v29", "v30")
    if (narrow) RUN("d", ".8b");
    else RUN("q", ".16b");
#undef RUN
    const uint8x16_t sums[8] = {a0, a1, a2, a3, a4, a5, a6, a7};
    high[0] = h0, high[1] = h1, high[2] = h2, high[3] = h3, high[4] = h4, high[5] = h5, high[6] = h6, high[7] = h7;
    for (int i = 0; i < 8; i++) low[i] = vsubq_u8(sums[i], vshlq_n_u8(high[i], 4));
}

/* ---- Output ---------------------------------------------------------------------------------------------------------------- */

enum { PLAIN, BIASED, MORE }; /* y = 2*count, y = bias + 2*count, y += 2*count */

/* A part of the columns, whose tables are built, and of a tile of rows. */
typedef struct {
    const bvt_call *call;
    uint32_t row, rows, col0, cols;
    const uint8_t *tables;
    uint32_t odd, whole; /* as look_up takes them */
    int32_t start;
    int mode;
    const int16_t *bias; /* of each row */
    bool wraps;          /* whether counts may be larger than 127 */
} part;

/* Twice the counts of 8 rows x 8 channels, which lie by pairs of channels; returns y of the next row. */
INLINE uint8_t *put(uint8_t *y, size_t stride, const int16_t *biases, const int mode, uint8x16_t c04, uint8x16_t c15,
                    uint8x16_t c26, uint8x16_t c37) {
    const uint8x16_t e0 = vzip1q_u8(c04, c26), e1 = vzip2q_u8(c04, c26), o0 = vzip1q_u8(c15, c37), o1 = vzip2q_u8(c15, c37);
    const int8x16_t by_row[4] = {vreinterpretq_s8_u8(vzip1q_u8(e0, o0)), vreinterpretq_s8_u8(vzip2q_u8(e0, o0)),
                                 vreinterpretq_s8_u8(vzip1q_u8(e1, o1)), vreinterpretq_s8_u8(vzip2q_u8(e1, o1))};
    const int8x16_t two = vdupq_n_s8(2);
    const int16x8_t bias = mode == BIASED ? vld1q_s16(biases) : vdupq_n_s16(0);
#define PAIR(i)                                                                                                      \
    {                                                                                                                \
        int16_t *y0 = (int16_t *)(void *)y, *y1 = (int16_t *)(void *)(y + stride);                                   \
        if (mode == PLAIN) {                                                                                         \
            vst1q_s16(y0, vshll_n_s8(vget_low_s8(by_row[i]), 1));                                                    \
            vst1q_s16(y1, vshll_high_n_s8(by_row[i], 1));                                                            \
        } else {                                                                                                     \
            const int16x8_t b0 = mode == MORE ? vld1q_s16(y0) : vdupq_laneq_s16(bias, 2 * (i));                      \
            const int16x8_t b1 = mode == MORE ? vld1q_s16(y1) : vdupq_laneq_s16(bias, 2 * (i) + 1);                  \
            vst1q_s16(y0, vmlal_s8(b0, vget_low_s8(by_row[i]), vget_low_s8(two)));                                   \
            vst1q_s16(y1, vmlal_high_s8(b1, by_row[i], two));                                                        \
        }                                                                                                            \
        y += 2 * stride;                                                                                             \
        __asm__("" : "+r"(y)); /* else GCC keeps the addresses of all rows */                                         \
    }
    PAIR(0) PAIR(1) PAIR(2) PAIR(3)
#undef PAIR
    return y;
}

/* All rows of a tile; low and high nibbles of 16 rows each, of narrow tables 8. */
INLINE void put_tile(uint8_t *y, size_t stride, const int16_t *bias, const int mode, const uint8x16_t low[8],
                     const uint8x16_t high[8], const bool narrow) {
#define HALF(zip, c, from) \
    y = put(y, stride, bias + (from), mode, zip(c[0], c[4]), zip(c[1], c[5]), zip(c[2], c[6]), zip(c[3], c[7]));
    HALF(vzip1q_u8, low, 0)
    if (!narrow) HALF(vzip2q_u8, low, 8)
    HALF(vzip1q_u8, high, narrow ? 8 : 16)
    if (!narrow) HALF(vzip2q_u8, high, 24)
#undef HALF
}

/* Adds 256 to the counts of 8 channels, at `y`, that are larger than a signed byte holds: few columns are then not equal. */
ALONE void add_wrapped(const part *p, uint32_t channel, uint8_t *y, size_t stride) {
    const bvt_view *x = &p->call->in[0], *weight = &p->call->in[1];
    const uint32_t few = (uint32_t)((int32_t)p->cols - p->start - 128), end = bvt_min_u32(channel + BVT_LUT_CHANNELS, weight->rows);
    for (uint32_t r = 0; r < p->rows; r++, y += stride)
        for (uint32_t o = channel; o < end; o++) {
            const uint8_t *sign = bvt_row_bits(x, p->row + r), *some = sign + bvt_plane(x->cols);
            uint32_t other = 0;
            for (uint32_t c = p->col0; c < p->col0 + p->cols && other <= few; c++) {
                const bool one = sign[c / 8] >> c % 8 & 1, zero = x->dtype == BVT_DTYPE_TRITS && !(some[c / 8] >> c % 8 & 1);
                other += zero || one != bvt_weight_bit(weight, o, c);
            }
            if (other <= few) ((int16_t *)(void *)y)[o - channel] += 512;
        }
}

/* All rows of a tile and the channels channel .. end-1; y: where the first of them go. */
INLINE void lut_channels(const part *p, const uint8_t *words, uint32_t channel, uint32_t end, uint8_t *y, size_t stride,
                         const bool narrow) {
    const size_t next = p->call->in[1].stride;
    for (; channel < end; channel += BVT_LUT_CHANNELS, words += next, y += 2 * BVT_LUT_CHANNELS) {
        uint8x16_t low[8], high[8];
        look_up(words, p->tables, p->odd, p->whole, -p->start, narrow, low, high);
        int mode = p->mode;
        bool wraps = p->wraps;
        __asm__("" : "+r"(mode), "+r"(wraps)); /* else GCC makes a loop for each */
        int8x16_t least = vdupq_n_s8(0);
        if (wraps)
            for (int i = 0; i < 8; i++)
                least = vminq_s8(least, vminq_s8(vreinterpretq_s8_u8(low[i]), vreinterpretq_s8_u8(high[i])));
        if (mode == PLAIN) put_tile(y, stride, p->bias, PLAIN, low, high, narrow);
        else if (mode == BIASED) put_tile(y, stride, p->bias, BIASED, low, high, narrow);
        else put_tile(y, stride, p->bias, MORE, low, high, narrow);
        if (wraps && vminvq_s8(least) <= (int32_t)p->cols - p->start - 256) add_wrapped(p, channel, y, stride);
    }
}

ALONE void lut_channels_wide(const part *p, const uint8_t *words, uint32_t channel, uint32_t end, uint8_t *y, size_t stride) {
    lut_channels(p, words, channel, end, y, stride, false);
}

ALONE void lut_channels_narrow(const part *p, const uint8_t *words, uint32_t channel, uint32_t end, uint8_t *y, size_t stride) {
    lut_channels(p, words, channel, end, y, stride, true);
}

/* Codes of a row of trits that are not 0, of some of its bytes. */
ALONE int32_t present(const bvt_view *x, uint32_t row, uint32_t from, uint32_t bytes) {
    return count_some(bvt_row_bits(x, row) + bvt_plane(x->cols) + from, bytes);
}

/* ---- A tile ---------------------------------------------------------------------------------------------------------------- */

/* Up to 32 rows of all channels. */
static void lut_tile(const bvt_call *call, uint32_t row, uint32_t rows) {
    const bvt_view *x = &call->in[0], *weight = &call->in[1], *y = &call->out[0];
    const bool trits = x->dtype == BVT_DTYPE_TRITS, narrow = rows <= ROWS / 2;
    const uint32_t k = weight->cols, groups = bvt_groups(k), parts = bvt_lut_parts(groups), most = bvt_lut_part(groups);
    uint8_t *tables = call->scratch, *ones = tables + BVT_LUT_TABLE_BYTES, *somes = ones + 16 * BVT_LUT_NIBBLES;
    /* A dot is twice the columns that are equal, less all that are not 0. Counts begin with minus half of the columns, but not less
     * than a byte holds; the rest is a bias. */
    const uint32_t half = k / 2;
    int32_t begun = 0;
    int16_t bias[ROWS] = {0};
    for (uint32_t p = 0; p < parts; p++) begun += (int32_t)bvt_min_u32(half * (p + 1) / parts - half * p / parts, 128);
    const bool biased = trits || 2 * begun != (int32_t)k;
    for (uint32_t r = 0; biased && r < rows; r++)
        bias[r] = (int16_t)(2 * begun - (trits ? present(x, row + r, 0, (k + 7) / 8) : (int32_t)k));
    const uint8_t *w = weight->base;
    for (uint32_t i = 0; i < parts; i++) {
        const uint32_t n = bvt_min_u32(most, groups - i * most), odd = n % BVT_WORD_GROUPS, whole = n / BVT_WORD_GROUPS;
        const uint32_t col0 = i * most * BVT_GROUP, cols = bvt_min_u32(n * BVT_GROUP, k - col0);
        const uint32_t byte0 = col0 / 8, bytes = (col0 + cols + 7) / 8 - byte0, written = (bytes + 7) / 8 * 16;
        const uint32_t skip = col0 % 8 / 4, after = skip + whole * BVT_WORD / 4; /* vectors of 4 columns */
        const int32_t start = (int32_t)bvt_min_u32(half * (i + 1) / parts - half * i / parts, 128);
        part p = {call, row, rows, col0, cols, tables, odd / 3 * 4 + odd % 3, whole, start, 0, bias, (int32_t)cols - start > 127};
        p.mode = i ? MORE : biased ? BIASED : PLAIN;
        const bool all = !trits && cols >= whole * BVT_WORD; /* columns of the whole words are there and not 0 */
        lut_spread(ones, x, 0, row, rows, byte0, bytes);
        memset(ones + 16 * written, 0, 16 * (BVT_LUT_NIBBLES - written));
        if (trits) {
            lut_spread(somes, x, bvt_plane(x->cols), row, rows, byte0, bytes);
            memset(somes + 16 * written, 0, 16 * (BVT_LUT_NIBBLES - written));
            for (uint32_t v = 0; v < 16 * written; v += 16) vst1q_u8(ones + v, vandq_u8(vld1q_u8(ones + v), vld1q_u8(somes + v)));
            bool many = false;
            for (uint32_t r = 0; p.wraps && r < rows; r++)
                many = many || present(x, row + r, byte0, bytes) > start + 127;
            p.wraps = many;
        } else {
            const uint32_t end = skip * 4 + cols, begin = all ? after * 16 : 0;
            memset(somes + begin, 0xFF, end / 4 * 16 - begin);
            memset(somes + end / 4 * 16, 0, 16 * BVT_LUT_NIBBLES - end / 4 * 16);
            memset(somes + end / 4 * 16, ((1 << end % 4) - 1) * 0x11, 16);
        }
        /* The first may write over 3 tables after its own, which come second. */
        lut_tables(tables, ones + 16 * after, somes + 16 * after, odd);
        if (all) lut_tables_of_all(tables + odd * BVT_LUT_TABLE, ones + 16 * skip, whole * BVT_WORD_GROUPS);
        else lut_tables(tables + odd * BVT_LUT_TABLE, ones + 16 * skip, somes + 16 * skip, whole * BVT_WORD_GROUPS);
        const bool missing = rows % (ROWS / 2);
        const uint32_t direct = missing ? 0 : y->cols / BVT_LUT_CHANNELS * BVT_LUT_CHANNELS;
        if (narrow) lut_channels_narrow(&p, w, 0, direct, bvt_row(y, row), y->stride);
        else lut_channels_wide(&p, w, 0, direct, bvt_row(y, row), y->stride);
        /* Where rows or channels are missing, a whole tile is made in a copy. */
        for (uint32_t col = direct; col < y->cols; col += BVT_LUT_CHANNELS) {
            const size_t bytes_here = 2 * bvt_min_u32(y->cols - col, BVT_LUT_CHANNELS);
            const uint8_t *words = w + col / BVT_LUT_CHANNELS * weight->stride;
            uint8_t copy[ROWS][2 * BVT_LUT_CHANNELS] __attribute__((aligned(16)));
            for (uint32_t r = 0; i && r < rows; r++) memcpy(copy[r], bvt_row_bits(y, row + r) + 2 * (size_t)col, bytes_here);
            if (narrow) lut_channels_narrow(&p, words, col, col + 1, copy[0], sizeof copy[0]);
            else lut_channels_wide(&p, words, col, col + 1, copy[0], sizeof copy[0]);
            for (uint32_t r = 0; r < rows; r++) memcpy((uint8_t *)bvt_row(y, row + r) + 2 * (size_t)col, copy[r], bytes_here);
        }
        w += (n + BVT_WORD_GROUPS - 1) / BVT_WORD_GROUPS * 8 * BVT_LUT_CHANNELS;
    }
}

/* ---- Few rows: tables would not pay, words are compared ---------------------------------------------------------------------- */

/* For each 60 columns, which are a word of a channel (fewer at the end of a part), scratch has a step of words: a mask of the columns that
 * there are and a word of each row; of trits two words of each row, its signs and what of it is not 0. Behind the steps is a line of ones,
 * which the masks are made from. */
#define FEW_ROWS 6u        /* beside whole tiles; more are worth one */
#define ROWS_AT_ONCE 3u    /* that are compared */
#define TRITS_AT_ONCE 2u   /* rows of trits that are compared */
#define STEP_WORDS 4u      /* words of 64 bits that a step has */
#define STEPS_IN_BYTES 31u /* steps whose differing bits, 8 a byte in each, are counted in bytes */
_Static_assert(STEP_WORDS >= 1 + ROWS_AT_ONCE && STEP_WORDS >= 2 * TRITS_AT_ONCE, "a step");
_Static_assert(8 * STEPS_IN_BYTES <= UINT8_MAX, "counts of bytes");

/* Every part of the columns ends in a word of its own, which may hold fewer than 12 groups. */
#define MOST_PARTS ((BVT_MOST_COLUMNS + BVT_GROUP * BVT_LUT_MOST - 1) / (BVT_GROUP * BVT_LUT_MOST))
#define MOST_STEPS (MOST_PARTS * ((BVT_LUT_MOST + BVT_WORD_GROUPS - 1) / BVT_WORD_GROUPS))
_Static_assert(MOST_STEPS * STEP_WORDS * sizeof(uint64_t) + (BVT_MOST_COLUMNS + 7) / 8 <= BVT_LUT_SCRATCH, "scratch of few rows");

/* n <= 60 columns of a line of bits; col is a multiple of 4. */
static uint64_t columns(const uint8_t *line, uint32_t bytes, uint32_t col, uint32_t n) {
    return bytes_at(line, bytes, col / 8) >> col % 8 & ((UINT64_C(1) << n) - 1);
}

/* A line of bits as the words of a channel; `step` words from one to the next. Returns how many. */
static uint32_t line_words(uint64_t *to, size_t step, const uint8_t *line, uint32_t k) {
    const uint32_t groups = bvt_groups(k), most = bvt_lut_part(groups);
    uint32_t words = 0;
    for (uint32_t at = 0; at < groups; at += most) {
        const uint32_t n = bvt_min_u32(most, groups - at), odd = n % BVT_WORD_GROUPS, col = at * BVT_GROUP;
        if (odd) {
            const unsigned low = odd % 3 * BVT_GROUP, all = odd * BVT_GROUP;
            const uint64_t word = columns(line, (k + 7) / 8, col + (n - odd) * BVT_GROUP, all);
            to[step * words++] = (word & ((UINT64_C(1) << low) - 1)) | word >> low << (BVT_WORD - all + low);
        }
        for (uint32_t i = 0; i < n / BVT_WORD_GROUPS; i++)
            to[step * words++] = columns(line, (k + 7) / 8, col + i * BVT_WORD, BVT_WORD);
    }
    return words;
}

/* In how many columns rows and 8 channels differ; of trits, only where these are not 0. n: steps of `a`, and words of a channel. */
INLINE void differing_columns(uint16x8_t sums[ROWS_AT_ONCE], const uint8_t *w, const uint64_t *a, uint32_t n, const unsigned rows,
                              const bool trits) {
    const uint8x16_t zero = vdupq_n_u8(0);
    for (unsigned r = 0; r < rows; r++) sums[r] = vdupq_n_u16(0);
    while (n) {
        const uint32_t now = bvt_min_u32(n, STEPS_IN_BYTES);
        uint8x16_t counts[ROWS_AT_ONCE][4];
        for (unsigned r = 0; r < rows; r++) counts[r][0] = counts[r][1] = counts[r][2] = counts[r][3] = zero;
        for (uint32_t i = 0; i < now; i++, w += 64, a += STEP_WORDS) {
            uint8x16_t weight[4] = {vld1q_u8(w), vld1q_u8(w + 16), vld1q_u8(w + 32), vld1q_u8(w + 48)};
            if (!trits) { /* a file may have anything in the other bits of its words */
                const uint8x16_t there = vreinterpretq_u8_u64(vld1q_dup_u64(a));
                for (unsigned j = 0; j < 4; j++) weight[j] = vandq_u8(weight[j], there);
            }
#pragma GCC unroll 4
            for (unsigned r = 0; r < rows; r++) {
                const uint8x16_t sign = vreinterpretq_u8_u64(vld1q_dup_u64(trits ? a + 2 * r : a + 1 + r));
                const uint8x16_t some = trits ? vreinterpretq_u8_u64(vld1q_dup_u64(a + 2 * r + 1)) : zero;
                for (unsigned j = 0; j < 4; j++) {
                    uint8x16_t other = veorq_u8(sign, weight[j]);
                    if (trits) other = vandq_u8(other, some);
                    counts[r][j] = vaddq_u8(counts[r][j], vcntq_u8(other));
                }
            }
        }
        for (unsigned r = 0; r < rows; r++)
            sums[r] = vaddq_u16(sums[r], vpaddq_u16(vpaddq_u16(vpaddlq_u8(counts[r][0]), vpaddlq_u8(counts[r][1])),
                                                    vpaddq_u16(vpaddlq_u8(counts[r][2]), vpaddlq_u8(counts[r][3]))));
        n -= now;
    }
}

/* ones: of each row how many columns count. */
INLINE void few_rows(const bvt_call *call, uint32_t row, const uint64_t *words, uint32_t n, const int32_t ones[ROWS_AT_ONCE],
                     const unsigned rows, const bool trits) {
    const bvt_view *weight = &call->in[1], *y = &call->out[0];
    for (uint32_t col = 0; col < y->cols; col += BVT_LUT_CHANNELS) {
        uint16x8_t differing[ROWS_AT_ONCE];
        differing_columns(differing, weight->base + col / BVT_LUT_CHANNELS * weight->stride, words, n, rows, trits);
        for (unsigned r = 0; r < rows; r++) {
            const int16x8_t dot = vsubq_s16(vdupq_n_s16((int16_t)ones[r]), vreinterpretq_s16_u16(vshlq_n_u16(differing[r], 1)));
            int16_t copy[BVT_LUT_CHANNELS], *to = (int16_t *)bvt_row(y, row + r) + col;
            if (y->cols - col >= BVT_LUT_CHANNELS) {
                vst1q_s16(to, dot);
                continue;
            }
            vst1q_s16(copy, dot);
            memcpy(to, copy, (y->cols - col) * sizeof *to);
        }
    }
}

static void lut_few_rows(const bvt_call *call, uint32_t row, uint32_t rows) {
    const bvt_view *x = &call->in[0];
    const uint32_t k = call->in[1].cols, bytes = (k + 7) / 8;
    uint64_t *words = call->scratch;
    uint32_t n = 0;
    int32_t ones[ROWS_AT_ONCE];
    if (x->dtype == BVT_DTYPE_TRITS) {
        for (uint32_t r = 0; r < rows; r++) {
            const uint8_t *line = bvt_row_bits(x, row + r);
            n = line_words(words + 2 * r, STEP_WORDS, line, k);
            line_words(words + 2 * r + 1, STEP_WORDS, line + bvt_plane(x->cols), k);
            ones[r] = present(x, row + r, 0, bytes);
        }
        if (rows == 1) few_rows(call, row, words, n, ones, 1, true);
        else few_rows(call, row, words, n, ones, TRITS_AT_ONCE, true);
        return;
    }
    for (uint32_t r = 0; r < rows; r++) {
        n = line_words(words + 1 + r, STEP_WORDS, bvt_row_bits(x, row + r), k);
        ones[r] = (int32_t)k;
    }
    uint8_t *all = (uint8_t *)(words + (size_t)STEP_WORDS * n);
    memset(all, 0xFF, bytes);
    if (k % 8) all[k / 8] = (uint8_t)((1u << k % 8) - 1);
    line_words(words, STEP_WORDS, all, k);
    if (rows == 1) few_rows(call, row, words, n, ones, 1, false);
    else if (rows == 2) few_rows(call, row, words, n, ones, 2, false);
    else few_rows(call, row, words, n, ones, ROWS_AT_ONCE, false);
}

void bvt_bgemm_lut(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bool trits = call->in[0].dtype == BVT_DTYPE_TRITS;
    while (row0 < row1) {
        uint32_t rows = bvt_min_u32(row1 - row0, ROWS);
        if (rows > ROWS / 2 && rows <= ROWS / 2 + FEW_ROWS) rows = ROWS / 2;
        if (rows > FEW_ROWS) {
            lut_tile(call, row0, rows);
        } else {
            rows = trits || rows == 4 ? bvt_min_u32(rows, TRITS_AT_ONCE) : bvt_min_u32(rows, ROWS_AT_ONCE); /* 4: twice 2 */
            lut_few_rows(call, row0, rows);
        }
        row0 += rows;
    }
}
