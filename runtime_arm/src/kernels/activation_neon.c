/* bvt_activation_neon: activation_vf.h over the vectors of NEON. */
#include "activation_vf.h"
