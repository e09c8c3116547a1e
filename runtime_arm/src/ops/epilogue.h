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
    BVT_EP_PRE,
    BVT_EP_SLOPE,
    BVT_EP_POST,
    BVT_EP_SCALE2,
    BVT_EP_SHIFT2,
    BVT_EP_THRESHOLD0, /* .. 3 */
    BVT_EP_INPUTS = BVT_EP_THRESHOLD0 + 4
};
enum { BVT_EP_RESIDUALS = 6, BVT_EP_BITS = 4 };

/* The row of residual `slot` (0..5) that belongs to `row`. */
static inline const float *bvt_epilogue_residual(const bvt_call *call, unsigned slot, uint32_t row) {
    const uint32_t width = (uint32_t)call->op->attr[0], f = (uint32_t)call->op->attr[1 + slot];
    if (f != 1) row = row / width / f * (width / f) + row % width / f;
    return bvt_row_f32(&call->in[BVT_EP_RES0 + slot], row);
}

/* After the last block: zeroes what follows the last row in every column of a COLS output, up to the stride. */
void bvt_epilogue_pad_cols(const bvt_call *call, uint32_t row1);

#endif
