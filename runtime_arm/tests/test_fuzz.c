/* Thousands of damaged files, with checksums switched off (load.c is compiled with BVT_FUZZ_WITHOUT_CRC for this program): the
 * loader must refuse them or the runtime must run them, and the sanitizers must stay silent. */
#include "../fuzz/fuzz_load.h"

#include "sample.h"

int main(int argc, char **argv) {
    const unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 6000;
    size_t bytes;
    uint8_t *good = sample_model(&bytes, 8), *bad = malloc(bytes);
    unsigned long accepted = 0;
    CHECK(fuzz_one(good, bytes), "the sample itself is refused");
    /* Where the structure is: everything but the constants and the golden numbers. */
    const uint8_t *constants = sample_section(good, BVT_SECTION_CONSTANTS), *golden = sample_section(good, BVT_SECTION_GOLDEN);
    const size_t table_end = 64 + 9 * 32, constants_at = (size_t)(constants - good), golden_at = (size_t)(golden - good);
    for (unsigned long i = 0; i < rounds; i++) {
        rng_state = i;
        memcpy(bad, good, bytes);
        for (uint32_t n = range(1, 3); n > 0; n--) {
            size_t at = below(10) ? table_end + below((uint32_t)(constants_at - table_end)) : below((uint32_t)bytes);
            if (at > golden_at && below(2)) at = below((uint32_t)table_end);
            if (!below(16)) at = golden_at + below(2 * sizeof(bvt_rec_golden));
            switch (below(5)) {
            case 0: bad[at] ^= (uint8_t)(1u << below(8)); break;
            case 1: bad[at] = (uint8_t)rng(); break;
            case 2: bad[at] = (uint8_t)(bad[at] + (below(2) ? 1 : -1)); break;
            case 3: { /* a number of the kind that breaks arithmetic */
                static const uint32_t extreme[] = {0, 1, 7, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFC0, 1 << 24, 64};
                memcpy(bad + at / 4 * 4, &extreme[below(10)], 4);
                break;
            }
            default: { /* a copy of another word */
                const size_t from = below((uint32_t)constants_at) / 4 * 4;
                memcpy(bad + at / 4 * 4, good + from, 4);
            }
            }
        }
        accepted += (unsigned long)fuzz_one(bad, below(8) ? bytes : below((uint32_t)bytes) + 1);
        checks++;
    }
    printf("test_fuzz: %lu of %lu damaged files were accepted and run\n", accepted, rounds);
    CHECK(rounds < 1000 || accepted > rounds / 100, "hardly any mutation gets past the loader: the test tests nothing");
    free(good);
    free(bad);
    return finish("test_fuzz");
}
