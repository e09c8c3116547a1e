/* row_patches of whole bytes. The forms that networks have are loops of their own, in which nothing is asked on the way: patches side by
 * side, whose lines are copied, and those of bits in four groups. Codes that fill no whole bytes go to the reference. Compiled once an
 * ISA, whose instructions the copies are; the including file gives the name.
 */
#include "../internal.h"

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

/* n bytes, a multiple of 8. */
INLINE void copy_words(uint8_t *to, const uint8_t *from, size_t n) {
    struct {
        uint64_t a, b;
    } x;
    for (; n >= 16; n -= 16, to += 16, from += 16) memcpy(to, memcpy(&x, from, 16), 16);
    if (n) memcpy(to, memcpy(&x, from, 8), 8);
}
INLINE void set_words(uint8_t *to, size_t n) {
    for (; n >= 16; n -= 16, to += 16) memset(to, 255, 16);
    if (n) memset(to, 255, 8);
}

/* One group, and lines of which all is on the grid and lies side by side. */
static void lines(uint8_t *to, const uint8_t *from, size_t n, size_t down, uint32_t k) {
    for (uint32_t y = 0; y < k; y++, to += n, from += down) copy_words(to, from, n);
}

/* Four groups of n bytes, n = 2 or 4, `apart` bytes apart in `to`. */
INLINE void scatter(uint8_t *to, const uint8_t *from, size_t apart, const size_t n) {
    uint64_t words[2];
    memcpy(words, from, 4 * n);
    for (unsigned g = 0; g < 4; g++) {
        const uint64_t word = words[g * n / 8] >> (8 * (g * n % 8));
        memcpy(to + g * apart, &word, n);
    }
}
INLINE void clear(uint8_t *to, size_t apart, const size_t n) {
    for (unsigned g = 0; g < 4; g++) memset(to + g * apart, 0, n);
}

/* Bits in four groups; trits of them if there is a plane. */
INLINE void four_groups(const patches *p, uint8_t *to, int32_t top, int32_t left, const size_t n) {
    const int32_t k = p->k, d = p->d, height = p->height, width = p->width;
    const size_t apart = p->stride, plane = p->plane;
    const ptrdiff_t right = d * (ptrdiff_t)p->pixel;
    if (plane) set_words(to + plane, (4 * apart + 7) / 8 * 8); /* the caller clears what no codes fill */
    if (top >= 0 && left >= 0 && top + d * (k - 1) < height && left + d * (k - 1) < width) {
        const uint8_t *line = p->grid + offset(p, top, left), *from;
        for (int32_t ky = 0; ky < k; ky++, line += right * width) {
            from = line;
            for (int32_t kx = 0; kx < k; kx++, from += right, to += n) scatter(to, from, apart, n);
        }
        return;
    }
    for (int32_t ky = 0, y = top; ky < k; ky++, y += d) {
        const bool line = y >= 0 && y < height;
        ptrdiff_t at = offset(p, y, left);
        for (int32_t kx = 0, x = left; kx < k; kx++, x += d, at += right, to += n) {
            if (line && x >= 0 && x < width) {
                scatter(to, p->grid + at, apart, n);
            } else {
                clear(to, apart, n);
                if (plane) clear(to + plane, apart, n);
            }
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
    const size_t used = groups * p.stride, stride = out->stride, plane = p.plane;
    const bool whole = groups == 1 && d == 1 && !pad && !plane && p.bytes == p.pixel && p.bytes % 8 == 0;
    const bool four = groups == 4 && !p.in_plane && (p.bytes == 2 || p.bytes == 4);
    const bool padded = used < (plane ? plane : stride) || (plane && 2 * plane < stride);
    uint32_t x = row0 % out_w;
    int32_t top = (int32_t)(row0 / out_w) * s - pad;
    uint8_t *to = bvt_row(out, row0);
    for (uint32_t row = row0; row < row1; row++, to += stride) {
        const int32_t left = (int32_t)x * s - pad;
        if (whole) lines(to, p.grid + offset(&p, top, left), (size_t)k * p.bytes, (size_t)p.width * p.pixel, (uint32_t)k);
        else if (four && p.bytes == 4) four_groups(&p, to, top, left, 4);
        else if (four) four_groups(&p, to, top, left, 2);
        else any_groups(&p, to, top, left);
        if (padded) {
            if (plane) memset(to + used, 0, plane - used);
            memset(to + plane + used, 0, (plane ? plane : stride) - used);
            if (plane) memset(to + 2 * plane, 0, stride - 2 * plane);
        }
        if (++x == out_w) x = 0, top += s;
    }
}
