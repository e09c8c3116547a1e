/* row_patches: rows on a grid -> rows of k x k neighbourhoods; bits or f32.
 *
 *     in [(H*W) x C]      out [(Ho*Wo) x (k*k*C)], the same element kind      attr[0..3] = H, W, k, s
 *     out[oy*Wo + ox][(ky*k + kx)*C + c] = in[(oy*s + ky)*W + ox*s + kx][c]
 */
#include "../internal.h"

int bvt_check_row_patches(bvt_check *c) {
    const int32_t *a = c->op->attr;
    uint64_t oh, ow;
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_check_window(c, 0, &oh, &ow));
    BVT_TRY(bvt_check_attrs_end(c, 4));
    const bvt_rec_value *x = bvt_in(c, 0), *y = bvt_out(c, 0);
    uint64_t k = (uint64_t)a[2];
    const int dtype = x->dtype == BVT_DTYPE_F32 ? BVT_DTYPE_F32 : BVT_DTYPE_BITS;
    BVT_TRY(bvt_check_value(c, x, dtype, BVT_LAYOUT_ROWS, (uint64_t)a[0] * (uint64_t)a[1], x->cols, "x"));
    /* H*W < 2^24 and k <= H, W: k*k < 2^24. */
    BVT_TRY(bvt_check_value(c, y, dtype, BVT_LAYOUT_ROWS, oh * ow, k * k * x->cols, "the output"));
    c->whole = 1;
    return BVT_OK;
}

/* ORs the first `n` bits of src into dst from bit `at`, where dst is still zero. */
static void put_bits(uint8_t *dst, size_t at, const uint8_t *src, uint32_t n) {
    if (at % 8 == 0 && n % 8 == 0) {
        memcpy(dst + at / 8, src, n / 8);
        return;
    }
    for (uint32_t i = 0; i < n; i++, at++) dst[at / 8] |= (uint8_t)((src[i / 8] >> i % 8 & 1) << at % 8);
}

void bvt_row_patches_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr;
    const uint32_t width = (uint32_t)a[1], k = (uint32_t)a[2], s = (uint32_t)a[3], channels = call->in[0].cols;
    const uint32_t out_w = (width - k) / s + 1;
    const bool packed = call->in[0].dtype == BVT_DTYPE_BITS;
    /* f32 rows are copied as whole bytes: 32 bits a channel. */
    const uint32_t bits = packed ? channels : 32 * channels;
    for (uint32_t row = row0; row < row1; row++) {
        const uint32_t y = row / out_w * s, x = row % out_w * s;
        uint8_t *out = bvt_row(&call->out[0], row);
        size_t at = 0;
        memset(out, 0, call->out[0].stride);
        for (uint32_t ky = 0; ky < k; ky++)
            for (uint32_t kx = 0; kx < k; kx++, at += bits)
                put_bits(out, at, bvt_row_bits(&call->in[0], (y + ky) * width + x + kx), bits);
    }
}
