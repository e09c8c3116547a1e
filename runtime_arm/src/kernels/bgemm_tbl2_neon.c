/* bgemm for NEON, layout TBL2: one table look-up of 32 bytes counts 5 columns of two rows for 16 channels (KERNELS.md, "TBL2").
 *
 * The table of a pair of rows holds at index i, of 5 weight bits, the differing bits of the first row in its low nibble and those
 * of the second in its high one. There are 32 x 32 such tables: all are in `pairs`, so nothing is built. Three look-ups fit into a
 * nibble (3*5 = 15); then a sum over all is kept modulo 256 and one over the high nibbles, from which the low ones follow.
 */
#include "bgemm_neon.h"

#define P1(x) (((x)&1) + ((x) >> 1 & 1) + ((x) >> 2 & 1) + ((x) >> 3 & 1) + ((x) >> 4 & 1))
#define P2(a, b, i) (uint8_t)(P1((a) ^ (i)) + 16 * P1((b) ^ (i)))
#define P3(a, b, i) P2(a, b, i), P2(a, b, (i) + 1), P2(a, b, (i) + 2), P2(a, b, (i) + 3)
#define P4(a, b) \
    {P3(a, b, 0), P3(a, b, 4), P3(a, b, 8), P3(a, b, 12), P3(a, b, 16), P3(a, b, 20), P3(a, b, 24), P3(a, b, 28)}
#define P5(a, b) P4(a, b), P4((a) + 1, b), P4((a) + 2, b), P4((a) + 3, b)
#define P6(b) P5(0, b), P5(4, b), P5(8, b), P5(12, b), P5(16, b), P5(20, b), P5(24, b), P5(28, b)
#define P7(b) P6(b), P6((b) + 1), P6((b) + 2), P6((b) + 3)
/* The tables of rows whose 5 bits are a and b, at 32*b + a. */
static const uint8_t pairs[1024][32] __attribute__((aligned(64))) = {P7(0), P7(4), P7(8), P7(12), P7(16), P7(20), P7(24), P7(28)};

#define MOST_GROUPS 51u /* 255 columns: what a u8 counts; a multiple of 3 */

/* clang-format off */
/* One group: the tables of two pairs of rows into v24-v27, 4 vectors of indices, and the look-ups into v16-v23. */
#define TABLES(at)                                                                           \
    "ldrh %w[p], [%[x], #" at "*4]\n\t"        "ldrh %w[q], [%[x], #" at "*4+2]\n\t"          \
    "add %[p], %[table], %[p]\n\t"             "add %[q], %[table], %[q]\n\t"                 \
    "ldp q24, q25, [%[p]]\n\t"                 "ldp q26, q27, [%[q]]\n\t"
#define SET(n0, n1, ix, at)                                                                  \
    "ldr q" ix ", [%[w], #" at "]\n\t"                                                       \
    "tbl v" n0 ".16b, {v24.16b, v25.16b}, v" ix ".16b\n\t"                                   \
    "tbl v" n1 ".16b, {v26.16b, v27.16b}, v" ix ".16b\n\t"
#define ADD(n0, n1, ix, at)                                                                  \
    "ldr q" ix ", [%[w], #" at "]\n\t"                                                       \
    "tbl v30.16b, {v24.16b, v25.16b}, v" ix ".16b\n\t"                                       \
    "tbl v31.16b, {v26.16b, v27.16b}, v" ix ".16b\n\t"                                       \
    "add v" n0 ".16b, v" n0 ".16b, v30.16b\n\t"                                              \
    "add v" n1 ".16b, v" n1 ".16b, v31.16b\n\t"
#define GROUP(OP, at)                                                                        \
    TABLES(at) OP("16", "17", "28", at "*64") OP("18", "19", "29", at "*64+16")              \
               OP("20", "21", "28", at "*64+32") OP("22", "23", "29", at "*64+48")
/* The nibbles' sums into all (v0-v7) and high (v8-v15). */
#define SUM1(all, high, n)                                                                 \
    "add v" all ".16b, v" all ".16b, v" n ".16b\n\t"                                         \
    "usra v" high ".16b, v" n ".16b, #4\n\t"
#define SUM                                                                                  \
    SUM1("0", "8", "16") SUM1("1", "9", "17") SUM1("2", "10", "18") SUM1("3", "11", "19")     \
    SUM1("4", "12", "20") SUM1("5", "13", "21") SUM1("6", "14", "22") SUM1("7", "15", "23")
/* clang-format on */

/* Two pairs of rows x 4 vectors over n groups, 1 <= n <= MOST_GROUPS. x: offsets into `pairs`, [group][2]. Of vector v and pair p,
 * all[2*v+p] is low + 16*high modulo 256. */
INLINE void tbl2_tile(const uint16_t *x, const uint8_t *w, uint32_t n, uint8x16_t all[8], uint8x16_t high[8]) {
    uint32_t triples = n / 3, rest = n % 3;
    uint64_t p, q;
    register uint8x16_t a0 __asm__("v0"), a1 __asm__("v1"), a2 __asm__("v2"), a3 __asm__("v3"), a4 __asm__("v4"), a5 __asm__("v5"),
        a6 __asm__("v6"), a7 __asm__("v7"), h0 __asm__("v8"), h1 __asm__("v9"), h2 __asm__("v10"), h3 __asm__("v11"),
        h4 __asm__("v12"), h5 __asm__("v13"), h6 __asm__("v14"), h7 __asm__("v15");
    __asm__ volatile(
        "movi v0.16b, #0\n\tmovi v1.16b, #0\n\tmovi v2.16b, #0\n\tmovi v3.16b, #0\n\t"
        "movi v4.16b, #0\n\tmovi v5.16b, #0\n\tmovi v6.16b, #0\n\tmovi v7.16b, #0\n\t"
        "movi v8.16b, #0\n\tmovi v9.16b, #0\n\tmovi v10.16b, #0\n\tmovi v11.16b, #0\n\t"
        "movi v12.16b, #0\n\tmovi v13.16b, #0\n\tmovi v14.16b, #0\n\tmovi v15.16b, #0\n\t"
        "cbz %w[triples], 2f\n\t"
        ".p2align 4\n"
        "1:\n\t" GROUP(SET, "0") GROUP(ADD, "1") GROUP(ADD, "2") SUM
        "add %[x], %[x], #12\n\t"
        "add %[w], %[w], #192\n\t"
        "subs %w[triples], %w[triples], #1\n\t"
        "b.ne 1b\n"
        "2:\n\t"
        "cbz %w[rest], 4f\n\t" GROUP(SET, "0")
        "tbz %w[rest], #1, 3f\n\t" GROUP(ADD, "1")
        "3:\n\t" SUM
        "4:"
        : [x] "+&r"(x), [w] "+&r"(w), [triples] "+&r"(triples), [p] "=&r"(p), [q] "=&r"(q), "=w"(a0), "=w"(a1), "=w"(a2), "=w"(a3),
          "=w"(a4), "=w"(a5), "=w"(a6), "=w"(a7), "=w"(h0), "=w"(h1), "=w"(h2), "=w"(h3), "=w"(h4), "=w"(h5), "=w"(h6), "=w"(h7)
        : [rest] "r"(rest), [table] "r"(&pairs[0][0])
        : "memory", "cc", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30",
          "v31");
    all[0] = a0, all[1] = a1, all[2] = a2, all[3] = a3, all[4] = a4, all[5] = a5, all[6] = a6, all[7] = a7;
    high[0] = h0, high[1] = h1, high[2] = h2, high[3] = h3, high[4] = h4, high[5] = h5, high[6] = h6, high[7] = h7;
}

/* Word i of a row as four lanes of 15 bits, 3 groups each. */
static inline uint16x4_t lanes(const uint8_t *row, size_t bytes, size_t i) {
    const uint64_t w = bvt_word(row, bytes, i);
    return vcreate_u16((w & 0x7FFF) | (w << 1 & 0x7FFF0000) | (w << 2 & 0x7FFF00000000u) | (w << 3 & 0x7FFF000000000000u));
}

/* The offsets of two pairs of rows: of every group one, then the other. The table of (a, b) is 32 * (a + 32*b) bytes on. */
static void offsets(uint16_t *to, const uint8_t *const row[4], uint32_t k) {
    const size_t bytes = (k + 7) / 8, words = bvt_words(k);
    const uint16x8_t mask_a = vdupq_n_u16(31 << 5), mask_b = vdupq_n_u16(31 << 10);
    for (size_t i = 0; i < words; i++, to += 2 * BVT_WORD_GROUPS) {
        const uint16x4x2_t za = vzip_u16(lanes(row[0], bytes, i), lanes(row[2], bytes, i));
        const uint16x4x2_t zb = vzip_u16(lanes(row[1], bytes, i), lanes(row[3], bytes, i));
        const uint16x8_t a = vcombine_u16(za.val[0], za.val[1]), b = vcombine_u16(zb.val[0], zb.val[1]);
#define OFFSET(a, b) vreinterpretq_u32_u16(vorrq_u16(vandq_u16(a, mask_a), vandq_u16(b, mask_b)))
        const uint32x4x3_t group = {{OFFSET(vshlq_n_u16(a, 5), vshlq_n_u16(b, 10)), OFFSET(a, vshlq_n_u16(b, 5)),
                                     OFFSET(vshrq_n_u16(a, 5), b)}};
#undef OFFSET
        vst3q_u32((uint32_t *)(void *)to, group);
    }
}

/* Counts of a vector's 16 channels, of up to 255 columns (`k`), into dots: k - 2*count, as (k - count) - count. */
INLINE void flush(int16_t *y, uint8x16_t count, uint8x16_t k) {
    const uint8x16_t left = vsubq_u8(k, count);
    vst1q_s16(y, vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(left), vget_low_u8(count))));
    vst1q_s16(y + 8, vreinterpretq_s16_u16(vsubl_high_u8(left, count)));
}

/* Where there are several chunks of groups, counts are summed in `total`, and the last makes the output. */
enum { FIRST, MIDDLE, LAST };

INLINE void flush_chunk(int16_t *y, uint16_t *total, uint8x16_t count, int place, int16_t k) {
    uint16x8_t low = vmovl_u8(vget_low_u8(count)), high = vmovl_high_u8(count);
    if (place != FIRST) {
        low = vaddw_u8(vld1q_u16(total), vget_low_u8(count));
        high = vaddw_high_u8(vld1q_u16(total + 8), count);
    }
    if (place == LAST) {
        const int16x8_t all = vdupq_n_s16(k);
        vst1q_s16(y, vmlsq_n_s16(all, vreinterpretq_s16_u16(low), 2));
        vst1q_s16(y + 8, vmlsq_n_s16(all, vreinterpretq_s16_u16(high), 2));
        return;
    }
    vst1q_u16(total, low);
    vst1q_u16(total + 8, high);
}

/* FLUSH(row, vector, count) of the rows and vectors of a tile. */
#define CELL(FLUSH, i)                                                                                       \
    FLUSH(2 * ((i) % 2), (i) / 2, vmlsq_u8(all[i], high[i], sixteen)) FLUSH(2 * ((i) % 2) + 1, (i) / 2, high[i])
#define CELLS(FLUSH) \
    CELL(FLUSH, 0) CELL(FLUSH, 1) CELL(FLUSH, 2) CELL(FLUSH, 3) CELL(FLUSH, 4) CELL(FLUSH, 5) CELL(FLUSH, 6) CELL(FLUSH, 7)

INLINE void flush_chunks(int16_t *y, size_t stride, uint16_t total[4][64], const uint8x16_t all[8], const uint8x16_t high[8],
                         int place, int16_t k) {
    const uint8x16_t sixteen = vdupq_n_u8(16);
#define FLUSH(row, vector, count) flush_chunk(y + (row) * stride + 16 * (vector), total[row] + 16 * (vector), count, place, k);
    CELLS(FLUSH)
#undef FLUSH
}

/* A tile of 4 rows x 64 channels into y, whose rows are `stride` elements apart. */
INLINE void tile_dots(int16_t *y, size_t stride, const uint16_t *x, const uint8_t *w, uint32_t k, uint32_t groups, uint32_t chunk) {
    uint8x16_t all[8], high[8];
    if (chunk >= groups) {
        const uint8x16_t sixteen = vdupq_n_u8(16), columns = vdupq_n_u8((uint8_t)k);
        tbl2_tile(x, w, groups, all, high);
#define FLUSH(row, vector, count) flush(y + (row) * stride + 16 * (vector), count, columns);
        CELLS(FLUSH)
#undef FLUSH
        return;
    }
    uint16_t total[4][64];
    for (uint32_t from = 0; from < groups; from += chunk) {
        tbl2_tile(x + (size_t)from * 2, w + (size_t)from * 64, bvt_min_u32(groups - from, chunk), all, high);
        if (from == 0) flush_chunks(y, stride, total, all, high, FIRST, 0);
        else if (from + chunk < groups) flush_chunks(y, stride, total, all, high, MIDDLE, 0);
        else flush_chunks(y, stride, total, all, high, LAST, (int16_t)k);
    }
}

void bvt_bgemm_tbl2(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *weight = &call->in[1], *out = &call->out[0];
    const uint32_t k = weight->cols, groups = bvt_groups(k), outputs = out->cols;
    /* One chunk while a u8 counts all columns. */
    const uint32_t chunks = (groups + MOST_GROUPS - 1) / MOST_GROUPS, chunk = ((groups + chunks - 1) / chunks + 2) / 3 * 3;
    const size_t tile = (size_t)2 * BVT_WORD_GROUPS * bvt_words(k);
    uint16_t *x = call->scratch; /* [4 rows][group][2 pairs] */
    for (uint32_t row = row0; row < row1; row += BVT_BGEMM_ROWS) {
        const uint32_t rows = bvt_min_u32(row1 - row, BVT_BGEMM_ROWS);
        for (uint32_t r = 0; r < rows; r += 4) {
            const uint8_t *four[4]; /* where rows are missing, the last one stands in for them */
            for (uint32_t i = 0; i < 4; i++) four[i] = bvt_row_bits(&call->in[0], row + bvt_min_u32(r + i, rows - 1));
            offsets(x + r / 4 * tile, four, k);
        }
        const uint8_t *w = weight->base;
        for (uint32_t col = 0; col < outputs; col += 64, w += weight->stride) {
            for (uint32_t r = 0; r < rows; r += 4) {
                int16_t *y = (int16_t *)bvt_row(out, row + r) + col, copy[4][64];
                const uint16_t *four = x + r / 4 * tile;
                const uint32_t there = bvt_min_u32(rows - r, 4), cols = bvt_min_u32(outputs - col, 64);
                if (there == 4 && cols == 64) {
                    tile_dots(y, out->stride / sizeof *y, four, w, k, groups, chunk);
                    continue;
                }
                tile_dots(copy[0], 64, four, w, k, groups, chunk);
                for (uint32_t i = 0; i < there; i++) memcpy((int16_t *)bvt_row(out, row + r + i) + col, copy[i], cols * sizeof *y);
            }
        }
    }
}
