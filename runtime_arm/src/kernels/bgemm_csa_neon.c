/* bgemm for NEON, layout CSA: a carry-save adder over pairs of steps, whose sums are given (KERNELS.md, "CSA").
 *
 * With p_s the XOR of steps 0 .. s of x xor w, a pair of steps adds to the count, in every bit position,
 *     p[2j-1] + x[2j] + x[2j+1] = p[2j+1] + 2*carry,    carry = p[2j] ? not p[2j+1] : p[2j-1]
 * and p is linear, so p of (x xor w) is p of x xor p of w: an EOR each of the prepared rows and the prepared weight. A pair costs
 * EOR, EOR, BSL, CNT, ADD. The weight's odd steps are complemented in every second pair, so no NOT is needed: pairs 0, 2, .. come
 * out as `carry`, pairs 1, 3, .. as its complement, which is subtracted from 8 a byte.
 */
#include "bgemm_neon.h"

/* Rows: [pair of steps][4 rows][2 steps][16 times the same byte]. Weight: [pair of steps][2 steps][2 vectors][16 channels]. */
#define PAIR_A 128
#define PAIR_W 64

#define ZEROS                                                                                    \
    "movi v0.16b, #0\n\tmovi v1.16b, #0\n\tmovi v2.16b, #0\n\tmovi v3.16b, #0\n\t"             \
    "movi v4.16b, #0\n\tmovi v5.16b, #0\n\tmovi v6.16b, #0\n\tmovi v7.16b, #0\n\t"             \
    "movi v8.16b, #0\n\tmovi v9.16b, #0\n\tmovi v10.16b, #0\n\tmovi v11.16b, #0\n\t"           \
    "movi v12.16b, #0\n\tmovi v13.16b, #0\n\tmovi v14.16b, #0\n\tmovi v15.16b, #0\n\t"

/* The tile of 4 rows x 2 vectors: carries in v0-v7, the last sum of a lane in v8-v15, one of which is always free: v16 is its
 * first place, and each pair moves every sum into the place of its neighbour: upwards in the first pair, back in the second. */
#define CELL(ADD, acc, old, new, even, odd, w_even, w_odd, u)         \
    "eor " u ".16b, " even ".16b, " w_even ".16b\n\t"                 \
    "eor " new ".16b, " odd ".16b, " w_odd ".16b\n\t"                 \
    "bsl " u ".16b, " new ".16b, " old ".16b\n\t"                     \
    "cnt " u ".16b, " u ".16b\n\t" ADD " " acc ".16b, " acc ".16b, " u ".16b\n\t"

#define WEIGHTS(at)                                 \
    "ldp q17, q18, [%[w], #" at "]\n\t"             \
    "ldp q19, q20, [%[w], #" at "+32]\n\t"

/* clang-format off */
#define FIRST(at_w, at)                                                                                                        \
    WEIGHTS(at_w)                                                                                                               \
    "ldp q21, q22, [%[x], #" at "]\n\t"    CELL("add", "v0", "v8", "v16", "v21", "v22", "v17", "v19", "v25")                    \
                                           CELL("add", "v1", "v9", "v8", "v21", "v22", "v18", "v20", "v26")                     \
    "ldp q23, q24, [%[x], #" at "+32]\n\t" CELL("add", "v2", "v10", "v9", "v23", "v24", "v17", "v19", "v27")                    \
                                           CELL("add", "v3", "v11", "v10", "v23", "v24", "v18", "v20", "v28")                   \
    "ldp q21, q22, [%[x], #" at "+64]\n\t" CELL("add", "v4", "v12", "v11", "v21", "v22", "v17", "v19", "v25")                   \
                                           CELL("add", "v5", "v13", "v12", "v21", "v22", "v18", "v20", "v26")                   \
    "ldp q23, q24, [%[x], #" at "+96]\n\t" CELL("add", "v6", "v14", "v13", "v23", "v24", "v17", "v19", "v27")                   \
                                           CELL("add", "v7", "v15", "v14", "v23", "v24", "v18", "v20", "v28")
#define SECOND(at_w, at)                                                                                                       \
    WEIGHTS(at_w)                                                                                                               \
    "ldp q23, q24, [%[x], #" at "+96]\n\t" CELL("sub", "v7", "v14", "v15", "v23", "v24", "v18", "v20", "v28")                   \
                                           CELL("sub", "v6", "v13", "v14", "v23", "v24", "v17", "v19", "v27")                   \
    "ldp q21, q22, [%[x], #" at "+64]\n\t" CELL("sub", "v5", "v12", "v13", "v21", "v22", "v18", "v20", "v26")                   \
                                           CELL("sub", "v4", "v11", "v12", "v21", "v22", "v17", "v19", "v25")                   \
    "ldp q23, q24, [%[x], #" at "+32]\n\t" CELL("sub", "v3", "v10", "v11", "v23", "v24", "v18", "v20", "v28")                   \
                                           CELL("sub", "v2", "v9", "v10", "v23", "v24", "v17", "v19", "v27")                    \
    "ldp q21, q22, [%[x], #" at "]\n\t"    CELL("sub", "v1", "v8", "v9", "v21", "v22", "v18", "v20", "v26")                     \
                                           CELL("sub", "v0", "v16", "v8", "v21", "v22", "v17", "v19", "v25")
/* clang-format on */

/* Counts of a tile over n pairs, 1 <= n <= 30: of each cell its carries (modulo 256, before the 8 a byte of every second pair) and
 * its last sum. */
INLINE void csa_tile(const uint8_t *x, const uint8_t *w, uint32_t n, uint8x16_t carry[8], uint8x16_t sum[8]) {
    uint32_t doubles = n / 2;
    register uint8x16_t a0 __asm__("v0"), a1 __asm__("v1"), a2 __asm__("v2"), a3 __asm__("v3"), a4 __asm__("v4"), a5 __asm__("v5"),
        a6 __asm__("v6"), a7 __asm__("v7"), s0 __asm__("v8"), s1 __asm__("v9"), s2 __asm__("v10"), s3 __asm__("v11"),
        s4 __asm__("v12"), s5 __asm__("v13"), s6 __asm__("v14"), s7 __asm__("v15");
    __asm__ volatile(
        ZEROS "cbz %w[doubles], 2f\n\t"
        ".p2align 4\n"
        "1:\n\t" FIRST("0", "0") SECOND("64", "128")
        "add %[x], %[x], #256\n\t"
        "add %[w], %[w], #128\n\t"
        "subs %w[doubles], %w[doubles], #1\n\t"
        "b.ne 1b\n"
        "2:\n\t"
        "tbz %w[n], #0, 3f\n\t" FIRST("0", "0")
        /* The sums are in their neighbours' places, and complemented. */
        "mvn v15.16b, v14.16b\n\tmvn v14.16b, v13.16b\n\tmvn v13.16b, v12.16b\n\tmvn v12.16b, v11.16b\n\t"
        "mvn v11.16b, v10.16b\n\tmvn v10.16b, v9.16b\n\tmvn v9.16b, v8.16b\n\tmvn v8.16b, v16.16b\n"
        "3:"
        : [x] "+&r"(x), [w] "+&r"(w), [doubles] "+&r"(doubles), "=w"(a0), "=w"(a1), "=w"(a2), "=w"(a3), "=w"(a4), "=w"(a5),
          "=w"(a6), "=w"(a7), "=w"(s0), "=w"(s1), "=w"(s2), "=w"(s3), "=w"(s4), "=w"(s5), "=w"(s6), "=w"(s7)
        : [n] "r"(n)
        : "memory", "cc", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28");
    carry[0] = a0, carry[1] = a1, carry[2] = a2, carry[3] = a3, carry[4] = a4, carry[5] = a5, carry[6] = a6, carry[7] = a7;
    sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3, sum[4] = s4, sum[5] = s5, sum[6] = s6, sum[7] = s7;
}

/* The same for cores that issue in order. x: [2 pairs of steps][4 rows][4 bytes], what tools/csa_a53.py broadcasts. */
INLINE void csa_tile_in_order(const uint8_t *x, const uint8_t *w, uint32_t n, uint8x16_t carry[8], uint8x16_t sum[8]) {
    uint32_t doubles = n / 2;
    register uint8x16_t a0 __asm__("v0"), a1 __asm__("v1"), a2 __asm__("v2"), a3 __asm__("v3"), a4 __asm__("v4"), a5 __asm__("v5"),
        a6 __asm__("v6"), a7 __asm__("v7"), s0 __asm__("v8"), s1 __asm__("v9"), s2 __asm__("v10"), s3 __asm__("v11"),
        s4 __asm__("v12"), s5 __asm__("v13"), s6 __asm__("v14"), s7 __asm__("v15");
    __asm__ volatile(ZEROS "cbz %w[doubles], 2f\n\t"
                           ".p2align 4\n"
                           "1:\n\t"
#include "bgemm_csa_a53.inc"
                           "b.ne 1b\n"
                           "2:"
                     : [x] "+&r"(x), [w] "+&r"(w), [doubles] "+&r"(doubles), "=w"(a0), "=w"(a1), "=w"(a2), "=w"(a3), "=w"(a4),
                       "=w"(a5), "=w"(a6), "=w"(a7), "=w"(s0), "=w"(s1), "=w"(s2), "=w"(s3), "=w"(s4), "=w"(s5), "=w"(s6), "=w"(s7)
                     :
                     : "memory", "cc", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "v16", "v17",
                       "v18", "v19", "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
    carry[0] = a0, carry[1] = a1, carry[2] = a2, carry[3] = a3, carry[4] = a4, carry[5] = a5, carry[6] = a6, carry[7] = a7;
    sum[0] = s0, sum[1] = s1, sum[2] = s2, sum[3] = s3, sum[4] = s4, sum[5] = s5, sum[6] = s6, sum[7] = s7;
    if (n % 2 == 0) return;
#define LAST(row, vector)                                                                                             \
    {                                                                                                                 \
        const int i = 2 * (row) + (vector);                                                                           \
        const uint8x16_t u = veorq_u8(vld1q_dup_u8(x + 4 * (row)), vld1q_u8(w + 16 * (vector)));                      \
        const uint8x16_t now = veorq_u8(vld1q_dup_u8(x + 4 * (row) + 1), vld1q_u8(w + 32 + 16 * (vector)));           \
        carry[i] = vaddq_u8(carry[i], vcntq_u8(vbslq_u8(u, now, sum[i])));                                            \
        sum[i] = vmvnq_u8(now);                                                                                       \
    }
    LAST(0, 0) LAST(0, 1) LAST(1, 0) LAST(1, 1) LAST(2, 0) LAST(2, 1) LAST(3, 0) LAST(3, 1)
#undef LAST
}

/* Steps from .. from+steps-1 of a row: their running XOR; `to` has 4 rows. Writes whole words of 8 steps. */
INLINE void prepare(uint8_t *to, unsigned r, const uint8_t *row, size_t bytes, uint32_t from, uint32_t steps, const bool in_order) {
    uint64_t last = 0; /* the byte before, in all bytes */
    for (uint32_t s = 0; s < steps; s += 8) {
        const size_t at = from + s;
        uint64_t word = 0;
        if (at + 8 <= bytes) memcpy(&word, row + at, 8);
        else if (at < bytes) memcpy(&word, row + at, bytes - at);
        word ^= word << 8;
        word ^= word << 16;
        word ^= word << 32;
        word ^= last;
        last = (word >> 56) * 0x0101010101010101u;
        if (in_order) {
            memcpy(to + 4 * (r + s), &word, 4);
            memcpy(to + 4 * (r + s) + 16, (const uint8_t *)&word + 4, 4);
            continue;
        }
        const uint8x8_t v = vcreate_u8(word);
        uint8_t *expanded = to + r * 32 + s / 2 * PAIR_A;
#define PUT(pair)                                                                 \
    vst1q_u8(expanded + (pair)*PAIR_A, vdupq_lane_u8(v, 2 * (pair)));             \
    vst1q_u8(expanded + (pair)*PAIR_A + 16, vdupq_lane_u8(v, 2 * (pair) + 1));
        PUT(0) PUT(1) PUT(2) PUT(3)
#undef PUT
    }
}

/* y = (first ? k : y) - 2 * (2*carries + ones of the last sum), of 16 channels. */
INLINE void flush(int16_t *y, uint8x16_t carry, uint8x16_t sum, uint8x16_t bias, bool first, int32_t k) {
    const uint8x16_t c = vaddq_u8(carry, bias), ones = vcntq_u8(sum), twice = vaddq_u8(ones, ones);
    subtract(y, vaddw_u8(vshll_n_u8(vget_low_u8(c), 2), vget_low_u8(twice)), vaddw_high_u8(vshll_high_n_u8(c, 2), twice), first, k);
}

INLINE void flush_tile(int16_t *const y[4], const uint8x16_t carry[8], const uint8x16_t sum[8], uint8x16_t bias, bool first,
                       int32_t k) {
    flush(y[0], carry[0], sum[0], bias, first, k), flush(y[0] + 16, carry[1], sum[1], bias, first, k);
    flush(y[1], carry[2], sum[2], bias, first, k), flush(y[1] + 16, carry[3], sum[3], bias, first, k);
    flush(y[2], carry[4], sum[4], bias, first, k), flush(y[2] + 16, carry[5], sum[5], bias, first, k);
    flush(y[3], carry[6], sum[6], bias, first, k), flush(y[3] + 16, carry[7], sum[7], bias, first, k);
}

INLINE void csa(const bvt_call *call, uint32_t row0, uint32_t row1, const bool in_order) {
    const bvt_view *weight = &call->in[1];
    const uint32_t k = weight->cols, steps = bvt_csa_steps(k), outputs = call->out[0].cols;
    uint8_t *x = call->scratch;
    for (uint32_t row = row0; row < row1; row += BVT_BGEMM_ROWS) {
        const uint32_t rows = bvt_min_u32(row1 - row, BVT_BGEMM_ROWS);
        for (uint32_t from = 0; from < steps; from += BVT_CSA_STEPS) {
            const uint32_t n = bvt_min_u32(steps - from, BVT_CSA_STEPS), tile = (n + 7) / 8 * (in_order ? 32 : 4 * PAIR_A);
            /* Where rows are missing, the last one stands in for them. */
            for (uint32_t r = 0; r < ((rows + 3) & ~3u); r++)
                prepare(x + r / 4 * tile, r % 4, bvt_row_bits(&call->in[0], row + bvt_min_u32(r, rows - 1)), (k + 7) / 8, from, n,
                        in_order);
            const uint8x16_t bias = vdupq_n_u8((uint8_t)(8 * (n / 4)));
            for (uint32_t col = 0; col < outputs; col += 32) {
                const uint8_t *w = weight->base + col / 32 * weight->stride + (size_t)from * 32;
                for (uint32_t r = 0; r < rows; r += 4) {
                    uint8x16_t carry[8], sum[8];
                    target t;
                    target_begin(&t, call, row + r, bvt_min_u32(rows - r, 4), col, 32, from == 0);
                    if (in_order) csa_tile_in_order(x + r / 4 * tile, w, n / 2, carry, sum);
                    else csa_tile(x + r / 4 * tile, w, n / 2, carry, sum);
                    if (from == 0) flush_tile(t.y, carry, sum, bias, true, (int32_t)k);
                    else flush_tile(t.y, carry, sum, bias, false, 0);
                    target_end(&t, call, row + r, col);
                }
            }
        }
    }
}

void bvt_bgemm_csa(const bvt_call *call, uint32_t row0, uint32_t row1) { csa(call, row0, row1, false); }
void bvt_bgemm_csa_in_order(const bvt_call *call, uint32_t row0, uint32_t row1) { csa(call, row0, row1, true); }
