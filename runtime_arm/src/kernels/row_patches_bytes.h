/* row_patches of whole bytes. The forms that networks have are loops of their own, in which nothing is asked on the way: patches
 * side by side, whose lines are copied, and 3 x 3 of bits in four groups. Codes that fill no whole bytes go to the reference.
 * Compiled once an ISA, whose instructions the copies are; the including file gives the name.
 */
#include "../ops/bits.h"

#define INLINE static inline __attribute__((always_inline))

static int32_t or_one(int32_t x) { return x ? x : 1; }

/* What a call's rows share. */
typedef struct {
    const uint8_t *grid; /* the first row of the input that is in memory */
    size_t pixel;        /* from a row to the next */
    int32_t first, height, width, k, d;
    uint32_t groups;
    size_t bytes, stride;   /* of a tap's channels of a group; from a group to the next in a patch */
    size_t plane, in_plane; /* where the planes of trits begin, or 0 */
} patches;

/* Bytes from `grid` to a tap, which need not be on the grid. */
INLINE ptrdiff_t offset(const patches *p, int32_t y, int32_t x) {
    return ((ptrdiff_t)y * p->width + x - p->first) * (ptrdiff_t)p->pixel;
}

INLINE void set_words(uint8_t *to, size_t n) {
    for (; n >= 16; n -= 16, to += 16) memset(to, 255, 16);
    if (n) memset(to, 255, 8);
}

/* Patches of one group, rows row0 .. row1-1, whose lines of n bytes are all on the grid and lie side by side. */
INLINE void lines(const patches *p, const bvt_view *out, uint32_t row0, uint32_t row1, uint32_t out_w, int32_t s, const size_t n) {
    const size_t stride = out->stride, step = (size_t)s * p->pixel;
    uint32_t x = row0 % out_w, y = row0 / out_w;
    for (uint32_t row = row0, many; row < row1; row += many, x = 0, y++) { /* those of a line of patches */
        many = bvt_min_u32(row1 - row, out_w - x);
        for (int32_t ky = 0; ky < p->k; ky++) {
            const uint8_t *from = p->grid + offset(p, (int32_t)y * s + ky, (int32_t)x * s);
            uint8_t *to = (uint8_t *)bvt_row(out, row) + (size_t)ky * n;
            for (uint32_t i = 0; i < many; i++, to += stride, from += step) bvt_copy_words(to, from, n);
        }
    }
}

#define K 3 /* of patches of four groups: what the networks have */

/* Tap t of four groups of n bytes, n = 2 or 4. */
INLINE void scatter(uint8_t *to, const uint8_t *from, const unsigned t, const size_t n) {
    uint64_t words[2];
    memcpy(words, from, 4 * n);
    for (unsigned g = 0; g < 4; g++) {
        const uint64_t word = words[g * n / 8] >> (8 * (g * n % 8));
        memcpy(to + (g * K * K + t) * n, &word, n);
    }
}

/* Bits in four groups; trits of them if there is a plane. */
INLINE void four_groups(const patches *p, uint8_t *to, int32_t top, int32_t left, const size_t n) {
    static const uint8_t none[16], ones[16] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    const int32_t d = p->d, height = p->height, width = p->width;
    const ptrdiff_t right = d * (ptrdiff_t)p->pixel, down = right * width;
    if (top >= 0 && left >= 0 && top + d * (K - 1) < height && left + d * (K - 1) < width) {
        const uint8_t *from = p->grid + offset(p, top, left);
#pragma GCC unroll 9
        for (unsigned t = 0; t < K * K; t++) {
            scatter(to, from, t, n);
            from += t % K < K - 1 ? right : down - (K - 1) * right;
        }
        if (p->plane) set_words(to + p->plane, (4 * K * K * n + 7) / 8 * 8); /* the caller clears what no codes fill */
        return;
    }
    ptrdiff_t at = offset(p, top, left);
#pragma GCC unroll 1
    for (int32_t ky = 0, y = top; ky < K; ky++, y += d, at += down - K * right) {
        const uint32_t end = (uint32_t)y < (uint32_t)height ? (uint32_t)width : 0; /* a line that is not there has no places */
#pragma GCC unroll 3
        for (int32_t kx = 0, x = left; kx < K; kx++, x += d, at += right, to += n) {
            const bool inside = (uint32_t)x < end;
            scatter(to, inside ? p->grid + at : none, 0, n);
            if (p->plane) scatter(to + p->plane, inside ? ones : none, 0, n);
        }
    }
}

static void any_groups(const patches *p, uint8_t *to, int32_t top, int32_t left) {
    for (int32_t ky = 0, y = top; ky < p->k; ky++, y += p->d)
        for (int32_t kx = 0, x = left; kx < p->k; kx++, x += p->d, to += p->bytes) {
            const bool inside = y >= 0 && y < p->height && x >= 0 && x < p->width;
            const uint8_t *from = inside ? p->grid + offset(p, y, x) : NULL;
            uint8_t *piece = to;
            for (uint32_t g = 0; g < p->groups; g++, piece += p->stride) {
                if (inside) memcpy(piece, from + g * p->bytes, p->bytes);
                else memset(piece, 0, p->bytes);
                if (!p->plane) continue;
                if (inside && p->in_plane) memcpy(piece + p->plane, from + p->in_plane + g * p->bytes, p->bytes);
                else memset(piece + p->plane, inside ? 255 : 0, p->bytes);
            }
        }
}

void ROW_PATCHES_KERNEL(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const int32_t *a = call->op->attr, k = a[2], s = a[3], pad = a[4], d = or_one(a[5]);
    const bvt_view *in = &call->in[0], *out = &call->out[0];
    const uint32_t groups = (uint32_t)or_one(a[6]), n = in->cols / groups, taps = (uint32_t)k * (uint32_t)k;
    const uint32_t out_w = (uint32_t)((a[1] + 2 * pad - d * (k - 1) - 1) / s + 1);
    const bool real = out->dtype == BVT_DTYPE_F32;
    if (!real && n % 8) {
        bvt_row_patches_ref(call, row0, row1);
        return;
    }
    patches p = {in->base, in->stride, (int32_t)in->first, a[0], a[1], k, d, groups, real ? 4 * (size_t)n : n / 8, 0, 0, 0};
    p.stride = taps * p.bytes;
    if (out->dtype == BVT_DTYPE_TRITS) p.plane = bvt_plane(out->cols);
    if (in->dtype == BVT_DTYPE_TRITS) p.in_plane = bvt_plane(in->cols);
    const size_t used = groups * p.stride, stride = out->stride, plane = p.plane, padding = (plane ? plane : stride) - used;
    const bool four = k == K && groups == 4 && !p.in_plane && (p.bytes == 2 || p.bytes == 4);
    if (groups == 1 && d == 1 && !pad && !plane && !padding && p.bytes == p.pixel && p.bytes % 8 == 0) {
        const size_t line = (size_t)k * p.bytes;
        if (line == 16) lines(&p, out, row0, row1, out_w, s, 16);
        else lines(&p, out, row0, row1, out_w, s, line);
        return;
    }
    uint32_t x = row0 % out_w;
    int32_t top = (int32_t)(row0 / out_w) * s - pad;
    uint8_t *to = bvt_row(out, row0);
    for (uint32_t row = row0; row < row1; row++, to += stride) {
        const int32_t left = (int32_t)x * s - pad;
        if (four && p.bytes == 4) four_groups(&p, to, top, left, 4);
        else if (four) four_groups(&p, to, top, left, 2);
        else any_groups(&p, to, top, left);
        if (padding) {
            memset(to + used, 0, padding);
            if (plane) memset(to + plane + used, 0, padding);
        }
        if (++x == out_w) x = 0, top += s;
    }
}
