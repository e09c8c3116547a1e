/* bvt_channel_pool_avx2: channel_pool_vf.h over the vectors of AVX2. */
#include "channel_pool_vf.h"
