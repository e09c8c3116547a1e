/* bvt_mean_rows_armv7: mean_rows_vf.h over eight scalars of VFP. */
#include "mean_rows_vf.h"
