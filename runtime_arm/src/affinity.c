/* Which cores threads run on. */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#include "internal.h"

#if defined(__linux__)
/* The number in a file of one line, or 0. */
static unsigned long read_number(const char *root, unsigned cpu, const char *name) {
    char path[256];
    unsigned long value = 0;
    if (snprintf(path, sizeof path, "%s/cpu%u/%s", root, cpu, name) >= (int)sizeof path) return 0;
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    if (fscanf(f, "%lu", &value) != 1) value = 0;
    fclose(f);
    return value;
}

/* How fast a core is, against the others: the kernel's relative capacity, else the highest clock, else 0. */
static unsigned long speed(const char *root, unsigned cpu) {
    const unsigned long capacity = read_number(root, cpu, "cpu_capacity");
    return capacity ? capacity : read_number(root, cpu, "cpufreq/cpuinfo_max_freq");
}

/* Leaves in `set` its cores of the kinds that come first, the fastest or (with `slow`) the slowest, down to the kind at which they
 * are enough for `threads`. Everything stays where cores are too few or nothing is known of them. */
static void choose_cpus(const char *root, uint32_t threads, bool slow, cpu_set_t *set) {
    unsigned long ranks[CPU_SETSIZE] = {0}, rank = 0; /* the higher, the sooner it is taken; 0: unknown */
    uint32_t chosen = 0;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        const unsigned long s = CPU_ISSET(cpu, set) ? speed(root, cpu) : 0;
        ranks[cpu] = !s ? 0 : slow ? ULONG_MAX - s : s;
    }
    for (unsigned long below = 0; chosen < threads;) {
        rank = 0;
        for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, set) && (!below || ranks[cpu] < below) && ranks[cpu] > rank) rank = ranks[cpu];
        if (!rank) return;
        for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) chosen += CPU_ISSET(cpu, set) && ranks[cpu] == rank;
        below = rank;
    }
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, set) && ranks[cpu] < rank) CPU_CLR(cpu, set);
}

void bvt_fast_cpus(const char *root, uint32_t threads, cpu_set_t *set) { choose_cpus(root, threads, false, set); }

void bvt_slow_cpus(const char *root, uint32_t threads, cpu_set_t *set) { choose_cpus(root, threads, true, set); }

/* A list such as "0-3,6". */
static bool parse_list(const char *text, cpu_set_t *set) {
    CPU_ZERO(set);
    for (;;) {
        unsigned long range[2];
        for (int i = 0; i < 2; i++) {
            char *end;
            if (*text < '0' || *text > '9') return false;
            range[i] = strtoul(text, &end, 10);
            text = end;
            if (range[i] >= CPU_SETSIZE) return false;
            if (i == 0 && *text != '-') {
                range[1] = range[0];
                break;
            }
            if (i == 0) text++;
        }
        for (unsigned long cpu = range[0]; cpu <= range[1]; cpu++) CPU_SET(cpu, set);
        if (range[1] < range[0]) return false;
        if (!*text) return true;
        if (*text++ != ',') return false;
    }
}

int bvt_use_cpus(const char *cpus, uint32_t threads, bvt_error *err) {
    cpu_set_t set, wanted;
    if (!cpus) return bvt_fail(err, BVT_E_ARGUMENT, "cpus: no list of cores");
    if (sched_getaffinity(0, sizeof set, &set)) return bvt_fail(err, BVT_E_UNSUPPORTED, "cpus: %s", strerror(errno));
    if (!strcmp(cpus, "fast") || !strcmp(cpus, "slow")) {
        choose_cpus("/sys/devices/system/cpu", threads, cpus[0] == 's', &set);
    } else if (strcmp(cpus, "all")) {
        if (!parse_list(cpus, &wanted))
            return bvt_fail(err, BVT_E_ARGUMENT, "cpus: '%.60s' is neither 'fast', 'slow', 'all' nor a list such as 0-3,6", cpus);
        CPU_AND(&set, &set, &wanted);
        if (!CPU_EQUAL(&set, &wanted)) return bvt_fail(err, BVT_E_ARGUMENT, "cpus: this process has not all of '%.60s'", cpus);
    }
    if (sched_setaffinity(0, sizeof set, &set)) return bvt_fail(err, BVT_E_UNSUPPORTED, "cpus: %s", strerror(errno));
    return BVT_OK;
}

long bvt_usable_cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 0 : CPU_COUNT(&set);
}
#else
int bvt_use_cpus(const char *cpus, uint32_t threads, bvt_error *err) {
    (void)cpus, (void)threads;
    return bvt_fail(err, BVT_E_UNSUPPORTED, "cpus: cores can be chosen on Linux only");
}

long bvt_usable_cpus(void) { return 0; }
#endif
