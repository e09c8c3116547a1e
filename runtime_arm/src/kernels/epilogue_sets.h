/* Which operands an epilogue has, as a bit set over its input slots. The vector kernels are compiled once for every set in COMMON_SETS,
 * where all tests on it vanish, and once for a set that is only known at run time.
 */
#ifndef BVT_EPILOGUE_SETS_H
#define BVT_EPILOGUE_SETS_H
#include "../ops/epilogue.h"

enum {
    RES0 = 1 << BVT_EP_RES0,
    RES1 = 1 << (BVT_EP_RES0 + 1),
    RES2 = 1 << (BVT_EP_RES0 + 2),
    POST_RES0 = 1 << BVT_EP_POST_RES0,
    POST_RES1 = 1 << (BVT_EP_POST_RES0 + 1),
    SCALE = 1 << BVT_EP_SCALE,
    AFFINE = SCALE | 1 << BVT_EP_SHIFT,
    SLOPE = 1 << BVT_EP_SLOPE,
    POST = 1 << BVT_EP_POST,
    AFFINE2 = 1 << BVT_EP_SCALE2 | 1 << BVT_EP_SHIFT2,
};
/* The sets that compiled models have. Outputs and thresholds are not among them, they are tested at run time. */
#define COMMON_SETS(X)                             \
    X(0)                                           \
    X(RES0)                                        \
    X(SCALE)                                       \
    X(SCALE | RES0)                                \
    X(AFFINE)                                      \
    X(AFFINE | RES0)                               \
    X(AFFINE | SLOPE | POST)                       \
    X(AFFINE | SLOPE | POST_RES0 | POST_RES1)      \
    X(AFFINE | RES0 | SLOPE)                       \
    X(AFFINE | RES0 | SLOPE | POST)                \
    X(AFFINE | RES0 | RES1 | SLOPE)                \
    X(AFFINE | RES0 | RES1 | RES2 | SLOPE | POST)  \
    X(AFFINE | RES0 | SLOPE | POST_RES0)           \
    X(AFFINE | RES0 | SLOPE | AFFINE2 | POST_RES0) \
    X(AFFINE | RES0 | SLOPE | AFFINE2 | POST_RES0 | POST_RES1)

#endif
