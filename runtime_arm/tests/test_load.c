/* The loader: refuses what is wrong and says what. */
#include <fenv.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sample.h"

static uint8_t *file;
static size_t file_bytes;

static void expect(const char *text, int line) {
    bvt_model *model;
    bvt_error err = {0};
    int code = bvt_open_memory(file, file_bytes, &model, &err);
    CHECK(code == BVT_E_FORMAT && err.code == code && !model && strstr(err.text, text), "line %d: expected '%s', got %d '%s'", line,
          text, code, err.text);
    if (!code) bvt_close(model);
}

/* Makes a fresh sample, does `change` (with the record pointers at hand), seals it and expects an error that contains `text`. */
#define BROKEN(text, change)                                                                                                \
    do {                                                                                                                    \
        file = sample_model(&file_bytes, 8);                                                                                \
        bvt_rec_header *header = (bvt_rec_header *)(void *)file;                                                            \
        bvt_rec_section *table = (bvt_rec_section *)(void *)(file + 64);                                                    \
        bvt_rec_value *values = sample_section(file, BVT_SECTION_VALUES);                                                   \
        bvt_rec_op *ops = sample_section(file, BVT_SECTION_OPS);                                                            \
        bvt_rec_group *groups = sample_section(file, BVT_SECTION_GROUPS);                                                   \
        bvt_rec_preprocess *preprocess = sample_section(file, BVT_SECTION_PREPROCESS);                                      \
        bvt_rec_golden *golden = sample_section(file, BVT_SECTION_GOLDEN);                                                  \
        uint8_t *names = sample_section(file, BVT_SECTION_NAMES), *constants = sample_section(file, BVT_SECTION_CONSTANTS); \
        (void)header, (void)table, (void)values, (void)ops, (void)groups, (void)preprocess, (void)names, (void)constants;   \
        (void)golden;                                                                                                       \
        change;                                                                                                             \
        sample_seal(file, file_bytes);                                                                                      \
        expect(text, __LINE__);                                                                                             \
        free(file);                                                                                                         \
    } while (0)

/* Ops and values of the sample, in the order in which sample_model makes them. */
enum {
    PATCHES,
    DENSE,
    EPILOGUE,
    BGEMM_Q,
    EPILOGUE_Q,
    BGEMM_K,
    EPILOGUE_K,
    BGEMM_V,
    EPILOGUE_V,
    ATTENTION,
    EPILOGUE_A,
    AVG_POOL,
    ROW_PATCHES,
    BGEMM_M,
    EPILOGUE_M,
    CHANNEL_POOL,
    STENCIL,
    EPILOGUE_S,
    MEAN_ROWS,
    DENSE_OUT
};

static void test_structure(void) {
    BROKEN("wrong magic", file[0] = 0);
    BROKEN("text mode", file[4] = '\n');
    BROKEN("version", header->version = BVT_VERSION + 1);
    BROKEN("reserved", header->flags = 1);
    BROKEN("truncated", header->file_bytes += 64);
    BROKEN("arena or tile memory", header->arena_bytes = UINT64_MAX - 63);
    BROKEN("tile_bytes", header->tile_bytes += 4);
    BROKEN("unknown kind", table[0].kind = 77);
    BROKEN("twice", table[1].kind = BVT_SECTION_META);
    BROKEN("outside", table[8].bytes = UINT64_MAX - 3);
    BROKEN("outside", table[2].offset -= 64);
    BROKEN("outside", table[3].offset += 4);
    BROKEN("does not fit its count", table[2].count++);
    BROKEN("gap", file[table[0].offset + table[0].bytes] = 1);
    BROKEN("end of the file", file[file_bytes - 1] = 1; table[8].bytes = 0; table[8].count = 0);
    BROKEN("NAMES", names[0] = 'a');
    BROKEN("META", ((uint8_t *)sample_section(file, BVT_SECTION_META))[0] = 3);
    BROKEN("META", ((uint8_t *)sample_section(file, BVT_SECTION_META))[0] = 1);
    BROKEN("META: entry 0", ((uint8_t *)sample_section(file, BVT_SECTION_META))[12] = 9);
    BROKEN("LABELS", table[7].count = 9);
    BROKEN("LABELS", file[table[7].offset + table[7].bytes - 1] = 'x');
    BROKEN("GOLDEN: its size", table[6].count = 1);
    BROKEN("GOLDEN", table[6].count = 3);
    BROKEN("GOLDEN: its size", table[6].count = UINT32_MAX);
    BROKEN("GOLDEN: its size", table[6].count = 0);
    BROKEN("GOLDEN: its size", golden[0].kind = BVT_GOLDEN_GENERATED);
    BROKEN("GOLDEN: its size", golden[1].kind = BVT_GOLDEN_STORED; golden[1].seed = 0);
    BROKEN("GOLDEN: its size", table[6].bytes -= 4; memset((uint8_t *)golden + table[6].bytes, 0, 4));
    BROKEN("GOLDEN: its size", memset((uint8_t *)golden + 31, 0, table[6].bytes - 31); table[6].bytes = 31);
    BROKEN("pair 1: unknown kind 2", golden[1].kind = 2);
    BROKEN("pair 0: a reserved", golden[0].reserved = 1);
    BROKEN("pair 1: a reserved", golden[1].reserved = 1);
    BROKEN("pair 0: a reserved", golden[0].seed = 1);
    BROKEN("PREPROCESS", preprocess->width = 25);
    BROKEN("PREPROCESS", preprocess->colour = BVT_COLOUR_GRAY);
    BROKEN("PREPROCESS", preprocess->std[1] = 0);
    BROKEN("PREPROCESS", preprocess->resize_short = 20);
    BROKEN("PREPROCESS", preprocess->filter = 3);
    BROKEN("PREPROCESS: mean and std", preprocess->mean[0] = NAN);
    BROKEN("PREPROCESS: mean and std", preprocess->mean[2] = -INFINITY);
    BROKEN("PREPROCESS: mean and std", preprocess->std[0] = NAN);
    BROKEN("PREPROCESS: mean and std", preprocess->std[2] = INFINITY);
    BROKEN("absent channel", preprocess->mean[3] = 1);
    BROKEN("absent channel", preprocess->std[3] = NAN);
}

/* Text must be UTF-8, and labels must be printable. The sample's strings are overwritten in place. */
static void test_text(void) {
    static const struct {
        const char *bytes;
        bool good;
    } texts[] = {
        {"\xC3\xA9", true},          {"\xE2\x82\xAC", true},     {"\xF0\x9F\x90\x8E", true}, {"\xF4\x8F\xBF\xBF", true},
        {"\xED\x9F\xBF", true},      {"\xC3", false},           {"\xA9", false},             {"\xC0\x80", false},
        {"\xE0\x80\x80", false},     {"\xED\xA0\x80", false},   {"\xF0\x80\x80\x80", false}, {"\xF4\x90\x80\x80", false},
        {"\xF5\x80\x80\x80", false}, {"\xFF\xFE", false},       {"\xE2\x82", false},         {"\xE2\x28\xA1", false},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const size_t n = strlen(texts[i].bytes);
        /* NAMES "name", META key "name", META value "sample", LABELS "zero": all have room for four bytes. */
        static const struct {
            uint32_t kind, at;
            const char *text;
        } places[] = {{BVT_SECTION_NAMES, 1, "NAMES: it is not UTF-8"},
                      {BVT_SECTION_META, 8, "META: entry 0 is not UTF-8"},
                      {BVT_SECTION_META, 20, "META: entry 0 is not UTF-8"},
                      {BVT_SECTION_LABELS, 0, "LABELS: it is not UTF-8"}};
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            if (!texts[i].good) {
                BROKEN(places[p].text, memcpy((uint8_t *)sample_section(file, places[p].kind) + places[p].at, texts[i].bytes, n));
                continue;
            }
            bvt_model *model;
            bvt_error err = {0};
            file = sample_model(&file_bytes, 8);
            memcpy((uint8_t *)sample_section(file, places[p].kind) + places[p].at, texts[i].bytes, n);
            sample_seal(file, file_bytes);
            CHECK(!bvt_open_memory(file, file_bytes, &model, &err), "text %zu in place %zu: %s", i, p, err.text);
            bvt_close(model);
            free(file);
        }
    }
    BROKEN("value 3: its name", memcpy(names + 1, "\xC3\xA9", 2); values[3].name = 2);
    BROKEN("op 2: its name", memcpy(names + 1, "\xC3\xA9", 2); ops[2].module = 2);
    BROKEN("LABELS: a label holds a control", ((uint8_t *)sample_section(file, BVT_SECTION_LABELS))[1] = 0x1B);
    BROKEN("LABELS: a label holds a control", ((uint8_t *)sample_section(file, BVT_SECTION_LABELS))[1] = '\n');
    BROKEN("LABELS: a label holds a control", ((uint8_t *)sample_section(file, BVT_SECTION_LABELS))[1] = 0x7F);
}

/* What the header asks for is what the values and the scratch need. */
static void test_memory(void) {
    const uint64_t large = (uint64_t)1 << (sizeof(size_t) > 4 ? 36 : 27); /* within the address space */
    BROKEN("arena_bytes is", header->arena_bytes = large);
    BROKEN("arena_bytes is", header->arena_bytes += 64);
    BROKEN("tile_bytes is", header->tile_bytes = large);
    BROKEN("tile_bytes is", header->tile_bytes += 64);
    BROKEN("arena_bytes is", header->arena_bytes = large; values[4].offset = header->arena_bytes - values[4].bytes);
    BROKEN("more than it needs", header->arena_bytes = large; values[4].bytes = header->arena_bytes - values[4].offset);
    BROKEN("more than it needs", header->tile_bytes = large; values[3].bytes = large / 64);
}

/* Constants in fewer bytes: the last two values are the classifier's, I8 and F16; the stencil's are F16. */
static void test_stored(void) {
    enum { MATRIX = 1, BIAS = 2 };
#define STORED(i) values[ops[DENSE_OUT].inputs[i]]
    BROKEN("unknown form", STORED(MATRIX).stored = 3);
    BROKEN("its stored form", STORED(MATRIX).stored = BVT_STORED_F16);
    BROKEN("its stored form", STORED(BIAS).bytes += 2);
    BROKEN("its stored form", STORED(BIAS).cols = 12; STORED(BIAS).stride = 48);
    BROKEN("its stored form", STORED(MATRIX).rows = STORED(MATRIX).cols = 1 << 24; STORED(MATRIX).stride = 1 << 26);
    BROKEN("only dense f32", STORED(MATRIX).stride += 4);
    BROKEN("only dense f32", STORED(MATRIX).dtype = BVT_DTYPE_I32);
    BROKEN("only dense f32", values[ops[BGEMM_Q].inputs[1]].stored = BVT_STORED_I8);
    BROKEN("only dense f32", values[4].stored = BVT_STORED_F16);
    BROKEN("only dense f32", values[0].stored = BVT_STORED_F16);
    BROKEN("a reserved field", values[ops[DENSE].inputs[1]].widened = 64);
    BROKEN("outside of its memory", STORED(MATRIX).offset = table[4].bytes);
    BROKEN("outside of its memory", STORED(MATRIX).offset += 4);
    /* The widened memory: too small, too large, overlapping, misaligned, out of order; bytes of the file that are widened twice. */
    BROKEN("widened_bytes is", header->widened_bytes -= 64);
    BROKEN("widened_bytes is", header->widened_bytes = 0);
    BROKEN("widened_bytes is", header->widened_bytes += 64);
    BROKEN("widened_bytes is", header->widened_bytes = UINT64_MAX);
    BROKEN("does not follow", STORED(MATRIX).widened = 0);
    BROKEN("does not follow", STORED(BIAS).widened -= 64);
    BROKEN("does not follow", STORED(BIAS).widened += 4);
    BROKEN("does not follow", STORED(BIAS).widened = UINT64_MAX - 63);
    BROKEN("does not follow", STORED(BIAS).offset = STORED(MATRIX).offset);
    BROKEN("does not follow", STORED(BIAS).offset = 0);
    BROKEN("does not follow", const bvt_rec_value first = STORED(MATRIX); STORED(MATRIX) = STORED(BIAS); STORED(BIAS) = first);
    BROKEN("the bias has the wrong", ops[DENSE_OUT].inputs[BIAS] = ops[STENCIL].inputs[1]);
#undef STORED
}

/* Widening is exact, and no rounding mode of the caller's reaches it. */
static void test_widening(void) {
    static uint16_t halves[1 << 16];
    static float wide[1 << 16];
    for (uint32_t i = 0; i < 1 << 16; i++) halves[i] = (uint16_t)i;
    const bvt_rec_value all = {.rows = 256, .cols = 256, .stored = BVT_STORED_F16};
    bvt_widen(&all, (const uint8_t *)halves, wide);
    for (uint32_t i = 0; i < 1 << 16; i++) {
        const int exponent = (int)(i >> 10 & 31), fraction = (int)(i & 1023);
        double expected = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        if (exponent == 31) expected = fraction ? NAN : INFINITY;
        if (i >> 15) expected = -expected;
        CHECK(isnan(expected) ? isnan(wide[i]) : wide[i] == (float)expected && !signbit(wide[i]) == !(i >> 15), "half %04x: %g", i,
              (double)wide[i]);
    }
    bvt_model *model;
    bvt_error err;
    float once[3 * 24 * 24], again[3 * 24 * 24];
    file = sample_model(&file_bytes, 8);
    bvt_rec_op *ops = sample_section(file, BVT_SECTION_OPS);
    bvt_rec_value *values = sample_section(file, BVT_SECTION_VALUES), *v = &values[ops[DENSE_OUT].inputs[1]];
    const float *scales = (const float *)(const void *)((uint8_t *)sample_section(file, BVT_SECTION_CONSTANTS) + v->offset);
    const int8_t *codes = (const int8_t *)(scales + v->cols);
    bvt_generate(77, 72, 24, once);
    for (int mode = 0; mode < 2; mode++) {
        fesetround(mode ? FE_UPWARD : FE_TONEAREST);
        CHECK(!bvt_open_memory(file, file_bytes, &model, &err), "the sample: %s", err.text);
        bvt_golden_input(model, 1, again);
        CHECK(fegetround() == (mode ? FE_UPWARD : FE_TONEAREST), "the caller's rounding mode");
        fesetround(FE_TONEAREST);
        const float *got = (const float *)(const void *)(model->widened + v->widened);
        for (uint32_t i = 0; i < v->rows * v->cols; i++) {
            volatile float product = (float)codes[i] * scales[i % v->cols];
            CHECK(got[i] == product, "int8 %u: %g", i, (double)got[i]);
        }
        CHECK(!memcmp(once, again, sizeof once), "the generated input");
        CHECK(bvt_golden_output(model, 1)[0] == 3 * 24 * 24 + 10, "the second output");
        bvt_golden_input(model, 0, again);
        CHECK(again[5] == 5 && bvt_golden_output(model, 0)[9] == 3 * 24 * 24 + 9, "the stored pair");
        CHECK(bvt_info(model).widened_bytes == model->header->widened_bytes && model->header->widened_bytes > 0, "sizes");
        CHECK(!strcmp(bvt_get_value(model, ops[DENSE_OUT].inputs[1]).stored, "i8"), "stored");
        bvt_close(model);
    }
    free(file);
    bvt_generate(78, 72, 24, again);
    CHECK(memcmp(once, again, sizeof once), "seeds differ");
    for (int i = 0; i < 72 * 24; i++) CHECK(once[i] >= -2 && once[i] < 2, "range");
}

static void test_values(void) {
    BROKEN("value 3: its name", values[3].name = 1000);
    BROKEN("unknown dtype", values[3].dtype = BVT_DTYPE_F16 + 1);
    BROKEN("unknown storage", values[3].storage = 0);
    BROKEN("unknown layout", values[3].layout = BVT_LAYOUT_LUT + 1);
    BROKEN("unknown layout", values[3].layout = 6); /* an older LUT */
    BROKEN("", (values[3].layout = BVT_LAYOUT_LUT, values[3].cols = 0));
    BROKEN("reserved", values[3].reserved = 1);
    BROKEN("rows and cols", values[3].rows = 0);
    BROKEN("rows and cols", values[3].cols = (1 << 24) + 1);
    BROKEN("stride", values[3].stride -= 4);
    BROKEN("stride", values[4].stride += 2);
    BROKEN("bytes do not hold", values[4].bytes -= 1);
    BROKEN("outside of its memory", values[4].offset += 4);
    BROKEN("outside of its memory", values[4].offset = UINT64_MAX - 63);
    BROKEN("outside of its memory", values[4].offset = header->arena_bytes);
    BROKEN("dense f32", values[0].stride += 4; values[0].bytes += 400);
    BROKEN("1 outputs", values[4].storage = BVT_STORAGE_INPUT; values[4].offset = 0);
    BROKEN("only bits", values[4].layout = BVT_LAYOUT_COLS);
    BROKEN("a layout of weights is for constants", values[5].layout = BVT_LAYOUT_LANES16);
    BROKEN("for each other", values[3].dtype = BVT_DTYPE_I8);
    BROKEN("for each other", values[ops[BGEMM_Q].inputs[1]].dtype = BVT_DTYPE_I8);
    BROKEN("for each other", values[ops[BGEMM_Q].inputs[1]].layout = BVT_LAYOUT_QUADS);
    BROKEN("i8 is for constants", values[4].dtype = BVT_DTYPE_I8; values[4].layout = BVT_LAYOUT_QUADS);
    BROKEN("stride", bvt_rec_value *v = &values[ops[DENSE].inputs[1]]; v->dtype = BVT_DTYPE_I8; v->layout = BVT_LAYOUT_QUADS;
           v->stride = 128 * ((v->cols + 7) / 8) - 16);
    BROKEN("stride", bvt_rec_value *v = &values[ops[DENSE].inputs[1]]; v->dtype = BVT_DTYPE_I8; v->layout = BVT_LAYOUT_QUADS;
           v->stride = 128 * ((v->cols + 7) / 8) + 8);
    BROKEN("bytes do not hold", bvt_rec_value *v = &values[ops[DENSE].inputs[1]]; v->dtype = BVT_DTYPE_I8;
           v->layout = BVT_LAYOUT_QUADS; v->stride = 128 * ((v->cols + 7) / 8); v->bytes = (v->rows + 15) / 16 * v->stride - 1);
    BROKEN("the weight has the wrong", bvt_rec_value *v = &values[ops[DENSE].inputs[1]]; v->dtype = BVT_DTYPE_I8;
           v->layout = BVT_LAYOUT_QUADS; v->stride = 128 * ((v->cols + 7) / 8); v->bytes = (v->rows + 15) / 16 * v->stride);
    BROKEN("only dense f32", bvt_rec_value *v = &values[ops[DENSE].inputs[1]]; v->dtype = BVT_DTYPE_I8;
           v->layout = BVT_LAYOUT_QUADS; v->stride = 128 * ((v->cols + 7) / 8); v->stored = BVT_STORED_F16);
    BROKEN("cols cannot be in tile", values[5].layout = BVT_LAYOUT_COLS);
}

static void test_groups(void) {
    BROKEN("group 0", groups[0].n_ops = 0);
    BROKEN("group 1", groups[1].first_op--);
    BROKEN("group 4", groups[4].n_ops = 0xFFFFFFFF);
    BROKEN("left over", groups[4].n_ops = 1; ops[MEAN_ROWS].outputs[0] = 1; values[1].cols = 32; values[1].stride = 128;
           values[1].bytes = 128);
    BROKEN("block", groups[0].block = 12);
    BROKEN("block", groups[0].block = 0);
    BROKEN("block", groups[0].block = 40);
    BROKEN("rows of its group", groups[1].rows = 28);
    BROKEN("tile memory", values[2].bytes = 8 * values[2].stride - 1);
    BROKEN("tile memory", ops[ATTENTION].scratch = (uint32_t)header->tile_bytes);
    BROKEN("before it was produced", ops[ATTENTION].inputs[0] = ops[ATTENTION].inputs[1] = ops[EPILOGUE_A].outputs[1]);
    BROKEN("its own group produces", ops[ATTENTION].inputs[1] = ops[EPILOGUE].outputs[1]; groups[0].n_ops += 2;
           groups[1].first_op += 2; groups[1].n_ops -= 2; groups[1].n_ops += 3; groups[2].first_op += 3; groups[2].n_ops -= 3);
    BROKEN("written twice", ops[EPILOGUE_K].outputs[1] = ops[EPILOGUE_Q].outputs[1]);
    BROKEN("constant or the input", values[ops[EPILOGUE].outputs[0]].storage = BVT_STORAGE_CONST;
           values[ops[EPILOGUE].outputs[0]].offset = 0);
}

static void test_ops(void) {
    BROKEN("op 0 (none", ops[0].opcode = 0);
    BROKEN("unknown opcode", ops[0].opcode = BVT_OPCODE_END);
    BROKEN("op 0: its name", ops[0].name = 1 << 30);
    BROKEN("an input is not a value", ops[1].inputs[0] = 5000);
    BROKEN("an output is not a value", ops[1].outputs[0] = 5000);
    BROKEN("an input is missing", ops[DENSE].inputs[1] = BVT_NONE);
    BROKEN("an input too many", ops[DENSE].inputs[3] = 0);
    BROKEN("an output is missing", ops[DENSE].outputs[0] = BVT_NONE);
    BROKEN("an output too many", ops[DENSE].outputs[1] = 5);
    BROKEN("reserved", ops[DENSE].reserved[1] = 1);
    BROKEN("unused attribute", ops[DENSE].attr[0] = 1);
    BROKEN("unused attribute", ops[DENSE].fattr[2] = 1);
    BROKEN("op 0 (patches name): the kernel", ops[PATCHES].attr[3] = 25);
    BROKEN("must be positive", ops[PATCHES].attr[4] = 0);
    BROKEN("must be positive", ops[PATCHES].attr[0] = -3);
    BROKEN("the image has the wrong", ops[PATCHES].attr[0] = 1 << 30);
    BROKEN("the weight has the wrong", values[ops[DENSE].inputs[1]].cols = 31);
    BROKEN("the bias has the wrong", ops[DENSE].inputs[2] = ops[DENSE].inputs[1]);
    BROKEN("the weight has the wrong", values[ops[BGEMM_Q].inputs[1]].rows = 31);
    BROKEN("x has the wrong", ops[BGEMM_Q].inputs[0] = ops[EPILOGUE].outputs[0]);
    BROKEN("heads", ops[ATTENTION].attr[0] = 3);
    BROKEN("heads", ops[ATTENTION].attr[0] = 0);
    BROKEN("heads", ops[ATTENTION].attr[0] = -2);
    BROKEN("limit has the wrong", ops[ATTENTION].attr[0] = 4);
    BROKEN("the table increases", constants[values[ops[ATTENTION].inputs[3]].offset + 8 * 3 + 5] = 1);
    BROKEN("too large", for (int i = 0; i < 17; i++) constants[values[ops[ATTENTION].inputs[3]].offset + 8 * i + 6] = 16);
    BROKEN("its scratch", ops[ATTENTION].scratch = 64);
    BROKEN("its scratch", ops[ATTENTION].scratch += 8);
    BROKEN("its scratch", ops[ATTENTION].scratch = 1 << 30);
    BROKEN("rows and factor", ops[EPILOGUE_S].attr[4] = 3);
    BROKEN("table of rows is missing", ops[EPILOGUE_S].attr[4] = 0);
    BROKEN("absent residual", ops[EPILOGUE_S].attr[5] = 2);
    BROKEN("grid and factor", ops[EPILOGUE_S].attr[0] = 9);
    BROKEN("grid and factor", ops[EPILOGUE_S].attr[0] = 0);
    BROKEN("a parameter has the wrong", ops[EPILOGUE].inputs[BVT_EP_SCALE] = ops[DENSE].inputs[1]);
    BROKEN("pair up", ops[EPILOGUE].inputs[BVT_EP_THRESHOLD0] = BVT_NONE);
    BROKEN("no output", ops[EPILOGUE_S].outputs[0] = BVT_NONE);
    BROKEN("the kernel is larger", ops[AVG_POOL].attr[2] = 7);
    BROKEN("the output has the wrong", ops[ROW_PATCHES].attr[3] = 1);
    BROKEN("channels to pool", ops[CHANNEL_POOL].attr[0] = -2);
    BROKEN("x has the wrong", ops[CHANNEL_POOL].attr[0] = 4);
    BROKEN("taps", ops[STENCIL].attr[2] = 17);
    BROKEN("boundary", ops[STENCIL].attr[3] = 2);
    BROKEN("malformed", ops[STENCIL].attr[5] = 128);
    BROKEN("malformed", ops[STENCIL].attr[5] = 1 << 16);
    BROKEN("leaves the grid", ops[STENCIL].attr[5] = 6);
}

/* Every byte of a file is covered by a checksum or known to be zero: no damaged bit goes unseen. Nor does a missing end. */
static void test_damage(void) {
    size_t bytes;
    uint8_t *good = sample_model(&bytes, 8);
    bvt_model *model;
    for (size_t i = 0; i < bytes; i += 1 + below(13)) {
        const uint8_t flip = (uint8_t)(1u << below(8));
        good[i] ^= flip;
        int code = bvt_open_memory(good, bytes, &model, NULL);
        CHECK(code == BVT_E_FORMAT, "bit flip in byte %zu: %d", i, code);
        if (!code) bvt_close(model);
        good[i] ^= flip;
    }
    for (size_t n = 0; n < bytes; n = n < 1024 ? n + 1 : n + 509) {
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, good, n);
        CHECK(bvt_open_memory(cut, n, &model, NULL) == BVT_E_FORMAT, "truncated to %zu bytes", n);
        free(cut);
    }
    free(good);
}

static void test_good(void) {
    bvt_model *model;
    bvt_error err;
    file = sample_model(&file_bytes, 8);
    CHECK(!bvt_open_memory(file, file_bytes, &model, &err), "the sample: %s", err.text);
    const bvt_model_info info = bvt_info(model);
    CHECK(info.input_rows == 72 && info.input_cols == 24 && info.output_rows == 1 && info.output_cols == 10, "sizes");
    CHECK(info.n_ops == 20 && info.n_groups == 5 && info.n_sections == 9 && info.n_labels == 10 && info.n_meta == 2 &&
              info.n_golden == 2,
          "counts");
    CHECK(!strcmp(bvt_get_label(model, 9), "nine"), "labels");
    CHECK(!strcmp(bvt_get_op(model, ATTENTION).kind, "attention") && bvt_get_op(model, ATTENTION).group == 1 &&
              bvt_get_op(model, ATTENTION).cols == 32,
          "ops");
    bvt_meta_info e;
    CHECK(bvt_find_meta(model, "name", &e) && e.type == BVT_META_TYPE_STR && e.value_bytes == 6 && !memcmp(e.value, "sample", 6),
          "meta");
    CHECK(bvt_find_meta(model, "n", &e) && e.type == BVT_META_TYPE_U64 && ((const uint8_t *)e.value)[0] == 7, "meta");
    CHECK(!bvt_find_meta(model, "nam", &e), "meta");
    CHECK(bvt_get_preprocess(model).present && !strcmp(bvt_get_preprocess(model).filter, "bicubic"), "preprocess");
    bvt_close(model);
    /* Unaligned memory is copied. */
    uint8_t *shifted = malloc(file_bytes + 1);
    memcpy(shifted + 1, file, file_bytes);
    CHECK(!bvt_open_memory(shifted + 1, file_bytes, &model, &err), "unaligned: %s", err.text);
    free(shifted);
    CHECK(!strcmp(bvt_get_label(model, 0), "zero"), "the copy");
    bvt_close(model);
    /* From a file. */
    char path[] = "/tmp/bvt_test_XXXXXX";
    const int fd = mkstemp(path);
    FILE *f = fdopen(fd, "wb");
    CHECK(fwrite(file, 1, file_bytes, f) == file_bytes, "writing");
    fclose(f);
    CHECK(!bvt_open(path, &model, &err), "open: %s", err.text);
    bvt_close(model);
    remove(path);
    CHECK(bvt_open(path, &model, &err) == BVT_E_IO && !model, "a missing file");
    CHECK(!mkfifo(path, 0600) && bvt_open(path, &model, &err) == BVT_E_IO && strstr(err.text, "regular"), "a FIFO: %s", err.text);
    remove(path);
    CHECK(bvt_open("/", &model, &err) == BVT_E_IO, "a folder");
    CHECK(bvt_open("/dev/null", &model, &err) == BVT_E_IO, "a device");
    CHECK(bvt_open(NULL, &model, &err) == BVT_E_ARGUMENT && bvt_open_memory(NULL, 0, &model, &err) == BVT_E_ARGUMENT,
          "no argument");
    bvt_close(NULL);
    free(file);
}

int main(void) {
    test_good();
    test_structure();
    test_text();
    test_memory();
    test_stored();
    test_widening();
    test_values();
    test_groups();
    test_ops();
    test_damage();
    return finish("test_load");
}
