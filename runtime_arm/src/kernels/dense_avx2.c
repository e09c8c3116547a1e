/* bvt_dense_avx2: dense_vf.h over the vectors of AVX2. */
#include "dense_vf.h"
