/* bvt_layer_norm_rows_neon: layer_norm_rows_vf.h over the vectors of NEON. */
#include "layer_norm_rows_vf.h"
