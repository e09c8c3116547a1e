/* bvt_mixed_gemm_avx2: mixed_gemm_vf.h over the vectors of AVX2. */
#include "mixed_gemm_vf.h"
