/* bvt_stencil_armv7: stencil_vf.h over eight scalars of VFP. */
#include "stencil_vf.h"
