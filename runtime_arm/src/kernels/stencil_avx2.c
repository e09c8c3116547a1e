/* bvt_stencil_avx2: stencil_vf.h over the vectors of AVX2. */
#include "stencil_vf.h"
