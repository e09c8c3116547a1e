/* A small complete model, made in memory: every op, storage and layout, upsampled and tiled residuals. Tests load it, break it,
 * and run it. */
#ifndef SAMPLE_H
#define SAMPLE_H
#include <stdlib.h>
#include <string.h>

#include "harness.h"
#include "internal.h"
#include "ops/epilogue.h"

enum { SAMPLE_MAX = 64, SAMPLE_CONST = 1 << 17 };

typedef struct {
    bvt_rec_value values[SAMPLE_MAX];
    bvt_rec_op ops[SAMPLE_MAX];
    bvt_rec_group groups[SAMPLE_MAX];
    uint8_t constants[SAMPLE_CONST];
    uint32_t n_values, n_ops, n_groups, block;
    uint64_t constant_bytes, arena, tile, scratch, widened;
} sample;

static uint32_t sample_value(sample *s, int dtype, int storage, int layout, uint32_t rows, uint32_t cols) {
    bvt_rec_value *v = &s->values[s->n_values];
    *v = (bvt_rec_value){
        .name = 1, .dtype = (uint8_t)dtype, .storage = (uint8_t)storage, .layout = (uint8_t)layout, .rows = rows, .cols = cols};
    uint32_t count = rows;
    const uint32_t element = dtype == BVT_DTYPE_U64 || dtype == BVT_DTYPE_F64 ? 8 : dtype == BVT_DTYPE_I16 ? 2 : 4;
    v->stride = dtype == BVT_DTYPE_BITS ? (cols + 7) / 8 : cols * element;
    if (layout == BVT_LAYOUT_COLS) v->stride = (rows + 63) / 64 * 8, count = cols;
    if (layout == BVT_LAYOUT_LANES16) v->stride = (cols + 7) / 8 * 16, count = (rows + 15) / 16;
    v->bytes = (uint64_t)v->stride * count;
    uint64_t *memory = storage == BVT_STORAGE_CONST   ? &s->constant_bytes
                       : storage == BVT_STORAGE_ARENA ? &s->arena
                       : storage == BVT_STORAGE_TILE  ? &s->tile
                                                      : NULL;
    if (memory) v->offset = *memory, *memory += bvt_align64(v->bytes);
    return s->n_values++;
}

static uint32_t sample_floats(sample *s, uint32_t rows, uint32_t cols) {
    uint32_t v = sample_value(s, BVT_DTYPE_F32, BVT_STORAGE_CONST, BVT_LAYOUT_ROWS, rows, cols);
    float *to = (float *)(void *)(s->constants + s->values[v].offset);
    for (uint32_t i = 0; i < rows * cols; i++) to[i] = ((float)below(2001) - 1000.0f) / 1000.0f;
    return v;
}

/* f32 constants in fewer bytes: BVT_STORED_F16 or BVT_STORED_I8. */
static uint32_t sample_stored(sample *s, int form, uint32_t rows, uint32_t cols) {
    const uint32_t index = sample_value(s, BVT_DTYPE_F32, BVT_STORAGE_CONST, BVT_LAYOUT_ROWS, rows, cols);
    bvt_rec_value *v = &s->values[index];
    uint8_t *to = s->constants + v->offset;
    v->stored = (uint8_t)form;
    v->bytes = bvt_stored_bytes(v);
    v->widened = s->widened;
    s->widened += bvt_align64(4 * (uint64_t)rows * cols);
    s->constant_bytes = v->offset + bvt_align64(v->bytes);
    if (form == BVT_STORED_F16) /* 2^-5 .. 1, both signs */
        for (uint32_t i = 0; i < rows * cols; i++) ((uint16_t *)(void *)to)[i] = (uint16_t)((rng() & 0x83FF) | range(10, 14) << 10);
    if (form == BVT_STORED_I8) {
        for (uint32_t i = 0; i < cols; i++) ((float *)(void *)to)[i] = (float)range(1, 100) / 1000.0f;
        for (uint32_t i = 0; i < rows * cols; i++) to[4 * cols + i] = (uint8_t)rng();
    }
    return index;
}

static uint32_t sample_weight(sample *s, uint32_t outputs, uint32_t k) {
    uint32_t v = sample_value(s, BVT_DTYPE_BITS, BVT_STORAGE_CONST, BVT_LAYOUT_LANES16, outputs, k);
    for (uint32_t o = 0; o < outputs; o++)
        for (uint32_t c = 0; c < k; c++)
            s->constants[s->values[v].offset + o / 16 * s->values[v].stride + c / 8 * 16 + o % 16] |=
                (uint8_t)((rng() & 1) << c % 8);
    return v;
}

static void sample_group(sample *s, uint32_t rows) {
    s->groups[s->n_groups++] =
        (bvt_rec_group){.first_op = s->n_ops, .rows = rows, .block = s->block && s->block < rows ? s->block : rows};
}

static bvt_rec_op *sample_op(sample *s, int opcode, const uint32_t *in, unsigned n_in, uint32_t out) {
    bvt_rec_op *op = &s->ops[s->n_ops++];
    s->groups[s->n_groups - 1].n_ops++;
    *op = (bvt_rec_op){.opcode = (uint32_t)opcode, .name = 1, .module = 1, .macs_binary = 1};
    for (unsigned i = 0; i < BVT_N_IN; i++) op->inputs[i] = i < n_in ? in[i] : BVT_NONE;
    for (unsigned i = 0; i < BVT_N_OUT; i++) op->outputs[i] = BVT_NONE;
    op->outputs[0] = out;
    return op;
}
#define SAMPLE_OP(s, opcode, out, ...) sample_op(s, opcode, (uint32_t[]){__VA_ARGS__}, sizeof((uint32_t[]){__VA_ARGS__}) / 4, out)

/* x -> scale, shift -> f32 `real` (or NONE) and `bits` (or NONE). */
static bvt_rec_op *sample_epilogue(sample *s, uint32_t x, uint32_t real, uint32_t bits) {
    const uint32_t cols = s->values[x].cols;
    bvt_rec_op *op = SAMPLE_OP(s, BVT_OP_EPILOGUE, real, x);
    op->inputs[BVT_EP_SCALE] = sample_floats(s, 1, cols);
    op->inputs[BVT_EP_SHIFT] = sample_floats(s, 1, cols);
    if (bits != BVT_NONE) op->inputs[BVT_EP_THRESHOLD0] = sample_floats(s, 1, cols);
    op->outputs[1] = bits;
    for (int i = 1; i <= 6; i++) op->attr[i] = 1;
    return op;
}

static uint8_t *sample_write(const sample *s, size_t *bytes);

/* The file, aligned to 64, to be freed. block: rows of a block, 0 for all rows. */
static uint8_t *sample_model(size_t *bytes, uint32_t block) {
    enum { F32 = BVT_DTYPE_F32, I16 = BVT_DTYPE_I16, BITS = BVT_DTYPE_BITS, ROWS = BVT_LAYOUT_ROWS, COLS = BVT_LAYOUT_COLS };
    enum { ARENA = BVT_STORAGE_ARENA, TILE = BVT_STORAGE_TILE };
    enum { N = 36, C = 32, HEADS = 2, D = C / HEADS };
    sample *s = calloc(1, sizeof *s);
    s->block = block;
    rng_state = 42;
    uint32_t input = sample_value(s, F32, BVT_STORAGE_INPUT, ROWS, 3 * 24, 24),
             output = sample_value(s, F32, BVT_STORAGE_OUTPUT, ROWS, 1, 10);
    bvt_rec_op *op;

    sample_group(s, N); /* patch embedding, q, k, v */
    uint32_t patches = sample_value(s, F32, TILE, ROWS, N, 48), embedded = sample_value(s, F32, TILE, ROWS, N, C);
    uint32_t h = sample_value(s, F32, ARENA, ROWS, N, C), h_bits = sample_value(s, BITS, TILE, ROWS, N, C);
    op = SAMPLE_OP(s, BVT_OP_PATCHES, patches, input);
    memcpy(op->attr, (int32_t[]){3, 24, 24, 4, 4}, 20);
    SAMPLE_OP(s, BVT_OP_DENSE, embedded, patches, sample_floats(s, 48, C), sample_floats(s, 1, C));
    sample_epilogue(s, embedded, h, h_bits);
    uint32_t qkv[3];
    for (int i = 0; i < 3; i++) {
        uint32_t dots = sample_value(s, I16, TILE, ROWS, N, C);
        qkv[i] = sample_value(s, BITS, ARENA, i == 2 ? COLS : ROWS, N, C);
        SAMPLE_OP(s, BVT_OP_BGEMM, dots, h_bits, sample_weight(s, C, C));
        sample_epilogue(s, dots, BVT_NONE, qkv[i]);
    }

    sample_group(s, N); /* attention, residual */
    uint32_t table = sample_value(s, BVT_DTYPE_U64, BVT_STORAGE_CONST, ROWS, 1, D + 1),
             limit = sample_value(s, BVT_DTYPE_F64, BVT_STORAGE_CONST, ROWS, 1, HEADS);
    for (unsigned i = 0; i <= D; i++) ((uint64_t *)(void *)(s->constants + s->values[table].offset))[i] = 1000000u >> i;
    for (unsigned i = 0; i < HEADS; i++) ((double *)(void *)(s->constants + s->values[limit].offset))[i] = 0.02;
    uint32_t context = sample_value(s, I16, TILE, ROWS, N, C), mixed = sample_value(s, F32, ARENA, ROWS, N, C),
             mixed_bits = sample_value(s, BITS, ARENA, ROWS, N, C);
    op = SAMPLE_OP(s, BVT_OP_ATTENTION, context, qkv[0], qkv[1], qkv[2], table, limit);
    op->attr[0] = HEADS;
    op->scratch = (uint32_t)bvt_align64(16 * N) + (uint32_t)bvt_align64(16 * 5);
    s->scratch = op->scratch;
    op = sample_epilogue(s, context, mixed, mixed_bits);
    op->inputs[1] = h;

    sample_group(s, 9); /* the smaller grid */
    uint32_t small = sample_value(s, F32, TILE, ROWS, 9, C), windows = sample_value(s, BITS, TILE, ROWS, 9, 4 * C),
             dots = sample_value(s, I16, TILE, ROWS, 9, C);
    uint32_t merged = sample_value(s, F32, TILE, ROWS, 9, C), pooled = sample_value(s, F32, ARENA, ROWS, 9, C / 2);
    op = SAMPLE_OP(s, BVT_OP_AVG_POOL, small, mixed);
    memcpy(op->attr, (int32_t[]){6, 6, 2, 2}, 16);
    op = SAMPLE_OP(s, BVT_OP_ROW_PATCHES, windows, mixed_bits);
    memcpy(op->attr, (int32_t[]){6, 6, 2, 2}, 16);
    SAMPLE_OP(s, BVT_OP_BGEMM, dots, windows, sample_weight(s, C, 4 * C));
    op = sample_epilogue(s, dots, merged, BVT_NONE);
    op->inputs[1] = small;
    for (int i = BVT_EP_SLOPE; i <= BVT_EP_POST; i++) op->inputs[i] = sample_floats(s, 1, C);
    op = SAMPLE_OP(s, BVT_OP_CHANNEL_POOL, pooled, merged);
    op->attr[0] = 2;

    sample_group(s, N); /* back to the larger grid */
    uint32_t shifted = sample_value(s, F32, TILE, ROWS, N, C), last = sample_value(s, F32, ARENA, ROWS, N, C);
    const uint32_t taps = sample_stored(s, BVT_STORED_F16, 3, C);
    op = SAMPLE_OP(s, BVT_OP_STENCIL, shifted, mixed, taps, sample_floats(s, 1, C));
    memcpy(op->attr, (int32_t[]){6, 6, 3, 1, 0, 255, 1 << 8}, 28);
    op = sample_epilogue(s, shifted, last, BVT_NONE);
    op->inputs[4] = pooled; /* half the channels, a quarter of the rows */
    op->attr[0] = 6;
    op->attr[4] = 2;

    sample_group(s, 1);
    uint32_t mean = sample_value(s, F32, TILE, ROWS, 1, C);
    SAMPLE_OP(s, BVT_OP_MEAN_ROWS, mean, last);
    const uint32_t matrix = sample_stored(s, BVT_STORED_I8, C, 10), bias = sample_stored(s, BVT_STORED_F16, 1, 10);
    SAMPLE_OP(s, BVT_OP_DENSE, output, mean, matrix, bias);
    uint8_t *file = sample_write(s, bytes);
    free(s);
    return file;
}

/* Recomputes the checksums, as far as the section table is sound. */
static inline void sample_seal(uint8_t *file, size_t bytes) {
    bvt_rec_header *header = (bvt_rec_header *)(void *)file;
    bvt_rec_section *table = (bvt_rec_section *)(void *)(file + sizeof *header);
    for (uint32_t i = 0; i < header->n_sections; i++)
        if (table[i].offset <= bytes && table[i].bytes <= bytes - table[i].offset)
            table[i].crc = bvt_crc32(0, file + table[i].offset, (size_t)table[i].bytes);
    header->table_crc = bvt_crc32(0, table, header->n_sections * sizeof *table);
    header->header_crc = bvt_crc32(0, header, sizeof *header - 4);
}

static inline void *sample_section(uint8_t *file, uint32_t kind) {
    bvt_rec_section *table = (bvt_rec_section *)(void *)(file + sizeof(bvt_rec_header));
    for (uint32_t i = 0; i < ((bvt_rec_header *)(void *)file)->n_sections; i++)
        if (table[i].kind == kind) return file + table[i].offset;
    abort();
}

static uint8_t *sample_write(const sample *s, size_t *bytes) {
    static const char names[] = "\0name"; /* with its final NUL */
    static const char labels[] = "zero\0one\0two\0three\0four\0five\0six\0seven\0eight\0nine";
    static const char meta[] = "\2\0\0\0"
                               "\4\0\0\0name"
                               "\3\0\0\0"
                               "\6\0\0\0sample"
                               "\1\0\0\0n"
                               "\1\0\0\0"
                               "\10\0\0\0"
                               "\7\0\0\0\0\0\0\0";
    static const bvt_rec_preprocess preprocess = {.width = 24,
                                                  .height = 24,
                                                  .channels = 3,
                                                  .colour = BVT_COLOUR_RGB,
                                                  .resize = BVT_RESIZE_SHORT_CROP,
                                                  .resize_short = 28,
                                                  .filter = BVT_FILTER_BICUBIC,
                                                  .mean = {.5f, .5f, .5f},
                                                  .std = {.2f, .2f, .2f}};
    enum { IN = 3 * 24 * 24, OUT = 10 };
    struct { /* two pairs: an input that is there, one that is made */
        bvt_rec_golden records[2];
        float numbers[IN + OUT + OUT];
    } *golden = calloc(1, sizeof *golden);
    golden->records[1] = (bvt_rec_golden){.kind = BVT_GOLDEN_GENERATED, .seed = 77};
    for (int i = 0; i < IN + OUT + OUT; i++) golden->numbers[i] = (float)i;
    const struct {
        uint32_t kind;
        const void *data;
        uint64_t bytes;
        uint32_t count;
    } sections[] = {
        {BVT_SECTION_META, meta, sizeof meta - 1, 2},
        {BVT_SECTION_VALUES, s->values, s->n_values * sizeof *s->values, s->n_values},
        {BVT_SECTION_OPS, s->ops, s->n_ops * sizeof *s->ops, s->n_ops},
        {BVT_SECTION_GROUPS, s->groups, s->n_groups * sizeof *s->groups, s->n_groups},
        {BVT_SECTION_CONSTANTS, s->constants, s->constant_bytes, 0},
        {BVT_SECTION_NAMES, names, sizeof names, 0},
        {BVT_SECTION_GOLDEN, golden, sizeof *golden, 2},
        {BVT_SECTION_LABELS, labels, sizeof labels, 10},
        {BVT_SECTION_PREPROCESS, &preprocess, sizeof preprocess, 1},
    };
    enum { COUNT = sizeof sections / sizeof *sections };
    uint64_t at = sizeof(bvt_rec_header) + COUNT * sizeof(bvt_rec_section), offsets[COUNT];
    for (int i = 0; i < COUNT; i++) offsets[i] = bvt_align64(at), at = offsets[i] + sections[i].bytes;
    at = bvt_align64(at);
    uint8_t *file;
    if (posix_memalign((void **)&file, 64, (size_t)at)) abort();
    memset(file, 0, (size_t)at);
    bvt_rec_section *table = (bvt_rec_section *)(void *)(file + sizeof(bvt_rec_header));
    for (int i = 0; i < COUNT; i++) {
        table[i] = (bvt_rec_section){
            .kind = sections[i].kind, .offset = offsets[i], .bytes = sections[i].bytes, .count = sections[i].count};
        memcpy(file + offsets[i], sections[i].data, (size_t)sections[i].bytes);
    }
    bvt_rec_header header = {.version = BVT_VERSION,
                             .header_bytes = 64,
                             .file_bytes = at,
                             .n_sections = COUNT,
                             .arena_bytes = s->arena,
                             .tile_bytes = s->tile + s->scratch,
                             .widened_bytes = s->widened};
    memcpy(header.magic, bvt_magic, 8);
    memcpy(file, &header, sizeof header);
    sample_seal(file, (size_t)at);
    free(golden);
    *bytes = (size_t)at;
    return file;
}

#endif
