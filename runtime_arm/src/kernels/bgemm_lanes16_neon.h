/* bgemm for NEON, layout LANES16: what 64-bit and 32-bit ARM share. A byte lane is an output channel: an activation byte is
 * broadcast, xor and cnt give the differing bits of 16 channels, and no sum ever crosses lanes. Counters are u8 and hold up to 255,
 * so at the latest after 31 steps (248 bits) they go into the output.
 *
 * The including file makes WIDE tiles of 16 channels at a time, as many as its registers hold: bgemm_wide of 4 rows, and
 * bgemm_trits_wide of 2.
 */
#ifndef BVT_KERNELS_BGEMM_LANES16_NEON_H
#define BVT_KERNELS_BGEMM_LANES16_NEON_H
#include "bgemm_neon.h"

#define MOST_STEPS 31u

static void bgemm_wide(const bvt_call *call, uint32_t row, uint32_t tile);
static void bgemm_trits_wide(const bvt_call *call, uint32_t row, uint32_t tile, const int32_t ones[2]);

/* Which steps a chunk has: 24, which the loops of 8 divide, and a last one of up to 31. */
INLINE uint32_t chunk_steps(uint32_t left) { return left <= MOST_STEPS ? left : 24; }

/* y = (first ? k : y) - 2*count, for the first n of 16 channels. */
INLINE void flush(int16_t *y, uint8x16_t count, bool first, int32_t k, unsigned n) {
    int16_t part[16] = {0};
    if (n == 16) {
        subtract_twice(y, count, first, k);
        return;
    }
    if (!first) memcpy(part, y, n * sizeof *y);
    subtract_twice(part, count, first, k);
    memcpy(y, part, n * sizeof *y);
}

/* Eight bytes of a row in a register. The empty asm keeps GCC from loading every byte again by itself. */
INLINE uint8x8_t load8(const uint8_t *p) {
    uint8x8_t bytes = vld1_u8(p);
    __asm__("" : "+w"(bytes));
    return bytes;
}

/* R rows x one tile, of which the first n channels are there. */
INLINE void bgemm_column(const bvt_call *call, uint32_t row, uint32_t tile, unsigned n, const unsigned R, const int32_t *ones,
                         const bool trits) {
    const uint32_t k = call->in[1].cols, steps = (k + 7) / 8;
    const uint8_t *w = call->in[1].base + tile * call->in[1].stride, *x[4], *some[4] = {NULL};
    for (unsigned r = 0; r < R; r++) {
        x[r] = bvt_row_bits(&call->in[0], row + r) + bvt_bgemm_segment(call, tile);
        if (trits) some[r] = x[r] + bvt_plane(call->in[0].cols);
    }
    for (uint32_t done = 0; done < steps;) {
        const uint32_t end = done + chunk_steps(steps - done);
        uint8x16_t count[4];
        for (unsigned r = 0; r < R; r++) count[r] = vdupq_n_u8(0);
        for (uint32_t s = done; s < end; s++) {
            const uint8x16_t weight = vld1q_u8(w + 16 * (size_t)s);
            for (unsigned r = 0; r < R; r++) {
                uint8x16_t differ = veorq_u8(vld1q_dup_u8(x[r] + s), weight);
                if (trits) differ = vandq_u8(differ, vld1q_dup_u8(some[r] + s));
                count[r] = vaddq_u8(count[r], vcntq_u8(differ));
            }
        }
        for (unsigned r = 0; r < R; r++) {
            int16_t *y = (int16_t *)bvt_row(&call->out[0], row + r) + 16 * (size_t)tile;
            flush(y, count[r], done == 0, trits ? ones[r] : (int32_t)k, n);
        }
        done = end;
    }
}

static void bgemm_trits(const bvt_call *call, uint32_t row0, uint32_t row1, bool wide) {
    const uint32_t k = call->in[1].cols, groups = call->in[0].cols / k, outputs = call->out[0].cols / groups;
    for (uint32_t row = row0; row < row1; row += 2) {
        const unsigned rows = row1 - row < 2 ? 1 : 2;
        for (uint32_t first = 0; first < call->out[0].cols; first += outputs) {
            int32_t ones[2] = {0};
            for (unsigned r = 0; r < rows; r++) {
                const uint8_t *some = bvt_row_bits(&call->in[0], row + r) + bvt_plane(call->in[0].cols);
                ones[r] = count_some(some + bvt_bgemm_segment(call, first / 16), (k + 7) / 8);
            }
            uint32_t o = 0;
            for (; wide && rows == 2 && o + 16 * WIDE <= outputs; o += 16 * WIDE) bgemm_trits_wide(call, row, (first + o) / 16, ones);
            for (; o < outputs; o += 16) {
                const unsigned n = bvt_min_u32(outputs - o, 16);
                if (rows == 2) bgemm_column(call, row, (first + o) / 16, n, 2, ones, true);
                else bgemm_column(call, row, (first + o) / 16, n, 1, ones, true);
            }
        }
    }
}

static void bgemm_lanes16(const bvt_call *call, uint32_t row0, uint32_t row1) {
    const uint32_t outputs = call->out[0].cols, whole = outputs / 16, groups = call->in[0].cols / call->in[1].cols;
    if (!bvt_bgemm_tiles(call)) {
        bvt_bgemm_ref(call, row0, row1);
        return;
    }
    /* Tiles that are made together must be of one segment. */
    const bool wide = groups == 1 || outputs / groups % (16 * WIDE) == 0;
    if (call->in[0].dtype == BVT_DTYPE_TRITS) {
        bgemm_trits(call, row0, row1, wide);
        return;
    }
    uint32_t row = row0;
    for (; row + 4 <= row1; row += 4) {
        uint32_t tile = 0;
        for (; wide && tile + WIDE <= whole; tile += WIDE) bgemm_wide(call, row, tile);
        for (; tile < whole; tile++) bgemm_column(call, row, tile, 16, 4, NULL, false);
        if (outputs % 16) bgemm_column(call, row, tile, outputs % 16, 4, NULL, false);
    }
    for (; row < row1; row++) {
        for (uint32_t tile = 0; tile < whole; tile++) bgemm_column(call, row, tile, 16, 1, NULL, false);
        if (outputs % 16) bgemm_column(call, row, whole, outputs % 16, 1, NULL, false);
    }
}

#endif
