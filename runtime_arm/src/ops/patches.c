/* patches: an image -> rows of flattened patches.
 *
 *     in image f32[C*H x W]      out f32[(Ho*Wo) x (C*k*k)]      attr[0..4] = C, H, W, k, s
 *     out[oy*Wo + ox][(c*k + ky)*k + kx] = image[c*H + oy*s + ky][ox*s + kx]
 */
#include "../internal.h"

int bvt_check_patches(bvt_check *c) {
    const int32_t *a = c->op->attr;
    uint64_t oh, ow;
    BVT_TRY(bvt_check_operands(c, 1, 0, 1, 0));
    BVT_TRY(bvt_expect(c, a[0] > 0, "channels must be positive"));
    BVT_TRY(bvt_check_window(c, 1, &oh, &ow));
    BVT_TRY(bvt_check_attrs_end(c, 5));
    uint64_t channels = (uint64_t)a[0], height = (uint64_t)a[1], k = (uint64_t)a[3];
    BVT_TRY(bvt_check_value(c, bvt_in(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, channels * height, (uint64_t)a[2], "the image"));
    /* The image's rows are below 2^24 and k <= height: channels * k * k < 2^48. */
    BVT_TRY(bvt_check_value(c, bvt_out(c, 0), BVT_DTYPE_F32, BVT_LAYOUT_ROWS, oh * ow, channels * k * k, "the output"));
    c->whole = 1;
    return BVT_OK;
}

void bvt_patches_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr;
    const uint32_t channels = (uint32_t)a[0], height = (uint32_t)a[1], width = (uint32_t)a[2], k = (uint32_t)a[3],
                   s = (uint32_t)a[4];
    const uint32_t out_w = (width - k) / s + 1;
    for (uint32_t row = row0; row < row1; row++) {
        const uint32_t y = row / out_w * s, x = row % out_w * s;
        float *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c++)
            for (uint32_t ky = 0; ky < k; ky++, out += k)
                memcpy(out, bvt_row_f32(&call->in[0], c * height + y + ky) + x, k * sizeof *out);
    }
}
