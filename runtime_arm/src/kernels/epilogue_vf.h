/* epilogue over vectors of channels: 8 rows x 8 channels at a time, so that parameters are loaded once for 8 rows and the signs of
 * a step are an 8 x 8 bit matrix: its rows are bytes of layout ROWS, its columns bytes of layout COLS.
 *
 * Which operands are there is a bit set over the input slots. run() is compiled once for every set in COMMON_SETS, where all tests
 * on it vanish, and once for a set that is only known at run time.
 */
#include "../ops/epilogue.h"
#include "vf.h"

#define SET_AFFINE (1u << BVT_EP_SCALE | 1u << BVT_EP_SHIFT)
#define SET_RPRELU (1u << BVT_EP_PRE | 1u << BVT_EP_SLOPE | 1u << BVT_EP_POST)
#define SET_AFFINE2 (1u << BVT_EP_SCALE2 | 1u << BVT_EP_SHIFT2)
#define SET_RES (1u << BVT_EP_RES0)
#define SET_POST_RES (1u << BVT_EP_POST_RES0)
#define SET_THRESHOLDS (15u << BVT_EP_THRESHOLD0)
/* Without thresholds, which are tested at run time. */
#define COMMON_SETS(X)                                                    \
    X(0)                                                                  \
    X(SET_AFFINE)                                                         \
    X(1u << BVT_EP_SCALE)                                                 \
    X(SET_AFFINE | SET_RES)                                               \
    X(SET_AFFINE | SET_RPRELU)                                            \
    X(SET_AFFINE | SET_RES | SET_RPRELU)                                  \
    X(SET_AFFINE | SET_RPRELU | SET_AFFINE2)                              \
    X(SET_AFFINE | SET_RPRELU | SET_POST_RES)                             \
    X(SET_AFFINE | SET_RES | SET_RPRELU | SET_AFFINE2)                    \
    X(SET_AFFINE | SET_RES | SET_RPRELU | SET_AFFINE2 | SET_POST_RES)

/* Transposes an 8 x 8 bit matrix whose row i is byte i (Hacker's Delight 7-3). */
VF_INLINE uint64_t transpose8(uint64_t x) {
    uint64_t t = (x ^ x >> 7) & 0x00AA00AA00AA00AAu;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000CCCC0000CCCCu;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000F0F0F0F0u;
    return x ^ t ^ t << 28;
}

/* One residual for up to 8 rows. */
typedef struct {
    const float *row[8];
    uint32_t cols;
} residual;

/* Channels c .. c+n-1 of a residual's row: read c mod cols. */
VF_INLINE vf load_residual(const residual *res, unsigned r, uint32_t c, uint32_t at, unsigned n) {
    if (at + n <= res->cols) return vf_load_n(res->row[r] + at, n);
    float x[VF_LANES] = {0};
    for (unsigned i = 0; i < n; i++) x[i] = res->row[r][(c + i) % res->cols];
    return vf_load(x);
}

VF_INLINE vf affine(const unsigned set, const unsigned scale, vf v, vf factor, vf offset) {
    const bool has_scale = set >> scale & 1, has_shift = set >> (scale + 1) & 1;
    if (has_scale) return has_shift ? vf_fma(v, factor, offset) : vf_mul(v, factor);
    return has_shift ? vf_add(v, offset) : v;
}

VF_INLINE void run(const bvt_call *call, uint32_t row0, uint32_t row1, const unsigned set) {
    const bvt_view *x = &call->in[BVT_EP_X];
    const uint32_t cols = x->cols;
    const bool dots = x->dtype == BVT_DTYPE_I32;
    const float *param[BVT_EP_INPUTS];
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_INPUTS; i++) param[i] = call->in[i].base ? bvt_row_f32(&call->in[i], 0) : NULL;
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        const unsigned rows = row1 - r0 < 8 ? row1 - r0 : 8;
        residual res[BVT_EP_RESIDUALS] = {{{0}, 0}};
        const uint8_t *in[8];
        float *out[8];
        for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) {
            if (!(set >> (BVT_EP_RES0 + slot) & 1)) continue;
            res[slot].cols = call->in[BVT_EP_RES0 + slot].cols;
            for (unsigned r = 0; r < rows; r++) res[slot].row[r] = bvt_epilogue_residual(call, slot, r0 + r);
        }
        for (unsigned r = 0; r < rows; r++) {
            in[r] = bvt_row_bits(x, r0 + r);
            out[r] = call->out[0].base ? bvt_row(&call->out[0], r0 + r) : NULL;
        }
        for (uint32_t c = 0; c < cols; c += VF_LANES) {
            const unsigned n = vf_min(cols - c);
            vf p[BVT_EP_INPUTS];
            uint32_t at[BVT_EP_RESIDUALS] = {0}; /* c mod cols of the residual */
            uint64_t signs[BVT_EP_BITS] = {0};
            for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) p[i] = set >> i & 1 ? vf_load_n(param[i] + c, n) : vf_set(0);
            for (unsigned i = BVT_EP_THRESHOLD0; i < BVT_EP_INPUTS; i++) p[i] = param[i] ? vf_load_n(param[i] + c, n) : vf_set(0);
            for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
                if (set >> (BVT_EP_RES0 + slot) & 1) at[slot] = res[slot].cols == cols ? c : c % res[slot].cols;
            for (unsigned r = 0; r < rows; r++) {
                const void *from = in[r] + (size_t)c * 4;
                vf v = dots ? vf_load_i32_n(from, n) : vf_load_n(from, n);
                v = affine(set, BVT_EP_SCALE, v, p[BVT_EP_SCALE], p[BVT_EP_SHIFT]);
                for (unsigned slot = 0; slot < 3; slot++)
                    if (set >> (BVT_EP_RES0 + slot) & 1) v = vf_add(v, load_residual(&res[slot], r, c, at[slot], n));
                if (set >> BVT_EP_PRE & 1) v = vf_sub(v, p[BVT_EP_PRE]);
                if (set >> BVT_EP_SLOPE & 1) v = vf_prelu(v, p[BVT_EP_SLOPE]);
                if (set >> BVT_EP_POST & 1) v = vf_add(v, p[BVT_EP_POST]);
                v = affine(set, BVT_EP_SCALE2, v, p[BVT_EP_SCALE2], p[BVT_EP_SHIFT2]);
                for (unsigned slot = 3; slot < 6; slot++)
                    if (set >> (BVT_EP_RES0 + slot) & 1) v = vf_add(v, load_residual(&res[slot], r, c, at[slot], n));
                if (out[r]) vf_store_n(out[r] + c, v, n);
                for (unsigned i = 0; i < BVT_EP_BITS; i++)
                    if (param[BVT_EP_THRESHOLD0 + i]) signs[i] |= (uint64_t)vf_ge(v, p[BVT_EP_THRESHOLD0 + i]) << 8 * r;
            }
            for (unsigned i = 0; i < BVT_EP_BITS; i++) {
                const bvt_view *bits = &call->out[1 + i];
                if (!bits->base) continue;
                signs[i] &= 0x0101010101010101u * (0xFFu >> (VF_LANES - n)); /* lanes beyond the last channel are no signs */
                if (bits->by_cols) {
                    const uint64_t columns = transpose8(signs[i]);
                    uint8_t *to = bits->base + (size_t)c * bits->stride + (r0 - bits->first) / 8;
                    for (unsigned j = 0; j < n; j++) to[j * bits->stride] = (uint8_t)(columns >> 8 * j);
                } else {
                    uint8_t *to = (uint8_t *)bvt_row(bits, r0) + c / 8;
                    for (unsigned r = 0; r < rows; r++) to[r * bits->stride] = (uint8_t)(signs[i] >> 8 * r);
                }
            }
        }
        for (unsigned i = 0; i < BVT_EP_BITS; i++) {
            const bvt_view *bits = &call->out[1 + i];
            const size_t used = (cols + 7) / 8;
            for (unsigned r = 0; bits->base && !bits->by_cols && used < bits->stride && r < rows; r++)
                memset((uint8_t *)bvt_row(bits, r0 + r) + used, 0, bits->stride - used);
        }
    }
}

static void run_any(const bvt_call *call, uint32_t row0, uint32_t row1, unsigned set) { run(call, row0, row1, set); }

void VF_KERNEL(epilogue)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    unsigned set = 0;
    for (unsigned i = BVT_EP_RES0; i < BVT_EP_THRESHOLD0; i++) set |= (unsigned)(call->in[i].base != NULL) << i;
    switch (set) {
#define X(common) \
    case common: run(call, row0, row1, common); break;
        COMMON_SETS(X)
#undef X
    default: run_any(call, row0, row1, set);
    }
    bvt_epilogue_pad_cols(call, row1);
}
