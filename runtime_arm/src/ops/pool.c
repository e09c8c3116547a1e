/* The check that avg_pool and max_pool share. */
#include "pool.h"

int bvt_check_pool(bvt_check *c) {
    const int32_t *a = c->op->attr;
    uint64_t oh, ow;
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_check_padded_window(c, 1, &oh, &ow));
    BVT_TRY(bvt_expect(c, a[4] < a[2], "the padding is not smaller than the kernel"));
    BVT_TRY(bvt_check_attrs_end(c, 5));
    const bvt_rec_value *x = bvt_in(c, 0);
    BVT_TRY(bvt_check_value(c, x, bvt_real_dtype(c), BVT_LAYOUT_ROWS, (uint64_t)a[0] * (uint64_t)a[1], x->cols, "x"));
    BVT_TRY(bvt_check_value(c, bvt_out(c, 0), bvt_real_dtype(c), BVT_LAYOUT_ROWS, oh * ow, x->cols, "the output"));
    c->whole = 1;
    return BVT_OK;
}
