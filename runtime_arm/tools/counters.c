/* Counters by perf_event_open. */
#include "counters.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const names[COUNTERS] = {"cycles", "instructions", "cache_references", "cache_misses", "branch_misses"};

#if defined(__linux__)
#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

static const uint64_t events[COUNTERS] = {PERF_COUNT_HW_CPU_CYCLES, PERF_COUNT_HW_INSTRUCTIONS, PERF_COUNT_HW_CACHE_REFERENCES,
                                          PERF_COUNT_HW_CACHE_MISSES, PERF_COUNT_HW_BRANCH_MISSES};

static void explain(counter *c, int error) {
    int paranoid = 99;
    switch (error) {
    case EACCES:
    case EPERM: {
        FILE *f = fopen("/proc/sys/kernel/perf_event_paranoid", "r");
        if (f && fscanf(f, "%d", &paranoid) != 1) paranoid = 99;
        if (f) fclose(f);
        if (paranoid == 99) snprintf(c->why, sizeof c->why, "the kernel does not grant it (%s)", strerror(error));
        else
            snprintf(c->why, sizeof c->why,
                     "the kernel does not grant it: perf_event_paranoid is %d (sysctl kernel.perf_event_paranoid=2, or root)",
                     paranoid);
        return;
    }
    case ENOENT:
    case ENODEV:
    case EOPNOTSUPP: snprintf(c->why, sizeof c->why, "this CPU, or the virtual machine that it is in, does not count it"); return;
    case ENOSYS: snprintf(c->why, sizeof c->why, "the kernel has no perf events, or an emulator stands in for it"); return;
    default: snprintf(c->why, sizeof c->why, "perf_event_open: %s", strerror(error));
    }
}

void counters_open(counter counters[COUNTERS]) {
    for (int i = 0; i < COUNTERS; i++) {
        counter *c = &counters[i];
        *c = (counter){.name = names[i]};
        struct perf_event_attr attr = {.type = PERF_TYPE_HARDWARE, .size = sizeof attr, .config = events[i]};
        attr.disabled = 1;
        attr.inherit = 1;
        attr.exclude_kernel = 1; /* what an ordinary user may count */
        attr.exclude_hv = 1;
        attr.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
        c->fd = (int)syscall(SYS_perf_event_open, &attr, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
        if (c->fd < 0) explain(c, errno);
    }
}

void counters_run(counter counters[COUNTERS], bool on) {
    for (int i = 0; i < COUNTERS; i++)
        if (counters[i].fd >= 0) ioctl(counters[i].fd, on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0);
}

void counters_read(counter counters[COUNTERS]) {
    for (int i = 0; i < COUNTERS; i++) {
        counter *c = &counters[i];
        uint64_t got[3] = {0}; /* value, ns enabled, ns running */
        if (c->fd < 0) continue;
        if (read(c->fd, got, sizeof got) != (ssize_t)sizeof got) {
            snprintf(c->why, sizeof c->why, "it cannot be read: %s", strerror(errno));
        } else if (!got[2]) {
            snprintf(c->why, sizeof c->why, "it never ran: it belongs to other cores, or another program holds it");
        } else {
            c->running = (double)got[2] / (double)got[1];
            c->value = got[1] == got[2] ? got[0] : (uint64_t)((double)got[0] / c->running);
        }
        close(c->fd);
        c->fd = -1;
    }
}
#else
void counters_open(counter counters[COUNTERS]) {
    for (int i = 0; i < COUNTERS; i++) {
        counters[i] = (counter){.name = names[i], .fd = -1};
        snprintf(counters[i].why, sizeof counters[i].why, "counters are read on Linux only");
    }
}

void counters_run(counter counters[COUNTERS], bool on) { (void)counters, (void)on; }

void counters_read(counter counters[COUNTERS]) { (void)counters; }
#endif
