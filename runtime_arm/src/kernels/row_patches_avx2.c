/* bvt_row_patches_avx2: row_patches_bytes.h for AVX2. */
#define ROW_PATCHES_KERNEL bvt_row_patches_avx2
#include "row_patches_bytes.h"
