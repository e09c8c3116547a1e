/* stencil: a depthwise neighbourhood with per-channel taps on the token grid.
 *
 *     in x f32[(H*W) x C], taps f32[T x C], optional shift f32[1 x C]      out f32[(H*W) x C]
 *     attr[0..3] = H, W, T, boundary (0 zero, 1 circular); attr[4+t] = (dy & 255) | (dx & 255) << 8
 *     acc = shift[c] (or +0); for t = 0 .. T-1: (y', x') = (y + dy[t], x + dx[t]);
 *         boundary zero: outside of the grid the tap is skipped; circular: y' mod H, x' mod W
 *         acc = fma(x[y'*W + x'][c], taps[t][c], acc)
 *     All of them may be F16: then acc is rounded to binary16 at every `=`, once.
 */
#include "stencil.h"

#include "../half.h"
#include "../numerics.h"

int bvt_check_stencil(bvt_check *c) {
    const int32_t *a = c->op->attr;
    BVT_TRY(bvt_check_operands(c, 3, 4, 1, 0));
    BVT_TRY(bvt_expect(c, a[0] > 0 && a[1] > 0, "the grid must not be empty"));
    BVT_TRY(bvt_expect(c, a[2] >= 1 && a[2] <= BVT_STENCIL_TAPS, "it must have 1 to 16 taps"));
    BVT_TRY(bvt_expect(c, a[3] == 0 || a[3] == 1, "unknown boundary"));
    for (int t = 0; t < a[2]; t++) {
        int dy = (int8_t)(a[4 + t] & 255), dx = (int8_t)(a[4 + t] >> 8 & 255);
        BVT_TRY(bvt_expect(c, a[4 + t] >= 0 && a[4 + t] < 65536 && dy != -128 && dx != -128, "a tap's offset is malformed"));
        BVT_TRY(bvt_expect(c, dy < a[0] && -dy < a[0] && dx < a[1] && -dx < a[1], "a tap leaves the grid"));
    }
    BVT_TRY(bvt_check_attrs_end(c, 4 + (unsigned)a[2]));
    const bvt_rec_value *x = bvt_in(c, 0), *shift = bvt_in(c, 2);
    uint64_t rows = (uint64_t)a[0] * (uint64_t)a[1];
    const int real = bvt_real_dtype(c);
    BVT_TRY(bvt_check_value(c, x, real, BVT_LAYOUT_ROWS, rows, x->cols, "x"));
    BVT_TRY(bvt_check_value(c, bvt_in(c, 1), real, BVT_LAYOUT_ROWS, (uint64_t)a[2], x->cols, "taps"));
    if (shift) BVT_TRY(bvt_check_value(c, shift, real, BVT_LAYOUT_ROWS, 1, x->cols, "shift"));
    BVT_TRY(bvt_check_value(c, bvt_out(c, 0), real, BVT_LAYOUT_ROWS, rows, x->cols, "the output"));
    c->whole = 1 | 2 | 4;
    return BVT_OK;
}

unsigned bvt_stencil_sources(const bvt_call *call, uint32_t row, const float **source, const float **tap) {
    const int32_t *a = call->op->attr;
    const int height = a[0], width = a[1], y = (int)row / width, x = (int)row % width;
    unsigned n = 0;
    for (int t = 0; t < a[2]; t++) {
        int sy = y + (int8_t)(a[4 + t] & 255), sx = x + (int8_t)(a[4 + t] >> 8 & 255);
        if (a[3] == 1) { /* |dy| < H and |dx| < W: one turn is enough */
            sy += sy < 0 ? height : sy >= height ? -height : 0;
            sx += sx < 0 ? width : sx >= width ? -width : 0;
        } else if (sy < 0 || sy >= height || sx < 0 || sx >= width) {
            continue;
        }
        source[n] = bvt_row_f32(&call->in[0], (uint32_t)(sy * width + sx));
        tap[n++] = bvt_row_f32(&call->in[1], (uint32_t)t);
    }
    return n;
}

void bvt_stencil_ref(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bool half = call->in[0].dtype == BVT_DTYPE_F16;
    const uint32_t channels = call->in[0].cols;
    const void *shift = call->in[2].base ? bvt_row(&call->in[2], 0) : NULL;
    for (uint32_t row = row0; row < row1; row++) {
        const float *source[BVT_STENCIL_TAPS], *tap[BVT_STENCIL_TAPS];
        unsigned taps = bvt_stencil_sources(call, row, source, tap);
        void *out = bvt_row(&call->out[0], row);
        for (uint32_t c = 0; c < channels; c++) {
            float acc = shift ? bvt_get_real(shift, c, half) : 0;
            for (unsigned t = 0; t < taps; t++) {
                const float x = bvt_get_real(source[t], c, half), w = bvt_get_real(tap[t], c, half);
                acc = half ? bvt_half_fma(x, w, acc) : bvt_fma(x, w, acc);
            }
            bvt_put_real(out, c, acc, half);
        }
    }
}
