/* bvt_channel_pool_armv7: channel_pool_vf.h over eight scalars of VFP. */
#include "channel_pool_vf.h"
