/* What a file holds in another form than it is computed with: constants stored as fp16 or int8, golden inputs that are only a seed,
 * and weights laid out for another machine. The same numbers as bvtdeploy/lower/pack.py, bvtdeploy/lower/weights.py and
 * bvtdeploy/artifact/golden.py make, bit for bit.
 */
#include <fenv.h>

#include "half.h"
#include "ops/bgemm.h"

uint64_t bvt_stored_bytes(const bvt_rec_value *v) {
    const uint64_t elements = (uint64_t)v->rows * v->cols;
    return v->stored == BVT_STORED_F16 ? 2 * elements : elements + 4 * (uint64_t)v->cols;
}

void bvt_widen(const bvt_rec_value *v, const uint8_t *from, float *to) {
    const size_t elements = (size_t)v->rows * v->cols;
    if (v->stored == BVT_STORED_F16) {
        for (size_t i = 0; i < elements; i++) {
            uint16_t half;
            memcpy(&half, from + 2 * i, sizeof half);
            to[i] = bvt_from_half(half);
        }
        return;
    }
    fenv_t env;
    fegetenv(&env);
    fesetenv(FE_DFL_ENV); /* round to nearest, no flush to zero, whatever the caller has set */
    const float *scales = (const float *)(const void *)from;
    const int8_t *codes = (const int8_t *)(scales + v->cols);
    for (size_t r = 0; r < v->rows; r++, codes += v->cols, to += v->cols)
        for (size_t c = 0; c < v->cols; c++) to[c] = (float)codes[c] * scales[c];
    fesetenv(&env);
}

void bvt_relay(const bvt_rec_value *v, const uint8_t *from, uint8_t *to) {
    const bvt_view weight = {.base = (uint8_t *)(uintptr_t)from,
                             .stride = v->stride,
                             .rows = v->rows,
                             .cols = v->cols,
                             .dtype = v->dtype,
                             .layout = v->layout};
    const uint64_t stride = bvt_lanes16_stride(v->cols);
    memset(to, 0, (size_t)(bvt_ceil_div(v->rows, 16) * stride));
    for (uint32_t r = 0; r < v->rows; r++) {
        uint8_t *lane = to + r / 16 * stride + r % 16;
        for (uint32_t c = 0; c < v->cols; c++) lane[c / 8 * 16] |= (uint8_t)(bvt_weight_bit(&weight, r, c) << c % 8);
    }
}

void bvt_generate(uint64_t seed, uint32_t rows, uint32_t cols, float *to) {
    fenv_t env;
    fegetenv(&env);
    fesetenv(FE_DFL_ENV);
    uint64_t counter = seed;
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t c = 0; c < cols; c++, to++) {
            uint64_t z = counter += 0x9E3779B97F4A7C15u; /* splitmix64 */
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
            z = (z ^ z >> 27) * 0x94D049BB133111EBu;
            const uint32_t noise = (uint32_t)((z ^ z >> 31) >> 57);
            const uint32_t ramp = (uint32_t)(((uint64_t)r + c) * 127 * (1 + seed % 8) / ((uint64_t)rows + cols) % 128);
            *to = ((float)(noise + ramp) / 255.0f - 0.5f) * 4.0f;
        }
    fesetenv(&env);
}
