/* mixed_gemm for NEON: 8 rows x 8 channels keep their sums in registers while k runs upwards. The weights of a k are +-1.0, made of
 * sign bits once for all rows, and fma(x, +-1, sum) is the sum plus or minus x.
 */
#include <arm_neon.h>

#include "../internal.h"

#define INLINE static inline __attribute__((always_inline))

/* +-1.0 of the weights' complement, of which the bit that counts is at the top. */
INLINE float32x4_t one_of(uint32x4_t complement) {
    return vreinterpretq_f32_u32(vbslq_u32(vdupq_n_u32(0x80000000u), complement, vreinterpretq_u32_f32(vdupq_n_f32(1))));
}

/* Rows row .. row+R-1, channels o .. o+7, of which the first n are there. */
INLINE void mixed_tile(const bvt_call *call, uint32_t row, uint32_t o, unsigned n, const unsigned R) {
    const uint32_t k_end = call->in[0].cols;
    const uint8_t *weight = call->in[1].base + o / 16 * call->in[1].stride + o % 16;
    const float *x[8];
    float32x4_t low[8], high[8];
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_f32(&call->in[0], row + r);
        low[r] = high[r] = vdupq_n_f32(0);
    }
    uint32_t k = 0;
    for (; k + 8 <= k_end; k += 8, weight += 16) {
        const uint16x8_t bits = vmovl_u8(vmvn_u8(vld1_u8(weight)));
        const uint32x4_t a = vmovl_u16(vget_low_u16(bits)), b = vmovl_high_u16(bits);
        float32x4_t value[8];
#define LOAD(at) \
    for (unsigned r = 0; r < R; r++) value[r] = vld1q_f32(x[r] + k + (at));
#define STEP(bit)                                                                                               \
    {                                                                                                           \
        const float32x4_t w0 = one_of(vshlq_n_u32(a, 31 - (bit))), w1 = one_of(vshlq_n_u32(b, 31 - (bit)));     \
        for (unsigned r = 0; r < R; r++) {                                                                      \
            low[r] = vfmaq_laneq_f32(low[r], w0, value[r], (bit) % 4);                                          \
            high[r] = vfmaq_laneq_f32(high[r], w1, value[r], (bit) % 4);                                        \
        }                                                                                                       \
    }
        LOAD(0) STEP(0) STEP(1) STEP(2) STEP(3)
        LOAD(4) STEP(4) STEP(5) STEP(6) STEP(7)
#undef LOAD
#undef STEP
    }
    if (k < k_end) {
        const uint16x8_t bits = vmovl_u8(vmvn_u8(vld1_u8(weight)));
        uint32x4_t a = vshlq_n_u32(vmovl_u16(vget_low_u16(bits)), 24), b = vshlq_n_u32(vmovl_high_u16(bits), 24);
        for (unsigned bit = 0; k < k_end; k++, bit++) {
            const int32x4_t up = vdupq_n_s32((int)(7 - bit));
            const float32x4_t w0 = one_of(vshlq_u32(a, up)), w1 = one_of(vshlq_u32(b, up));
            for (unsigned r = 0; r < R; r++) {
                low[r] = vfmaq_n_f32(low[r], w0, x[r][k]);
                high[r] = vfmaq_n_f32(high[r], w1, x[r][k]);
            }
        }
    }
    for (unsigned r = 0; r < R; r++) {
        float *y = (float *)bvt_row(&call->out[0], row + r) + o, part[8];
        float *to = n == 8 ? y : part;
        vst1q_f32(to, low[r]);
        vst1q_f32(to + 4, high[r]);
        if (n < 8) memcpy(y, part, n * sizeof *y);
    }
}

static void mixed_rows_8(const bvt_call *call, uint32_t row, uint32_t o, unsigned n) { mixed_tile(call, row, o, n, 8); }
static void mixed_rows_4(const bvt_call *call, uint32_t row, uint32_t o, unsigned n) { mixed_tile(call, row, o, n, 4); }
static void mixed_row(const bvt_call *call, uint32_t row, uint32_t o, unsigned n) { mixed_tile(call, row, o, n, 1); }

void bvt_mixed_gemm_neon(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t outputs = call->out[0].cols;
    for (uint32_t row = row0, rows; row < row1; row += rows) {
        rows = row + 8 <= row1 ? 8 : row + 4 <= row1 ? 4 : 1;
        for (uint32_t o = 0; o < outputs; o += 8) {
            const unsigned n = bvt_min_u32(outputs - o, 8);
            if (rows == 8) mixed_rows_8(call, row, o, n);
            else if (rows == 4) mixed_rows_4(call, row, o, n);
            else mixed_row(call, row, o, n);
        }
    }
}
