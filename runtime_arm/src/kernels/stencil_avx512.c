/* bvt_stencil_avx512: stencil_vf.h over the vectors of AVX-512. */
#include "stencil_vf.h"
