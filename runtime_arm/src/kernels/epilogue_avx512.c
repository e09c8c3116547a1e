/* bvt_epilogue_avx512: epilogue_vf.h over the vectors of AVX-512. */
#include "epilogue_vf.h"
