/* The check of every op against malformed records: attributes out of range, operands of another type, layout or shape, tables that
 * point outside, sizes whose products leave 32 bits. What a check lets through is run, on operands that have exactly the bytes of
 * their values: then the sanitizers must stay silent.
 *
 * `kinds` has a good record for every op. The values here are always such as the loader passes; test_load.c is about those.
 */
#include <float.h>
#include <limits.h>
#include <math.h>

#include "../src/ops/attention.h"
#include "../src/ops/bgemm.h"
#include "../src/ops/dense_i8.h"
#include "../src/ops/epilogue.h"
#include "sample.h"

enum {
    F32 = BVT_DTYPE_F32,
    I32 = BVT_DTYPE_I32,
    I16 = BVT_DTYPE_I16,
    BITS = BVT_DTYPE_BITS,
    U64 = BVT_DTYPE_U64,
    F64 = BVT_DTYPE_F64,
    TRITS = BVT_DTYPE_TRITS,
    I8 = BVT_DTYPE_I8,
    F16 = BVT_DTYPE_F16,
    ROWS = BVT_LAYOUT_ROWS,
    COLS = BVT_LAYOUT_COLS,
    LANES16 = BVT_LAYOUT_LANES16,
    CSA = BVT_LAYOUT_CSA,
    TBL2 = BVT_LAYOUT_TBL2,
    LUT = BVT_LAYOUT_LUT,
    QUADS = BVT_LAYOUT_QUADS
};

/* ---- Records ------------------------------------------------------------------------------------------------------------- */

static sample *s; /* one group of one op, at most */

static bool legal(int dtype, int layout) {
    if (dtype == I8 || layout == QUADS) return dtype == I8 && layout == QUADS;
    return layout == ROWS || dtype == BITS || (dtype == TRITS && layout == COLS);
}

/* A value with the smallest stride. Constants: small floats, random bits, and zeros for the other types. */
static uint32_t value(int dtype, int storage, int layout, uint32_t rows, uint32_t cols) {
    bvt_rec_value *v = &s->values[s->n_values];
    uint32_t count = layout == COLS ? cols : rows;
    const uint32_t channels = bvt_tile_channels(layout);
    if (channels) count = (rows + channels - 1) / channels;
    *v = (bvt_rec_value){
        .name = 1, .dtype = (uint8_t)dtype, .storage = (uint8_t)storage, .layout = (uint8_t)layout, .rows = rows, .cols = cols};
    v->stride = dtype == BITS ? (cols + 7) / 8 : cols * (dtype == U64 || dtype == F64 ? 8 : dtype == I16 || dtype == F16 ? 2 : 4);
    if (layout == COLS) v->stride = (rows + 63) / 64 * 8;
    if (channels) v->stride = (uint32_t)bvt_tile_bytes(layout, cols);
    if (layout == QUADS) v->stride = (cols + 7) / 8 * 128, count = (rows + 15) / 16;
    if (dtype == TRITS) v->stride = (uint32_t)(2 * bvt_plane(layout == COLS ? rows : cols));
    v->bytes = (uint64_t)v->stride * count;
    uint64_t *memory = storage == BVT_STORAGE_CONST ? &s->constant_bytes : &s->arena;
    if (storage != BVT_STORAGE_OUTPUT && storage != BVT_STORAGE_INPUT) v->offset = *memory, *memory += bvt_align64(v->bytes);
    if (s->n_values + 1 >= SAMPLE_MAX || s->constant_bytes > SAMPLE_CONST) abort();
    uint8_t *data = s->constants + v->offset;
    for (uint64_t i = 0; storage == BVT_STORAGE_CONST && i < v->bytes; i++) {
        if (dtype == F32 && i % 4 == 0) ((float *)(void *)data)[i / 4] = (float)below(2001) / 1000.0f - 1.0f;
        if (dtype == BITS || dtype == TRITS || dtype == I8 || dtype == F16) data[i] = (uint8_t)rng();
    }
    for (uint64_t i = 0; storage == BVT_STORAGE_CONST && dtype == TRITS && i < v->bytes; i++) /* what is 0 is not +1 */
        if (i % v->stride < v->stride / 2) data[i] &= data[i + v->stride / 2];
    return s->n_values++;
}

#define OP (&s->ops[0])
#define IN(i) (&s->values[OP->inputs[i]])
#define OUT(i) (&s->values[OP->outputs[i]])
#define DATA(i, type) ((type *)(void *)(s->constants + IN(i)->offset))
#define ATTR(...) memcpy(OP->attr, (int32_t[]){__VA_ARGS__}, sizeof((int32_t[]){__VA_ARGS__}))

static void start(int opcode, uint32_t rows) {
    memset(s, 0, sizeof *s);
    sample_group(s, rows);
    sample_op(s, opcode, NULL, 0, BVT_NONE);
}

static void in(unsigned slot, int dtype, int layout, uint32_t rows, uint32_t cols) {
    OP->inputs[slot] = value(dtype, BVT_STORAGE_CONST, layout, rows, cols);
}

static void out(unsigned slot, int dtype, int layout, uint32_t rows, uint32_t cols) {
    OP->outputs[slot] = value(dtype, BVT_STORAGE_ARENA, layout, rows, cols);
}

static void make_patches(void) {
    start(BVT_OP_PATCHES, 20);
    ATTR(2, 6, 5, 2, 1);
    in(0, F32, ROWS, 12, 5), out(0, F32, ROWS, 20, 8);
}

static void make_dense(void) {
    start(BVT_OP_DENSE, 9);
    in(0, F32, ROWS, 9, 5), in(1, F32, ROWS, 5, 17), in(2, F32, ROWS, 1, 17), out(0, F32, ROWS, 9, 17);
}

static void make_dense_i8(void) {
    start(BVT_OP_DENSE_I8, 9);
    in(0, F32, ROWS, 9, 5), in(1, I8, QUADS, 17, 5), in(2, F32, ROWS, 1, 17), in(3, F32, ROWS, 1, 17), out(0, F32, ROWS, 9, 17);
}

static void make_bgemm(void) { /* two groups */
    start(BVT_OP_BGEMM, 9);
    ATTR(2);
    in(0, TRITS, ROWS, 9, 2 * 20), in(1, BITS, LANES16, 34, 20), out(0, I16, ROWS, 9, 34);
}

static void make_epilogue(void) { /* one residual by a table, one of a smaller grid; bits and trits */
    start(BVT_OP_EPILOGUE, 16);
    ATTR(4, 0, 2, 1, 1, 1, 1);
    in(0, I32, ROWS, 16, 6), in(1, F32, ROWS, 5, 3), in(2, F32, ROWS, 4, 6), in(BVT_EP_ROWS, I32, ROWS, 1, 16);
    in(BVT_EP_SCALE, F32, ROWS, 1, 6), in(BVT_EP_SLOPE, F32, ROWS, 1, 6), in(BVT_EP_KNEE, F32, ROWS, 1, 6);
    in(BVT_EP_THRESHOLD0, F32, ROWS, 1, 6), in(BVT_EP_THRESHOLD0 + 1, F32, ROWS, 2, 6);
    out(0, F32, ROWS, 16, 6), out(1, BITS, ROWS, 16, 6), out(2, TRITS, COLS, 16, 6);
    for (int i = 0; i < 16; i++) DATA(BVT_EP_ROWS, int32_t)[i] = i % 5;
}

static void make_row_patches(void) { /* padding makes trits of bits; dilation 2, 3 groups */
    start(BVT_OP_ROW_PATCHES, 20);
    ATTR(5, 4, 2, 1, 1, 2, 3);
    in(0, BITS, ROWS, 20, 6), out(0, TRITS, ROWS, 20, 24);
}

static void make_pool(int opcode) {
    start(opcode, 9);
    ATTR(6, 5, 3, 2, 1);
    in(0, F32, ROWS, 30, 7), out(0, F32, ROWS, 9, 7);
}
static void make_avg_pool(void) { make_pool(BVT_OP_AVG_POOL); }
static void make_max_pool(void) { make_pool(BVT_OP_MAX_POOL); }

static void make_stencil(void) {
    start(BVT_OP_STENCIL, 20);
    ATTR(4, 5, 3, 1, 0, 255, 1 << 8);
    in(0, F32, ROWS, 20, 6), in(1, F32, ROWS, 3, 6), in(2, F32, ROWS, 1, 6), out(0, F32, ROWS, 20, 6);
}

static void make_attention(void) { /* everything but real steps */
    start(BVT_OP_ATTENTION, 12);
    ATTR(2, 2, 2, 1, 2);
    in(0, TRITS, ROWS, 12, 10), in(1, BITS, ROWS, 8, 10), in(2, BITS, ROWS, 8, 10);
    in(3, U64, ROWS, 2, 33), in(4, F64, ROWS, 2, 2), in(5, I32, ROWS, 5, 2);
    in(7, F64, ROWS, 3, 2), in(8, I32, ROWS, 12, 4), in(9, I32, ROWS, 1, 2);
    out(0, I16, ROWS, 12, 10);
    for (int i = 0; i < 66; i++) DATA(3, uint64_t)[i] = 5000u / (1u + (unsigned)(i % 33));
    for (int i = 0; i < 6; i++) DATA(7, double)[i] = i;
    for (int i = 0; i < 4; i++) DATA(4, double)[i] = 0.2;
    memcpy(DATA(5, int32_t), (int32_t[]){1, -2, 3, 0, -1, 2, 1, 1, 4, 3}, 40);
    for (int i = 0; i < 48; i++) DATA(8, int32_t)[i] = i % 3;
    DATA(9, int32_t)[1] = 1;
}

static void make_mean_rows(void) {
    start(BVT_OP_MEAN_ROWS, 3);
    ATTR(3);
    in(0, F32, ROWS, 12, 5), out(0, F32, ROWS, 3, 5);
}

static void make_channel_pool(void) {
    start(BVT_OP_CHANNEL_POOL, 6);
    ATTR(3);
    in(0, F32, ROWS, 6, 12), out(0, F32, ROWS, 6, 4);
}

static void make_norm(int opcode) {
    start(opcode, 6);
    ATTR(3);
    OP->fattr[0] = 1e-5f;
    in(0, F32, ROWS, 6, 12), in(1, F32, ROWS, 1, 12), in(2, F32, ROWS, 1, 12);
}
static void make_layer_norm_rows(void) { make_norm(BVT_OP_LAYER_NORM_ROWS), out(0, F32, ROWS, 6, 12); }
static void make_norm_sign(void) { make_norm(BVT_OP_NORM_SIGN), out(0, BITS, COLS, 6, 12); }

static void make_gather(void) {
    start(BVT_OP_GATHER, 6);
    in(0, I32, ROWS, 6, 3), in(1, TRITS, ROWS, 4, 10), in(2, TRITS, ROWS, 3, 10), out(0, TRITS, ROWS, 6, 30);
    for (int i = 0; i < 18; i++) DATA(0, int32_t)[i] = i % 8 - 1;
}

static void make_gather_bits(void) {
    start(BVT_OP_GATHER, 6);
    in(0, I32, ROWS, 6, 3), in(1, BITS, ROWS, 4, 10), out(0, BITS, ROWS, 6, 30);
}

static void make_mixed_gemm(void) {
    start(BVT_OP_MIXED_GEMM, 6);
    in(0, F32, ROWS, 6, 20), in(1, BITS, LANES16, 33, 20), out(0, F32, ROWS, 6, 33);
}

static void make_activation(void) { /* clamp */
    start(BVT_OP_ACTIVATION, 6);
    ATTR(1);
    OP->fattr[0] = -1, OP->fattr[1] = 2;
    in(0, F32, ROWS, 6, 7), out(0, F32, ROWS, 6, 7);
}

static void make_multiply(void) {
    start(BVT_OP_MULTIPLY, 6);
    in(0, F32, ROWS, 6, 7), in(1, F32, ROWS, 6, 1), out(0, F32, ROWS, 6, 7);
}

/* A good record of every op; how many attributes it has; which inputs it must have; and how many of the `reshaped` operands fit. */
static const struct {
    void (*make)(void);
    unsigned attrs, fattrs;
    uint32_t required;
    unsigned long fitting;
} kinds[] = {
    [BVT_OP_PATCHES] = {make_patches, 5, 0, 1, 0},
    [BVT_OP_DENSE] = {make_dense, 0, 0, 3, 0},
    [BVT_OP_BGEMM] = {make_bgemm, 1, 0, 3, 1},       /* x of bits */
    [BVT_OP_EPILOGUE] = {make_epilogue, 9, 0, 1, 6}, /* x of f32; residuals of other shapes; layouts */
    [BVT_OP_ROW_PATCHES] = {make_row_patches, 7, 0, 1, 1}, /* trits */
    [BVT_OP_AVG_POOL] = {make_avg_pool, 5, 0, 1, 0},
    [BVT_OP_STENCIL] = {make_stencil, 20, 0, 3, 0},
    [BVT_OP_ATTENTION] = {make_attention, 5, 0, 31, 9}, /* q, k, v of the other codes; other tables, biases, patterns */
    [BVT_OP_MEAN_ROWS] = {make_mean_rows, 1, 0, 1, 1},     /* larger groups */
    [BVT_OP_CHANNEL_POOL] = {make_channel_pool, 1, 0, 1, 0},
    [BVT_OP_LAYER_NORM_ROWS] = {make_layer_norm_rows, 1, 1, 7, 0},
    [BVT_OP_NORM_SIGN] = {make_norm_sign, 1, 1, 7, 1}, /* ROWS */
    [BVT_OP_GATHER] = {make_gather, 0, 0, 3, 4}, /* more rows */
    [BVT_OP_MIXED_GEMM] = {make_mixed_gemm, 0, 0, 3, 0},
    [BVT_OP_MAX_POOL] = {make_max_pool, 5, 0, 1, 0},
    [BVT_OP_ACTIVATION] = {make_activation, 1, 2, 1, 0},
    [BVT_OP_MULTIPLY] = {make_multiply, 0, 0, 3, 0},
    [BVT_OP_DENSE_I8] = {make_dense_i8, 0, 0, 7, 0},
};
_Static_assert(sizeof kinds / sizeof *kinds == BVT_OPCODE_END, "a new op: add its good record");

/* ---- Checking and running ------------------------------------------------------------------------------------------------ */

static bvt_error err;
static uint64_t scratch;

/* What the loader asks of the op beyond its own check, as far as it matters when it runs. */
static int check(void) {
    static const uint8_t names[] = "\0name";
    bvt_model model = {.values = s->values};
    model.section[BVT_SECTION_NAMES] = names, model.section[BVT_SECTION_CONSTANTS] = s->constants;
    bvt_check c = {.model = &model, .op = OP, .rows = s->groups[0].rows, .err = &err};
    memset(&err, 0, sizeof err);
    BVT_TRY(bvt_check_op(&c));
    for (unsigned i = 0; i < BVT_N_OUT; i++)
        BVT_TRY(bvt_expect(&c, OP->outputs[i] == BVT_NONE || OUT(i)->rows == c.rows, "an output has not the rows of its group"));
    scratch = c.scratch;
    return BVT_OK;
}

/* The operand alone in its own block of memory. */
static bvt_view view(uint32_t index, bool constant) {
    const bvt_rec_value *v = &s->values[index];
    bvt_view to = {.base = malloc(v->bytes), .stride = v->stride, .rows = v->rows, .cols = v->cols, .dtype = v->dtype};
    to.by_cols = v->layout == COLS, to.layout = v->layout;
    if (constant) memcpy(to.base, s->constants + v->offset, v->bytes);
    return to;
}

static void run_all(void) {
    const uint32_t rows = s->groups[0].rows;
    const bool half = bvt_is_half(&(bvt_model){.values = s->values}, OP);
    for (unsigned k = 0; k < bvt_n_kernels; k++) {
        if (bvt_kernels[k].opcode != (int)OP->opcode || bvt_kernels[k].half != half || !bvt_kernel_usable(k)) continue;
        bvt_call call = {.op = OP};
        for (unsigned i = 0; i < BVT_N_IN; i++)
            if (OP->inputs[i] != BVT_NONE) call.in[i] = view(OP->inputs[i], true);
        for (unsigned i = 0; i < BVT_N_OUT; i++)
            if (OP->outputs[i] != BVT_NONE) call.out[i] = view(OP->outputs[i], false);
        if (scratch && posix_memalign(&call.scratch, 64, scratch)) abort();
        for (uint32_t row = 0; row < rows; row += 8) bvt_kernels[k].fn(&call, row, bvt_min_u32(row + 8, rows));
        for (unsigned i = 0; i < BVT_N_IN; i++) free(call.in[i].base);
        for (unsigned i = 0; i < BVT_N_OUT; i++) free(call.out[i].base);
        free(call.scratch);
    }
}

/* Whether the record passes; then it is run, else the error names the op. */
static bool passes(void) {
    char begin[64];
    snprintf(begin, sizeof begin, "op 0 (%s name): ", bvt_opcode_name(OP->opcode));
    const int code = check();
    if (!code) run_all();
    else CHECK(code == BVT_E_FORMAT && err.code == code && !strncmp(err.text, begin, strlen(begin)), "%s: '%s'", begin, err.text);
    return !code;
}

static void expect_refusal(const char *text, int line) {
    CHECK(!passes() && strstr(err.text, text), "line %d: expected '%s', got '%s'", line, text, err.text);
}

#define REFUSED(kind, text, ...) (make_##kind(), __VA_ARGS__, expect_refusal(text, __LINE__))
#define ACCEPTED(kind, ...) (make_##kind(), __VA_ARGS__, (void)0, expect_pass(__LINE__))

static void expect_pass(int line) { CHECK(passes(), "line %d: refused: %s", line, err.text); }

/* ---- What holds of all ops ----------------------------------------------------------------------------------------------- */

/* The record in a file, behind an op that makes the output. */
static uint8_t *in_file(size_t *bytes) {
    for (uint32_t v = 0; v < s->n_values; v++) CHECK(legal(s->values[v].dtype, s->values[v].layout), "a value");
    OP->scratch = (uint32_t)scratch, s->scratch = scratch;
    value(F32, BVT_STORAGE_INPUT, ROWS, 72, 24);
    const uint32_t output = value(F32, BVT_STORAGE_OUTPUT, ROWS, 1, 10);
    sample_group(s, 1);
    sample_epilogue(s, sample_floats(s, 1, 10), output, BVT_NONE);
    return sample_write(s, bytes);
}

static void test_good(void) {
    for (uint32_t k = 1; k < BVT_OPCODE_END; k++) {
        kinds[k].make();
        CHECK(OP->opcode == k && passes(), "%s: %s", bvt_opcode_name(k), err.text);
        size_t bytes;
        bvt_model *model = NULL;
        uint8_t *file = in_file(&bytes);
        CHECK(!bvt_open_memory(file, bytes, &model, &err), "%s in a file: %s", bvt_opcode_name(k), err.text);
        bvt_close(model);
        ((bvt_rec_op *)sample_section(file, BVT_SECTION_OPS))->attr[BVT_N_ATTR - 1] = 1;
        sample_seal(file, bytes);
        CHECK(bvt_open_memory(file, bytes, &model, &err) == BVT_E_FORMAT && strstr(err.text, "unused attribute"),
              "%s in a file: %s", bvt_opcode_name(k), err.text);
        free(file);
    }
}

/* Of constants that are trits, a code that is +1 and 0 at once: in each of the bytes of an attention's v, in either layout. */
static void check_trits(int layout, unsigned lines) {
    for (unsigned byte = 0; byte < lines * 16; byte++) {
        make_attention();
        if (layout == COLS) OP->attr[1] = 1, in(8, I32, ROWS, 12, 8), in(9, I32, ROWS, 1, 1); /* which is for one window */
        in(2, TRITS, layout, 8, 10);
        size_t bytes;
        bvt_model *model = NULL;
        CHECK(passes(), "%s", err.text);
        uint8_t *file = in_file(&bytes), *v = (uint8_t *)sample_section(file, BVT_SECTION_CONSTANTS) + IN(2)->offset;
        const bool sign = byte % 16 < 8;
        CHECK(!bvt_open_memory(file, bytes, &model, &err), "%s", err.text);
        bvt_close(model);
        v[byte] = sign ? 0xFF : 0, v[sign ? byte + 8 : byte - 8] = sign ? 0xFE : 1;
        sample_seal(file, bytes);
        CHECK(bvt_open_memory(file, bytes, &model, &err) == BVT_E_FORMAT && strstr(err.text, "+1 and 0 at once"),
              "layout %d, byte %u: %s", layout, byte, err.text);
        free(file);
    }
}

static void test_trits(void) {
    check_trits(ROWS, 8);
    check_trits(COLS, 10);
}

static const int32_t extreme[] = {INT_MIN, INT_MIN + 1, -65536, -256, -2,  -1,   0,    1,     2,     3,     4,       5,       6,
                                  7,       8,           9,      12,   16,  20,   127,  128,   255,   256,   4095,    4096,    46341,
                                  65535,   65536,       1 << 24, 1 << 28, 1 << 30, INT_MAX - 1, INT_MAX};
enum { EXTREMES = sizeof extreme / sizeof *extreme };

static void test_attributes(void) {
    static const float floats[] = {NAN, -NAN, INFINITY, -INFINITY, -1, -1e-45f, FLT_MAX, 0.5f};
    for (uint32_t k = 1; k < BVT_OPCODE_END; k++) {
        for (unsigned i = 0; i < BVT_N_ATTR; i++)
            for (unsigned e = 0; e < EXTREMES; e++) {
                kinds[k].make();
                const unsigned used = k == BVT_OP_STENCIL ? 4 + (unsigned)OP->attr[2] : kinds[k].attrs;
                OP->attr[i] = extreme[e];
                const bool good = passes();
                CHECK(i < used || !extreme[e] == good, "%s attr[%u] = %d", bvt_opcode_name(k), i, extreme[e]);
                CHECK(i < used || good || strstr(err.text, "unused attribute"), "%s attr[%u]: %s", bvt_opcode_name(k), i, err.text);
            }
        for (unsigned i = 0; i < BVT_N_FATTR; i++)
            for (unsigned e = 0; e < sizeof floats / sizeof *floats; e++) {
                kinds[k].make();
                OP->fattr[i] = floats[e];
                const bool good = passes();
                CHECK(!good || i < kinds[k].fattrs, "%s fattr[%u] = %g", bvt_opcode_name(k), i, (double)floats[e]);
                CHECK(!good || !isnan(floats[e]), "%s fattr[%u] is no number", bvt_opcode_name(k), i);
            }
        for (uint32_t round = 0; round < 400; round++) { /* several at once */
            kinds[k].make();
            for (uint32_t n = range(2, 3); n; n--)
                OP->attr[below(kinds[k].attrs + 1)] = below(3) ? (int32_t)below(8) : extreme[below(EXTREMES)];
            passes();
        }
    }
}

static void test_presence(void) {
    for (uint32_t k = 1; k < BVT_OPCODE_END; k++) {
        for (unsigned i = 0; i < BVT_N_IN; i++) {
            kinds[k].make();
            if (OP->inputs[i] == BVT_NONE) {
                in(i, F32, ROWS, 1, 1); /* fits nothing but, in the epilogue, a residual */
                CHECK(!passes(), "%s with an input %u", bvt_opcode_name(k), i);
            } else {
                OP->inputs[i] = BVT_NONE;
                const bool good = passes();
                CHECK(!(kinds[k].required >> i & 1) || (!good && strstr(err.text, "an input is missing")),
                      "%s without input %u: %s", bvt_opcode_name(k), i, err.text);
            }
        }
        for (unsigned i = 0; i < BVT_N_OUT; i++) {
            kinds[k].make();
            if (OP->outputs[i] == BVT_NONE) {
                out(i, F32, ROWS, s->groups[0].rows, 1);
                CHECK(!passes(), "%s with an output %u", bvt_opcode_name(k), i);
            } else {
                OP->outputs[i] = BVT_NONE;
                CHECK(!passes() || (k == BVT_OP_EPILOGUE && i == 0), "%s without output %u", bvt_opcode_name(k), i);
            }
        }
    }
}

/* Every operand of every op with every other type, layout and neighbouring shape. */
static void test_reshaped(void) {
    for (uint32_t k = 1; k < BVT_OPCODE_END; k++) {
        unsigned long fit = 0;
        for (unsigned slot = 0; slot < BVT_N_IN + BVT_N_OUT; slot++)
            for (int dtype = F32; dtype <= I8; dtype++)
                for (int layout = ROWS; dtype != I16 && layout <= QUADS; layout++)
                    for (int shape = 0; shape < 7; shape++) {
                        kinds[k].make();
                        uint32_t *operand = slot < BVT_N_IN ? &OP->inputs[slot] : &OP->outputs[slot - BVT_N_IN];
                        if (*operand == BVT_NONE) continue;
                        const bvt_rec_value *v = &s->values[*operand];
                        const uint32_t sizes[][2] = {{v->rows, v->cols},     {v->rows + 1, v->cols}, {v->rows - 1, v->cols},
                                                     {v->rows, v->cols + 1}, {v->rows, v->cols - 1}, {v->cols, v->rows},
                                                     {2 * v->rows, v->cols}};
                        const uint32_t rows = sizes[shape][0], cols = sizes[shape][1];
                        const bool the_same = v->dtype == dtype && v->layout == layout && v->rows == rows && v->cols == cols;
                        if (!rows || !cols || the_same || !legal(dtype, layout)) continue;
                        if (layout >= LANES16 && slot >= BVT_N_IN) continue;
                        if (slot < BVT_N_IN) in(slot, dtype, layout, rows, cols);
                        else out(slot - BVT_N_IN, dtype, layout, rows, cols);
                        fit += passes();
                    }
        CHECK(fit == kinds[k].fitting, "%s: %lu operands of other shapes fit, not %lu", bvt_opcode_name(k), fit, kinds[k].fitting);
    }
}

/* Makes F16 of the operands of a mask: inputs from bit 0, outputs from bit BVT_N_IN on. */
static void halve(uint64_t operands) {
    for (unsigned slot = 0; slot < BVT_N_IN + BVT_N_OUT; slot++) {
        const uint32_t index = slot < BVT_N_IN ? OP->inputs[slot] : OP->outputs[slot - BVT_N_IN];
        if (!(operands >> slot & 1)) continue;
        const bvt_rec_value *v = &s->values[index];
        if (slot < BVT_N_IN) in(slot, F16, ROWS, v->rows, v->cols);
        else out(slot - BVT_N_IN, F16, ROWS, v->rows, v->cols);
    }
}

/* The ops that take F16: all operands that have to be (`all`), and some beside (`any`); one that stays F32 is refused. */
static void test_half(void) {
    const uint64_t result = (uint64_t)1 << BVT_N_IN;
    const struct {
        int opcode;
        uint64_t all, any;
    } halves[] = {{BVT_OP_EPILOGUE, 1 << 1 | 1 << 2 | 1 << BVT_EP_SCALE | 1 << BVT_EP_SLOPE | 1 << BVT_EP_KNEE | 3 << BVT_EP_THRESHOLD0,
                   result},
                  {BVT_OP_STENCIL, 7 | result, 0},
                  {BVT_OP_CHANNEL_POOL, 1 | result, 0},
                  {BVT_OP_AVG_POOL, 1 | result, 0},
                  {BVT_OP_MAX_POOL, 1 | result, 0},
                  {BVT_OP_GATHER, 6 | result, 0},
                  {BVT_OP_MEAN_ROWS, 1, 0},
                  {BVT_OP_LAYER_NORM_ROWS, 1, 0},
                  {BVT_OP_NORM_SIGN, 1, 0}};
    for (unsigned h = 0; h < sizeof halves / sizeof *halves; h++) {
        const uint32_t k = (uint32_t)halves[h].opcode;
        for (int any = 0; any < 2; any++) {
            kinds[k].make(), halve(halves[h].all | (any ? halves[h].any : 0));
            CHECK(passes(), "%s in fp16: %s", bvt_opcode_name(k), err.text);
        }
        for (unsigned slot = 0; slot < BVT_N_IN + BVT_N_OUT; slot++) {
            const uint64_t bit = (uint64_t)1 << slot;
            kinds[k].make(), halve(halves[h].all & ~bit);
            const bool still_half = halves[h].all & ~bit;
            if (halves[h].all & bit && still_half) CHECK(!passes(), "%s with an F32 among F16", bvt_opcode_name(k));
            const uint32_t index = slot < BVT_N_IN ? OP->inputs[slot] : OP->outputs[slot - BVT_N_IN];
            if (index == BVT_NONE || (halves[h].all | halves[h].any) & bit || (k == BVT_OP_EPILOGUE && slot == 0)) continue;
            kinds[k].make(), halve(halves[h].all | bit);
            CHECK(!passes(), "%s with operand %u of F16", bvt_opcode_name(k), slot);
        }
    }
    ACCEPTED(epilogue, in(0, F16, ROWS, 16, 6), halve(halves[0].all));
    ACCEPTED(epilogue, in(0, F32, ROWS, 16, 6), halve(halves[0].all));
    REFUSED(epilogue, "not as small as it says", OP->attr[7] = 1); /* nobody knows where its dots come from */
    REFUSED(epilogue, "not as small as it says", OP->attr[7] = 2);
    REFUSED(activation, "wrong type", halve(1));
    REFUSED(dense, "wrong type", halve(1));
}

/* ---- Ops one by one ------------------------------------------------------------------------------------------------------ */

static void test_norms(void) {
    REFUSED(layer_norm_rows, "eps must be", OP->fattr[0] = NAN);
    REFUSED(layer_norm_rows, "eps must be", OP->fattr[0] = -1e-5f);
    REFUSED(layer_norm_rows, "eps must be", OP->fattr[0] = INFINITY);
    REFUSED(layer_norm_rows, "groups do not divide", OP->attr[0] = 5);
    REFUSED(layer_norm_rows, "groups do not divide", OP->attr[0] = 0);
    REFUSED(layer_norm_rows, "groups do not divide", OP->attr[0] = -3);
    REFUSED(layer_norm_rows, "groups do not divide", OP->attr[0] = 24);
    REFUSED(layer_norm_rows, "unused attribute", OP->fattr[1] = NAN);
    REFUSED(layer_norm_rows, "x has the wrong", in(0, F32, ROWS, 7, 12));
    REFUSED(layer_norm_rows, "x has the wrong", in(0, I32, ROWS, 6, 12));
    REFUSED(layer_norm_rows, "a parameter has the wrong", in(1, F32, ROWS, 1, 4));
    REFUSED(layer_norm_rows, "a parameter has the wrong", in(2, F32, ROWS, 12, 1));
    REFUSED(layer_norm_rows, "the output has the wrong", out(0, BITS, ROWS, 6, 12));
    REFUSED(norm_sign, "eps must be", OP->fattr[0] = -NAN);
    REFUSED(norm_sign, "eps must be", OP->fattr[0] = -INFINITY);
    REFUSED(norm_sign, "groups do not divide", OP->attr[0] = 8);
    REFUSED(norm_sign, "a parameter has the wrong", in(1, F32, ROWS, 2, 12));
    REFUSED(norm_sign, "the output has the wrong", out(0, F32, ROWS, 6, 12));
    REFUSED(norm_sign, "the output has the wrong", out(0, TRITS, COLS, 6, 12));
    REFUSED(norm_sign, "the output has the wrong", out(0, BITS, COLS, 12, 6));
    ACCEPTED(norm_sign, OP->fattr[0] = 0, OP->attr[0] = 12);
}

static void test_gather(void) {
    static const int32_t bad[] = {-2, INT_MIN, 7, 8, INT_MAX}; /* the sources have 4 + 3 rows */
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        REFUSED(gather, "a row number is out of range", DATA(0, int32_t)[17] = bad[i]);
    REFUSED(gather_bits, "a row number is out of range", DATA(0, int32_t)[17] = -1); /* no code of bits is zero */
    REFUSED(gather_bits, "a row number is out of range", DATA(0, int32_t)[0] = 4);
    ACCEPTED(gather, DATA(0, int32_t)[0] = 6);
    ACCEPTED(gather_bits, out(0, TRITS, ROWS, 6, 30), DATA(0, int32_t)[17] = -1);
    REFUSED(gather, "not a constant", IN(0)->storage = BVT_STORAGE_ARENA);
    REFUSED(gather, "the index has the wrong", in(0, F32, ROWS, 6, 3));
    REFUSED(gather, "its sources have a gap", OP->inputs[3] = OP->inputs[2], OP->inputs[2] = BVT_NONE);
    REFUSED(gather, "a source has the wrong", in(2, BITS, ROWS, 3, 10));
    REFUSED(gather, "a source has the wrong", in(2, TRITS, ROWS, 3, 9));
    REFUSED(gather, "a source has the wrong", in(1, TRITS, COLS, 4, 10));
    REFUSED(gather, "a source has the wrong", in(1, U64, ROWS, 4, 10));
    REFUSED(gather, "the output has the wrong", out(0, TRITS, ROWS, 6, 20));
    REFUSED(gather, "the output has the wrong", out(0, TRITS, ROWS, 5, 30));
    REFUSED(gather, "the output has the wrong", out(0, BITS, ROWS, 6, 30));
    REFUSED(gather_bits, "the output has the wrong", out(0, F32, ROWS, 6, 30));
    REFUSED(gather_bits, "the output has the wrong", out(0, BITS, COLS, 6, 30));
    /* 2^12 + 1 parts of 2^20 columns: modulo 2^32 the output would have 2^20. */
    REFUSED(gather_bits, "the output has the wrong", in(0, I32, ROWS, 6, 4097), IN(1)->cols = 1 << 20, OUT(0)->cols = 1 << 20);
}

static void test_products(void) {
    REFUSED(mixed_gemm, "x has the wrong", in(0, BITS, ROWS, 6, 20));
    REFUSED(mixed_gemm, "x has the wrong", in(0, F32, ROWS, 6, 24));
    REFUSED(mixed_gemm, "x has the wrong", in(0, F32, ROWS, 8, 20));
    REFUSED(mixed_gemm, "the weight has the wrong", in(1, BITS, ROWS, 33, 20));
    REFUSED(mixed_gemm, "the weight has the wrong", in(1, BITS, LANES16, 48, 20));
    REFUSED(mixed_gemm, "the output has the wrong", out(0, I32, ROWS, 6, 33));
    REFUSED(mixed_gemm, "unused attribute", OP->attr[0] = 1);
    REFUSED(dense_i8, "x has the wrong", in(0, F32, ROWS, 9, 6));
    REFUSED(dense_i8, "x has the wrong", in(0, I32, ROWS, 9, 5));
    REFUSED(dense_i8, "the weight has the wrong", in(1, F32, ROWS, 17, 5));
    REFUSED(dense_i8, "the weight has the wrong", in(1, BITS, LANES16, 17, 5));
    REFUSED(dense_i8, "the weight has the wrong", in(1, I8, QUADS, 18, 5));
    REFUSED(dense_i8, "the scale has the wrong", in(2, F32, ROWS, 17, 1));
    REFUSED(dense_i8, "the bias has the wrong", in(3, F32, ROWS, 1, 16));
    REFUSED(dense_i8, "the output has the wrong", out(0, I32, ROWS, 9, 17));
    REFUSED(dense_i8, "unused attribute", OP->attr[0] = 1);
    ACCEPTED(dense_i8, OP->inputs[3] = BVT_NONE);
    CHECK(scratch == bvt_i8_scratch(5) && scratch == 256, "scratch %llu", (unsigned long long)scratch);
    /* More columns than 32-bit sums hold; the operands are not looked into. */
    REFUSED(dense_i8, "may not fit into 32 bits", IN(0)->cols = IN(1)->cols = BVT_I8_MOST_COLUMNS + 1);
    REFUSED(bgemm, "groups do not divide", OP->attr[0] = 3);
    REFUSED(bgemm, "groups do not divide", OP->attr[0] = -2);
    REFUSED(bgemm, "groups do not divide", OP->attr[0] = INT_MIN);
    REFUSED(bgemm, "x has the wrong", OP->attr[0] = 1);
    REFUSED(bgemm, "x has the wrong", OP->attr[0] = 34);
    REFUSED(bgemm, "x has the wrong", in(0, TRITS, ROWS, 9, 20));
    REFUSED(bgemm, "x has the wrong", in(0, TRITS, COLS, 9, 40));
    REFUSED(bgemm, "x has the wrong", in(0, F32, ROWS, 9, 40));
    REFUSED(bgemm, "the weight has the wrong", in(1, BITS, LANES16, 32, 20));
    REFUSED(bgemm, "the weight has the wrong", in(1, TRITS, COLS, 34, 20));
    REFUSED(bgemm, "the output has the wrong", out(0, F32, ROWS, 9, 34));
    ACCEPTED(bgemm, in(0, BITS, ROWS, 9, 40));
    ACCEPTED(bgemm, in(0, BITS, ROWS, 9, 20), OP->attr[0] = 0);
    REFUSED(bgemm, "the output has the wrong", out(0, I32, ROWS, 9, 34));
    static const int layouts[] = {CSA, TBL2, LUT};
    for (unsigned i = 0; i < 3; i++) {
        const int layout = layouts[i];
        ACCEPTED(bgemm, in(0, BITS, ROWS, 9, 20), in(1, BITS, layout, 34, 20), OP->attr[0] = 0);
        CHECK(scratch == bvt_bgemm_scratch(layout, 20, false), "layout %d: scratch %llu", layout, (unsigned long long)scratch);
        REFUSED(bgemm, "need a weight in layout lanes16", in(0, BITS, ROWS, 9, 40), in(1, BITS, layout, 34, 20));
        if (layout != CSA) {
            ACCEPTED(bgemm, in(0, TRITS, ROWS, 9, 200), in(1, BITS, layout, 34, 200), OP->attr[0] = 1);
            const bool twice = scratch == 2 * bvt_bgemm_scratch(layout, 200, false);
            CHECK(scratch == bvt_bgemm_scratch(layout, 200, true) && (layout != TBL2 || twice), "trits: scratch %llu",
                  (unsigned long long)scratch);
            REFUSED(bgemm, "need a weight in layout lanes16", in(1, BITS, layout, 34, 20));
        } else {
            REFUSED(bgemm, "other than csa", in(0, TRITS, ROWS, 9, 20), in(1, BITS, layout, 34, 20), OP->attr[0] = 1);
        }
        REFUSED(bgemm, "need a weight in layout lanes16", in(0, BITS, ROWS, 9, 20), in(1, BITS, layout, 34, 20), OP->attr[0] = 1,
                OUT(0)->dtype = I32, IN(0)->cols = IN(1)->cols = 32767);
        REFUSED(mixed_gemm, "the weight has the wrong", in(1, BITS, layout, 33, 20));
    }
    /* 2^16 groups of 2^16 columns: modulo 2^32 they are none. */
    REFUSED(bgemm, "x has the wrong", OP->attr[0] = 1 << 16, OUT(0)->cols = IN(1)->rows = IN(1)->cols = 1 << 16);
    REFUSED(bgemm, "x has the wrong", OP->attr[0] = (1 << 16) + 1, OUT(0)->cols = IN(1)->rows = (1 << 16) + 1,
            IN(1)->cols = IN(0)->cols = 1 << 16);
}

static void test_pools(void) {
    REFUSED(max_pool, "must be positive", OP->attr[0] = 0);
    REFUSED(max_pool, "must be positive", OP->attr[1] = -5);
    REFUSED(max_pool, "must be positive", OP->attr[2] = INT_MIN);
    REFUSED(max_pool, "must be positive", OP->attr[3] = 0);
    REFUSED(max_pool, "padding or dilation", OP->attr[4] = -1);
    REFUSED(max_pool, "padding or dilation", OP->attr[4] = 4096);
    REFUSED(max_pool, "the kernel is larger than the grid", OP->attr[2] = 8);
    REFUSED(max_pool, "the kernel is larger than the grid", OP->attr[2] = INT_MAX);
    REFUSED(max_pool, "not smaller than the kernel", OP->attr[4] = 3);
    REFUSED(avg_pool, "not smaller than the kernel", OP->attr[2] = 1);
    REFUSED(max_pool, "unused attribute", OP->attr[5] = 1);
    REFUSED(max_pool, "x has the wrong", OP->attr[0] = 5, OP->attr[1] = 5);
    REFUSED(max_pool, "x has the wrong", in(0, BITS, ROWS, 30, 7));
    REFUSED(max_pool, "the output has the wrong", OP->attr[3] = 1);
    REFUSED(max_pool, "the output has the wrong", OP->attr[3] = INT_MAX);
    REFUSED(max_pool, "the output has the wrong", out(0, F32, ROWS, 9, 8));
    REFUSED(avg_pool, "the output has the wrong", out(0, I32, ROWS, 9, 7));
    /* 2^16 x 2^16, and (2^17 + 1) x (2^15): modulo 2^32 no rows, and 2^15 */
    REFUSED(max_pool, "x has the wrong", OP->attr[0] = OP->attr[1] = 1 << 16);
    REFUSED(avg_pool, "x has the wrong", OP->attr[0] = (1 << 17) + 1, OP->attr[1] = 1 << 15, IN(0)->rows = 1 << 15);
    REFUSED(max_pool, "x has the wrong", OP->attr[0] = OP->attr[1] = INT_MAX);
    /* An output grid of (2^24 + 2^12 - 1) x 2^12, modulo 2^32 so many rows: */
    REFUSED(max_pool, "the output has the wrong", ATTR(1 << 24, 1, 4096, 1, 4095), IN(0)->rows = 1 << 24,
            OUT(0)->rows = s->groups[0].rows = 4095 * 4096);
}

static void test_elementwise(void) {
    REFUSED(activation, "unknown activation", OP->attr[0] = -1);
    REFUSED(activation, "unknown activation", OP->attr[0] = 3);
    REFUSED(activation, "unused attribute", OP->attr[0] = 0); /* a GELU with the bounds of a clamp */
    REFUSED(activation, "unused attribute", OP->fattr[2] = 1);
    REFUSED(activation, "low is above high", OP->fattr[0] = 3);
    REFUSED(activation, "low is above high", OP->fattr[0] = NAN);
    REFUSED(activation, "low is above high", OP->fattr[1] = NAN);
    REFUSED(activation, "x has the wrong", in(0, F32, ROWS, 5, 7));
    REFUSED(activation, "the output has the wrong", out(0, F32, ROWS, 6, 6));
    ACCEPTED(activation, OP->fattr[0] = -INFINITY, OP->fattr[1] = INFINITY);
    ACCEPTED(activation, OP->attr[0] = 2, OP->fattr[0] = OP->fattr[1] = 0);
    REFUSED(multiply, "x has the wrong", in(0, BITS, ROWS, 6, 7));
    REFUSED(multiply, "x has the wrong", in(0, F32, ROWS, 1, 7));
    REFUSED(multiply, "y has the wrong", in(1, F32, ROWS, 6, 6));
    REFUSED(multiply, "y has the wrong", in(1, F32, ROWS, 1, 7));
    REFUSED(multiply, "the output has the wrong", in(0, F32, ROWS, 6, 1));
    REFUSED(multiply, "unused attribute", OP->fattr[0] = 1);
    ACCEPTED(multiply, in(1, F32, ROWS, 6, 7));
    REFUSED(mean_rows, "groups do not divide", OP->attr[0] = 5);
    REFUSED(mean_rows, "groups do not divide", OP->attr[0] = -3);
    REFUSED(mean_rows, "groups do not divide", OP->attr[0] = 24);
    REFUSED(mean_rows, "the output has the wrong", OP->attr[0] = 4);
    REFUSED(mean_rows, "the output has the wrong", OP->attr[0] = 0);
    REFUSED(mean_rows, "x has the wrong", in(0, BITS, ROWS, 12, 5));
    REFUSED(mean_rows, "the output has the wrong", out(0, F32, ROWS, 3, 4));
    /* 2^16 + 1 channels of 2^16 each: modulo 2^32 they are 2^16. */
    REFUSED(channel_pool, "x has the wrong", OP->attr[0] = 1 << 16, OUT(0)->cols = (1 << 16) + 1, IN(0)->cols = 1 << 16);
}

static void test_row_patches(void) {
    REFUSED(row_patches, "padding or dilation", OP->attr[4] = -1);
    REFUSED(row_patches, "padding or dilation", OP->attr[4] = 4096);
    REFUSED(row_patches, "padding or dilation", OP->attr[5] = -1);
    REFUSED(row_patches, "padding or dilation", OP->attr[5] = 4096);
    REFUSED(row_patches, "the kernel is larger than the grid", OP->attr[5] = 6);
    REFUSED(row_patches, "the kernel is larger than the grid", OP->attr[2] = INT_MAX, OP->attr[5] = 4095);
    REFUSED(row_patches, "groups do not divide", OP->attr[6] = 4);
    REFUSED(row_patches, "groups do not divide", OP->attr[6] = -3);
    REFUSED(row_patches, "unused attribute", OP->attr[7] = 1);
    REFUSED(row_patches, "the output has the wrong", OP->attr[5] = 1);
    REFUSED(row_patches, "x has the wrong", in(0, BITS, COLS, 20, 6));
    REFUSED(row_patches, "x has the wrong", in(0, I32, ROWS, 20, 6));
    REFUSED(row_patches, "the output has the wrong", out(0, BITS, ROWS, 20, 24)); /* padding is neither +1 nor -1 */
    REFUSED(row_patches, "the output has the wrong", in(0, F32, ROWS, 20, 6));
    REFUSED(row_patches, "the output has the wrong", out(0, TRITS, ROWS, 20, 12));
    ACCEPTED(row_patches, in(0, TRITS, ROWS, 20, 6));
    ACCEPTED(row_patches, in(0, F32, ROWS, 20, 6), out(0, F32, ROWS, 20, 24));
    /* A kernel of 2^12 x 2^12 on 2^8 + 1 columns: modulo 2^32 the output has 2^24; and one of 2^13. */
    REFUSED(row_patches, "the output has the wrong", ATTR(4096, 4096, 4096, 1, 0, 1, 1), IN(0)->rows = 1 << 24, IN(0)->cols = 257,
            OUT(0)->rows = s->groups[0].rows = 1, OUT(0)->cols = 1 << 24, OUT(0)->dtype = BITS);
    REFUSED(row_patches, "the kernel is out of range", ATTR(4096, 4096, 8192, 1, 2048, 1, 1), IN(0)->rows = 1 << 24);
}

static void test_epilogue(void) {
    static const int32_t bad[] = {-1, INT_MIN, 5, INT_MAX}; /* the residual has 5 rows */
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        REFUSED(epilogue, "a row number is out of range", DATA(BVT_EP_ROWS, int32_t)[15] = bad[i]);
    REFUSED(epilogue, "a row number is out of range", in(1, F32, ROWS, 4, 3));
    REFUSED(epilogue, "table of rows is missing", OP->inputs[BVT_EP_ROWS] = BVT_NONE);
    REFUSED(epilogue, "table of rows is missing", in(BVT_EP_ROWS, I32, ROWS, 1, 15));
    REFUSED(epilogue, "table of rows is missing", in(BVT_EP_ROWS, I32, ROWS, 16, 1));
    REFUSED(epilogue, "the table of rows has the wrong", in(BVT_EP_ROWS, F32, ROWS, 1, 16));
    REFUSED(epilogue, "not a constant", IN(BVT_EP_ROWS)->storage = BVT_STORAGE_ARENA);
    REFUSED(epilogue, "a table of rows that no residual uses", OP->attr[1] = 1, OP->inputs[1] = BVT_NONE);
    REFUSED(epilogue, "factor of an absent residual", OP->inputs[1] = BVT_NONE);
    REFUSED(epilogue, "factor is out of range", OP->attr[1] = -1);
    REFUSED(epilogue, "factor is out of range", OP->attr[2] = 4096);
    REFUSED(epilogue, "rows and factor do not fit", OP->attr[2] = 3);
    REFUSED(epilogue, "rows and factor do not fit", in(2, F32, ROWS, 3, 6));
    REFUSED(epilogue, "grid and factor do not fit", OP->attr[0] = 0);
    REFUSED(epilogue, "grid and factor do not fit", OP->attr[0] = 3);
    REFUSED(epilogue, "grid and factor do not fit", OP->attr[0] = 16);
    REFUSED(epilogue, "grid and factor do not fit", OP->attr[0] = INT_MAX - 1);
    REFUSED(epilogue, "the grid's width is negative", OP->attr[0] = -4);
    REFUSED(epilogue, "columns do not divide", in(2, F32, ROWS, 4, 4));
    REFUSED(epilogue, "columns do not divide", in(1, F32, ROWS, 5, 12));
    REFUSED(epilogue, "a residual has the wrong", in(1, I32, ROWS, 5, 3));
    REFUSED(epilogue, "a residual has the wrong", in(2, I32, ROWS, 4, 6));
    REFUSED(epilogue, "x has the wrong", in(0, BITS, ROWS, 16, 6));
    REFUSED(epilogue, "x has the wrong", in(0, I32, ROWS, 15, 6));
    REFUSED(epilogue, "a parameter has the wrong", in(BVT_EP_SLOPE, F32, ROWS, 2, 6));
    REFUSED(epilogue, "a parameter has the wrong", in(BVT_EP_SHIFT2, F32, ROWS, 1, 5));
    REFUSED(epilogue, "a threshold has the wrong", in(BVT_EP_THRESHOLD0, F32, ROWS, 2, 6));
    REFUSED(epilogue, "a threshold has the wrong", in(BVT_EP_THRESHOLD0 + 1, F32, ROWS, 1, 6)); /* trits have two */
    REFUSED(epilogue, "a threshold has the wrong", out(1, TRITS, ROWS, 16, 6));
    REFUSED(epilogue, "a threshold has the wrong", out(2, BITS, ROWS, 16, 6));
    REFUSED(epilogue, "a bits output has the wrong", out(2, TRITS, COLS, 6, 16));
    REFUSED(epilogue, "a bits output has the wrong", out(1, F32, ROWS, 16, 6));
    REFUSED(epilogue, "the real output has the wrong", out(0, I32, ROWS, 16, 6));
    REFUSED(epilogue, "do not pair up", OP->inputs[BVT_EP_THRESHOLD0 + 1] = BVT_NONE);
    REFUSED(epilogue, "do not pair up", in(16, F32, ROWS, 1, 6));
    REFUSED(epilogue, "an input too many", in(BVT_EP_INPUTS, F32, ROWS, 1, 6));
    REFUSED(epilogue, "an output too many", out(5, F32, ROWS, 16, 6));
    REFUSED(epilogue, "unused attribute", OP->attr[9] = 1);
    /* Dots that are constants are no larger than those of products. */
    ACCEPTED(epilogue, DATA(0, int32_t)[95] = 1 << 24);
    REFUSED(epilogue, "larger than its thresholds", DATA(0, int32_t)[95] = (1 << 24) + 1);
    REFUSED(epilogue, "larger than its thresholds", DATA(0, int32_t)[0] = INT_MIN);
    ACCEPTED(epilogue, in(0, I16, ROWS, 16, 6), DATA(0, int16_t)[95] = -32766);
    REFUSED(epilogue, "larger than its thresholds", in(0, I16, ROWS, 16, 6), DATA(0, int16_t)[95] = -32767);
    REFUSED(epilogue, "larger than its thresholds", in(0, I16, ROWS, 16, 6), DATA(0, int16_t)[0] = 32767);
    /* 2^22 + 1 rows with a factor of 2^5: modulo 2^32 they make 2^10. */
    REFUSED(epilogue, "rows and factor do not fit", OP->attr[1] = 1, OP->inputs[1] = OP->inputs[BVT_EP_ROWS] = BVT_NONE,
            OP->attr[0] = OP->attr[2] = 32, IN(2)->rows = (1 << 22) + 1, IN(0)->rows = s->groups[0].rows = 1024);
    REFUSED(epilogue, "a number of channels to pool", OP->attr[BVT_EP_POOL] = 3);
    REFUSED(epilogue, "a number of channels to pool", OP->attr[BVT_EP_POOL] = INT_MIN);
    REFUSED(epilogue, "the channels to pool do not divide", OP->attr[BVT_EP_POOL] = 4);
    REFUSED(epilogue, "the real output has the wrong", OP->attr[BVT_EP_POOL] = 2);
    REFUSED(epilogue, "it pools what it does not write", OP->attr[BVT_EP_POOL] = 2, OP->outputs[0] = BVT_NONE);
    ACCEPTED(epilogue, OP->attr[BVT_EP_POOL] = 2, out(0, F32, ROWS, 16, 3));
    REFUSED(epilogue, "a knee without a slope", OP->inputs[BVT_EP_SLOPE] = BVT_NONE);
    REFUSED(epilogue, "a parameter has the wrong", in(BVT_EP_KNEE, F32, ROWS, 1, 5));
}

static void test_attention(void) {
    REFUSED(attention, "heads must divide", OP->attr[0] = 3);
    REFUSED(attention, "windows or planes are out", OP->attr[1] = -1);
    REFUSED(attention, "windows or planes are out", OP->attr[2] = 4);
    REFUSED(attention, "windows must divide", OP->attr[1] = 3); /* the queries, not the keys */
    REFUSED(attention, "windows must divide", OP->attr[1] = INT_MAX);
    REFUSED(attention, "planes that it does not have", OP->attr[3] = 4);
    REFUSED(attention, "planes that it does not have", OP->attr[4] = -1);
    REFUSED(attention, "v has the wrong", in(2, BITS, COLS, 8, 10));
    REFUSED(attention, "q has the wrong", in(0, F32, ROWS, 12, 10));
    REFUSED(attention, "k has the wrong", in(1, BITS, ROWS, 10, 10));
    REFUSED(attention, "the table has the wrong", in(3, F64, ROWS, 2, 33));
    REFUSED(attention, "limit has the wrong", OP->attr[2] = 1, OP->attr[3] = OP->attr[4] = 0);
    REFUSED(attention, "ints has the wrong", in(5, I32, ROWS, 4, 2));
    REFUSED(attention, "must be constants", IN(5)->storage = BVT_STORAGE_ARENA);
    REFUSED(attention, "the table is too short", DATA(5, int32_t)[0] = 3); /* 2*5*(1 + 3) + 1 entries */
    REFUSED(attention, "the table is too short", DATA(5, int32_t)[1] = INT_MIN);
    REFUSED(attention, "the table increases", DATA(3, uint64_t)[65] = 1 << 20);
    REFUSED(attention, "too large for its sums", DATA(3, uint64_t)[33] = (uint64_t)1 << 51);
    ACCEPTED(attention, DATA(3, uint64_t)[33] = (((uint64_t)1 << 53) - 1) / 4);
    /* The largest |result| of 4 keys, (base + steps) * (1 + |zv|) of a head: 4 * (1 + 1 + 4) * 4 and 4 * (2 + 1 + 3) * 1. */
    REFUSED(attention, "beyond 2^24", DATA(5, int32_t)[2] = INT_MAX);
    REFUSED(attention, "beyond 2^24", DATA(5, int32_t)[6] = INT_MIN, DATA(5, int32_t)[2] = INT_MIN);
    REFUSED(attention, "beyond 2^24", DATA(5, int32_t)[9] = (1 << 22) - 2);
    ACCEPTED(attention, DATA(5, int32_t)[9] = -(1 << 22) + 3, out(0, I32, ROWS, 12, 10));
    REFUSED(attention, "the output has the wrong", DATA(5, int32_t)[9] = (1 << 22) - 3);
    ACCEPTED(attention, DATA(5, int32_t)[8] = -2045); /* 4 * 2047 * 4 is 32752 */
    REFUSED(attention, "the output has the wrong", DATA(5, int32_t)[8] = -2046); /* and 32768 */
    ACCEPTED(attention, DATA(5, int32_t)[8] = -2046, out(0, I32, ROWS, 12, 10));
    REFUSED(attention, "the output has the wrong", out(0, I32, ROWS, 12, 10));
    REFUSED(attention, "the output has the wrong", out(0, F32, ROWS, 12, 10));
    REFUSED(attention, "real levels have no base", in(6, F32, ROWS, 2, 2), out(0, F32, ROWS, 12, 10));
    ACCEPTED(attention, in(6, F32, ROWS, 2, 2), out(0, F32, ROWS, 12, 10), memset(DATA(5, int32_t) + 2, 0, 16));
    REFUSED(attention, "come together", OP->inputs[9] = BVT_NONE);
    REFUSED(attention, "not whole windows", in(8, I32, ROWS, 13, 4));
    REFUSED(attention, "the pattern points beyond", DATA(8, int32_t)[47] = 3);
    REFUSED(attention, "the pattern points beyond", DATA(8, int32_t)[0] = -1);
    REFUSED(attention, "class is out of range", DATA(9, int32_t)[1] = 2);
    REFUSED(attention, "class is out of range", DATA(9, int32_t)[0] = -1);
    REFUSED(attention, "not a finite factor", DATA(7, double)[5] = NAN);
    REFUSED(attention, "not a finite factor", DATA(7, double)[0] = -1);
    REFUSED(attention, "not a finite factor", DATA(7, double)[3] = INFINITY);
}

/* The formulas of README.md, "Scratch", in its words. */
static uint64_t area(uint64_t n) { return (n + 63) / 64 * 64; }
static void test_scratch(void) {
    static const struct {
        uint32_t heads, d, windows, nq, nk, planes;
        bool qt, kt, vt, ints, bias;
    } shapes[] = {
        {3, 64, 1, 197, 197, 1, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0},
        {2, 32, 1, 5, 64, 1, 0, 0, 0, 0, 0}, {1, 8, 1, 5, 65, 1, 0, 0, 0, 0, 0},
        {1, 8, 1, 9, 2049, 1, 0, 0, 0, 0, 0}, {3, 64, 1, 197, 197, 2, 0, 0, 0, 0, 0},
        {3, 64, 1, 197, 197, 3, 1, 1, 1, 1, 0}, {2, 64, 1, 10, 130, 1, 1, 0, 0, 0, 0},
        {2, 65, 1, 10, 130, 1, 0, 1, 0, 0, 0}, {2, 63, 1, 10, 130, 1, 0, 0, 1, 0, 0},
        {2, 16, 1, 10, 128, 1, 0, 0, 0, 1, 0}, {3, 32, 16, 49, 49, 3, 0, 0, 0, 1, 1},
        {3, 32, 16, 49, 49, 3, 0, 0, 1, 1, 1}, {4, 130, 4, 12, 65, 2, 1, 1, 1, 0, 1},
        {1, 24, 2, 3, 7, 1, 0, 0, 0, 0, 0}, {6, 20, 1, 40, 300, 1, 0, 0, 0, 0, 1},
    };
    for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const uint32_t h = shapes[i].heads, d = shapes[i].d, w = shapes[i].windows, nq = shapes[i].nq, nk = shapes[i].nk;
        const bool qt = shapes[i].qt, kt = shapes[i].kt, vt = shapes[i].vt;
        start(BVT_OP_ATTENTION, w * nq);
        ATTR((int32_t)h, (int32_t)w, (int32_t)shapes[i].planes);
        in(0, qt ? TRITS : BITS, ROWS, w * nq, h * d), in(1, kt ? TRITS : BITS, ROWS, w * nk, h * d);
        in(2, vt ? TRITS : BITS, w > 1 ? ROWS : COLS, w * nk, h * d), in(3, U64, ROWS, 1, 2 * d + 1);
        in(4, F64, ROWS, shapes[i].planes, h), out(0, I16, ROWS, w * nq, h * d);
        if (shapes[i].ints) in(5, I32, ROWS, 3 + shapes[i].planes, h);
        if (shapes[i].bias) in(7, F64, ROWS, 1, h), in(8, I32, ROWS, nq, nk), in(9, I32, ROWS, 1, w);
        const bool plain = w == 1 && shapes[i].planes == 1 && !qt && !kt && !vt && !shapes[i].ints && !shapes[i].bias;
        const uint64_t K = (nk + 63) / 64, D = (d + 63) / 64;
        const uint64_t want = plain ? area(2 * nk) + area(8 * K)
                                    : area(4 * nk) + area(4 * nk) + (shapes[i].bias ? area(8 * nk) : 0) + area(8 * D * (1 + qt)) +
                                          area(8 * D * nk * (1 + kt)) + area(8 * 3 * K) + area(4 * d) +
                                          (w > 1 ? area(8 * 64 * D * K * (1 + vt)) : 0);
        CHECK(!check() && scratch == want, "shape %u: scratch %llu, not %llu %s", i, (unsigned long long)scratch,
              (unsigned long long)want, err.text);
    }
}

int main(void) {
    (void)sample_model; /* the other tests' model */
    s = calloc(1, sizeof *s);
    test_good();
    test_trits();
    test_attributes();
    test_presence();
    test_reshaped();
    test_half();
    test_norms();
    test_gather();
    test_products();
    test_pools();
    test_elementwise();
    test_row_patches();
    test_epilogue();
    test_attention();
    test_scratch();
    free(s);
    return finish("test_ops_check");
}
