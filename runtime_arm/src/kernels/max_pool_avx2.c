/* bvt_max_pool_avx2: max_pool_vf.h over the vectors of AVX2. */
#include "max_pool_vf.h"
