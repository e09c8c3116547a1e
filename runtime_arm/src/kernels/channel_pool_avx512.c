/* bvt_channel_pool_avx512: channel_pool_vf.h over the vectors of AVX-512. */
#include "channel_pool_vf.h"
