/* The thread pool: epochs and barriers that spin for a short while, then sleep.
 *
 * A group of ops lasts tens to hundreds of microseconds, so waiting threads spin for about that long before they go to sleep on
 * the condition variable. Where spinning does not help, since other programs have the cores and the thread that is waited for may
 * even want this one's, a thread learns to go to sleep soon. Everything that is waited for is a counter that only grows (modulo
 * 2^32).
 */
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "internal.h"

#define MOST_SPINS 4000u
#define LEAST_SPINS 64u

struct bvt_pool {
    uint32_t threads, started;
    bool spin;
    atomic_uint epoch;      /* runs that were started */
    atomic_uint generation; /* barriers that were passed */
    atomic_uint arrived;    /* threads that wait at the current barrier */
    bool quit;              /* read after a new epoch was seen */
    void (*work)(void *arg, uint32_t thread);
    void *arg;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct bvt_worker {
        bvt_pool *pool;
        uint32_t index;
        unsigned spins; /* its own budget */
        pthread_t thread;
    } workers[]; /* [threads]; of 0, which the caller is, only the budget */
};

size_t bvt_pool_bytes(uint32_t threads) { return sizeof(bvt_pool) + threads * sizeof(struct bvt_worker); }

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* Waits until *counter is not `old` any more. */
static void wait_change(bvt_pool *pool, uint32_t thread, atomic_uint *counter, unsigned old) {
    unsigned *spins = &pool->workers[thread].spins;
    for (unsigned i = 0; i < *spins; i++) {
        if (atomic_load_explicit(counter, memory_order_acquire) != old) {
            *spins = *spins + *spins / 2 < MOST_SPINS ? *spins + *spins / 2 : MOST_SPINS;
            return;
        }
        relax();
    }
    if (pool->spin) *spins = *spins / 2 > LEAST_SPINS ? *spins / 2 : LEAST_SPINS;
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load_explicit(counter, memory_order_acquire) == old) pthread_cond_wait(&pool->changed, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static void advance(bvt_pool *pool, atomic_uint *counter) {
    /* Under the mutex, so that no thread can go to sleep between its last look at the counter and the broadcast. */
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(counter, 1, memory_order_release);
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->mutex);
}

void bvt_pool_barrier(bvt_pool *pool, uint32_t thread) {
    if (pool->threads == 1) return;
    unsigned generation = atomic_load_explicit(&pool->generation, memory_order_acquire);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 == pool->threads) {
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed); /* before advance(): nobody can arrive until then */
        advance(pool, &pool->generation);
    } else {
        wait_change(pool, thread, &pool->generation, generation);
    }
}

static void *worker_main(void *arg) {
    struct bvt_worker *worker = arg;
    bvt_pool *pool = worker->pool;
    fesetenv(FE_DFL_ENV); /* round to nearest, no flush to zero, whatever the creating thread had set */
    for (unsigned epoch = 0;; epoch++) {
        wait_change(pool, worker->index, &pool->epoch, epoch);
        if (pool->quit) return NULL;
        pool->work(pool->arg, worker->index);
        bvt_pool_barrier(pool, worker->index);
    }
}

void bvt_pool_run(bvt_pool *pool, void (*work)(void *arg, uint32_t thread), void *arg) {
    fenv_t env;
    fegetenv(&env);
    fesetenv(FE_DFL_ENV);
    pool->work = work;
    pool->arg = arg;
    if (pool->threads > 1) advance(pool, &pool->epoch);
    work(arg, 0);
    bvt_pool_barrier(pool, 0);
    fesetenv(&env);
}

int bvt_pool_create(void *memory, uint32_t threads, bvt_pool **out, bvt_error *err) {
    bvt_pool *pool = memory;
    memset(pool, 0, bvt_pool_bytes(threads));
    *out = NULL;
    pool->threads = threads;
    const long cpus = bvt_usable_cpus();
    pool->spin = cpus > 0 && threads <= (unsigned long)cpus; /* more threads than cores: spinning only steals time */
    for (uint32_t t = 0; t < threads; t++) pool->workers[t].spins = pool->spin ? MOST_SPINS : 0;
    atomic_init(&pool->epoch, 0);
    atomic_init(&pool->generation, 0);
    atomic_init(&pool->arrived, 0);
    if (pthread_mutex_init(&pool->mutex, NULL)) return bvt_fail(err, BVT_E_MEMORY, "threads: no mutex");
    if (pthread_cond_init(&pool->changed, NULL)) {
        pthread_mutex_destroy(&pool->mutex);
        return bvt_fail(err, BVT_E_MEMORY, "threads: no condition variable");
    }
    for (pool->started = 1; pool->started < threads; pool->started++) {
        struct bvt_worker *worker = &pool->workers[pool->started];
        worker->pool = pool;
        worker->index = pool->started;
        if (pthread_create(&worker->thread, NULL, worker_main, worker)) {
            uint32_t started = pool->started;
            bvt_pool_destroy(pool);
            return bvt_fail(err, BVT_E_MEMORY, "threads: the system gives only %u of %u threads", started, threads);
        }
    }
    *out = pool;
    return BVT_OK;
}

void bvt_pool_destroy(bvt_pool *pool) {
    pool->quit = true;
    advance(pool, &pool->epoch);
    for (uint32_t t = 1; t < pool->started; t++) pthread_join(pool->workers[t].thread, NULL);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->mutex);
}
