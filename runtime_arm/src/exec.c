/* Sessions: memory, kernel choice, and the loop over groups and blocks. */
#include <stdlib.h>
#include <time.h>

#include "internal.h"

/* Of each thread. */
typedef struct {
    uint8_t *tile;
    bvt_call *calls; /* [max_group_ops]: the ops of the group at hand, resolved */
    uint64_t *op_ns; /* [n_ops], or NULL */
    bvt_span *spans; /* [max_spans()] of the run at hand, or NULL */
    size_t n_spans;
} worker;

struct bvt_session {
    const bvt_model *model;
    bvt_options options;
    int isa;
    void *allocated; /* by us, or NULL */
    bvt_pool *pool;
    bvt_kernel *kernels; /* [n_ops] */
    uint8_t *arena;
    worker *workers;    /* [threads] */
    uint64_t *group_ns; /* [n_groups] */
    uint32_t *crcs;     /* [n_ops * BVT_N_OUT] */
    const float *input; /* of the run at hand */
    float *output;
    uint64_t start; /* of the run at hand, for spans */
};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- Memory -------------------------------------------------------------------------------------------------------------- */

/* Offsets of the parts of a session's memory. */
typedef struct {
    uint64_t pool, kernels, workers, group_ns, crcs, arena, per_thread, thread_calls, thread_op_ns, thread_spans, thread_bytes, total;
} layout;

static uint64_t take(uint64_t *at, uint64_t bytes) {
    uint64_t here = *at;
    *at += bvt_align64(bytes);
    return here;
}

/* A thread's spans of one run, at most: its blocks of every op, and one wait a group. */
static uint64_t max_spans(const bvt_model *m, uint32_t threads) {
    uint64_t n = 0;
    for (uint32_t g = 0; g < m->n_groups; g++) {
        const bvt_rec_group *group = &m->groups[g];
        n += 1 + group->n_ops * bvt_ceil_div(bvt_ceil_div(group->rows, group->block), threads);
    }
    return n;
}

/* In 64 bits: the loader bounds arena and tile memory, the rest is of the size of the file, so that nothing overflows. */
static layout plan(const bvt_model *m, const bvt_options *o) {
    layout l;
    uint64_t at = 0;
    take(&at, sizeof(bvt_session));
    l.pool = take(&at, bvt_pool_bytes(o->threads));
    l.kernels = take(&at, m->n_ops * sizeof(bvt_kernel));
    l.workers = take(&at, o->threads * sizeof(worker));
    l.group_ns = take(&at, m->n_groups * sizeof(uint64_t));
    l.crcs = take(&at, (uint64_t)m->n_ops * BVT_N_OUT * sizeof(uint32_t));
    l.arena = take(&at, m->header->arena_bytes);
    l.per_thread = at;
    uint64_t thread = 0;
    take(&thread, m->header->tile_bytes); /* first: at 0 */
    l.thread_calls = take(&thread, m->max_group_ops * sizeof(bvt_call));
    l.thread_op_ns = take(&thread, o->profile ? m->n_ops * sizeof(uint64_t) : 0);
    l.thread_spans = take(&thread, o->profile == 2 ? max_spans(m, o->threads) * sizeof(bvt_span) : 0);
    take(&thread, 64); /* neighbouring threads never share a cache line, also where lines are 128 bytes */
    l.thread_bytes = thread;
    l.total = at + thread * o->threads;
    return l;
}

/* The options with defaults filled in. */
static int resolve(const bvt_options *given, bvt_options *out, int *isa, bvt_error *err) {
    *out = given ? *given : (bvt_options){0};
    if (!out->threads) out->threads = 1;
    if (out->threads > BVT_MAX_THREADS)
        return bvt_fail(err, BVT_E_ARGUMENT, "session: %u threads, at most %d are possible", out->threads, BVT_MAX_THREADS);
    if (out->threads > 1 && (out->observer || out->op_crc))
        return bvt_fail(err, BVT_E_ARGUMENT, "session: observer and op_crc need one thread");
    *isa = BVT_ISA_REF;
    if (!out->isa || !strcmp(out->isa, "auto")) {
        for (int i = 0; i < BVT_ISA_END; i++)
            if (bvt_isa_available(i)) *isa = i;
        return BVT_OK;
    }
    static const char *const names[] = {
#define X(name, NAME) #name,
        BVT_ISAS(X)
#undef X
    };
    for (int i = 0; i < BVT_ISA_END; i++) {
        if (strcmp(out->isa, names[i])) continue;
        if (!bvt_isa_available(i)) return bvt_fail(err, BVT_E_UNSUPPORTED, "session: this CPU or build has no %s", names[i]);
        *isa = i;
        return BVT_OK;
    }
    return bvt_fail(err, BVT_E_UNSUPPORTED, "session: unknown isa '%.40s' (auto, ref, neon, avx2, avx512)", out->isa);
}

size_t bvt_session_bytes(const bvt_model *model, const bvt_options *options) {
    bvt_options o;
    int isa;
    if (!model || resolve(options, &o, &isa, NULL)) return 0;
    uint64_t total = plan(model, &o).total;
    return total > SIZE_MAX / 2 ? 0 : (size_t)total;
}

int bvt_session_create(const bvt_model *model, const bvt_options *options, bvt_session **out, bvt_error *err) {
    bvt_options o;
    int isa;
    if (!out) return bvt_fail(err, BVT_E_ARGUMENT, "session: no place for it");
    *out = NULL;
    if (!model) return bvt_fail(err, BVT_E_ARGUMENT, "session: no model");
    BVT_TRY(resolve(options, &o, &isa, err));
    const layout l = plan(model, &o);
    if (l.total > SIZE_MAX / 2) return bvt_fail(err, BVT_E_MEMORY, "session: it needs more memory than can be addressed");
    void *allocated = NULL;
    uint8_t *memory = o.memory;
    if (memory) {
        if ((uintptr_t)memory % BVT_ALIGN) return bvt_fail(err, BVT_E_ARGUMENT, "session: the memory is not aligned to 64 bytes");
        if (o.memory_bytes < l.total)
            return bvt_fail(err, BVT_E_MEMORY, "session: it needs %llu bytes, the memory has %llu", (unsigned long long)l.total,
                            (unsigned long long)o.memory_bytes);
    } else {
        if (posix_memalign(&allocated, BVT_ALIGN, (size_t)l.total))
            return bvt_fail(err, BVT_E_MEMORY, "session: no %llu bytes of memory", (unsigned long long)l.total);
        memory = allocated;
    }
    memset(memory, 0, (size_t)l.total); /* also touches every page, so that the first run does not */
    bvt_session *s = (bvt_session *)(void *)memory;
    s->model = model;
    s->options = o;
    s->isa = isa;
    s->allocated = allocated;
    s->kernels = (bvt_kernel *)(void *)(memory + l.kernels);
    s->workers = (worker *)(void *)(memory + l.workers);
    s->group_ns = (uint64_t *)(void *)(memory + l.group_ns);
    s->crcs = (uint32_t *)(void *)(memory + l.crcs);
    s->arena = memory + l.arena;
    for (uint32_t i = 0; i < model->n_ops; i++) {
        const bvt_rec_op *op = &model->ops[i];
        s->kernels[i] = bvt_kernel_find(op->opcode, bvt_is_half(model, op), isa);
    }
    for (uint32_t t = 0; t < o.threads; t++) {
        uint8_t *base = memory + l.per_thread + t * l.thread_bytes;
        s->workers[t].tile = base;
        s->workers[t].calls = (bvt_call *)(void *)(base + l.thread_calls);
        s->workers[t].op_ns = o.profile ? (uint64_t *)(void *)(base + l.thread_op_ns) : NULL;
        s->workers[t].spans = o.profile == 2 ? (bvt_span *)(void *)(base + l.thread_spans) : NULL;
    }
    int code = bvt_pool_create(memory + l.pool, o.threads, &s->pool, err);
    if (code) {
        free(allocated);
        return code;
    }
    *out = s;
    return BVT_OK;
}

void bvt_session_destroy(bvt_session *s) {
    if (!s) return;
    bvt_pool_destroy(s->pool);
    free(s->allocated);
}

/* ---- Running ------------------------------------------------------------------------------------------------------------- */

static bvt_view resolve_value(const bvt_session *s, const worker *w, uint32_t index) {
    if (index == BVT_NONE) return (bvt_view){.base = NULL};
    const bvt_rec_value *v = &s->model->values[index];
    bvt_view view = {
        .stride = v->stride, .rows = v->rows, .cols = v->cols, .dtype = v->dtype, .layout = v->layout};
    view.by_cols = v->layout == BVT_LAYOUT_COLS;
    switch (v->storage) {
    /* Constants are only read: outputs are never CONST or INPUT (checked). */
    case BVT_STORAGE_CONST:
        view.base = v->stored ? s->model->widened + v->widened
                              : (uint8_t *)(uintptr_t)s->model->section[BVT_SECTION_CONSTANTS] + v->offset;
        if (s->model->relaid && s->model->relaid[index]) {
            view.base = s->model->relaid[index];
            view.stride = bvt_lanes16_stride(v->cols);
            view.layout = BVT_LAYOUT_LANES16;
        }
        break;
    case BVT_STORAGE_ARENA: view.base = s->arena + v->offset; break;
    case BVT_STORAGE_TILE: view.base = w->tile + v->offset, view.tile = true; break;
    case BVT_STORAGE_INPUT: view.base = (uint8_t *)(uintptr_t)s->input; break;
    default: view.base = (uint8_t *)s->output; break;
    }
    return view;
}

static void resolve_group(const bvt_session *s, worker *w, const bvt_rec_group *group) {
    for (uint32_t i = 0; i < group->n_ops; i++) {
        const bvt_rec_op *op = &s->model->ops[group->first_op + i];
        bvt_call *call = &w->calls[i];
        call->op = op;
        call->scratch = w->tile + s->model->header->tile_bytes - op->scratch;
        call->tiles = 0;
        for (unsigned j = 0; j < BVT_N_IN; j++) {
            call->in[j] = resolve_value(s, w, op->inputs[j]);
            call->tiles |= (uint32_t)call->in[j].tile << j;
        }
        for (unsigned j = 0; j < BVT_N_OUT; j++) {
            call->out[j] = resolve_value(s, w, op->outputs[j]);
            call->tiles |= (uint32_t)call->out[j].tile << (BVT_N_IN + j);
        }
    }
}

/* Tile values hold the rows from row0 on. */
static void move_tile(bvt_call *call, uint32_t row0) {
    for (uint32_t left = call->tiles; left; left &= left - 1) {
        const unsigned i = (unsigned)__builtin_ctz(left);
        (i < BVT_N_IN ? &call->in[i] : &call->out[i - BVT_N_IN])->first = row0;
    }
}

/* The two planes of a line of n trits, without their padding. */
static uint32_t crc_planes(uint32_t crc, const uint8_t *line, uint32_t n) {
    const size_t used = (n + 7) / 8;
    return bvt_crc32(bvt_crc32(crc, line, used), line + bvt_plane(n), used);
}

static uint32_t crc_row(uint32_t crc, const bvt_view *v, const uint8_t *row) {
    if (v->dtype == BVT_DTYPE_TRITS) return crc_planes(crc, row, v->cols);
    if (v->dtype == BVT_DTYPE_I16) { /* as the i32 that it is in the graph */
        for (uint32_t c = 0; c < v->cols; c++) crc = bvt_crc32(crc, &(int32_t){((const int16_t *)(const void *)row)[c]}, 4);
        return crc;
    }
    /* Payloads and signs of NaNs differ between CPUs. */
    if (v->dtype == BVT_DTYPE_F16) {
        for (uint32_t c = 0; c < v->cols; c++) {
            uint16_t bits = ((const uint16_t *)(const void *)row)[c];
            if ((bits & 0x7FFF) > 0x7C00) bits = 0x7E00;
            crc = bvt_crc32(crc, &bits, sizeof bits);
        }
        return crc;
    }
    if (v->dtype != BVT_DTYPE_F32) return bvt_crc32(crc, row, v->dtype == BVT_DTYPE_BITS ? (v->cols + 7) / 8 : (size_t)v->cols * 4);
    for (uint32_t c = 0; c < v->cols; c++) {
        uint32_t bits;
        memcpy(&bits, row + (size_t)c * 4, 4);
        if ((bits & 0x7FFFFFFF) > 0x7F800000) bits = 0x7FC00000;
        crc = bvt_crc32(crc, &bits, 4);
    }
    return crc;
}

/* Shows the outputs of one op to the checksums and the observer: rows row0 .. row1-1, or whole outputs in layout COLS. */
static void observe(bvt_session *s, uint32_t op, const bvt_call *call, uint32_t row0, uint32_t row1, bool cols) {
    for (uint32_t i = 0; i < BVT_N_OUT; i++) {
        const bvt_view *v = &call->out[i];
        if (!v->base || v->by_cols != cols) continue;
        if (s->options.op_crc) {
            uint32_t *crc = &s->crcs[op * BVT_N_OUT + i];
            if (cols) {
                *crc = 0;
                for (uint32_t c = 0; c < v->cols; c++) {
                    const uint8_t *column = v->base + c * v->stride;
                    *crc = v->dtype == BVT_DTYPE_TRITS ? crc_planes(*crc, column, v->rows)
                                                       : bvt_crc32(*crc, column, (v->rows + 7) / 8);
                }
            } else {
                if (row0 == 0) *crc = 0;
                for (uint32_t r = row0; r < row1; r++) *crc = crc_row(*crc, v, bvt_row_bits(v, r));
            }
        }
        if (s->options.observer)
            s->options.observer(s->options.observer_user, op, i, cols ? 0 : row0, cols ? v->rows : row1 - row0,
                                cols ? v->base : bvt_row(v, row0), v->stride);
    }
}

static void add_span(const bvt_session *s, worker *w, bvt_span span, uint64_t start, uint64_t end) {
    span.thread = (uint32_t)(w - s->workers);
    span.start_ns = start - s->start;
    span.end_ns = end - s->start;
    w->spans[w->n_spans++] = span;
}

static void run_worker(void *arg, uint32_t thread) {
    bvt_session *s = arg;
    const bvt_model *m = s->model;
    worker *w = &s->workers[thread];
    const bool watched = s->options.op_crc || s->options.observer, profile = s->options.profile;
    w->n_spans = 0;
    for (uint32_t g = 0; g < m->n_groups; g++) {
        const bvt_rec_group *group = &m->groups[g];
        const uint64_t start = profile && thread == 0 ? now_ns() : 0;
        const uint64_t blocks = bvt_ceil_div(group->rows, group->block);
        const uint64_t from = blocks * thread / s->options.threads, to = blocks * (thread + 1) / s->options.threads;
        if (from < to) resolve_group(s, w, group);
        for (uint64_t b = from; b < to; b++) {
            const uint32_t row0 = (uint32_t)(b * group->block);
            const uint32_t row1 = row0 + bvt_min_u32(group->block, group->rows - row0);
            uint64_t at = profile ? now_ns() : 0;
            for (uint32_t i = 0; i < group->n_ops; i++) {
                const uint32_t op = group->first_op + i;
                move_tile(&w->calls[i], row0);
                s->kernels[op](&w->calls[i], row0, row1);
                if (profile) {
                    uint64_t end = now_ns();
                    w->op_ns[op] += end - at;
                    if (w->spans) add_span(s, w, (bvt_span){.op = op, .row0 = row0, .rows = row1 - row0}, at, end);
                    at = end;
                }
                if (watched) {
                    observe(s, op, &w->calls[i], row0, row1, false);
                    if (profile) at = now_ns();
                }
            }
        }
        if (watched)
            for (uint32_t i = 0; i < group->n_ops; i++) observe(s, group->first_op + i, &w->calls[i], 0, 0, true);
        const uint64_t arrived = w->spans ? now_ns() : 0;
        bvt_pool_barrier(s->pool, thread);
        if (w->spans) add_span(s, w, (bvt_span){.op = UINT32_MAX, .row0 = g}, arrived, now_ns());
        if (profile && thread == 0) s->group_ns[g] += now_ns() - start;
    }
}

int bvt_run(bvt_session *s, const float *input, float *output) {
    if (!s || !input || !output) return BVT_E_ARGUMENT;
    s->input = input;
    s->output = output;
    if (s->options.profile == 2) s->start = now_ns();
    bvt_pool_run(s->pool, run_worker, s);
    return BVT_OK;
}

/* ---- Results ------------------------------------------------------------------------------------------------------------- */

const char *bvt_session_isa(const bvt_session *s) {
    static const char *const names[] = {
#define X(name, NAME) #name,
        BVT_ISAS(X)
#undef X
    };
    return names[s->isa];
}

uint32_t bvt_session_threads(const bvt_session *s) { return s->options.threads; }

void bvt_profile_get(const bvt_session *s, uint64_t *op_ns, uint64_t *group_ns) {
    if (op_ns) {
        memset(op_ns, 0, s->model->n_ops * sizeof *op_ns);
        for (uint32_t t = 0; t < s->options.threads && s->options.profile; t++)
            for (uint32_t i = 0; i < s->model->n_ops; i++) op_ns[i] += s->workers[t].op_ns[i];
    }
    if (group_ns) memcpy(group_ns, s->group_ns, s->model->n_groups * sizeof *group_ns);
}

void bvt_profile_reset(bvt_session *s) {
    for (uint32_t t = 0; t < s->options.threads && s->options.profile; t++)
        memset(s->workers[t].op_ns, 0, s->model->n_ops * sizeof(uint64_t));
    memset(s->group_ns, 0, s->model->n_groups * sizeof *s->group_ns);
}

size_t bvt_profile_spans(const bvt_session *s, bvt_span *spans, size_t room) {
    size_t n = 0;
    for (uint32_t t = 0; t < s->options.threads; t++)
        for (size_t i = 0; i < s->workers[t].n_spans; i++, n++)
            if (n < room) spans[n] = s->workers[t].spans[i];
    return n;
}

const uint32_t *bvt_op_crcs(const bvt_session *s) { return s->crcs; }
