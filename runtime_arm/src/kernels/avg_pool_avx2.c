/* bvt_avg_pool_avx2: avg_pool_vf.h over the vectors of AVX2. */
#include "avg_pool_vf.h"
