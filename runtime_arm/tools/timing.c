/* Timed runs: the protocol is told in timing.h. */
#include "timing.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000u
enum { WINDOW_RUNS = 3, WINDOWS = 3, LEAST_WARMUP = 12, LEAST_RUNS = 20, MOST_RUNS = 500 };
static const uint64_t window_ns = 100 * MS, give_up_ns = 3000 * MS, timed_ns = 2000 * MS, look_ns = 500 * MS, short_ns = 20 * MS;
static const double tolerance = 0.03;

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void *allocate(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) fputs("bvt_run: out of memory\n", stderr), exit(2);
    return p;
}

/* Room for one more element. */
static void *grow(void *array, size_t n, size_t *room, size_t size) {
    if (n < *room) return array;
    *room = *room ? 2 * *room : 64;
    array = realloc(array, *room * size);
    if (!array) fputs("bvt_run: out of memory\n", stderr), exit(2);
    return array;
}

static void add_sample(samples *s, uint64_t ns) {
    s->ns = grow(s->ns, s->n, &s->room, sizeof *s->ns);
    s->ns[s->n++] = ns;
}

static int compare(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

uint64_t median_ns(const uint64_t *ns, size_t n) {
    uint64_t *sorted = allocate(n, sizeof *sorted);
    memcpy(sorted, ns, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare);
    const uint64_t median = n ? (sorted[(n - 1) / 2] + sorted[n / 2]) / 2 : 0;
    free(sorted);
    return median;
}

/* ---- Warm-up ------------------------------------------------------------------------------------------------------------- */

static uint64_t timed_run(bvt_session *session, const float *input, float *output) {
    const uint64_t start = now_ns();
    bvt_run(session, input, output);
    return now_ns() - start;
}

static bool alike(const uint64_t medians[WINDOWS]) {
    uint64_t low = medians[0], high = medians[0];
    for (int i = 1; i < WINDOWS; i++) {
        low = medians[i] < low ? medians[i] : low;
        high = medians[i] > high ? medians[i] : high;
    }
    return (double)(high - low) <= tolerance * (double)low;
}

/* Returns the pace it ended at: the median of the last window, or of all runs where their number was given. */
static uint64_t warm_up(bvt_session *session, const float *input, float *output, long runs, timing *t) {
    samples *s = &t->warmup;
    t->settled = true;
    if (runs != TIMING_AUTO) {
        for (long i = 0; i < runs; i++) add_sample(s, timed_run(session, input, output));
        return median_ns(s->ns, s->n);
    }
    uint64_t medians[WINDOWS] = {0}, total = 0;
    for (size_t windows = 1;; windows++) {
        const size_t first = s->n;
        for (uint64_t spent = 0; spent < window_ns || s->n - first < WINDOW_RUNS;) {
            const uint64_t ns = timed_run(session, input, output);
            add_sample(s, ns);
            spent += ns;
            total += ns;
        }
        memmove(medians, medians + 1, sizeof medians - sizeof *medians);
        medians[WINDOWS - 1] = median_ns(s->ns + first, s->n - first);
        if (windows >= WINDOWS && alike(medians)) break;
        if (total > give_up_ns && s->n >= LEAST_WARMUP) {
            t->settled = false;
            break;
        }
    }
    return medians[WINDOWS - 1];
}

/* ---- What the machine does ----------------------------------------------------------------------------------------------- */

static void read_line(const char *path, char *line, size_t room) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t n = fd < 0 ? -1 : read(fd, line, room - 1); /* some zones answer EAGAIN */
    if (fd >= 0) close(fd);
    line[n > 0 ? n : 0] = 0;
    line[strcspn(line, "\r\n")] = 0;
}

/* Calls `each` with a file of every thread of this process. */
static void each_thread(const char *name, void (*each)(void *user, const char *text), void *user) {
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *e; tasks && (e = readdir(tasks));) {
        char path[300], text[600];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/%s", e->d_name, name);
        read_line(path, text, sizeof text);
        if (*text) each(user, text);
    }
    if (tasks) closedir(tasks);
}

static void add_wait(void *user, const char *text) { /* schedstat: ns on a core, ns waiting for one, time slices */
    uint64_t *waited = user;
    unsigned long long wait;
    if (sscanf(text, "%*u %llu", &wait) == 1) *waited = (*waited == UINT64_MAX ? 0 : *waited) + wait;
}

static void see_core(void *user, const char *text) { /* stat: pid (name) state ...; the core is field 39 */
    timing *t = user;
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 39; field++) at = strchr(at + 1, ' ');
    const unsigned long core = at ? strtoul(at, NULL, 10) : 1024;
    if (core < sizeof t->core_seen / sizeof *t->core_seen) t->core_seen[core] = true;
}

static thread_usage usage_now(void) {
    struct rusage r;
    thread_usage u = {.waited_ns = UINT64_MAX};
    each_thread("schedstat", add_wait, &u.waited_ns);
    if (getrusage(RUSAGE_SELF, &r)) return u;
    u.user_ns = (uint64_t)r.ru_utime.tv_sec * 1000000000u + (uint64_t)r.ru_utime.tv_usec * 1000u;
    u.system_ns = (uint64_t)r.ru_stime.tv_sec * 1000000000u + (uint64_t)r.ru_stime.tv_usec * 1000u;
    u.preempted = (uint64_t)r.ru_nivcsw, u.yielded = (uint64_t)r.ru_nvcsw;
    u.page_faults = (uint64_t)r.ru_minflt, u.major_faults = (uint64_t)r.ru_majflt;
    return u;
}

static void add_usage(thread_usage *sum, thread_usage from, thread_usage to) {
    sum->user_ns += to.user_ns - from.user_ns;
    sum->system_ns += to.system_ns - from.system_ns;
    if (from.waited_ns == UINT64_MAX || to.waited_ns == UINT64_MAX) sum->waited_ns = UINT64_MAX;
    else if (sum->waited_ns != UINT64_MAX) sum->waited_ns += to.waited_ns - from.waited_ns;
    sum->preempted += to.preempted - from.preempted;
    sum->yielded += to.yielded - from.yielded;
    sum->page_faults += to.page_faults - from.page_faults;
    sum->major_faults += to.major_faults - from.major_faults;
}

static void take_look(timing *t, const timing_options *o, uint64_t start) {
    each_thread("stat", see_core, t);
    if (!o->n_watch) return;
    t->looks = grow(t->looks, t->n_looks, &t->room_looks, sizeof *t->looks);
    look *l = &t->looks[t->n_looks++];
    *l = (look){.at_ns = now_ns() - start, .run = t->timed.n, .values = allocate(o->n_watch, sizeof *l->values)};
    for (size_t i = 0; i < o->n_watch; i++) read_line(o->watch[i], l->values[i], sizeof l->values[i]);
}

/* ---- Timed runs ---------------------------------------------------------------------------------------------------------- */

void time_runs(bvt_session *session, uint32_t n_ops, const float *input, float *output, const timing_options *o, timing *t) {
    const uint64_t pace = warm_up(session, input, output, o->warmup, t);
    size_t runs = o->runs > 0 ? (size_t)o->runs : LEAST_RUNS;
    if (o->runs == TIMING_AUTO && pace) {
        runs = (size_t)(timed_ns / pace);
        runs = runs < LEAST_RUNS ? LEAST_RUNS : runs > MOST_RUNS ? MOST_RUNS : runs;
    }
    const size_t blocks = runs < TIMING_BLOCKS ? runs : TIMING_BLOCKS;
    uint64_t *sums = o->profile ? allocate(n_ops, sizeof *sums) : NULL;
    if (sums) t->block_ops = allocate(blocks * n_ops, sizeof *t->block_ops);
    const uint64_t start = now_ns();
    take_look(t, o, start);
    if (o->n_watch) bvt_run(session, input, output); /* what a look costs the caches is not the first run's to pay */
    bvt_profile_reset(session);
    uint64_t looked = now_ns();
    thread_usage from = usage_now();
    if (o->counters) counters_run(o->counters, true);
    for (size_t i = 0; i < runs; i++) {
        const uint64_t ns = timed_run(session, input, output);
        add_sample(&t->timed, ns);
        if (sums && (i + 1) * blocks / runs > t->n_blocks) { /* the op times of this block: what came since the last */
            uint64_t *block = t->block_ops + t->n_blocks * n_ops;
            t->block_end[t->n_blocks++] = i + 1;
            bvt_profile_get(session, block, NULL);
            for (uint32_t op = 0; op < n_ops; op++) {
                const uint64_t sum = block[op];
                block[op] -= sums[op];
                sums[op] = sum;
            }
        }
        if (o->profile || !o->n_watch || i + 1 == runs || now_ns() - looked < look_ns) continue;
        if (o->counters) counters_run(o->counters, false);
        add_usage(&t->used, from, usage_now());
        take_look(t, o, start);
        if (ns < short_ns) bvt_run(session, input, output);
        looked = now_ns();
        from = usage_now();
        if (o->counters) counters_run(o->counters, true);
    }
    if (o->counters) counters_run(o->counters, false);
    add_usage(&t->used, from, usage_now());
    take_look(t, o, start);
    free(sums);
}

void timing_free(timing *t) {
    for (size_t i = 0; i < t->n_looks; i++) free(t->looks[i].values);
    free(t->looks);
    free(t->warmup.ns);
    free(t->timed.ns);
    free(t->block_ops);
}
