/* bvt_avg_pool_neon: avg_pool_vf.h over the vectors of NEON. */
#include "avg_pool_vf.h"
