/* The float arithmetic that every kernel shares; bvtdeploy/ops/numerics.py is the same in numpy.
 *
 * - a*b + c is two roundings, bvt_fma(a, b, c) one. The build has -ffp-contract=off, so nothing else is ever fused.
 * - Sums are taken in the order that the op's file says.
 * - A comparison with NaN is false.
 */
#ifndef BVT_NUMERICS_H
#define BVT_NUMERICS_H
#include <math.h>

/* round32(a*b + c): one instruction where the target has it, the C library's exact emulation elsewhere. */
static inline float bvt_fma(float a, float b, float c) { return fmaf(a, b, c); }

/* 1/n rounded to fp32: means are sums times this. */
static inline float bvt_reciprocal(unsigned n) { return (float)(1.0 / (double)n); }

#endif
