/* bgemm for NEON, layout LUT: tables of the weights, looked up with the bits of the rows (KERNELS.md, "LUT").
 *
 * Of 5 columns and 32 channels a table has 32 vectors: at the index of a row's 5 bits the differing bits of 32 channels, two a
 * byte. A look-up is a load, so it needs no register for the table and does 160 products; the tables of two words of columns are
 * built in scratch and used by up to BVT_LUT_ROWS rows. Sums of nibbles are kept as in bgemm_tbl2_neon.c.
 */
#include "bgemm_neon.h"

#define TABLE 512 /* bytes of a group's table */
#define AHEAD 8   /* rows that are looked up side by side */

/* The 32 entries of a group, whose columns are bits 0x11 << bit of the vectors. */
INLINE void build(uint8_t *to, const uint8x16_t column[5]) {
    const uint8x16_t both = vdupq_n_u8(0x11);
    uint8x16_t entry[16];
    entry[0] = vaddq_u8(vaddq_u8(vaddq_u8(column[0], column[1]), vaddq_u8(column[2], column[3])), column[4]);
    vst1q_u8(to, entry[0]);
    for (int b = 0; b < 4; b++) {
        /* Where the row's bit is 1, the column counts where the weight's is 0. */
        const uint8x16_t change = vsubq_u8(veorq_u8(column[b], both), column[b]);
        for (int i = 0; i < 1 << b; i++) {
            entry[(1 << b) + i] = vaddq_u8(entry[i], change);
            vst1q_u8(to + 16 * ((1 << b) + i), entry[(1 << b) + i]);
        }
    }
    const uint8x16_t change = vsubq_u8(veorq_u8(column[4], both), column[4]);
    for (int i = 0; i < 16; i++) vst1q_u8(to + 16 * (16 + i), vaddq_u8(entry[i], change));
}

/* Tables of the groups of `columns` columns; entry 0 of those that fill up the last triple of groups is 0. */
static void build_tables(uint8_t *to, const uint8_t *w, uint32_t columns) {
    const uint8x16_t both = vdupq_n_u8(0x11);
    uint32_t built = 0;
    for (; built * BVT_GROUP < columns; built += 4, w += 80) {
        const uint8x16_t v[5] = {vld1q_u8(w), vld1q_u8(w + 16), vld1q_u8(w + 32), vld1q_u8(w + 48), vld1q_u8(w + 64)};
        uint8x16_t column[20];
        for (int i = 0; i < 5; i++) {
            column[4 * i] = vandq_u8(v[i], both);
            column[4 * i + 1] = vandq_u8(vshrq_n_u8(v[i], 1), both);
            column[4 * i + 2] = vandq_u8(vshrq_n_u8(v[i], 2), both);
            column[4 * i + 3] = vandq_u8(vshrq_n_u8(v[i], 3), both);
        }
        for (int g = 0; g < 4; g++) build(to + (built + (uint32_t)g) * TABLE, column + 5 * g);
    }
    for (; built % 3; built++) vst1q_u8(to + built * TABLE, vdupq_n_u8(0));
}

/* clang-format off */
/* Three look-ups of a row; its word in `x`, of which the groups are at s0, s1, s2; temporaries. The sum goes to all and high. */
#define LOOK_UP(x, s0, s1, s2, i, j, k, n0, n1, n2, all, high)                                                  \
    "and " i ", x9, " x ", " s0 "\n\t" "and " j ", x9, " x ", " s1 "\n\t" "and " k ", x9, " x ", " s2 "\n\t"     \
    "ldr q" n0 ", [x6, " i "]\n\t" "ldr q" n1 ", [x7, " j "]\n\t" "ldr q" n2 ", [x8, " k "]\n\t"                 \
    "add v" n0 ".16b, v" n0 ".16b, v" n1 ".16b\n\t" "add v" n0 ".16b, v" n0 ".16b, v" n2 ".16b\n\t"              \
    "add v" all ".16b, v" all ".16b, v" n0 ".16b\n\t" "usra v" high ".16b, v" n0 ".16b, #4\n\t"
/* The same of all rows; then the tables of the next three groups. */
#define TRIPLE(s0, s1, s2)                                                                   \
    LOOK_UP("x20", s0, s1, s2, "x10", "x11", "x12", "16", "17", "18", "0", "8")               \
    LOOK_UP("x21", s0, s1, s2, "x13", "x14", "x15", "19", "20", "21", "1", "9")               \
    LOOK_UP("x22", s0, s1, s2, "x10", "x11", "x12", "22", "23", "24", "2", "10")              \
    LOOK_UP("x23", s0, s1, s2, "x13", "x14", "x15", "25", "26", "27", "3", "11")              \
    LOOK_UP("x24", s0, s1, s2, "x10", "x11", "x12", "28", "29", "30", "4", "12")              \
    LOOK_UP("x25", s0, s1, s2, "x13", "x14", "x15", "16", "17", "18", "5", "13")              \
    LOOK_UP("x26", s0, s1, s2, "x10", "x11", "x12", "19", "20", "21", "6", "14")              \
    LOOK_UP("x27", s0, s1, s2, "x13", "x14", "x15", "22", "23", "24", "7", "15")              \
    "add x6, x6, #1536\n\tadd x7, x7, #1536\n\tadd x8, x8, #1536\n\t"
/* clang-format on */

/* Counts of AHEAD rows over `triples` triples of groups, of which a word has 4. words: [word][BVT_LUT_ROWS]; counts: those of
 * the columns before as [row][all, high], or NULL: none. */
INLINE void look_up(const uint64_t *words, const uint8_t *counts, const uint8_t *tables, uint32_t triples, uint8x16_t all[8],
                    uint8x16_t high[8]) {
    register uint8x16_t a0 __asm__("v0"), a1 __asm__("v1"), a2 __asm__("v2"), a3 __asm__("v3"), a4 __asm__("v4"), a5 __asm__("v5"),
        a6 __asm__("v6"), a7 __asm__("v7"), h0 __asm__("v8"), h1 __asm__("v9"), h2 __asm__("v10"), h3 __asm__("v11"),
        h4 __asm__("v12"), h5 __asm__("v13"), h6 __asm__("v14"), h7 __asm__("v15");
    __asm__ volatile(
        "mov x9, #0x1f0\n\t"
        "mov x6, %[tables]\n\t"
        "add x7, %[tables], #512\n\t"
        "add x8, %[tables], #1024\n\t"
        "cbz %[counts], 0f\n\t"
        "ldp q0, q8, [%[counts]]\n\tldp q1, q9, [%[counts], #32]\n\t"
        "ldp q2, q10, [%[counts], #64]\n\tldp q3, q11, [%[counts], #96]\n\t"
        "ldp q4, q12, [%[counts], #128]\n\tldp q5, q13, [%[counts], #160]\n\t"
        "ldp q6, q14, [%[counts], #192]\n\tldp q7, q15, [%[counts], #224]\n\t"
        "b 1f\n"
        "0:\n\t"
        "movi v0.16b, #0\n\tmovi v1.16b, #0\n\tmovi v2.16b, #0\n\tmovi v3.16b, #0\n\t"
        "movi v4.16b, #0\n\tmovi v5.16b, #0\n\tmovi v6.16b, #0\n\tmovi v7.16b, #0\n\t"
        "movi v8.16b, #0\n\tmovi v9.16b, #0\n\tmovi v10.16b, #0\n\tmovi v11.16b, #0\n\t"
        "movi v12.16b, #0\n\tmovi v13.16b, #0\n\tmovi v14.16b, #0\n\tmovi v15.16b, #0\n"
        "1:\n\t"
        "ldp x20, x21, [%[words]]\n\tldp x22, x23, [%[words], #16]\n\t"
        "ldp x24, x25, [%[words], #32]\n\tldp x26, x27, [%[words], #48]\n\t"
        "add %[words], %[words], %[next]\n\t"
        "subs %w[triples], %w[triples], #4\n\t"
        "b.lt 2f\n\t"
        TRIPLE("lsl #4", "lsr #1", "lsr #6") TRIPLE("lsr #11", "lsr #16", "lsr #21")
        TRIPLE("lsr #26", "lsr #31", "lsr #36") TRIPLE("lsr #41", "lsr #46", "lsr #51")
        "cbnz %w[triples], 1b\n\t"
        "b 3f\n"
        "2:\n\t" /* a last word of 1 to 3 triples */
        TRIPLE("lsl #4", "lsr #1", "lsr #6")
        "adds %w[triples], %w[triples], #3\n\t"
        "b.eq 3f\n\t"
        TRIPLE("lsr #11", "lsr #16", "lsr #21")
        "subs %w[triples], %w[triples], #1\n\t"
        "b.eq 3f\n\t"
        TRIPLE("lsr #26", "lsr #31", "lsr #36")
        "3:"
        : [words] "+&r"(words), [triples] "+&r"(triples), "=w"(a0), "=w"(a1), "=w"(a2), "=w"(a3), "=w"(a4), "=w"(a5), "=w"(a6),
          "=w"(a7), "=w"(h0), "=w"(h1), "=w"(h2), "=w"(h3), "=w"(h4), "=w"(h5), "=w"(h6), "=w"(h7)
        : [counts] "r"(counts), [tables] "r"(tables), [next] "r"((uint64_t)(8 * BVT_LUT_ROWS))
        : "memory", "cc", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x20", "x21", "x22", "x23",
          "x24", "x25", "x26", "x27", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29",
          "v30");
    all[0] = a0, all[1] = a1, all[2] = a2, all[3] = a3, all[4] = a4, all[5] = a5, all[6] = a6, all[7] = a7;
    high[0] = h0, high[1] = h1, high[2] = h2, high[3] = h3, high[4] = h4, high[5] = h5, high[6] = h6, high[7] = h7;
}

INLINE void store_counts(uint8_t *to, const uint8x16_t all[8], const uint8x16_t high[8]) {
#define ROW(i) vst1q_u8(to + 32 * (i), all[i]), vst1q_u8(to + 32 * (i) + 16, high[i]);
    ROW(0) ROW(1) ROW(2) ROW(3) ROW(4) ROW(5) ROW(6) ROW(7)
#undef ROW
}

/* The counts of TARGET_ROWS rows and 32 channels into the output. */
INLINE void flush(int16_t *const y[TARGET_ROWS], const uint8x16_t *all, const uint8x16_t *high, bool first, int32_t k) {
#define ROW(i)                                                                             \
    subtract_twice(y[i], vsubq_u8(all[i], vshlq_n_u8(high[i], 4)), first, k);              \
    subtract_twice(y[i] + 16, high[i], first, k);
    ROW(0) ROW(1) ROW(2) ROW(3)
#undef ROW
}

/* Adds the counts of `rows` rows, at most TARGET_ROWS. */
INLINE void output(const bvt_call *call, uint32_t row, uint32_t rows, uint32_t col, const uint8x16_t *all, const uint8x16_t *high,
                   bool first) {
    target t;
    target_begin(&t, call, row, rows, col, 32, first);
    if (first) flush(t.y, all, high, true, (int32_t)call->in[1].cols);
    else flush(t.y, all, high, false, 0);
    target_end(&t, call, row, col);
}

void bvt_bgemm_lut(const bvt_call *call, uint32_t row0, uint32_t row1) {
    enum { CHUNK = BVT_LUT_WORDS * BVT_WORD, HALF = BVT_LUT_TABLE_GROUPS * BVT_GROUP };
    const bvt_view *weight = &call->in[1];
    const uint32_t k = weight->cols, outputs = call->out[0].cols;
    uint8_t *tables = call->scratch, *counts = tables + BVT_LUT_TABLE_BYTES + BVT_LUT_WORDS_BYTES;
    uint64_t *words = (uint64_t *)(void *)(tables + BVT_LUT_TABLE_BYTES);
    for (uint32_t row = row0; row < row1; row += BVT_LUT_ROWS) {
        const uint32_t rows = bvt_min_u32(row1 - row, BVT_LUT_ROWS), padded = (rows + AHEAD - 1) / AHEAD * AHEAD;
        for (uint32_t from = 0; from < k; from += CHUNK) {
            const uint32_t columns = bvt_min_u32(k - from, CHUNK);
            for (uint32_t r = 0; r < padded; r++) /* where rows are missing, the last one stands in for them */
                for (uint32_t i = 0; i < BVT_LUT_WORDS; i++)
                    words[i * BVT_LUT_ROWS + r] =
                        bvt_word(bvt_row_bits(&call->in[0], row + bvt_min_u32(r, rows - 1)), (k + 7) / 8, from / BVT_WORD + i);
            for (uint32_t col = 0; col < outputs; col += 32) {
                const uint8_t *w = weight->base + col / 32 * weight->stride;
                for (uint32_t at = 0; at < columns; at += HALF) {
                    const uint32_t part = bvt_min_u32(columns - at, HALF);
                    const bool last = at + part == columns;
                    build_tables(tables, w + (size_t)(from + at) * 4, part);
                    for (uint32_t r = 0; r < padded; r += AHEAD) {
                        uint8_t *count = counts + (size_t)r * 32;
                        uint8x16_t all[AHEAD], high[AHEAD];
                        look_up(words + at / BVT_WORD * BVT_LUT_ROWS + r, at ? count : NULL, tables, (part + 14) / 15, all, high);
                        if (!last) {
                            store_counts(count, all, high);
                            continue;
                        }
                        output(call, row + r, bvt_min_u32(rows - r, TARGET_ROWS), col, all, high, from == 0);
                        if (r + TARGET_ROWS < rows)
                            output(call, row + r + TARGET_ROWS, bvt_min_u32(rows - r - TARGET_ROWS, TARGET_ROWS), col,
                                   all + TARGET_ROWS, high + TARGET_ROWS, from == 0);
                    }
                }
            }
        }
    }
}
