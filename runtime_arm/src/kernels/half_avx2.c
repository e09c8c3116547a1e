/* bvt_*_half_avx2: half_vf.h over the vectors of AVX2, with the conversions of F16C. */
#include "half_vf.h"
