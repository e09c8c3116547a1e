/* attention in every form: windows, ternary codes, zero points, biases, several planes, real levels. The portable code, which the
 * including file's instructions make faster; the plain form has kernels of its own.
 *
 * For each run of rows in one window, and each head: the head's keys become aligned words, and a window's values columns, once for
 * all the rows. Then a row at a time: scores, weights or thresholds, masks of the planes as words over the keys, and popcounts of
 * masks and value columns. Three planes of equal integer steps become two, the binary digits of how many planes are set.
 */
#ifndef BVT_KERNELS_ATTENTION_GENERAL_H
#define BVT_KERNELS_ATTENTION_GENERAL_H
#include "../numerics.h"
#include "../ops/attention.h"

#define ATT_INLINE static inline __attribute__((always_inline))

/* The first n bytes, 1 <= n <= 8, as a word; the others are 0. */
static inline uint64_t load_word(const uint8_t *p, uint32_t n) {
    uint64_t word = 0;
    uint32_t at = 0;
    if (n == 8) {
        memcpy(&word, p, 8);
        return word;
    }
    if (n & 4) {
        uint32_t part;
        memcpy(&part, p, 4);
        word = part, at = 4;
    }
    if (n & 2) {
        uint16_t part;
        memcpy(&part, p + at, 2);
        word |= (uint64_t)part << 8 * at, at += 2;
    }
    if (n & 1) word |= (uint64_t)p[at] << 8 * at;
    return word;
}

/* Bits from .. from+n-1 of a row as words; reads no byte beyond them. */
static inline void take_bits(uint64_t *to, const uint8_t *row, uint32_t from, uint32_t n) {
    for (uint32_t at = 0; at < n; at += 64) {
        const uint32_t left = bvt_min_u32(n - at, 64), shift = (from + at) % 8, bytes = (shift + left + 7) / 8;
        const uint8_t *p = row + (from + at) / 8;
        uint64_t word = load_word(p, bvt_min_u32(bytes, 8)) >> shift;
        if (bytes == 9) word |= (uint64_t)p[8] << (64 - shift);
        to[at / 64] = left < 64 ? word & (((uint64_t)1 << left) - 1) : word;
    }
}

/* The head's codes of a row: words of the bits, or, of trits, of their two planes (what is +1, what is not 0). */
static inline void take_codes(uint64_t *to, const bvt_view *v, uint32_t row, uint32_t from, uint32_t n, uint32_t words) {
    const uint8_t *bits = bvt_row_bits(v, row);
    take_bits(to, bits, from, n);
    if (v->dtype != BVT_DTYPE_TRITS) return;
    take_bits(to + words, bits + bvt_plane(v->cols), from, n);
    for (uint32_t w = 0; w < words; w++) to[w] &= to[words + w]; /* a file's values may share memory: scores must stay in range */
}

/* score[j] = q . k_j - zq * (sum of k_j); returns the largest. */
ATT_INLINE int32_t general_scores_of(int32_t *score, const uint64_t *q, const uint64_t *key, const int32_t *key_sum, int32_t zq,
                                  uint32_t keys, uint32_t d, const uint32_t words, const bool q_trits, const bool k_trits) {
    int32_t most = INT32_MIN, there = (int32_t)d;
    if (q_trits) {
        there = 0;
        for (uint32_t w = 0; w < words; w++) there += __builtin_popcountll(q[words + w]);
    }
    for (uint32_t j = 0; j < keys; j++, key += words * (k_trits ? 2 : 1)) {
        int32_t differ = 0, both = there;
        if (k_trits) both = 0;
        for (uint32_t w = 0; w < words; w++) {
            uint64_t other = q[w] ^ key[w];
            if (q_trits) other &= q[words + w];
            if (k_trits) {
                other &= key[words + w];
                both += __builtin_popcountll(q_trits ? key[words + w] & q[words + w] : key[words + w]);
            }
            differ += __builtin_popcountll(other);
        }
        const int32_t s = both - 2 * differ - zq * key_sum[j];
        score[j] = s;
        most = s > most ? s : most;
    }
    return most;
}

/* count[t] = sum over the keys of mask t times the column's codes, where ones[t] = set bits of the mask. */
ATT_INLINE void general_counts(int32_t *count, const uint64_t *mask, uint32_t words, const uint8_t *column, const uint8_t *nonzero,
                               const int32_t *ones, const unsigned masks, const bool trits) {
    int32_t positive[BVT_ATTENTION_PLANES] = {0}, any[BVT_ATTENTION_PLANES] = {0};
    for (uint32_t w = 0; w < words; w++) {
        uint64_t plus, some = 0;
        memcpy(&plus, column + (size_t)w * 8, 8);
        if (trits) memcpy(&some, nonzero + (size_t)w * 8, 8);
        for (unsigned t = 0; t < masks; t++) {
            positive[t] += __builtin_popcountll(plus & mask[(size_t)t * words + w]);
            if (trits) any[t] += __builtin_popcountll(some & mask[(size_t)t * words + w]);
        }
    }
    for (unsigned t = 0; t < masks; t++) count[t] = 2 * positive[t] - (trits ? any[t] : ones[t]);
}

/* Rows become columns: bit b of a[r] moves to bit r of a[b]. */
static inline void transpose_64(uint64_t *a) {
    uint64_t low = 0xFFFFFFFFu;
    for (unsigned j = 32; j; j >>= 1, low ^= low << j)
        for (unsigned r = 0; r < 64; r = ((r | j) + 1) & ~j) {
            const uint64_t swap = ((a[r] >> j) ^ a[r | j]) & low;
            a[r] ^= swap << j;
            a[r | j] ^= swap;
        }
}

/* Everything that is the same for the rows of a call. */
typedef struct {
    const bvt_call *call;
    uint32_t heads, d, nq, nk, key_words, head_words;
    unsigned planes, max_planes, inclusive; /* how many; bit t: plane t is relative to the maximum, >= */
    uint32_t entries; /* of a table */
    bvt_attention_areas areas;
    uint8_t *scratch;
    void *own; /* of an including file that does parts by itself */
} general_attention;

/* One head in one window. */
typedef struct {
    uint32_t head, window;
    const uint64_t *table;
    const uint8_t *column; /* the head's first value column, then every column_stride bytes */
    size_t column_stride, nonzero; /* of trits: where a column's second plane is */
    int32_t zq, zv, base, step[BVT_ATTENTION_PLANES];
    int32_t static_last[BVT_ATTENTION_PLANES]; /* without a bias, planes relative to the maximum: the same threshold in all rows */
    bool digits; /* three planes of equal steps */
} general_head;

static inline int32_t general_int(const general_attention *a, unsigned row, uint32_t head, int32_t otherwise) {
    const bvt_view *ints = &a->call->in[BVT_ATTENTION_INTS];
    return ints->base ? ((const int32_t *)bvt_row(ints, row))[head] : otherwise;
}

static inline double general_limit(const general_attention *a, unsigned t, uint32_t head, double reference) {
    return ((const double *)bvt_row(&a->call->in[BVT_ATTENTION_LIMIT], t))[head] * reference;
}

/* The results of a head in a row. */
static inline uint8_t *general_out(const general_attention *a, const general_head *g, uint32_t row) {
    return (uint8_t *)bvt_row(&a->call->out[0], row) + (size_t)g->head * a->d * bvt_attention_out_bytes(a->call);
}

/* The largest m that plane t takes at a limit, or -1. */
static inline int32_t general_last(const general_attention *a, const uint64_t *table, unsigned t, double limit) {
    int32_t lo = 0, hi = (int32_t)a->entries;
    while (lo < hi) {
        const int32_t mid = lo + (hi - lo) / 2;
        const double w = (double)table[mid];
        if (a->inclusive >> t & 1 ? w >= limit : w > limit) lo = mid + 1;
        else hi = mid;
    }
    return lo - 1;
}

/* Keys as words, and their sums. */
static inline void general_keys(const general_attention *a, const general_head *g) {
    const bvt_view *k = &a->call->in[1];
    const uint32_t words = a->head_words, from = g->head * a->d, first = g->window * a->nk;
    const bool k_trits = k->dtype == BVT_DTYPE_TRITS;
    uint64_t *key = (uint64_t *)(void *)(a->scratch + a->areas.keys);
    int32_t *key_sum = (int32_t *)(void *)(a->scratch + a->areas.key_sums);
    for (uint32_t j = 0; j < a->nk; j++, key += words * (k_trits ? 2 : 1)) {
        take_codes(key, k, first + j, from, a->d, words);
        int32_t positive = 0, there = k_trits ? 0 : (int32_t)a->d;
        for (uint32_t w = 0; w < words && g->zq; w++) {
            positive += __builtin_popcountll(key[w]);
            if (k_trits) there += __builtin_popcountll(key[words + w]);
        }
        key_sum[j] = g->zq ? 2 * positive - there : 0;
    }
}

/* The head's parameters, and its values by columns. */
static inline general_head general_values(const general_attention *a, uint32_t head, uint32_t window) {
    const bvt_view *v = &a->call->in[2];
    general_head g = {.head = head, .window = window, .table = bvt_attention_table(a->call, head)};
    const uint32_t words = a->head_words, from = head * a->d, first = window * a->nk;
    const bool v_trits = v->dtype == BVT_DTYPE_TRITS;
    g.zq = general_int(a, 0, head, 0), g.zv = general_int(a, 1, head, 0), g.base = general_int(a, 2, head, 0);
    for (unsigned t = 0; t < a->planes; t++) {
        g.step[t] = general_int(a, 3 + t, head, 1);
        g.static_last[t] = -1;
        if (a->max_planes >> t & 1) g.static_last[t] = general_last(a, g.table, t, general_limit(a, t, head, (double)g.table[0]));
    }
    g.digits = a->planes == 3 && g.step[0] == g.step[1] && g.step[0] == g.step[2] && !a->call->in[BVT_ATTENTION_REAL_STEPS].base;
    if (v->by_cols) {
        g.column = v->base + (size_t)from * v->stride, g.column_stride = v->stride, g.nonzero = bvt_plane(v->rows);
    } else {
        /* Columns of key_words words each, plane after plane; blocks of 64 keys and 64 columns. */
        uint64_t *column = (uint64_t *)(void *)(a->scratch + a->areas.columns);
        const size_t plane = (size_t)64 * words * a->key_words;
        g.column = (const uint8_t *)column, g.column_stride = (size_t)8 * a->key_words, g.nonzero = 8 * plane;
        for (unsigned p = 0; p < (v_trits ? 2u : 1u); p++)
            for (uint32_t w = 0; w < a->key_words; w++)
                for (uint32_t c = 0; c < a->d; c += 64) {
                    uint64_t block[64];
                    const uint32_t n = bvt_min_u32(a->nk - 64 * w, 64), m = bvt_min_u32(a->d - c, 64);
                    const uint8_t *row = bvt_row_bits(v, first + 64 * w) + (p ? bvt_plane(v->cols) : 0);
                    for (uint32_t j = 0; j < n; j++, row += v->stride) take_bits(&block[j], row, from + c, m);
                    memset(block + n, 0, (64 - n) * sizeof *block);
                    transpose_64(block);
                    for (uint32_t b = 0; b < m; b++) column[p * plane + (size_t)(c + b) * a->key_words + w] = block[b];
                }
    }
    return g;
}

/* base[c] = the constant part of the results: the levels' base times the sum of (v - zv). */
static inline void general_base(const general_attention *a, const general_head *g, int32_t *base) {
    const bool v_trits = a->call->in[2].dtype == BVT_DTYPE_TRITS;
    for (uint32_t c = 0; c < a->d; c++) {
        int32_t positive = 0, there = v_trits ? 0 : (int32_t)a->nk;
        for (uint32_t w = 0; w < a->key_words && g->base; w++) {
            const uint8_t *at = g->column + c * g->column_stride + (size_t)8 * w;
            positive += __builtin_popcountll(load_word(at, 8));
            if (v_trits) there += __builtin_popcountll(load_word(at + g->nonzero, 8));
        }
        base[c] = g->base ? g->base * (2 * positive - there - g->zv * (int32_t)a->nk) : 0;
    }
}

/* Bit j = score[j] >= from, of n <= 64 scores. */
static inline uint64_t general_reached(const int32_t *score, uint32_t n, int32_t from) {
    uint64_t bits = 0;
    for (uint32_t j = 0; j < n; j++) bits |= (uint64_t)(score[j] >= from) << j;
    return bits;
}

/* The sum of the weights: the table at (most - score) >> shift. */
static inline uint64_t general_sum(const uint64_t *table, const int32_t *score, uint32_t n, int32_t most, unsigned shift) {
    uint64_t z = 0;
    for (uint32_t j = 0; j < n; j++) z += table[(uint32_t)(most - score[j]) >> shift];
    return z;
}

/* Whether a plane's threshold is relative to the sum of the weights. */
static inline bool general_needs_sum(const general_attention *a) { return a->max_planes != (1u << a->planes) - 1; }

/* A row's sum of the weights; 0 where nobody needs it. */
static inline double general_row_sum(const general_attention *a, const general_head *g, const int32_t *score, int32_t most,
                                     unsigned shift) {
    return general_needs_sum(a) ? (double)general_sum(g->table, score, a->nk, most, shift) : 0;
}

/* The masks of the planes where the weights are integers, of this sum: m is compared with one threshold a plane. */
ATT_INLINE void threshold_masks_by(const general_attention *a, const general_head *g, uint64_t *mask, const int32_t *score,
                                   int32_t most, const unsigned shift, double sum,
                                   uint64_t (*reached)(const int32_t *, uint32_t, int32_t)) {
    int32_t last[BVT_ATTENTION_PLANES];
    for (unsigned t = 0; t < a->planes; t++) {
        last[t] = a->max_planes >> t & 1 ? g->static_last[t] : general_last(a, g->table, t, general_limit(a, t, g->head, sum));
        const int32_t from = most - last[t] * (1 << shift); /* none is above `most`, where last is -1 */
        for (uint32_t w = 0; w < a->key_words; w++)
            mask[t * a->key_words + w] = reached(score + (size_t)64 * w, bvt_min_u32(a->nk - 64 * w, 64), from);
    }
}

static inline void threshold_masks(const general_attention *a, const general_head *g, uint64_t *mask, const int32_t *score,
                                   int32_t most, const unsigned shift) {
    threshold_masks_by(a, g, mask, score, most, shift, general_row_sum(a, g, score, most, shift), general_reached);
}

/* The masks of the planes with a bias on the scores. */
static inline void weighted_masks(const general_attention *a, const general_head *g, uint64_t *mask, const int32_t *score,
                                  int32_t most, uint32_t row, const unsigned shift) {
    const bvt_view *bias = &a->call->in[BVT_ATTENTION_BIAS];
    const uint32_t class = (uint32_t)((const int32_t *)bvt_row(&a->call->in[BVT_ATTENTION_CLASS], 0))[g->window];
    const int32_t *pattern = bvt_row(&a->call->in[BVT_ATTENTION_PATTERN], class * a->nq + row % a->nq);
    double *weight = (double *)(void *)(a->scratch + a->areas.weights), sum = 0, top = 0;
    for (uint32_t j = 0; j < a->nk; j++) {
        const double factor = ((const double *)bvt_row(bias, (uint32_t)pattern[j]))[g->head];
        weight[j] = (double)g->table[(uint32_t)(most - score[j]) >> shift] * factor;
        top = weight[j] > top ? weight[j] : top;
        sum += weight[j];
    }
    for (unsigned t = 0; t < a->planes; t++) {
        const double limit = general_limit(a, t, g->head, a->max_planes >> t & 1 ? top : sum);
        const bool inclusive = a->inclusive >> t & 1;
        for (uint32_t w = 0; w < a->key_words; w++) {
            const uint32_t n = bvt_min_u32(a->nk - 64 * w, 64);
            const double *at = weight + (size_t)64 * w;
            uint64_t bits = 0;
            if (inclusive)
                for (uint32_t j = 0; j < n; j++) bits |= (uint64_t)(at[j] >= limit) << j;
            else
                for (uint32_t j = 0; j < n; j++) bits |= (uint64_t)(at[j] > limit) << j;
            mask[t * a->key_words + w] = bits;
        }
    }
}

/* The row's results of a head. */
ATT_INLINE void general_context_of(const general_attention *a, const general_head *g, uint8_t *out, const uint64_t *mask,
                                const int32_t *step, const float *real, const unsigned masks, const bool trits) {
    const int32_t *base = (const int32_t *)(const void *)(a->scratch + a->areas.base);
    const bool narrow = a->call->out[0].dtype == BVT_DTYPE_I16;
    int32_t ones[BVT_ATTENTION_PLANES] = {0}, minus = 0;
    for (unsigned t = 0; t < masks; t++) {
        for (uint32_t w = 0; w < a->key_words; w++) ones[t] += __builtin_popcountll(mask[t * a->key_words + w]);
        minus += g->zv * step[t] * ones[t];
    }
    for (uint32_t c = 0; c < a->d; c++) {
        const uint8_t *column = g->column + c * g->column_stride;
        int32_t count[BVT_ATTENTION_PLANES];
        general_counts(count, mask, a->key_words, column, column + g->nonzero, ones, masks, trits);
        if (real) {
            float y = 0;
            for (unsigned t = 0; t < masks; t++) y = bvt_fma((float)count[t], real[t], y);
            memcpy(out + (size_t)c * 4, &y, 4);
        } else {
            int32_t y = base[c] - minus;
            for (unsigned t = 0; t < masks; t++) y += step[t] * count[t];
            bvt_put_dot(out, c, y, narrow);
        }
    }
}

static inline void general_context(const general_attention *a, const general_head *g, uint8_t *out, const uint64_t *mask,
                                   const int32_t *step, const float *real, const unsigned masks) {
    switch (masks << 1 | (a->call->in[2].dtype == BVT_DTYPE_TRITS)) {
    case 2: general_context_of(a, g, out, mask, step, real, 1, false); break;
    case 3: general_context_of(a, g, out, mask, step, real, 1, true); break;
    case 4: general_context_of(a, g, out, mask, step, real, 2, false); break;
    case 5: general_context_of(a, g, out, mask, step, real, 2, true); break;
    case 6: general_context_of(a, g, out, mask, step, real, 3, false); break;
    default: general_context_of(a, g, out, mask, step, real, 3, true);
    }
}

/* Scores of a query with all keys of the head; returns the largest. */
static inline int32_t general_scores(const general_attention *a, const general_head *g, int32_t *score, const uint64_t *q) {
    const bool q_trits = a->call->in[0].dtype == BVT_DTYPE_TRITS, k_trits = a->call->in[1].dtype == BVT_DTYPE_TRITS;
    const uint64_t *keys = (const uint64_t *)(const void *)(a->scratch + a->areas.keys);
    const int32_t *key_sum = (const int32_t *)(const void *)(a->scratch + a->areas.key_sums);
#define SCORES(words, qt, kt) general_scores_of(score, q, keys, key_sum, g->zq, a->nk, a->d, words, qt, kt)
    switch ((a->head_words == 1) << 2 | q_trits << 1 | k_trits) {
    case 4: return SCORES(1, false, false);
    case 5: return SCORES(1, false, true);
    case 6: return SCORES(1, true, false);
    case 7: return SCORES(1, true, true);
    case 1: return SCORES(a->head_words, false, true);
    case 2: return SCORES(a->head_words, true, false);
    case 3: return SCORES(a->head_words, true, true);
    default: return SCORES(a->head_words, false, false);
    }
#undef SCORES
}

/* What an including file may do by itself, where it is faster; `head` is called once for the rows of a head. */
typedef struct {
    void (*head)(const general_attention *a, const general_head *g);
    int32_t (*scores)(const general_attention *a, const general_head *g, int32_t *score, const uint64_t *q);
    void (*thresholds)(const general_attention *a, const general_head *g, uint64_t *mask, const int32_t *score, int32_t most,
                       const unsigned shift);
    void (*context)(const general_attention *a, const general_head *g, uint8_t *out, const uint64_t *mask, const int32_t *step,
                    const float *real, const unsigned masks);
} general_parts;
#define GENERAL_PARTS {NULL, general_scores, threshold_masks, general_context}

ATT_INLINE void general_row(const general_attention *a, const general_head *g, uint32_t row, const general_parts *parts) {
    const bvt_view *q_view = &a->call->in[0], *real_view = &a->call->in[BVT_ATTENTION_REAL_STEPS];
    uint64_t *q = (uint64_t *)(void *)(a->scratch + a->areas.query), *mask = (uint64_t *)(void *)(a->scratch + a->areas.masks);
    int32_t *score = (int32_t *)(void *)(a->scratch + a->areas.scores);
    take_codes(q, q_view, row, g->head * a->d, a->d, a->head_words);
    const int32_t most = parts->scores(a, g, score, q);
    const unsigned shift = q_view->dtype != BVT_DTYPE_TRITS && a->call->in[1].dtype != BVT_DTYPE_TRITS;
    if (a->call->in[BVT_ATTENTION_BIAS].base) weighted_masks(a, g, mask, score, most, row, shift);
    else parts->thresholds(a, g, mask, score, most, shift);
    unsigned masks = a->planes;
    int32_t step[BVT_ATTENTION_PLANES] = {g->step[0], g->step[1], g->step[2]};
    if (g->digits) {
        for (uint32_t w = 0; w < a->key_words; w++) {
            const uint64_t x = mask[w], y = mask[a->key_words + w], z = mask[2 * (size_t)a->key_words + w];
            mask[w] = x ^ y ^ z;
            mask[a->key_words + w] = (x & y) | (z & (x ^ y));
        }
        masks = 2, step[1] = 2 * step[0];
    }
    float real_steps[BVT_ATTENTION_PLANES], *real = NULL;
    if (real_view->base) {
        real = real_steps;
        for (unsigned t = 0; t < a->planes; t++) real[t] = bvt_row_f32(real_view, t)[g->head];
    }
    parts->context(a, g, general_out(a, g, row), mask, step, real, masks);
}

static inline general_attention general_start(const bvt_call *call) {
    const int32_t *attr = call->op->attr;
    const uint32_t windows = attr[1] ? (uint32_t)attr[1] : 1;
    general_attention a = {
        .call = call,
        .heads = (uint32_t)attr[0],
        .d = call->in[0].cols / (uint32_t)attr[0],
        .nq = call->in[0].rows / windows,
        .nk = call->in[1].rows / windows,
        .planes = attr[2] ? (unsigned)attr[2] : 1,
        .max_planes = (unsigned)attr[3],
        .inclusive = (unsigned)attr[4],
        .entries = call->in[BVT_ATTENTION_TABLE].cols,
        .scratch = call->scratch,
    };
    a.key_words = (a.nk + 63) / 64, a.head_words = (a.d + 63) / 64;
    a.areas = bvt_attention_layout(a.nk, a.d, windows, call->in[BVT_ATTENTION_BIAS].base != NULL,
                                   call->in[0].dtype == BVT_DTYPE_TRITS, call->in[1].dtype == BVT_DTYPE_TRITS,
                                   call->in[2].dtype == BVT_DTYPE_TRITS);
    return a;
}

ATT_INLINE void general_rows(const general_attention *a, uint32_t row0, uint32_t row1, const general_parts *parts) {
    for (uint32_t row = row0, end; row < row1; row = end) {
        const uint32_t window = row / a->nq;
        end = bvt_min_u32(row1, (window + 1) * a->nq);
        for (uint32_t h = 0; h < a->heads; h++) {
            const general_head g = general_values(a, h, window);
            general_keys(a, &g);
            general_base(a, &g, (int32_t *)(void *)(a->scratch + a->areas.base));
            if (parts->head) parts->head(a, &g);
            for (uint32_t r = row; r < end; r++) general_row(a, &g, r, parts);
        }
    }
}

static inline void attention_general(const bvt_call *call, uint32_t row0, uint32_t row1) {
    static const general_parts parts = GENERAL_PARTS;
    const general_attention a = general_start(call);
    general_rows(&a, row0, row1, &parts);
}

#endif
