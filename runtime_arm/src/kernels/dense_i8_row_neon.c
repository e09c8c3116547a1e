/* The rows of dense_i8's kernels over NEON, of 64 and of 32 bits, become codes. */
#include <arm_neon.h>

#include "../ops/dense_i8.h"

#if defined(__aarch64__)
static float magnitude(const float *x, uint32_t cols) {
    uint32x4_t most[4];
    for (unsigned i = 0; i < 4; i++) most[i] = vdupq_n_u32(0);
    for (; cols >= 16; cols -= 16, x += 16) {
        for (unsigned i = 0; i < 4; i++) most[i] = vmaxq_u32(most[i], vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + 4 * i))));
        __asm__ volatile("" : "+w"(most[0]), "+w"(most[1]), "+w"(most[2]), "+w"(most[3])); /* GCC 12 else moves them about */
    }
    float all[4 + 16] = {0};
    vst1q_f32(all, vreinterpretq_f32_u32(vmaxq_u32(vmaxq_u32(most[0], most[1]), vmaxq_u32(most[2], most[3]))));
    memcpy(all + 4, x, cols * sizeof *x);
    return bvt_i8_magnitude(all, 20);
}

/* 16 columns. */
static inline __attribute__((always_inline)) int8x16_t quantised(const float *x, float inverse) {
    static const float whole[4] = {0x1.8p23f, 0x1.8p23f, 0x1.8p23f, 0x1.8p23f};
    uint16x8_t part[4], half[2];
    for (unsigned i = 0; i < 4; i++) { /* an addend is overwritten: a load is cheaper than a move */
        const float *base = whole;
        __asm__("" : "+r"(base));
        part[i] = vreinterpretq_u16_f32(vfmaq_n_f32(vld1q_f32(base), vld1q_f32(x + 4 * i), inverse));
    }
    for (unsigned i = 0; i < 2; i++) half[i] = vuzp1q_u16(part[2 * i], part[2 * i + 1]);
    return vreinterpretq_s8_u8(vuzp1q_u8(vreinterpretq_u8_u16(half[0]), vreinterpretq_u8_u16(half[1])));
}
#else
/* NEON of 32-bit ARM flushes subnormals to zero, so floats are scalars. */
#define magnitude bvt_i8_magnitude

static inline __attribute__((always_inline)) int8x16_t quantised(const float *x, float inverse) {
    int8_t codes[16];
    for (unsigned k = 0; k < 16; k++) codes[k] = bvt_i8_code(x[k], inverse);
    return vld1q_s8(codes);
}
#endif

float bvt_i8_row_neon(int8_t *codes, const float *x, uint32_t cols, uint32_t copies) {
    const float m = magnitude(x, cols), inverse = bvt_i8_inverse(m);
    if (inverse == 0) memset(codes, 0, copies * bvt_i8_padded(cols));
    for (uint32_t k = 0; inverse != 0 && k < cols; k += 16, codes += 16 * copies) {
        float rest[16] = {0};
        const float *const from = k + 16 <= cols ? x + k : memcpy(rest, x + k, (cols - k) * sizeof *rest);
        const int8x16_t all = quantised(from, inverse);
        if (copies == 1) {
            vst1q_s8(codes, all);
            continue;
        }
        const int32x4x2_t twice = vzipq_s32(vreinterpretq_s32_s8(all), vreinterpretq_s32_s8(all));
        vst1q_s8(codes, vreinterpretq_s8_s32(twice.val[0]));
        vst1q_s8(codes + 16, vreinterpretq_s8_s32(twice.val[1]));
    }
    return m / 127.0f;
}
