/* bvt_max_pool_neon: max_pool_vf.h over the vectors of NEON. */
#include "max_pool_vf.h"
