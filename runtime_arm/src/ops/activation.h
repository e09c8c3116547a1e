/* What the kernels of `activation` share. */
#ifndef BVT_OPS_ACTIVATION_H
#define BVT_OPS_ACTIVATION_H
#include "../internal.h"

enum { BVT_ACTIVATION_GELU, BVT_ACTIVATION_CLAMP, BVT_ACTIVATION_SIGN };

/* The polynomial of the GELU, lowest power first; bvtdeploy/ops/activation.py has the same numbers. */
#define BVT_GELU_TERMS 15
#define BVT_GELU_LIMIT 5.25f
#define BVT_GELU_SCALE ((float)(2 / (5.25 * 5.25)))
static const float bvt_gelu_terms[BVT_GELU_TERMS] = {
    0.13465935f, -0.067126818f, 0.0496457964f, -0.0397632606f, 0.0320311934f,
    -0.0250434484f, 0.01854074f, -0.0127689689f, 0.00840991549f, -0.00546097429f,
    0.00290730875f, -0.0010278417f, 0.000651198614f, -0.00066075736f, 0.000244657625f,
};

#endif
