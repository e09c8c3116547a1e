/* bvt_norm_sign_armv7: norm_sign_vf.h over eight scalars of VFP. */
#include "norm_sign_vf.h"
