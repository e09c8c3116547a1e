/* Times every kernel of kernels.inc on the shapes of a DeiT-tiny layer (197 tokens, 192 channels, 3 heads).
 *
 *     cc -std=c11 -D_GNU_SOURCE -O3 -ffp-contract=off -Iinclude -Isrc bench/bench_kernels.c libbvt.a -pthread -lm -o bench_kernels
 *     bench_kernels [MILLISECONDS A KERNEL]
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "internal.h"

typedef struct {
    bvt_rec_op op;
    bvt_call call;
    uint32_t rows;
    double work; /* what `unit` counts, of one execution */
    const char *unit;
} job;

static bvt_view make(int dtype, int layout, uint32_t rows, uint32_t cols) {
    bvt_view v = {.rows = rows, .cols = cols, .dtype = (uint8_t)dtype, .layout = (uint8_t)layout, .by_cols = layout == BVT_LAYOUT_COLS};
    size_t count = rows;
    v.stride = dtype == BVT_DTYPE_BITS ? (cols + 63) / 64 * 8 : cols * (dtype == BVT_DTYPE_I16 ? 2u : dtype >= BVT_DTYPE_U64 ? 8u : 4u);
    if (layout == BVT_LAYOUT_COLS) v.stride = (rows + 63) / 64 * 8, count = cols;
    if (layout == BVT_LAYOUT_LANES16) v.stride = (cols + 7) / 8 * 16, count = (rows + 15) / 16;
    if (posix_memalign((void **)&v.base, 64, v.stride * count)) abort();
    for (size_t i = 0; i < v.stride * count; i++) v.base[i] = dtype == BVT_DTYPE_BITS ? (uint8_t)rand() : 0;
    if (dtype == BVT_DTYPE_F32)
        for (size_t i = 0; i < v.stride * count / 4; i++) ((float *)(void *)v.base)[i] = (float)(rand() % 2001 - 1000) / 500;
    return v;
}

#define F32(rows, cols) make(BVT_DTYPE_F32, BVT_LAYOUT_ROWS, rows, cols)
#define I32(rows, cols) make(BVT_DTYPE_I32, BVT_LAYOUT_ROWS, rows, cols)
#define I16(rows, cols) make(BVT_DTYPE_I16, BVT_LAYOUT_ROWS, rows, cols)
#define BITS(layout, rows, cols) make(BVT_DTYPE_BITS, BVT_LAYOUT_##layout, rows, cols)

static job prepare(int opcode) {
    enum { N = 197, C = 192, HEADS = 3, D = C / HEADS };
    job j = {.op = {.opcode = (uint32_t)opcode}, .rows = N, .unit = "element"};
    bvt_view *in = j.call.in, *out = j.call.out;
    int32_t *a = j.op.attr;
    switch (opcode) {
    case BVT_OP_PATCHES:
        in[0] = F32(3 * 224, 224), out[0] = F32(196, 768), j.rows = 196, a[0] = 3, a[1] = a[2] = 224, a[3] = a[4] = 16,
        j.work = 196.0 * 768;
        break;
    case BVT_OP_DENSE:
        in[0] = F32(N, 768), in[1] = F32(768, C), in[2] = F32(1, C), out[0] = F32(N, C), j.work = N * 768.0 * C, j.unit = "MAC";
        break;
    case BVT_OP_BGEMM:
        in[0] = BITS(ROWS, N, C), in[1] = BITS(LANES16, 768, C), out[0] = I16(N, 768), j.work = N * 768.0 * C, j.unit = "MAC";
        break;
    case BVT_OP_EPILOGUE: /* scale, shift, residual, RPReLU -> f32 and bits */
        in[0] = I16(N, C), in[1] = F32(N, C), out[0] = F32(N, C), out[1] = BITS(ROWS, N, C), j.work = N * C;
        for (int i = 7; i <= 10; i++) in[i] = F32(1, C);
        in[13] = F32(1, C);
        for (int i = 1; i <= 6; i++) a[i] = 1;
        break;
    case BVT_OP_ROW_PATCHES:
        in[0] = BITS(ROWS, 196, C), out[0] = BITS(ROWS, 49, 4 * C), j.rows = 49, a[0] = a[1] = 14, a[2] = a[3] = 2,
        j.work = 49.0 * 4 * C;
        break;
    case BVT_OP_AVG_POOL:
        in[0] = F32(196, C), out[0] = F32(49, C), j.rows = 49, a[0] = a[1] = 14, a[2] = a[3] = 2, j.work = 196 * C;
        break;
    case BVT_OP_STENCIL:
        in[0] = F32(196, C), in[1] = F32(9, C), in[2] = F32(1, C), out[0] = F32(196, C), j.rows = 196, a[0] = a[1] = 14, a[2] = 9,
        a[3] = 1, j.work = 196.0 * C * 9, j.unit = "MAC";
        for (int i = 0; i < 9; i++) a[4 + i] = ((i / 3 - 1) & 255) | ((i % 3 - 1) & 255) << 8;
        break;
    case BVT_OP_ATTENTION:
        in[0] = BITS(ROWS, N, C), in[1] = BITS(ROWS, N, C), in[2] = BITS(COLS, N, C),
        in[3] = make(BVT_DTYPE_U64, BVT_LAYOUT_ROWS, 1, D + 1);
        in[4] = make(BVT_DTYPE_F64, BVT_LAYOUT_ROWS, 1, HEADS), out[0] = I32(N, C), a[0] = HEADS, j.work = 2.0 * N * N * C,
        j.unit = "MAC";
        for (int i = 0; i <= D; i++) ((uint64_t *)(void *)in[3].base)[i] = (uint64_t)1 << 30 >> i / 2;
        for (int i = 0; i < HEADS; i++) ((double *)(void *)in[4].base)[i] = 0.002;
        j.op.scratch = (uint32_t)(bvt_align64(16 * N) + bvt_align64(16 * ((N + 7) / 8)));
        if (posix_memalign(&j.call.scratch, 64, j.op.scratch)) abort();
        break;
    case BVT_OP_MEAN_ROWS: in[0] = F32(N, C), out[0] = F32(1, C), j.rows = 1, j.work = N * C; break;
    case BVT_OP_CHANNEL_POOL: in[0] = F32(N, 4 * C), out[0] = F32(N, C), a[0] = 4, j.work = N * 4.0 * C; break;
    case BVT_OP_LAYER_NORM_ROWS:
        in[0] = F32(N, C), in[1] = F32(1, C), in[2] = F32(1, C), out[0] = F32(N, C), a[0] = 1, j.work = N * C;
        break;
    case BVT_OP_NORM_SIGN:
        in[0] = F32(N, C), in[1] = F32(1, C), in[2] = F32(1, C), out[0] = BITS(ROWS, N, C), a[0] = 1, j.work = N * C;
        break;
    case BVT_OP_GATHER: in[0] = I32(N, 1), in[1] = F32(N, C), out[0] = F32(N, C), j.work = N * C; break; /* row 0 all the time */
    case BVT_OP_MIXED_GEMM:
        in[0] = F32(N, C), in[1] = BITS(LANES16, C, C), out[0] = F32(N, C), j.work = 1.0 * N * C * C, j.unit = "MAC";
        break;
    case BVT_OP_MAX_POOL:
        in[0] = F32(196, C), out[0] = F32(49, C), j.rows = 49, a[0] = a[1] = 14, a[2] = a[3] = 2, j.work = 196 * C;
        break;
    case BVT_OP_ACTIVATION: in[0] = F32(N, C), out[0] = F32(N, C), j.work = N * C; break;
    case BVT_OP_MULTIPLY: in[0] = F32(N, C), in[1] = F32(N, C), out[0] = F32(N, C), j.work = N * C; break;
    default: abort(); /* a new op: add its shape here */
    }
    return j;
}

static void release(job *j) {
    for (int i = 0; i < BVT_N_IN; i++) free(j->call.in[i].base);
    for (int i = 0; i < BVT_N_OUT; i++) free(j->call.out[i].base);
    free(j->call.scratch);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    const double limit = (argc > 1 ? atof(argv[1]) : 200) * 1e-3;
    for (unsigned i = 0; i < bvt_n_kernels; i++) {
        if (!bvt_kernel_usable(i) || bvt_kernels[i].half) continue;
        job j = prepare(bvt_kernels[i].opcode);
        j.call.op = &j.op;
        double best = 1e9, begin = seconds();
        for (int n = 0; n < 2 || seconds() - begin < limit; n++) {
            const double start = seconds();
            for (uint32_t r = 0; r < j.rows; r += 32) bvt_kernels[i].fn(&j.call, r, bvt_min_u32(r + 32, j.rows));
            const double t = seconds() - start;
            if (t < best) best = t;
        }
        printf("%-24s %10.1f us   %8.2f %ss/ns\n", bvt_kernels[i].name, best * 1e6, j.work / best * 1e-9, j.unit);
        release(&j);
    }
    return 0;
}
