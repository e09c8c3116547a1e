/* One product of random bits, REPEATS times: what model.py counts the instructions of.
 *
 *     bench_bgemm LAYOUT[-trits] ROWS K OUTPUTS BLOCK REPEATS
 */
#include <stdio.h>
#include <stdlib.h>

#include "ops/bgemm.h"

static uint8_t *random_bytes(size_t n) {
    uint8_t *p;
    if (posix_memalign((void **)&p, 64, n)) abort();
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)rand();
    return p;
}

int main(int argc, char **argv) {
    static const char *const names[] = {
        [BVT_LAYOUT_LANES16] = "lanes16", [BVT_LAYOUT_CSA] = "csa", [BVT_LAYOUT_TBL2] = "tbl2", [BVT_LAYOUT_LUT] = "lut"};
    const char *trits = argc == 7 ? strstr(argv[1], "-trits") : NULL;
    const size_t name = trits ? (size_t)(trits - argv[1]) : argc == 7 ? strlen(argv[1]) : 0;
    int layout = 0;
    for (int i = BVT_LAYOUT_LANES16; argc == 7 && i <= BVT_LAYOUT_LUT; i++)
        if (strlen(names[i]) == name && !strncmp(argv[1], names[i], name)) layout = i;
    if (!layout || (trits && layout != BVT_LAYOUT_LANES16 && layout != BVT_LAYOUT_TBL2)) {
        fprintf(stderr, "usage: bench_bgemm lanes16|csa|tbl2|lut|lanes16-trits|tbl2-trits ROWS K OUTPUTS BLOCK REPEATS\n");
        return 2;
    }
    const uint32_t rows = (uint32_t)atoi(argv[2]), k = (uint32_t)atoi(argv[3]), outputs = (uint32_t)atoi(argv[4]);
    const uint32_t block = (uint32_t)atoi(argv[5]), channels = bvt_tile_channels(layout);
    bvt_rec_op op = {.opcode = BVT_OP_BGEMM, .scratch = (uint32_t)bvt_bgemm_scratch(layout, k, trits != NULL)};
    bvt_call call = {.op = &op, .scratch = random_bytes(op.scratch)};
    call.in[0] = (bvt_view){.rows = rows, .cols = k, .dtype = BVT_DTYPE_BITS, .layout = BVT_LAYOUT_ROWS};
    call.in[0].stride = bvt_plane(k);
    if (trits) call.in[0].dtype = BVT_DTYPE_TRITS, call.in[0].stride *= 2;
    call.in[0].base = random_bytes(rows * call.in[0].stride);
    /* Signs are only of what is not 0, and bits beyond the end are 0. */
    for (size_t r = 0; trits && r < rows; r++) {
        uint8_t *sign = call.in[0].base + r * call.in[0].stride, *some = sign + bvt_plane(k);
        for (size_t i = k / 8; i < bvt_plane(k); i++) some[i] &= i > k / 8 ? 0 : (uint8_t)((1u << k % 8) - 1);
        for (size_t i = 0; i < bvt_plane(k); i++) sign[i] &= some[i];
    }
    call.in[1] = (bvt_view){.rows = outputs, .cols = k, .dtype = BVT_DTYPE_BITS, .layout = (uint8_t)layout};
    call.in[1].stride = (size_t)bvt_tile_bytes(layout, k);
    call.in[1].base = random_bytes((outputs + channels - 1) / channels * call.in[1].stride);
    /* Indices of TBL2 have 5 bits. */
    for (size_t i = 0; layout == BVT_LAYOUT_TBL2 && i < (outputs + 63) / 64 * call.in[1].stride; i++) call.in[1].base[i] &= 31;
    call.out[0] = (bvt_view){.rows = rows, .cols = outputs, .dtype = BVT_DTYPE_I16, .layout = BVT_LAYOUT_ROWS};
    call.out[0].stride = outputs * 2;
    call.out[0].base = random_bytes(rows * call.out[0].stride);
    bvt_kernel kernel = NULL;
    for (unsigned i = 0; i < bvt_n_kernels; i++)
        if (bvt_kernels[i].opcode == BVT_OP_BGEMM && bvt_kernel_usable(i)) kernel = bvt_kernels[i].fn;
    for (int n = 0; n < atoi(argv[6]); n++)
        for (uint32_t row = 0; row < rows; row += block) kernel(&call, row, bvt_min_u32(row + block, rows));
    return 0;
}
