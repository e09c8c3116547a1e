/* stencil for NEON: 16 channels of 4 tokens at a time, so that a tap's weights are loaded once for 4 tokens. Where the same taps
 * count for all 4 and their sources lie side by side, nothing is asked on the way.
 */
#include <arm_neon.h>

#include "../ops/stencil.h"

#define INLINE static inline __attribute__((always_inline))
#define TOKENS 4

/* 4 tokens' sources by tap; NULL: the tap does not count for the token. */
typedef struct {
    const float *source[BVT_STENCIL_TAPS][TOKENS], *tap[BVT_STENCIL_TAPS];
    unsigned taps;
    bool uniform; /* all sources are there, a tap's `apart` floats from one to the next: only the first of them is sure to be set */
} neighbourhood;

static void find_sources(neighbourhood *s, const bvt_call *call, uint32_t row, unsigned tokens) {
    const int32_t *a = call->op->attr;
    const int height = a[0], width = a[1];
    const size_t apart = call->in[0].stride / sizeof(float);
    const int y0 = (int)row / width, x0 = (int)row % width;
    bool inside = tokens == TOKENS && x0 + TOKENS <= width; /* in one line, and no tap leaves the grid sideways */
    for (int t = 0; t < a[2]; t++) {
        const int dx = (int8_t)(a[4 + t] >> 8 & 255);
        inside = inside && x0 + dx >= 0 && x0 + dx + TOKENS <= width;
    }
    s->taps = 0, s->uniform = tokens == TOKENS;
    for (int t = 0; inside && t < a[2]; t++) {
        int y = y0 + (int8_t)(a[4 + t] & 255);
        if (a[3] == 1) y += y < 0 ? height : y >= height ? -height : 0;
        if (y < 0 || y >= height) continue;
        s->source[s->taps][0] = bvt_row_f32(&call->in[0], (uint32_t)(y * width + x0 + (int8_t)(a[4 + t] >> 8 & 255)));
        s->tap[s->taps++] = bvt_row_f32(&call->in[1], (uint32_t)t);
    }
    if (inside) return;
    for (int t = 0; t < a[2]; t++) {
        const int dy = (int8_t)(a[4 + t] & 255), dx = (int8_t)(a[4 + t] >> 8 & 255);
        const float **source = s->source[s->taps];
        unsigned there = 0;
        int y = y0, x = x0;
        for (unsigned i = 0; i < TOKENS; i++) {
            int sy = y + dy, sx = x + dx;
            source[i] = NULL;
            if (i < tokens) {
                if (a[3] == 1) { /* |dy| < H and |dx| < W: one turn is enough */
                    sy += sy < 0 ? height : sy >= height ? -height : 0;
                    sx += sx < 0 ? width : sx >= width ? -width : 0;
                }
                if (sy >= 0 && sy < height && sx >= 0 && sx < width) {
                    source[i] = bvt_row_f32(&call->in[0], (uint32_t)(sy * width + sx));
                    there++;
                }
            }
            if (++x == width) x = 0, y++;
        }
        if (!there) continue;
        for (unsigned i = 0; i < TOKENS && s->uniform; i++) s->uniform = source[i] && source[i] == source[0] + i * apart;
        s->tap[s->taps++] = bvt_row_f32(&call->in[1], (uint32_t)t);
    }
}

INLINE void tokens_16(float *const *out, const neighbourhood *s, size_t apart, const float *shift, uint32_t c, unsigned tokens,
                      const bool uniform) {
    float32x4_t sum[TOKENS][4];
    for (unsigned v = 0; v < 4; v++) {
        const float32x4_t first = shift ? vld1q_f32(shift + c + 4 * v) : vdupq_n_f32(0);
        for (unsigned i = 0; i < TOKENS; i++) sum[i][v] = first;
    }
    for (unsigned t = 0; t < s->taps; t++) {
        const float *tap = s->tap[t] + c, *x = s->source[t][0] + (uniform ? c : 0);
        const float32x4_t w0 = vld1q_f32(tap), w1 = vld1q_f32(tap + 4), w2 = vld1q_f32(tap + 8), w3 = vld1q_f32(tap + 12);
#define TOKEN(i)                                                            \
    if (!uniform) x = s->source[t][i];                                      \
    if (uniform || x) {                                                     \
        const float *at = uniform ? x + (i) * apart : x + c;                \
        sum[i][0] = vfmaq_f32(sum[i][0], vld1q_f32(at), w0);                \
        sum[i][1] = vfmaq_f32(sum[i][1], vld1q_f32(at + 4), w1);            \
        sum[i][2] = vfmaq_f32(sum[i][2], vld1q_f32(at + 8), w2);            \
        sum[i][3] = vfmaq_f32(sum[i][3], vld1q_f32(at + 12), w3);           \
    }
        TOKEN(0) TOKEN(1) TOKEN(2) TOKEN(3)
#undef TOKEN
    }
#define TOKEN(i)                                                                   \
    if (uniform || (i) < tokens) {                                                 \
        vst1q_f32(out[i] + c, sum[i][0]), vst1q_f32(out[i] + c + 4, sum[i][1]);     \
        vst1q_f32(out[i] + c + 8, sum[i][2]), vst1q_f32(out[i] + c + 12, sum[i][3]); \
    }
    TOKEN(0) TOKEN(1) TOKEN(2) TOKEN(3)
#undef TOKEN
}

void bvt_stencil_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t channels = call->in[0].cols;
    const size_t apart = call->in[0].stride / sizeof(float);
    const float *shift = call->in[2].base ? bvt_row_f32(&call->in[2], 0) : NULL;
    for (uint32_t row = row0; row < row1; row += TOKENS) {
        const unsigned tokens = bvt_min_u32(row1 - row, TOKENS);
        neighbourhood s;
        float *out[TOKENS] = {NULL};
        uint32_t c = 0;
        find_sources(&s, call, row, tokens);
        for (unsigned i = 0; i < tokens; i++) out[i] = bvt_row(&call->out[0], row + i);
        if (s.uniform)
            for (; c + 16 <= channels; c += 16) tokens_16(out, &s, apart, shift, c, tokens, true);
        else
            for (; c + 16 <= channels; c += 16) tokens_16(out, &s, apart, shift, c, tokens, false);
        for (; c < channels; c++)
            for (unsigned i = 0; i < tokens; i++) {
                float sum = shift ? shift[c] : 0;
                for (unsigned t = 0; t < s.taps; t++) {
                    const float *x = s.uniform ? s.source[t][0] + i * apart : s.source[t][i];
                    if (x) sum = __builtin_fmaf(x[c], s.tap[t][c], sum);
                }
                out[i][c] = sum;
            }
    }
}
