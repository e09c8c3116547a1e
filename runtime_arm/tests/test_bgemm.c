/* bgemm: every kernel with every layout of weights against sums of products, over all tails of rows, columns and channels.
 *
 *     test_bgemm [LAYOUT...]     all layouts without one
 *
 * The weights are packed here once more, from the definition of the layouts in spec.py. Operands have exactly the bytes that they
 * need; the output is surrounded by a pattern.
 */
#include "harness.h"
#include "ops/bgemm.h"

static const struct {
    int layout;
    const char *name;
} layouts[] = {{BVT_LAYOUT_LANES16, "lanes16"}, {BVT_LAYOUT_CSA, "csa"}, {BVT_LAYOUT_TBL2, "tbl2"}, {BVT_LAYOUT_LUT, "lut"}};

enum { RANDOM, ZEROS, ONES, ALTERNATING, OPPOSITE, FEW_EQUAL, FEW_DIFFER, N_PATTERNS };

typedef struct {
    uint32_t rows, k, outputs, groups, block;
    bool trits;
    int layout, pattern;
} shape;

static bool is_one(int pattern, bool weight, uint32_t line, uint32_t col) {
    switch (pattern) {
    case ZEROS: return false;
    case ONES: return true;
    case ALTERNATING: return (col + line) & 1;
    case OPPOSITE: return weight; /* every product is -1: the largest counts */
    case FEW_EQUAL: return weight != (below(128) == 0);
    case FEW_DIFFER: return below(128) == 0;
    default: return rng() >> 40 & 1;
    }
}

/* Words of a channel in LUT, and the bit of them where a column is (the number of columns: where they end). */
static uint32_t lut_place(uint32_t cols, uint32_t col) {
    const uint32_t groups = (cols + 4) / 5, parts = (groups + 51) / 52;
    uint32_t part = 1, words = 0, from = 0, left = groups;
    while (part * 4 * parts < groups) part++;
    for (part *= 4; left; left -= part < left ? part : left, from += part) {
        const uint32_t n = part < left ? part : left, odd = n % 12, group = col / 5 - from;
        if (col < cols && group < n) {
            if (group < n - odd) return (words + group / 12 + (odd > 0)) * 64 + group % 12 * 5 + col % 5;
            return words * 64 + (group - (n - odd) < odd % 3 ? 5 * (group - (n - odd)) : 60 - 5 * (n - group)) + col % 5;
        }
        words += (n + 11) / 12;
    }
    return words * 64;
}

/* +-1 codes [outputs][k] in a layout; the padding channels and columns are zero bits. */
static uint8_t *pack(const int8_t *codes, const shape *s, size_t *stride) {
    const uint32_t width = s->layout == BVT_LAYOUT_LANES16 ? 16 : s->layout == BVT_LAYOUT_TBL2 ? 64 : s->layout == BVT_LAYOUT_LUT ? 8 : 32;
    const uint32_t steps = (s->k + 7) / 8;
    switch (s->layout) {
    case BVT_LAYOUT_CSA: *stride = (s->k + 15) / 16 * 2 * 32; break;
    case BVT_LAYOUT_TBL2: *stride = (s->k + 4) / 5 * 64; break;
    case BVT_LAYOUT_LUT: *stride = lut_place(s->k, s->k); break;
    default: *stride = steps * 16; break;
    }
    const uint32_t tiles = (s->outputs + width - 1) / width;
    uint8_t *packed = calloc(tiles, *stride);
    for (uint32_t o = 0; o < tiles * width; o++) {
        uint8_t *tile = packed + o / width * *stride;
        const uint32_t lane = o % width;
        uint8_t running = 0;
        if (s->layout == BVT_LAYOUT_CSA)
            for (uint32_t step = 0; step < (s->k + 15) / 16 * 2; step++) {
                uint8_t byte = 0;
                for (uint32_t b = 0; b < 8; b++)
                    if (o < s->outputs && step * 8 + b < s->k && codes[o * s->k + step * 8 + b] > 0) byte |= (uint8_t)(1u << b);
                running = step % 60 ? running ^ byte : byte;
                tile[step * 32 + lane] = step % 4 == 1 ? (uint8_t)~running : running;
            }
        for (uint32_t k = 0; o < s->outputs && k < s->k; k++) {
            if (codes[o * s->k + k] < 0) continue;
            if (s->layout == BVT_LAYOUT_LANES16) tile[k / 8 * 16 + lane] |= (uint8_t)(1u << k % 8);
            if (s->layout == BVT_LAYOUT_TBL2) tile[k / 5 * 64 + lane] |= (uint8_t)(1u << k % 5);
            const uint32_t at = lut_place(s->k, k);
            if (s->layout == BVT_LAYOUT_LUT) tile[at / 64 * 64 + lane * 8 + at % 64 / 8] |= (uint8_t)(1u << at % 8);
        }
    }
    return packed;
}

static void run(const bvt_kernel_entry *e, const shape *s) {
    const uint32_t cols = s->k * s->groups, pad_out = below(2) * 3, few_zeros = s->pattern != RANDOM && below(2);
    int8_t *x = malloc((size_t)s->rows * cols), *w = malloc((size_t)s->outputs * s->k);
    bvt_rec_op op = {.opcode = BVT_OP_BGEMM, .attr = {(int32_t)s->groups}};
    bvt_call call = {.op = &op};
    call.in[0] = (bvt_view){.rows = s->rows, .cols = cols, .layout = BVT_LAYOUT_ROWS};
    call.in[0].dtype = s->trits ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS;
    call.in[0].stride = s->trits ? 2 * bvt_plane(cols) : (cols + 7) / 8 + below(3);
    call.in[0].base = calloc(s->rows, call.in[0].stride);
    for (uint32_t r = 0; r < s->rows; r++)
        for (uint32_t k = 0; k < cols; k++) {
            uint8_t *row = call.in[0].base + r * call.in[0].stride;
            int8_t code = is_one(s->pattern, false, r, k) ? 1 : -1;
            if (s->trits && below(few_zeros ? 500 : 3) == 0) code = 0;
            x[r * cols + k] = code;
            if (code > 0) row[k / 8] |= (uint8_t)(1u << k % 8);
            if (s->trits && code) row[bvt_plane(cols) + k / 8] |= (uint8_t)(1u << k % 8);
        }
    for (uint32_t o = 0; o < s->outputs; o++)
        for (uint32_t k = 0; k < s->k; k++) w[o * s->k + k] = is_one(s->pattern, true, o, k) ? 1 : -1;
    call.in[1] = (bvt_view){.rows = s->outputs, .cols = s->k, .dtype = BVT_DTYPE_BITS, .layout = (uint8_t)s->layout};
    call.in[1].base = pack(w, s, &call.in[1].stride);
    for (uint32_t o = 0; o < s->outputs; o++)
        for (uint32_t k = 0; k < s->k; k++)
            if (bvt_weight_bit(&call.in[1], o, k) != (w[o * s->k + k] > 0)) {
                CHECK(false, "layout %d K %u O %u: bit %u of channel %u", s->layout, s->k, s->outputs, k, o);
                o = s->outputs - 1, k = s->k;
            }
    call.out[0] = (bvt_view){.rows = s->rows, .cols = s->outputs, .dtype = BVT_DTYPE_I16, .layout = BVT_LAYOUT_ROWS};
    call.out[0].stride = (s->outputs + pad_out) * 2;
    const size_t words = (size_t)s->rows * (s->outputs + pad_out);
    int16_t *y = malloc(words * 2);
    for (size_t i = 0; i < words; i++) y[i] = 0x5A5A;
    call.out[0].base = (uint8_t *)y;
    op.scratch = (uint32_t)bvt_bgemm_scratch(s->layout, s->k, s->trits);
    if (op.scratch && posix_memalign(&call.scratch, 64, op.scratch)) abort();
    if (op.scratch) memset(call.scratch, 0xC3, op.scratch);
    for (uint32_t row = 0; row < s->rows; row += s->block) e->fn(&call, row, bvt_min_u32(row + s->block, s->rows));
    uint32_t wrong = 0;
    for (uint32_t r = 0; r < s->rows; r++) {
        for (uint32_t o = 0; o < s->outputs; o++) {
            const int8_t *a = x + r * cols + o / (s->outputs / s->groups) * s->k, *b = w + o * s->k;
            int32_t sum = 0;
            for (uint32_t k = 0; k < s->k; k++) sum += a[k] * b[k];
            wrong += y[r * (s->outputs + pad_out) + o] != sum;
        }
        for (uint32_t o = s->outputs; o < s->outputs + pad_out; o++) wrong += y[r * (s->outputs + pad_out) + o] != 0x5A5A;
    }
    CHECK(!wrong, "%s layout %d rows %u K %u O %u groups %u block %u trits %d pattern %d: %u are wrong", e->name, s->layout,
          s->rows, s->k, s->outputs, s->groups, s->block, s->trits, s->pattern, wrong);
    free(x), free(w), free(call.in[0].base), free(call.in[1].base), free(y), free(call.scratch);
}

static void all_shapes(const bvt_kernel_entry *e, int layout) {
    static const uint32_t outputs[] = {1, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 96, 127, 128, 130};
    static const uint32_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, blocks[] = {8, 16, 64, 256};
    uint32_t n = 0;
#define RUN(...)                                          \
    do {                                                  \
        shape s = {.layout = layout, __VA_ARGS__};        \
        if (!s.groups) s.groups = 1;                      \
        if (!s.block) s.block = blocks[n % 4];            \
        run(e, &s);                                       \
        n++;                                              \
    } while (0)
    for (uint32_t k = 1; k <= 520; k += k == 100 ? 148 : k == 256 ? 240 : 1)
        RUN(.rows = rows[n % 9], .k = k, .outputs = outputs[n % 16]);
    for (uint32_t o = 0; o < 16; o++)
        for (uint32_t r = 0; r < 9; r++) RUN(.rows = rows[r], .k = 24 + 8 * o, .outputs = outputs[o]);
    for (int pattern = ZEROS; pattern < N_PATTERNS; pattern++) {
        static const uint32_t ks[] = {1, 7, 8, 64, 120, 192, 240, 241, 248, 255, 256, 480, 481, 496, 504, 511, 768, 1000};
        for (unsigned i = 0; i < sizeof ks / sizeof *ks; i++) RUN(.rows = 5, .k = ks[i], .outputs = 67, .pattern = pattern);
    }
    RUN(.rows = 9, .k = 768, .outputs = 130);
    RUN(.rows = 5, .k = 3072, .outputs = 65);
    RUN(.rows = 5, .k = 3072, .outputs = 65, .pattern = OPPOSITE);
    RUN(.rows = 49, .k = 192, .outputs = 64, .block = 256);
    RUN(.rows = 197, .k = 64, .outputs = 96, .block = 256);
    RUN(.rows = 197, .k = 192, .outputs = 33, .block = 64);
    if (layout == BVT_LAYOUT_LUT) {
        /* Parts, and last words of all lengths, of rows in whole tiles and others. */
        static const uint32_t tiles[] = {1, 5, 15, 16, 17, 31, 32, 33, 48, 49, 70};
        for (uint32_t trits = 0; trits < 2; trits++) {
            for (uint32_t k = 1; k <= 1100; k += k < 70 ? 1 : range(1, 13))
                RUN(.rows = tiles[n % 11], .k = k, .outputs = outputs[n % 16], .trits = trits, .pattern = (int)below(N_PATTERNS),
                    .block = 64);
            static const uint32_t most[] = {60, 64, 192, 240, 255, 256, 257, 258, 260, 261, 384, 512, 513, 520, 768, 1024, 1040, 2048};
            for (unsigned i = 0; i < sizeof most / sizeof *most; i++)
                for (int pattern = RANDOM; pattern < N_PATTERNS; pattern++)
                    RUN(.rows = 48, .k = most[i], .outputs = 19, .trits = trits, .pattern = pattern, .block = 256);
        }
        RUN(.rows = 5, .k = BVT_MOST_COLUMNS, .outputs = 3, .pattern = OPPOSITE);
        RUN(.rows = 33, .k = BVT_MOST_COLUMNS, .outputs = 3, .pattern = ONES, .block = 64);
        RUN(.rows = 5, .k = BVT_MOST_COLUMNS - 1, .outputs = 3, .trits = true);
    }
    if (layout == BVT_LAYOUT_TBL2) {
        /* Parts of 51 groups, and a last one that may hold more columns than a byte counts, of rows that do count them all. */
        for (uint32_t trits = 0; trits < 2; trits++) {
            for (uint32_t k = 1; k <= 1100; k += k < 300 ? 1 : range(1, 13))
                RUN(.rows = rows[n % 9], .k = k, .outputs = outputs[n % 16], .trits = trits, .pattern = (int)below(N_PATTERNS));
            static const uint32_t most[] = {255, 256, 257, 263, 270, 510, 511, 512, 513, 525, 768, 1024, 1035, 2048, 4096, 8192};
            for (unsigned i = 0; i < sizeof most / sizeof *most; i++)
                for (int pattern = RANDOM; pattern < N_PATTERNS; pattern++)
                    RUN(.rows = 6, .k = most[i], .outputs = 65, .trits = trits, .pattern = pattern);
            for (unsigned few = 0; few < 9; few++)
                for (uint32_t k = 250; k < 1030; k += k % 256 == 2 ? 252 : 1)
                    RUN(.rows = 4, .k = k, .outputs = 64, .trits = trits, .pattern = few % 2 ? FEW_EQUAL : FEW_DIFFER);
        }
        RUN(.rows = 5, .k = BVT_MOST_COLUMNS, .outputs = 3, .pattern = OPPOSITE);
        RUN(.rows = 5, .k = BVT_MOST_COLUMNS, .outputs = 3, .pattern = ONES);
        RUN(.rows = 5, .k = BVT_MOST_COLUMNS - 1, .outputs = 3, .trits = true);
    }
    if (layout != BVT_LAYOUT_LANES16) return;
    for (uint32_t i = 0; i < 60; i++) {
        const uint32_t groups = range(1, 4), tiles = below(2);
        RUN(.rows = range(1, 9), .k = tiles ? 8 * range(1, 20) : range(1, 150), .groups = groups, .trits = below(2),
            .outputs = groups * (tiles ? 16 * range(1, 5) : range(1, 20)));
    }
}

int main(int argc, char **argv) {
    for (unsigned i = 0; i < bvt_n_kernels; i++) {
        if (bvt_kernels[i].opcode != BVT_OP_BGEMM || !bvt_kernel_usable(i)) continue;
        for (unsigned l = 0; l < sizeof layouts / sizeof *layouts; l++) {
            bool wanted = argc < 2;
            for (int a = 1; a < argc; a++) wanted = wanted || !strcmp(argv[a], layouts[l].name);
            if (wanted) all_shapes(&bvt_kernels[i], layouts[l].layout);
        }
    }
    return finish("test_bgemm");
}
