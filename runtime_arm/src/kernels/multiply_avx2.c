/* bvt_multiply_avx2: multiply_vf.h over the vectors of AVX2. */
#include "multiply_vf.h"
