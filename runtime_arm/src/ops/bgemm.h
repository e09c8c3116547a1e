/* What the kernels of `bgemm` share. */
#ifndef BVT_OPS_BGEMM_H
#define BVT_OPS_BGEMM_H
#include "../internal.h"

/* ---- The layouts of the weight (spec.py defines them, KERNELS.md explains them) -------------------------------------------- */

#define BVT_CSA_STEPS 60u  /* steps of 8 columns after which the running XOR of CSA starts anew */
#define BVT_GROUP 5u       /* columns that TBL2 and LUT look up at a time */
#define BVT_WORD 60u       /* columns that fit into a 64-bit word as whole groups */
#define BVT_WORD_GROUPS 12u
#define BVT_LUT_MOST 52u /* groups of a part of LUT: 260 columns */
#define BVT_LUT_CHANNELS 8u

/* Steps of a tile in layout CSA: pairs. */
static inline uint32_t bvt_csa_steps(uint32_t cols) { return ((cols + 7) / 8 + 1) & ~1u; }
static inline uint32_t bvt_groups(uint32_t cols) { return (cols + BVT_GROUP - 1) / BVT_GROUP; }
/* LUT: parts, of no groups one (the loader asks before it refuses), and groups of each but the last, which has the rest. */
static inline uint32_t bvt_lut_parts(uint32_t groups) { return groups ? (groups - 1) / BVT_LUT_MOST + 1 : 1; }
static inline uint32_t bvt_lut_part(uint32_t groups) {
    const uint32_t parts = 4 * bvt_lut_parts(groups);
    return (groups + parts - 1) / parts * 4;
}
/* What the layouts but LANES16 hold: what has dots in i16. */
#define BVT_MOST_COLUMNS ((uint32_t)BVT_MOST_I16)

/* Bit `col` of channel `row` of a weight in any layout. */
bool bvt_weight_bit(const bvt_view *weight, uint32_t row, uint32_t col);

/* ---- Scratch --------------------------------------------------------------------------------------------------------------- */

#define BVT_BGEMM_ROWS 8u        /* rows that CSA and TBL2 prepare at a time */

/* LUT: the tables of a part, and its columns of 32 rows, in two planes. Few rows have no tables: there, the words that they are compared
 * by (bgemm_lut_neon.c asserts that these fit). */
#define BVT_LUT_TABLE 512u
#define BVT_LUT_TABLE_BYTES (BVT_LUT_MOST * BVT_LUT_TABLE)
#define BVT_LUT_NIBBLES 80u /* vectors of 4 columns that a part takes: up to 260 columns from a half byte on, in whole 8 bytes */
#define BVT_LUT_SCRATCH (BVT_LUT_TABLE_BYTES + 2 * 16 * BVT_LUT_NIBBLES)

/* TBL2: a u16 for each pair of 4 rows (of trits for each row) and group; whole vectors of 8 groups. */
static inline uint32_t bvt_tbl2_offsets(uint32_t cols, bool trits) { return (trits ? 4 : 2) * ((bvt_groups(cols) + 7) & ~7u); }

/* Bytes of scratch that the kernels need for rows of bits or trits and a weight of this layout and width. */
static inline uint64_t bvt_bgemm_scratch(int layout, uint32_t cols, bool trits) {
    switch (layout) {
    /* Every byte of the rows 16 times; whole words of 8 steps are written. */
    case BVT_LAYOUT_CSA: return 16 * BVT_BGEMM_ROWS * bvt_min_u32((bvt_csa_steps(cols) + 7) & ~7u, (BVT_CSA_STEPS + 7) & ~7u);
    case BVT_LAYOUT_TBL2: return bvt_align64(BVT_BGEMM_ROWS / 4 * 2 * (uint64_t)bvt_tbl2_offsets(cols, trits));
    case BVT_LAYOUT_LUT: return BVT_LUT_SCRATCH;
    default: return 0;
    }
}

/* ---- Layout LANES16: groups and trits -------------------------------------------------------------------------------------- */

/* Whether it is what kernels for LANES16 take: dots in 16 bits, and every tile of 16 outputs reads whole bytes of one segment of
 * the row. */
static inline bool bvt_bgemm_tiles(const bvt_call *call) {
    if (call->in[1].layout != BVT_LAYOUT_LANES16 || call->out[0].dtype != BVT_DTYPE_I16) return false;
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
    const uint32_t bytes = (k + 7) / 8;
    int32_t n = 0;
    uint32_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word;
        memcpy(&word, some + i, 8);
        n += __builtin_popcountll(word);
    }
    for (; i < bytes; i++) n += __builtin_popcount(some[i]);
    return n;
}

#endif
