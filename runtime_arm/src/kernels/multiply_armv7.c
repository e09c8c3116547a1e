/* bvt_multiply_armv7: multiply_vf.h over eight scalars of VFP. */
#include "multiply_vf.h"
