/* attention for x86-64 with AVX2 and POPCNT: one query at a time, the compiler vectorises what is not a popcount. */
#include "attention_rows.h"

void bvt_attention_avx2(const bvt_call *call, uint32_t row0, uint32_t row1) { attention_rows(call, row0, row1); }
