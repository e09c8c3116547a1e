/* bvt_dense_neon: dense_vf.h over the vectors of NEON. */
#include "dense_vf.h"
