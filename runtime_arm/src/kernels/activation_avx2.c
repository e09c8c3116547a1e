/* bvt_activation_avx2: activation_vf.h over the vectors of AVX2. */
#include "activation_vf.h"
