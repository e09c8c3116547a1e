/* bvt_stencil_neon: stencil_vf.h over the vectors of NEON. */
#include "stencil_vf.h"
