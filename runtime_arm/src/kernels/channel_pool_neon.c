/* bvt_channel_pool_neon: channel_pool_vf.h over the vectors of NEON. */
#include "channel_pool_vf.h"
