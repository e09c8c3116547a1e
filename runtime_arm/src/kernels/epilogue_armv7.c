/* bvt_epilogue_armv7: epilogue_vf.h over eight scalars of VFP. */
#include "epilogue_vf.h"
