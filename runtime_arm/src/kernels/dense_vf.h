/* dense over vectors of output channels. A tile of R rows x V vectors keeps its sums in registers while k runs upwards, so that
 * every sum has the order of the definition. */
#include "vf.h"

/* Vectors of a tile of 4 rows. With more, AVX-512 is no faster where a core makes one such multiply-add a cycle, and NEON (two
 * registers a vector) has to spill. */
#if defined(__AVX2__) && !defined(__AVX512F__)
#define DENSE_VECTORS 3
#else
#define DENSE_VECTORS 2
#endif

/* Rows row .. row+R-1, channels o .. o+V*VF_LANES-1; with V = 1 only `n` of them. */
VF_INLINE void dense_tile(const bvt_call *call, uint32_t row, uint32_t o, unsigned n, const unsigned R, const unsigned V) {
    const uint32_t k_end = call->in[0].cols;
    const size_t stride = call->in[1].stride;
    const uint8_t *weight = call->in[1].base + (size_t)o * 4;
    const float *x[4];
    vf acc[4][4];
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_f32(&call->in[0], row + r);
        for (unsigned v = 0; v < V; v++) acc[r][v] = vf_set(0);
    }
    for (uint32_t k = 0; k < k_end; k++, weight += stride) {
        const float *w = (const float *)(const void *)weight;
        vf factor[4];
        for (unsigned v = 0; v < V; v++) factor[v] = V == 1 ? vf_load_n(w, n) : vf_load(w + v * VF_LANES);
        for (unsigned r = 0; r < R; r++) {
            float element = x[r][k];
#if defined(__aarch64__)
            __asm__("" : "+w"(element)); /* FMLA takes it as it is; GCC 12 broadcasts one of four, which costs a vector pipe */
#endif
            const vf value = vf_set(element);
            for (unsigned v = 0; v < V; v++) acc[r][v] = vf_fma(value, factor[v], acc[r][v]);
        }
    }
    const float *bias = call->in[2].base ? bvt_row_f32(&call->in[2], 0) + o : NULL;
    for (unsigned r = 0; r < R; r++) {
        float *y = (float *)bvt_row(&call->out[0], row + r) + o;
        for (unsigned v = 0; v < V; v++) {
            const unsigned lanes = V == 1 ? n : VF_LANES;
            if (bias) acc[r][v] = vf_add(acc[r][v], vf_load_n(bias + v * VF_LANES, lanes));
            vf_store_n(y + v * VF_LANES, acc[r][v], lanes);
        }
    }
}

VF_INLINE void dense_rows(const bvt_call *call, uint32_t row, const unsigned R, const unsigned V) {
    const uint32_t outputs = call->out[0].cols;
    uint32_t o = 0;
    for (; o + V * VF_LANES <= outputs; o += V * VF_LANES) dense_tile(call, row, o, VF_LANES, R, V);
    if (R > 1 && V > 2) /* 64 channels are 3 + 3 + 2 vectors */
        for (; o + 2 * VF_LANES <= outputs; o += 2 * VF_LANES) dense_tile(call, row, o, VF_LANES, R, 2);
    for (; o < outputs; o += VF_LANES) dense_tile(call, row, o, bvt_min_u32(VF_LANES, outputs - o), R, 1);
}

void VF_KERNEL(dense)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    uint32_t row = row0;
    for (; row + 4 <= row1; row += 4) dense_rows(call, row, 4, DENSE_VECTORS);
    for (; row < row1; row++) dense_rows(call, row, 1, 4);
}
