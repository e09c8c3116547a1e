/* bvt_dense_avx512: dense_vf.h over the vectors of AVX-512. */
#include "dense_vf.h"
