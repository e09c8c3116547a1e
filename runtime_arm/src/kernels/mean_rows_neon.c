/* bvt_mean_rows_neon: mean_rows_vf.h over the vectors of NEON. */
#include "mean_rows_vf.h"
