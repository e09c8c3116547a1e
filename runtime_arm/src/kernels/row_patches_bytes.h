/* row_patches of whole bytes: a tap's channels are found once a row, and its groups are copied as a few bytes each. Codes that fill
 * no whole bytes go to the reference. Compiled once an ISA, whose instructions the copies are; the including file gives the name.
 */
#include "../internal.h"

#define INLINE static inline __attribute__((always_inline))

static int32_t or_one(int32_t x) { return x ? x : 1; }

/* Copies `count` pieces of n bytes, `stride` bytes apart in `to` and side by side in `from`. Without a source: bytes of `fill`. */
INLINE void pieces(uint8_t *to, const uint8_t *from, uint8_t fill, uint32_t count, size_t stride, const size_t n) {
    for (uint32_t i = 0; i < count; i++, to += stride) {
        if (from) memcpy(to, from + i * n, n);
        else memset(to, fill, n);
    }
}

static void put(uint8_t *to, const uint8_t *from, uint8_t fill, uint32_t count, size_t stride, size_t n) {
    switch (n) {
    case 1: pieces(to, from, fill, count, stride, 1); break;
    case 2: pieces(to, from, fill, count, stride, 2); break;
    case 4: pieces(to, from, fill, count, stride, 4); break;
    case 8: pieces(to, from, fill, count, stride, 8); break;
    case 16: pieces(to, from, fill, count, stride, 16); break;
    default: pieces(to, from, fill, count, stride, n);
    }
}

void ROW_PATCHES_KERNEL(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr, height = a[0], width = a[1], k = a[2], s = a[3], p = a[4], d = or_one(a[5]);
    const bvt_view *in = &call->in[0], *out = &call->out[0];
    const uint32_t groups = (uint32_t)or_one(a[6]), n = in->cols / groups, taps = (uint32_t)k * (uint32_t)k;
    const uint32_t out_w = (uint32_t)((width + 2 * p - d * (k - 1) - 1) / s + 1);
    const bool real = out->dtype == BVT_DTYPE_F32;
    if (!real && n % 8) {
        bvt_row_patches_ref(call, row0, row1);
        return;
    }
    const size_t bytes = real ? 4 * (size_t)n : n / 8, stride = taps * bytes, used = groups * stride;
    const size_t plane = out->dtype == BVT_DTYPE_TRITS ? bvt_plane(out->cols) : 0;
    const size_t in_plane = in->dtype == BVT_DTYPE_TRITS ? bvt_plane(in->cols) : 0;
    for (uint32_t row = row0; row < row1; row++) {
        const int32_t top = (int32_t)(row / out_w) * s - p, left = (int32_t)(row % out_w) * s - p;
        uint8_t *to = bvt_row(out, row);
        uint32_t tap = 0;
        for (int32_t ky = 0; ky < k; ky++)
            for (int32_t kx = 0; kx < k; kx++, tap++) {
                const int32_t y = top + ky * d, x = left + kx * d;
                const bool inside = y >= 0 && y < height && x >= 0 && x < width;
                const uint8_t *from = inside ? bvt_row_bits(in, (uint32_t)(y * width + x)) : NULL;
                put(to + tap * bytes, from, 0, groups, stride, bytes);
                const uint8_t *some = inside && in_plane ? from + in_plane : NULL;
                if (plane) put(to + plane + tap * bytes, some, inside ? 255 : 0, groups, stride, bytes);
            }
        if (plane) {
            memset(to + used, 0, plane - used);
            memset(to + plane + used, 0, plane - used);
        }
        const size_t end = plane ? 2 * plane : used;
        if (end < out->stride) memset(to + end, 0, out->stride - end);
    }
}
