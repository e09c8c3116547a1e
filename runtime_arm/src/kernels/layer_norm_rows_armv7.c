/* bvt_layer_norm_rows_armv7: layer_norm_rows_vf.h over eight scalars of VFP. */
#include "layer_norm_rows_vf.h"
