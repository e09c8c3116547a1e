/* epilogue over vectors of channels: 8 rows x VF_LANES channels at a time, so that parameters are loaded once for 8 rows and the signs
 * of a step are 8 x 8 bit matrices: their rows are bytes of layout ROWS, their columns bytes of layout COLS.
 */
#include "../ops/bits.h"
#include "epilogue_sets.h"
#include "vf.h"

/* Transposes an 8 x 8 bit matrix whose row i is byte i (Hacker's Delight 7-3). */
VF_INLINE uint64_t transpose8(uint64_t x) {
    uint64_t t = (x ^ x >> 7) & 0x00AA00AA00AA00AAu;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000CCCC0000CCCCu;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000F0F0F0F0u;
    return x ^ t ^ t << 28;
}

/* Up to 8 rows of the operands. */
typedef struct {
    const bvt_call *call;
    uint32_t cols;
    unsigned rows, n_bits;
    uint8_t x_dtype;
    bool real; /* there is an f32 output */
    const uint8_t *in[8];
    float *out[8];
    struct {
        const float *row[8];
        uint32_t cols;
    } res[BVT_EP_RESIDUALS];
    const float *param[BVT_EP_INPUTS];
    /* Bits outputs and the planes of trits: bits[] is byte c/8 of row 0 (ROWS), or the rows' byte of column 0 (COLS). */
    const float *threshold[2 * BVT_EP_BITS], *below[2 * BVT_EP_BITS]; /* below: NULL, or also set where v is less */
    uint8_t *bits[2 * BVT_EP_BITS];
    size_t bits_stride[2 * BVT_EP_BITS], plane[2 * BVT_EP_BITS];
    const bvt_view *view[2 * BVT_EP_BITS];
    bool by_cols[2 * BVT_EP_BITS];
} rows8;

/* Channels c .. c+n-1 of a residual's row that is read in a circle. */
static __attribute__((noinline)) vf load_circle(const float *row, uint32_t cols, uint32_t c, unsigned n) {
    float x[VF_LANES] = {0};
    for (unsigned i = 0; i < n; i++) x[i] = row[(c + i) % cols];
    return vf_load(x);
}

/* Channels c .. c+n-1 of a residual; `at` is c mod its columns. */
VF_INLINE vf load_residual(const rows8 *b, const unsigned slot, unsigned r, uint32_t at, const unsigned n) {
    const float *row = b->res[slot].row[r];
    return at + n <= b->res[slot].cols ? vf_load_n(row + at, n) : load_circle(row, b->res[slot].cols, at, n);
}

/* Lanes beyond the last channel are no signs. */
VF_INLINE uint16_t signs_of(unsigned mask, unsigned n) { return (uint16_t)(n < VF_LANES ? mask & ((1u << n) - 1) : mask); }

/* Signs i of the rows' n channels from c on: bit j of mask[r] is channel c+j of row r. */
static __attribute__((noinline)) void store_signs(const rows8 *b, unsigned i, uint32_t c, unsigned n, const uint16_t mask[8]) {
    const size_t stride = b->bits_stride[i];
    const unsigned rows = b->rows;
    if (!b->by_cols[i]) {
        uint8_t *to = b->bits[i] + c / 8;
        if (n > 8)
            for (unsigned r = 0; r < rows; r++, to += stride) memcpy(to, &mask[r], 2);
        else
            for (unsigned r = 0; r < rows; r++, to += stride) memcpy(to, &mask[r], 1);
        return;
    }
    uint8_t *to = b->bits[i] + c * stride;
    for (unsigned h = 0; 8 * h < n; h++) {
        uint64_t signs = 0;
        for (unsigned r = 0; r < rows; r++) signs |= (uint64_t)(mask[r] >> 8 * h & 0xFF) << 8 * r;
        signs = transpose8(signs);
        for (unsigned j = 0; j < 8 && 8 * h + j < n; j++, to += stride) *to = (uint8_t)(signs >> 8 * j);
    }
}

/* Signs 1 and later of n channels of the rows. */
static __attribute__((noinline)) void other_signs(const rows8 *b, uint32_t c, unsigned n, const vf value[8]) {
    for (unsigned i = 1; i < b->n_bits; i++) {
        const vf high = vf_load_n(b->threshold[i] + c, n), low = b->below[i] ? vf_load_n(b->below[i] + c, n) : vf_set(-INFINITY);
        uint16_t mask[8];
        for (unsigned r = 0; r < b->rows; r++) mask[r] = signs_of(vf_ge(value[r], high) | vf_gt(low, value[r]), n);
        store_signs(b, i, c, n, mask);
    }
}

VF_INLINE vf load_x(const rows8 *b, unsigned r, uint32_t c, const unsigned n) {
    const void *row = b->in[r];
    switch (b->x_dtype) {
    case BVT_DTYPE_I32: return vf_load_i32_n((const int32_t *)row + c, n);
    case BVT_DTYPE_I16: return vf_load_i16_n((const int16_t *)row + c, n);
    default: return vf_load_n((const float *)row + c, n);
    }
}

/* Writes the means of every `pool` of the first n channels of v, a multiple of pool. */
VF_INLINE void put_means(float *to, const unsigned n, const unsigned pool, vf v) {
#if VF_LANES == 16
    /* Every lane gets the sum of its group: a shuffle within 4 lanes costs less than one that gathers pairs. */
    v = vf_add(v, _mm512_permute_ps(v, 0xB1));
    if (pool > 2) v = vf_add(v, _mm512_permute_ps(v, 0x4E));
    if (pool > 4) v = vf_add(v, _mm512_shuffle_f32x4(v, v, 0xB1));
    v = _mm512_maskz_compress_ps((__mmask16)(pool == 2 ? 0x5555 : pool == 4 ? 0x1111 : 0x0101), v);
#else
    for (unsigned left = pool; left > 1; left /= 2) v = vf_add_pairs(v, v);
#endif
    vf_store_n(to, vf_mul(v, vf_set(bvt_reciprocal(pool))), n / pool);
}

#define HAS(operand) (set >> (operand)&1)
#define PARAM(operand) p[operand]
#define RESIDUAL(slot) load_residual(b, slot, r, at[slot], n)
#define MULTIPLY_ADD vf_fma
#define MULTIPLY vf_mul
#define ADD vf_add
#define PRELU(v) vf_prelu(v, p[BVT_EP_SLOPE], p[BVT_EP_KNEE])
/* Channels c .. c+n-1 of 8 rows; at[]: c mod the columns of a residual. */
VF_INLINE void chunk(const rows8 *b, uint32_t c, const uint32_t at[BVT_EP_RESIDUALS], const unsigned n, const unsigned set,
                     const unsigned pool) {
    vf p[BVT_EP_THRESHOLD0], value[8];
    uint16_t mask[8];
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) p[i] = set >> i & 1 ? vf_load_n(b->param[i] + c, n) : vf_set(0);
    p[BVT_EP_SLOPE] = vf_factor(vf_sub(p[BVT_EP_SLOPE], vf_set(1)), p[BVT_EP_KNEE]);
    const vf threshold = b->n_bits ? vf_load_n(b->threshold[0] + c, n) : vf_set(0);
    const unsigned rows = b->rows;
    const bool real = b->real, several = b->n_bits > 1;
#pragma GCC unroll 1
    for (unsigned r = 0; r < rows; r++) {
        vf v = load_x(b, r, c, n);
        EPILOGUE_STEPS(v)
        if (real && pool > 1) put_means(b->out[r] + c / pool, n, pool, v);
        else if (real) vf_store_n(b->out[r] + c, v, n);
        if (several) value[r] = v;
        mask[r] = signs_of(vf_ge(v, threshold), n);
    }
    if (b->n_bits) store_signs(b, 0, c, n, mask);
    if (several) other_signs(b, c, n, value);
}
#undef HAS
#undef PARAM
#undef RESIDUAL
#undef MULTIPLY_ADD
#undef MULTIPLY
#undef ADD
#undef PRELU

static __attribute__((noinline)) void chunk_any(const rows8 *b, uint32_t c, const uint32_t at[BVT_EP_RESIDUALS], unsigned n, unsigned set,
                                                unsigned pool) {
    chunk(b, c, at, n, set, pool);
}

/* Points `b` to the rows r0 .. of at most row1. */
static void move_rows(rows8 *b, uint32_t r0, uint32_t row1, unsigned set) {
    const bvt_call *call = b->call;
    b->rows = row1 - r0 < 8 ? row1 - r0 : 8;
    for (unsigned r = 0; r < b->rows; r++) {
        b->in[r] = bvt_row_bits(&call->in[BVT_EP_X], r0 + r);
        if (b->real) b->out[r] = bvt_row(&call->out[0], r0 + r);
        for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
            if (set >> (BVT_EP_RES0 + slot) & 1) b->res[slot].row[r] = bvt_epilogue_residual(call, slot, r0 + r);
    }
    for (unsigned i = 0; i < b->n_bits; i++) {
        const bvt_view *out = b->view[i];
        b->bits[i] = b->plane[i] + (out->by_cols ? out->base + (r0 - out->first) / 8 : (uint8_t *)bvt_row(out, r0));
    }
}

VF_INLINE void run(rows8 *b, uint32_t row0, uint32_t row1, const unsigned set, const unsigned pool) {
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        uint32_t c = 0, at[BVT_EP_RESIDUALS] = {0};
        move_rows(b, r0, row1, set);
        for (; c + VF_LANES <= b->cols; c += VF_LANES) {
            chunk(b, c, at, VF_LANES, set, pool);
            for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++)
                if (set >> (BVT_EP_RES0 + slot) & 1)
                    for (at[slot] += VF_LANES; at[slot] >= b->res[slot].cols;) at[slot] -= b->res[slot].cols;
        }
        if (c < b->cols) chunk_any(b, c, at, b->cols - c, set, pool);
    }
}

#if VF_LANES == 16
/* Thresholds on bare dots of 16 bits, where all signs are rows: 32 channels at a time, which never become floats. float(x) >= t is
 * x >= ceil(t), cut to i16, whose ends no dot reaches (BVT_MOST_I16); a NaN, which nothing reaches and nothing is below, becomes
 * `nan`, one of the ends. */
VF_INLINE __m256i ceilings(const float *p, unsigned n, int32_t nan) {
    const __m512 t = vf_load_n(p, n);
    const __m512 up = _mm512_roundscale_ps(t, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    const __m512 cut = _mm512_min_ps(_mm512_max_ps(up, _mm512_set1_ps(-32768)), _mm512_set1_ps(32767));
    const __mmask16 number = _mm512_cmp_ps_mask(t, t, _CMP_ORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_cvtps_epi32(_mm512_set1_epi32(nan), number, cut));
}
VF_INLINE __m512i ceilings32(const float *p, unsigned n, int32_t nan) {
    const __m512i low = _mm512_castsi256_si512(ceilings(p, n < 16 ? n : 16, nan));
    return n > 16 ? _mm512_inserti64x4(low, ceilings(p + 16, n - 16, nan), 1) : low;
}

static void threshold_rows(rows8 *b, uint32_t row0, uint32_t row1) {
    for (uint32_t r0 = row0; r0 < row1; r0 += 8) {
        move_rows(b, r0, row1, 0);
        for (unsigned i = 0; i < b->n_bits; i++)
            for (uint32_t c = 0; c < b->cols; c += 32) {
                const unsigned n = b->cols - c < 32 ? b->cols - c : 32;
                const __mmask32 there = 0xFFFFFFFFu >> (32 - n);
                const __m512i high = ceilings32(b->threshold[i] + c, n, INT16_MAX);
                const __m512i low = b->below[i] ? ceilings32(b->below[i] + c, n, INT16_MIN) : high;
                for (unsigned r = 0; r < b->rows; r++) {
                    const __m512i x = _mm512_maskz_loadu_epi16(there, (const int16_t *)(const void *)b->in[r] + c);
                    uint32_t mask = _mm512_mask_cmpge_epi16_mask(there, x, high);
                    if (b->below[i]) mask |= _mm512_mask_cmplt_epi16_mask(there, x, low);
                    uint8_t *to = b->bits[i] + r * b->bits_stride[i] + c / 8;
                    if (n == 32) memcpy(to, &mask, 4);
                    else
                        for (unsigned byte = 0; 8 * byte < n; byte++) to[byte] = (uint8_t)(mask >> 8 * byte);
                }
            }
    }
}
#endif

void VF_KERNEL(epilogue)(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const bvt_view *x = &call->in[BVT_EP_X];
    rows8 b = {.call = call, .cols = x->cols, .x_dtype = x->dtype, .real = call->out[0].base != NULL};
    const unsigned pool = bvt_epilogue_pool(call);
    unsigned set = 0;
    for (unsigned i = BVT_EP_RES0; i < BVT_EP_THRESHOLD0; i++) set |= (unsigned)(call->in[i].base != NULL) << i;
    for (unsigned i = BVT_EP_SCALE; i < BVT_EP_THRESHOLD0; i++) b.param[i] = call->in[i].base ? bvt_row_f32(&call->in[i], 0) : NULL;
    for (unsigned slot = 0; slot < BVT_EP_RESIDUALS; slot++) b.res[slot].cols = call->in[BVT_EP_RES0 + slot].cols;
    for (unsigned i = 0; i < BVT_EP_BITS; i++) {
        const bvt_view *out = &call->out[1 + i];
        if (!out->base) continue;
        const bvt_view *threshold = &call->in[BVT_EP_THRESHOLD0 + i];
        const bool trits = out->dtype == BVT_DTYPE_TRITS;
        for (unsigned plane = 0; plane < 1u + trits; plane++, b.n_bits++) {
            b.threshold[b.n_bits] = bvt_row_f32(threshold, trits);
            b.below[b.n_bits] = plane ? bvt_row_f32(threshold, 0) : NULL;
            b.plane[b.n_bits] = plane ? bvt_plane(out->by_cols ? out->rows : out->cols) : 0;
            b.view[b.n_bits] = out;
            b.bits_stride[b.n_bits] = out->stride;
            b.by_cols[b.n_bits] = out->by_cols;
        }
    }
#if VF_LANES == 16
    bool rows = !set && !b.real && x->dtype == BVT_DTYPE_I16;
    for (unsigned i = 0; i < b.n_bits; i++) rows = rows && !b.by_cols[i];
    if (rows) threshold_rows(&b, row0, row1);
    else
#endif
    switch (form_of(set, pool)) {
#define X(form) \
    case (unsigned)(form): run(&b, row0, row1, set_of(form), pool_of(form)); break;
        COMMON_FORMS(X)
#undef X
    default: run(&b, row0, row1, set, pool);
    }
    for (unsigned i = 0; i < BVT_EP_BITS; i++)
        if (call->out[1 + i].base) bvt_pad(&call->out[1 + i], row0, row1);
}
