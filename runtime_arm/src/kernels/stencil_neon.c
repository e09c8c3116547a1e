/* stencil for NEON. The cross that pooling branches along both axes become, two lines' taps, five of a line, two lines' taps, goes
 * by tiles of 8 or 6 tokens of a line x 8 channels: the five taps' factors stay in registers while their sources go by, each loaded
 * once for all tokens that it counts for. Any other taps: one after the other, 4 tokens x 16 channels. Every token meets its taps
 * in their order. The last tile of a line is moved back to where it is whole: some tokens are then computed twice.
 */
#include <arm_neon.h>

#include "../ops/stencil.h"

#define INLINE static inline __attribute__((always_inline))
#define CROSS 9
#define MIDDLE 5  /* its taps in the token's own line */
#define TOKENS 4u /* of a tile of any taps */

/* A tap as the tokens of a line see it. */
typedef struct {
    int dx;
    const float *weight, *line; /* line: of the grid, at x = 0 */
} tap;

/* The taps that count for tokens of line y. */
static unsigned find_taps(tap *taps, const bvt_call *call, int y) {
    const int32_t *a = call->op->attr;
    unsigned n = 0;
    for (int t = 0; t < a[2]; t++) {
        int line = y + (int8_t)(a[4 + t] & 255);
        if (a[3] == 1) line += line < 0 ? a[0] : line >= a[0] ? -a[0] : 0; /* |dy| < H: one turn is enough */
        if (line < 0 || line >= a[0]) continue;
        taps[n].dx = (int8_t)(a[4 + t] >> 8 & 255), taps[n].weight = bvt_row_f32(&call->in[1], (uint32_t)t);
        taps[n++].line = bvt_row_f32(&call->in[0], (uint32_t)(line * a[1]));
    }
    return n;
}

/* Factors must follow each other too: a tap between them may have been left out. */
static bool is_cross(const tap *taps, unsigned n, size_t weight_stride) {
    if (n != CROSS) return false;
    const uint8_t *weight = (const uint8_t *)taps[0].weight;
#pragma GCC unroll 1
    for (int t = 0; t < CROSS; t++, weight += weight_stride) {
        if (taps[t].dx != (t < 2 || t > 6 ? 0 : t - 4) || (t > 2 && t < 7 && taps[t].line != taps[2].line)) return false;
        if ((const uint8_t *)taps[t].weight != weight) return false;
    }
    return true;
}

/* The source of a tap at `at`, which is outside of the grid by less than a turn; NULL: there is none. */
__attribute__((noinline)) static const float *source_at(const bvt_call *call, const float *line, int at) {
    const int width = call->op->attr[1];
    if (call->op->attr[3] == 1) at += at < 0 ? width : at >= width ? -width : 0;
    if ((uint32_t)at >= (uint32_t)width) return NULL;
    return line + (size_t)at * (call->in[0].stride / sizeof *line);
}

/* ---- Crosses ------------------------------------------------------------------------------------------------------------- */

/* Bytes to the rows of a tile, each in a register that the compiler takes for any number: else it adds to addresses before every
 * load. */
typedef struct {
    size_t times[8];
} distance;
INLINE distance distance_of(size_t bytes) {
    distance d;
    for (unsigned i = 0; i < 8; i++) d.times[i] = i * bytes;
    for (unsigned i = 1; i < 8; i++) __asm__("" : "+r"(d.times[i]));
    return d;
}
/* 8 channels of the rows of a tile. */
typedef struct {
    uint8_t *half[2];
} rows;
INLINE rows rows_from(const float *first) {
    rows r = {{(uint8_t *)(uintptr_t)first, (uint8_t *)(uintptr_t)first + 16}};
    __asm__("" : "+r"(r.half[1]));
    return r;
}
INLINE float *row_at(const rows *r, distance apart, unsigned i, unsigned half) {
    return (float *)(void *)(r->half[half] + apart.times[i]);
}

#define NO_LOADS_AHEAD __asm__ volatile("" ::: "memory") /* else GCC loads many at once, and spills */

/* Two taps, whose sources for the first token are x and y. */
INLINE void add_two(float32x4_t (*sum)[2], const float *x, const float *y, const float *weight, size_t row, distance apart,
                    const unsigned T) {
    const float32x4_t w[2][2] = {{vld1q_f32(weight), vld1q_f32(weight + 4)},
                                {vld1q_f32(weight + row), vld1q_f32(weight + row + 4)}};
    const rows from[2] = {rows_from(x), rows_from(y)};
#pragma GCC unroll 8
    for (unsigned i = 0; i < T; i++) {
        for (unsigned t = 0; t < 2; t++)
            for (unsigned half = 0; half < 2; half++)
                sum[i][half] = vfmaq_f32(sum[i][half], vld1q_f32(row_at(&from[t], apart, i, half)), w[t][half]);
        NO_LOADS_AHEAD;
    }
}

/* vfmaq_f32, whose sums GCC moves to other registers every few tokens where as many are taken as here. */
INLINE void add_product(float32x4_t *sum, float32x4_t x, float32x4_t w) {
    __asm__("fmla %0.4s, %1.4s, %2.4s" : "+w"(*sum) : "w"(x), "w"(w));
}
/* Source j of the taps in the middle, which is 2 - j tokens before the tile's first. */
INLINE void add_source(float32x4_t (*sum)[2], const float32x4_t (*w)[2], const float *x, const float *y, const unsigned j,
                       const unsigned T) {
    const float32x4_t a = vld1q_f32(x), b = vld1q_f32(y);
#pragma GCC unroll 8
    for (unsigned i = 0; i < T; i++)
        if (i <= j && j - i < MIDDLE) add_product(&sum[i][0], a, w[j - i][0]), add_product(&sum[i][1], b, w[j - i][1]);
    NO_LOADS_AHEAD;
}
/* `around`: the two sources before the tile's own places and the two behind them, or NULL. */
INLINE void add_middle(float32x4_t (*sum)[2], const float *x, const float *const *around, const float *weight, size_t row,
                       distance apart, uint32_t c, const unsigned T) {
    float32x4_t w[MIDDLE][2];
#pragma GCC unroll 5
    for (unsigned t = 0; t < MIDDLE; t++, weight += row) w[t][0] = vld1q_f32(weight), w[t][1] = vld1q_f32(weight + 4);
    const rows from = rows_from(x);
    for (unsigned j = 0; j < 2; j++)
        if (around[j]) add_source(sum, w, around[j] + c, around[j] + c + 4, j, T);
#pragma GCC unroll 8
    for (unsigned i = 0; i < T; i++) {
        const float *a = row_at(&from, apart, i, 0), *b = row_at(&from, apart, i, 1);
        add_source(sum, w, a, b, 2 + i, T);
    }
    for (unsigned j = 2; j < 4; j++)
        if (around[j]) add_source(sum, w, around[j] + c, around[j] + c + 4, j + T, T);
}

/* Tokens x .. x+T-1 of line y, 8 channels at a time; returns the first channel that is left. */
INLINE uint32_t stencil_cross(const bvt_call *call, const tap *taps, uint32_t y, uint32_t x, const unsigned T) {
    static const float zeros[8];
    const uint32_t channels = call->in[0].cols;
    const size_t row = call->in[1].stride / sizeof(float);
    const distance apart = distance_of(call->in[0].stride); /* of outputs, too */
    const size_t at = x * (apart.times[1] / sizeof(float));
    const bool shift = call->in[2].base;
    const float *first = shift ? bvt_row_f32(&call->in[2], 0) : zeros, *weight = taps->weight;
    const float *before[2] = {taps[0].line + at, taps[1].line + at}, *middle = taps[2].line + at;
    const float *after[2] = {taps[7].line + at, taps[8].line + at}, *around[4];
    float *out = bvt_row(&call->out[0], y * (uint32_t)call->op->attr[1] + x);
    uint32_t c = 0;
#pragma GCC unroll 1
    for (int i = 0; i < 4; i++) around[i] = source_at(call, taps[2].line, (int)x + (i < 2 ? i - 2 : (int)T + i - 2));
    for (; c + 8 <= channels; c += 8, weight += 8) {
        float32x4_t sum[8][2];
        const float *begin = first;
        first += shift ? 8 : 0;
        for (unsigned i = 0; i < T; i++) {
            if (i == T / 2) __asm__("" : "+r"(begin)); /* half of them are loaded, the others copied */
            sum[i][0] = vld1q_f32(begin), sum[i][1] = vld1q_f32(begin + 4);
        }
        add_two(sum, before[0] + c, before[1] + c, weight, row, apart, T);
        add_middle(sum, middle + c, around, weight + 2 * row, row, apart, c, T);
        add_two(sum, after[0] + c, after[1] + c, weight + 7 * row, row, apart, T);
        const rows to = rows_from(out + c);
        for (unsigned i = 0; i < T; i++)
            for (unsigned half = 0; half < 2; half++) vst1q_f32(row_at(&to, apart, i, half), sum[i][half]);
    }
    return c;
}

#define CROSS_OF(T)                                                                                                               \
    __attribute__((noinline)) static uint32_t stencil_cross_##T(const bvt_call *call, const tap *taps, uint32_t y, uint32_t x) { \
        return stencil_cross(call, taps, y, x, T);                                                                               \
    }
CROSS_OF(8)
CROSS_OF(6)

/* ---- Any taps ------------------------------------------------------------------------------------------------------------ */

INLINE void add_tap(float32x4_t *sum, const float *x, const float32x4_t *w) {
    for (unsigned v = 0; v < 4; v++) sum[v] = vfmaq_f32(sum[v], vld1q_f32(x + 4 * v), w[v]);
}

/* Tokens x .. x+TOKENS-1 of line y, 16 channels at a time; returns the first channel that is left. */
__attribute__((noinline)) static uint32_t stencil_tile(const bvt_call *call, const tap *taps, unsigned n, uint32_t y, uint32_t x) {
    const uint32_t channels = call->in[0].cols, width = (uint32_t)call->op->attr[1];
    const size_t apart = call->in[0].stride / sizeof(float), stride = call->out[0].stride / sizeof(float);
    const float *shift = call->in[2].base ? bvt_row_f32(&call->in[2], 0) : NULL;
    struct {
        bool inside; /* all sources are there and side by side; only the first is set */
        const float *weight, *source[TOKENS];
    } s[BVT_STENCIL_TAPS];
    uint32_t c = 0;
    for (unsigned t = 0; t < n; t++) {
        const int at = (int)x + taps[t].dx;
        s[t].inside = at >= 0 && at + (int)TOKENS <= (int)width, s[t].weight = taps[t].weight;
        const int sources = s[t].inside ? 1 : (int)TOKENS;
#pragma GCC unroll 1
        for (int i = 0; i < sources; i++) s[t].source[i] = source_at(call, taps[t].line, at + i);
    }
    for (; c + 16 <= channels; c += 16) {
        float *out = (float *)bvt_row(&call->out[0], y * width + x) + c;
        float32x4_t sum[TOKENS][4];
        for (unsigned v = 0; v < 4; v++) {
            const float32x4_t begin = shift ? vld1q_f32(shift + c + 4 * v) : vdupq_n_f32(0);
            for (unsigned i = 0; i < TOKENS; i++) sum[i][v] = begin;
        }
        for (unsigned t = 0; t < n; t++) {
            float32x4_t w[4];
            for (unsigned v = 0; v < 4; v++) w[v] = vld1q_f32(s[t].weight + c + 4 * v);
            if (s[t].inside) {
                const float *from = s[t].source[0] + c;
                for (unsigned i = 0; i < TOKENS; i++, from += apart) add_tap(sum[i], from, w);
            } else {
                for (unsigned i = 0; i < TOKENS; i++)
                    if (s[t].source[i]) add_tap(sum[i], s[t].source[i] + c, w);
            }
        }
        for (unsigned i = 0; i < TOKENS; i++, out += stride)
            for (unsigned v = 0; v < 4; v++) vst1q_f32(out + 4 * v, sum[i][v]);
    }
    return c;
}

/* Channels c .. of a token. */
__attribute__((noinline)) static void rest_of_token(const bvt_call *call, uint32_t token, uint32_t c) {
    const float *source[BVT_STENCIL_TAPS], *factor[BVT_STENCIL_TAPS];
    const float *shift = call->in[2].base ? bvt_row_f32(&call->in[2], 0) : NULL;
    const unsigned taps = bvt_stencil_sources(call, token, source, factor);
    const uint32_t channels = call->in[0].cols;
    float *out = bvt_row(&call->out[0], token);
    for (; c + 16 <= channels; c += 16) {
        float32x4_t sum[4], w[4];
        for (unsigned v = 0; v < 4; v++) sum[v] = shift ? vld1q_f32(shift + c + 4 * v) : vdupq_n_f32(0);
#pragma GCC unroll 1
        for (unsigned t = 0; t < taps; t++) {
            for (unsigned v = 0; v < 4; v++) w[v] = vld1q_f32(factor[t] + c + 4 * v);
            add_tap(sum, source[t] + c, w);
        }
        for (unsigned v = 0; v < 4; v++) vst1q_f32(out + c + 4 * v, sum[v]);
    }
    for (; c < channels; c++) {
        float sum = shift ? shift[c] : 0;
#pragma GCC unroll 1
        for (unsigned t = 0; t < taps; t++) sum = __builtin_fmaf(source[t][c], factor[t][c], sum);
        out[c] = sum;
    }
}

/* ---- The kernel ---------------------------------------------------------------------------------------------------------- */

/* Tokens first .. end-1 of line y. */
static void part_of_line(const bvt_call *call, uint32_t y, uint32_t first, uint32_t end) {
    const uint32_t width = (uint32_t)call->op->attr[1], channels = call->in[0].cols;
    tap taps[BVT_STENCIL_TAPS];
    const unsigned n = find_taps(taps, call, (int)y);
    const bool cross = end - first >= 6 && call->out[0].stride == call->in[0].stride && is_cross(taps, n, call->in[1].stride);
    for (uint32_t x = first, tokens; x < end; x += tokens) {
        const uint32_t left = end - x;
        uint32_t c = 0;
        tokens = cross ? left % 8 ? 6 : 8 : TOKENS;
        if (tokens > left) {
            if (left < 3 || end - first < tokens) tokens = 1;
            else x = end - tokens;
        }
        if (tokens == 8) c = stencil_cross_8(call, taps, y, x);
        else if (tokens == 6) c = stencil_cross_6(call, taps, y, x);
        else if (tokens == TOKENS) c = stencil_tile(call, taps, n, y, x);
        for (uint32_t i = 0; c < channels && i < tokens; i++) rest_of_token(call, y * width + x + i, c);
    }
}

void bvt_stencil_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t width = (uint32_t)call->op->attr[1];
    uint32_t y = row0 / width, x = row0 % width;
    for (uint32_t left = row1 - row0, n; left; left -= n, x = 0, y++) {
        n = bvt_min_u32(left, width - x);
        part_of_line(call, y, x, x + n);
    }
}
