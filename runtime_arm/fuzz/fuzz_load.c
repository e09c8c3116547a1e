/* libFuzzer target; seeds: any small .bvt files. The checksums are switched off, so that mutations get behind them.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -D_GNU_SOURCE -DBVT_FUZZ_WITHOUT_CRC -ffp-contract=off -mavx2 -mfma -mpopcnt \
 *         -Iinclude fuzz/fuzz_load.c src/[a-z]*.c src/ops/[a-z]*.c src/kernels/[a-z]*_avx2.c -pthread -lm -o fuzz_load
 *     ./fuzz_load -max_len=65536 -malloc_limit_mb=512 CORPUS          (on aarch64: *_neon.c, and no -m flags)
 */
#include "fuzz_load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    fuzz_one(data, bytes);
    return 0;
}
