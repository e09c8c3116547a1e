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
    BVT_EP_KNEE,
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

/* attr[BVT_EP_POOL]: out[0] has the means of so many channels, 2, 4 or 8; 0: v itself. */
enum { BVT_EP_POOL = BVT_EP_SMALL + 1 };
static inline unsigned bvt_epilogue_pool(const bvt_call *call) {
    const int32_t pool = call->op->attr[BVT_EP_POOL];
    return pool ? (unsigned)pool : 1;
}

/* Bytes of an element of x: f32, or dots in i32 or i16. */
static inline size_t bvt_epilogue_x_bytes(const bvt_view *x) { return x->dtype == BVT_DTYPE_I16 ? 2 : 4; }

/* The row of residual `slot` (0..5) that belongs to `row`. */
static inline const void *bvt_epilogue_residual(const bvt_call *call, unsigned slot, uint32_t row) {
    const uint32_t width = (uint32_t)call->op->attr[0], f = (uint32_t)call->op->attr[1 + slot];
    if (f == 0) row = (uint32_t)((const int32_t *)bvt_row(&call->in[BVT_EP_ROWS], 0))[row];
    else if (f != 1) row = row / width / f * (width / f) + row % width / f;
    return bvt_row(&call->in[BVT_EP_RES0 + slot], row);
}

/* The same of up to 8 rows from `first` on, with one division for all of them. */
void bvt_epilogue_residual_rows(const bvt_call *call, unsigned slot, uint32_t first, uint32_t rows, const void *to[8]);

/* Where 8 rows are, for kernels that take so many at a time; those beyond the last are not read. */
static inline void bvt_epilogue_rows(const void *to[8], const void *first, size_t stride) {
    uintptr_t at = (uintptr_t)first;
#pragma GCC unroll 8
    for (unsigned r = 0; r < 8; r++, at += stride) to[r] = (const void *)at;
}

#endif
