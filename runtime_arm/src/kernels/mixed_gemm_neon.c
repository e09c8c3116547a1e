/* bvt_mixed_gemm_neon: mixed_gemm_vf.h over the vectors of NEON. */
#include "mixed_gemm_vf.h"
