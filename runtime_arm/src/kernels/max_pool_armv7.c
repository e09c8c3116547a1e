/* bvt_max_pool_armv7: max_pool_vf.h over eight scalars of VFP. */
#include "max_pool_vf.h"
