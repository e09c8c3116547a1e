/* Which operands an epilogue has, as a bit set over its input slots, and its steps for kernels that know the set when they are
 * compiled: then all tests on it vanish. Every kernel has code for sets that compiled models have, and for one that is only known at
 * run time.
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
    BENT = SLOPE | 1 << BVT_EP_KNEE,
    POST = 1 << BVT_EP_POST,
    SCALE2 = 1 << BVT_EP_SCALE2,
    AFFINE2 = SCALE2 | 1 << BVT_EP_SHIFT2,
};
/* Beside the operands of a form: out[0] has the means of n = 2, 4 or 8 channels, or, 0, the channels themselves. */
#define POOL(n) ((unsigned)(n) << 26)
static inline unsigned form_of(unsigned set, unsigned pool) { return pool == 1 ? set : set | POOL(pool); }
static inline unsigned set_of(unsigned form) { return form & (POOL(1) - 1); }
static inline unsigned pool_of(unsigned form) { return form & POOL(14) ? form / POOL(1) & 14 : 1; }

/* The steps of ops/epilogue.c on v, which stand here once for all kernels. The kernel defines, for its vectors: HAS(operand),
 * PARAM(operand), RESIDUAL(slot), MULTIPLY_ADD(a, b, c), MULTIPLY(a, b), ADD(a, b) and PRELU(v). No loop over slots: in one that is
 * not unrolled HAS would be no constant. */
#define EPILOGUE_AFFINE(v, scale, slot)                                                                                            \
    if (HAS(scale) && HAS((scale) + 1)) v = MULTIPLY_ADD(v, PARAM(scale), PARAM((scale) + 1));                                     \
    else if (HAS(scale) && HAS(BVT_EP_RES0 + (slot))) v = MULTIPLY_ADD(v, PARAM(scale), RESIDUAL(slot));                           \
    else if (HAS(scale)) v = MULTIPLY(v, PARAM(scale));                                                                            \
    else if (HAS((scale) + 1)) v = ADD(v, PARAM((scale) + 1));                                                                     \
    if (HAS(BVT_EP_RES0 + (slot)) && (HAS((scale) + 1) || !HAS(scale))) v = ADD(v, RESIDUAL(slot));                                \
    if (HAS(BVT_EP_RES0 + (slot) + 1)) v = ADD(v, RESIDUAL((slot) + 1));                                                           \
    if (HAS(BVT_EP_RES0 + (slot) + 2)) v = ADD(v, RESIDUAL((slot) + 2));
#define EPILOGUE_STEPS(v)                                   \
    EPILOGUE_AFFINE(v, BVT_EP_SCALE, 0)                     \
    if (HAS(BVT_EP_SLOPE)) v = PRELU(v);                    \
    if (HAS(BVT_EP_POST)) v = ADD(v, PARAM(BVT_EP_POST));   \
    EPILOGUE_AFFINE(v, BVT_EP_SCALE2, 3)

/* The forms that compiled models have. Other outputs and thresholds are not among them, they are tested at run time. */
#define COMMON_FORMS(X)                                      \
    X(0)                                                     \
    X(RES0)                                                  \
    X(SCALE)                                                 \
    X(SCALE | RES0)                                          \
    X(AFFINE)                                                \
    X(AFFINE | RES0)                                         \
    X(AFFINE | SLOPE)                                        \
    X(AFFINE | SLOPE | POST_RES0 | POST_RES1)                \
    X(SCALE | RES0 | BENT)                                   \
    X(SCALE | RES0 | RES1 | BENT)                            \
    X(SCALE | RES0 | RES1 | RES2 | BENT | POST)              \
    X(SCALE | RES0 | BENT | POST_RES0)                       \
    X(SCALE | RES0 | BENT | SCALE2 | POST_RES0)              \
    X(SCALE | RES0 | BENT | SCALE2 | POST_RES0 | POST_RES1)  \
    X(SCALE | RES0 | BENT | AFFINE2 | POST_RES0 | POST_RES1) \
    X(SCALE | RES0 | BENT | POOL(4))                         \
    X(SCALE | RES0 | BENT | POOL(8))

#endif
