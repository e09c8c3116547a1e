/* bvt_mean_rows_avx2: mean_rows_vf.h over the vectors of AVX2. */
#include "mean_rows_vf.h"
