/* Preprocessing: 8-bit pixels -> the network's f32 input, with Pillow's resampling bit for bit.
 *
 * The resampling follows Pillow's src/libImaging/Resample.c (MIT-CMU licence, Copyright 1997-2011 by Secret Labs AB, 1995-2011 by
 * Fredrik Lundh and contributors, 2010 by Jeffrey A. Clark and contributors): the support grows with the scale when shrinking,
 * coefficients are computed in double, normalised, rounded to 22 bits of fraction; a horizontal pass, then a vertical one, each
 * rounded to 8 bits, each only if its size changes. The horizontal pass always comes first, as in every Pillow before 13 (since
 * then Image.resize takes the vertical one first where the height shrinks much more than the width, which rounds differently).
 * NEAREST follows its Geometry.c (ImagingScaleAffine).
 * Sizes and the crop of SHORT_CROP follow torchvision's Resize and CenterCrop on PIL images.
 */
#include <math.h>
#include <stdlib.h>

#include "internal.h"

#define PRECISION 22 /* 32 - 8 bits of a pixel - 2 bits of headroom for overshoot */
#define MAX_IMAGE_SIDE 32768u

typedef struct {
    uint32_t width, height, channels;
    uint8_t *pixels; /* interleaved */
} picture;

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* One output pixel along an axis: `count` input pixels from `first` on, weighted by coefficients [i*taps ..]. */
typedef struct {
    uint32_t taps;
    uint32_t *first, *count;
    int32_t *coefficients;
} weights;

static void free_weights(weights *w) {
    free(w->first);
    free(w->count);
    free(w->coefficients);
}

static bool make_weights(weights *w, uint32_t in, uint32_t out, uint32_t filter) {
    double (*const function)(double) = filter == BVT_FILTER_BILINEAR ? bilinear : bicubic;
    const double scale = (double)in / out, filter_scale = scale < 1.0 ? 1.0 : scale;
    const double support = (filter == BVT_FILTER_BILINEAR ? 1.0 : 2.0) * filter_scale, inverse = 1.0 / filter_scale;
    w->taps = (uint32_t)ceil(support) * 2 + 1;
    w->first = malloc(out * sizeof *w->first);
    w->count = malloc(out * sizeof *w->count);
    w->coefficients = calloc((size_t)out * w->taps, sizeof *w->coefficients);
    double *raw = malloc(w->taps * sizeof *raw);
    const bool ok = w->first && w->count && w->coefficients && raw;
    for (uint32_t i = 0; ok && i < out; i++) {
        const double center = (i + 0.5) * scale;
        int32_t from = (int32_t)(center - support + 0.5), to = (int32_t)(center + support + 0.5);
        if (from < 0) from = 0;
        if (to > (int32_t)in) to = (int32_t)in;
        double sum = 0;
        for (int32_t x = 0; x < to - from; x++) sum += raw[x] = function((x + from - center + 0.5) * inverse);
        for (int32_t x = 0; x < to - from; x++) {
            const double c = sum != 0.0 ? raw[x] / sum : raw[x];
            w->coefficients[(size_t)i * w->taps + (size_t)x] = (int32_t)((c < 0 ? -0.5 : 0.5) + c * (1 << PRECISION));
        }
        w->first[i] = (uint32_t)from;
        w->count[i] = (uint32_t)(to - from);
    }
    free(raw);
    return ok;
}

static uint8_t clip(int32_t sum) {
    sum >>= PRECISION; /* arithmetic: rounds down */
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static bool allocate(picture *p, uint32_t width, uint32_t height, uint32_t channels) {
    const uint64_t bytes = (uint64_t)width * height * channels; /* sides are below 2^20; a size_t of 32 bits may not hold it */
    *p = (picture){.width = width, .height = height, .channels = channels};
    if (bytes <= SIZE_MAX / 2) p->pixels = malloc((size_t)bytes);
    return p->pixels != NULL;
}

/* Weighted sums along one axis. The image is seen as [outer][axis][inner] bytes: rows x (width x channels) for the horizontal pass,
 * 1 x height x (width*channels) for the vertical one. */
static void resample(uint8_t *out, const uint8_t *in, size_t outer, uint32_t in_n, uint32_t out_n, size_t inner, const weights *w) {
    for (size_t o = 0; o < outer; o++, in += in_n * inner)
        for (uint32_t i = 0; i < out_n; i++, out += inner) {
            const int32_t *k = w->coefficients + (size_t)i * w->taps;
            const uint8_t *source = in + w->first[i] * inner;
            for (size_t c = 0; c < inner; c++) {
                /* |coefficients| of these filters sum to less than 2: no overflow. */
                int32_t sum = 1 << (PRECISION - 1);
                for (uint32_t x = 0; x < w->count[i]; x++) sum += source[x * inner + c] * k[x];
                out[c] = clip(sum);
            }
        }
}

/* Nearest neighbour; positions are accumulated as Pillow does, so that they round alike. */
static bool resize_nearest(picture *p, uint32_t width, uint32_t height) {
    picture to;
    uint32_t *xs = malloc(width * sizeof *xs);
    if (!xs || !allocate(&to, width, height, p->channels)) {
        free(xs);
        return false;
    }
    const double step_x = (double)p->width / width, step_y = (double)p->height / height;
    double at = step_x * 0.5;
    for (uint32_t x = 0; x < width; x++, at += step_x) xs[x] = bvt_min_u32((uint32_t)at, p->width - 1);
    at = step_y * 0.5;
    for (uint32_t y = 0; y < height; y++, at += step_y) {
        const uint8_t *row = p->pixels + (size_t)bvt_min_u32((uint32_t)at, p->height - 1) * p->width * p->channels;
        uint8_t *out = to.pixels + (size_t)y * width * p->channels;
        for (uint32_t x = 0; x < width; x++) memcpy(out + (size_t)x * p->channels, row + (size_t)xs[x] * p->channels, p->channels);
    }
    free(xs);
    free(p->pixels);
    *p = to;
    return true;
}

/* Resizes along one axis in place of *p. */
static bool resize_axis(picture *p, bool horizontal, uint32_t size, uint32_t filter) {
    const uint32_t in = horizontal ? p->width : p->height;
    if (in == size) return true;
    picture to;
    weights w;
    if (!allocate(&to, horizontal ? size : p->width, horizontal ? p->height : size, p->channels)) return false;
    const bool ok = make_weights(&w, in, size, filter);
    if (ok && horizontal) resample(to.pixels, p->pixels, p->height, in, size, p->channels, &w);
    if (ok && !horizontal) resample(to.pixels, p->pixels, 1, in, size, (size_t)p->width * p->channels, &w);
    free_weights(&w);
    free(p->pixels);
    *p = to;
    return ok;
}

static bool resize(picture *p, uint32_t width, uint32_t height, uint32_t filter) {
    if (p->width == width && p->height == height) return true;
    if (filter == BVT_FILTER_NEAREST) return resize_nearest(p, width, height);
    return resize_axis(p, true, width, filter) && resize_axis(p, false, height, filter);
}

/* The pixels in as many channels as the network has, in the order of the image (RGB). */
static bool convert(picture *p, const uint8_t *pixels, uint32_t width, uint32_t height, uint32_t from, uint32_t to) {
    if (!allocate(p, width, height, to)) return false;
    const size_t n = (size_t)width * height;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *in = pixels + i * from;
        uint8_t *out = p->pixels + i * to;
        if (from == 1) memset(out, in[0], to);
        else if (to == 3) memcpy(out, in, 3);
        else
            out[0] =
                (uint8_t)((in[0] * 19595u + in[1] * 38470u + in[2] * 7471u + 0x8000u) >> 16); /* ITU-R 601-2 luma, as in Pillow */
    }
    return true;
}

/* int(round(n / 2.0)) in Python: halves go to the even neighbour. */
static uint32_t half_even(uint32_t n) { return n / 2 + (n % 2 && n / 2 % 2); }

int bvt_preprocess(const bvt_model *model, const uint8_t *pixels, uint32_t width, uint32_t height, uint32_t channels, float *input,
                   bvt_error *err) {
    if (!model || !pixels || !input) return bvt_fail(err, BVT_E_ARGUMENT, "preprocess: an argument is missing");
    const bvt_rec_preprocess *r = model->preprocess;
    if (!r) return bvt_fail(err, BVT_E_ARGUMENT, "preprocess: the model does not say how (no PREPROCESS record)");
    if (channels != 1 && channels != 3 && channels != 4)
        return bvt_fail(err, BVT_E_ARGUMENT, "preprocess: %u channels instead of 1, 3 or 4", channels);
    if (!width || !height || width > MAX_IMAGE_SIDE || height > MAX_IMAGE_SIDE)
        return bvt_fail(err, BVT_E_ARGUMENT, "preprocess: an image of %u x %u", width, height);
    uint32_t resized_w = r->width, resized_h = r->height, left = 0, top = 0;
    if (r->resize == BVT_RESIZE_SHORT_CROP) {
        /* long side: int(short * long / short) as Python computes it. */
        const uint32_t shorter = width < height ? width : height, longer = width < height ? height : width;
        const double scaled = (double)((uint64_t)r->resize_short * longer) / shorter;
        if (scaled > 16 * (double)MAX_IMAGE_SIDE)
            return bvt_fail(err, BVT_E_ARGUMENT, "preprocess: an image of %u x %u is too narrow", width, height);
        resized_w = width < height ? r->resize_short : (uint32_t)scaled;
        resized_h = width < height ? (uint32_t)scaled : r->resize_short;
        if (width == height) resized_w = resized_h = r->resize_short;
        left = half_even(resized_w - r->width);
        top = half_even(resized_h - r->height);
    }
    picture p;
    bool ok = convert(&p, pixels, width, height, channels, r->channels);
    ok = ok && resize(&p, resized_w, resized_h, r->filter);
    for (uint32_t c = 0; ok && c < r->channels; c++) {
        const uint32_t source = r->colour == BVT_COLOUR_BGR ? 2 - c : c;
        for (uint32_t y = 0; y < r->height; y++)
            for (uint32_t x = 0; x < r->width; x++) {
                const float value = (float)p.pixels[((size_t)(top + y) * p.width + left + x) * p.channels + source] / 255.0f;
                *input++ = (value - r->mean[c]) / r->std[c];
            }
    }
    free(p.pixels);
    return ok ? BVT_OK : bvt_fail(err, BVT_E_MEMORY, "preprocess: out of memory");
}
