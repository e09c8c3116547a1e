/* bgemm for NEON, layout TBL2: one table look-up of 32 bytes counts 5 columns of two rows for 16 channels (KERNELS.md, "TBL2").
 *
 * The table of a pair of rows holds at index i, of 5 weight bits, how many are equal to the first row's in its low nibble, and to
 * the second's in its high one. Three look-ups fit into a nibble (3*5 = 15); then a sum over all is kept modulo 256 and one over
 * the high nibbles, from which the low ones follow. Rows of bits have 32 x 32 tables, all of which are in `pairs`; of trits
 * `singles` has the table of one row, and the loop joins two.
 */
#include <pthread.h>

#include "bgemm_neon.h"

static uint8_t pairs[1024][32] __attribute__((aligned(64)));   /* of rows whose 5 bits are a and b: at 32*b + a */
static uint8_t singles[1024][32] __attribute__((aligned(64))); /* of a row of trits: at 32*some + sign */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Made when they are needed first: 64 KB that the program does not have to hold. */
static void make_tables(void) {
    static const uint8_t from_0[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (unsigned half = 0; half < 2; half++) {
        const uint8x16_t i = vaddq_u8(vld1q_u8(from_0), vdupq_n_u8((uint8_t)(16 * half)));
        for (unsigned n = 0; n < 1024; n++) {
            const uint8x16_t equal = veorq_u8(i, vdupq_n_u8(n % 32 ^ 31)), b = vdupq_n_u8((uint8_t)(n / 32));
            vst1q_u8(singles[n] + 16 * half, vcntq_u8(vandq_u8(equal, b)));
            const uint8x16_t equal_b = veorq_u8(i, veorq_u8(b, vdupq_n_u8(31)));
            vst1q_u8(pairs[n] + 16 * half, vsliq_n_u8(vcntq_u8(equal), vcntq_u8(equal_b), 4));
        }
    }
}

/* clang-format off */
/* One group: the tables of two pairs of rows into v24-v27, 4 vectors of indices, and the look-ups into v16-v23. */
#define TABLES_BITS(at)                                                                      \
    "ldrh %w[p], [%[x], #" at "*4]\n\t"        "ldrh %w[q], [%[x], #" at "*4+2]\n\t"          \
    "add %[p], %[table], %[p]\n\t"             "add %[q], %[table], %[q]\n\t"                 \
    "ldp q24, q25, [%[p]]\n\t"                 "ldp q26, q27, [%[q]]\n\t"
#define TABLES_TRITS(at)                                                                     \
    "ldrh %w[p], [%[x], #" at "*8]\n\t"        "ldrh %w[q], [%[x], #" at "*8+2]\n\t"          \
    "add %[p], %[table], %[p]\n\t"             "add %[q], %[table], %[q]\n\t"                 \
    "ldp q24, q25, [%[p]]\n\t"                 "ldp q28, q29, [%[q]]\n\t"                     \
    "ldrh %w[p], [%[x], #" at "*8+4]\n\t"      "ldrh %w[q], [%[x], #" at "*8+6]\n\t"          \
    "add %[p], %[table], %[p]\n\t"             "add %[q], %[table], %[q]\n\t"                 \
    "sli v24.16b, v28.16b, #4\n\t"             "sli v25.16b, v29.16b, #4\n\t"                 \
    "ldp q26, q27, [%[p]]\n\t"                 "ldp q30, q31, [%[q]]\n\t"                     \
    "sli v26.16b, v30.16b, #4\n\t"             "sli v27.16b, v31.16b, #4\n\t"
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
#define GROUP(TABLES, OP, at)                                                                \
    TABLES(at) OP("16", "17", "28", at "*64") OP("18", "19", "29", at "*64+16")              \
               OP("20", "21", "28", at "*64+32") OP("22", "23", "29", at "*64+48")
/* The nibbles' sums into all (v0-v7) and high (v8-v15). */
#define SUM1(all, high, n)                                                                   \
    "add v" all ".16b, v" all ".16b, v" n ".16b\n\t"                                         \
    "usra v" high ".16b, v" n ".16b, #4\n\t"
#define SUM                                                                                  \
    SUM1("0", "8", "16") SUM1("1", "9", "17") SUM1("2", "10", "18") SUM1("3", "11", "19")     \
    SUM1("4", "12", "20") SUM1("5", "13", "21") SUM1("6", "14", "22") SUM1("7", "15", "23")
/* What both sums begin with: half of it moved and half loaded, which is as fast as the pipes allow. */
#define START                                                                                \
    "ldr q0, [%[start]]\n\t"                   "ldr q8, [%[start], #16]\n\t"                  \
    "mov v1.16b, v0.16b\n\t"                   "ldr q9, [%[start], #16]\n\t"                  \
    "mov v2.16b, v0.16b\n\t"                   "ldr q10, [%[start], #16]\n\t"                 \
    "mov v3.16b, v0.16b\n\t"                   "ldr q11, [%[start], #16]\n\t"                 \
    "mov v4.16b, v0.16b\n\t"                   "ldr q12, [%[start], #16]\n\t"                 \
    "mov v5.16b, v0.16b\n\t"                   "ldr q13, [%[start], #16]\n\t"                 \
    "mov v6.16b, v0.16b\n\t"                   "ldr q14, [%[start], #16]\n\t"                 \
    "mov v7.16b, v0.16b\n\t"                   "ldr q15, [%[start], #16]\n\t"
#define LOOP(TABLES, step)                                                                   \
    START                                                                                    \
    "cbz %w[triples], 2f\n\t"                                                                \
    ".p2align 4\n"                                                                           \
    "1:\n\t" GROUP(TABLES, SET, "0") GROUP(TABLES, ADD, "1") GROUP(TABLES, ADD, "2") SUM     \
    "add %[x], %[x], #" step "\n\t"                                                          \
    "add %[w], %[w], #192\n\t"                                                               \
    "subs %w[triples], %w[triples], #1\n\t"                                                  \
    "b.ne 1b\n"                                                                              \
    "2:\n\t"                                                                                 \
    "cbz %w[rest], 4f\n\t" GROUP(TABLES, SET, "0")                                           \
    "tbz %w[rest], #1, 3f\n\t" GROUP(TABLES, ADD, "1")                                       \
    "3:\n\t" SUM                                                                             \
    "4:"
/* clang-format on */

#define FULL 51u /* groups of every part but the last: their 255 columns are what a byte counts; a multiple of 3 */
#define MOST 54u /* of the last */
#define LITTLE 6u

/* Groups that are counted at a time. centre: what the sums `all` and `high` begin with, minus the number that is taken off. */
typedef struct {
    uint32_t groups, triples, rest;
    uint8_t centre[2][16];
} part;

/* How the groups of a product are counted. The counts of a part begin with minus its centre, so that they are signed bytes; the
 * centres add up to half of the columns, so that a dot is twice the sum of its counts, and what is odd or missing is its bias.
 *
 * K is often a power of two, which is 51 groups a part and some columns; these go into the last part, although its counts may then
 * be too large for a byte: if none is `doubtful` or less, none has wrapped. Otherwise the part is made again as two. */
typedef struct {
    uint32_t groups;
    int doubtful; /* less than -128: none is */
    part full, last, split, little;
} plan;

static void set_part(part *p, uint32_t groups, int32_t centre) {
    p->groups = groups, p->triples = groups / 3, p->rest = groups % 3;
    memset(p->centre[0], -17 * centre, 16);
    memset(p->centre[1], -centre, 16);
}

static void make_plan(plan *p, uint32_t k, bool trits) {
    const uint32_t groups = bvt_groups(k);
    const uint32_t by_range = (k + 255) / 256, by_size = (groups + FULL - 1 - (MOST - FULL)) / FULL;
    const uint32_t full = (by_range > by_size ? by_range : by_size) - 1, last = groups - FULL * full;
    /* Columns beyond the end are equal in rows and weights of bits. */
    const int32_t beyond = trits ? 0 : (int32_t)(BVT_GROUP * groups - k), centre = (int32_t)(k / 2) + beyond - 128 * (int32_t)full;
    const int32_t split = last > LITTLE ? (int32_t)(BVT_GROUP * (last - LITTLE) + 1) / 2 : 0;
    p->groups = groups;
    p->doubtful = (int32_t)(k - BVT_GROUP * FULL * full) + beyond - centre - 256; /* the highest count, wrapped */
    set_part(&p->full, FULL, 128);
    set_part(&p->last, last, centre);
    set_part(&p->split, last - LITTLE, split);
    set_part(&p->little, LITTLE, centre - split);
}

/* The counts of 4 rows x 64 channels over the groups of a part: of row r and vector i in v[4*i + r]. x: offsets of tables,
 * [group][2], of trits [group][4]. */
INLINE void count(const uint16_t *x, const uint8_t *w, const part *now, int8x16_t v[16], const bool trits) {
    uint32_t triples = now->triples;
    uint64_t p, q;
    register uint8x16_t a0 __asm__("v0"), a1 __asm__("v1"), a2 __asm__("v2"), a3 __asm__("v3"), a4 __asm__("v4"), a5 __asm__("v5"),
        a6 __asm__("v6"), a7 __asm__("v7"), h0 __asm__("v8"), h1 __asm__("v9"), h2 __asm__("v10"), h3 __asm__("v11"),
        h4 __asm__("v12"), h5 __asm__("v13"), h6 __asm__("v14"), h7 __asm__("v15");
#define OUT(name) "=&w"(name)
#define COUNT(TABLES, step, table_of)                                                                                         \
    __asm__ volatile(LOOP(TABLES, step)                                                                                       \
                     : [x] "+&r"(x), [w] "+&r"(w), [triples] "+&r"(triples), [p] "=&r"(p), [q] "=&r"(q), OUT(a0), OUT(a1),    \
                       OUT(a2), OUT(a3), OUT(a4), OUT(a5), OUT(a6), OUT(a7), OUT(h0), OUT(h1), OUT(h2), OUT(h3), OUT(h4),     \
                       OUT(h5), OUT(h6), OUT(h7)                                                                              \
                     : [rest] "r"(now->rest), [table] "r"(&table_of[0][0]), [start] "r"(&now->centre[0][0])                   \
                     : "memory", "cc", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27",    \
                       "v28", "v29", "v30", "v31")
    if (trits) COUNT(TABLES_TRITS, "24", singles);
    else COUNT(TABLES_BITS, "12", pairs);
#undef COUNT
#undef OUT
/* low - 16*high; a multiplication would hold its pipe twice as long as both together. */
#define CELLS(i, low, high, row)                                                       \
    v[4 * (i) + (row)] = vreinterpretq_s8_u8(vsubq_u8(low, vshlq_n_u8(high, 4)));      \
    v[4 * (i) + (row) + 1] = vreinterpretq_s8_u8(high);
    CELLS(0, a0, h0, 0) CELLS(0, a1, h1, 2) CELLS(1, a2, h2, 0) CELLS(1, a3, h3, 2)
    CELLS(2, a4, h4, 0) CELLS(2, a5, h5, 2) CELLS(3, a6, h6, 0) CELLS(3, a7, h7, 2)
#undef CELLS
}

INLINE bool has_doubtful(const int8x16_t v[16], int doubtful) {
#define LEAST(a, b) vminq_s8(v[a], v[b])
    const int8x16_t least = vminq_s8(vminq_s8(vminq_s8(LEAST(0, 1), LEAST(2, 3)), vminq_s8(LEAST(4, 5), LEAST(6, 7))),
                                     vminq_s8(vminq_s8(LEAST(8, 9), LEAST(10, 11)), vminq_s8(LEAST(12, 13), LEAST(14, 15))));
#undef LEAST
    return vminvq_s8(least) <= doubtful;
}

/* The counts of 16 channels to y: twice `v`, and with what is `held`, and with `base`. */
INLINE void put(int16_t *y, int8x16_t v, const int8_t *held, const int16_t *base) {
    int16x8_t low, high;
    if (held) {
        const int8x16_t other = vld1q_s8(held);
        low = vaddl_s8(vget_low_s8(v), vget_low_s8(other)), high = vaddl_high_s8(v, other);
        low = vaddq_s16(low, low), high = vaddq_s16(high, high);
    } else {
        low = vshll_n_s8(vget_low_s8(v), 1), high = vshll_high_n_s8(v, 1);
    }
    if (base) low = vaddq_s16(low, vld1q_s16(base)), high = vaddq_s16(high, vld1q_s16(base + 8));
    vst1q_s16(y, low);
    vst1q_s16(y + 8, high);
}

#define ALL(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14) DO(15)

/* A tile of 4 rows x 64 channels into the rows y. bias: of the dots, [4][64], or NULL. */
INLINE void tile_dots(int16_t *const y[4], const uint16_t *x, const uint8_t *w, const plan *p, const int16_t *bias,
                      const bool trits) {
    int8_t kept[16][16], (*held)[16] = NULL; /* the counts of a part that waits for the next one */
    const int16_t *base[4] = {bias, bias + 64, bias + 128, bias + 192};
    bool based = trits || bias;
    const part *full = &p->full, *last = &p->last;
    for (uint32_t left = p->groups;;) {
        const part *now = left <= last->groups ? last : full;
        int8x16_t v[16];
        count(x, w, now, v, trits);
        if (now == &p->last && p->doubtful >= -128 && has_doubtful(v, p->doubtful)) {
            full = &p->split, last = &p->little;
            continue;
        }
        if (now == full && !held) {
#define HOLD(i) vst1q_s8(kept[i], v[i]);
            ALL(HOLD)
#undef HOLD
            held = kept;
        } else {
#define SINGLE(i) put(y[(i) % 4] + (i) / 4 * 16, v[i], NULL, NULL);
#define PAIR(i) put(y[(i) % 4] + (i) / 4 * 16, v[i], held[i], NULL);
#define SINGLE_ADDED(i) put(y[(i) % 4] + (i) / 4 * 16, v[i], NULL, base[(i) % 4] + (i) / 4 * 16);
#define PAIR_ADDED(i) put(y[(i) % 4] + (i) / 4 * 16, v[i], held[i], base[(i) % 4] + (i) / 4 * 16);
            if (!based && held) {
                ALL(PAIR)
            } else if (!based) {
                ALL(SINGLE)
            } else if (held) {
                ALL(PAIR_ADDED)
            } else {
                ALL(SINGLE_ADDED)
            }
#undef PAIR
#undef SINGLE_ADDED
#undef PAIR_ADDED
            for (unsigned r = 0; r < 4; r++) base[r] = y[r];
            based = true, held = NULL;
        }
        if (now == last) return;
        left -= now->groups, x += (size_t)now->groups * (trits ? 4 : 2), w += (size_t)now->groups * 64;
    }
}

/* The same of one part of bits without a bias, which most products are. False: a count is doubtful. */
INLINE bool small_tile_dots(int16_t *const y[4], const uint16_t *x, const uint8_t *w, const plan *p) {
    int8x16_t v[16];
    count(x, w, &p->last, v, false);
    if (p->doubtful >= -128 && has_doubtful(v, p->doubtful)) return false;
    ALL(SINGLE)
    return true;
}
#undef SINGLE
#undef ALL

/* Of 8 groups of 5 bits of a and b, 32*(a + 32*b), the address of a table. a and b are read from 8 bytes each; at: which of them a
 * group has. */
INLINE uint16x8_t offsets_of(const uint8_t *a, const uint8_t *b, uint8x16_t at, int16x8_t to_5, int16x8_t to_10) {
#define WINDOW(p, to) vshlq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(vcombine_u8(vld1_u8(p), vdup_n_u8(0)), at)), to)
    return vandq_u16(vbslq_u16(vdupq_n_u16(31 << 5), WINDOW(a, to_5), WINDOW(b, to_10)), vdupq_n_u16(1023 << 5));
#undef WINDOW
}

/* The offsets of the tables of 4 rows: of bits in `pairs`, [group][2], of trits in `singles`, [group][4]. some: of the rows' second
 * planes, from the first. */
INLINE void offsets(uint16_t *to, const uint8_t *const row[4], size_t some, uint32_t k, const bool trits) {
    static const uint8_t bytes_of[16] = {0, 1, 0, 1, 1, 2, 1, 2, 2, 3, 3, 4, 3, 4, 4, 5}; /* a group's two */
    static const int16_t shift[8] = {5, 0, 3, -2, 1, 4, -1, 2};                           /* from its place there to bit 5 */
    uint8x16_t in_5 = vld1q_u8(bytes_of);
    int16x8_t to_5 = vld1q_s16(shift), to_10 = vaddq_s16(to_5, vdupq_n_s16(5));
    __asm__("" : "+w"(in_5), "+w"(to_5), "+w"(to_10)); /* GCC would load them in every pass */
    const size_t bytes = (k + 7) / 8, most = bytes < 8 ? 0 : bytes - 8;
    const uint8_t *r[4] = {row[0], row[1], row[2], row[3]};
    uint8_t copy[4][2][8] = {0};
    if (bytes < 8) {
        for (unsigned i = 0; i < 4; i++) {
            memcpy(copy[i][0], row[i], bytes);
            if (trits) memcpy(copy[i][1], row[i] + some, bytes);
            r[i] = copy[i][0];
        }
        some = 8;
    }
    for (size_t at = 0; at < bytes; at += BVT_GROUP, to += trits ? 32 : 16) {
        /* Of a row's end the last 8 bytes are read; there are no bytes 8 to 15, for which a look-up gives 0. */
        const size_t from = at < most ? at : most;
        const uint8x16_t in = vaddq_u8(in_5, vdupq_n_u8((uint8_t)(at - from)));
        if (trits) {
#define OFFSETS(i) offsets_of(r[i] + from, r[i] + some + from, in, to_5, to_10)
            const uint16x8x4_t four = {{OFFSETS(0), OFFSETS(1), OFFSETS(2), OFFSETS(3)}};
#undef OFFSETS
            vst4q_u16(to, four);
        } else {
            const uint16x8x2_t two = {{offsets_of(r[0] + from, r[1] + from, in, to_5, to_10),
                                       offsets_of(r[2] + from, r[3] + from, in, to_5, to_10)}};
            vst2q_u16(to, two);
        }
    }
}

INLINE void tbl2(const bvt_call *call, uint32_t row0, uint32_t row1, const bool trits) {
    const bvt_view *in = &call->in[0], *weight = &call->in[1], *out = &call->out[0];
    const uint32_t k = weight->cols, outputs = out->cols;
    const size_t some = bvt_plane(k), own = bvt_tbl2_offsets(k, trits);
    uint16_t *x = call->scratch; /* of 4 rows each */
    int16_t bias[BVT_BGEMM_ROWS][64];
    const bool biased = trits || k % 2;
    plan p;
    make_plan(&p, k, trits);
    const bool small = !trits && !biased && p.groups == p.last.groups;
    pthread_once(&once, make_tables);
    for (uint32_t row = row0; row < row1; row += BVT_BGEMM_ROWS) {
        const uint32_t rows = bvt_min_u32(row1 - row, BVT_BGEMM_ROWS);
        int16_t *y[BVT_BGEMM_ROWS];
        for (uint32_t r = 0; r < rows; r += 4) {
            const uint8_t *four[4]; /* where rows are missing, the last one stands in for them */
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t at = row + bvt_min_u32(r + i, rows - 1);
                four[i] = bvt_row_bits(in, at);
                y[r + i] = (int16_t *)bvt_row(out, at);
            }
            offsets(x + r / 4 * own, four, some, k, trits);
            for (uint32_t i = 0; biased && i < 4; i++) {
                const int32_t present = trits ? count_some(four[i] + some, (k + 7) / 8) : (int32_t)k;
                for (uint32_t c = 0; c < 64; c++) bias[r + i][c] = (int16_t)((int32_t)(k & ~1u) - present);
            }
        }
        const uint8_t *w = weight->base;
        for (uint32_t col = 0; col < outputs; col += 64, w += weight->stride) {
            const uint16_t *offset = x;
            for (uint32_t r = 0; r < rows; r += 4, offset += own) {
                const bool whole = r + 4 <= rows && col + 64 <= outputs;
                int16_t copy[4][64], *to[4];
                for (uint32_t i = 0; i < 4; i++) to[i] = whole ? y[r + i] + col : copy[i];
                if (whole && small && small_tile_dots(to, offset, w, &p)) continue;
                tile_dots(to, offset, w, &p, biased ? bias[r] : NULL, trits);
                for (uint32_t i = 0; !whole && i < 4 && r + i < rows; i++)
                    memcpy(y[r + i] + col, copy[i], bvt_min_u32(outputs - col, 64) * sizeof *copy[i]);
            }
        }
    }
}

static void tbl2_bits(const bvt_call *call, uint32_t row0, uint32_t row1) { tbl2(call, row0, row1, false); }
static void tbl2_trits(const bvt_call *call, uint32_t row0, uint32_t row1) { tbl2(call, row0, row1, true); }

void bvt_bgemm_tbl2(const bvt_call *call, uint32_t row0, uint32_t row1) {
    if (call->in[0].dtype == BVT_DTYPE_TRITS) tbl2_trits(call, row0, row1);
    else tbl2_bits(call, row0, row1);
}
