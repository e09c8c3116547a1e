/* bvt_avg_pool_armv7: avg_pool_vf.h over eight scalars of VFP. */
#include "avg_pool_vf.h"
