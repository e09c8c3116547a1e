/* bvt_activation_armv7: activation_vf.h over eight scalars of VFP. */
#include "activation_vf.h"
