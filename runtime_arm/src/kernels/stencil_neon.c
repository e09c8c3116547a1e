/* stencil for NEON: 4 tokens of a line x 16 channels at a time. Taps that lie side by side in a line are a run, whose weights stay in
 * registers while the run's sources go by: a source is loaded once for all tokens that it counts for. Every token still meets its taps in
 * their order, as sources come from left to right.
 */
#include <arm_neon.h>

#include "../ops/stencil.h"

#define INLINE static inline __attribute__((always_inline))
#define TOKENS 4u
#define LONGEST 5u /* a run has 1 tap or 5; others are cut */

typedef struct {
    int dy, dx; /* of the first tap */
    unsigned taps;
    const float *weight; /* of the first tap */
} tap_run;

/* A run as some tokens see it. */
typedef struct {
    const float *weight, *source[LONGEST + TOKENS - 1]; /* NULL: outside of the grid; where even, only the first is set */
    unsigned taps;
    bool even; /* the sources lie side by side */
} sources;

static int down(int32_t tap) { return (int8_t)(tap & 255); }
static int right(int32_t tap) { return (int8_t)(tap >> 8 & 255); }

static unsigned find_runs(tap_run *run, const bvt_call *call) {
    const int32_t *tap = call->op->attr + 4;
    const int taps = call->op->attr[2];
    unsigned n = 0;
    for (int t = 0; t < taps; n++) {
        int side = 1;
        while (side < (int)LONGEST && t + side < taps && down(tap[t + side]) == down(tap[t]) && right(tap[t + side]) == right(tap[t]) + side)
            side++;
        if (side < (int)LONGEST) side = 1;
        run[n] = (tap_run){down(tap[t]), right(tap[t]), (unsigned)side, bvt_row_f32(&call->in[1], (uint32_t)t)};
        t += side;
    }
    return n;
}

/* The runs that count for tokens x .. x+tokens-1 of line y; what is found for those that are not there has no meaning, but is in memory. */
static unsigned find_sources(sources *s, const bvt_call *call, const tap_run *run, unsigned runs, int y, int x, int tokens) {
    const int height = call->op->attr[0], width = call->op->attr[1];
    const bool circular = call->op->attr[3] == 1;
    unsigned n = 0;
    for (unsigned i = 0; i < runs; i++, run++) {
        const int taps = (int)run->taps, from = x + run->dx, all = taps + (int)TOKENS - 1;
        int line = y + run->dy;
        if (circular) line += line < 0 ? height : line >= height ? -height : 0;
        if (line < 0 || line >= height) continue;
        s[n].weight = run->weight, s[n].taps = run->taps;
        s[n].even = from >= 0 && from + tokens + taps - 1 <= width && line * width + from + all <= height * width;
        if (s[n].even) s[n].source[0] = bvt_row_f32(&call->in[0], (uint32_t)(line * width + from));
        for (int j = 0; !s[n].even && j < all; j++) {
            int at = from + j;
            while (circular && at >= width) at -= width;
            if (circular && at < 0) at += width;
            s[n].source[j] = at >= 0 && at < width ? bvt_row_f32(&call->in[0], (uint32_t)(line * width + at)) : NULL;
        }
        n++;
    }
    return n;
}

/* A run's taps of 4*V channels; weights are `row` floats apart, sources that lie side by side `apart`. */
INLINE void add_run(float32x4_t (*sum)[4], const sources *s, size_t row, size_t apart, uint32_t c, const unsigned first, const unsigned V,
                    const unsigned taps, const bool even) {
    float32x4_t w[LONGEST][4];
    const float *weight = s->weight + c + 4 * first, *x = s->source[0] + (even ? c + 4 * first : 0);
#pragma GCC unroll 5
    for (unsigned t = 0; t < taps; t++, weight += row)
        for (unsigned v = 0; v < V; v++) w[t][v] = vld1q_f32(weight + 4 * v);
#pragma GCC unroll 8
    for (unsigned j = 0; j < taps + TOKENS - 1; j++, x += even ? apart : 0) {
        if (!even) {
            if (!s->source[j]) continue;
            x = s->source[j] + c + 4 * first;
        }
#pragma GCC unroll 4
        for (unsigned v = 0; v < V; v++) {
            const float32x4_t a = vld1q_f32(x + 4 * v);
#pragma GCC unroll 4
            for (unsigned i = 0; i < TOKENS; i++)
                if (i <= j && j - i < taps) sum[i][first + v] = vfmaq_f32(sum[i][first + v], a, w[j - i][v]);
        }
    }
}
/* A long run in two halves, whose weights fit into registers beside the sums. */
INLINE void add_long_run(float32x4_t (*sum)[4], const sources *s, size_t row, size_t apart, uint32_t c, const bool even) {
    add_run(sum, s, row, apart, c, 0, 2, LONGEST, even);
    __asm__ volatile("" ::: "memory"); /* else GCC loads for both halves at once, and spills */
    add_run(sum, s, row, apart, c, 2, 2, LONGEST, even);
}

/* Channels c .. c+15 of all 4 tokens. Those that are not there go first, to the last one's place. */
INLINE void tile(float *const *out, const sources *s, unsigned n, const float *shift, size_t row, size_t apart, uint32_t c) {
    float32x4_t sum[TOKENS][4];
    for (unsigned v = 0; v < 4; v++) {
        const float32x4_t begin = shift ? vld1q_f32(shift + c + 4 * v) : vdupq_n_f32(0);
        for (unsigned i = 0; i < TOKENS; i++) sum[i][v] = begin;
    }
    for (const sources *end = s + n; s < end; s++) {
        if (s->taps == 1 && s->even) { /* the most common one is a loop of its own */
            do add_run(sum, s++, row, apart, c, 0, 4, 1, true);
            while (s < end && s->taps == 1 && s->even);
            if (s == end) break;
        }
        switch (s->taps * 2 + s->even) {
        case 2: add_run(sum, s, row, apart, c, 0, 4, 1, false); break;
        case 10: add_long_run(sum, s, row, apart, c, false); break;
        default: add_long_run(sum, s, row, apart, c, true);
        }
    }
    for (unsigned i = TOKENS; i-- > 0;)
        for (unsigned v = 0; v < 4; v++) vst1q_f32(out[i] + c + 4 * v, sum[i][v]);
}

INLINE float one_sum(const sources *s, unsigned n, size_t row, size_t apart, float sum, unsigned i, uint32_t c) {
    for (unsigned r = 0; r < n; r++, s++)
        for (unsigned t = 0; t < s->taps; t++) {
            const float *x = s->even ? s->source[0] + (i + t) * apart : s->source[i + t];
            if (x) sum = __builtin_fmaf(x[c], s->weight[t * row + c], sum);
        }
    return sum;
}

void bvt_stencil_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols, width = (uint32_t)call->op->attr[1];
    const size_t apart = call->in[0].stride / sizeof(float), row = call->in[1].stride / sizeof(float);
    const float *shift = call->in[2].base ? bvt_row_f32(&call->in[2], 0) : NULL;
    tap_run run[BVT_STENCIL_TAPS];
    const unsigned runs = find_runs(run, call);
    uint32_t y = row0 / width, x = row0 % width;
    for (uint32_t token = row0, tokens; token < row1; token += tokens) {
        sources s[BVT_STENCIL_TAPS];
        float *out[TOKENS];
        uint32_t c = 0;
        tokens = bvt_min_u32(bvt_min_u32(row1 - token, width - x), TOKENS);
        const unsigned n = find_sources(s, call, run, runs, (int)y, (int)x, (int)tokens);
        for (uint32_t i = 0; i < TOKENS; i++) out[i] = bvt_row(&call->out[0], token + bvt_min_u32(i, tokens - 1));
        for (; c + 16 <= channels; c += 16) tile(out, s, n, shift, row, apart, c);
        for (; c < channels; c++)
            for (uint32_t i = 0; i < tokens; i++) out[i][c] = one_sum(s, n, row, apart, shift ? shift[c] : 0, i, c);
        x += tokens;
        if (x == width) x = 0, y++;
    }
}
