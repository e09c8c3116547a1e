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

/* Lines of k floats; inlined where k is a constant. */
static inline void copy_patch(float *out, const bvt_view *image, const float *from, uint32_t channels, uint32_t height, const uint32_t k) {
    const size_t line = image->stride / sizeof *from;
    for (uint32_t c = 0; c < channels; c++, from += (height - k) * line)
        for (uint32_t ky = 0; ky < k; ky++, out += k, from += line) memcpy(out, from, k * sizeof *out);
}

void bvt_patches_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr;
    const uint32_t channels = (uint32_t)a[0], height = (uint32_t)a[1], width = (uint32_t)a[2], k = (uint32_t)a[3],
                   s = (uint32_t)a[4];
    const bvt_view *image = &call->in[0];
    const uint32_t out_w = (width - k) / s + 1;
    uint32_t y = row0 / out_w, x = row0 % out_w;
    for (uint32_t row = row0; row < row1; row++) {
        const float *from = bvt_row_f32(image, y * s) + x * s;
        float *out = bvt_row(&call->out[0], row);
        if (k == 4) copy_patch(out, image, from, channels, height, 4);
        else copy_patch(out, image, from, channels, height, k);
        if (++x == out_w) x = 0, y++;
    }
}
