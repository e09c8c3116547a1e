/* bvt_multiply_neon: multiply_vf.h over the vectors of NEON. */
#include "multiply_vf.h"
