/* bvt_epilogue_neon: epilogue_vf.h over the vectors of NEON. */
#include "epilogue_vf.h"
