/* Kernels by themselves, at the shapes that the networks have: timed on this machine, or run so often that instructions can be counted
 * (`bvtdeploy bench --kernels` does that).
 *
 *     cc -std=c11 -D_GNU_SOURCE -O3 -ffp-contract=off -Iinclude -Isrc bench/bench_kernels.c libbvt.a -pthread -lm -o bench_kernels
 *     bench_kernels [MILLISECONDS A KERNEL]                               times every kernel of every case
 *     bench_kernels list                                                  names the cases, and how many elements each has
 *     bench_kernels CASE REPEATS                                          runs the best kernel
 *     bench_kernels bgemm LAYOUT[-trits] ROWS K OUTPUTS BLOCK REPEATS     the same, of a product of bits or trits
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/epilogue_sets.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/bgemm.h"
#include "ops/dense_i8.h"

typedef struct {
    bvt_rec_op op;
    bvt_call call;
    uint32_t rows;   /* of the outputs */
    double elements; /* what times are given for: values, codes, scores, or multiply-adds */
} job;

static void *allocate(size_t bytes) {
    void *p;
    if (posix_memalign(&p, 64, bytes + 64)) abort();
    return p;
}

static size_t row_bytes(int dtype, uint32_t n) {
    switch (dtype) {
    case BVT_DTYPE_BITS: return (n + 63) / 64 * 8;
    case BVT_DTYPE_TRITS: return 2 * bvt_plane(n);
    case BVT_DTYPE_I16: return 2 * (size_t)n;
    case BVT_DTYPE_U64:
    case BVT_DTYPE_F64: return 8 * (size_t)n;
    default: return 4 * (size_t)n;
    }
}

/* Random codes, floats from -2 to 2, small integers. */
static bvt_view make(int dtype, int layout, uint32_t rows, uint32_t cols) {
    bvt_view v = {.rows = rows, .cols = cols, .dtype = (uint8_t)dtype, .layout = (uint8_t)layout, .by_cols = layout == BVT_LAYOUT_COLS};
    size_t count = v.by_cols ? cols : rows;
    v.stride = row_bytes(dtype, v.by_cols ? rows : cols);
    if (layout == BVT_LAYOUT_QUADS) v.stride = (cols + 7) / 8 * 128, count = (rows + 15) / 16;
    if (bvt_tile_channels(layout)) {
        v.stride = (size_t)bvt_tile_bytes(layout, cols);
        count = (rows + bvt_tile_channels(layout) - 1) / bvt_tile_channels(layout);
    }
    const size_t bytes = v.stride * count;
    v.base = allocate(bytes);
    for (size_t i = 0; i < bytes; i++) v.base[i] = (uint8_t)rand();
    if (dtype == BVT_DTYPE_TRITS) /* +1 is never where there is 0 */
        for (size_t r = 0; r < count; r++)
            for (size_t i = 0; i < v.stride / 2; i++) v.base[r * v.stride + i] &= v.base[r * v.stride + v.stride / 2 + i];
    for (size_t i = 0; layout == BVT_LAYOUT_TBL2 && i < bytes; i++) v.base[i] &= 31; /* its indices have 5 bits */
    for (size_t i = 0; dtype == BVT_DTYPE_F32 && i < bytes / 4; i++) ((float *)(void *)v.base)[i] = (float)(rand() % 2001 - 1000) / 500;
    for (size_t i = 0; dtype == BVT_DTYPE_I16 && i < bytes / 2; i++) ((int16_t *)(void *)v.base)[i] = (int16_t)(rand() % 193 - 96);
    for (size_t i = 0; dtype == BVT_DTYPE_I32 && i < bytes / 4; i++) ((int32_t *)(void *)v.base)[i] = rand() % 193 - 96;
    return v;
}

#define F32(rows, cols) make(BVT_DTYPE_F32, BVT_LAYOUT_ROWS, rows, cols)
#define I32(rows, cols) make(BVT_DTYPE_I32, BVT_LAYOUT_ROWS, rows, cols)
#define I16(rows, cols) make(BVT_DTYPE_I16, BVT_LAYOUT_ROWS, rows, cols)
#define BITS(layout, rows, cols) make(BVT_DTYPE_BITS, BVT_LAYOUT_##layout, rows, cols)
#define TRITS(layout, rows, cols) make(BVT_DTYPE_TRITS, BVT_LAYOUT_##layout, rows, cols)

/* ---- Cases --------------------------------------------------------------------------------------------------------------- */

static job start(int opcode, uint32_t rows, double elements) {
    return (job){.op = {.opcode = (uint32_t)opcode}, .rows = rows, .elements = elements};
}

/* x, the operands of a set, an f32 output if `real`, and `signs` outputs like `sign`. */
static job epilogue(bvt_view x, unsigned set, bool real, unsigned signs, bvt_view sign) {
    job j = start(BVT_OP_EPILOGUE, x.rows, (double)x.rows * x.cols);
    j.call.in[BVT_EP_X] = x;
    for (int i = BVT_EP_RES0; i < BVT_EP_THRESHOLD0; i++)
        if (set >> i & 1) j.call.in[i] = F32(i < BVT_EP_SCALE ? x.rows : 1, x.cols);
    for (int i = 1; i <= BVT_EP_RESIDUALS; i++) j.op.attr[i] = 1;
    if (real) j.call.out[0] = F32(x.rows, x.cols);
    for (unsigned i = 0; i < signs; i++) {
        bvt_view threshold = F32(sign.dtype == BVT_DTYPE_TRITS ? 2 : 1, x.cols);
        float *limit = (float *)(void *)threshold.base;
        if (sign.dtype == BVT_DTYPE_TRITS) /* low, then high */
            for (uint32_t c = 0; c < x.cols; c++) limit[c] = -3, limit[x.cols + c] = 3;
        j.call.in[BVT_EP_THRESHOLD0 + i] = threshold;
        j.call.out[1 + i] = make(sign.dtype, sign.layout, x.rows, x.cols);
    }
    free(sign.base);
    return j;
}
static const bvt_view no_sign;

static job epilogue_full(void) {
    return epilogue(I16(784, 128), SCALE | RES0 | BENT, true, 1, BITS(ROWS, 784, 128));
}
/* A layer that makes channels more: its shortcut is read g times a row, and g channels of the result are pooled. */
static job epilogue_pool(uint32_t rows, uint32_t cols, uint32_t g) {
    job j = epilogue(I16(rows, cols), SCALE | RES0 | BENT, true, 1, BITS(ROWS, rows, cols));
    j.call.in[BVT_EP_RES0].cols = j.call.out[0].cols = cols / g;
    j.call.in[BVT_EP_RES0].stride = j.call.out[0].stride = row_bytes(BVT_DTYPE_F32, cols / g);
    j.op.attr[BVT_EP_POOL] = (int32_t)g;
    return j;
}
static job epilogue_pool_8(void) { return epilogue_pool(784, 1024, 8); }
static job epilogue_pool_4(void) { return epilogue_pool(196, 1024, 4); }
static job epilogue_three_residuals(void) {
    return epilogue(I16(784, 128), SCALE | RES0 | BENT | SCALE2 | POST_RES0 | POST_RES1, true, 0, no_sign);
}
static job epilogue_three_signs(void) { return epilogue(F32(196, 256), AFFINE, true, 3, BITS(ROWS, 196, 256)); }
static job epilogue_affine(void) { return epilogue(F32(784, 128), AFFINE, true, 0, no_sign); }
static job epilogue_residual(void) { return epilogue(I16(198, 192), SCALE | RES0, true, 0, no_sign); }
static job threshold_rows(void) { return epilogue(I16(198, 192), 0, false, 1, BITS(ROWS, 198, 192)); }
static job threshold_cols(void) { return epilogue(I16(198, 192), 0, false, 1, BITS(COLS, 198, 192)); }
static job threshold_trits_rows(void) { return epilogue(I16(198, 768), 0, false, 1, TRITS(ROWS, 198, 768)); }
static job threshold_trits_cols(void) { return epilogue(I16(198, 192), 0, false, 1, TRITS(COLS, 198, 192)); }
static job sign_rows(void) { return epilogue(F32(784, 128), 0, false, 1, BITS(ROWS, 784, 128)); }
static job sign_cols(void) { return epilogue(F32(784, 128), 0, false, 1, BITS(COLS, 784, 128)); }

static job norm(int opcode, int groups) {
    job j = start(opcode, 198, 198.0 * 192);
    j.call.in[0] = F32(198, 192), j.call.in[1] = F32(1, 192), j.call.in[2] = F32(1, 192), j.op.attr[0] = groups;
    for (int c = 0; opcode == BVT_OP_NORM_SIGN && c < 192; c++) /* directions are signs, most of them of positive factors */
        ((float *)(void *)j.call.in[2].base)[c] = c % 100 ? 1 : -1;
    j.call.out[0] = opcode == BVT_OP_NORM_SIGN ? BITS(ROWS, 198, 192) : F32(198, 192);
    return j;
}
static job norm_sign(void) { return norm(BVT_OP_NORM_SIGN, 1); }
static job layer_norm(void) { return norm(BVT_OP_LAYER_NORM_ROWS, 1); }
static job layer_norm_groups(void) { return norm(BVT_OP_LAYER_NORM_ROWS, 3); }

/* Self-attention of `rows` tokens, or of `rows` queries on `keys` keys. An element is a score. */
static job attention(uint32_t rows, uint32_t keys, uint32_t heads) {
    const uint32_t cols = 64 * heads;
    job j = start(BVT_OP_ATTENTION, rows, (double)rows * keys * heads);
    bvt_view *in = j.call.in;
    in[0] = BITS(ROWS, rows, cols), in[1] = BITS(ROWS, keys, cols), in[2] = BITS(COLS, keys, cols);
    in[BVT_ATTENTION_TABLE] = make(BVT_DTYPE_U64, BVT_LAYOUT_ROWS, 1, 65);
    in[BVT_ATTENTION_LIMIT] = make(BVT_DTYPE_F64, BVT_LAYOUT_ROWS, 1, heads);
    for (int i = 0; i <= 64; i++) ((uint64_t *)(void *)in[BVT_ATTENTION_TABLE].base)[i] = ((uint64_t)1 << 40) >> i / 2;
    for (uint32_t i = 0; i < heads; i++) ((double *)(void *)in[BVT_ATTENTION_LIMIT].base)[i] = 0.002;
    j.op.attr[0] = (int32_t)heads, j.op.attr[1] = j.op.attr[2] = 1;
    j.op.scratch = (uint32_t)bvt_attention_layout(keys, 64, 1, false, false, false, false).bytes;
    if (j.op.scratch < bvt_attention_scratch(keys)) j.op.scratch = (uint32_t)bvt_attention_scratch(keys);
    j.call.out[0] = I16(rows, cols);
    return j;
}
static job attention_197(void) { return attention(197, 197, 3); }
static job attention_49(void) { return attention(784, 49, 2); }

/* The cross of 9 taps that the branches of 1 x 3 and 1 x 5 along both axes become. An element is an output. */
static job cross(uint32_t side, uint32_t channels, int boundary) {
    job j = start(BVT_OP_STENCIL, side * side, (double)side * side * channels);
    j.call.in[0] = F32(side * side, channels), j.call.in[1] = F32(9, channels), j.call.in[2] = F32(1, channels);
    j.call.out[0] = F32(side * side, channels);
    const int32_t head[4] = {(int32_t)side, (int32_t)side, 9, boundary};
    memcpy(j.op.attr, head, sizeof head);
    static const int taps[9][2] = {{-2, 0}, {-1, 0}, {0, -2}, {0, -1}, {0, 0}, {0, 1}, {0, 2}, {1, 0}, {2, 0}};
    for (int t = 0; t < 9; t++) j.op.attr[4 + t] = (taps[t][0] & 255) | (taps[t][1] & 255) << 8;
    return j;
}
static job stencil_56(void) { return cross(56, 64, 0); }
static job stencil_28(void) { return cross(28, 128, 0); }
static job stencil_14(void) { return cross(14, 256, 0); }
static job stencil_14_circular(void) { return cross(14, 256, 1); }

static job channel_pool(uint32_t g) {
    job j = start(BVT_OP_CHANNEL_POOL, 784, 784.0 * 128 * g);
    j.call.in[0] = F32(784, 128 * g), j.call.out[0] = F32(784, 128), j.op.attr[0] = (int32_t)g;
    return j;
}
static job channel_pool_8(void) { return channel_pool(8); }
static job channel_pool_4(void) { return channel_pool(4); }

/* Windows side by side. An element is a value that is read. */
static job pool(int opcode, int side, uint32_t channels, int k, int p) {
    const int out_side = (side + 2 * p - k) / k + 1, read = out_side * k - p;
    job j = start(opcode, (uint32_t)(out_side * out_side), (double)read * read * channels);
    j.call.in[0] = F32((uint32_t)(side * side), channels), j.call.out[0] = F32(j.rows, channels);
    const int32_t attr[5] = {side, side, k, k, p};
    memcpy(j.op.attr, attr, sizeof attr);
    return j;
}
static job avg_pool_2(void) { return pool(BVT_OP_AVG_POOL, 28, 128, 2, 0); }
static job avg_pool_8(void) { return pool(BVT_OP_AVG_POOL, 56, 64, 8, 0); }
static job max_pool_7(void) { return pool(BVT_OP_MAX_POOL, 14, 256, 7, 0); }

static job mean_rows(void) {
    job j = start(BVT_OP_MEAN_ROWS, 1, 49.0 * 512);
    j.call.in[0] = F32(49, 512), j.call.out[0] = F32(1, 512);
    return j;
}

static job activation(int kind) {
    job j = start(BVT_OP_ACTIVATION, 196, 196.0 * 256);
    j.call.in[0] = F32(196, 256), j.call.out[0] = F32(196, 256), j.op.attr[0] = kind;
    if (kind == BVT_ACTIVATION_CLAMP) j.op.fattr[0] = -1, j.op.fattr[1] = 1;
    return j;
}
static job gelu(void) { return activation(BVT_ACTIVATION_GELU); }
static job clamp(void) { return activation(BVT_ACTIVATION_CLAMP); }

static job multiply(void) {
    job j = start(BVT_OP_MULTIPLY, 196, 196.0 * 256);
    j.call.in[0] = F32(196, 256), j.call.in[1] = F32(196, 256), j.call.out[0] = F32(196, 256);
    return j;
}

static job gather(int dtype) {
    job j = start(BVT_OP_GATHER, 212, 212.0 * 256);
    j.call.in[0] = I32(212, 1), j.call.in[1] = make(dtype, BVT_LAYOUT_ROWS, 196, 256);
    j.call.out[0] = make(dtype, BVT_LAYOUT_ROWS, 212, 256);
    for (int32_t i = 0; i < 212; i++) ((int32_t *)(void *)j.call.in[0].base)[i] = i % 196;
    return j;
}
static job gather_real(void) { return gather(BVT_DTYPE_F32); }
static job gather_bits(void) { return gather(BVT_DTYPE_BITS); }

/* k x k patches of a grid of codes, in 4 groups if `dilation` is not 0. An element is a code that is written. */
static job row_patches(int side, uint32_t channels, int k, int s, int dilation) {
    const int p = dilation ? dilation : 0, out_side = (side + 2 * p - (dilation ? dilation : 1) * (k - 1) - 1) / s + 1;
    const uint32_t cols = (uint32_t)(k * k) * channels;
    job j = start(BVT_OP_ROW_PATCHES, (uint32_t)(out_side * out_side), (double)out_side * out_side * cols);
    j.call.in[0] = BITS(ROWS, (uint32_t)(side * side), channels);
    j.call.out[0] = make(dilation ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, j.rows, cols);
    const int32_t attr[7] = {side, side, k, s, p, dilation, dilation ? 4 : 0};
    memcpy(j.op.attr, attr, sizeof attr);
    return j;
}
static job patches_of_bits(void) { return row_patches(56, 64, 2, 2, 0); }
static job patches_of_groups(void) { return row_patches(28, 128, 3, 1, 3); }

static job patches(void) {
    job j = start(BVT_OP_PATCHES, 196, 196.0 * 768);
    j.call.in[0] = F32(3 * 224, 224), j.call.out[0] = F32(196, 768);
    const int32_t attr[5] = {3, 224, 224, 16, 16};
    memcpy(j.op.attr, attr, sizeof attr);
    return j;
}
static job dense(void) {
    job j = start(BVT_OP_DENSE, 196, 196.0 * 768 * 192);
    j.call.in[0] = F32(196, 768), j.call.in[1] = F32(768, 192), j.call.in[2] = F32(1, 192), j.call.out[0] = F32(196, 192);
    return j;
}
static job mixed_gemm(void) {
    job j = start(BVT_OP_MIXED_GEMM, 197, 197.0 * 192 * 192);
    j.call.in[0] = F32(197, 192), j.call.in[1] = BITS(LANES16, 192, 192), j.call.out[0] = F32(197, 192);
    return j;
}

static job product(int layout, bool trits, uint32_t rows, uint32_t k, uint32_t outputs) {
    job j = start(BVT_OP_BGEMM, rows, (double)rows * k * outputs);
    j.call.in[0] = trits ? TRITS(ROWS, rows, k) : BITS(ROWS, rows, k);
    j.call.in[1] = make(BVT_DTYPE_BITS, layout, outputs, k), j.call.out[0] = I16(rows, outputs);
    j.op.scratch = (uint32_t)bvt_bgemm_scratch(layout, k, trits);
    return j;
}
static job bgemm(void) { return product(BVT_LAYOUT_LANES16, false, 197, 192, 768); }
static job dense_i8(void) {
    job j = start(BVT_OP_DENSE_I8, 196, 196.0 * 768 * 192);
    j.call.in[0] = F32(196, 768), j.call.in[1] = make(BVT_DTYPE_I8, BVT_LAYOUT_QUADS, 192, 768), j.call.in[2] = F32(1, 192);
    j.call.in[3] = F32(1, 192), j.call.out[0] = F32(196, 192);
    j.op.scratch = (uint32_t)bvt_i8_scratch(768);
    return j;
}

/* `bvtdeploy/bench/bounds.toml` has what the element-wise ones may take. */
static const struct {
    const char *name;
    job (*make)(void);
} cases[] = {
    {"epilogue-full", epilogue_full},
    {"epilogue-pool-8", epilogue_pool_8},
    {"epilogue-pool-4", epilogue_pool_4},
    {"epilogue-three-residuals", epilogue_three_residuals},
    {"epilogue-three-signs", epilogue_three_signs},
    {"epilogue-affine", epilogue_affine},
    {"epilogue-residual", epilogue_residual},
    {"threshold-rows", threshold_rows},
    {"threshold-cols", threshold_cols},
    {"threshold-trits-rows", threshold_trits_rows},
    {"threshold-trits-cols", threshold_trits_cols},
    {"sign-rows", sign_rows},
    {"sign-cols", sign_cols},
    {"norm-sign", norm_sign},
    {"layer-norm", layer_norm},
    {"layer-norm-groups", layer_norm_groups},
    {"attention-197", attention_197},
    {"attention-49", attention_49},
    {"stencil-56", stencil_56},
    {"stencil-28", stencil_28},
    {"stencil-14", stencil_14},
    {"stencil-14-circular", stencil_14_circular},
    {"channel-pool-8", channel_pool_8},
    {"channel-pool-4", channel_pool_4},
    {"avg-pool-2", avg_pool_2},
    {"avg-pool-8", avg_pool_8},
    {"max-pool-7", max_pool_7},
    {"mean-rows", mean_rows},
    {"gelu", gelu},
    {"clamp", clamp},
    {"multiply", multiply},
    {"gather", gather_real},
    {"gather-bits", gather_bits},
    {"row-patches", patches_of_bits},
    {"row-patches-groups", patches_of_groups},
    {"patches", patches},
    {"dense", dense},
    {"dense-i8", dense_i8},
    {"mixed-gemm", mixed_gemm},
    {"bgemm", bgemm},
};
enum { CASES = sizeof cases / sizeof *cases };

static void release(job *j) {
    for (int i = 0; i < BVT_N_IN; i++) free(j->call.in[i].base);
    for (int i = 0; i < BVT_N_OUT; i++) free(j->call.out[i].base);
    free(j->call.scratch);
}

static void run(job *j, bvt_kernel kernel, uint32_t block) {
    for (uint32_t row = 0; row < j->rows; row += block) kernel(&j->call, row, bvt_min_u32(row + block, j->rows));
}

/* With the best kernel of this machine. */
static int repeat(job j, uint32_t block, const char *times) {
    bvt_kernel kernel = NULL;
    for (unsigned i = 0; i < bvt_n_kernels; i++)
        if ((uint32_t)bvt_kernels[i].opcode == j.op.opcode && !bvt_kernels[i].half && bvt_kernel_usable(i)) kernel = bvt_kernels[i].fn;
    j.call.op = &j.op, j.call.scratch = allocate(j.op.scratch);
    for (int n = 0; n < atoi(times); n++) run(&j, kernel, block);
    release(&j);
    return 0;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void time_case(unsigned at, double limit) {
    job j = cases[at].make();
    j.call.op = &j.op, j.call.scratch = allocate(j.op.scratch);
    for (unsigned i = 0; i < bvt_n_kernels; i++) {
        if ((uint32_t)bvt_kernels[i].opcode != j.op.opcode || bvt_kernels[i].half || !bvt_kernel_usable(i)) continue;
        double best = 1e9, begin = seconds();
        for (int n = 0; n < 2 || seconds() - begin < limit; n++) {
            const double from = seconds();
            run(&j, bvt_kernels[i].fn, 32);
            const double t = seconds() - from;
            if (t < best) best = t;
        }
        printf("%-26s %-28s %10.1f us   %8.3f a nanosecond\n", cases[at].name, bvt_kernels[i].name, best * 1e6, j.elements / best * 1e-9);
    }
    release(&j);
}

int main(int argc, char **argv) {
    static const char *const layouts[] = {
        [BVT_LAYOUT_LANES16] = "lanes16", [BVT_LAYOUT_CSA] = "csa", [BVT_LAYOUT_TBL2] = "tbl2", [BVT_LAYOUT_LUT] = "lut"};
    if (argc == 8 && !strcmp(argv[1], "bgemm")) {
        const char *trits = strstr(argv[2], "-trits");
        const size_t name = trits ? (size_t)(trits - argv[2]) : strlen(argv[2]);
        for (unsigned i = BVT_LAYOUT_LANES16; i < sizeof layouts / sizeof *layouts; i++)
            if (layouts[i] && strlen(layouts[i]) == name && !memcmp(argv[2], layouts[i], name))
                return repeat(product((int)i, trits, (uint32_t)atoi(argv[3]), (uint32_t)atoi(argv[4]), (uint32_t)atoi(argv[5])),
                              (uint32_t)atoi(argv[6]), argv[7]);
    }
    if (argc == 2 && !strcmp(argv[1], "list")) {
        for (unsigned i = 0; i < CASES; i++) {
            job j = cases[i].make();
            printf("%s %.0f\n", cases[i].name, j.elements);
            release(&j);
        }
        return 0;
    }
    for (unsigned i = 0; argc == 3 && i < CASES; i++)
        if (!strcmp(argv[1], cases[i].name)) return repeat(cases[i].make(), 32, argv[2]);
    if (argc > 2) {
        fprintf(stderr, "usage: bench_kernels [MILLISECONDS | list | CASE REPEATS | bgemm LAYOUT[-trits] ROWS K OUTPUTS BLOCK REPEATS]\n");
        return 2;
    }
    for (unsigned i = 0; i < CASES; i++) time_case(i, (argc > 1 ? atof(argv[1]) : 200) * 1e-3);
    return 0;
}
