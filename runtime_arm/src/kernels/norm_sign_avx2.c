/* bvt_norm_sign_avx2: norm_sign_vf.h over the vectors of AVX2. */
#include "norm_sign_vf.h"
