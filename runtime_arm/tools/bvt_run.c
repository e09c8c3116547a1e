/* bvt_run - runs a .bvt file: the program that is pushed to boards.
 *
 * Exit status: 0 ok, 1 a golden output differs, 2 bad input or usage (one line on stderr).
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "bvt.h"
#include "counters.h"
#include "image_file.h"
#include "timing.h"

static const char usage[] = "usage: bvt_run MODEL [IMAGE...] [options]\n"
                            "  IMAGE            PNG, JPEG, BMP or PNM; preprocessed as the model says\n"
                            "  --npy FILE       f32 inputs from a .npy file (one or more, C order)\n"
                            "  --raw FILE       f32 inputs from a raw little-endian file (one or more)\n"
                            "  --out FILE       write the outputs of all inputs, raw f32\n"
                            "  --golden         compare with the golden outputs in the model, bit for bit\n"
                            "  --runs N         timed runs of the first input (without one: of a golden input, or zeros);\n"
                            "                   auto: about 2 s of them, 20 to 500\n"
                            "  --warmup N       runs before the timed ones; auto: until the medians of three windows of 0.1 s are\n"
                            "                   within 3 % of each other, for 3 s at most\n"
                            "  --threads N      default 1\n"
                            "  --cpus CORES     cores to run on: a list such as 0-3,6, or all, or fast or slow: the fastest or slowest\n"
                            "                   that --threads need\n"
                            "  --isa NAME       auto (default), ref, neon, avx2, avx512\n"
                            "  --profile        time of every op and group\n"
                            "  --spans          also what every thread did when, in one inference of a usual time\n"
                            "  --counters       cycles, instructions and cache misses of the timed runs, where the kernel grants them\n"
                            "  --watch FILE     read a line of this file before, during (every 0.5 s, between runs) and after the runs\n"
                            "  --op-crc         checksum of every op's outputs for the first input\n"
                            "  --top K          classes to show (default 5; 0: none)\n"
                            "  --info           describe the model and this machine, run nothing\n"
                            "  --json           one JSON object on stdout\n"
                            "  --version\n";

static _Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("bvt_run: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(2);
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------------- */

static void json_string_n(const char *s, size_t n) {
    putchar('"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32 || c == 127) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

static void json_string(const char *s) { json_string_n(s, strlen(s)); }

/* Nine digits give back the very float; JSON has no infinities. */
static void json_float(float x) {
    if (isfinite(x)) printf("%.9g", (double)x);
    else printf("\"%s\"", isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
}

/* ---- Inputs -------------------------------------------------------------------------------------------------------------- */

typedef struct {
    float *data; /* [count][elements] */
    size_t count, elements;
    const char **names; /* [count] */
} inputs;

static float *add_inputs(inputs *in, size_t count, const char *name) {
    if (count > SIZE_MAX / 8 / in->elements - in->count) die("%s: too many inputs", name);
    in->data = realloc(in->data, (in->count + count) * in->elements * sizeof *in->data);
    in->names = realloc(in->names, (in->count + count) * sizeof *in->names);
    if (!in->data || !in->names) die("out of memory");
    for (size_t i = 0; i < count; i++) in->names[in->count + i] = name;
    in->count += count;
    return in->data + (in->count - count) * in->elements;
}

/* An image must be a regular file; inputs of floats may also come through a pipe. */
static uint8_t *read_file(const char *path, bool regular, size_t *bytes) {
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | (regular ? O_NONBLOCK : 0)); /* a FIFO would wait for its writer */
    if (fd < 0 || fstat(fd, &st)) die("%s: %s", path, strerror(errno));
    if (regular && !S_ISREG(st.st_mode)) die("%s: not a regular file", path);
    FILE *f = fdopen(fd, "rb");
    if (!f) die("%s: %s", path, strerror(errno));
    size_t have = 0, room = 1 << 16;
    uint8_t *data = allocate(room, 1);
    for (;;) {
        have += fread(data + have, 1, room - have, f);
        if (ferror(f)) die("%s: %s", path, strerror(errno));
        if (have < room) break;
        room *= 2;
        if (!(data = realloc(data, room))) die("out of memory");
    }
    fclose(f);
    *bytes = have;
    return data;
}

static void add_floats(inputs *in, const uint8_t *data, size_t bytes, const char *path) {
    const size_t one = in->elements * sizeof(float);
    if (!bytes || bytes % one) die("%s: its %zu bytes are not a number of inputs of %zu bytes", path, bytes, one);
    memcpy(add_inputs(in, bytes / one, path), data, bytes);
}

static void add_raw(inputs *in, const char *path) {
    size_t bytes;
    uint8_t *data = read_file(path, false, &bytes);
    add_floats(in, data, bytes, path);
    free(data);
}

static void add_npy(inputs *in, const char *path) {
    size_t bytes;
    uint8_t *data = read_file(path, false, &bytes);
    if (bytes < 12 || memcmp(data, "\x93NUMPY", 6)) die("%s: not a .npy file", path);
    size_t start = data[6] == 1 ? 10 : 12, length = data[8] + 256u * data[9];
    if (data[6] > 1) length += 65536u * data[10] + 16777216u * (size_t)data[11];
    if (length > bytes - start) die("%s: truncated .npy file", path);
    char *header = allocate(length + 1, 1);
    memcpy(header, data + start, length);
    if (!strstr(header, "'<f4'")) die("%s: its dtype is not little-endian float32", path);
    if (!strstr(header, "'fortran_order': False")) die("%s: it is not in C order", path);
    free(header);
    add_floats(in, data + start + length, bytes - start - length, path);
    free(data);
}

static void add_image(inputs *in, const bvt_model *model, const char *path) {
    size_t bytes;
    uint32_t width, height, channels;
    const char *why;
    bvt_error err;
    uint8_t *data = read_file(path, true, &bytes);
    uint8_t *pixels = image_decode(data, bytes, &width, &height, &channels, &why);
    if (!pixels) die("%s: %s", path, why);
    if (bvt_preprocess(model, pixels, width, height, channels, add_inputs(in, 1, path), &err)) die("%s: %s", path, err.text);
    image_free(pixels);
    free(data);
}

/* ---- Model description --------------------------------------------------------------------------------------------------- */

static void json_model(const bvt_model *m, bool full) {
    const bvt_model_info info = bvt_info(m);
    printf("\"model\":{\"input\":[%u,%u],\"output\":[%u,%u],\"n_ops\":%u,\"n_values\":%u,\"n_groups\":%u,\"n_labels\":%u,\"n_"
           "golden\":%u,"
           "\"file_bytes\":%llu,\"arena_bytes\":%llu,\"tile_bytes\":%llu,\"widened_bytes\":%llu,\"macs_binary\":%llu,\"macs_float\":%llu",
           info.input_rows, info.input_cols, info.output_rows, info.output_cols, info.n_ops, info.n_values, info.n_groups,
           info.n_labels, info.n_golden, (unsigned long long)info.file_bytes, (unsigned long long)info.arena_bytes,
           (unsigned long long)info.tile_bytes, (unsigned long long)info.widened_bytes, (unsigned long long)info.macs_binary,
           (unsigned long long)info.macs_float);
    printf(",\"meta\":{");
    for (uint32_t i = 0; i < info.n_meta; i++) {
        const bvt_meta_info e = bvt_get_meta(m, i);
        if (i) putchar(',');
        json_string_n(e.key, e.key_bytes);
        putchar(':');
        uint64_t u;
        double d;
        switch (e.type) {
        case BVT_META_TYPE_U64: memcpy(&u, e.value, 8), printf("%llu", (unsigned long long)u); break;
        case BVT_META_TYPE_F64:
            memcpy(&d, e.value, 8);
            if (isfinite(d)) printf("%.17g", d);
            else printf("null");
            break;
        case BVT_META_TYPE_STR: json_string_n(e.value, e.value_bytes); break;
        default: printf("{\"bytes\":%zu}", e.value_bytes);
        }
    }
    printf("},\"sections\":[");
    for (uint32_t i = 0; i < info.n_sections; i++) {
        const bvt_section_info s = bvt_get_section(m, i);
        printf("%s{\"name\":\"%s\",\"offset\":%llu,\"bytes\":%llu,\"count\":%u}", i ? "," : "", s.name,
               (unsigned long long)s.offset, (unsigned long long)s.bytes, s.count);
    }
    printf("]");
    if (full) {
        printf(",\"ops\":[");
        for (uint32_t i = 0; i < info.n_ops; i++) {
            const bvt_op_info op = bvt_get_op(m, i);
            printf("%s{\"name\":", i ? "," : "");
            json_string(op.name);
            printf(",\"kind\":\"%s\",\"module\":", op.kind);
            json_string(op.module);
            printf(",\"group\":%u,\"rows\":%u,\"cols\":%u,\"macs_binary\":%llu,\"macs_float\":%llu}", op.group, op.rows, op.cols,
                   (unsigned long long)op.macs_binary, (unsigned long long)op.macs_float);
        }
        printf("],\"groups\":[");
        for (uint32_t i = 0; i < info.n_groups; i++) {
            const bvt_group_info g = bvt_get_group(m, i);
            printf("%s{\"first_op\":%u,\"n_ops\":%u,\"rows\":%u,\"block\":%u}", i ? "," : "", g.first_op, g.n_ops, g.rows, g.block);
        }
        printf("]");
    }
    printf("}");
}

/* The rate of the CPU's own timer; 0 where a program cannot ask for it. A board's is its crystal's, an emulator has one of its
 * own. */
static uint64_t timer_hz(void) {
    uint64_t hz = 0;
#if defined(__aarch64__)
    __asm__ volatile("mrs %0, cntfrq_el0" : "=r"(hz));
#endif
    return hz;
}

static void json_machine(void) {
    printf("\"runtime\":\"%s\",\"format\":%u,\"cpu\":\"%s\",", bvt_version(), bvt_format_version(), bvt_cpu_features());
    printf("\"timer_hz\":%llu,\"isas\":[", (unsigned long long)timer_hz());
    for (uint32_t i = 0; i < bvt_isa_count(); i++) printf("%s\"%s\"", i ? "," : "", bvt_isa_name(i));
    printf("]");
}

static void print_info(const bvt_model *m) {
    const bvt_model_info info = bvt_info(m);
    printf("runtime %s, format %u, cpu: %s\n", bvt_version(), bvt_format_version(), bvt_cpu_features());
    printf("input %u x %u, output %u x %u, %u ops in %u groups, %llu bytes, arena %llu, tile %llu, macs %llu binary, %llu float\n",
           info.input_rows, info.input_cols, info.output_rows, info.output_cols, info.n_ops, info.n_groups,
           (unsigned long long)info.file_bytes, (unsigned long long)info.arena_bytes, (unsigned long long)info.tile_bytes,
           (unsigned long long)info.macs_binary, (unsigned long long)info.macs_float);
    for (uint32_t i = 0; i < info.n_ops; i++) {
        const bvt_op_info op = bvt_get_op(m, i);
        printf("%4u  group %3u  %-12s %6u x %-6u %s  (%s)\n", i, op.group, op.kind, op.rows, op.cols, op.name, op.module);
    }
}

/* ---- Results ------------------------------------------------------------------------------------------------------------- */

/* Writes the indices of the `k` largest logits, largest first, ties in order of the index. NaN is never among them. */
static size_t top_k(const float *logits, size_t n, size_t k, size_t *out) {
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = found;
        if (isnan(logits[i])) continue;
        while (at > 0 && logits[i] > logits[out[at - 1]]) at--;
        if (at >= k) continue;
        if (found < k) found++;
        memmove(out + at + 1, out + at, (found - at - 1) * sizeof *out);
        out[at] = i;
    }
    return found;
}

static bool is_nan_bits(uint32_t x) { return (x & 0x7FFFFFFF) > 0x7F800000; }

/* Equal bits; two NaNs are equal whatever their payloads. */
static bool same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t x, y;
        memcpy(&x, a + i, 4);
        memcpy(&y, b + i, 4);
        if (x != y && !(is_nan_bits(x) && is_nan_bits(y))) return false;
    }
    return true;
}

static long number(const char *option, const char *text, long least, long most) {
    char *end;
    errno = 0;
    long n = text ? strtol(text, &end, 10) : -1;
    if (!text || errno || *end || end == text || n < least || n > most)
        die("%s needs a number from %ld to %ld", option, least, most);
    return n;
}

static long number_or_auto(const char *option, const char *text, long least) {
    return text && !strcmp(text, "auto") ? TIMING_AUTO : number(option, text, least, 10000000);
}

typedef struct {
    const char *model, *out, *isa, *cpus;
    const char **images, **raw, **npy, **watch;
    size_t n_images, n_raw, n_npy, n_watch;
    long runs, warmup, threads, top;
    bool golden, profile, spans, counters, op_crc, json, info;
} arguments;

static arguments parse(int argc, char **argv) {
    arguments a = {.isa = "auto", .runs = 0, .threads = 1, .top = 5};
    a.images = allocate((size_t)argc, sizeof *a.images);
    a.raw = allocate((size_t)argc, sizeof *a.raw);
    a.npy = allocate((size_t)argc, sizeof *a.npy);
    a.watch = allocate((size_t)argc, sizeof *a.watch);
    for (int i = 1; i < argc; i++) {
        const char *o = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
        const bool value = !strcmp(o, "--npy") || !strcmp(o, "--raw") || !strcmp(o, "--out") || !strcmp(o, "--isa") ||
                           !strcmp(o, "--cpus") || !strcmp(o, "--watch");
        if (value && !next) die("%s needs a value", o);
        if (!strcmp(o, "--help") || !strcmp(o, "-h")) fputs(usage, stdout), exit(0);
        else if (!strcmp(o, "--version"))
            printf("bvt_run %s, format %u, %s\n", bvt_version(), bvt_format_version(), bvt_cpu_features()), exit(0);
        else if (!strcmp(o, "--npy")) a.npy[a.n_npy++] = argv[++i];
        else if (!strcmp(o, "--raw")) a.raw[a.n_raw++] = argv[++i];
        else if (!strcmp(o, "--out")) a.out = argv[++i];
        else if (!strcmp(o, "--isa")) a.isa = argv[++i];
        else if (!strcmp(o, "--cpus")) a.cpus = argv[++i];
        else if (!strcmp(o, "--watch")) a.watch[a.n_watch++] = argv[++i];
        else if (!strcmp(o, "--runs")) a.runs = number_or_auto(o, next, 1), i++;
        else if (!strcmp(o, "--warmup")) a.warmup = number_or_auto(o, next, 0), i++;
        else if (!strcmp(o, "--threads")) a.threads = number(o, next, 1, BVT_MAX_THREADS), i++;
        else if (!strcmp(o, "--top")) a.top = number(o, next, 0, 1000000), i++;
        else if (!strcmp(o, "--golden")) a.golden = true;
        else if (!strcmp(o, "--profile")) a.profile = true;
        else if (!strcmp(o, "--spans")) a.profile = a.spans = true;
        else if (!strcmp(o, "--counters")) a.counters = true;
        else if (!strcmp(o, "--op-crc")) a.op_crc = true;
        else if (!strcmp(o, "--json")) a.json = true;
        else if (!strcmp(o, "--info")) a.info = true;
        else if (o[0] == '-' && o[1]) die("unknown option %s (see --help)", o);
        else if (!a.model) a.model = o;
        else a.images[a.n_images++] = o;
    }
    if (!a.model) die("no model (see --help)");
    return a;
}

/* ---- The program --------------------------------------------------------------------------------------------------------- */

typedef struct {
    const bvt_model *model;
    bvt_model_info info;
    arguments a;
    bvt_session *session;
    inputs in;
    float *outputs; /* [in.count][output elements] */
    size_t out_elements;
    timing timing;
    counter counters[COUNTERS];
    uint64_t open_ns, session_ns; /* what opening the file and making the session took */
    bvt_span *spans;
    size_t n_spans;
    uint64_t spans_ns; /* what the inference took that they are of */
    uint32_t golden_checked, golden_equal;
    const uint32_t *crcs;
    uint64_t *op_ns, *group_ns;
    uint64_t profile_runs;
} state;

static void run_golden(state *s) {
    float *in = allocate(s->in.elements, sizeof *in), *out = allocate(s->out_elements, sizeof *out);
    for (uint32_t i = 0; i < s->info.n_golden; i++) {
        bvt_golden_input(s->model, i, in);
        bvt_run(s->session, in, out);
        s->golden_checked++;
        s->golden_equal += same_floats(out, bvt_golden_output(s->model, i), s->out_elements);
    }
    free(in);
    free(out);
}

/* The first input that was given; without one the first golden input, else zeros: in `made`, of the input's size and zero. */
static const float *first_input(const state *s, float *made) {
    if (s->in.count) return s->in.data;
    if (s->info.n_golden) bvt_golden_input(s->model, 0, made);
    return made;
}

static void run_inputs(state *s) {
    s->outputs = allocate(s->in.count * s->out_elements, sizeof *s->outputs);
    for (size_t i = s->in.count; i-- > 0;) bvt_run(s->session, s->in.data + i * s->in.elements, s->outputs + i * s->out_elements);
}

static void run_samples(state *s) {
    float *made = allocate(s->in.elements, sizeof *made), *out = allocate(s->out_elements, sizeof *out);
    const float *input = first_input(s, made); /* the time does not depend on the values */
    const timing_options options = {.runs = s->a.runs,
                                    .warmup = s->a.warmup,
                                    .watch = s->a.watch,
                                    .n_watch = s->a.n_watch,
                                    .counters = s->a.counters ? s->counters : NULL,
                                    .profile = s->a.profile};
    time_runs(s->session, s->info.n_ops, input, out, &options, &s->timing);
    free(made);
    free(out);
}

/* The spans of one inference: of several, the one that took nearest to the median of the timed runs. */
static void run_spans(state *s) {
    float *made = allocate(s->in.elements, sizeof *made), *out = allocate(s->out_elements, sizeof *out);
    const float *input = first_input(s, made);
    const uint64_t usual = median_ns(s->timing.timed.ns, s->timing.timed.n);
    uint64_t best = UINT64_MAX;
    bvt_session *session;
    bvt_error err;
    const bvt_options options = {.threads = (uint32_t)s->a.threads, .isa = s->a.isa, .profile = 2};
    if (bvt_session_create(s->model, &options, &session, &err)) die("%s", err.text);
    bvt_run(session, input, out);
    s->n_spans = bvt_profile_spans(session, NULL, 0);
    s->spans = allocate(s->n_spans, sizeof *s->spans);
    const uint64_t begun = now_ns();
    for (int i = 0; i < 10 && (i < 2 || now_ns() - begun < 1000000000u); i++) {
        const uint64_t start = now_ns();
        bvt_run(session, input, out);
        const uint64_t ns = now_ns() - start, off = ns > usual ? ns - usual : usual - ns;
        if (off >= best) continue;
        best = off;
        s->spans_ns = ns;
        bvt_profile_spans(session, s->spans, s->n_spans);
    }
    bvt_session_destroy(session);
    free(made);
    free(out);
}

/* ---- Times as JSON ------------------------------------------------------------------------------------------------------- */

static void json_numbers(const char *name, const uint64_t *x, size_t n) {
    printf(",\"%s\":[", name);
    for (size_t i = 0; i < n; i++) printf("%s%llu", i ? "," : "", (unsigned long long)x[i]);
    printf("]");
}

static void json_cores(const state *s) {
    const char *comma = "";
    printf(",\"cores\":{\"allowed\":[");
#if defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set))
        for (unsigned i = 0; i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, &set)) printf("%s%u", comma, i), comma = ",";
#endif
    printf("],\"seen\":[");
    comma = "";
    for (unsigned i = 0; i < sizeof s->timing.core_seen / sizeof *s->timing.core_seen; i++)
        if (s->timing.core_seen[i]) printf("%s%u", comma, i), comma = ",";
    printf("]}");
}

static void json_timing(const state *s) {
    const timing *t = &s->timing;
    printf(",\"open_ns\":%llu,\"session_ns\":%llu", (unsigned long long)s->open_ns, (unsigned long long)s->session_ns);
    json_numbers("samples_ns", t->timed.ns, t->timed.n);
    json_numbers("warmup_ns", t->warmup.ns, t->warmup.n);
    printf(",\"settled\":%s", !t->timed.n || s->a.warmup != TIMING_AUTO ? "null" : t->settled ? "true" : "false");
    json_cores(s);
    printf(",\"usage\":{\"user_ns\":%llu,\"system_ns\":%llu,\"waited_ns\":", (unsigned long long)t->used.user_ns,
           (unsigned long long)t->used.system_ns);
    if (t->used.waited_ns == UINT64_MAX) printf("null");
    else printf("%llu", (unsigned long long)t->used.waited_ns);
    printf(",\"preempted\":%llu,\"yielded\":%llu,\"page_faults\":%llu,\"major_faults\":%llu}",
           (unsigned long long)t->used.preempted, (unsigned long long)t->used.yielded, (unsigned long long)t->used.page_faults,
           (unsigned long long)t->used.major_faults);
    printf(",\"counters\":{");
    for (int i = 0; s->a.counters && i < COUNTERS; i++) {
        const counter *c = &s->counters[i];
        printf("%s\"%s\":{\"value\":", i ? "," : "", c->name);
        if (*c->why) printf("null,\"why\":"), json_string(c->why);
        else printf("%llu,\"running\":%.4f", (unsigned long long)c->value, c->running);
        printf("}");
    }
    printf("},\"looks\":[");
    for (size_t i = 0; i < t->n_looks; i++) {
        printf("%s{\"at_ns\":%llu,\"run\":%zu,\"values\":[", i ? "," : "", (unsigned long long)t->looks[i].at_ns, t->looks[i].run);
        for (size_t j = 0; j < s->a.n_watch; j++) {
            if (j) putchar(',');
            json_string(t->looks[i].values[j]);
        }
        printf("]}");
    }
    printf("],\"spans_ns\":%llu,\"spans\":[", (unsigned long long)s->spans_ns); /* thread, op (-1: waits), start, end, first row, rows */
    for (size_t i = 0; i < s->n_spans; i++) {
        const bvt_span *x = &s->spans[i];
        printf("%s[%u,%lld,%llu,%llu,%u,%u]", i ? "," : "", x->thread, x->op == UINT32_MAX ? -1ll : (long long)x->op,
               (unsigned long long)x->start_ns, (unsigned long long)x->end_ns, x->row0, x->rows);
    }
    printf("]");
}

static void json_ops(const state *s) {
    printf(",\"profile_runs\":%llu,\"ops\":[", (unsigned long long)s->profile_runs);
    for (uint32_t i = 0; s->op_ns && i < s->info.n_ops; i++) {
        const bvt_op_info op = bvt_get_op(s->model, i);
        printf("%s{\"name\":", i ? "," : "");
        json_string(op.name);
        printf(",\"kind\":\"%s\",\"module\":", op.kind);
        json_string(op.module);
        printf(",\"group\":%u,\"ns\":%llu}", op.group, (unsigned long long)s->op_ns[i]);
    }
    printf("],\"blocks\":[");
    for (size_t b = 0; b < s->timing.n_blocks; b++) {
        printf("%s{\"runs\":%zu", b ? "," : "", s->timing.block_end[b] - (b ? s->timing.block_end[b - 1] : 0));
        json_numbers("ops_ns", s->timing.block_ops + b * s->info.n_ops, s->info.n_ops);
        printf("}");
    }
    printf("]");
    json_numbers("groups_ns", s->group_ns, s->group_ns ? s->info.n_groups : 0);
}

static void print_json(const state *s) {
    printf("{");
    json_machine();
    printf(",");
    json_model(s->model, s->a.info);
    if (s->session) printf(",\"isa\":\"%s\",\"threads\":%u", bvt_session_isa(s->session), bvt_session_threads(s->session));
    printf(",\"predictions\":[");
    const size_t k = (size_t)s->a.top < s->out_elements ? (size_t)s->a.top : s->out_elements;
    size_t *top = allocate(k + 1, sizeof *top);
    for (size_t i = 0; i < s->in.count; i++) {
        const float *logits = s->outputs + i * s->out_elements;
        printf("%s{\"image\":", i ? "," : "");
        json_string(s->in.names[i]);
        printf(",\"top\":[");
        const size_t found = top_k(logits, s->out_elements, k, top);
        for (size_t j = 0; j < found; j++) {
            printf("%s{\"label\":", j ? "," : "");
            json_string(top[j] < s->info.n_labels ? bvt_get_label(s->model, (uint32_t)top[j]) : "");
            printf(",\"index\":%zu,\"logit\":", top[j]);
            json_float(logits[top[j]]);
            printf("}");
        }
        printf("]}");
    }
    free(top);
    printf("]");
    json_timing(s);
    json_ops(s);
    printf(",\"golden\":");
    if (s->a.golden) printf("{\"checked\":%u,\"equal\":%u}", s->golden_checked, s->golden_equal);
    else printf("null");
    printf(",\"crcs\":[");
    bool first = true;
    for (uint32_t i = 0; s->crcs && i < s->info.n_ops; i++) {
        const bvt_op_info op = bvt_get_op(s->model, i);
        for (unsigned o = 0; o < BVT_MAX_OUTPUTS; o++) {
            if (op.outputs[o] == UINT32_MAX) continue;
            printf("%s{\"op\":%u,\"output\":%u,\"value\":", first ? "" : ",", i, o);
            json_string(bvt_get_value(s->model, op.outputs[o]).name);
            printf(",\"crc\":%u}", s->crcs[i * BVT_MAX_OUTPUTS + o]);
            first = false;
        }
    }
    printf("]}\n");
}

static void print_text(const state *s) {
    const size_t k = (size_t)s->a.top < s->out_elements ? (size_t)s->a.top : s->out_elements;
    size_t *top = allocate(k + 1, sizeof *top);
    for (size_t i = 0; i < s->in.count; i++) {
        const float *logits = s->outputs + i * s->out_elements;
        const size_t found = top_k(logits, s->out_elements, k, top);
        printf("%s%s", s->in.names[i], !k ? "" : found ? ":" : ": every output is NaN");
        for (size_t j = 0; j < found; j++) {
            printf("%s %zu", j ? "," : "", top[j]);
            if (top[j] < s->info.n_labels) printf(" %s", bvt_get_label(s->model, (uint32_t)top[j]));
            printf(" (%.6g)", (double)logits[top[j]]);
        }
        printf("\n");
    }
    free(top);
    if (s->a.golden) printf("golden: %u of %u equal\n", s->golden_equal, s->golden_checked);
    const samples *timed = &s->timing.timed;
    if (timed->n) {
        uint64_t least = timed->ns[0], most = timed->ns[0];
        for (size_t i = 1; i < timed->n; i++) {
            least = timed->ns[i] < least ? timed->ns[i] : least;
            most = timed->ns[i] > most ? timed->ns[i] : most;
        }
        printf("%zu runs, isa %s, %u threads: min %.3f ms, median %.3f ms, max %.3f ms\n", timed->n, bvt_session_isa(s->session),
               bvt_session_threads(s->session), (double)least / 1e6, (double)median_ns(timed->ns, timed->n) / 1e6, (double)most / 1e6);
    }
    for (int i = 0; s->a.counters && i < COUNTERS; i++) {
        const counter *c = &s->counters[i];
        if (*c->why) printf("%s: %s\n", c->name, c->why);
        else printf("%s: %.0f for one inference\n", c->name, (double)c->value / (double)timed->n);
    }
    for (uint32_t i = 0; s->op_ns && i < s->info.n_ops; i++) {
        const bvt_op_info op = bvt_get_op(s->model, i);
        printf("%10.1f us  %-12s %s  (%s)\n", (double)s->op_ns[i] / 1e3 / (double)s->profile_runs, op.kind, op.name, op.module);
    }
    for (uint32_t i = 0; s->crcs && i < s->info.n_ops; i++) {
        const bvt_op_info op = bvt_get_op(s->model, i);
        printf("%4u  %-12s", i, op.kind);
        for (unsigned o = 0; o < BVT_MAX_OUTPUTS; o++)
            if (op.outputs[o] != UINT32_MAX) printf(" %u:%08x", o, s->crcs[i * BVT_MAX_OUTPUTS + o]);
        printf("  %s\n", op.name);
    }
}

int main(int argc, char **argv) {
    state s = {.a = parse(argc, argv)};
    bvt_error err;
    bvt_model *model;
    const uint64_t start = now_ns();
    if (bvt_open(s.a.model, &model, &err)) die("%s", err.text);
    s.open_ns = now_ns() - start;
    s.model = model;
    s.info = bvt_info(model);
    s.in.elements = (size_t)s.info.input_rows * s.info.input_cols;
    s.out_elements = (size_t)s.info.output_rows * s.info.output_cols;
    if (s.a.info) {
        if (s.a.json) print_json(&s);
        else print_info(model);
        bvt_close(model);
        return 0;
    }
    for (size_t i = 0; i < s.a.n_images; i++) add_image(&s.in, model, s.a.images[i]);
    for (size_t i = 0; i < s.a.n_npy; i++) add_npy(&s.in, s.a.npy[i]);
    for (size_t i = 0; i < s.a.n_raw; i++) add_raw(&s.in, s.a.raw[i]);
    if (s.a.golden && !s.info.n_golden) die("%s: it has no golden outputs", s.a.model);
    if (s.a.op_crc && !s.in.count && !s.info.n_golden) die("--op-crc needs an input");
    if ((s.a.profile || s.a.counters || s.a.n_watch) && !s.a.runs) s.a.runs = 1;
    if (!s.a.runs && !s.in.count && !s.a.golden && !s.a.op_crc) s.a.runs = 1;
    if (s.a.cpus && bvt_use_cpus(s.a.cpus, (uint32_t)s.a.threads, &err)) die("%s", err.text);
    const bvt_options options = {.threads = (uint32_t)s.a.threads, .isa = s.a.isa, .profile = s.a.profile};
    if (s.a.counters) counters_open(s.counters); /* the session's threads inherit them */
    const uint64_t creating = now_ns();
    if (bvt_session_create(model, &options, &s.session, &err)) die("%s", err.text);
    s.session_ns = now_ns() - creating;
    if (s.a.golden) run_golden(&s);
    run_inputs(&s);
    if (s.a.runs) run_samples(&s);
    if (s.a.counters) counters_read(s.counters);
    if (s.a.profile) {
        s.profile_runs = (uint64_t)s.timing.timed.n;
        s.op_ns = allocate(s.info.n_ops, sizeof *s.op_ns);
        s.group_ns = allocate(s.info.n_groups, sizeof *s.group_ns);
        bvt_profile_get(s.session, s.op_ns, s.group_ns);
    }
    if (s.a.spans) run_spans(&s);
    bvt_session *crc_session = NULL;
    if (s.a.op_crc) { /* its own session: checksums need one thread and take time */
        const bvt_options watched = {.threads = 1, .isa = s.a.isa, .op_crc = 1};
        float *made = allocate(s.in.elements, sizeof *made), *out = allocate(s.out_elements, sizeof *out);
        if (bvt_session_create(model, &watched, &crc_session, &err)) die("%s", err.text);
        bvt_run(crc_session, first_input(&s, made), out);
        s.crcs = bvt_op_crcs(crc_session);
        free(made);
        free(out);
    }
    if (s.a.out) {
        FILE *f = fopen(s.a.out, "wb");
        if (!f) die("%s: %s", s.a.out, strerror(errno));
        const size_t n = s.in.count * s.out_elements;
        if (fwrite(s.outputs, sizeof *s.outputs, n, f) != n || fclose(f)) die("%s: %s", s.a.out, strerror(errno));
    }
    if (s.a.json) print_json(&s);
    else print_text(&s);
    if (fflush(stdout)) die("stdout: %s", strerror(errno));
    bvt_session_destroy(crc_session);
    bvt_session_destroy(s.session);
    bvt_close(model);
    free(s.in.data);
    free(s.in.names);
    free(s.outputs);
    timing_free(&s.timing);
    free(s.spans);
    free(s.op_ns);
    free(s.group_ns);
    free(s.a.images);
    free(s.a.raw);
    free(s.a.npy);
    free(s.a.watch);
    return s.a.golden && s.golden_equal != s.golden_checked ? 1 : 0;
}
