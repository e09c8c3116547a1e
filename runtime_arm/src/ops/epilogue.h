/* What the kernels of `epilogue` share: the slots of its record. */
#ifndef BVT_OPS_EPILOGUE_H
#define BVT_OPS_EPILOGUE_H
#include "../internal.h"

/* inputs[] by role; the order is ROLES in bvtdeploy/ops/epilogue.py. */
enum {
    BVT_EP_X,
    BVT_EP_RES0,                        /* .. 2 */
    BVT_EP_POST_RES0 = BVT_EP_RES0 + 3, /* .. 2 */
    BVT_EP_SCALE = BVT_EP_POST_RES0 + 3,
    BVT_EP_SHIFT,
    BVT_EP_SLOPE,
    BVT_EP_POST,
    BVT_EP_SCALE2,
    BVT_EP_SHIFT2,
    BVT_EP_THRESHOLD0, /* .. 3 */
    BVT_EP_ROWS = BVT_EP_THRESHOLD0 + 4,
    BVT_EP_INPUTS
};
enum { BVT_EP_RESIDUALS = 6, BVT_EP_BITS = 4 };

/* attr[BVT_EP_SMALL] is 1 where no dot of x is beyond BVT_EP_MOST_SMALL: 1536 + x is then an fp16 number whose last bit counts 1. */
enum { BVT_EP_SMALL = 1 + BVT_EP_RESIDUALS, BVT_EP_MOST_SMALL = 512 };

/* Bytes of an element of x: f32, or dots in i32 or i16. */
static inline size_t bvt_epilogue_x_bytes(const bvt_view *x) { return x->dtype == BVT_DTYPE_I16 ? 2 : 4; }

/* The row of residual `slot` (0..5) that belongs to `row`. */
static inline const void *bvt_epilogue_residual(const bvt_call *call, unsigned slot, uint32_t row) {
    const uint32_t width = (uint32_t)call->op->attr[0], f = (uint32_t)call->op->attr[1 + slot];
    if (f == 0) row = (uint32_t)((const int32_t *)bvt_row(&call->in[BVT_EP_ROWS], 0))[row];
    else if (f != 1) row = row / width / f * (width / f) + row % width / f;
    return bvt_row(&call->in[BVT_EP_RES0 + slot], row);
}

/* The rows of residual `slot` that belong to `n` rows from `row` on: bvt_epilogue_residual without divisions for every row. */
static inline void bvt_epilogue_residual_rows(const void *to[], const bvt_call *call, unsigned slot, uint32_t row, unsigned n) {
    const bvt_view *res = &call->in[BVT_EP_RES0 + slot];
    const uint32_t width = (uint32_t)call->op->attr[0], f = (uint32_t)call->op->attr[1 + slot];
    if (f < 2) {
        const int32_t *rows = f ? NULL : (const int32_t *)bvt_row(&call->in[BVT_EP_ROWS], 0);
        for (unsigned r = 0; r < n; r++, row++) to[r] = bvt_row(res, rows ? (uint32_t)rows[row] : row);
        return;
    }
    /* On the grid: (y, x) in the residual's, and where in the f x f square of rows that share it. */
    const uint32_t cols = width / f;
    uint32_t down = row / width % f, y = row / width / f, x = row % width / f, right = row % width % f;
    for (unsigned r = 0; r < n; r++) {
        to[r] = bvt_row(res, y * cols + x);
        if (++right < f) continue;
        right = 0;
        if (++x < cols) continue;
        x = 0;
        if (++down < f) continue;
        down = 0, y++;
    }
}

/* Where 8 rows are, for kernels that take so many at a time; those beyond the last are not read. */
static inline void bvt_epilogue_rows(const void *to[8], const void *first, size_t stride) {
    uintptr_t at = (uintptr_t)first;
#pragma GCC unroll 8
    for (unsigned r = 0; r < 8; r++, at += stride) to[r] = (const void *)at;
}

#endif
