/* row_patches: rows on a grid -> rows of k x k neighbourhoods; f32, bits or trits.
 *
 *     in [(H*W) x C]      out [(Ho*Wo) x (k*k*C)], the same element kind, but trits of bits with p > 0
 *     attr[0..6] = H, W, k, s, p, d, G (d, G = 0: 1);  Ho = (H + 2p - d*(k-1) - 1)/s + 1;  n = C/G
 *     out[oy*Wo + ox][((g*k + ky)*k + kx)*n + c] = in[(oy*s + ky*d - p)*W + ox*s + kx*d - p][g*n + c], or 0 outside of the grid
 */
#include "bits.h"

static int32_t or_one(int32_t x) { return x ? x : 1; }

int bvt_check_row_patches(bvt_check *c) {
    const int32_t *a = c->op->attr, groups = or_one(a[6]);
    uint64_t oh, ow;
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_check_padded_window(c, or_one(a[5]), &oh, &ow));
    BVT_TRY(bvt_check_attrs_end(c, 7));
    const bvt_rec_value *x = bvt_in(c, 0), *y = bvt_out(c, 0);
    const uint64_t k = (uint64_t)a[2];
    const int dtype = x->dtype == BVT_DTYPE_F32 || x->dtype == BVT_DTYPE_TRITS ? x->dtype : BVT_DTYPE_BITS;
    const int out = dtype == BVT_DTYPE_BITS && a[4] > 0 ? BVT_DTYPE_TRITS : dtype;
    BVT_TRY(bvt_expect(c, groups > 0 && x->cols % (uint32_t)groups == 0, "the groups do not divide the channels"));
    BVT_TRY(bvt_check_value(c, x, dtype, BVT_LAYOUT_ROWS, (uint64_t)a[0] * (uint64_t)a[1], x->cols, "x"));
    /* H, W <= 2^24 and p < 2^12: k < 2^25, and so the product does not wrap unless it is far beyond 2^24 before. */
    BVT_TRY(bvt_expect(c, k <= 4096, "the kernel is out of range"));
    BVT_TRY(bvt_check_value(c, y, out, BVT_LAYOUT_ROWS, oh * ow, k * k * x->cols, "the output"));
    c->whole = 1;
    return BVT_OK;
}

void bvt_row_patches_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr, height = a[0], width = a[1], k = a[2], s = a[3], p = a[4], d = or_one(a[5]);
    const uint32_t groups = (uint32_t)or_one(a[6]), n = call->in[0].cols / groups;
    const uint32_t out_w = (uint32_t)((width + 2 * p - d * (k - 1) - 1) / s + 1);
    const bvt_view *out = &call->out[0];
    for (uint32_t row = row0; row < row1; row++) {
        const int32_t top = (int32_t)(row / out_w) * s - p, left = (int32_t)(row % out_w) * s - p;
        uint8_t *to = bvt_row(out, row);
        size_t at = 0;
        memset(to, 0, out->stride);
        for (uint32_t g = 0; g < groups; g++)
            for (int32_t ky = 0; ky < k; ky++)
                for (int32_t kx = 0; kx < k; kx++, at += n) {
                    const int32_t y = top + ky * d, x = left + kx * d;
                    if (y < 0 || y >= height || x < 0 || x >= width) continue;
                    const uint8_t *from = bvt_row_bits(&call->in[0], (uint32_t)(y * width + x));
                    if (out->dtype == BVT_DTYPE_F32) memcpy(to + 4 * at, from + 4 * (size_t)g * n, 4 * (size_t)n);
                    else bvt_copy_codes(out, to, at, &call->in[0], from, (size_t)g * n, n);
                }
    }
}
