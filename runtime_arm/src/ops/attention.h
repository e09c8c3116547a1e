/* What the kernels of `attention` share. */
#ifndef BVT_OPS_ATTENTION_H
#define BVT_OPS_ATTENTION_H
#include "../internal.h"

/* Inputs: ROLES of bvtdeploy/ops/attention.py. */
enum {
    BVT_ATTENTION_TABLE = 3,
    BVT_ATTENTION_LIMIT,
    BVT_ATTENTION_INTS,
    BVT_ATTENTION_REAL_STEPS,
    BVT_ATTENTION_BIAS,
    BVT_ATTENTION_PATTERN,
    BVT_ATTENTION_CLASS,
    BVT_ATTENTION_INPUTS
};
enum { BVT_ATTENTION_PLANES = 3 };

/* Whether an op is of the plain form, which has kernels of its own: +-1 codes, one window, one plane > limit*sum. */
static inline bool bvt_attention_plain(const bvt_call *call) {
    const int32_t *attr = call->op->attr;
    for (unsigned i = BVT_ATTENTION_INTS; i < BVT_ATTENTION_INPUTS; i++)
        if (call->in[i].base) return false;
    for (unsigned i = 0; i < 3; i++)
        if (call->in[i].dtype != BVT_DTYPE_BITS) return false;
    return attr[1] <= 1 && attr[2] <= 1 && !attr[3] && !attr[4];
}

/* The largest |result| of integer levels that an op can give whose operands have the right types and sizes: exact up to 2^53. */
double bvt_attention_most(const bvt_model *model, const bvt_rec_op *op);

/* Bytes of an element of the output. */
static inline size_t bvt_attention_out_bytes(const bvt_call *call) { return call->out[0].dtype == BVT_DTYPE_I16 ? 2 : 4; }

/* The table of a head: there is one for all, or one a head. */
static inline const uint64_t *bvt_attention_table(const bvt_call *call, uint32_t head) {
    const bvt_view *table = &call->in[BVT_ATTENTION_TABLE];
    return (const uint64_t *)bvt_row(table, table->rows == 1 ? 0 : head);
}

/* ---- The plain form ------------------------------------------------------------------------------------------------------ */

/* Scratch of the row-wise kernels (every plain op has it): u16 scores[M], then the row's mask as 64-bit words. */
static inline uint64_t bvt_attention_mask_at(uint64_t m) { return bvt_align64(2 * m); }
static inline uint64_t bvt_attention_scratch(uint64_t m) { return bvt_attention_mask_at(m) + bvt_align64(bvt_ceil_div(m, 64) * 8); }

/* T: the largest m in 0 .. d with float64(table[m]) > lim, or -1. The table does not increase. */
static inline int bvt_attention_last(const uint64_t *table, uint32_t d, double lim) {
    int lo = 0, hi = (int)d + 1; /* table[0 .. lo) is above lim, table[hi ..] is not */
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if ((double)table[mid] > lim) lo = mid + 1;
        else hi = mid;
    }
    return lo - 1;
}

/* ---- Every other form ---------------------------------------------------------------------------------------------------- */

/* Offsets in scratch; scratch_of in bvtdeploy/ops/attention.py says the same. */
typedef struct {
    uint64_t scores, key_sums, weights, query, keys, masks, base, columns, bytes;
} bvt_attention_areas;

static inline bvt_attention_areas bvt_attention_layout(uint32_t nk, uint32_t d, uint32_t windows, bool bias, bool q_trits,
                                                       bool k_trits, bool v_trits) {
    const uint64_t key_words = bvt_ceil_div(nk, 64), head_words = bvt_ceil_div(d, 64);
    bvt_attention_areas a = {0};
    uint64_t at = 0;
    a.scores = at, at += bvt_align64(4 * (uint64_t)nk);
    a.key_sums = at, at += bvt_align64(4 * (uint64_t)nk);
    a.weights = at, at += bias ? bvt_align64(8 * (uint64_t)nk) : 0;
    a.query = at, at += bvt_align64(8 * head_words * (q_trits ? 2 : 1));
    a.keys = at, at += bvt_align64(8 * head_words * nk * (k_trits ? 2 : 1));
    a.masks = at, at += bvt_align64(8 * BVT_ATTENTION_PLANES * key_words);
    a.base = at, at += bvt_align64(4 * (uint64_t)d);
    a.columns = at, at += windows > 1 ? bvt_align64(8 * 64 * head_words * key_words * (v_trits ? 2 : 1)) : 0;
    a.bytes = at;
    return a;
}

#endif
