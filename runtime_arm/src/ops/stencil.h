/* What the kernels of `stencil` share. */
#ifndef BVT_OPS_STENCIL_H
#define BVT_OPS_STENCIL_H
#include "../internal.h"

#define BVT_STENCIL_TAPS 16

/* The taps that count at `row`, in order: source[i] is the row of x that tap[i] multiplies (in fp16
 * both are rows of F16). Returns how many. */
unsigned bvt_stencil_sources(const bvt_call *call, uint32_t row, const float **source, const float **tap);

#endif
