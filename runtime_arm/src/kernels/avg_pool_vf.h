/* avg_pool over vectors of channels. */
#include "pool_vf.h"

void VF_KERNEL(avg_pool)(const bvt_call *call, uint32_t row0, uint32_t row1) { pool_rows(call, row0, row1, false); }
