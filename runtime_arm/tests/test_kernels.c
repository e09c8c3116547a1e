/* Every kernel of kernels.inc against the reference of its op, bit for bit, padding included; those of attention also against its
 * definition, code by code.
 *
 * A case is an op with random operands; case_<op> makes it. Adding an op: add its maker to `makers`. Operands have exactly the
 * bytes that they need, so that AddressSanitizer sees every read beyond them.
 */
#include <math.h>

#include "../src/half.h"
#include "../src/kernels/epilogue_sets.h"
#include "../src/ops/activation.h"
#include "../src/ops/attention.h"
#include "../src/ops/dense_i8.h"
#include "../src/ops/epilogue.h"
#include "../src/ops/norm.h"
#include "harness.h"
#include "internal.h"

typedef struct {
    bvt_rec_op op;
    bvt_call call;
    uint8_t *in[BVT_N_IN], *out[2][BVT_N_OUT];
    size_t out_bytes[BVT_N_OUT];
    uint32_t rows;
    char text[200];
} test_case;

static float random_float(void) {
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-45f, -1e-40f, 3.4e38f, -3.4e38f, 1.0f, -1.0f};
    if (below(40) == 0) return special[below(sizeof special / sizeof *special)];
    return (float)ldexp((double)(int32_t)rng(), -(int)below(40));
}

static bool all_small; /* all floats of the case are small integers: zeros, ties and signed zeros meet */
static int real;       /* BVT_DTYPE_F32; of a kernel for fp16 BVT_DTYPE_F16 */

/* Any number, or around the edges of fp16: rounding to infinity, to the next, to subnormals and to 0. */
static uint16_t random_half(void) {
    static const uint16_t special[] = {0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00};
    if (below(20) == 0) return special[below(sizeof special / sizeof *special)];
    if (below(20) == 0) return (uint16_t)rng();
    return (uint16_t)((rng() & 0x83FF) | range(8, 18) << 10);
}

static int coin(void) { return (int)(rng() >> 40 & 1); }

static size_t value_bytes(bvt_view *v, int layout, uint32_t pad) {
    const bool wide = v->dtype == BVT_DTYPE_U64 || v->dtype == BVT_DTYPE_F64;
    const bool narrow = v->dtype == BVT_DTYPE_I16 || v->dtype == BVT_DTYPE_F16;
    const uint32_t element = wide ? 8 : narrow ? 2 : 4;
    v->by_cols = layout == BVT_LAYOUT_COLS;
    v->layout = (uint8_t)layout;
    if (v->dtype == BVT_DTYPE_TRITS) {
        v->stride = 2 * bvt_plane(v->by_cols ? v->rows : v->cols);
        return v->stride * (v->by_cols ? v->cols : v->rows);
    }
    if (layout == BVT_LAYOUT_COLS) {
        v->stride = (v->rows + 63) / 64 * 8 + pad / 8 * 8;
        return v->stride * v->cols;
    }
    if (layout == BVT_LAYOUT_LANES16) {
        v->stride = (v->cols + 7) / 8 * 16;
        return v->stride * ((v->rows + 15) / 16);
    }
    v->stride = (v->dtype == BVT_DTYPE_BITS ? (v->cols + 7) / 8 : (size_t)v->cols * element) +
                (v->dtype == BVT_DTYPE_BITS ? pad : pad / element * element);
    return v->stride * v->rows;
}

/* Sets one bit of a bits value. */
static void set_bit(const bvt_view *v, int layout, uint32_t r, uint32_t c) {
    if (layout == BVT_LAYOUT_ROWS) v->base[r * v->stride + c / 8] |= (uint8_t)(1u << c % 8);
    else if (layout == BVT_LAYOUT_COLS) v->base[c * v->stride + r / 8] |= (uint8_t)(1u << r % 8);
    else v->base[r / 16 * v->stride + c / 8 * 16 + r % 16] |= (uint8_t)(1u << c % 8);
}

static bvt_view *add_in(test_case *t, unsigned slot, int dtype, int layout, uint32_t rows, uint32_t cols) {
    bvt_view *v = &t->call.in[slot];
    *v = (bvt_view){.rows = rows, .cols = cols, .dtype = (uint8_t)dtype};
    const size_t bytes = value_bytes(v, layout, below(3) ? 0 : range(1, 20));
    v->base = t->in[slot] = calloc(1, bytes);
    bvt_view nonzero = *v; /* the second plane of trits */
    if (dtype == BVT_DTYPE_TRITS) nonzero.base += bvt_plane(v->by_cols ? rows : cols);
    const uint32_t kind =
        below(8); /* bits: all 0, all 1, or random; floats: small integers, which are often 0 or equal, or random */
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++) {
            uint8_t *at = v->base + r * v->stride + (size_t)c * (dtype == BVT_DTYPE_I16 || dtype == BVT_DTYPE_F16 ? 2 : 4);
            float f;
            int32_t i;
            int16_t dot;
            uint16_t half;
            switch (dtype) {
            case BVT_DTYPE_BITS:
                if (kind == 1 || (kind > 1 && coin())) set_bit(v, layout, r, c);
                break;
            case BVT_DTYPE_TRITS:
                if (kind && !below(3)) continue;
                set_bit(&nonzero, layout, r, c);
                if (kind == 1 || (kind > 1 && coin())) set_bit(v, layout, r, c);
                break;
            case BVT_DTYPE_F32: f = kind < 3 || all_small ? (float)range(0, 4) - 2.0f : random_float(), memcpy(at, &f, 4); break;
            case BVT_DTYPE_F16:
                half = kind < 3 || all_small ? bvt_to_half((float)range(0, 4) - 2.0f) : random_half(), memcpy(at, &half, 2);
                break;
            case BVT_DTYPE_I32: /* likewise */
                i = kind < 3 || all_small ? (int32_t)range(0, 4) - 2
                    : kind < 5            ? (int32_t)range(0, 2000) - 1000
                                          : (int32_t)range(0, 1 << 25) - (1 << 24);
                memcpy(at, &i, 4);
                break;
            case BVT_DTYPE_I16: /* as far as dots go */
                dot = (int16_t)(kind < 3 || all_small ? (int)range(0, 4) - 2 : (int)range(0, 65532) - 32766), memcpy(at, &dot, 2);
                break;
            default: break;
            }
        }
    return v;
}

static void add_out(test_case *t, unsigned slot, int dtype, int layout, uint32_t rows, uint32_t cols) {
    bvt_view *v = &t->call.out[slot];
    *v = (bvt_view){.rows = rows, .cols = cols, .dtype = (uint8_t)dtype};
    t->out_bytes[slot] = value_bytes(v, layout, below(3) ? 0 : range(1, 20));
    for (int i = 0; i < 2; i++) t->out[i][slot] = malloc(t->out_bytes[slot]);
    t->rows = rows;
}

/* ---- Makers: `size` 0 is a small shape, 1 a larger one, 2 and more systematic ones --------------------------------------- */

static void case_bgemm(test_case *t, uint32_t size) {
    uint32_t n = range(1, size ? 13 : 6), k = range(1, size ? 520 : 40), o = range(1, size ? 150 : 35);
    if (size >= 2) k = 1 + (size - 2) % 520, n = 5, o = 33; /* every K */
    const uint32_t groups = size < 2 && !below(3) ? range(2, 5) : 1;
    if (groups > 1) {
        const bool tiles = coin(); /* whole bytes and whole tiles, which kernels take faster */
        o = groups * (tiles ? 16 * range(1, 5) : o), k = tiles ? 8 * range(1, 40) : range(1, 100);
        t->op.attr[0] = (int32_t)groups;
    }
    add_in(t, 0, below(3) ? BVT_DTYPE_BITS : BVT_DTYPE_TRITS, BVT_LAYOUT_ROWS, n, groups * k);
    add_in(t, 1, BVT_DTYPE_BITS, BVT_LAYOUT_LANES16, o, k);
    add_out(t, 0, BVT_DTYPE_I16, BVT_LAYOUT_ROWS, n, o);
    snprintf(t->text, sizeof t->text, "N %u K %u O %u groups %u dtype %u", n, k, o, groups, t->call.in[0].dtype);
}

static void case_mixed_gemm(test_case *t, uint32_t size) {
    const uint32_t n = range(1, size ? 13 : 6), k = range(1, size ? 130 : 20), o = range(1, size ? 100 : 35);
    add_in(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, k);
    add_in(t, 1, BVT_DTYPE_BITS, BVT_LAYOUT_LANES16, o, k);
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, o);
    snprintf(t->text, sizeof t->text, "N %u K %u O %u", n, k, o);
}

static void case_dense(test_case *t, uint32_t size) {
    const uint32_t n = range(1, size ? 13 : 6), k = range(1, size ? 70 : 9), o = range(1, size ? 100 : 35);
    add_in(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, k);
    add_in(t, 1, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, k, o);
    if (coin()) add_in(t, 2, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, o);
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, o);
    snprintf(t->text, sizeof t->text, "N %u K %u O %u", n, k, o);
}

/* Rows of every kind: random floats, of which most rows have a NaN or an infinity; moderate ones; halves of a step, which tie;
 * zeros; subnormals; and magnitudes around those that have no inverse. */
static void case_dense_i8(test_case *t, uint32_t size) {
    uint32_t n = range(1, size ? 37 : 6), k = range(1, size ? 200 : 20), o = range(1, size ? 100 : 35);
    if (size >= 2) k = 1 + (size - 2) % 40, o = 1 + (size - 2) / 40, n = range(1, 18); /* every K and O */
    const bvt_view *x = add_in(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, k);
    for (uint32_t r = 0; r < n; r++) {
        static const double sizes[] = {1, 1, 0x1p-120, 0x1p-121, 0x1p-122, 0x1p-140, 0x1p120, 0};
        const uint32_t kind = below(5);
        const double unit = sizes[below(8)];
        float *row = bvt_row(x, r);
        for (uint32_t c = 0; kind && c < k; c++)
            row[c] = (float)((kind == 1 ? (double)range(0, 254) / 2 - 63.5 : ((double)below(1u << 24) - 0x1p23) * 0x1p-18) * unit);
        if (kind == 1) row[below(k)] = (float)(coin() ? 63.5 * unit : -127 * unit);
    }
    bvt_view *w = &t->call.in[1];
    *w = (bvt_view){.rows = o, .cols = k, .dtype = BVT_DTYPE_I8, .layout = BVT_LAYOUT_QUADS};
    w->stride = 128 * ((k + 7) / 8) + 16 * below(2);
    const size_t bytes = (o + 15) / 16 * w->stride;
    w->base = t->in[1] = malloc(bytes);
    const uint32_t kind = below(4); /* all -128, extremes, or random; padding too is whatever it is */
    for (size_t i = 0; i < bytes; i++) w->base[i] = kind == 0 ? 0x80 : kind == 1 ? (coin() ? 0x7F : 0x81) : (uint8_t)rng();
    add_in(t, 2, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, o);
    if (coin()) add_in(t, 3, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, o);
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, o);
    t->op.scratch = (uint32_t)bvt_i8_scratch(k);
    snprintf(t->text, sizeof t->text, "N %u K %u O %u", n, k, o);
}

/* Writes H, W, k, s to attr and returns the number of output rows. */
static uint32_t random_window(int32_t *attr, uint32_t most) {
    const uint32_t h = range(1, most), w = range(1, most), k = range(1, bvt_min_u32(bvt_min_u32(h, w), 4)), s = range(1, 3);
    attr[0] = (int32_t)h, attr[1] = (int32_t)w, attr[2] = (int32_t)k, attr[3] = (int32_t)s;
    return ((h - k) / s + 1) * ((w - k) / s + 1);
}

static void case_patches(test_case *t, uint32_t size) {
    const uint32_t channels = range(1, 3), rows = random_window(t->op.attr + 1, size ? 12 : 6), k = (uint32_t)t->op.attr[3];
    t->op.attr[0] = (int32_t)channels;
    add_in(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, channels * (uint32_t)t->op.attr[1], (uint32_t)t->op.attr[2]);
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, rows, channels * k * k);
}

/* Adds a padding to the window and returns the number of output rows. */
static uint32_t pad_window(int32_t *a, uint32_t padding) {
    a[4] = (int32_t)padding;
    return (uint32_t)(((a[0] + 2 * a[4] - a[2]) / a[3] + 1) * ((a[1] + 2 * a[4] - a[2]) / a[3] + 1));
}

static void case_row_patches(test_case *t, uint32_t size) {
    static const int dtypes[] = {BVT_DTYPE_F32, BVT_DTYPE_BITS, BVT_DTYPE_TRITS};
    random_window(t->op.attr, size ? 8 : 5);
    int32_t *a = t->op.attr;
    const uint32_t padding = below(3), groups = range(1, 4), form = below(3);
    /* Channels of any number, of whole bytes, and of whole words; patches of 3 x 3 in four groups are a form of their own. */
    const uint32_t c = groups * (form == 0 ? range(1, size ? 40 : 12) : form == 1 ? 8 * range(1, 4) : 64 * range(1, 2));
    if (form && groups == 4) a[2] = 3, a[0] += 3, a[1] += 3;
    const uint32_t k = (uint32_t)a[2];
    uint32_t rows = pad_window(a, padding);
    if (k > 1 && a[0] + 2 * a[4] > 2 * a[2] && a[1] + 2 * a[4] > 2 * a[2] && coin()) {
        const int32_t span = 2 * (a[2] - 1) + 1;
        a[5] = 2;
        rows = (uint32_t)(((a[0] + 2 * a[4] - span) / a[3] + 1) * ((a[1] + 2 * a[4] - span) / a[3] + 1));
    }
    a[6] = groups == 1 ? coin() : (int32_t)groups;
    const int dtype = dtypes[below(3)];
    add_in(t, 0, dtype, BVT_LAYOUT_ROWS, (uint32_t)(a[0] * a[1]), c);
    add_out(t, 0, dtype == BVT_DTYPE_BITS && padding ? BVT_DTYPE_TRITS : dtype, BVT_LAYOUT_ROWS, rows, k * k * c);
    snprintf(t->text, sizeof t->text, "%dx%d k %d s %d p %d d %d G %d C %u dtype %d", a[0], a[1], a[2], a[3], a[4], a[5],
             a[6], c, dtype);
}

static void case_avg_pool(test_case *t, uint32_t size) {
    random_window(t->op.attr, size ? 8 : 5);
    if (coin()) t->op.attr[2] = t->op.attr[3] = 2, t->op.attr[0]++, t->op.attr[1]++; /* 2 x 2 side by side is a form of its own */
    const uint32_t rows = pad_window(t->op.attr, below((uint32_t)t->op.attr[2])), c = coin() ? 32 * range(1, 2) : range(1, size ? 70 : 20);
    add_in(t, 0, real, BVT_LAYOUT_ROWS, (uint32_t)(t->op.attr[0] * t->op.attr[1]), c);
    add_out(t, 0, real, BVT_LAYOUT_ROWS, rows, c);
    snprintf(t->text, sizeof t->text, "C %u", c);
}

static void case_max_pool(test_case *t, uint32_t size) { case_avg_pool(t, size); }

static void norm_inputs(test_case *t, uint32_t size, uint32_t *n, uint32_t *c) {
    const uint32_t groups = range(1, 3);
    *n = range(1, size ? 20 : 6), *c = groups * range(1, size ? 90 : 20);
    t->op.attr[0] = (int32_t)groups;
    t->op.fattr[0] = coin() ? 1e-5f : 0;
    add_in(t, 0, real, BVT_LAYOUT_ROWS, *n, *c);
    add_in(t, 1, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, *c);
    add_in(t, 2, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, 1, *c);
    if (real == BVT_DTYPE_F16) t->op.scratch = (uint32_t)bvt_align64(BVT_WIDENED_ROWS * sizeof(float) * *c);
    if (coin()) /* without special values, so that more than NaN comes out */
        for (uint32_t r = 0; r < *n; r++)
            for (uint32_t i = 0; i < *c; i++)
                bvt_put_real(bvt_row(&t->call.in[0], r), i, (float)((int)below(2001) - 1000) * 0.01f, real == BVT_DTYPE_F16);
    snprintf(t->text, sizeof t->text, "N %u C %u G %u", *n, *c, groups);
}

static void case_layer_norm_rows(test_case *t, uint32_t size) {
    uint32_t n, c;
    norm_inputs(t, size, &n, &c);
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, c);
}

static void case_norm_sign(test_case *t, uint32_t size) {
    uint32_t n, c;
    norm_inputs(t, size, &n, &c);
    for (uint32_t i = 0, signs = below(3); signs && i < c; i++) /* 1 nearly everywhere, or 1 and -1 */
        ((float *)bvt_row(&t->call.in[2], 0))[i] = below(signs == 1 ? 40 : 2) ? 1 : -1;
    add_out(t, 0, BVT_DTYPE_BITS, coin() ? BVT_LAYOUT_ROWS : BVT_LAYOUT_COLS, n, c);
}

static void case_gather(test_case *t, uint32_t size) {
    static const int dtypes[] = {BVT_DTYPE_F32, BVT_DTYPE_BITS, BVT_DTYPE_TRITS};
    const int dtype = real == BVT_DTYPE_F16 ? real : dtypes[below(3)], out = dtype == BVT_DTYPE_BITS && coin() ? BVT_DTYPE_TRITS : dtype;
    const bool words = coin(); /* rows of whole words from one source */
    const uint32_t n = range(1, 20), parts = words ? 1 : range(1, 5), c = words ? 64 * range(1, 5) : range(1, size ? 70 : 20),
                   sources = words && coin() ? 1 : range(1, 4);
    uint32_t rows = 0;
    for (unsigned i = 1; i <= sources; i++) rows += add_in(t, i, dtype, BVT_LAYOUT_ROWS, range(1, 9), c)->rows;
    const bvt_view *index = add_in(t, 0, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, n, parts);
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t p = 0; p < parts; p++)
            ((int32_t *)bvt_row(index, r))[p] = out == BVT_DTYPE_BITS ? (int32_t)below(rows) : (int32_t)below(rows + 1) - 1;
    add_out(t, 0, out, BVT_LAYOUT_ROWS, n, parts * c);
    snprintf(t->text, sizeof t->text, "N %u P %u C %u sources %u dtype %d -> %d", n, parts, c, sources, dtype, out);
}

static void case_activation(test_case *t, uint32_t size) {
    const uint32_t n = range(1, 9), c = range(1, size ? 90 : 20);
    t->op.attr[0] = (int32_t)below(3);
    if (t->op.attr[0] == BVT_ACTIVATION_CLAMP) t->op.fattr[0] = -1.5f, t->op.fattr[1] = coin() ? 1 : INFINITY;
    const bvt_view *x = add_in(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, c);
    for (uint32_t i = 0; i < c; i++) ((float *)bvt_row(x, 0))[i] = (float)((int)below(16001) - 8000) * 0.001f;
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, c);
    snprintf(t->text, sizeof t->text, "N %u C %u kind %d", n, c, t->op.attr[0]);
}

static void case_multiply(test_case *t, uint32_t size) {
    const uint32_t n = range(1, 9), c = range(1, size ? 90 : 20);
    add_in(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, c);
    add_in(t, 1, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, coin() ? 1 : c);
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, n, c);
}

static void case_stencil(test_case *t, uint32_t size) {
    /* A cross, which some kernels know, perhaps with a tap more that is outside of the grid for most lines; or any taps. */
    static const int8_t crosses[9][2] = {{-2, 0}, {-1, 0}, {0, -2}, {0, -1}, {0, 0}, {0, 1}, {0, 2}, {1, 0}, {2, 0}};
    const bool cross = coin();
    const uint32_t more = cross && below(3) == 0 ? below(9) : 9; /* the tap in front of which it is */
    const uint32_t h = cross ? range(3, 7) : range(1, 7), w = cross ? range(3, size ? 31 : 15) : range(1, 7),
                   taps = cross ? 9 + (more < 9) : range(1, 16), c = coin() ? 32 * range(1, 3) : range(1, size ? 70 : 20);
    t->op.attr[0] = (int32_t)h, t->op.attr[1] = (int32_t)w, t->op.attr[2] = (int32_t)taps, t->op.attr[3] = coin();
    for (uint32_t i = 0; i < taps; i++) {
        int dy = (int)range(0, 2 * h - 2) - (int)h + 1, dx = (int)range(0, 2 * w - 2) - (int)w + 1;
        if (cross && i == more) dy = (int)h - 1, dx = 0;
        else if (cross) dy = crosses[i - (i > more)][0], dx = crosses[i - (i > more)][1];
        t->op.attr[4 + i] = (dy & 255) | (dx & 255) << 8;
    }
    add_in(t, 0, real, BVT_LAYOUT_ROWS, h * w, c);
    add_in(t, 1, real, BVT_LAYOUT_ROWS, taps, c);
    if (coin()) add_in(t, 2, real, BVT_LAYOUT_ROWS, 1, c);
    add_out(t, 0, real, BVT_LAYOUT_ROWS, h * w, c);
    snprintf(t->text, sizeof t->text, "%ux%u C %u taps %u boundary %d", h, w, c, taps, t->op.attr[3]);
}

static int code_at(const bvt_view *v, uint32_t r, uint32_t c);

/* An entry of a head's table over the sum of a row's, both without a bias: a kernel that knows the sum roughly cannot tell whether
 * this limit times the sum is above the entry, or below. */
static double border_limit(const test_case *t, uint32_t windows, uint32_t h, int32_t zero_point) {
    const bvt_view *q = &t->call.in[0], *k = &t->call.in[1], *tables = &t->call.in[BVT_ATTENTION_TABLE];
    const uint32_t d = q->cols / (uint32_t)t->op.attr[0], nk = k->rows / windows, row = below(q->rows);
    const uint32_t first = row / (q->rows / windows) * nk, chosen = below(nk);
    const uint64_t *table = bvt_row(tables, tables->rows == 1 ? 0 : h);
    int32_t *score = calloc(nk, sizeof *score), most = INT32_MIN;
    for (uint32_t j = 0; j < nk; j++) {
        for (uint32_t c = h * d; c < h * d + d; c++) score[j] += (code_at(q, row, c) - zero_point) * code_at(k, first + j, c);
        most = score[j] > most ? score[j] : most;
    }
    const int32_t unit = q->dtype == BVT_DTYPE_BITS && k->dtype == BVT_DTYPE_BITS ? 2 : 1;
    uint64_t z = 0;
    for (uint32_t j = 0; j < nk; j++) z += table[(most - score[j]) / unit];
    const double limit = (double)table[(most - score[chosen]) / unit] / (double)(z ? z : 1);
    free(score);
    return limit;
}

/* What the loader asks for, by the largest |result|. */
static int dots_dtype(uint32_t most) { return most <= BVT_MOST_I16 ? BVT_DTYPE_I16 : BVT_DTYPE_I32; }

static void plain_attention(test_case *t, uint32_t size) {
    static const uint32_t widths[] = {8, 16, 24, 32, 40, 64, 64, 104, 248, 256, 72};
    const bool wide = size && below(60) == 0; /* so many keys that results are i32 */
    const uint32_t n = range(1, wide ? 2 : size ? 40 : 20), heads = range(1, wide ? 1 : 3);
    const uint32_t m = wide ? range(32760, 32780) : size && below(8) == 0 ? range(1000, 1100) : range(1, size ? 300 : 70);
    const uint32_t d = wide ? range(1, 9) : below(4) ? widths[below(11)] : range(1, 70), c = heads * d;
    t->op.attr[0] = (int32_t)heads;
    add_in(t, 0, BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, n, c);
    add_in(t, 1, BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, m, c);
    add_in(t, 2, BVT_DTYPE_BITS, BVT_LAYOUT_COLS, m, c);
    uint64_t *table = (uint64_t *)(void *)add_in(t, 3, BVT_DTYPE_U64, BVT_LAYOUT_ROWS, 1, d + 1)->base;
    double *limit = (double *)(void *)add_in(t, 4, BVT_DTYPE_F64, BVT_LAYOUT_ROWS, 1, heads)->base;
    const uint64_t top = (((uint64_t)1 << 53) - 1) / m;
    const double decay = coin() ? 0.9 : 0.995;
    double x = coin() ? (double)top * 0.999 : 255;
    for (uint32_t i = 0; i <= d; i++, x *= decay) table[i] = (uint64_t)x;
    static const double limits[] = {0.25, 1, 2, 0, -1, INFINITY, NAN};
    for (uint32_t i = 0; i < heads; i++) limit[i] = below(3) ? limits[below(7)] / m : border_limit(t, 1, i, 0);
    add_out(t, 0, dots_dtype(m), BVT_LAYOUT_ROWS, n, c);
    const uint64_t least = bvt_align64(2 * m) + bvt_align64((m + 63) / 64 * 8),
                   more = bvt_align64(16 * m) + bvt_align64(16 * ((m + 7) / 8));
    t->op.scratch = (uint32_t)(below(4) ? (more > least ? more : least) : least);
    snprintf(t->text, sizeof t->text, "N %u M %u heads %u d %u scratch %u", n, m, heads, d, t->op.scratch);
}

/* A number of -most .. most; 0 unless `any`. */
static int32_t step_of(bool any, int32_t most) { return any ? (int32_t)range(0, 2 * (uint32_t)most) - most : 0; }

/* Windows, ternary codes, a table a head, several planes of either reference, zero points, base, real levels, biases. */
static void general_attention_case(test_case *t, uint32_t size) {
    static const uint32_t widths[] = {8, 16, 32, 63, 64, 65, 96, 128, 130};
    const uint32_t windows = coin() ? 1 : range(2, 4), heads = range(1, 3), planes = range(1, 3);
    const uint32_t nq = range(1, windows > 1 ? 11 : 30), nk = range(1, size ? (windows > 1 ? 140 : 260) : 70);
    const uint32_t d = coin() ? widths[below(9)] : range(1, 70), c = heads * d, ternary = coin() ? (uint32_t)below(8) : 0;
    const bool ints = coin(), real = !below(3), bias = !below(3);
    int32_t *attr = t->op.attr;
    attr[0] = (int32_t)heads, attr[1] = (int32_t)(windows > 1 ? windows : below(2)), attr[2] = (int32_t)planes;
    attr[3] = (int32_t)below(1 << planes), attr[4] = (int32_t)below(1 << planes);
    bvt_view *q = add_in(t, 0, ternary & 1 ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, windows * nq, c);
    const bvt_view *k = add_in(t, 1, ternary & 2 ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS, BVT_LAYOUT_ROWS, windows * nk, c);
    add_in(t, 2, ternary & 4 ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS, windows > 1 ? BVT_LAYOUT_ROWS : BVT_LAYOUT_COLS, windows * nk, c);
    for (uint32_t r = 0; !(ternary & 3) && r < q->rows; r++) /* most queries near a key, so that scores spread */
        if (below(3)) memcpy(bvt_row(q, r), bvt_row(k, below(k->rows)), (c + 7) / 8), ((uint8_t *)bvt_row(q, r))[0] ^= 1;
    int32_t most_zero = 0;
    uint32_t most = real ? 0 : nk * planes;
    if (ints) {
        const bvt_view *v = add_in(t, BVT_ATTENTION_INTS, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, 3 + planes, heads);
        const bool zq = coin(), zv = coin() && !real, base = coin() && !real, equal = coin();
        const int32_t most_step = coin() ? 9 : 2000; /* up to 2^24 with the most keys */
        most = 0;
        for (uint32_t h = 0; h < heads; h++) {
            const int32_t step[] = {step_of(zq, 3), step_of(zv, 3), step_of(base, 40)};
            for (unsigned i = 0; i < 3 + planes; i++)
                ((int32_t *)bvt_row(v, i))[h] = i < 3 ? step[i] : i > 3 && equal ? ((int32_t *)bvt_row(v, 3))[h] : step_of(true, most_step);
            uint32_t levels = 0;
            for (unsigned i = 2; i < 3 + planes; i++) levels += (uint32_t)abs(((int32_t *)bvt_row(v, i))[h]);
            if (nk * levels * (1 + (uint32_t)abs(step[1])) > most) most = nk * levels * (1 + (uint32_t)abs(step[1]));
            most_zero = abs(step[0]) > most_zero ? abs(step[0]) : most_zero;
        }
    }
    const uint32_t entries = 2 * d * (1 + (uint32_t)most_zero) / (ternary & 3 ? 1 : 2) + 1 + (coin() ? 0 : below(9));
    const bvt_view *table = add_in(t, BVT_ATTENTION_TABLE, BVT_DTYPE_U64, BVT_LAYOUT_ROWS, coin() ? 1 : heads, entries);
    for (uint32_t h = 0; h < table->rows; h++) {
        double x = coin() ? (double)((((uint64_t)1 << 53) - 1) / nk) * 0.999 : 255;
        const double decay = coin() ? 0.9 : 0.99;
        for (uint32_t i = 0; i < entries; i++, x *= decay) ((uint64_t *)bvt_row(table, h))[i] = (uint64_t)x;
    }
    const bvt_view *limit = add_in(t, BVT_ATTENTION_LIMIT, BVT_DTYPE_F64, BVT_LAYOUT_ROWS, planes, heads);
    for (uint32_t i = 0; i < planes; i++)
        for (uint32_t h = 0; h < heads; h++) {
            const double limits[] = {0.25 / nk, 1.0 / nk, 0.5, 0.25, 0.9, 1, 0, -1, INFINITY, NAN};
            ((double *)bvt_row(limit, i))[h] = limits[below(8) ? below(6) : below(10)];
            const bvt_view *zero = &t->call.in[BVT_ATTENTION_INTS];
            if (below(3)) continue;
            ((double *)bvt_row(limit, i))[h] = border_limit(t, windows, h, ints ? ((int32_t *)bvt_row(zero, 0))[h] : 0);
        }
    if (real) {
        const bvt_view *v = add_in(t, BVT_ATTENTION_REAL_STEPS, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, planes, heads);
        for (uint32_t i = 0; i < planes; i++)
            for (uint32_t h = 0; h < heads; h++) ((float *)bvt_row(v, i))[h] = (float)below(2001) / 777.0f - 1.0f;
    }
    if (bias) {
        const uint32_t classes = range(1, 3), pairs = range(1, 9);
        const bvt_view *factor = add_in(t, BVT_ATTENTION_BIAS, BVT_DTYPE_F64, BVT_LAYOUT_ROWS, pairs, heads),
                       *pattern = add_in(t, BVT_ATTENTION_PATTERN, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, classes * nq, nk),
                       *class = add_in(t, BVT_ATTENTION_CLASS, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, 1, windows);
        for (uint32_t i = 0; i < pairs; i++)
            for (uint32_t h = 0; h < heads; h++)
                ((double *)bvt_row(factor, i))[h] = below(6) ? exp((double)below(4001) / 1000.0 - 2.0) : below(2) ? 0 : 1e-44;
        for (uint32_t i = 0; i < pattern->rows; i++)
            for (uint32_t j = 0; j < nk; j++) ((int32_t *)bvt_row(pattern, i))[j] = (int32_t)below(pairs);
        for (uint32_t w = 0; w < windows; w++) ((int32_t *)bvt_row(class, 0))[w] = (int32_t)below(classes);
    }
    add_out(t, 0, real ? BVT_DTYPE_F32 : dots_dtype(most), BVT_LAYOUT_ROWS, windows * nq, c);
    t->op.scratch = (uint32_t)bvt_attention_layout(nk, d, windows, bias, ternary & 1, ternary & 2, ternary & 4).bytes;
    snprintf(t->text, sizeof t->text,
             "windows %u nq %u nk %u heads %u d %u planes %u (%d %d) trits %u tables %u ints %d real %d bias %d", windows, nq, nk,
             heads, d, planes, attr[3], attr[4], ternary, table->rows, ints, real, bias);
}

static void case_attention(test_case *t, uint32_t size) {
    if (below(5) < 2) plain_attention(t, size);
    else general_attention_case(t, size);
}

/* A code of a row of bits or trits, or of a COLS value: -1, 0 or +1. */
static int code_at(const bvt_view *v, uint32_t r, uint32_t c) {
    const uint8_t *line = v->by_cols ? v->base + c * v->stride : v->base + r * v->stride;
    const uint32_t at = v->by_cols ? r : c, plane = (uint32_t)bvt_plane(v->by_cols ? v->rows : v->cols);
    if (v->dtype == BVT_DTYPE_TRITS && !(line[plane + at / 8] >> at % 8 & 1)) return 0;
    return line[at / 8] >> at % 8 & 1 ? 1 : -1;
}

/* attention as the head of src/ops/attention.c defines it, code by code: one row and head. */
static void model_attention_row(const bvt_call *call, uint32_t row, uint32_t h) {
    const bvt_view *in = call->in, *ints = &in[BVT_ATTENTION_INTS], *real = &in[BVT_ATTENTION_REAL_STEPS];
    const int32_t *attr = call->op->attr;
    const uint32_t windows = attr[1] ? (uint32_t)attr[1] : 1, planes = attr[2] ? (uint32_t)attr[2] : 1;
    const uint32_t d = in[0].cols / (uint32_t)attr[0], nq = in[0].rows / windows, nk = in[1].rows / windows, window = row / nq;
    const uint64_t *table = bvt_row(&in[BVT_ATTENTION_TABLE], in[BVT_ATTENTION_TABLE].rows == 1 ? 0 : h);
    int64_t at[6] = {0, 0, 0, 1, 1, 1};
    for (unsigned i = 0; ints->base && i < 3 + planes; i++) at[i] = ((const int32_t *)bvt_row(ints, i))[h];
    int64_t *score = calloc(nk, sizeof *score), most = INT64_MIN;
    double *weight = calloc(nk, sizeof *weight), sum = 0, top = 0;
    for (uint32_t j = 0; j < nk; j++) {
        for (uint32_t c = h * d; c < h * d + d; c++)
            score[j] += (code_at(&in[0], row, c) - at[0]) * code_at(&in[1], window * nk + j, c);
        most = score[j] > most ? score[j] : most;
    }
    const int64_t unit = in[0].dtype == BVT_DTYPE_BITS && in[1].dtype == BVT_DTYPE_BITS ? 2 : 1;
    uint64_t z = 0;
    for (uint32_t j = 0; j < nk; j++) {
        const uint64_t w = table[(most - score[j]) / unit];
        z += w, weight[j] = (double)w;
        if (!in[BVT_ATTENTION_BIAS].base) continue;
        const uint32_t class = (uint32_t)((const int32_t *)bvt_row(&in[BVT_ATTENTION_CLASS], 0))[window];
        const int32_t pair = ((const int32_t *)bvt_row(&in[BVT_ATTENTION_PATTERN], class * nq + row % nq))[j];
        weight[j] *= ((const double *)bvt_row(&in[BVT_ATTENTION_BIAS], (uint32_t)pair))[h];
        sum += weight[j];
        top = weight[j] > top ? weight[j] : top;
    }
    if (!in[BVT_ATTENTION_BIAS].base) sum = (double)z, top = (double)table[0];
    for (uint32_t c = h * d; c < h * d + d; c++) {
        int64_t y = 0;
        float f = 0;
        for (uint32_t j = 0; j < nk; j++) y += at[2] * (code_at(&in[2], window * nk + j, c) - at[1]);
        for (unsigned t = 0; t < planes; t++) {
            const double bound = ((const double *)bvt_row(&in[BVT_ATTENTION_LIMIT], t))[h] * (attr[3] >> t & 1 ? top : sum);
            int64_t part = 0;
            for (uint32_t j = 0; j < nk; j++)
                if (weight[j] > bound || (attr[4] >> t & 1 && weight[j] == bound))
                    part += code_at(&in[2], window * nk + j, c) - at[1];
            y += at[3 + t] * part;
            if (real->base) f = fmaf((float)part, ((const float *)bvt_row(real, t))[h], f);
        }
        void *out = bvt_row(&call->out[0], row);
        if (real->base) ((float *)out)[c] = f;
        else bvt_put_dot(out, c, (int32_t)y, call->out[0].dtype == BVT_DTYPE_I16);
    }
    free(score);
    free(weight);
}

static void model_attention(const bvt_call *call, uint32_t row0, uint32_t row1) {
    for (uint32_t row = row0; row < row1; row++)
        for (uint32_t h = 0; h < (uint32_t)call->op->attr[0]; h++) model_attention_row(call, row, h);
}

static void case_mean_rows(test_case *t, uint32_t size) {
    const uint32_t n = range(1, 20), c = range(1, size ? 150 : 20), groups = coin() ? 1 : range(1, 20);
    t->op.attr[0] = (int32_t)groups;
    add_in(t, 0, real, BVT_LAYOUT_ROWS, groups * n, c);
    add_out(t, 0, BVT_DTYPE_F32, BVT_LAYOUT_ROWS, groups, c);
    snprintf(t->text, sizeof t->text, "N %u C %u", n, c);
}

static void case_channel_pool(test_case *t, uint32_t size) {
    const uint32_t g = range(1, 9), n = range(1, 9), c = coin() ? 8 * range(1, 6) : range(1, size ? 60 : 20);
    t->op.attr[0] = (int32_t)g;
    add_in(t, 0, real, BVT_LAYOUT_ROWS, n, g * c);
    add_out(t, 0, real, BVT_LAYOUT_ROWS, n, c);
    snprintf(t->text, sizeof t->text, "N %u C %u g %u", n, c, g);
}

/* size 2: a form that models have, in whole vectors, with at most one output of bits: these have code of their own. */
static void case_epilogue(test_case *t, uint32_t size) {
#define X(form) set_of((uint32_t)(form)),
    const uint32_t all = (1u << BVT_EP_THRESHOLD0) - 2, layer = SCALE | RES0 | BENT, branch = layer | SCALE2 | POST_RES0;
    const uint32_t common[] = {COMMON_FORMS(X) branch | AFFINE2, AFFINE | RES0 | SLOPE | POST, all, layer | POST, layer | RES1 | POST};
#undef X
    const struct {
        uint32_t set;
        int dtype;
        bool sign;     /* in most cases */
        unsigned pool; /* 0: by chance */
    } own[] = {
        /* those of half_fp16.c: layer, pooled_4, pooled_8, branch (twice), product (twice), attention, norm, sign */
        {layer, BVT_DTYPE_I16, true, 0},
        {layer, BVT_DTYPE_I16, true, 4},
        {layer, BVT_DTYPE_I16, true, 8},
        {branch, BVT_DTYPE_I16, false, 0},
        {branch | AFFINE2 | POST_RES1, BVT_DTYPE_I16, false, 0},
        {SCALE, BVT_DTYPE_I16, false, 0},
        {SCALE | RES0, BVT_DTYPE_I16, false, 0},
        {layer | RES1, BVT_DTYPE_I16, true, 0},
        {AFFINE, real, true, 0},
        {0, real, true, 0},
    };
    const bool usual = size == 2;
    const unsigned n_own = sizeof own / sizeof *own, one = usual ? below(n_own + 4) : n_own; /* of these, or any */
    const bool sign = one >= n_own || own[one].sign;
    const unsigned pooled = one < n_own ? own[one].pool : 0;
    const uint32_t f = range(1, 3), width = f * range(1, 3), n = width * f * range(1, 5);
    const uint32_t c = usual ? 32 * range(1, 5) : coin() ? 16 * range(1, 6) : range(1, size ? 100 : 30);
    uint32_t set = !usual && coin() ? (uint32_t)rng() & all : common[below(sizeof common / sizeof *common)];
    if (one < n_own) set = own[one].set;
    const bool bare = !usual && below(4) == 0; /* thresholds on dots around the ends of a byte, to which a kernel may cut both */
    if (bare) set = 0;
    if (!(set & SLOPE)) set &= ~(uint32_t)BENT;
    const int dtypes[] = {BVT_DTYPE_I16, BVT_DTYPE_I16, BVT_DTYPE_I32, BVT_DTYPE_F32, real};
    const bvt_view *x = add_in(t, 0, one < n_own ? own[one].dtype : dtypes[below(bare ? 1 : 5)], BVT_LAYOUT_ROWS, n, c);
    t->op.attr[BVT_EP_SMALL] = usual ? below(4) > 0 : coin();
    for (uint32_t r = 0; r < n && t->op.attr[BVT_EP_SMALL]; r++)
        for (uint32_t i = 0; i < c; i++) {
            const int32_t dot = (int32_t)range(0, 1024) - 512;
            if (x->dtype == BVT_DTYPE_I16) ((int16_t *)bvt_row(x, r))[i] = (int16_t)dot;
            else if (x->dtype == BVT_DTYPE_I32) ((int32_t *)bvt_row(x, r))[i] = dot;
        }
    const uint32_t table_rows = range(1, 9);
    t->op.attr[0] = (int32_t)width;
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
        t->op.attr[1 + slot] = 1;
        if (!(set >> (1 + slot) & 1)) continue;
        const uint32_t factor = coin() ? f : range(0, 1);
        uint32_t cols = coin() ? c : usual ? 32 : coin() ? bvt_min_u32(16 * range(1, 3), c) : range(1, c);
        while (c % cols) cols--;
        t->op.attr[1 + slot] = (int32_t)factor;
        add_in(t, 1 + slot, real, BVT_LAYOUT_ROWS, factor ? n / factor / factor : range(table_rows, 9), cols);
        if (factor || t->call.in[BVT_EP_ROWS].base) continue;
        const bvt_view *table = add_in(t, BVT_EP_ROWS, BVT_DTYPE_I32, BVT_LAYOUT_ROWS, 1, n);
        for (uint32_t r = 0; r < n; r++) ((int32_t *)bvt_row(table, 0))[r] = (int32_t)below(table_rows);
    }
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++)
        if (set >> i & 1) add_in(t, i, real, BVT_LAYOUT_ROWS, 1, c);
    if (set >> BVT_EP_SLOPE & 1 && coin()) /* as a PReLU's mostly are */
        for (uint32_t i = 0; i < c; i++)
            bvt_put_real(bvt_row(&t->call.in[BVT_EP_SLOPE], 0), i, (float)range(1, 8) / 8, real == BVT_DTYPE_F16);
    bool any = false, half = x->dtype == BVT_DTYPE_F16 || set; /* where real is F16: there is an operand of it */
    for (unsigned i = 0; i < 4; i++) {
        if (usual ? i || (below(4) == 0) == sign : below(3)) continue;
        any = half = true;
        const bool trits = !usual && coin();
        add_in(t, BVT_EP_THRESHOLD0 + i, real, BVT_LAYOUT_ROWS, 1 + trits, c);
        add_out(t, 1 + i, trits ? BVT_DTYPE_TRITS : BVT_DTYPE_BITS, coin() ? BVT_LAYOUT_ROWS : BVT_LAYOUT_COLS, n, c);
    }
    if (bare) {
        const int reach = 127 + (int)below(3);
        for (uint32_t r = 0; r < n; r++)
            for (uint32_t i = 0; i < c; i++) ((int16_t *)bvt_row(x, r))[i] = (int16_t)((coin() ? 120 : -136) + (int)below(17));
        for (unsigned i = 0; i < 4; i++) {
            const bvt_view *limits = &t->call.in[BVT_EP_THRESHOLD0 + i];
            for (uint32_t r = 0; limits->base && r < limits->rows; r++)
                for (uint32_t at = 0; at < c; at++) {
                    const float limit = coin() ? (float)reach - (float)below(20) / 2 : -(float)reach + (float)below(20) / 2;
                    bvt_put_real(bvt_row(limits, r), at, limit, real == BVT_DTYPE_F16);
                }
        }
    }
    const bool wide = half && (usual ? below(4) == 0 : coin());
    const bool has_real = !any || (usual ? set != 0 : !bare && coin());
    const uint32_t pool = pooled ? pooled : 1u << (usual ? 2 + below(2) : below(4));
    const uint32_t group = has_real && c % pool == 0 && (pooled || below(3) == 0) ? pool : 1;
    t->op.attr[BVT_EP_POOL] = group > 1 ? (int32_t)group : 0;
    if (has_real) add_out(t, 0, wide ? BVT_DTYPE_F32 : real, BVT_LAYOUT_ROWS, n, c / group);
    snprintf(t->text, sizeof t->text, "N %u C %u set %x pool %u", n, c, set, group);
}

static void (*const makers[])(test_case *, uint32_t) = {NULL,
#define X(name, NAME) case_##name,
                                                        BVT_OPCODES(X)
#undef X
};

/* ---- Running ------------------------------------------------------------------------------------------------------------- */

/* Is input `i` of the op read at the produced row only (so that it may be a tile value)? */
static bool row_wise(const test_case *t, unsigned i) {
    switch (t->op.opcode) {
    case BVT_OP_DENSE:
    case BVT_OP_DENSE_I8:
    case BVT_OP_BGEMM:
    case BVT_OP_ATTENTION:
    case BVT_OP_MIXED_GEMM:
    case BVT_OP_LAYER_NORM_ROWS:
    case BVT_OP_NORM_SIGN:
    case BVT_OP_ACTIVATION:
    case BVT_OP_CHANNEL_POOL: return i == 0;
    case BVT_OP_MULTIPLY: return true;
    case BVT_OP_EPILOGUE: return i == 0 || (i <= 6 && t->op.attr[i] == 1);
    default: return false;
    }
}

/* Runs in blocks; operands that can are given as tile values, whose memory begins with the block. */
static void execute(test_case *t, bvt_kernel fn, int which, uint32_t block, bool tiles) {
    for (unsigned i = 0; i < BVT_N_OUT; i++)
        if (t->out[which][i]) memset(t->out[which][i], 0xA5, t->out_bytes[i]);
    t->call.op = &t->op;
    t->call.scratch = NULL;
    if (t->op.scratch && posix_memalign(&t->call.scratch, 64, t->op.scratch)) abort();
    for (uint32_t row0 = 0; row0 < t->rows; row0 += block) {
        bvt_call call = t->call;
        for (unsigned i = 0; i < BVT_N_OUT; i++) call.out[i].base = t->out[which][i];
        for (unsigned i = 0; tiles && i < BVT_N_IN; i++)
            if (call.in[i].base && row_wise(t, i)) call.in[i].base += row0 * call.in[i].stride, call.in[i].first = row0;
        for (unsigned i = 0; tiles && i < BVT_N_OUT; i++)
            if (call.out[i].base && !call.out[i].by_cols) call.out[i].base += row0 * call.out[i].stride, call.out[i].first = row0;
        fn(&call, row0, bvt_min_u32(row0 + block, t->rows));
    }
    free(t->call.scratch);
}

/* Equal bytes; real elements may both be NaN. Padding of real and i32 rows is written by nobody. */
static bool same(const test_case *t, unsigned slot) {
    const bvt_view *v = &t->call.out[slot];
    const uint8_t *a = t->out[0][slot], *b = t->out[1][slot];
    if (!memcmp(a, b, t->out_bytes[slot])) return true;
    if (v->dtype != BVT_DTYPE_F32 && v->dtype != BVT_DTYPE_F16) return false;
    const bool half = v->dtype == BVT_DTYPE_F16;
    for (uint32_t r = 0; r < v->rows; r++)
        for (uint32_t c = 0; c < v->cols; c++) {
            const float x = bvt_get_real(a + r * v->stride, c, half), y = bvt_get_real(b + r * v->stride, c, half);
            if (memcmp(&x, &y, 4) && !(isnan(x) && isnan(y))) return false;
        }
    return true;
}

/* What follows the last element of a bits output's rows or columns, bits and bytes, is zero. */
static bool padding_is_zero(const bvt_view *v, const uint8_t *data) {
    const uint32_t lines = v->by_cols ? v->cols : v->rows, length = v->by_cols ? v->rows : v->cols;
    const size_t plane = v->dtype == BVT_DTYPE_TRITS ? bvt_plane(length) : v->stride;
    for (uint32_t i = 0; i < lines; i++)
        for (size_t bit = 0; bit < 8 * v->stride; bit++)
            if (bit % (8 * plane) >= length && data[i * v->stride + bit / 8] >> bit % 8 & 1) return false;
    return true;
}

static void run_case(const bvt_kernel_entry *e, bvt_kernel ref, uint64_t seed, uint32_t size) {
    test_case t = {.op = {.opcode = (uint32_t)e->opcode}};
    rng_state = seed;
    all_small = below(3) == 0;
    real = e->half ? BVT_DTYPE_F16 : BVT_DTYPE_F32;
    makers[e->opcode](&t, size);
    execute(&t, ref, 0, t.rows, false);
    const uint32_t blocks[] = {t.rows, 8, 16, 24};
    execute(&t, e->fn, 1, blocks[below(4)], coin());
    for (unsigned i = 0; i < BVT_N_OUT; i++)
        if (t.out[0][i])
            CHECK(same(&t, i), "%s output %u, seed %llu size %u: %s", e->name, i, (unsigned long long)seed, size, t.text);
    for (unsigned i = 0; i < BVT_N_OUT; i++)
        if (t.out[1][i] && (t.call.out[i].dtype == BVT_DTYPE_BITS || t.call.out[i].dtype == BVT_DTYPE_TRITS))
            CHECK(padding_is_zero(&t.call.out[i], t.out[1][i]), "%s output %u: padding", e->name, i);
    for (unsigned i = 0; i < BVT_N_IN; i++) free(t.in[i]);
    for (unsigned i = 0; i < BVT_N_OUT; i++) free(t.out[0][i]), free(t.out[1][i]);
}

/* x, whose last bits below 2^-48 are lost, to the nearest fp16 number, half to even. */
static float nearest_half(double x) {
    int exponent;
    frexp(x, &exponent);
    const double last = ldexp(1, (exponent < -13 ? -13 : exponent) - 11), whole = rint(fabs(x) / last) * last;
    return (float)copysign(whole > 65504 ? INFINITY : whole, x);
}

/* bvt_half_fma against sums in fp64: these are exact, but for bits that decide nothing (ops/numerics.py). */
static void check_half_fma(unsigned long rounds) {
    for (unsigned long r = 0; r < rounds; r++) {
        const float a = bvt_from_half(random_half());
        float b = bvt_from_half(random_half()), c = bvt_from_half(random_half());
        if (r % 4 == 1) b = 1.5f, c = ldexpf((float)range(0, 6) - 3.0f, -24); /* a product that may lie in the middle, and a hair */
        if (r % 4 == 2) b = bvt_from_half((uint16_t)(0x3BFE + below(5))), c = ldexpf(a, (int)range(9, 13)); /* c's last bit, or less */
        c = bvt_from_half(bvt_to_half(c));
        const double sum = (double)a * (double)b + (double)c;
        const float want = isfinite(sum) ? nearest_half(sum) : (float)sum, got = bvt_half_fma(a, b, c);
        CHECK(!memcmp(&got, &want, sizeof got) || (isnan(got) && isnan(want)), "fma(%a, %a, %a) is %a, not %a", (double)a,
              (double)b, (double)c, (double)got, (double)want);
    }
}

int main(int argc, char **argv) {
    const unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 200;
    check_half_fma(1000 * rounds);
    bool has_reference[2][BVT_OPCODE_END] = {{false}};
    for (unsigned i = 0; i < bvt_n_kernels; i++) {
        const bvt_kernel_entry *e = &bvt_kernels[i];
        bvt_kernel ref = bvt_kernel_find((uint32_t)e->opcode, e->half, BVT_ISA_REF);
        if (e->isa == BVT_ISA_REF) {
            CHECK(!has_reference[e->half][e->opcode] && ref == e->fn, "%s is not the only reference of its op", e->name);
            has_reference[e->half][e->opcode] = true;
        }
        CHECK(has_reference[e->half][e->opcode], "%s stands before its reference", e->name);
        if (!bvt_kernel_usable(i)) {
            printf("not on this CPU: %s\n", e->name);
            continue;
        }
        /* The reference is compared with itself in other blocks. */
        for (unsigned long r = 0; r < rounds; r++) {
            run_case(e, ref, 1000 * i + r, 0);
            if (e->isa != BVT_ISA_REF) run_case(e, ref, 1000000 + 1000 * i + r, 1);
        }
        for (unsigned long r = 0; e->opcode == BVT_OP_EPILOGUE && e->isa != BVT_ISA_REF && r < 4 * rounds; r++)
            run_case(e, ref, 3000000 + 1000 * i + r, 2);
        for (unsigned long r = 0; e->opcode == BVT_OP_ATTENTION && r < rounds / 2; r++)
            run_case(e, model_attention, 2000000 + 1000 * i + r, r % 2); /* the definition itself */
        for (uint32_t k = 0; e->opcode == BVT_OP_BGEMM && e->isa != BVT_ISA_REF && k < 520; k++) run_case(e, ref, k, 2 + k);
        for (uint32_t s = 0; e->opcode == BVT_OP_DENSE_I8 && e->isa != BVT_ISA_REF && s < 40 * 36; s++) run_case(e, ref, s, 2 + s);
    }
    for (int op = 1; op < BVT_OPCODE_END; op++)
        CHECK(has_reference[0][op], "%s has no reference kernel", bvt_opcode_name((uint32_t)op));
    return finish("test_kernels");
}
