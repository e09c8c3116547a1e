/* bvt_mixed_gemm_armv7: mixed_gemm_vf.h over eight scalars of VFP. */
#include "mixed_gemm_vf.h"
