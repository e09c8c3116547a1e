/* bvt_epilogue_avx2: epilogue_vf.h over the vectors of AVX2. */
#include "epilogue_vf.h"
