/* Timed runs of one session, and what the machine did meanwhile.
 *
 * Warm-up, `auto`: runs are taken in windows of at least 0.1 s and 3 runs, until the medians of three windows in a row differ by at
 * most 3 %. It gives up after 3 s (and 12 runs at least): then `settled` is false, and the samples are for whoever judges them.
 * Runs, `auto`: as many as take about 2 s at the pace of the last window; from 20 to 500.
 * Looks: the files to watch are read before the first timed run, after the last, and in between every 0.5 s: never within a timed
 * run. Where runs are short, an untimed one follows each look, so that no sample pays for what the look pushed out of the caches. */
#ifndef BVT_TIMING_H
#define BVT_TIMING_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bvt.h"
#include "counters.h"

enum { TIMING_AUTO = -1, TIMING_BLOCKS = 20, TIMING_VALUE = 32 };

typedef struct {
    uint64_t *ns;
    size_t n, room;
} samples;

typedef struct {
    uint64_t at_ns; /* since the first look */
    size_t run;     /* timed runs that came before */
    char (*values)[TIMING_VALUE]; /* the first line of each file, "" where it cannot be read */
} look;

typedef struct {
    uint64_t user_ns, system_ns; /* CPU time of all threads */
    uint64_t waited_ns;          /* what the threads wanted to run and had to wait for a core; UINT64_MAX: not told */
    uint64_t preempted, yielded; /* involuntary and voluntary context switches */
    uint64_t page_faults, major_faults;
} thread_usage;

typedef struct {
    samples warmup, timed;
    bool settled; /* of an automatic warm-up */
    thread_usage used;   /* during the timed runs */
    look *looks;
    size_t n_looks, room_looks;
    bool core_seen[1024];     /* by number: one of the threads was on it, at a look or at the end */
    size_t n_blocks;          /* of a profiled session: the timed runs in at most TIMING_BLOCKS parts, ... */
    size_t block_end[TIMING_BLOCKS]; /* ... the run after the last of each, */
    uint64_t *block_ops;      /* and the ns of every op in it: [n_blocks][n_ops] */
} timing;

typedef struct {
    long runs, warmup; /* or TIMING_AUTO */
    const char *const *watch;
    size_t n_watch;
    counter *counters; /* [COUNTERS], opened, or NULL */
    bool profile;
} timing_options;

uint64_t now_ns(void);
/* Memory that is zero; the program ends where there is none. */
void *allocate(size_t count, size_t size);
uint64_t median_ns(const uint64_t *ns, size_t n);

/* Times `session` on one input. */
void time_runs(bvt_session *session, uint32_t n_ops, const float *input, float *output, const timing_options *options, timing *t);
void timing_free(timing *t);
#endif
