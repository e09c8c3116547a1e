/* A tiny test harness: CHECK counts, finish() reports. Random numbers are the same everywhere. */
#ifndef HARNESS_H
#define HARNESS_H
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned long checks, failures;

#define CHECK(condition, ...)                               \
    do {                                                    \
        checks++;                                           \
        if (!(condition) && failures++ < 20) {              \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
            fprintf(stderr, __VA_ARGS__);                   \
            fputc('\n', stderr);                            \
        }                                                   \
    } while (0)

/* SplitMix64. */
static uint64_t rng_state = 1;
static inline uint64_t rng(void) {
    uint64_t z = rng_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}
static inline uint32_t below(uint32_t n) { return (uint32_t)((rng() >> 32) * n >> 32); }
static inline uint32_t range(uint32_t from, uint32_t to) { return from + below(to - from + 1); } /* both included */

static inline int finish(const char *name) {
    printf("%s: %lu checks, %lu failures\n", name, checks, failures);
    return failures != 0;
}

#endif
