/* bvt_layer_norm_rows_avx2: layer_norm_rows_vf.h over the vectors of AVX2. */
#include "layer_norm_rows_vf.h"
