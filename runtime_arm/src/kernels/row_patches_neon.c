/* bvt_row_patches_neon: row_patches_bytes.h for NEON. */
#define ROW_PATCHES_KERNEL bvt_row_patches_neon
#include "row_patches_bytes.h"
