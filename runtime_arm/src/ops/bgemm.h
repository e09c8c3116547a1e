/* What the kernels of `bgemm` share. */
#ifndef BVT_OPS_BGEMM_H
#define BVT_OPS_BGEMM_H
#include "../internal.h"

/* Whether every tile of 16 outputs reads whole bytes of one segment of the row. */
static inline bool bvt_bgemm_tiles(const bvt_call *call) {
    const uint32_t k = call->in[1].cols, groups = call->in[0].cols / k;
    return groups == 1 || (k % 8 == 0 && call->out[0].cols / groups % 16 == 0);
}

/* The byte of a row where the segment of outputs 16*tile .. begins. */
static inline size_t bvt_bgemm_segment(const bvt_call *call, uint32_t tile) {
    const uint32_t k = call->in[1].cols, groups = call->in[0].cols / k;
    return groups == 1 ? 0 : (size_t)(16 * tile / (call->out[0].cols / groups)) * (k / 8);
}

/* How many codes of a plane's segment are not 0. */
static inline int32_t bvt_bgemm_ones(const uint8_t *some, uint32_t k) {
    int32_t n = 0;
    for (uint32_t i = 0; i < (k + 7) / 8; i++) n += __builtin_popcount(some[i]);
    return n;
}

#endif
