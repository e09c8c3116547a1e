/* Sessions: the output does not depend on threads, blocks, ISA or memory; options are checked; the observer and checksums see
 * all. */
#include <fenv.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sample.h"

static const uint32_t THREADS[] = {1, 2, 3, 4, 7};
static float input[72 * 24], expected[10];

static bvt_model *open_sample(uint32_t block, uint8_t **file) {
    size_t bytes;
    bvt_model *model;
    bvt_error err;
    *file = sample_model(&bytes, block);
    if (bvt_open_memory(*file, bytes, &model, &err)) fprintf(stderr, "%s\n", err.text), exit(1);
    return model;
}

/* Every row of every op is in exactly one span, the spans of a thread follow each other, and each thread waits once a group. */
static void check_spans(const bvt_session *session, const bvt_model *model, bool kept) {
    const size_t n = bvt_profile_spans(session, NULL, 0);
    CHECK((n > 0) == kept, "%zu spans", n);
    if (!n) return;
    bvt_span *spans = calloc(n, sizeof *spans);
    uint32_t rows[20] = {0}, waits = 0;
    CHECK(bvt_profile_spans(session, spans, n) == n, "spans");
    for (size_t i = 0; i < n; i++) {
        const bvt_span *s = &spans[i], *last = i && spans[i - 1].thread == s->thread ? s - 1 : NULL;
        CHECK(s->start_ns <= s->end_ns && (!last || last->end_ns <= s->start_ns), "span %zu is out of order", i);
        CHECK(s->thread < bvt_session_threads(session), "thread %u", s->thread);
        if (s->op == UINT32_MAX) waits++;
        else rows[s->op] += s->rows;
    }
    const bvt_model_info info = bvt_info(model);
    CHECK(waits == info.n_groups * bvt_session_threads(session), "%u waits", waits);
    for (uint32_t op = 0; op < info.n_ops; op++)
        CHECK(rows[op] == bvt_get_group(model, bvt_get_op(model, op).group).rows, "op %u: %u rows", op, rows[op]);
    free(spans);
}

static void test_results(void) {
    static const uint32_t blocks[] = {0, 8, 16, 24};
    for (size_t b = 0; b < 4; b++) {
        uint8_t *file;
        bvt_model *model = open_sample(blocks[b], &file);
        for (uint32_t i = 0; i < bvt_isa_count(); i++)
            for (size_t t = 0; t < sizeof THREADS / sizeof *THREADS; t++) {
                const bvt_options options = {.threads = THREADS[t], .isa = bvt_isa_name(i), .profile = (int)t % 3};
                bvt_session *session;
                bvt_error err;
                float output[10];
                CHECK(!bvt_session_create(model, &options, &session, &err), "create: %s", err.text);
                if (b == 0 && i == 0 && t == 0) bvt_run(session, input, expected);
                for (int run = 0; run < 20; run++) {
                    memset(output, 0xFF, sizeof output);
                    CHECK(bvt_run(session, input, output) == BVT_OK, "run");
                    CHECK(!memcmp(output, expected, sizeof output), "block %u isa %s threads %u differs", blocks[b],
                          bvt_isa_name(i), THREADS[t]);
                    if (run == 10) usleep(2000); /* the workers go to sleep */
                }
                CHECK(bvt_session_threads(session) == THREADS[t] && !strcmp(bvt_session_isa(session), bvt_isa_name(i)),
                      "session facts");
                uint64_t op_ns[20], group_ns[5], sum = 0;
                bvt_profile_get(session, op_ns, group_ns);
                for (int op = 0; op < 20; op++) sum += op_ns[op];
                CHECK((sum > 0) == (options.profile != 0), "profile");
                check_spans(session, model, options.profile == 2);
                bvt_profile_reset(session);
                bvt_profile_get(session, op_ns, NULL);
                CHECK(op_ns[1] == 0, "reset");
                bvt_session_destroy(session);
            }
        bvt_close(model);
        free(file);
    }
    bool distinct = false;
    for (int i = 1; i < 10; i++) distinct |= expected[i] != expected[0];
    CHECK(distinct, "the sample computes nothing");
}

static void test_memory(void) {
    uint8_t *file;
    bvt_model *model = open_sample(8, &file);
    bvt_options options = {.threads = 3};
    bvt_session *session;
    bvt_error err;
    float output[10];
    const size_t need = bvt_session_bytes(model, &options);
    CHECK(need > 0, "bytes");
    void *memory;
    if (posix_memalign(&memory, 64, need + 64)) abort();
    memset(memory, 0xEE, need + 64);
    options.memory = memory;
    options.memory_bytes = need - 1;
    CHECK(bvt_session_create(model, &options, &session, &err) == BVT_E_MEMORY && !session, "too little memory");
    options.memory = (uint8_t *)memory + 8;
    options.memory_bytes = need;
    CHECK(bvt_session_create(model, &options, &session, &err) == BVT_E_ARGUMENT, "misaligned memory");
    options.memory = memory;
    CHECK(!bvt_session_create(model, &options, &session, &err), "caller's memory: %s", err.text);
    bvt_run(session, input, output);
    CHECK(!memcmp(output, expected, sizeof output), "caller's memory");
    for (int i = 0; i < 64; i++) CHECK(((uint8_t *)memory)[need + (size_t)i] == 0xEE, "it wrote beyond its memory");
    bvt_session_destroy(session);
    free(memory);
    bvt_close(model);
    free(file);
}

static void test_options(void) {
    uint8_t *file;
    bvt_model *model = open_sample(8, &file);
    bvt_session *session;
    bvt_error err;
    CHECK(bvt_session_create(model, &(bvt_options){.threads = 65}, &session, &err) == BVT_E_ARGUMENT && !session, "65 threads");
    CHECK(bvt_session_create(model, &(bvt_options){.isa = "mmx"}, &session, &err) == BVT_E_UNSUPPORTED && strstr(err.text, "mmx"),
          "unknown isa");
#if defined(__x86_64__)
    CHECK(bvt_session_create(model, &(bvt_options){.isa = "neon"}, &session, &err) == BVT_E_UNSUPPORTED, "foreign isa");
#else
    CHECK(bvt_session_create(model, &(bvt_options){.isa = "avx2"}, &session, &err) == BVT_E_UNSUPPORTED, "foreign isa");
#endif
    CHECK(bvt_session_create(model, &(bvt_options){.threads = 2, .op_crc = 1}, &session, &err) == BVT_E_ARGUMENT,
          "crc with 2 threads");
    CHECK(bvt_session_create(NULL, NULL, &session, &err) == BVT_E_ARGUMENT, "no model");
    CHECK(bvt_session_bytes(model, &(bvt_options){.threads = 65}) == 0, "bytes of wrong options");
    CHECK(bvt_run(NULL, input, expected) == BVT_E_ARGUMENT, "no session");
    bvt_session_destroy(NULL);
    CHECK(!bvt_session_create(model, NULL, &session, NULL), "defaults");
    float output[10];
    fesetround(FE_UPWARD); /* the caller's floating point environment does not matter, and is kept */
    bvt_run(session, input, output);
    CHECK(fegetround() == FE_UPWARD, "the environment was not restored");
    fesetround(FE_TONEAREST);
    CHECK(!memcmp(output, expected, sizeof output), "the caller's rounding mode leaks in");
    bvt_session_destroy(session);
    bvt_close(model);
    free(file);
}

typedef struct {
    const bvt_model *model;
    uint32_t crc[20 * BVT_MAX_OUTPUTS], next[20 * BVT_MAX_OUTPUTS];
} watcher;

static void watch(void *user, uint32_t op, uint32_t output, uint32_t row0, uint32_t rows, const void *data, size_t stride) {
    watcher *w = user;
    const uint32_t i = op * BVT_MAX_OUTPUTS + output;
    const bvt_value_info v = bvt_get_value(w->model, bvt_get_op(w->model, op).outputs[output]);
    const bool cols = !strcmp(v.layout, "cols");
    CHECK(row0 == w->next[i] && row0 + rows <= v.rows, "op %u: rows %u.. after %u", op, row0, w->next[i]);
    w->next[i] += rows;
    const size_t bytes = cols ? (v.rows + 7) / 8 : !strcmp(v.dtype, "bits") ? (v.cols + 7) / 8 : (size_t)v.cols * 4;
    for (uint32_t r = 0; r < (cols ? v.cols : rows); r++) {
        const uint8_t *row = (const uint8_t *)data + r * stride;
        if (strcmp(v.dtype, "i16")) w->crc[i] = bvt_crc32(w->crc[i], row, bytes);
        for (uint32_t c = 0; !strcmp(v.dtype, "i16") && c < v.cols; c++) /* as i32 */
            w->crc[i] = bvt_crc32(w->crc[i], &(int32_t){((const int16_t *)(const void *)row)[c]}, 4);
    }
}

static void test_observer(void) {
    uint32_t first[20 * BVT_MAX_OUTPUTS];
    static const uint32_t blocks[] = {0, 8, 16};
    for (int b = 0; b < 3; b++)
        for (uint32_t i = 0; i < bvt_isa_count(); i++) {
            uint8_t *file;
            bvt_model *model = open_sample(blocks[b], &file);
            watcher w = {.model = model};
            const bvt_options options = {.isa = bvt_isa_name(i), .op_crc = 1, .observer = watch, .observer_user = &w};
            bvt_session *session;
            float output[10];
            CHECK(!bvt_session_create(model, &options, &session, NULL), "create");
            bvt_run(session, input, output);
            CHECK(!memcmp(w.crc, bvt_op_crcs(session), sizeof w.crc), "observer and checksums disagree");
            if (b == 0 && i == 0) memcpy(first, w.crc, sizeof first);
            CHECK(!memcmp(w.crc, first, sizeof first), "checksums depend on blocks or isa");
            w = (watcher){.model = model};
            bvt_run(session, input, output);
            CHECK(!memcmp(first, bvt_op_crcs(session), sizeof first), "checksums of a second run");
            bvt_session_destroy(session);
            bvt_close(model);
            free(file);
        }
}

#if defined(__linux__)
/* A folder of cores as the kernel has it: cpu<N>/<name> with one number; 0: no such file. */
static void write_core(const char *root, unsigned cpu, const char *name, unsigned value) {
    char path[300];
    snprintf(path, sizeof path, "%s/cpu%u", root, cpu);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/cpu%u/%s", root, cpu, name);
    FILE *f = fopen(path, "w");
    CHECK(f != NULL, "%s", path);
    fprintf(f, "%u\n", value);
    fclose(f);
}

static uint64_t chosen_cpus(void (*choose)(const char *, uint32_t, cpu_set_t *), const char *root, unsigned cores,
                                 uint32_t threads) {
    cpu_set_t set;
    uint64_t bits = 0;
    CPU_ZERO(&set);
    for (unsigned i = 0; i < cores; i++) CPU_SET(i, &set);
    choose(root, threads, &set);
    for (unsigned i = 0; i < CPU_SETSIZE; i++) bits |= (uint64_t)(CPU_ISSET(i, &set) != 0) << i % 64;
    return bits;
}

static unsigned long fast_cpus(const char *root, unsigned cores, uint32_t threads) {
    return chosen_cpus(bvt_fast_cpus, root, cores, threads);
}

static unsigned long slow_cpus(const char *root, unsigned cores, uint32_t threads) {
    return chosen_cpus(bvt_slow_cpus, root, cores, threads);
}

static void test_affinity(void) {
    char root[] = "/tmp/bvt-cores-XXXXXX", command[100];
    static const unsigned capacity[8] = {300, 300, 300, 300, 700, 700, 700, 1024};
    CHECK(mkdtemp(root) != NULL, "no folder");
    CHECK(fast_cpus(root, 8, 2) == 0xFF, "cores of which nothing is known");
    for (unsigned i = 0; i < 8; i++) write_core(root, i, "cpu_capacity", capacity[i]);
    CHECK(fast_cpus(root, 8, 1) == 0x80 && fast_cpus(root, 8, 2) == 0xF0 && fast_cpus(root, 8, 4) == 0xF0, "the fast cores");
    CHECK(fast_cpus(root, 8, 5) == 0xFF && fast_cpus(root, 8, 9) == 0xFF && fast_cpus(root, 7, 3) == 0x70, "all cores");
    CHECK(slow_cpus(root, 8, 1) == 0x0F && slow_cpus(root, 8, 5) == 0x7F && slow_cpus(root, 8, 8) == 0xFF, "the slow cores");
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(!system(command), "%s", command);

    cpu_set_t before, after;
    bvt_error err;
    static const char *const malformed[] = {"", "x", "0,", "1-", "3-2", "0-99999", "-1", "0 ", "slowest"};
    sched_getaffinity(0, sizeof before, &before);
    for (size_t i = 0; i < sizeof malformed / sizeof *malformed; i++)
        CHECK(bvt_use_cpus(malformed[i], 1, &err) == BVT_E_ARGUMENT, "'%s' is a list", malformed[i]);
    CHECK(bvt_use_cpus("1023", 1, &err) == BVT_E_ARGUMENT || CPU_ISSET(1023, &before), "a core that is not there");
    CHECK(bvt_use_cpus(NULL, 1, &err) == BVT_E_ARGUMENT, "no list");
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&before, &after), "a refusal moved the thread");
    CHECK(!bvt_use_cpus("all", 1, &err), "all: %s", err.text);
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&before, &after), "all cores are others");
    CHECK(!bvt_use_cpus("slow", 1, &err), "slow: %s", err.text);
    sched_setaffinity(0, sizeof before, &before);
    CHECK(!bvt_use_cpus("fast", 1, &err), "fast: %s", err.text);
    unsigned first = 0;
    while (!CPU_ISSET(first, &before)) first++;
    sched_setaffinity(0, sizeof before, &before);
    snprintf(command, sizeof command, "%u", first);
    CHECK(!bvt_use_cpus(command, 1, &err), "core %u: %s", first, err.text);
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_COUNT(&after) == 1 && CPU_ISSET(first, &after), "the thread is not on its core");
    sched_setaffinity(0, sizeof before, &before);
}
#endif

int main(void) {
    for (size_t i = 0; i < sizeof input / sizeof *input; i++) input[i] = ((float)below(2001) - 1000.0f) / 500.0f;
    test_results();
#if defined(__linux__)
    test_affinity();
#endif
    test_memory();
    test_options();
    test_observer();
    return finish("test_threads");
}
