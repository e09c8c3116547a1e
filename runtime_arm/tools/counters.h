/* Hardware counters of this process and of the threads that it starts later, where the kernel grants them. */
#ifndef BVT_COUNTERS_H
#define BVT_COUNTERS_H
#include <stdbool.h>
#include <stdint.h>

#define COUNTERS 5
typedef struct {
    const char *name; /* "cycles", "instructions", "cache_references", "cache_misses", "branch_misses" */
    int fd;           /* -1: not granted */
    uint64_t value;   /* counted in user space; of a counter that shared its place, the kernel's share is scaled up */
    double running;   /* the part of the time that it ran, 0..1 */
    char why[160];    /* why there is no value, or "" */
} counter;

/* Opens them, stopped: before the threads are started, which inherit them. */
void counters_open(counter counters[COUNTERS]);
void counters_run(counter counters[COUNTERS], bool on);
/* Reads them into `value`, `running` and `why`. */
void counters_read(counter counters[COUNTERS]);
#endif
